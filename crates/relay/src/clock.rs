//! Unix time that never goes back: read once, and counted on from there.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use signalbox_protocol::timestamp::Timestamp;
use time::OffsetDateTime;
use tokio::time::Instant;

/// Tells the time of the machine as it was at the start, and what has passed
/// since. A clock that is set ends no session; what others say and are told of
/// times goes by the machine's clock as it is set now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
    start_ms: u64,
    /// Reads the machine's clock.
    set_ms: fn() -> u64,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self {
            start: Instant::now(),
            start_ms: set_ms(),
            set_ms,
        }
    }

    /// Unix milliseconds.
    pub(crate) fn now_ms(&self) -> u64 {
        self.start_ms + millis(self.start.elapsed())
    }

    /// For how many milliseconds a time has passed that another machine has named;
    /// `None` while it is to come.
    pub(crate) fn past(&self, named_ms: u64) -> Option<u64> {
        (self.set_ms)().checked_sub(named_ms)
    }

    /// The time at which [`now_ms`](Self::now_ms) was this, as RFC 3339.
    pub(crate) fn timestamp(&self, ms: u64) -> String {
        let ago = self.now_ms().saturating_sub(ms);
        let nanos = i128::from((self.set_ms)().saturating_sub(ago)) * 1_000_000;
        OffsetDateTime::from_unix_timestamp_nanos(nanos)
            .map(|time| Timestamp::from(time).to_string())
            .unwrap_or_default()
    }

    /// The moment at which [`now_ms`](Self::now_ms) is this, or later.
    pub(crate) fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms.saturating_sub(self.start_ms))
    }
}

/// Unix milliseconds by the machine's clock as it is set now.
fn set_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    millis(now.unwrap_or_default())
}

/// A duration in milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;

    #[tokio::test(start_paused = true)]
    async fn others_are_told_and_asked_by_the_clock_as_it_is_set() {
        for start_ms in [2 * HOUR_MS, 4 * HOUR_MS] {
            let clock = Clock {
                start: Instant::now(),
                start_ms,
                set_ms: || 3 * HOUR_MS,
            };
            let now = clock.now_ms();
            assert_eq!(now, start_ms);
            assert_eq!(clock.timestamp(now), "1970-01-01T03:00:00Z");
            assert_eq!(clock.timestamp(now - 1_500), "1970-01-01T02:59:58.500Z");
            assert_eq!(clock.past(3 * HOUR_MS + 1), None);
            assert_eq!(clock.past(3 * HOUR_MS), Some(0));
            assert_eq!(clock.past(3 * HOUR_MS - 5), Some(5));
        }
    }
}
