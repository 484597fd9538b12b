//! What the gateway counts while it works. Each shard has its own numbers,
//! which its thread alone changes; `metrics` adds them up when somebody asks.

use signalbox_protocol::Dialect;
use signalbox_service::metrics::Count;
use signalbox_transport::{ClosedBy, Closure, READER_TOO_SLOW};

/// Where replayed events come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The ring of recent events.
    Memory,
    /// The stream's history.
    Stream,
}

impl Source {
    /// Every source.
    pub(crate) const ALL: [Self; 2] = [Self::Memory, Self::Stream];

    /// How metrics write it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Stream => "stream",
        }
    }
}

/// Why a connection ended, as metrics tell it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The client closed it.
    Peer,
    /// The gateway closed it, for a reason of the client's making or at a stop.
    Gateway,
    /// The gateway closed it because the client reads too slowly.
    Slow,
    /// The network ended it.
    Network,
    /// The client fell silent.
    Silent,
}

impl End {
    /// Every end.
    pub(crate) const ALL: [Self; 5] = [
        Self::Peer,
        Self::Gateway,
        Self::Slow,
        Self::Network,
        Self::Silent,
    ];

    /// How metrics write it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Gateway => "gateway",
            Self::Slow => "slow_reader",
            Self::Network => "network",
            Self::Silent => "silence",
        }
    }

    /// The end that a closure is.
    fn of(closure: &Closure) -> Self {
        match closure.by {
            ClosedBy::Peer => Self::Peer,
            ClosedBy::Us if closure.reason == READER_TOO_SLOW => Self::Slow,
            ClosedBy::Us => Self::Gateway,
            ClosedBy::Network => Self::Network,
            ClosedBy::Timeout => Self::Silent,
        }
    }
}

/// The numbers of one shard. Its thread alone changes them.
#[derive(Debug, Default)]
pub(crate) struct ShardCounts {
    /// Connections now, by dialect.
    pub(crate) open: [Count; Dialect::ALL.len()],
    /// Connections since the start, by dialect.
    pub(crate) opened: [Count; Dialect::ALL.len()],
    /// Connections that ended, by [`End`].
    pub(crate) ended: [Count; End::ALL.len()],
    /// Subscriptions now.
    pub(crate) subscriptions: Count,
    /// Distinct filters now.
    pub(crate) filters: Count,
    /// Events in the ring.
    pub(crate) ring_events: Count,
    /// Bytes that the ring takes.
    pub(crate) ring_bytes: Count,
    /// Times that an event was for a connection.
    pub(crate) matched: Count,
    /// Times that a filter kept an event from a subscription.
    pub(crate) filtered: Count,
    /// Evaluations of a filter on an event.
    pub(crate) evaluated: Count,
    /// Events written in an encoding.
    pub(crate) encoded: Count,
    /// Frames that sockets took at once.
    pub(crate) written: Count,
    /// Frames that had to wait for a socket.
    pub(crate) queued: Count,
    /// Frames for connections that were closing or too slow.
    pub(crate) dropped: Count,
    /// Replays, by [`Source`]: how often a part of what was missed was sent.
    pub(crate) replays: [Count; Source::ALL.len()],
    /// Events sent in them, by [`Source`].
    pub(crate) replayed: [Count; Source::ALL.len()],
    /// Bytes that sockets took.
    pub(crate) bytes_sent: Count,
    /// Bytes that wait for sockets.
    pub(crate) queued_bytes: Count,
    /// Connections that something waits for.
    pub(crate) behind: Count,
    /// For how many milliseconds the longest of them has been so.
    pub(crate) queue_age_ms: Count,
}

impl ShardCounts {
    /// Notes a connection that came.
    pub(crate) fn enter(&self, dialect: Dialect) {
        self.open[dialect as usize].add_alone(1);
        self.opened[dialect as usize].add_alone(1);
    }

    /// Notes a connection that is gone.
    pub(crate) fn leave(&self, dialect: Dialect) {
        self.open[dialect as usize].take_alone(1);
    }

    /// Notes how a connection ended.
    pub(crate) fn note_end(&self, closure: &Closure) {
        self.note(End::of(closure));
    }

    /// Notes an end.
    pub(crate) fn note(&self, end: End) {
        self.ended[end as usize].add_alone(1);
    }

    /// Notes a part of a replay.
    pub(crate) fn note_replay(&self, source: Source, events: usize) {
        self.replays[source as usize].add_alone(1);
        self.replayed[source as usize].add_alone(events as u64);
    }
}

/// The numbers of the reader of the bus.
#[derive(Debug, Default)]
pub(crate) struct FeedCounts {
    /// Events read.
    pub(crate) received: Count,
    /// Of those, what this version does not know.
    pub(crate) skipped: Count,
    /// Events that are larger than they should be.
    pub(crate) large: Count,
    /// Messages that the stream had behind the last one read.
    pub(crate) lag: Count,
}

/// Connections refused before HTTP, by reason.
#[derive(Debug, Default)]
pub(crate) struct RefusalCounts {
    /// For want of room.
    pub(crate) full: Count,
    /// For the rate of their address.
    pub(crate) too_fast: Count,
    /// For the others of their address that have not authenticated.
    pub(crate) unauthenticated: Count,
}

/// Verdicts on credentials.
#[derive(Debug, Default)]
pub(crate) struct VerdictCounts {
    /// Good.
    pub(crate) accepted: Count,
    /// Not good.
    pub(crate) refused: Count,
    /// Nobody could tell.
    pub(crate) unavailable: Count,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_has_its_own_place() {
        for (place, end) in End::ALL.into_iter().enumerate() {
            assert_eq!(end as usize, place);
        }
        for (place, source) in Source::ALL.into_iter().enumerate() {
            assert_eq!(source as usize, place);
        }
        for (place, dialect) in Dialect::ALL.into_iter().enumerate() {
            assert_eq!(dialect as usize, place);
        }
    }

    #[test]
    fn a_slow_reader_is_told_from_others_that_are_sent_away() {
        let closure = |by, reason: &'static str| Closure {
            by,
            code: None,
            reason: reason.into(),
            clean: true,
        };
        let end = |by, reason| End::of(&closure(by, reason));
        assert_eq!(end(ClosedBy::Us, READER_TOO_SLOW), End::Slow);
        assert_eq!(end(ClosedBy::Us, "going away"), End::Gateway);
        // A client may write what it likes.
        assert_eq!(end(ClosedBy::Peer, READER_TOO_SLOW), End::Peer);
    }
}
