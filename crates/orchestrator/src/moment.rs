//! Moments as records have them.

use std::time::Duration;

use signalbox_protocol::timestamp::Timestamp;
use time::OffsetDateTime;

/// This moment.
pub(crate) fn now() -> Timestamp {
    OffsetDateTime::now_utc().into()
}

/// This moment, in Unix milliseconds.
pub(crate) fn now_ms() -> u64 {
    u64::try_from(now().unix_millis()).unwrap_or(0)
}

/// A moment as RFC 3339.
pub(crate) fn text(ms: u64) -> String {
    let ms = i64::try_from(ms).unwrap_or(i64::MAX);
    Timestamp::from_unix_millis(ms).map_or_else(String::new, |time| time.to_string())
}

/// A moment from RFC 3339; 0 where it is none.
pub(crate) fn parse(text: &str) -> u64 {
    let ms = Timestamp::parse(text).map_or(0, Timestamp::unix_millis);
    u64::try_from(ms).unwrap_or(0)
}

/// A duration in milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
