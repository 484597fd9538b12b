//! Events as they lie on TOPICS: CloudEvents 1.0 in binary mode, the data as
//! JSON in the body and everything else in headers. Routers write them,
//! gateways and tools read them.

use async_nats::HeaderMap;
use serde_json::Value;
use signalbox_protocol::catalogue::{self, FieldError, Topic};
use signalbox_protocol::cursor::Epoch;
use signalbox_protocol::domain::Domain;
use signalbox_protocol::envelope::{
    CE_ID, CE_PRIORITY, CE_SOURCE, CE_SPECVERSION, CE_TIME, CE_TYPE, CONTENT_TYPE,
};
use signalbox_protocol::event::Event;
use signalbox_protocol::timestamp::Timestamp;
use signalbox_protocol::trace::TraceParent;

use crate::publish::Outgoing;
use crate::reader::Delivery;
use crate::trace::TraceContext;
use crate::{header, subject};

/// Where an event came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The life of EVENTS.
    pub epoch: Epoch,
    /// Its sequence there.
    pub sequence: u64,
    /// The trace that it belongs to.
    pub trace: TraceContext,
}

impl Origin {
    /// The headers that say so.
    #[must_use]
    pub fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        self.trace.inject(&mut headers);
        headers.insert(header::EVENT_STREAM, self.epoch.to_string());
        headers.insert(header::EVENT_SEQUENCE, self.sequence.to_string());
        headers
    }
}

/// An event read from TOPICS.
#[derive(Clone, Debug)]
pub struct StoredEvent {
    /// Its sequence in TOPICS.
    pub sequence: u64,
    /// Whom it is addressed to.
    pub topic: Topic,
    /// What it says.
    pub event: Event,
    /// The trace that it belongs to.
    pub trace: Option<TraceParent>,
}

/// The message for an event.
///
/// # Errors
/// When a field that routes the event is no valid id.
pub fn encode(event: Event, origin: &Origin) -> Result<Outgoing, FieldError> {
    let subject = subject::topic(&event.topic()?);
    let mut headers = origin.headers();
    headers.insert(CE_SPECVERSION, "1.0");
    headers.insert(
        CE_TYPE,
        format!("{}.{}", event.kind.domain, event.kind.name),
    );
    headers.insert(CE_ID, event.id.as_str());
    headers.insert(CE_SOURCE, event.source.as_str());
    headers.insert(CE_TIME, event.time.to_string());
    headers.insert(CE_PRIORITY, event.priority.as_str());
    headers.insert(CONTENT_TYPE, "application/json");
    Ok(Outgoing {
        subject,
        message_id: event.message_id(),
        headers,
        payload: Value::Object(event.data).to_string().into(),
    })
}

/// The event in a message; `None` for what this version does not know, which a
/// newer router may write during a rolling update.
#[must_use]
pub fn decode(delivery: &Delivery) -> Option<StoredEvent> {
    let headers = delivery.headers.as_ref()?;
    let (domain, name) = header::value(headers, CE_TYPE)?.split_once('.')?;
    let text = |name| header::value(headers, name).map(str::to_owned);
    let event = Event {
        kind: catalogue::find(domain.parse::<Domain>().ok()?, name)?,
        id: text(CE_ID)?,
        source: text(CE_SOURCE)?,
        time: Timestamp::parse(header::value(headers, CE_TIME)?)?,
        priority: header::value(headers, CE_PRIORITY)?.parse().ok()?,
        data: serde_json::from_slice(&delivery.payload).ok()?,
    };
    Some(StoredEvent {
        sequence: delivery.sequence,
        topic: subject::parse_topic(&delivery.subject)?,
        event,
        trace: header::trace(Some(headers)),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use signalbox_protocol::event::Priority;

    use super::*;

    fn stored() -> (Event, Delivery) {
        let kind = catalogue::find(Domain::Threat, "investigation_update").unwrap();
        let data =
            json!({"investigation_id": "inv 1".replace(' ', "."), "progress": 45, "status": "X"});
        let event = Event {
            kind,
            id: "e-1".into(),
            source: "s".into(),
            time: Timestamp::parse("2024-12-19T21:30:00.5Z").unwrap(),
            priority: Priority::Low,
            data: data.as_object().unwrap().clone(),
        };
        let origin = Origin {
            epoch: Epoch::from_unix_micros(10),
            sequence: 3,
            trace: TraceParent::new(1, 2, true).unwrap().into(),
        };
        let outgoing = encode(event.clone(), &origin).unwrap();
        assert_eq!(outgoing.message_id, "threat/s/e-1");
        let delivery = Delivery {
            sequence: 9,
            subject: outgoing.subject.into(),
            headers: Some(outgoing.headers),
            payload: outgoing.payload,
        };
        (event, delivery)
    }

    #[test]
    fn what_routers_write_is_what_gateways_read() {
        let (event, delivery) = stored();
        let read = decode(&delivery).unwrap();
        assert_eq!(read.event, event);
        assert_eq!(
            (read.sequence, read.topic.object.as_deref()),
            (9, Some("inv.1"))
        );
        assert_eq!(read.trace.unwrap(), TraceParent::new(1, 2, true).unwrap());
    }

    #[test]
    fn what_this_version_does_not_know_is_skipped() {
        let (_, delivery) = stored();
        let with = |name: &'static str, value: &str| {
            let mut changed = delivery.clone();
            changed.headers.as_mut().unwrap().insert(name, value);
            decode(&changed).is_none()
        };
        assert!(with(CE_TYPE, "threat.later"));
        assert!(with(CE_TYPE, "later.threat_alert"));
        assert!(with(CE_PRIORITY, "URGENT"));
        let subject = Delivery {
            subject: "topics.later.-.-".into(),
            ..delivery.clone()
        };
        assert!(decode(&subject).is_none());
        assert!(
            decode(&Delivery {
                headers: None,
                ..delivery.clone()
            })
            .is_none()
        );
        assert!(
            decode(&Delivery {
                payload: "[]".into(),
                ..delivery
            })
            .is_none()
        );
    }
}
