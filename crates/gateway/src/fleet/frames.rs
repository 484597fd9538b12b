//! Writing frames, and which of them overtake output.

use std::time::Duration;

use serde_json::value::RawValue;
use signalbox_protocol::ErrorCode;
use signalbox_protocol::cursor::FleetCursor;
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

/// A frame that says `from` as its position, saying `to`.
///
/// The position stands last but for the time, so that nothing that agents or
/// users have written can be taken for it.
pub(super) fn moved(frame: &Frame, from: FleetCursor, to: FleetCursor) -> Frame {
    let said = format!("\"seq\":\"{from}\"");
    let text = frame.payload();
    let windows = text.windows(said.len());
    let Some(behind) = windows.rev().position(|part| part == said.as_bytes()) else {
        return frame.clone();
    };
    let end = text.len() - behind;
    let begin = end - said.len();
    let mut moved = Vec::with_capacity(text.len() + said.len());
    moved.extend_from_slice(&text[..begin]);
    moved.extend_from_slice(format!("\"seq\":\"{to}\"").as_bytes());
    moved.extend_from_slice(&text[end..]);
    Frame::text_bytes(&moved)
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use signalbox_protocol::cursor::Epoch;

    use super::*;

    #[test]
    fn another_position_changes_nothing_else() {
        let cursor = |logs, part| FleetCursor {
            epoch: Epoch::from_unix_micros(0xa),
            events: 0,
            logs,
            part,
        };
        let metrics = json!({"seq": cursor(7, 0).to_string(), "ü": 1}).to_string();
        let frame = write(&ServerFrame::AgentStatus {
            agent_id: "a",
            status: "online",
            metrics: raw(&metrics),
            agent_type: "t",
            connected_at: None,
            seq: cursor(7, 0),
            timestamp: now(),
        });
        let moved = moved(&frame, cursor(7, 0), cursor(1_234, 5));
        let mut expected: Value = serde_json::from_slice(frame.payload()).unwrap();
        expected["seq"] = json!(cursor(1_234, 5).to_string());
        let found: Value = serde_json::from_slice(moved.payload()).unwrap();
        assert_eq!(found, expected);
    }
}
