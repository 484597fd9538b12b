//! Writing frames, and which of them overtake output.

use std::time::Duration;

use serde_json::value::RawValue;
use signalbox_protocol::ErrorCode;
use signalbox_protocol::frame::fields::Complaint;
use signalbox_protocol::frame::fleet::server::ServerFrame;
use signalbox_protocol::timestamp::Timestamp;
use signalbox_transport::{Frame, Outbound};
use time::OffsetDateTime;

use super::meter::Excess;

/// The present, as frames have it.
pub(super) fn now() -> Timestamp {
    Timestamp::from(OffsetDateTime::now_utc())
}

/// A message as a frame.
///
/// # Panics
/// Never: every message has string keys and finite numbers.
pub(super) fn write(message: &ServerFrame<'_>) -> Frame {
    let json = serde_json::to_vec(message).expect("frames have string keys and finite numbers");
    Frame::text_bytes(&json)
}

/// Sends a message in its turn.
pub(super) fn send(outbound: &Outbound, message: &ServerFrame<'_>) {
    // A connection that takes nothing more is noticed by its session.
    let _sent = outbound.send_frame(&write(message));
}

/// Sends a message ahead of output.
pub(super) fn send_urgent(outbound: &Outbound, message: &ServerFrame<'_>) {
    let _sent = outbound.send_urgent(&write(message));
}

/// JSON that somebody else has written; `None` for what is none.
pub(super) fn raw(text: &str) -> Option<&RawValue> {
    (!text.is_empty())
        .then(|| serde_json::from_str(text).ok())
        .flatten()
}

/// Whole seconds, rounded up, as `retryAfter` has them.
const fn seconds(time: Duration) -> u64 {
    let rest = time.subsec_nanos() > 0;
    time.as_secs() + rest as u64
}

/// What is wrong with a message, or with asking for it.
pub(super) fn complaint(complaint: &Complaint, request_id: Option<&str>) -> Frame {
    let timestamp = now();
    let is_about_form = matches!(
        complaint.code,
        ErrorCode::InvalidJson | ErrorCode::InvalidMessage | ErrorCode::UnknownType
    );
    if is_about_form {
        return write(&ServerFrame::ValidationError {
            error: &complaint.message,
            field: complaint.field.as_deref(),
            code: complaint.code,
            request_id,
            timestamp,
        });
    }
    write(&ServerFrame::ConnectionError {
        error: &complaint.message,
        code: complaint.code,
        retry_after: None,
        limits: None,
        request_id,
        timestamp,
    })
}

/// A message that was one too many.
pub(super) fn excess(excess: &Excess, request_id: Option<&str>) -> Frame {
    write(&ServerFrame::ConnectionError {
        error: excess.what,
        code: ErrorCode::RateLimit,
        retry_after: Some(seconds(excess.retry_after)),
        limits: Some(excess.limits),
        request_id,
        timestamp: now(),
    })
}

/// The connection ends, and why.
pub(super) fn last(code: ErrorCode, error: &str, retry_after: Option<Duration>) -> Frame {
    write(&ServerFrame::ConnectionError {
        error,
        code,
        retry_after: retry_after.map(seconds),
        limits: None,
        request_id: None,
        timestamp: now(),
    })
}
