//! Catching up: subscriptions walk from their starts to the live edge, through
//! the stream's history where memory does not reach, then through the ring.
//!
//! A subscription that catches up gets nothing live. It turns live in the same
//! step in which it reaches the hub's position, so there is no seam to merge.
//!
//! Subscriptions of one member can do that together, as one walk in stream
//! order that ends for all of them at once: for clients that have one place in
//! the stream and not one for each subscription.

use std::collections::HashMap;
use std::sync::Arc;

use signalbox_protocol::cursor::{Cursor, Epoch};
use signalbox_transport::Frame;

use super::event::HubEvent;
use super::intern::EncodingId;
use super::member::{MAX_MIXED, MemberId};
use super::selection::Address;
use super::{Encode, FanOut, Hub, Sink, SubscriptionId};
use crate::counts::Source;

#[cfg(test)]
mod tests;

/// Events that one step looks at.
const STEP_EVENTS: usize = 512;
/// Frames that one step sends; a good part of what an idle connection may
/// have queued.
const STEP_FRAMES: usize = 128;
/// Bytes that one step sends, but for the last frame.
const STEP_BYTES: usize = 128 * 1024;
/// Questions that one step asks about what the connection's other
/// subscriptions brought, but for its first event.
const STEP_QUESTIONS: usize = 64 * 1024;

/// How far subscriptions are after a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// They have everything and go on live.
    Live,
    /// There is more in memory: let the connection drain, then step again.
    More,
    /// Memory does not reach back far enough: read these, and hand what they
    /// have in stream order to [`Hub::replay`] or [`Hub::replay_together`].
    /// Never none, and no two with the same address.
    Backlog(Vec<Backlog>),
    /// They have seen more than this hub, from another gateway: step again
    /// when the hub has moved.
    Ahead,
    /// The subscriptions are over.
    Gone,
}

/// A part of the stream that subscriptions need from history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backlog {
    /// The life of the stream that the sequences belong to.
    pub(crate) epoch: Epoch,
    /// To whom its events are addressed.
    pub(crate) address: Address,
    /// Events behind this sequence.
    pub(crate) after: u64,
    /// Up to and including this one.
    pub(crate) until: u64,
}

/// How replayed events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// As live ones: nothing of the connection is ahead of them.
    InTurn,
    /// As [`Encode::out_of_turn`] has it.
    OutOfTurn,
}

impl<K: Encode, S: Sink> Hub<K, S> {
    /// Takes a subscription one step towards the live edge, on its own: others
    /// of the connection may be ahead of it.
    pub(crate) fn catch_up(&mut self, id: SubscriptionId) -> Progress {
        self.advance(&[id], Manner::OutOfTurn)
    }

    /// Takes subscriptions of one member one step towards the live edge, as one
    /// walk in stream order: an event that several of them want comes once,
    /// each wants those behind its own start, and all turn live in the same
    /// step. Those that are live already, or over, are left alone.
    pub(crate) fn catch_up_together(&mut self, ids: &[SubscriptionId]) -> Progress {
        self.advance(ids, Manner::InTurn)
    }

    fn advance(&mut self, ids: &[SubscriptionId], manner: Manner) -> Progress {
        let waiting = self.waiting(ids);
        let cursors = waiting.iter().filter_map(|id| self.subscription(*id));
        let cursors: Vec<u64> = cursors.map(|subscription| subscription.cursor).collect();
        let (Some(first), Some(last)) = (cursors.iter().min(), cursors.iter().max()) else {
            let is_over = ids.iter().all(|id| self.subscription(*id).is_none());
            return if is_over {
                Progress::Gone
            } else {
                Progress::Live
            };
        };
        if *first < self.ring.floor() {
            return Progress::Backlog(self.backlogs(&waiting));
        }
        // Behind the position there may still be events for some of them.
        let events = self.ring.behind(*first, STEP_EVENTS);
        self.step(&waiting, &events, manner, Source::Memory);
        if !self.is_at_edge(&waiting) {
            return Progress::More;
        }
        if *last > self.position {
            self.move_to(&waiting, self.position);
            return Progress::Ahead;
        }
        for id in waiting {
            self.go_live(id);
        }
        Progress::Live
    }

    /// Hands history of the life `epoch` to a subscription: `events` are all
    /// there is for it behind its cursor up to and including `covered`.
    /// Returns how many of them were taken; the rest has to be handed over
    /// again once the connection has drained.
    pub(crate) fn replay(
        &mut self,
        id: SubscriptionId,
        epoch: Epoch,
        events: &[Arc<HubEvent>],
        covered: u64,
    ) -> usize {
        self.hand_over(&[id], epoch, events, covered, Manner::OutOfTurn)
    }

    /// As [`Hub::replay`], for subscriptions that catch up together: `events`
    /// are all there is for any of them, in stream order and each once.
    pub(crate) fn replay_together(
        &mut self,
        ids: &[SubscriptionId],
        epoch: Epoch,
        events: &[Arc<HubEvent>],
        covered: u64,
    ) -> usize {
        self.hand_over(ids, epoch, events, covered, Manner::InTurn)
    }

    fn hand_over(
        &mut self,
        ids: &[SubscriptionId],
        epoch: Epoch,
        events: &[Arc<HubEvent>],
        covered: u64,
        manner: Manner,
    ) -> usize {
        if epoch != self.epoch {
            return events.len();
        }
        let waiting = self.waiting(ids);
        let taken = self.step(&waiting, events, manner, Source::Stream);
        if taken == events.len() {
            self.move_to(&waiting, covered);
        }
        taken
    }

    /// Those of some subscriptions that are not live yet.
    fn waiting(&self, ids: &[SubscriptionId]) -> Vec<SubscriptionId> {
        let is_waiting = |id: &SubscriptionId| {
            self.subscription(*id)
                .is_some_and(|subscription| subscription.live.is_none())
        };
        ids.iter().copied().filter(is_waiting).collect()
    }

    /// What subscriptions need from history, by address.
    fn backlogs(&self, ids: &[SubscriptionId]) -> Vec<Backlog> {
        let mut backlogs: Vec<Backlog> = Vec::new();
        let mut known: HashMap<&Address, usize> = HashMap::new();
        let until = self.ring.floor();
        for id in ids {
            let Some(subscription) = self.subscription(*id) else {
                continue;
            };
            let after = subscription.cursor;
            if after >= until {
                continue;
            }
            let address = &self.groups.key(subscription.group).address;
            if let Some(backlog) = known.get(address).and_then(|at| backlogs.get_mut(*at)) {
                backlog.after = backlog.after.min(after);
                continue;
            }
            known.insert(address, backlogs.len());
            backlogs.push(Backlog {
                epoch: self.epoch,
                address: address.clone(),
                after,
                until,
            });
        }
        backlogs
    }

    /// Moves the cursors of subscriptions up to a sequence.
    fn move_to(&mut self, ids: &[SubscriptionId], sequence: u64) {
        for id in ids {
            if let Some(subscription) = self.subscriptions.get_mut(id.index)
                && subscription.serial == id.serial
            {
                subscription.cursor = subscription.cursor.max(sequence);
            }
        }
    }

    /// Sends what subscriptions of one member want of these events and moves
    /// their cursors; returns how many were looked at.
    fn step(
        &mut self,
        ids: &[SubscriptionId],
        events: &[Arc<HubEvent>],
        manner: Manner,
        source: Source,
    ) -> usize {
        let Some(first) = ids.first().and_then(|id| self.subscription(*id)) else {
            return events.len();
        };
        let member = first.member;
        let (mut frames, mut bytes, mut looked_at) = (Vec::new(), 0, 0_usize);
        let most = self.affordable(member);
        for event in events.iter().take(most) {
            if frames.len() >= STEP_FRAMES || bytes >= STEP_BYTES {
                break;
            }
            looked_at += 1;
            if let Some(frame) = self.owed(ids, member, event, manner) {
                bytes += frame.len();
                frames.push(frame);
            }
        }
        if let Some(last) = looked_at.checked_sub(1).and_then(|last| events.get(last)) {
            self.move_to(ids, last.sequence);
        }
        if !frames.is_empty() {
            self.counts.note_replay(source, frames.len());
            // Frames of the current batch were noted before; keep that order.
            self.flush_member(member, &mut FanOut::default());
            if let Some(member) = self.members.get(member) {
                // An overflow or a close is the session's to notice.
                let _sent = member.sink.send(frames.iter());
            }
        }
        looked_at
    }

    /// How many events one step may look at.
    fn affordable(&self, member: MemberId) -> usize {
        let questions = self.members.get(member).map_or(1, |member| {
            let among_mixed = if member.mixed {
                MAX_MIXED * MAX_MIXED
            } else {
                0
            };
            member.subscriptions.len() + among_mixed
        });
        (STEP_QUESTIONS / questions.max(1)).max(1)
    }

    /// The frame that subscriptions which catch up are owed for an event,
    /// unless none of them wants it or it reached the connection through
    /// another.
    fn owed(
        &mut self,
        ids: &[SubscriptionId],
        member: MemberId,
        event: &Arc<HubEvent>,
        manner: Manner,
    ) -> Option<Frame> {
        let is_mixed = self.members.get(member)?.mixed;
        let wanting = ids.iter().copied().find(|id| {
            let is_next = self
                .subscription(*id)
                .is_some_and(|subscription| subscription.cursor < event.sequence);
            // In one way of writing it there is something to say or not,
            // whoever asks.
            is_next
                && if is_mixed {
                    self.wants(*id, event)
                } else {
                    self.matches(*id, event)
                }
        })?;
        if is_mixed {
            return self.owed_of_union(member, event, manner == Manner::OutOfTurn);
        }
        let others = self.members.get(member)?.subscriptions.clone();
        let sent = others
            .into_iter()
            .any(|other| self.has_passed(other, event.sequence) && self.matches(other, event));
        if sent {
            return None;
        }
        let encoding = match manner {
            Manner::InTurn => self.encoding_of(wanting)?,
            Manner::OutOfTurn => self.out_of_turn(wanting)?,
        };
        self.encoded(event, encoding)
    }

    fn encoding_of(&self, id: SubscriptionId) -> Option<EncodingId> {
        let group = self.subscription(id)?.group;
        Some(self.groups.key(group).encoding)
    }

    /// How a subscription's events are written while it catches up alone.
    fn out_of_turn(&mut self, id: SubscriptionId) -> Option<EncodingId> {
        let in_turn = self.encoding_of(id)?;
        let subscription = self.subscriptions.get_mut(id.index)?;
        if subscription.out_of_turn.is_none() {
            let other = self.encodings.encoder(in_turn).out_of_turn();
            subscription.out_of_turn = Some(self.encodings.intern(&other));
        }
        subscription.out_of_turn
    }

    /// Whether an event is addressed to a subscription and passes its filter.
    fn matches(&mut self, id: SubscriptionId, event: &Arc<HubEvent>) -> bool {
        let Some(subscription) = self.subscription(id) else {
            return false;
        };
        let key = self.groups.key(subscription.group);
        key.address.covers(&event.topic)
            && key
                .filter
                .is_none_or(|filter| self.filters.matches(filter, event))
    }

    /// Whether an event matches a subscription, which has something to say of
    /// it.
    pub(super) fn wants(&mut self, id: SubscriptionId, event: &Arc<HubEvent>) -> bool {
        self.matches(id, event)
            && self
                .encoding_of(id)
                .is_some_and(|encoding| self.encoded(event, encoding).is_some())
    }

    /// Whether a subscription has been given its part of the stream up to and
    /// including `sequence`, beginning before it.
    pub(super) fn has_passed(&self, id: SubscriptionId, sequence: u64) -> bool {
        self.subscription(id).is_some_and(|subscription| {
            let reached = if subscription.live.is_some() {
                self.position
            } else {
                subscription.cursor
            };
            subscription.start < sequence && sequence <= reached
        })
    }

    /// Whether memory has nothing more for these subscriptions.
    fn is_at_edge(&self, ids: &[SubscriptionId]) -> bool {
        let cursors = ids.iter().filter_map(|id| self.subscription(*id));
        let least = cursors.map(|subscription| subscription.cursor).min();
        // The newest event may be of a kind that the ring does not hold.
        least.is_none_or(|least| self.ring.behind(least, 1).is_empty())
    }

    fn go_live(&mut self, id: SubscriptionId) {
        let Some(subscription) = self.subscription(id) else {
            return;
        };
        let (member, group) = (subscription.member, subscription.group);
        let filter = self.groups.key(group).filter;
        let filter = filter.map(|filter| self.filters.filter(filter));
        let place = self.groups.add(group, member, id, filter);
        let position = self.position;
        if let Some(subscription) = self.subscriptions.get_mut(id.index) {
            subscription.cursor = position;
            subscription.live = Some(place);
            if let Some(encoding) = subscription.out_of_turn.take() {
                self.encodings.release(encoding);
            }
        }
        self.forget_predecessors(id);
    }

    /// Where a subscription stands: everything behind it will still come.
    pub(crate) fn cursor_of(&self, id: SubscriptionId) -> Cursor {
        let sequence = match self.subscription(id) {
            Some(subscription) if subscription.live.is_none() => subscription.cursor,
            _ => self.position,
        };
        Cursor {
            epoch: self.epoch,
            sequence,
        }
    }
}
