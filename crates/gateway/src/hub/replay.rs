//! Catching up: a subscription walks from its start to the live edge, through
//! the stream's history where memory does not reach, then through the ring.
//!
//! A subscription that catches up gets nothing live. It turns live in the same
//! step in which it reaches the hub's position, so there is no seam to merge.

use std::sync::Arc;

use signalbox_protocol::catalogue::Channel;
use signalbox_protocol::cursor::{Cursor, Epoch};
use signalbox_transport::Frame;

use super::event::HubEvent;
use super::member::{MAX_MIXED, MemberId};
use super::{Encode, FanOut, Hub, Sink, SubscriptionId};
use crate::counts::Source;

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

/// How far a subscription is after a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It has everything and goes on live.
    Live,
    /// There is more in memory: let the connection drain, then step again.
    More,
    /// Memory does not reach back far enough: read this, and hand it to
    /// [`Hub::replay`].
    Backlog(Backlog),
    /// It has seen more than this hub, from another gateway: step again when
    /// the hub has moved.
    Ahead,
    /// The subscription is over.
    Gone,
}

/// A part of the stream that a subscription needs from history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backlog {
    /// The life of the stream that the sequences belong to.
    pub(crate) epoch: Epoch,
    /// The channel.
    pub(crate) channel: Channel,
    /// Only this object.
    pub(crate) object: Option<String>,
    /// Events behind this sequence.
    pub(crate) after: u64,
    /// Up to and including this one.
    pub(crate) until: u64,
}

impl<K: Encode, S: Sink> Hub<K, S> {
    /// Takes a subscription one step towards the live edge.
    pub(crate) fn catch_up(&mut self, id: SubscriptionId) -> Progress {
        let Some(subscription) = self.subscription(id) else {
            return Progress::Gone;
        };
        if subscription.live.is_some() {
            return Progress::Live;
        }
        let cursor = subscription.cursor;
        if cursor > self.position {
            return Progress::Ahead;
        }
        if cursor < self.ring.floor() {
            let key = self.groups.key(subscription.group);
            return Progress::Backlog(Backlog {
                epoch: self.epoch,
                channel: key.channel,
                object: key.object.clone(),
                after: cursor,
                until: self.ring.floor(),
            });
        }
        let events = self.ring.behind(cursor, STEP_EVENTS);
        self.step(id, &events, Source::Memory);
        self.go_live_at_the_edge(id)
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
        if epoch != self.epoch {
            return events.len();
        }
        let taken = self.step(id, events, Source::Stream);
        if taken == events.len()
            && let Some(subscription) = self.subscriptions.get_mut(id.index)
            && subscription.serial == id.serial
        {
            subscription.cursor = subscription.cursor.max(covered);
        }
        taken
    }

    /// Sends what a subscription wants of these events and moves its cursor;
    /// returns how many were looked at.
    fn step(&mut self, id: SubscriptionId, events: &[Arc<HubEvent>], source: Source) -> usize {
        let Some(subscription) = self.subscription(id) else {
            return events.len();
        };
        let member = subscription.member;
        let mut cursor = subscription.cursor;
        let (mut frames, mut bytes, mut looked_at) = (Vec::new(), 0, 0);
        let most = self.affordable(member);
        for event in events.iter().take(most) {
            if frames.len() >= STEP_FRAMES || bytes >= STEP_BYTES {
                break;
            }
            looked_at += 1;
            if event.sequence <= cursor {
                continue;
            }
            cursor = event.sequence;
            if let Some(frame) = self.owed(id, member, event) {
                bytes += frame.len();
                frames.push(frame);
            }
        }
        if let Some(subscription) = self.subscriptions.get_mut(id.index) {
            subscription.cursor = cursor;
        }
        if !frames.is_empty() {
            self.counts.note_replay(source, frames.len());
            // Frames of the current batch were noted before; keep that order.
            self.flush_member(member, &mut FanOut::default());
            if let Some(member) = self.members.get(member.0) {
                // An overflow or a close is the session's to notice.
                let _sent = member.sink.send(frames.iter());
            }
        }
        looked_at
    }

    /// How many events one step may look at.
    fn affordable(&self, member: MemberId) -> usize {
        let questions = self.members.get(member.0).map_or(1, |member| {
            let among_mixed = if member.mixed {
                MAX_MIXED * MAX_MIXED
            } else {
                0
            };
            member.subscriptions.len() + among_mixed
        });
        (STEP_QUESTIONS / questions.max(1)).max(1)
    }

    /// The frame that a subscription is owed for an event, unless the event
    /// does not match or reached the connection through another subscription.
    fn owed(
        &mut self,
        id: SubscriptionId,
        member: MemberId,
        event: &Arc<HubEvent>,
    ) -> Option<Frame> {
        let frame = self.wanted(id, event)?;
        let held = self.members.get(member.0)?;
        if held.mixed {
            return self.owed_of_union(member, event);
        }
        let others = held.subscriptions.clone();
        let sent = others.into_iter().any(|other| {
            other != id
                && self.has_passed(other, event.sequence)
                && self.wanted(other, event).is_some()
        });
        (!sent).then_some(frame)
    }

    /// The frame of an event for a subscription, if it matches.
    pub(super) fn wanted(&mut self, id: SubscriptionId, event: &Arc<HubEvent>) -> Option<Frame> {
        let group = self.subscription(id)?.group;
        let key = self.groups.key(group);
        let addressed = key.channel == event.topic.channel
            && key
                .object
                .as_ref()
                .is_none_or(|object| event.topic.object.as_ref() == Some(object));
        if !addressed
            || key
                .filter
                .is_some_and(|filter| !self.filters.matches(filter, event))
        {
            return None;
        }
        let encoding = key.encoding;
        self.encoded(event, encoding)
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

    fn go_live_at_the_edge(&mut self, id: SubscriptionId) -> Progress {
        let Some(subscription) = self.subscription(id) else {
            return Progress::Gone;
        };
        let (member, group) = (subscription.member, subscription.group);
        // The newest event may be of a kind that the ring does not hold.
        let at_edge = self.ring.behind(subscription.cursor, 1).is_empty();
        if !at_edge {
            return Progress::More;
        }
        let filter = self.groups.key(group).filter;
        let filter = filter.map(|filter| self.filters.filter(filter));
        let place = self.groups.add(group, member, id, filter);
        let position = self.position;
        if let Some(subscription) = self.subscriptions.get_mut(id.index) {
            subscription.cursor = position;
            subscription.live = Some(place);
        }
        self.forget_predecessors(id);
        Progress::Live
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
