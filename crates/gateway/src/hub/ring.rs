//! Recent events in memory, from which nearly every returning client is
//! served. Bounded by age and by bytes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use signalbox_transport::Frame;

use super::event::HubEvent;
use super::intern::EncodingId;

/// How much a ring remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RingLimits {
    /// For how long.
    pub(crate) age: Duration,
    /// How many bytes, by the events' own estimate and their frames.
    pub(crate) bytes: usize,
}

impl Default for RingLimits {
    fn default() -> Self {
        Self {
            age: Duration::from_secs(60),
            bytes: 64 * 1024 * 1024,
        }
    }
}

/// Encodings that an event is remembered in; in others it is written each time.
/// Clients have a say in how many there are, and must not have one in how far
/// back the ring reaches.
const FRAMES_KEPT: usize = 8;

/// Recent events in stream order.
pub(super) struct Ring {
    limits: RingLimits,
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Every event behind this sequence is here.
    floor: u64,
}

struct Entry {
    event: Arc<HubEvent>,
    since: Instant,
    /// The event in some encodings; `None` where one wants nothing.
    frames: Vec<(EncodingId, Option<Frame>)>,
}

impl Ring {
    pub(super) fn new(floor: u64, limits: RingLimits) -> Self {
        Self {
            limits,
            entries: VecDeque::new(),
            bytes: 0,
            floor,
        }
    }

    pub(super) const fn floor(&self) -> u64 {
        self.floor
    }

    /// How many events there are, and about how many bytes they take.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.entries.len(), self.bytes)
    }

    pub(super) fn clear(&mut self, floor: u64) {
        self.entries.clear();
        self.bytes = 0;
        self.floor = floor;
    }

    pub(super) fn push(&mut self, event: Arc<HubEvent>) {
        let now = Instant::now();
        self.bytes += event.weight;
        self.entries.push_back(Entry {
            event,
            since: now,
            frames: Vec::new(),
        });
        while self.is_over(now) {
            let Some(entry) = self.entries.pop_front() else {
                break;
            };
            self.bytes = self.bytes.saturating_sub(entry.weight());
            self.floor = entry.event.sequence;
        }
    }

    /// Whether the oldest event is too much. The newest always stays: its
    /// frames are about to be made.
    fn is_over(&self, now: Instant) -> bool {
        self.entries.len() > 1
            && self.entries.front().is_some_and(|oldest| {
                self.bytes > self.limits.bytes || now.duration_since(oldest.since) > self.limits.age
            })
    }

    /// The event's frame in an encoding, remembered or made now; the outer
    /// `None` when the event is not here.
    pub(super) fn frame(
        &mut self,
        sequence: u64,
        encoding: EncodingId,
        encode: impl FnOnce() -> Option<Frame>,
    ) -> Option<Option<Frame>> {
        let index = self
            .entries
            .binary_search_by_key(&sequence, |entry| entry.event.sequence)
            .ok()?;
        let entry = self.entries.get_mut(index)?;
        if let Some((_, frame)) = entry.frames.iter().find(|(known, _)| *known == encoding) {
            return Some(frame.clone());
        }
        let frame = encode();
        if entry.frames.len() < FRAMES_KEPT {
            self.bytes += frame_weight(frame.as_ref());
            entry.frames.push((encoding, frame.clone()));
        }
        Some(frame)
    }

    /// Up to `most` events behind `cursor`, oldest first.
    pub(super) fn behind(&self, cursor: u64, most: usize) -> Vec<Arc<HubEvent>> {
        let from = self
            .entries
            .partition_point(|entry| entry.event.sequence <= cursor);
        self.entries
            .range(from..)
            .take(most)
            .map(|entry| Arc::clone(&entry.event))
            .collect()
    }
}

impl Entry {
    fn weight(&self) -> usize {
        self.event.weight
            + self
                .frames
                .iter()
                .map(|(_, frame)| frame_weight(frame.as_ref()))
                .sum::<usize>()
    }
}

/// What a remembered frame adds.
fn frame_weight(frame: Option<&Frame>) -> usize {
    size_of::<(EncodingId, Option<Frame>)>() + frame.map_or(0, Frame::len)
}

#[cfg(test)]
mod tests {
    use signalbox_protocol::catalogue::{Audience, Channel};

    use super::*;
    use crate::hub::intern::Encodings;
    use crate::hub::selection::tests::addressed;

    #[test]
    fn the_number_of_encodings_does_not_shorten_the_memory() {
        let event = addressed(1, Channel::ThreatAlerts, None, Audience::Everyone);
        let weight = event.weight;
        let mut ring = Ring::new(0, RingLimits::default());
        ring.push(event);
        let frame = Frame::text(&"x".repeat(1_000));
        let mut encodings = Encodings::default();
        for client in 0..100 {
            let encoding = encodings.intern(&client);
            for _ in 0..2 {
                let made = ring.frame(1, encoding, || Some(frame.clone()));
                assert!(made.is_some_and(|made| made.is_some()));
            }
        }
        let most = weight + FRAMES_KEPT * frame_weight(Some(&frame));
        assert_eq!(ring.size(), (1, most));
        ring.push(addressed(
            2,
            Channel::ThreatAlerts,
            None,
            Audience::Everyone,
        ));
        assert_eq!(ring.size(), (2, most + weight));
        assert_eq!(ring.behind(0, 10).len(), 2);
    }
}
