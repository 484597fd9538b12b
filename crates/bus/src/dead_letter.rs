//! Events that routers refused, as they lie on DLQ: reading them, and making
//! of one the message that publishes it again. Routers write them.

mod replay;

use async_nats::HeaderMap;
use bytes::Bytes;
use signalbox_protocol::domain::Domain;
use signalbox_protocol::envelope::{self, CONTENT_TYPE};
use signalbox_protocol::timestamp::Timestamp;
use signalbox_protocol::trace::{TRACEPARENT, TraceParent};

pub use self::replay::{Outcome, ReplayError, Replays};
use crate::connection::{Bus, BusError};
use crate::history::{self, Start};
use crate::publish::Outgoing;
use crate::reader::Delivery;
use crate::stream::DLQ;
use crate::{header, subject};

/// Messages of one read.
const PAGE: usize = 256;
/// The prefix of the headers that hold an event's attributes.
const CE_PREFIX: &str = "ce-";

/// A refused event.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Its sequence in DLQ.
    pub sequence: u64,
    /// When it was refused.
    pub refused_at: Option<Timestamp>,
    /// The subject that the event was published on.
    pub subject: String,
    /// The event's id, as far as it says one.
    pub id: Option<String>,
    /// Why it was refused.
    pub reason: String,
    /// The trace that it belongs to.
    pub trace: Option<TraceParent>,
    /// The size of the event's body, where DLQ has only its beginning.
    pub cut_from: Option<u64>,
    /// All headers.
    pub headers: HeaderMap,
    /// The event's body as it was published, without redacted fields.
    pub payload: Bytes,
}

/// Why a dead letter cannot be published again.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum NotReplayable {
    /// Nobody knows where it was published.
    #[error("it does not say which subject of events it was published on")]
    NoOrigin,
    /// DLQ keeps no bodies as large as this.
    #[error("only the beginning of its {0} bytes was kept")]
    Cut(u64),
}

/// Which dead letters are meant.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Only events of this domain.
    pub domain: Option<Domain>,
    /// Only those whose reason contains this, without regard to case.
    pub reason: Option<String>,
    /// Only those that were refused then or later.
    pub since: Option<Timestamp>,
}

impl DeadLetter {
    /// The dead letter in a message of DLQ.
    #[must_use]
    pub fn decode(delivery: Delivery) -> Self {
        let headers = delivery.headers.unwrap_or_default();
        let text = |name| header::value(&headers, name).unwrap_or_default().to_owned();
        let stated = envelope::stated(&header::MessageHeaders(Some(&headers)), &delivery.payload);
        Self {
            sequence: delivery.sequence,
            refused_at: header::value(&headers, header::STORED_AT).and_then(Timestamp::parse),
            subject: text(header::ORIGIN),
            id: stated.id,
            reason: text(header::REASON),
            trace: header::trace(Some(&headers)),
            cut_from: text(header::CUT_FROM).parse().ok(),
            headers,
            payload: delivery.payload,
        }
    }

    /// The message that publishes the event again: on its subject, with its
    /// bytes, its attributes and its trace, under a message id of its own.
    ///
    /// # Errors
    /// When DLQ does not have what that takes.
    pub fn replay(&self, message_id: String) -> Result<Outgoing, NotReplayable> {
        if subject::parse_event(&self.subject).is_none() {
            return Err(NotReplayable::NoOrigin);
        }
        if let Some(bytes) = self.cut_from {
            return Err(NotReplayable::Cut(bytes));
        }
        let mut headers = HeaderMap::new();
        for (name, values) in self.headers.iter() {
            if decides_the_event(name.as_ref())
                && let Some(value) = values.first()
            {
                headers.insert(name.clone(), value.clone());
            }
        }
        let trace = match self.trace {
            Some(parent) => parent.child(rand::random()),
            None => header::new_trace(true),
        };
        headers.insert(TRACEPARENT, trace.to_string());
        Ok(Outgoing {
            subject: self.subject.clone(),
            message_id,
            headers,
            payload: self.payload.clone(),
        })
    }
}

impl Query {
    /// Whether it means all there are.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.domain.is_none() && self.reason.is_none() && self.since.is_none()
    }

    fn matches(&self, letter: &DeadLetter) -> bool {
        let contains = |text: &String| {
            let reason = letter.reason.to_lowercase();
            reason.contains(&text.to_lowercase())
        };
        // A read from a time beyond the newest message begins with the oldest.
        let recent = self
            .since
            .is_none_or(|since| letter.refused_at.is_some_and(|at| at >= since));
        recent && self.reason.as_ref().is_none_or(contains)
    }
}

/// Whether a header is part of the event, and not of its way over the bus.
#[must_use]
pub fn decides_the_event(name: &str) -> bool {
    let prefix = name.get(..CE_PREFIX.len());
    prefix.is_some_and(|prefix| prefix.eq_ignore_ascii_case(CE_PREFIX))
        || [CONTENT_TYPE, header::SIGNATURE, header::KEY_ID]
            .iter()
            .any(|known| name.eq_ignore_ascii_case(known))
}

/// The dead letter with this sequence, if there is one.
///
/// # Errors
/// When the bus does not answer or refuses.
pub async fn read(bus: &Bus, sequence: u64) -> Result<Option<DeadLetter>, BusError> {
    let page = history::page(bus, DLQ, &subject::dead_letters(None), sequence, 1).await?;
    let found = page.messages.into_iter().next();
    Ok(found
        .filter(|message| message.sequence == sequence)
        .map(DeadLetter::decode))
}

/// Hands every dead letter that matches and is no newer than `last` to
/// `visit`, oldest first.
///
/// # Errors
/// When the bus does not answer or refuses, or `visit` fails.
pub async fn walk<E: From<BusError>>(
    bus: &Bus,
    query: &Query,
    last: u64,
    mut visit: impl AsyncFnMut(DeadLetter) -> Result<(), E>,
) -> Result<(), E> {
    let filter = subject::dead_letters(query.domain);
    let mut start = query.since.map_or(Start::Sequence(1), Start::Time);
    loop {
        let page = history::page_from(bus, DLQ, &filter, start, PAGE).await?;
        let is_last = page.is_last;
        for message in page.messages {
            if message.sequence > last {
                return Ok(());
            }
            start = Start::Sequence(message.sequence + 1);
            let letter = DeadLetter::decode(message);
            if query.matches(&letter) {
                visit(letter).await?;
            }
        }
        if is_last {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use signalbox_protocol::envelope::{CE_ID, CE_SOURCE};

    use super::*;

    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn letter(changes: &[(&'static str, &str)]) -> DeadLetter {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            (CE_ID, "e-1"),
            ("Ce-Source", "s"),
            (CONTENT_TYPE, "application/json"),
            (header::SIGNATURE, "c2ln"),
            ("signalbox-key-id", "sensor"),
            (TRACEPARENT, TRACE),
            (header::MESSAGE_ID, "1-1"),
            (header::ORIGIN, "events.threat.threat_alert"),
            (header::REASON, "field `severity`: expected a string"),
            (header::STORED_AT, "2024-12-19T21:30:00.123456789Z"),
        ]
        .iter()
        .chain(changes)
        {
            headers.insert(*name, *value);
        }
        DeadLetter::decode(Delivery {
            sequence: 4,
            subject: "dlq.threat.threat_alert".into(),
            headers: Some(headers),
            payload: "{}".into(),
        })
    }

    #[test]
    fn a_replay_is_the_event_under_another_message_id() {
        let letter = letter(&[]);
        assert_eq!(
            letter.refused_at.unwrap().to_string(),
            "2024-12-19T21:30:00.123Z"
        );
        let replay = letter.replay("replay/1-4/1".into()).unwrap();
        assert_eq!(
            (replay.subject.as_str(), replay.message_id.as_str()),
            ("events.threat.threat_alert", "replay/1-4/1")
        );
        assert_eq!(replay.payload, "{}");
        let value = |name| header::value(&replay.headers, name);
        assert_eq!(value(CE_ID), Some("e-1"));
        assert_eq!(value("Ce-Source").or(value(CE_SOURCE)), Some("s"));
        assert_eq!(value(CONTENT_TYPE), Some("application/json"));
        assert_eq!(value(header::SIGNATURE), Some("c2ln"));
        assert_eq!(value(header::KEY_ID), Some("sensor"));
        let trace = header::trace(Some(&replay.headers)).unwrap();
        assert_eq!(trace.trace_id(), letter.trace.unwrap().trace_id());
        assert_ne!(trace, letter.trace.unwrap());
        for way in [header::MESSAGE_ID, header::REASON, header::STORED_AT] {
            assert_eq!(value(way), None, "{way}");
        }
    }

    #[test]
    fn what_is_not_whole_is_not_replayed() {
        let cut = letter(&[(header::CUT_FROM, "2000000")]);
        assert_eq!(
            cut.replay("x".into()).unwrap_err(),
            NotReplayable::Cut(2_000_000)
        );
        for origin in ["", "topics.threat_alerts.-.-", "events.nope.x"] {
            let lost = letter(&[(header::ORIGIN, origin)]);
            assert_eq!(
                lost.replay("x".into()).unwrap_err(),
                NotReplayable::NoOrigin
            );
        }
    }

    #[test]
    fn letters_are_found_by_reason_and_time() {
        let query = |text: &str| Query {
            reason: Some(text.to_owned()),
            ..Query::default()
        };
        assert!(query("SEVERITY").matches(&letter(&[])));
        assert!(!query("threat_type").matches(&letter(&[])));
        assert!(Query::default().matches(&letter(&[])));
        let since = |text: &str| Query {
            since: Timestamp::parse(text),
            ..Query::default()
        };
        assert!(since("2024-12-19T21:30:00.123Z").matches(&letter(&[])));
        assert!(!since("2024-12-19T21:30:00.124Z").matches(&letter(&[])));
    }
}
