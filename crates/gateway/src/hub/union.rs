//! Events for members whose subscriptions with a channel in common are written
//! in different ways: one delivery has what all of them want.
//!
//! Whichever subscription brings an event brings it for every subscription
//! that its member has at that moment, live or catching up. One that begins
//! later and wants more of the event than was sent brings it once more, with
//! all that is wanted; nothing is lost, and the later frame has everything.

use std::collections::HashMap;
use std::sync::Arc;

use signalbox_protocol::cursor::Cursor;
use signalbox_transport::Frame;

use super::channels::Channels;
use super::event::HubEvent;
use super::intern::EncodingId;
use super::member::{MAX_MIXED, MemberId};
use super::{Encode, Hub, Sink, SubscriptionId};

#[cfg(test)]
mod tests;

impl<K: Encode, S: Sink> Hub<K, S> {
    /// Whether a member holds as many subscriptions to these channels as it may
    /// when they are written in different ways, as with one more in `encoding`.
    pub(crate) fn is_crowded(
        &self,
        member: MemberId,
        channels: impl Into<Channels>,
        encoding: &K,
    ) -> bool {
        let held = self.encodings_on(member, channels);
        let known = self.encodings.find(encoding);
        held.len() >= MAX_MIXED && held.iter().any(|(_, other)| known != Some(*other))
    }

    /// A member's subscriptions to any of these channels, with how each is
    /// written.
    pub(super) fn encodings_on(
        &self,
        member: MemberId,
        channels: impl Into<Channels>,
    ) -> Vec<(SubscriptionId, EncodingId)> {
        let channels = channels.into();
        let Some(member) = self.members.get(member) else {
            return Vec::new();
        };
        let held = member.subscriptions.iter().filter_map(|id| {
            let key = self.groups.key(self.subscription(*id)?.group);
            let shared = key.address.channels.overlaps(channels);
            shared.then_some((*id, key.encoding))
        });
        held.collect()
    }

    /// Replaces the frame that an event has been noted with by the one for all
    /// that its members' subscriptions want of it.
    pub(super) fn unite(&mut self, event: &Arc<HubEvent>, traced: bool) {
        let mut members = std::mem::take(&mut self.mixed);
        let mut by_parts: HashMap<Vec<EncodingId>, Option<u32>> = HashMap::new();
        let mut by_whole: HashMap<K, Option<u32>> = HashMap::new();
        for id in members.drain(..) {
            let parts = self.parts(id, event);
            if parts.len() < 2 {
                continue;
            }
            let frame = match by_parts.get(&parts) {
                Some(frame) => *frame,
                None => {
                    let whole = self.whole(&parts);
                    let frame = match whole.as_ref().and_then(|whole| by_whole.get(whole)) {
                        Some(frame) => *frame,
                        None => self.note_whole(event, whole.as_ref(), traced),
                    };
                    if let Some(whole) = whole {
                        by_whole.insert(whole, frame);
                    }
                    by_parts.insert(parts, frame);
                    frame
                }
            };
            if let Some(frame) = frame
                && let Some(noted) = self.members.get_mut(id)
                && let Some(last) = noted.pending.last_mut()
            {
                *last = frame;
            }
        }
        self.mixed = members;
    }

    /// Adds the frame of an event in `whole` to the batch.
    fn note_whole(
        &mut self,
        event: &Arc<HubEvent>,
        whole: Option<&K>,
        traced: bool,
    ) -> Option<u32> {
        let frame = self.encoded_as(event, whole?)?;
        let index = self.frames.len() as u32;
        self.frames.push(frame);
        if traced {
            self.owners.push(Arc::clone(event));
        }
        Some(index)
    }

    /// The encodings that a member's subscriptions want a new event in.
    fn parts(&mut self, member: MemberId, event: &Arc<HubEvent>) -> Vec<EncodingId> {
        let mut parts = Vec::new();
        for (id, encoding) in self.encodings_on(member, event.topic.channel) {
            let wants = self.subscription(id).is_some_and(|subscription| {
                !subscription.retired && subscription.start < event.sequence
            });
            if wants && !parts.contains(&encoding) && self.wants(id, event) {
                parts.push(encoding);
            }
        }
        parts.sort_unstable();
        parts
    }

    /// What a subscription that catches up has to bring of an event: all that
    /// is wanted of it, unless what was sent had that.
    pub(super) fn owed_of_union(
        &mut self,
        member: MemberId,
        event: &Arc<HubEvent>,
        out_of_turn: bool,
    ) -> Option<Frame> {
        let (mut passed, mut open) = (Vec::new(), Vec::new());
        for (id, encoding) in self.encodings_on(member, event.topic.channel) {
            let Some(subscription) = self.subscription(id) else {
                continue;
            };
            let (began, retired) = (subscription.start < event.sequence, subscription.retired);
            if !began || !self.wants(id, event) {
                continue;
            }
            if self.has_passed(id, event.sequence) {
                passed.push((id, encoding));
            } else if !retired {
                open.push((id, encoding));
            }
        }
        let (served, due): (Vec<_>, Vec<_>) = open.into_iter().partition(|(id, _)| {
            self.subscription(*id).is_some_and(|waiting| {
                passed
                    .iter()
                    .any(|(other, _)| !waiting.came_after(*other, event.sequence))
            })
        });
        if due.is_empty() {
            return None;
        }
        let encodings = |list: &[(SubscriptionId, EncodingId)]| {
            let mut ids: Vec<EncodingId> = list.iter().map(|(_, encoding)| *encoding).collect();
            ids.sort_unstable();
            ids.dedup();
            ids
        };
        let sent = encodings(&[passed, served].concat());
        let wanted = [sent.clone(), encodings(&due)].concat();
        let written = |whole: K| {
            if out_of_turn {
                whole.out_of_turn()
            } else {
                whole
            }
        };
        let (sent, wanted) = (self.whole(&sent).map(written), self.whole(&wanted)?);
        let frame = self.encoded_as(event, &written(wanted))?;
        let known = sent.and_then(|sent| self.encoded_as(event, &sent));
        let is_new = known.is_none_or(|known| known.as_bytes() != frame.as_bytes());
        is_new.then_some(frame)
    }

    /// What has all that these encodings have; `None` of none.
    fn whole(&self, parts: &[EncodingId]) -> Option<K> {
        let (first, rest) = parts.split_first()?;
        let first = self.encodings.encoder(*first).clone();
        Some(rest.iter().fold(first, |whole, part| {
            whole.union(self.encodings.encoder(*part))
        }))
    }

    /// The event's frame in an encoding that a subscription may or may not use.
    fn encoded_as(&mut self, event: &Arc<HubEvent>, encoder: &K) -> Option<Frame> {
        match self.encodings.find(encoder) {
            Some(id) => self.encoded(event, id),
            None => {
                let cursor = Cursor {
                    epoch: self.epoch,
                    sequence: event.sequence,
                };
                self.counts.encoded.add_alone(1);
                encoder.encode(event, cursor)
            }
        }
    }
}
