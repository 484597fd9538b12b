//! What a request says of each of its events, in whatever form, before
//! anything is made of it.

use http::{HeaderMap, header};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};
use signalbox_bus::intake::{Draft, MAX_BATCH_EVENTS, Place, SPECVERSION};
use signalbox_protocol::ErrorCode;
use signalbox_protocol::envelope::{
    CE_ID, CE_PRIORITY, CE_SOURCE, CE_SPECVERSION, CE_TIME, CE_TYPE, STRUCTURED,
};
use signalbox_protocol::frame::fields::Complaint;

use super::{Posted, single};

/// `Content-Type` of a batch of CloudEvents.
pub(super) const BATCH: &str = "application/cloudevents-batch+json";

/// What is said of each event, and whether they are a batch.
///
/// # Errors
/// The first thing that is wrong with the form.
pub(super) fn drafts(posted: &Posted<'_>) -> Result<(bool, Vec<Draft>), Complaint> {
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
