//! What a refusal means, and how much of it the log may have.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode};
use signalbox_identity::Secret;

use crate::provider::failure::{Failure, FailureKind};

/// The longest refusal that is kept for the log, in characters.
const MAX_DETAIL_CHARS: usize = 300;

/// The failure that a refusal is, given the start of its body.
pub(super) fn failure(status: StatusCode, headers: &HeaderMap, text: &str) -> Failure {
    let mut failure = Failure::new(kind_of(status, text), format!("status {status}: {text}"));
    // Providers repeat parts of a key that they refuse.
    if failure.kind == FailureKind::Auth {
        failure.detail = format!("status {status}");
    }
    failure.retry_after = retry_after(headers);
    let advice = headers.get("x-should-retry").map(HeaderValue::as_bytes);
    failure.advice = match advice {
        Some(b"true") => Some(true),
        Some(b"false") => Some(false),
        _ => None,
    };
    failure
}

/// One line for the log: no key, no control characters, bounded.
pub(in crate::provider) fn clean(text: &str, key: Option<&Secret>) -> String {
    let text = match key.map(Secret::expose) {
        Some(key) if !key.is_empty() => text.replace(key, "[redacted]"),
        _ => text.to_owned(),
    };
    text.chars()
        .map(|char| if char.is_control() { ' ' } else { char })
        .take(MAX_DETAIL_CHARS)
        .collect()
}

fn kind_of(status: StatusCode, body: &str) -> FailureKind {
    match status.as_u16() {
        401..=403 => FailureKind::Auth,
        408 | 409 | 425 => FailureKind::ServerError,
        // Money that has run out does not come back by waiting.
        429 if body.contains("insufficient_quota") => FailureKind::Auth,
        429 => FailureKind::RateLimited,
        503 | 529 => FailureKind::Overloaded,
        500.. => FailureKind::ServerError,
        _ if is_too_long(body) => FailureKind::ContextExceeded,
        _ => FailureKind::BadRequest,
    }
}

/// Whether a refusal says that the conversation does not fit the model.
fn is_too_long(body: &str) -> bool {
    [
        "context_length_exceeded",
        "prompt is too long",
        "maximum context length",
    ]
    .iter()
    .any(|sign| body.contains(sign))
}

/// When the provider wants to be asked again: seconds, or milliseconds in the
/// header that OpenAI adds. Dates are not sent by any of them.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let number = |name: &str| -> Option<f64> {
        let value = headers.get(name)?.to_str().ok()?.trim();
        value.parse().ok()
    };
    let seconds = number("retry-after-ms")
        .map(|millis| millis / 1000.0)
        .or_else(|| number("retry-after"))?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_read_in_seconds_and_milliseconds() {
        let headers = |name: &'static str, value: &'static str| {
            HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())])
        };
        let wait = |name, value| retry_after(&headers(name, value));
        assert_eq!(wait("retry-after", "2"), Some(Duration::from_secs(2)));
        assert_eq!(wait("retry-after", "0.5"), Some(Duration::from_millis(500)));
        assert_eq!(
            wait("retry-after-ms", "70"),
            Some(Duration::from_millis(70))
        );
        assert_eq!(wait("retry-after", "-1"), None);
        assert_eq!(wait("retry-after", "Wed, 21 Oct 2026 07:28:00 GMT"), None);
    }

    #[test]
    fn a_key_is_in_no_detail() {
        let key = Secret::new("sk-1234");
        let cleaned = clean("wrong key\nsk-1234 given", Some(&key));
        assert_eq!(cleaned, "wrong key [redacted] given");
        assert_eq!(clean(&"x".repeat(9999), None).len(), MAX_DETAIL_CHARS);
    }
}
