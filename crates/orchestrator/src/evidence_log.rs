//! Events around a question, read back from TOPICS: the latest of those that the
//! user may read, of which [`evidence::related`] chooses. Bounded in number and in
//! time.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use signalbox_bus::reader::Delivery;
use signalbox_bus::{Bus, BusError, history, stored_event, stream};
use signalbox_protocol::catalogue::Audience;
use signalbox_protocol::wire::ChatAsked;
use tokio::time::timeout;
use tracing::debug;

use crate::evidence::{self, Event, MAX_EVENT_BYTES, MAX_EVENTS};
use crate::provider::Request;

/// How long reading may take; an answer is better than all events.
const PATIENCE: Duration = Duration::from_secs(2);
/// Events that are read at once.
const PAGE: usize = 256;
/// Everything in TOPICS.
const ALL: &str = "topics.>";

/// Reads events.
#[derive(Clone)]
pub(crate) struct EvidenceLog {
    bus: Bus,
}

impl EvidenceLog {
    pub(crate) const fn new(bus: Bus) -> Self {
        Self { bus }
    }

    /// The position up to which a question that is asked now is answered.
    pub(crate) async fn position(&self) -> u64 {
        match timeout(PATIENCE, stream::state(&self.bus, stream::TOPICS)).await {
            Ok(Ok(state)) => state.last,
            Ok(Err(_)) | Err(_) => 0,
        }
    }

    /// Up to `most` events that bear on a question, oldest first; none where they
    /// cannot be read.
    pub(crate) async fn gather(
        &self,
        asked: &ChatAsked,
        request: &Request,
        most: usize,
    ) -> Arc<[Event]> {
        if most == 0 || asked.channels.is_empty() || asked.events_until == 0 {
            return Arc::new([]);
        }
        match timeout(PATIENCE, self.read(asked)).await {
            Ok(Ok(events)) => evidence::related(&events, request, most).into(),
            Ok(Err(cause)) => {
                debug!(%cause, "no events read");
                Arc::new([])
            }
            Err(_) => {
                debug!("no events read in time");
                Arc::new([])
            }
        }
    }

    async fn read(&self, asked: &ChatAsked) -> Result<Vec<Event>, BusError> {
        let until = asked.events_until;
        let mut from = until.saturating_sub(MAX_EVENTS as u64 - 1).max(1);
        let mut events = Vec::new();
        while from <= until {
            let page = history::page(&self.bus, stream::TOPICS, ALL, from, PAGE).await?;
            let Some(last) = page.messages.last() else {
                break;
            };
            from = last.sequence + 1;
            let old = page.messages.iter().filter(|one| one.sequence <= until);
            events.extend(old.filter_map(|one| readable(one, &asked.channels)));
            if page.is_last {
                break;
            }
        }
        Ok(events)
    }
}

/// The event in a message, where it is on one of these channels, not addressed to
/// one person and not too large to hold many of.
fn readable(message: &Delivery, channels: &[String]) -> Option<Event> {
    if message.payload.len() > MAX_EVENT_BYTES {
        return None;
    }
    let stored = stored_event::decode(message)?;
    let is_personal = matches!(stored.topic.audience, Audience::User(_));
    let channel = stored.topic.channel.name();
    if is_personal || channels.iter().all(|one| one != channel) {
        return None;
    }
    let kind = stored.event.kind;
    Some(Event {
        id: stored.event.id,
        seq: stored.sequence,
        event_type: format!("{}.{}", kind.domain, kind.name),
        time: stored.event.time.to_string(),
        data: Value::Object(stored.event.data),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use signalbox_bus::stored_event::Origin;
    use signalbox_protocol::Epoch;
    use signalbox_protocol::catalogue;
    use signalbox_protocol::domain::Domain;
    use signalbox_protocol::event::{self, Priority};
    use signalbox_protocol::timestamp::Timestamp;
    use signalbox_protocol::trace::TraceParent;

    use super::*;

    fn stored(domain: Domain, name: &str, data: Value) -> Delivery {
        let event = event::Event {
            kind: catalogue::find(domain, name).unwrap(),
            id: "e-1".to_owned(),
            source: "s".to_owned(),
            time: Timestamp::parse("2026-01-02T03:04:05Z").unwrap(),
            priority: Priority::Low,
            data: data.as_object().unwrap().clone(),
        };
        let origin = Origin {
            epoch: Epoch::from_unix_micros(10),
            sequence: 3,
            trace: TraceParent::new(1, 2, true).unwrap().into(),
        };
        let message = stored_event::encode(event, &origin).unwrap();
        Delivery {
            sequence: 9,
            subject: message.subject.into(),
            headers: Some(message.headers),
            payload: message.payload,
        }
    }

    #[test]
    fn only_what_the_user_may_read_is_shown_to_an_agent() {
        let update = json!({"investigation_id": "inv-1", "progress": 45, "status": "X"});
        let update = stored(Domain::Threat, "investigation_update", update);
        let channel = "investigation_progress".to_owned();
        let event = readable(&update, &[channel]).unwrap();
        assert_eq!(event.event_type, "threat.investigation_update");
        assert_eq!((event.seq, event.id.as_str()), (9, "e-1"));
        assert_eq!(readable(&update, &["threat_alerts".to_owned()]), None);
        assert_eq!(readable(&update, &[]), None);
    }
}
