//! What becomes of one event whose trace is recorded, noted by all shards that
//! hand it out. Events that nobody traces have none.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use signalbox_bus::trace::TraceContext;
use signalbox_service::metrics::Count;
use signalbox_transport::Sent;

/// The notes on one event.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Where the event stands in its trace.
    pub(crate) context: TraceContext,
    /// When it was read from the bus.
    pub(crate) received: SystemTime,
    /// Connections that it was for.
    pub(crate) matched: Count,
    /// Subscriptions that a filter kept it from.
    pub(crate) filtered: Count,
    /// Frames that sockets took at once.
    pub(crate) written: Count,
    /// Frames that wait for a socket.
    pub(crate) queued: Count,
    /// Frames for connections that were closing or too slow.
    pub(crate) dropped: Count,
    /// For how many microseconds the connection had been behind that was so
    /// the longest.
    oldest: AtomicU64,
    /// When the first shard began to write, in microseconds after `received`.
    first_write: AtomicU64,
    /// Shards that have not handed it out yet.
    left: AtomicUsize,
}

impl Tally {
    /// Notes on an event that so many shards are about to hand out.
    pub(crate) fn new(context: TraceContext, received: SystemTime, shards: usize) -> Self {
        Self {
            context,
            received,
            matched: Count::default(),
            filtered: Count::default(),
            written: Count::default(),
            queued: Count::default(),
            dropped: Count::default(),
            oldest: AtomicU64::new(0),
            first_write: AtomicU64::new(u64::MAX),
            left: AtomicUsize::new(shards),
        }
    }

    /// Notes what became of a frame, for a connection that has been behind
    /// for this long.
    pub(crate) fn sent(&self, sent: Sent, behind: Option<Duration>) {
        match sent {
            Sent::Written => self.written.add(1),
            Sent::Queued => self.queued.add(1),
            Sent::Overflow | Sent::Closed => self.dropped.add(1),
        }
        if let Some(behind) = behind {
            self.oldest.fetch_max(micros(behind), Ordering::Relaxed);
        }
    }

    /// Notes that a shard that began to write at this time is done; true for
    /// the last one, which sees the notes of all.
    pub(crate) fn finish(&self, began: SystemTime) -> bool {
        let after = began.duration_since(self.received).unwrap_or_default();
        self.first_write.fetch_min(micros(after), Ordering::Relaxed);
        // Orders the notes of the others before those who read them.
        self.left.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// For how long the connection had been behind that was so the longest.
    pub(crate) fn oldest(&self) -> Duration {
        Duration::from_micros(self.oldest.load(Ordering::Relaxed))
    }

    /// When the first shard began to write.
    pub(crate) fn first_write(&self) -> SystemTime {
        self.received + Duration::from_micros(self.first_write.load(Ordering::Relaxed))
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use signalbox_protocol::trace::TraceParent;

    use super::*;

    #[test]
    fn the_last_shard_sees_what_all_noted() {
        let context = TraceParent::new(1, 2, true).unwrap().into();
        let received = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let tally = Tally::new(context, received, 2);
        let at = |millis| received + Duration::from_millis(millis);
        tally.sent(Sent::Written, None);
        tally.sent(Sent::Queued, Some(Duration::from_secs(3)));
        assert!(!tally.finish(at(9)));
        tally.sent(Sent::Queued, Some(Duration::from_secs(1)));
        tally.sent(Sent::Closed, None);
        assert!(tally.finish(at(5)));
        let counts = [&tally.written, &tally.queued, &tally.dropped].map(Count::get);
        assert_eq!(counts, [1, 2, 1]);
        assert_eq!(tally.oldest(), Duration::from_secs(3));
        assert_eq!(tally.first_write(), at(5));
    }
}
