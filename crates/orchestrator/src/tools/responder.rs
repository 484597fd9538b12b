//! Tools that other programs answer, on the bus: a request with reply on
//! `tools.<name>`, both in JSON. Each call is sent once and never repeated, so
//! that what a responder does it does once.
//!
//! ```text
//! request  {"call_id", "tool", "arguments", "user_id", "session_id", "answer",
//!           "tool_call", "timeout_ms", "deadline_ms"}, traceparent in a header
//! reply    {"result": anything} or {"error": "a sentence"}
//! ```
//!
//! | what comes | outcome |
//! |---|---|
//! | a result | the value |
//! | an error | the error, in the responder's words |
//! | nobody listens | an error: nothing was done |
//! | nothing in time | timed out: it may have been done |
//! | anything else | an error that says what, and that it may have been done |

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::client::RequestErrorKind;
use async_nats::{HeaderMap, Message, Request};
use serde::Serialize;
use serde_json::Value;
use signalbox_bus::trace::{self, Kind, Span};
use signalbox_bus::{Bus, subject};
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Call, Outcome, Runner, Running};

/// The part of the system that these spans are of.
const SCOPE: &str = "signalbox.tools";
/// The largest reply that is read, in bytes.
const MAX_REPLY_BYTES: usize = 512 * 1024;
/// The longest sentence that is taken over from a responder, in bytes.
const MAX_ERROR_BYTES: usize = 2 * 1024;
/// How long before the call's deadline the reply is given up, so that the outcome
/// is known by then.
const MARGIN: Duration = Duration::from_millis(20);

/// Calls one tool on the bus.
#[derive(Clone)]
pub(super) struct Responder {
    subject: String,
    bus: Bus,
}

impl std::fmt::Debug for Responder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Responder").field(&self.subject).finish()
    }
}

/// What a responder is sent.
#[derive(Debug, Serialize)]
struct Question<'a> {
    call_id: String,
    tool: &'a str,
    arguments: &'a Value,
    user_id: &'a str,
    session_id: &'a str,
    answer: u32,
    tool_call: u32,
    /// How long it is waited for.
    timeout_ms: u64,
    /// When nobody waits any more, in milliseconds since 1970.
    deadline_ms: u64,
}

impl Responder {
    pub(super) fn new(name: &str, bus: Bus) -> Self {
        Self {
            subject: subject::tool(name),
            bus,
        }
    }

    async fn call(self, call: Call) -> Outcome {
        // Queued in the client it would be sent whenever the bus is back.
        if !self.bus.link().borrow().up {
            return failed("the bus is out of reach; nothing was done");
        }
        let patience = call.deadline.saturating_duration_since(Instant::now());
        let patience = patience.saturating_sub(MARGIN);
        let question = Question {
            call_id: call.id(),
            tool: &call.name,
            arguments: &call.arguments,
            user_id: &call.user_id,
            session_id: &call.session_id,
            answer: call.answer,
            tool_call: call.number,
            timeout_ms: millis(patience),
            deadline_ms: millis(since_1970() + patience),
        };
        let body = match serde_json::to_vec(&question) {
            Ok(body) => body,
            Err(error) => return failed(format!("the call cannot be written: {error}")),
        };
        let parent = call.trace.clone().or_else(trace::current);
        let span = parent.as_ref().and_then(|parent| {
            Span::behind(parent, SCOPE, Kind::Client, || self.subject.clone().into())
        });
        let mut headers = HeaderMap::new();
        headers.insert("Content-Type", "application/json");
        if let Some(context) = span.as_ref().map(Span::context).or(parent.as_ref()) {
            context.inject(&mut headers);
        }
        let request = Request::new()
            .headers(headers)
            .payload(body.into())
            .timeout(Some(patience));
        let sending = self
            .bus
            .client()
            .send_request(self.subject.clone(), request);
        let outcome = tokio::select! {
            answered = self.bus.unless_refused(&self.subject, sending) => match answered {
                Ok(Ok(message)) => read(&message),
                Ok(Err(error)) => self.unanswered(error.kind(), &error),
                Err(_) => failed("the bus does not let this tool be called; nothing was done"),
            },
            () = call.cancel.wait() => Outcome::Cancelled,
        };
        if let Some(mut span) = span
            && let Some(why) = fault(&outcome)
        {
            span.fail(why);
        }
        outcome
    }

    fn unanswered(&self, kind: RequestErrorKind, cause: &dyn std::fmt::Display) -> Outcome {
        match kind {
            RequestErrorKind::NoResponders => {
                info!(subject = %self.subject, "nobody answers calls of this tool");
                failed("no responder of this tool is connected now; nothing was done")
            }
            RequestErrorKind::TimedOut => Outcome::TimedOut,
            RequestErrorKind::MaxPayloadExceeded => {
                failed("the arguments are too large for the bus; nothing was done")
            }
            _ => {
                warn!(subject = %self.subject, %cause, "call of a tool failed");
                let words = "the connection to the bus failed; whether the call was received, \
                             and acted on, is unknown";
                Outcome::Unknown(words.to_owned())
            }
        }
    }
}

impl Runner for Responder {
    fn run(&self, call: Call) -> Running {
        Box::pin(self.clone().call(call))
    }
}

/// What a reply says.
fn read(message: &Message) -> Outcome {
    let bytes = message.payload.len();
    if bytes == 0 {
        return unusable("the responder's reply is empty");
    }
    if bytes > MAX_REPLY_BYTES {
        return unusable(format!(
            "the responder's reply has {bytes} bytes, of which at most {MAX_REPLY_BYTES} are read"
        ));
    }
    // Nothing of it is repeated: it is anything but what it should be.
    let Ok(reply) = serde_json::from_slice(&message.payload) else {
        return unusable("the responder's reply is not JSON");
    };
    let Value::Object(mut reply) = reply else {
        return unusable("the responder's reply is not {\"result\": ...} or {\"error\": \"...\"}");
    };
    let error = reply.remove("error").filter(|error| !error.is_null());
    match (reply.remove("result"), error) {
        (Some(result), None) => Outcome::Value(result),
        (None, Some(Value::String(sentence))) if !sentence.trim().is_empty() => {
            Outcome::Error(shortened(sentence))
        }
        (None, Some(_)) => unusable("the responder's reply has an error that is no sentence"),
        (None, None) | (Some(_), Some(_)) => {
            unusable("the responder's reply must have either result or error")
        }
    }
}

fn failed(words: impl Into<String>) -> Outcome {
    Outcome::Error(words.into())
}

/// Something came back, so that somebody was at work.
fn unusable(words: impl Into<String>) -> Outcome {
    failed(format!(
        "{}; it may have done what it was asked to",
        words.into()
    ))
}

/// Why a span did not succeed, in fixed words.
const fn fault(outcome: &Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::Value(_) => None,
        Outcome::Error(_) => Some("error"),
        Outcome::TimedOut => Some("timed out"),
        Outcome::Cancelled | Outcome::Stopped(_) => Some("cancelled"),
        Outcome::Unknown(_) => Some("unknown"),
    }
}

fn shortened(mut text: String) -> String {
    if text.len() > MAX_ERROR_BYTES {
        let end = text.floor_char_boundary(MAX_ERROR_BYTES);
        text.truncate(end);
        text.push('…');
    }
    text
}

fn since_1970() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
