//! A producer's message becomes an [`Event`], or a [`Rejection`] that says
//! which field was expected to be what.
//!
//! Four forms are read: the data as bare JSON, the same with CloudEvents
//! headers (`ce-id`, `ce-source`, `ce-time`, `ce-priority`, each honoured by
//! itself), CloudEvents 1.0 structured JSON, and the protobuf
//! [`wire::Event`]. The subject alone decides domain and type.

use prost::Message as _;
use serde_json::{Map, Value};

use crate::catalogue::{EventType, FieldError};
use crate::event::{Event, Priority};
use crate::timestamp::Timestamp;
use crate::{json, name, wire};

/// The largest event data that is routed, in bytes as published.
pub const MAX_PAYLOAD_BYTES: usize = 1_048_576;

/// `Content-Type` of a structured CloudEvent.
pub const STRUCTURED: &str = "application/cloudevents+json";
/// `Content-Type` of a protobuf [`wire::Event`].
pub const PROTOBUF: &str = "application/protobuf";

/// Header with the event's id.
pub const CE_ID: &str = "ce-id";
/// Header with the producing service.
pub const CE_SOURCE: &str = "ce-source";
/// Header with the event's time.
pub const CE_TIME: &str = "ce-time";
/// Header with the event's type; written to TOPICS, not read from producers.
pub const CE_TYPE: &str = "ce-type";
/// Header with the event's priority.
pub const CE_PRIORITY: &str = "ce-priority";
/// Header with the version of CloudEvents; written to TOPICS.
pub const CE_SPECVERSION: &str = "ce-specversion";
/// Header with the payload's media type.
pub const CONTENT_TYPE: &str = "Content-Type";

/// The headers of a message, whatever the transport calls them.
pub trait Headers {
    /// The value of a header, by its name as this module writes it.
    fn value(&self, name: &str) -> Option<&str>;
}

/// A producer's message with what the bus knows of it.
pub struct Submission<'a> {
    /// The type that the subject names.
    pub kind: &'static EventType,
    /// The message's headers.
    pub headers: &'a dyn Headers,
    /// The message's body.
    pub payload: &'a [u8],
    /// The id of an event that brings none.
    pub fallback_id: &'a str,
    /// The time of an event that brings none: when the bus stored it.
    pub stored_at: Timestamp,
}

/// Why a message is no event.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Rejection {
    /// The body is larger than [`MAX_PAYLOAD_BYTES`].
    #[error("payload of {0} bytes: expected at most {MAX_PAYLOAD_BYTES}")]
    TooLarge(usize),
    /// The body is not what its form says.
    #[error("payload: expected {expected}")]
    Malformed {
        /// What it should have been.
        expected: &'static str,
    },
    /// The data nests too deeply.
    #[error("field `data`: expected at most {} levels of nesting", json::MAX_DEPTH)]
    TooDeep,
    /// A field is missing or wrong.
    #[error(transparent)]
    Field(#[from] FieldError),
}

/// What a message said of itself, before defaults.
#[derive(Default)]
struct Attributes {
    id: Option<String>,
    source: Option<String>,
    time: Option<String>,
    priority: Option<String>,
}

/// Reads a producer's message and checks it against the catalogue.
///
/// # Errors
/// [`Rejection`], with the first thing found wrong.
pub fn decode(submission: &Submission<'_>) -> Result<Event, Rejection> {
    let payload = submission.payload;
    if payload.len() > MAX_PAYLOAD_BYTES {
        return Err(Rejection::TooLarge(payload.len()));
    }
    let (inside, data) = match submission.headers.value(CONTENT_TYPE) {
        Some(form) if form.starts_with(PROTOBUF) => protobuf(payload)?,
        Some(form) if form.starts_with(STRUCTURED) => structured(object(payload)?)?,
        _ => {
            let body = object(payload)?;
            if is_structured(&body) {
                structured(body)?
            } else {
                (Attributes::default(), body)
            }
        }
    };
    if !json::is_within_depth(&data, json::MAX_DEPTH) {
        return Err(Rejection::TooDeep);
    }
    submission.kind.check(&data)?;
    finish(submission, inside, data)
}

/// What a message says of itself, whether or not it is an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stated {
    /// The event's id.
    pub id: Option<String>,
    /// The event's time.
    pub time: Option<String>,
}

/// Reads what a message says of itself, as far as it can be read. Nothing is
/// checked: this is for messages that [`decode`] rejects.
#[must_use]
pub fn stated(headers: &dyn Headers, payload: &[u8]) -> Stated {
    let form = headers.value(CONTENT_TYPE).unwrap_or_default();
    let inside = if form.starts_with(PROTOBUF) {
        let event = wire::Event::decode(payload).unwrap_or_default();
        let given = |text: String| (!text.is_empty()).then_some(text);
        Stated {
            id: given(event.id),
            time: given(event.time),
        }
    } else {
        let body = object(payload)
            .ok()
            .filter(|body| form.starts_with(STRUCTURED) || is_structured(body))
            .unwrap_or_default();
        let given = |field| match body.get(field) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text.clone()),
            Some(other) => Some(other.to_string()),
        };
        Stated {
            id: given("id"),
            time: given("time"),
        }
    };
    let header = |name| headers.value(name).map(str::to_owned);
    Stated {
        id: header(CE_ID).or(inside.id),
        time: header(CE_TIME).or(inside.time),
    }
}

/// Fills in headers and defaults.
fn finish(
    submission: &Submission<'_>,
    inside: Attributes,
    data: Map<String, Value>,
) -> Result<Event, Rejection> {
    let header = |name: &str| submission.headers.value(name).map(str::to_owned);
    let kind = submission.kind;
    let id = header(CE_ID).or(inside.id).map_or_else(
        || Ok(submission.fallback_id.to_owned()),
        |id| valid_name("id", id),
    )?;
    let source = header(CE_SOURCE).or(inside.source).map_or_else(
        || Ok(kind.source.to_owned()),
        |source| valid_name("source", source),
    )?;
    let time = match header(CE_TIME).or(inside.time) {
        None => submission.stored_at,
        Some(text) => {
            Timestamp::parse(&text).ok_or_else(|| wrong("time", "an RFC 3339 timestamp"))?
        }
    };
    let priority = match header(CE_PRIORITY).or(inside.priority) {
        None => kind.priority,
        Some(word) => word
            .parse::<Priority>()
            .map_err(|_| wrong("priority", "HIGH, MEDIUM or LOW"))?,
    };
    Ok(Event {
        kind,
        id,
        source,
        time,
        priority,
        data,
    })
}

fn object(payload: &[u8]) -> Result<Map<String, Value>, Rejection> {
    serde_json::from_slice(payload).map_err(|_| Rejection::Malformed {
        expected: "a JSON object",
    })
}

/// Whether a JSON object without a telling content type is a CloudEvent: no
/// documented event has both of these fields in its data.
fn is_structured(body: &Map<String, Value>) -> bool {
    body.contains_key("specversion") && body.contains_key("data")
}

fn structured(mut body: Map<String, Value>) -> Result<(Attributes, Map<String, Value>), Rejection> {
    if body.get("specversion").and_then(Value::as_str) != Some("1.0") {
        return Err(wrong("specversion", "\"1.0\""));
    }
    let Some(Value::Object(data)) = body.remove("data") else {
        return Err(wrong("data", "an object"));
    };
    let mut text = |field: &'static str| match body.remove(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(wrong(field, "a string")),
    };
    let attributes = Attributes {
        id: text("id")?,
        source: text("source")?,
        time: text("time")?,
        priority: text("priority")?,
    };
    Ok((attributes, data))
}

fn protobuf(payload: &[u8]) -> Result<(Attributes, Map<String, Value>), Rejection> {
    let event = wire::Event::decode(payload).map_err(|_| Rejection::Malformed {
        expected: "a protobuf signalbox.v1.Event",
    })?;
    let given = |text: String| (!text.is_empty()).then_some(text);
    let data = serde_json::from_slice(&event.data).map_err(|_| wrong("data", "a JSON object"))?;
    let attributes = Attributes {
        id: given(event.id),
        source: given(event.source),
        time: given(event.time),
        priority: given(event.priority),
    };
    Ok((attributes, data))
}

fn valid_name(field: &'static str, text: String) -> Result<String, Rejection> {
    if name::is_valid(&text) {
        Ok(text)
    } else {
        Err(wrong(
            field,
            "1 to 128 bytes without white space or control characters",
        ))
    }
}

fn wrong(field: &'static str, expected: &str) -> Rejection {
    Rejection::Field(FieldError {
        field: field.to_owned(),
        expected: expected.to_owned(),
    })
}

#[cfg(test)]
mod tests;
