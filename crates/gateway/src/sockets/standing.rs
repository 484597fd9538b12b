//! What a client is, as far as it can be carried to another connection, shard
//! or gateway: who it is, its rooms, and from where on each brings events.

use std::collections::BTreeMap;
use std::rc::Rc;

use signalbox_identity::Principal;
use signalbox_protocol::cursor::{Cursor, Epoch};
use signalbox_protocol::frame::workspace::Room;

use crate::dialect::pipeline::Narrowing;

/// What can be carried. Positions are of one life of the stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing {
    /// Who it is; `None` before that is known.
    pub(crate) principal: Option<Rc<Principal>>,
    /// Its rooms of dialect `workspace`.
    pub(crate) rooms: BTreeMap<Room, Place>,
    /// Its events of dialect `pipeline`, if it gets any.
    pub(crate) feed: Option<Feed>,
    /// The secret by which it recovers, if it takes part.
    pub(crate) pid: Option<String>,
}

/// From where on something brings events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// It brings everything behind this sequence.
    pub(crate) since: u64,
    /// Where it caught up with what was brought in turn; `None` while it has
    /// not.
    pub(crate) live: Option<u64>,
}

/// Events of dialect `pipeline`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Feed {
    /// Which of those that it may have.
    pub(crate) narrowing: Narrowing,
    pub(crate) place: Place,
}

impl Place {
    /// A place that needs no catching up.
    pub(crate) const fn live_from(sequence: u64) -> Self {
        Self {
            since: sequence,
            live: Some(sequence),
        }
    }

    /// Where to go on for a client whose last event in turn was `offset`.
    ///
    /// An event that came in turn came behind everything that was replayed
    /// before. Without one since then nobody knows what of that arrived, and
    /// all of it comes: rather twice than not.
    pub(crate) fn resume(self, offset: Option<u64>) -> u64 {
        match (offset, self.live) {
            (Some(offset), Some(live)) if offset >= live => offset,
            _ => self.since,
        }
    }
}

impl Standing {
    /// The earliest position from which anything has to go on; `None` where
    /// there is nothing.
    pub(crate) fn earliest(&self, epoch: Epoch, offset: Option<u64>) -> Option<Cursor> {
        let feed = self.feed.iter().map(|feed| feed.place);
        let places = self.rooms.values().copied().chain(feed);
        let sequence = places.map(|place| place.resume(offset)).min()?;
        Some(Cursor { epoch, sequence })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_not_have_arrived_comes_again() {
        let joined = Place::live_from(50);
        assert_eq!(joined.resume(Some(80)), 80);
        // The last event was of a time before the room was joined.
        assert_eq!(joined.resume(Some(40)), 50);
        assert_eq!(joined.resume(None), 50);
        let replayed = Place {
            since: 10,
            live: Some(60),
        };
        assert_eq!(replayed.resume(Some(60)), 60);
        assert_eq!(replayed.resume(Some(59)), 10);
        let replaying = Place {
            since: 10,
            live: None,
        };
        assert_eq!(replaying.resume(Some(70)), 10);
    }
}
