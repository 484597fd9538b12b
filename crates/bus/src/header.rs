//! The headers of messages on the bus.

use async_nats::HeaderMap;
use signalbox_protocol::envelope::Headers;
use signalbox_protocol::trace::{TRACEPARENT, TraceParent};

/// The id under which a stream recognises a repeated publish.
pub const MESSAGE_ID: &str = "Nats-Msg-Id";
/// On TOPICS: the epoch of EVENTS that `Ev-Seq` belongs to.
pub const EVENT_STREAM: &str = "Ev-Stream";
/// On TOPICS and DLQ: the event's sequence in EVENTS.
pub const EVENT_SEQUENCE: &str = "Ev-Seq";
/// On DLQ: why the event was refused.
pub const REASON: &str = "Ev-Reason";
/// On DLQ: the subject that the event was published on.
pub const ORIGIN: &str = "Ev-Subject";
/// On DLQ: the [`MESSAGE_ID`] that the event was published with.
pub const ORIGIN_MESSAGE_ID: &str = "Ev-Msg-Id";
/// On DLQ: how many bytes the body had before it was cut.
pub const CUT_FROM: &str = "Ev-Cut-From";
/// On EVENTS and DLQ: the producer's Ed25519 signature of the payload, byte for
/// byte, in base64.
pub const SIGNATURE: &str = "Signalbox-Signature";
/// On EVENTS and DLQ: which key made the [`SIGNATURE`]: its RFC 7638
/// thumbprint, or the name of the router's file of it without the extension.
/// Without this header, any of the type's keys may have.
pub const KEY_ID: &str = "Signalbox-Key-Id";
/// In logs: which record of its log this is, from 1 and without gaps.
pub const LOG_NUMBER: &str = "Log-Number";
/// In logs: which of the log's owners has written the record; later ones have
/// greater numbers.
pub const LOG_OWNER: &str = "Log-Owner";
/// Beside logs, without a body: the number of the last record.
pub const LOG_TIP: &str = "Log-Tip";
/// In what the server repeats, and in answers to reads: the sequence in the
/// stream.
pub const SEQUENCE: &str = "Nats-Sequence";
/// In answers to reads: when the stream stored the message.
pub const STORED_AT: &str = "Nats-Time-Stamp";

/// A message's headers, or none, as [`Headers`].
pub struct MessageHeaders<'a>(pub Option<&'a HeaderMap>);

impl Headers for MessageHeaders<'_> {
    fn value(&self, name: &str) -> Option<&str> {
        value(self.0?, name)
    }
}

/// A header's value, by its name in our spelling or in lower case.
#[must_use]
pub fn value<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let in_lower_case = || {
        let differs = name.bytes().any(|byte| byte.is_ascii_uppercase());
        differs.then(|| headers.get(name.to_ascii_lowercase().as_str()))?
    };
    headers
        .get(name)
        .or_else(in_lower_case)
        .map(async_nats::HeaderValue::as_str)
}

/// The trace that a message belongs to.
#[must_use]
pub fn trace(headers: Option<&HeaderMap>) -> Option<TraceParent> {
    value(headers?, TRACEPARENT)?.parse().ok()
}

/// A new trace, recorded or not.
///
/// # Panics
/// Never: the ids are drawn until they are not zero.
#[must_use]
pub fn new_trace(sampled: bool) -> TraceParent {
    loop {
        if let Some(trace) = TraceParent::new(rand::random(), rand::random(), sampled) {
            return trace;
        }
    }
}
