//! A connection as the hub sees it, and its subscriptions.

use super::SubscriptionId;

/// Pending frames that an idle member keeps room for.
pub(super) const PENDING_KEPT: usize = 4;

/// Replaced subscriptions that one may keep while it catches up.
pub(super) const MAX_PREDECESSORS: usize = 16;

/// Names a connection within its hub, until it leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct MemberId(pub(super) usize);

/// One connection.
pub(super) struct Member<S> {
    pub(super) sink: S,
    /// The last event noted for it live; keeps an event that matches several
    /// subscriptions from being sent twice.
    pub(super) last: u64,
    /// Its frames of the current batch, as indices into the hub's list.
    pub(super) pending: Vec<u32>,
    pub(super) subscriptions: Vec<SubscriptionId>,
}

impl<S> Member<S> {
    pub(super) fn new(sink: S) -> Self {
        Self {
            sink,
            last: 0,
            pending: Vec::new(),
            subscriptions: Vec::new(),
        }
    }
}

/// One subscription.
pub(super) struct Subscription {
    pub(super) serial: u64,
    pub(super) member: MemberId,
    pub(super) group: usize,
    /// It wants everything behind this sequence.
    pub(super) start: u64,
    /// How far it got, while it is catching up.
    pub(super) cursor: u64,
    /// Its place in the group's walk, once it is live.
    pub(super) live: Option<usize>,
    /// Those that it replaced, kept until it is live for what they brought.
    pub(super) predecessors: Vec<SubscriptionId>,
}
