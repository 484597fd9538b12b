//! What becomes of one event: a message for TOPICS, or one for DLQ with the
//! reason. Pure: bytes in, messages out.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value};
use signalbox_bus::publish::Outgoing;
use signalbox_bus::stored_event::{self, Origin};
use signalbox_bus::trace::TraceContext;
use signalbox_bus::work_queue::Work;
use signalbox_bus::{HeaderMap, dead_letter, header, subject};
use signalbox_protocol::catalogue;
use signalbox_protocol::cursor::{Cursor, Epoch};
use signalbox_protocol::envelope::{
    self, CE_ID, CE_TIME, Headers as _, MAX_PAYLOAD_BYTES, Submission,
};
use signalbox_protocol::{json, name};

use crate::signatures::Signatures;

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
    signatures: Signatures,
}

impl Routing {
    pub(crate) fn new(redact_fields: Vec<String>, signatures: Signatures) -> Self {
        Self {
            redact_fields: redact_fields.into(),
            signatures,
        }
    }

    /// Decides on an event of the life `epoch` of EVENTS, whose message goes on
    /// in `trace`.
    pub(crate) fn route(&self, work: &Work, epoch: Epoch, trace: TraceContext) -> Routed {
        let origin = Origin {
            epoch,
            sequence: work.sequence,
            trace,
        };
        match self.topic_message(work, &origin) {
            Ok(message) => Routed::Topic(message),
            Err(reason) => Routed::DeadLetter {
                message: self.dead_letter(work, &origin, &reason),
                reason,
            },
        }
    }

    /// The message for TOPICS, or why there is none.
    fn topic_message(&self, work: &Work, origin: &Origin) -> Result<Outgoing, String> {
        let (domain, name) = subject::parse_event(&work.subject)
            .ok_or_else(|| "subject: expected events.<domain>.<type>".to_owned())?;
        let kind = catalogue::find(domain, name)
            .ok_or_else(|| format!("subject: domain {domain} has no event type `{name}`"))?;
        let headers = header::MessageHeaders(work.headers.as_ref());
        self.signatures
            .check(kind, &headers, &work.payload)
            .map_err(|flaw| flaw.to_string())?;
        let mut event = envelope::decode(&Submission {
            kind,
            headers: &headers,
            payload: &work.payload,
            fallback_id: &fallback_id(work, origin),
            stored_at: work.stored_at,
        })
        .map_err(|rejection| rejection.to_string())?;
        json::redact(&mut event.data, &self.redact_fields);
        stored_event::encode(event, origin).map_err(|error| error.to_string())
    }

    fn dead_letter(&self, work: &Work, origin: &Origin, reason: &str) -> Outgoing {
        let mut headers = origin.headers();
        for (name, values) in work.headers.iter().flat_map(HeaderMap::iter) {
            if dead_letter::decides_the_event(name.as_ref())
                && let Some(value) = values.first()
            {
                headers.insert(name.clone(), value.clone());
            }
        }
        // What the event gets from its place in EVENTS, it keeps when it is
        // published again.
        let given = header::MessageHeaders(work.headers.as_ref());
        let stated = envelope::stated(&given, &work.payload);
        if stated.id.is_none() {
            headers.insert(CE_ID, fallback_id(work, origin));
        }
        if stated.time.is_none() {
            headers.insert(CE_TIME, work.stored_at.to_string());
        }
        if let Some(id) = given.value(header::MESSAGE_ID) {
            headers.insert(header::ORIGIN_MESSAGE_ID, id);
        }
        if work.payload.len() > MAX_PAYLOAD_BYTES {
            headers.insert(header::CUT_FROM, work.payload.len().to_string());
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
    /// size that an event may have. Without such fields it stays as it is, byte
    /// for byte, so that its signature holds at a replay.
    fn redacted(&self, payload: &Bytes) -> Bytes {
        let fields = &self.redact_fields;
        let parsed = match fields.is_empty() || !json::names_any(payload, fields) {
            true => None,
            false => serde_json::from_slice::<Map<String, Value>>(payload).ok(),
        };
        let clean = match parsed {
            Some(mut object) => {
                json::redact(&mut object, fields);
                Bytes::from(Value::Object(object).to_string())
            }
            None => payload.clone(),
        };
        clean.slice(..clean.len().min(MAX_PAYLOAD_BYTES))
    }
}

/// The id of an event that brings none: that of its message, else its position.
fn fallback_id(work: &Work, origin: &Origin) -> String {
    let headers = work.headers.as_ref();
    headers
        .and_then(|headers| header::value(headers, header::MESSAGE_ID))
        .filter(|id| name::is_valid(id))
        .map_or_else(
            || format!("{SEQUENCE_ID_PREFIX}{}", position(origin)),
            str::to_owned,
        )
}

/// An event's position in EVENTS, as ids write it.
fn position(origin: &Origin) -> Cursor {
    Cursor {
        epoch: origin.epoch,
        sequence: origin.sequence,
    }
}
