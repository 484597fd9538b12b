//! A connection as the hub sees it, and its subscriptions.

use slab::Slab;

use super::SubscriptionId;
use super::intern::EncodingId;

/// Pending frames that a member keeps room for once it has had as many.
pub(super) const PENDING_KEPT: usize = 32;

/// Replaced subscriptions that one may keep while it catches up.
pub(super) const MAX_PREDECESSORS: usize = 16;

/// Subscriptions with a channel in common that a member may hold when they are
/// written in different ways.
pub(super) const MAX_MIXED: usize = 32;

/// Names a connection within its hub; one that comes after it has another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct MemberId {
    /// Its place, which is another's once it has left.
    index: u32,
    serial: u32,
}

/// The connections of a hub.
pub(super) struct Members<S> {
    slab: Slab<Member<S>>,
    serial: u32,
}

impl<S> Members<S> {
    pub(super) const fn new() -> Self {
        Self {
            slab: Slab::new(),
            serial: 0,
        }
    }

    pub(super) fn insert(&mut self, sink: S) -> MemberId {
        self.serial = self.serial.wrapping_add(1);
        let serial = self.serial;
        let index = self.slab.insert(Member::new(sink, serial)) as u32;
        MemberId { index, serial }
    }

    pub(super) fn remove(&mut self, id: MemberId) -> Option<Member<S>> {
        self.get(id)?;
        self.slab.try_remove(id.index as usize)
    }

    pub(super) fn get(&self, id: MemberId) -> Option<&Member<S>> {
        let found = self.slab.get(id.index as usize);
        found.filter(|member| member.serial == id.serial)
    }

    pub(super) fn get_mut(&mut self, id: MemberId) -> Option<&mut Member<S>> {
        let found = self.slab.get_mut(id.index as usize);
        found.filter(|member| member.serial == id.serial)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Member<S>> {
        self.slab.iter_mut().map(|(_, member)| member)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }
}

/// One connection.
pub(super) struct Member<S> {
    serial: u32,
    pub(super) sink: S,
    /// The last event noted for it live; keeps an event that matches several
    /// subscriptions from being sent twice.
    pub(super) last: u64,
    /// Its frames of the current batch, as indices into the hub's list.
    pub(super) pending: Vec<u32>,
    pub(super) subscriptions: Vec<SubscriptionId>,
    /// Whether subscriptions with a channel in common were ever written in
    /// different ways, so that an event may have to be written for several.
    pub(super) mixed: bool,
}

impl<S> Member<S> {
    const fn new(sink: S, serial: u32) -> Self {
        Self {
            serial,
            sink,
            last: 0,
            pending: Vec::new(),
            subscriptions: Vec::new(),
            mixed: false,
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
    /// How its events are written while it catches up alone; known from the
    /// first of them on.
    pub(super) out_of_turn: Option<EncodingId>,
    /// Those that it replaced, kept until it is live for what they brought.
    pub(super) predecessors: Vec<SubscriptionId>,
    /// Whether it was replaced, and is kept only for what it brought.
    pub(super) retired: bool,
    /// Up to where those subscriptions of its member and channels that are
    /// written in other ways were when it began: up to there they were sent
    /// without regard to it.
    pub(super) before: Vec<(SubscriptionId, u64)>,
}

impl Subscription {
    /// Whether `other` brought an event without regard to this one.
    pub(super) fn came_after(&self, other: SubscriptionId, sequence: u64) -> bool {
        self.before
            .iter()
            .any(|(id, reached)| *id == other && sequence <= *reached)
    }
}
