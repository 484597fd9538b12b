//! From a request to messages for the bus: all of them, or a complaint that
//! names the field. Pure: headers and bytes in, messages out.
//!
//! | form | recognised by |
//! |---|---|
//! | batch of CloudEvents | `Content-Type: application/cloudevents-batch+json` |
//! | structured CloudEvent | `Content-Type: application/cloudevents+json`, or `specversion` and `data` in the body |
//! | binary CloudEvent | a `ce-type` or `ce-specversion` header |
//! | data alone | `?type=` |
//!
//! Each message is checked by reading it as a router will.

mod draft;

use std::collections::HashSet;

use http::HeaderMap;
use serde_json::{Map, Value, json};
use signalbox_bus::publish::Outgoing;
use signalbox_bus::{HeaderMap as BusHeaders, header as bus_header, subject};
use signalbox_identity::{Permission, Permissions};
use signalbox_protocol::catalogue::{self, EventType, FieldError};
use signalbox_protocol::domain::Domain;
use signalbox_protocol::envelope::{self, CONTENT_TYPE, Rejection, STRUCTURED, Submission};
use signalbox_protocol::frame::fields::Complaint;
use signalbox_protocol::timestamp::Timestamp;
use signalbox_protocol::trace::{TRACEPARENT, TraceParent};
use signalbox_protocol::{ErrorCode, json as bounds, name};
use uuid::Uuid;

use self::draft::{Draft, drafts};

/// The version of CloudEvents that is read.
const SPECVERSION: &str = "1.0";
/// The header whose value is the id of an event that brings none.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// A request as it arrived.
pub(crate) struct Posted<'a> {
    pub(crate) headers: &'a HeaderMap,
    pub(crate) query: &'a str,
    pub(crate) body: &'a [u8],
    /// What the producer may do.
    pub(crate) permissions: Permissions,
    pub(crate) now: Timestamp,
}

/// An event that is fit to be published.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) id: String,
    pub(crate) trace: TraceParent,
    pub(crate) message: Outgoing,
}

/// Where complaints about an event say that its fields are.
#[derive(Clone, Copy)]
struct Place(Option<usize>);

impl Place {
    fn of(self, field: &str) -> String {
        match self.0 {
            None => field.to_owned(),
            Some(index) => format!("events[{index}].{field}"),
        }
    }

    fn wrong(self, field: &str, expected: &str) -> Complaint {
        Complaint::field(&self.of(field), expected)
    }
}

/// Reads a request. All of its events are good, or none is returned.
///
/// # Errors
/// The first thing that is wrong.
pub(crate) fn read(posted: &Posted<'_>) -> Result<Vec<Ready>, Complaint> {
    let key = idempotency_key(posted.headers)?;
    let (batch, drafts) = drafts(posted)?;
    let mut seen = HashSet::new();
    let finished = drafts.into_iter().enumerate().map(|(index, draft)| {
        let place = Place(batch.then_some(index));
        let fallback = match &key {
            Some(key) if batch => format!("{key}.{index}"),
            Some(key) => key.clone(),
            None => Uuid::now_v7().to_string(),
        };
        let ready = finish(draft, place, fallback, posted)?;
        if seen.insert(ready.message.message_id.clone()) {
            Ok(ready)
        } else {
            Err(place.wrong("id", "an id that no other event of the batch has"))
        }
    });
    finished.collect()
}

/// The id for an event that brings none, as its producer chose it.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Complaint> {
    let Some(key) = single(headers, IDEMPOTENCY_KEY)? else {
        return Ok(None);
    };
    // Structured headers quote strings, most clients do not.
    let key = key
        .strip_prefix('"')
        .and_then(|key| key.strip_suffix('"'))
        .unwrap_or(key);
    if name::is_valid(key) {
        Ok(Some(key.to_owned()))
    } else {
        Err(Complaint::field(
            "Idempotency-Key",
            "1 to 128 bytes without white space",
        ))
    }
}

/// The value of a header that may be there once.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Complaint> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value
            .to_str()
            .map(Some)
            .map_err(|_| Complaint::field(name, "visible ASCII characters")),
        (Some(_), Some(_)) => Err(Complaint::field(name, "one value")),
    }
}

/// Makes the message and reads it as a router will.
fn finish(
    draft: Draft,
    place: Place,
    fallback_id: String,
    posted: &Posted<'_>,
) -> Result<Ready, Complaint> {
    let kind = kind(draft.kind.as_deref(), place)?;
    let permission = Permission::Publish(kind.domain);
    if !posted.permissions.contains(permission) {
        return Err(Complaint {
            field: Some(place.of("type")),
            ..Complaint::plain(
                ErrorCode::Forbidden,
                format!("permission {permission} is needed"),
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

    let trace = trace(draft.traceparent.as_deref(), posted.headers);
    let mut headers = BusHeaders::new();
    headers.insert(CONTENT_TYPE, STRUCTURED);
    headers.insert(TRACEPARENT, trace.to_string());
    let given = [
        ("id", Some(draft.id.unwrap_or(fallback_id))),
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
        headers: &bus_header::MessageHeaders(Some(&headers)),
        payload: payload.as_bytes(),
        fallback_id: "-",
        stored_at: posted.now,
    })
    .map_err(|rejection| rejected(rejection, place))?;
    Ok(Ready {
        trace,
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

/// The event's place in a trace: its own, that of the request, or a new one.
fn trace(own: Option<&str>, headers: &HeaderMap) -> TraceParent {
    let of_request = || {
        headers
            .get(TRACEPARENT)
            .and_then(|value| value.to_str().ok())
    };
    let parse = |text: &str| text.parse::<TraceParent>().ok();
    own.and_then(parse)
        .or_else(|| of_request().and_then(parse))
        .map_or_else(
            || bus_header::new_trace(false),
            |parent| parent.child(rand::random()),
        )
}

#[cfg(test)]
mod tests;
