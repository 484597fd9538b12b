//! What becomes of one event: a message for TOPICS, or one for DLQ with the
//! reason. Pure: bytes in, messages out.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value};
use signalbox_bus::publish::Outgoing;
use signalbox_bus::stored_event::{self, Origin};
use signalbox_bus::work_queue::Work;
use signalbox_bus::{header, subject};
use signalbox_protocol::catalogue;
use signalbox_protocol::cursor::{Cursor, Epoch};
use signalbox_protocol::envelope::{
    self, CE_ID, CE_PRIORITY, CE_SOURCE, CE_TIME, CONTENT_TYPE, MAX_PAYLOAD_BYTES, Submission,
};
use signalbox_protocol::json;
use signalbox_protocol::trace::TraceId;

/// The prefix of ids that the router gives to events without one.
const SEQUENCE_ID_PREFIX: &str = "seq/";

/// What to publish for an event.
#[derive(Debug)]
pub(crate) enum Routed {
    /// It is valid: store it on TOPICS, behind the fence.
    Topic(Outgoing),
    /// It is not: keep it on DLQ.
    DeadLetter {
        /// The message for DLQ.
        message: Outgoing,
        /// Why.
        reason: String,
    },
}

/// The rules by which events are routed. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Routing {
    redact_fields: Arc<[String]>,
}

impl Routing {
    pub(crate) fn new(redact_fields: Vec<String>) -> Self {
        Self {
            redact_fields: redact_fields.into(),
        }
    }

    /// Decides on an event of the life `epoch` of EVENTS.
    pub(crate) fn route(&self, work: &Work, epoch: Epoch) -> (Routed, TraceId) {
        let trace = header::trace(work.headers.as_ref()).map_or_else(
            || header::new_trace(false),
            |parent| parent.child(rand::random()),
        );
        let origin = Origin {
            epoch,
            sequence: work.sequence,
            trace,
        };
        let routed = match self.topic_message(work, &origin) {
            Ok(message) => Routed::Topic(message),
            Err(reason) => Routed::DeadLetter {
                message: self.dead_letter(work, &origin, &reason),
                reason,
            },
        };
        (routed, trace.trace_id())
    }

    /// The message for TOPICS, or why there is none.
    fn topic_message(&self, work: &Work, origin: &Origin) -> Result<Outgoing, String> {
        let (domain, name) = subject::parse_event(&work.subject)
            .ok_or_else(|| "subject: expected events.<domain>.<type>".to_owned())?;
        let kind = catalogue::find(domain, name)
            .ok_or_else(|| format!("subject: domain {domain} has no event type `{name}`"))?;
        let mut event = envelope::decode(&Submission {
            kind,
            headers: &header::MessageHeaders(work.headers.as_ref()),
            payload: &work.payload,
            fallback_id: &format!("{SEQUENCE_ID_PREFIX}{}", position(origin)),
            stored_at: work.stored_at,
        })
        .map_err(|rejection| rejection.to_string())?;
        json::redact(&mut event.data, &self.redact_fields);
        stored_event::encode(event, origin).map_err(|error| error.to_string())
    }

    fn dead_letter(&self, work: &Work, origin: &Origin, reason: &str) -> Outgoing {
        let mut headers = origin.headers();
        for name in [CE_ID, CE_SOURCE, CE_TIME, CE_PRIORITY, CONTENT_TYPE] {
            if let Some(value) = work
                .headers
                .as_ref()
                .and_then(|given| header::value(given, name))
            {
                headers.insert(name, value);
            }
        }
        headers.insert(header::ORIGIN, work.subject.as_str());
        headers.insert(header::REASON, reason.replace(['\r', '\n'], " "));
        let subject = work
            .subject
            .replacen(subject::EVENTS_PREFIX, subject::DLQ_PREFIX, 1);
        Outgoing {
            subject,
            message_id: position(origin).to_string(),
            headers,
            payload: self.redacted(&work.payload),
        }
    }

    /// The payload without the listed fields, where it is JSON; cut to the
    /// size that an event may have.
    fn redacted(&self, payload: &Bytes) -> Bytes {
        let parsed = serde_json::from_slice::<Map<String, Value>>(payload);
        let clean = match parsed {
            Ok(mut object) if !self.redact_fields.is_empty() => {
                json::redact(&mut object, &self.redact_fields);
                Bytes::from(Value::Object(object).to_string())
            }
            _ => payload.clone(),
        };
        clean.slice(..clean.len().min(MAX_PAYLOAD_BYTES))
    }
}

/// An event's position in EVENTS, as ids write it.
fn position(origin: &Origin) -> Cursor {
    Cursor {
        epoch: origin.epoch,
        sequence: origin.sequence,
    }
}
