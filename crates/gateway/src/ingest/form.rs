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

use std::collections::HashSet;

use http::{HeaderMap, header};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};
use signalbox_bus::publish::Outgoing;
use signalbox_bus::{HeaderMap as BusHeaders, header as bus_header, subject};
use signalbox_identity::{Permission, Permissions};
use signalbox_protocol::catalogue::{self, EventType, FieldError};
use signalbox_protocol::domain::Domain;
use signalbox_protocol::envelope::{
    self, CE_ID, CE_PRIORITY, CE_SOURCE, CE_SPECVERSION, CE_TIME, CE_TYPE, CONTENT_TYPE, Rejection,
    STRUCTURED, Submission,
};
use signalbox_protocol::frame::fields::Complaint;
use signalbox_protocol::timestamp::Timestamp;
use signalbox_protocol::trace::{TRACEPARENT, TraceParent};
use signalbox_protocol::{ErrorCode, json as bounds, name};
use uuid::Uuid;

use super::MAX_BATCH_EVENTS;

/// `Content-Type` of a batch of CloudEvents.
const BATCH: &str = "application/cloudevents-batch+json";
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

/// What a producer said of one event, as far as it is read.
#[derive(Debug, Default)]
struct Draft {
    kind: Option<String>,
    id: Option<String>,
    source: Option<String>,
    time: Option<String>,
    priority: Option<String>,
    traceparent: Option<String>,
    data: Map<String, Value>,
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

/// What is said of each event, and whether they are a batch.
fn drafts(posted: &Posted<'_>) -> Result<(bool, Vec<Draft>), Complaint> {
    let media_type = media_type(posted.headers)?;
    if media_type != STRUCTURED && media_type != BATCH && !is_json(&media_type) {
        return Err(unsupported(&media_type));
    }
    let parameters = parameters(posted.query)?;
    let body: Value = serde_json::from_slice(posted.body)
        .map_err(|_| Complaint::plain(ErrorCode::InvalidJson, "expected JSON in the body"))?;
    if media_type == BATCH {
        parameters.must_be_empty()?;
        return batch(body).map(|drafts| (true, drafts));
    }
    let binary = [CE_TYPE, CE_SPECVERSION]
        .iter()
        .any(|name| posted.headers.contains_key(*name));
    let draft = if media_type == STRUCTURED || (!binary && is_structured(&body)) {
        parameters.must_be_empty()?;
        structured(body, Place(None))?
    } else {
        let Value::Object(data) = body else {
            return Err(Complaint::field("data", "an object"));
        };
        if binary {
            parameters.must_be_empty()?;
            in_headers(posted.headers, data, Place(None))?
        } else {
            Draft {
                kind: parameters.kind,
                id: parameters.id,
                source: parameters.source,
                data,
                ..Draft::default()
            }
        }
    };
    Ok((false, vec![draft]))
}

fn batch(body: Value) -> Result<Vec<Draft>, Complaint> {
    let Value::Array(events) = body else {
        return Err(Complaint::field("events", "a list of CloudEvents"));
    };
    if events.len() > MAX_BATCH_EVENTS {
        let expected = format!("at most {MAX_BATCH_EVENTS} events");
        return Err(Complaint::field("events", &expected));
    }
    let read = |(index, event)| structured(event, Place(Some(index)));
    events.into_iter().enumerate().map(read).collect()
}

/// What the query says of an event that is nothing but data.
#[derive(Default)]
struct Parameters {
    kind: Option<String>,
    id: Option<String>,
    source: Option<String>,
}

fn parameters(query: &str) -> Result<Parameters, Complaint> {
    let mut parameters = Parameters::default();
    for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
        let place = match key.as_ref() {
            "type" => &mut parameters.kind,
            "id" => &mut parameters.id,
            "source" => &mut parameters.source,
            _ => continue,
        };
        if place.replace(value.into_owned()).is_some() {
            return Err(Complaint::field(&key, "one value in the query"));
        }
    }
    Ok(parameters)
}

impl Parameters {
    /// A CloudEvent says all of this itself, and two answers would be one too
    /// many.
    fn must_be_empty(&self) -> Result<(), Complaint> {
        let given = [
            ("type", &self.kind),
            ("id", &self.id),
            ("source", &self.source),
        ];
        match given.iter().find(|(_, value)| value.is_some()) {
            None => Ok(()),
            Some((name, _)) => Err(Complaint::field(
                name,
                "in the CloudEvent only, not in the query as well",
            )),
        }
    }
}

/// The media type without parameters, in lower case; empty without a header.
fn media_type(headers: &HeaderMap) -> Result<String, Complaint> {
    let full = single(headers, header::CONTENT_TYPE.as_str())?.unwrap_or_default();
    let essence = full.split(';').next().unwrap_or_default();
    Ok(essence.trim().to_ascii_lowercase())
}

fn is_json(media_type: &str) -> bool {
    let cloud_events = media_type.starts_with("application/cloudevents");
    media_type.is_empty()
        || media_type == "application/json"
        || (media_type.ends_with("+json") && !cloud_events)
}

fn unsupported(media_type: &str) -> Complaint {
    Complaint {
        field: Some("Content-Type".to_owned()),
        ..Complaint::plain(
            ErrorCode::UnsupportedMediaType,
            format!(
                "field `Content-Type`: expected application/json, {STRUCTURED} or {BATCH}, not {}",
                media_type.escape_debug()
            ),
        )
    }
}

fn is_structured(body: &Value) -> bool {
    body.get("specversion").is_some() && body.get("data").is_some()
}

/// Reads a CloudEvent in structured mode.
fn structured(event: Value, place: Place) -> Result<Draft, Complaint> {
    let Value::Object(mut event) = event else {
        let expected = "a CloudEvent: an object with specversion, type and data";
        return Err(match place.0 {
            None => Complaint::plain(ErrorCode::InvalidMessage, format!("expected {expected}")),
            Some(index) => Complaint::field(&format!("events[{index}]"), expected),
        });
    };
    let mut text = |field: &str| match event.remove(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(place.wrong(field, "a string")),
    };
    version(text("specversion")?.as_deref(), place)?;
    let form = text("datacontenttype")?.unwrap_or_default();
    if !is_json(form.split(';').next().unwrap_or_default().trim()) {
        return Err(place.wrong("datacontenttype", "application/json"));
    }
    let draft = Draft {
        kind: text("type")?,
        id: text("id")?,
        source: text("source")?,
        time: text("time")?,
        priority: text("priority")?,
        traceparent: text("traceparent")?,
        data: Map::new(),
    };
    match event.remove("data") {
        Some(Value::Object(data)) => Ok(Draft { data, ..draft }),
        _ => Err(place.wrong("data", "an object")),
    }
}

/// Reads a CloudEvent in binary mode.
fn in_headers(
    headers: &HeaderMap,
    data: Map<String, Value>,
    place: Place,
) -> Result<Draft, Complaint> {
    let text = |name: &str| -> Result<Option<String>, Complaint> {
        let Some(encoded) = single(headers, name)? else {
            return Ok(None);
        };
        // As the HTTP binding of CloudEvents wants it.
        percent_decode_str(encoded)
            .decode_utf8()
            .map(|text| Some(text.into_owned()))
            .map_err(|_| Complaint::field(name, "percent-encoded UTF-8"))
    };
    version(text(CE_SPECVERSION)?.as_deref(), place)?;
    Ok(Draft {
        kind: text(CE_TYPE)?,
        id: text(CE_ID)?,
        source: text(CE_SOURCE)?,
        time: text(CE_TIME)?,
        priority: text(CE_PRIORITY)?,
        traceparent: None,
        data,
    })
}

fn version(given: Option<&str>, place: Place) -> Result<(), Complaint> {
    match given {
        Some(SPECVERSION) => Ok(()),
        _ => Err(place.wrong("specversion", "\"1.0\"")),
    }
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
