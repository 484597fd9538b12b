//! The hub: who wants which events, and handing each event to exactly those.
//!
//! One hub belongs to one shard and to one thread. It names no socket, no bus
//! and no dialect: a connection is a [`Sink`], an encoding is an
//! [`Encode`]r that compares equal to others of its kind, and events come in
//! batches. Its promises:
//!
//! - A subscription gets the events behind its start in stream order, each
//!   once, first from history and then live, without a seam.
//! - An event reaches a connection once, however many of its subscriptions
//!   match, with all that they want of it. Only a subscription that begins
//!   after the event was sent and wants more of it brings it once more.
//! - Equal filters are evaluated once per event, equal encodings are encoded
//!   once per event, and an event costs what it touches, not what exists.

mod channels;
mod event;
mod filter;
mod group;
mod index;
mod intern;
mod member;
mod replace;
mod replay;
mod ring;
mod selection;
mod tally;
#[cfg(test)]
mod tests;
mod union;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use signalbox_protocol::cursor::{Cursor, Epoch};
use signalbox_transport::{Frame, Outbound, Sent};
use slab::Slab;
use tokio::sync::Notify;

pub(crate) use self::channels::Channels;
pub(crate) use self::event::{EventTrace, HubEvent};
pub(crate) use self::filter::{Clause, Compare, Filter, Scalar};
use self::group::Groups;
use self::intern::{EncodingId, Encodings, Filters};
pub(crate) use self::member::MemberId;
use self::member::{Members, Subscription};
pub(crate) use self::replay::{Backlog, Progress};
use self::ring::Ring;
pub(crate) use self::ring::RingLimits;
pub(crate) use self::selection::{Address, Selection};
pub(crate) use self::tally::Tally;

use crate::counts::ShardCounts;

/// The way out of a connection.
pub(crate) trait Sink {
    /// Sends frames in this order, without waiting.
    fn send<'a>(&self, frames: impl Iterator<Item = &'a Frame> + Clone) -> Sent;

    /// For how long something has been waiting to be sent.
    fn queue_age(&self) -> Option<Duration> {
        None
    }
}

impl Sink for Outbound {
    fn send<'a>(&self, frames: impl Iterator<Item = &'a Frame> + Clone) -> Sent {
        Self::send(self, frames)
    }

    fn queue_age(&self) -> Option<Duration> {
        Self::queue_age(self)
    }
}

/// How an event is written for some connections. Equal values write equally.
pub(crate) trait Encode: Clone + Eq + std::hash::Hash {
    /// The frame for an event; `None` when nothing of it is wanted.
    fn encode(&self, event: &HubEvent, cursor: Cursor) -> Option<Frame>;

    /// What writes all that this one and `other` write. The order makes no
    /// difference, nor do repeats.
    fn union(&self, other: &Self) -> Self;

    /// What writes the same events while they are replayed for one
    /// subscription of a connection whose others may be ahead of it: for a
    /// protocol whose clients take the last event that came for their place in
    /// the stream.
    fn out_of_turn(&self) -> Self {
        self.clone()
    }
}

/// Names a subscription of a member; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SubscriptionId {
    index: usize,
    serial: u64,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FanOut {
    /// Frames that sockets took at once.
    pub(crate) written: usize,
    /// Frames that wait for a socket.
    pub(crate) queued: usize,
    /// Frames for connections that are closing or too slow.
    pub(crate) dropped: usize,
}

/// The subscriptions of one shard and the recent events.
pub(crate) struct Hub<K, S> {
    epoch: Epoch,
    /// The last stream sequence handed to [`Hub::publish`].
    position: u64,
    ring: Ring,
    members: Members<S>,
    subscriptions: Slab<Subscription>,
    groups: Groups,
    filters: Filters,
    encodings: Encodings<K>,
    serial: u64,
    /// The frames of the batch that is being handed out.
    frames: Vec<Frame>,
    /// The events of these frames, where some are traced.
    owners: Vec<Arc<HubEvent>>,
    counts: Arc<ShardCounts>,
    /// Members that have frames of it pending.
    touched: Vec<MemberId>,
    /// Groups that an event reaches; kept for its capacity.
    reached: Vec<usize>,
    /// Members that an event was noted with and that may want it written in
    /// several ways.
    mixed: Vec<MemberId>,
    /// Woken when the position moves.
    moved: Rc<Notify>,
}

impl<K: Encode, S: Sink> Hub<K, S> {
    /// A hub that has seen the stream's life `epoch` up to `position`.
    pub(crate) fn new(epoch: Epoch, position: u64, limits: RingLimits) -> Self {
        Self {
            epoch,
            position,
            ring: Ring::new(position, limits),
            members: Members::new(),
            subscriptions: Slab::new(),
            groups: Groups::default(),
            filters: Filters::default(),
            encodings: Encodings::default(),
            serial: 0,
            frames: Vec::new(),
            owners: Vec::new(),
            counts: Arc::default(),
            touched: Vec::new(),
            reached: Vec::new(),
            mixed: Vec::new(),
            moved: Rc::new(Notify::new()),
        }
    }

    /// The same, with its numbers kept there.
    pub(crate) fn counted_in(mut self, counts: Arc<ShardCounts>) -> Self {
        self.counts = counts;
        self
    }

    /// Notes how much there is.
    pub(crate) fn measure(&self) {
        let (events, bytes) = self.ring.size();
        self.counts.ring_events.set(events as u64);
        self.counts.ring_bytes.set(bytes as u64);
        self.counts
            .subscriptions
            .set(self.subscriptions.len() as u64);
        self.counts.filters.set(self.filters.len() as u64);
        self.counts.evaluated.set(self.filters.evaluations());
    }

    /// Puts events of the time before into memory: everything behind `floor`,
    /// up to the position. Before the first connection.
    pub(crate) fn remember(&mut self, events: &[Arc<HubEvent>], floor: u64) {
        self.ring.clear(floor);
        for event in events {
            self.ring.push(Arc::clone(event));
        }
    }

    /// Where the hub stands.
    pub(crate) fn cursor(&self) -> Cursor {
        Cursor {
            epoch: self.epoch,
            sequence: self.position,
        }
    }

    /// Whether everything behind `sequence` is in memory.
    pub(crate) fn remembers(&self, sequence: u64) -> bool {
        sequence >= self.ring.floor()
    }

    /// Starts over in another life of the stream. Live subscriptions go on
    /// with its first event.
    pub(crate) fn restart(&mut self, epoch: Epoch, position: u64) {
        while self.flush(usize::MAX).1 {}
        self.epoch = epoch;
        self.position = position;
        self.ring.clear(position);
        self.filters.forget_verdicts();
        for member in self.members.iter_mut() {
            member.last = position;
        }
        for (_, subscription) in &mut self.subscriptions {
            subscription.start = position;
            subscription.cursor = position;
            subscription.before.clear();
        }
    }

    /// Adds a connection.
    pub(crate) fn join(&mut self, sink: S) -> MemberId {
        self.members.insert(sink)
    }

    /// Removes a connection and its subscriptions.
    pub(crate) fn leave(&mut self, member: MemberId) {
        let Some(mut left) = self.members.remove(member) else {
            return;
        };
        for id in std::mem::take(&mut left.subscriptions) {
            self.drop_subscription(id);
        }
        self.touched.retain(|touched| *touched != member);
    }

    /// Adds a subscription that wants everything behind `start`, `None` for
    /// what comes from now on. It gets nothing before [`Hub::catch_up`]; for a
    /// member that has left it is over already.
    pub(crate) fn subscribe(
        &mut self,
        member: MemberId,
        selection: Selection,
        encoding: &K,
        start: Option<u64>,
    ) -> SubscriptionId {
        self.serial += 1;
        let serial = self.serial;
        if self.members.get(member).is_none() {
            let index = usize::MAX;
            return SubscriptionId { index, serial };
        }
        let start = start.unwrap_or(self.position);
        let Selection {
            channels,
            object,
            audience,
            filter,
        } = selection;
        let filter = filter.map(|filter| self.filters.intern(filter));
        let encoding = self.encodings.intern(encoding);
        let others = self.encodings_on(member, channels);
        let before: Vec<_> = others
            .into_iter()
            .filter(|(_, other)| *other != encoding)
            .map(|(id, _)| (id, self.cursor_of(id).sequence))
            .collect();
        let group = self.groups.intern(group::Key {
            address: Address {
                channels,
                object,
                audience,
            },
            filter,
            encoding,
        });
        let index = self.subscriptions.insert(Subscription {
            serial,
            member,
            group,
            start,
            cursor: start,
            live: None,
            out_of_turn: None,
            predecessors: Vec::new(),
            retired: false,
            before: Vec::new(),
        });
        let id = SubscriptionId { index, serial };
        if let Some(member) = self.members.get_mut(member) {
            member.subscriptions.push(id);
            member.mixed |= !before.is_empty();
        }
        self.subscriptions[index].before = before;
        id
    }

    /// Filters that were evaluated since the start.
    pub(crate) fn evaluations(&self) -> u64 {
        self.filters.evaluations()
    }

    /// Ends a subscription. Frames on their way still arrive.
    pub(crate) fn unsubscribe(&mut self, id: SubscriptionId) {
        let Some(subscription) = self.subscription(id) else {
            return;
        };
        let member = subscription.member;
        self.forget_predecessors(id);
        if let Some(member) = self.members.get_mut(member) {
            member.subscriptions.retain(|other| *other != id);
        }
        self.drop_subscription(id);
    }

    /// Drops what a subscription replaced.
    fn forget_predecessors(&mut self, id: SubscriptionId) {
        let Some(subscription) = self.subscriptions.get_mut(id.index) else {
            return;
        };
        for predecessor in std::mem::take(&mut subscription.predecessors) {
            self.unsubscribe(predecessor);
        }
    }

    fn drop_subscription(&mut self, id: SubscriptionId) {
        if self.subscription(id).is_none() {
            return;
        }
        self.detach(id);
        let subscription = self.subscriptions.remove(id.index);
        if let Some(encoding) = subscription.out_of_turn {
            self.encodings.release(encoding);
        }
        let key = self.groups.release(subscription.group);
        if let Some(filter) = key.filter {
            self.filters.release(filter);
        }
        self.encodings.release(key.encoding);
    }

    /// Takes a live subscription out of its group's walk.
    fn detach(&mut self, id: SubscriptionId) {
        let Some(subscription) = self.subscriptions.get_mut(id.index) else {
            return;
        };
        let Some(place) = subscription.live.take() else {
            return;
        };
        let moved = self.groups.remove(subscription.group, place);
        if let Some(moved) = moved.and_then(|moved| self.subscriptions.get_mut(moved.index)) {
            moved.live = Some(place);
        }
    }

    fn subscription(&self, id: SubscriptionId) -> Option<&Subscription> {
        self.subscriptions
            .get(id.index)
            .filter(|found| found.serial == id.serial)
    }

    /// Takes in a batch in stream order and notes who gets what;
    /// [`Hub::flush`] sends it.
    /// `position` is where the batch ends in the stream, at or behind its last
    /// event.
    pub(crate) fn publish(&mut self, batch: &[Arc<HubEvent>], position: u64) {
        self.frames.clear();
        self.owners.clear();
        let traced = batch.iter().any(|event| event.tally().is_some());
        for event in batch {
            self.ring.push(Arc::clone(event));
            self.fan_out(event, traced);
        }
        self.counts.evaluated.set(self.filters.evaluations());
        self.position = position;
        self.moved.notify_waiters();
    }

    /// Woken whenever the position has moved.
    pub(crate) fn moved(&self) -> Rc<Notify> {
        Rc::clone(&self.moved)
    }

    /// Notes one event's frame with every member that it is for.
    fn fan_out(&mut self, event: &Arc<HubEvent>, traced: bool) {
        let (mut matched, mut filtered) = (0, 0);
        let mut reached = std::mem::take(&mut self.reached);
        self.groups.reached_by(event, &mut reached);
        // Those whose filter it does not even touch.
        filtered += self.groups.missed_by(event, &reached);
        for &group in &reached {
            let key = self.groups.key(group);
            if !key.address.covers(&event.topic) {
                continue;
            }
            if key
                .filter
                .is_some_and(|filter| !self.filters.matches(filter, event))
            {
                filtered += self.groups.walk(group).len() as u64;
                continue;
            }
            let encoding = key.encoding;
            let Some(frame) = self.encoded(event, encoding) else {
                continue;
            };
            let index = self.frames.len();
            self.frames.push(frame);
            if traced {
                self.owners.push(Arc::clone(event));
            }
            for &(member_id, _) in self.groups.walk(group) {
                let Some(member) = self.members.get_mut(member_id) else {
                    continue;
                };
                if member.last == event.sequence {
                    continue;
                }
                member.last = event.sequence;
                matched += 1;
                if member.mixed {
                    self.mixed.push(member_id);
                }
                if member.pending.is_empty() {
                    self.touched.push(member_id);
                }
                member.pending.push(index as u32);
            }
        }
        self.reached = reached;
        if !self.mixed.is_empty() {
            self.unite(event, traced);
        }
        self.counts.matched.add_alone(matched);
        self.counts.filtered.add_alone(filtered);
        if let Some(tally) = event.tally() {
            tally.matched.add(matched);
            tally.filtered.add(filtered);
        }
    }

    /// The event's frame in an encoding, made once.
    fn encoded(&mut self, event: &HubEvent, encoding: EncodingId) -> Option<Frame> {
        let cursor = Cursor {
            epoch: self.epoch,
            sequence: event.sequence,
        };
        let encoder = self.encodings.encoder(encoding);
        let encode = || {
            self.counts.encoded.add_alone(1);
            encoder.encode(event, cursor)
        };
        self.ring
            .frame(event.sequence, encoding, encode)
            .unwrap_or_else(encode)
    }

    /// Sends what is pending to up to `most` members, one write each; also
    /// tells whether members are left.
    pub(crate) fn flush(&mut self, most: usize) -> (FanOut, bool) {
        let mut outcome = FanOut::default();
        for _ in 0..most {
            let Some(member) = self.touched.pop() else {
                return (outcome, false);
            };
            self.flush_member(member, &mut outcome);
        }
        (outcome, !self.touched.is_empty())
    }

    fn flush_member(&mut self, id: MemberId, outcome: &mut FanOut) {
        let Some(member) = self.members.get_mut(id) else {
            return;
        };
        if member.pending.is_empty() {
            return;
        }
        let frames = &self.frames;
        let count = member.pending.len();
        let sent = member
            .sink
            .send(member.pending.iter().map(|&index| &frames[index as usize]));
        if !self.owners.is_empty() {
            let behind = member.sink.queue_age();
            let owners = member.pending.iter();
            owners
                .filter_map(|&index| self.owners.get(index as usize)?.tally())
                .for_each(|tally| tally.sent(sent, behind));
        }
        match sent {
            Sent::Written => outcome.written += count,
            Sent::Queued => outcome.queued += count,
            Sent::Overflow | Sent::Closed => outcome.dropped += count,
        }
        member.pending.clear();
        member.pending.shrink_to(member::PENDING_KEPT);
    }

    /// Sends what a member has pending ahead of something else for it.
    pub(crate) fn settle(&mut self, member: MemberId) {
        self.flush_member(member, &mut FanOut::default());
    }
}
