//! Unix time that never goes back: read once, and counted on from there.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use signalbox_protocol::timestamp::Timestamp;
use time::OffsetDateTime;
use tokio::time::Instant;

/// Tells the time of the machine as it was at the start, and what has passed
/// since. A clock that is set ends no session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
    start_ms: u64,
}

impl Clock {
    pub(crate) fn start() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            start: Instant::now(),
            start_ms: millis(now.unwrap_or_default()),
        }
    }

    /// Unix milliseconds.
    pub(crate) fn now_ms(&self) -> u64 {
        self.start_ms + millis(self.start.elapsed())
    }

    /// The moment at which [`now_ms`](Self::now_ms) is this, or later.
    pub(crate) fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms.saturating_sub(self.start_ms))
    }
}

/// Unix milliseconds as RFC 3339.
pub(crate) fn timestamp(ms: u64) -> String {
    let nanos = i128::from(ms) * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanos)
        .map(|time| Timestamp::from(time).to_string())
        .unwrap_or_default()
}

/// A duration in milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
