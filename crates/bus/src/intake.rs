//! Events that come in over other protocols than NATS: what a producer said of
//! them becomes messages for EVENTS, all of them or a complaint that names the
//! field. Every door uses this, so that none is wider than another.
//!
//! Each message is checked by reading it as a router will.

mod gate;

use std::collections::HashSet;

use async_nats::HeaderMap;
use serde_json::{Map, Value, json};
use signalbox_protocol::catalogue::{self, EventType, FieldError};
use signalbox_protocol::domain::Domain;
use signalbox_protocol::envelope::{self, CONTENT_TYPE, Rejection, STRUCTURED, Submission};
use signalbox_protocol::frame::fields::Complaint;
use signalbox_protocol::timestamp::Timestamp;
use signalbox_protocol::{ErrorCode, json as bounds};
use tracing::{error, warn};

pub use self::gate::{Bounds, Gate, Pass};
use crate::header::MessageHeaders;
use crate::publish::{Outgoing, PublishError};
use crate::subject;
use crate::trace::TraceContext;

/// The most events that one request may bring.
pub const MAX_BATCH_EVENTS: usize = 1_000;
/// The version of CloudEvents that is read and written.
pub const SPECVERSION: &str = "1.0";

/// What a producer said of one event, as far as it is read.
#[derive(Debug, Default)]
pub struct Draft {
    /// `<domain>.<type>`.
    pub kind: Option<String>,
    /// The event's id.
    pub id: Option<String>,
    /// The producing service.
    pub source: Option<String>,
    /// When it happened.
    pub time: Option<String>,
    /// How urgent it is.
    pub priority: Option<String>,
    /// The event's own place in a trace.
    pub traceparent: Option<String>,
    /// What happened.
    pub data: Map<String, Value>,
}

/// Where complaints about an event say that its fields are.
#[derive(Clone, Copy, Debug)]
pub struct Place(pub Option<usize>);

impl Place {
    /// The name of a field there.
    #[must_use]
    pub fn of(self, field: &str) -> String {
        match self.0 {
            None => field.to_owned(),
            Some(index) => format!("events[{index}].{field}"),
        }
    }

    /// The complaint about a field there.
    #[must_use]
    pub fn wrong(self, field: &str, expected: &str) -> Complaint {
        Complaint::field(&self.of(field), expected)
    }
}

/// What holds for all events of a request.
pub struct Terms<'a> {
    /// Whether complaints say which of several events they are about.
    pub batch: bool,
    /// The id of the event with this index, where it brings none.
    pub fallback_id: &'a dyn Fn(usize) -> String,
    /// Whether the producer may publish in a domain.
    pub may_publish: &'a dyn Fn(Domain) -> bool,
    /// The place in a trace of an event that names this one, or none.
    pub trace: &'a dyn Fn(Option<&str>) -> Option<TraceContext>,
    /// The time at which the request came.
    pub now: Timestamp,
}

/// An event that is fit to be published.
#[derive(Debug)]
pub struct Ready {
    /// The event's id.
    pub id: String,
    /// What to publish.
    pub message: Outgoing,
}

/// Prepares the events of a request. All of them are good, or none is
/// returned.
///
/// # Errors
/// The first thing that is wrong.
pub fn prepare(drafts: Vec<Draft>, terms: &Terms<'_>) -> Result<Vec<Ready>, Complaint> {
    let mut seen = HashSet::new();
    let finished = drafts.into_iter().enumerate().map(|(index, draft)| {
        let place = Place(terms.batch.then_some(index));
        let ready = finish(draft, place, || (terms.fallback_id)(index), terms)?;
        if seen.insert(ready.message.message_id.clone()) {
            Ok(ready)
        } else {
            Err(place.wrong("id", "an id that no other event of the batch has"))
        }
    });
    finished.collect()
}

/// Makes the message and reads it as a router will.
fn finish(
    draft: Draft,
    place: Place,
    fallback_id: impl FnOnce() -> String,
    terms: &Terms<'_>,
) -> Result<Ready, Complaint> {
    let kind = kind(draft.kind.as_deref(), place)?;
    if !(terms.may_publish)(kind.domain) {
        return Err(Complaint {
            field: Some(place.of("type")),
            ..Complaint::plain(
                ErrorCode::Forbidden,
                format!("permission publish:{} is needed", kind.domain),
            )
        });
    }
    let in_data =
        |error: FieldError| place.wrong(&format!("data.{}", error.field), &error.expected);
    if !bounds::is_within_depth(&draft.data, bounds::MAX_DEPTH) {
        let expected = format!("at most {} levels of nesting", bounds::MAX_DEPTH);
        return Err(place.wrong("data", &expected));
    }
    kind.check(&draft.data).map_err(in_data)?;
    kind.route.topic(&draft.data).map_err(in_data)?;

    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, STRUCTURED);
    if let Some(trace) = (terms.trace)(draft.traceparent.as_deref()) {
        trace.inject(&mut headers);
    }
    let given = [
        ("id", Some(draft.id.unwrap_or_else(fallback_id))),
        ("source", draft.source),
        ("time", draft.time),
        ("priority", draft.priority),
    ];
    let mut event = Map::new();
    event.insert("specversion".to_owned(), json!(SPECVERSION));
    event.insert("type".to_owned(), json!(full_name(kind)));
    for (field, value) in given {
        if let Some(value) = value {
            event.insert(field.to_owned(), Value::String(value));
        }
    }
    event.insert("data".to_owned(), Value::Object(draft.data));
    let payload = Value::Object(event).to_string();
    let event = envelope::decode(&Submission {
        kind,
        headers: &MessageHeaders(Some(&headers)),
        payload: payload.as_bytes(),
        fallback_id: "-",
        stored_at: terms.now,
    })
    .map_err(|rejection| rejected(rejection, place))?;
    Ok(Ready {
        message: Outgoing {
            subject: subject::event(kind.domain, kind.name),
            message_id: event.message_id(),
            headers,
            payload: payload.into(),
        },
        id: event.id,
    })
}

fn rejected(rejection: Rejection, place: Place) -> Complaint {
    match rejection {
        Rejection::Field(error) => place.wrong(&error.field, &error.expected),
        Rejection::TooLarge(_) => Complaint {
            field: Some(place.of("data")),
            ..Complaint::plain(
                ErrorCode::TooLarge,
                format!(
                    "field `{}`: expected an event of at most {} bytes in all",
                    place.of("data"),
                    envelope::MAX_PAYLOAD_BYTES
                ),
            )
        },
        Rejection::Malformed { expected } => place.wrong("data", expected),
        Rejection::TooDeep => place.wrong("data", "less nesting"),
    }
}

/// The event type that a producer names as `<domain>.<type>`.
fn kind(given: Option<&str>, place: Place) -> Result<&'static EventType, Complaint> {
    let unknown = |known: &str, names: Vec<&str>| Complaint {
        code: ErrorCode::UnknownType,
        ..place.wrong("type", &format!("{known} {}", names.join(", ")))
    };
    let Some(given) = given else {
        let field = place.of("type");
        let message = format!("field `{field}`: expected <domain>.<type>");
        return Err(Complaint {
            field: Some(field),
            ..Complaint::plain(ErrorCode::InvalidMessage, message)
        });
    };
    let (domain, name) = given.split_once('.').unwrap_or((given, ""));
    let Ok(domain) = domain.parse::<Domain>() else {
        let domains = Domain::ALL.into_iter().map(Domain::token).collect();
        return Err(unknown("<domain>.<type> with a domain of", domains));
    };
    catalogue::find(domain, name).ok_or_else(|| {
        let names: Vec<&str> = catalogue::all()
            .filter(|kind| kind.domain == domain)
            .map(|kind| kind.name)
            .collect();
        if names.is_empty() {
            return unknown(
                "another domain, there are no event types in",
                vec![domain.token()],
            );
        }
        unknown(&format!("{domain}.<type> with a type of"), names)
    })
}

/// The name by which producers call an event type.
fn full_name(kind: &EventType) -> String {
    format!("{}.{}", kind.domain, kind.name)
}

/// Why an event was not stored: a fixed sentence for the producer; the cause
/// goes to the log.
#[must_use]
pub fn explain(error: &PublishError, subject: &str) -> Complaint {
    let (code, message) = match error {
        PublishError::Unacknowledged(_) => {
            warn!(subject, %error, "event not stored");
            (
                ErrorCode::Unavailable,
                "the bus did not acknowledge the event in time, send it again under the same id",
            )
        }
        // The server has no code of its own for this.
        PublishError::Refused(cause) if cause.contains("maximum") => {
            warn!(subject, %error, "event not stored");
            (
                ErrorCode::Unavailable,
                "as many events wait to be routed as there is room for, send it again later",
            )
        }
        PublishError::Refused(_) | PublishError::NoStream(_) => {
            error!(subject, %error, "event not stored");
            (
                ErrorCode::Unavailable,
                "the bus does not take the event now, send it again later",
            )
        }
        PublishError::TooLarge => (
            ErrorCode::TooLarge,
            "the event is larger than the bus takes",
        ),
        PublishError::Forbidden(_) | PublishError::Fenced => {
            error!(subject, %error, "event not stored");
            (ErrorCode::Internal, "the event could not be published")
        }
    };
    Complaint::plain(code, message)
}
