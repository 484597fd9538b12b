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
//! `signalbox_bus::intake` checks them.

mod draft;

use http::HeaderMap;
use signalbox_bus::header as bus_header;
use signalbox_bus::intake::{self, Ready, Terms};
use signalbox_identity::{Permission, Permissions};
use signalbox_protocol::frame::fields::Complaint;
use signalbox_protocol::name;
use signalbox_protocol::timestamp::Timestamp;
use signalbox_protocol::trace::{TRACEPARENT, TraceParent};
use uuid::Uuid;

use self::draft::drafts;

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

/// Reads a request. All of its events are good, or none is returned.
///
/// # Errors
/// The first thing that is wrong.
pub(crate) fn read(posted: &Posted<'_>) -> Result<Vec<Ready>, Complaint> {
    let key = idempotency_key(posted.headers)?;
    let (batch, drafts) = drafts(posted)?;
    let fallback_id = |index: usize| match &key {
        Some(key) if batch => format!("{key}.{index}"),
        Some(key) => key.clone(),
        None => Uuid::now_v7().to_string(),
    };
    let terms = Terms {
        batch,
        fallback_id: &fallback_id,
        may_publish: &|domain| posted.permissions.contains(Permission::Publish(domain)),
        trace: &|own| Some(trace(own, posted.headers).into()),
        now: posted.now,
    };
    intake::prepare(drafts, &terms)
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
