//! How many clients of dialect `workspace` there are, and how many in which
//! room, over all shards of a gateway.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use signalbox_protocol::frame::workspace::Room;

/// What statistics tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Occupants {
    /// Clients.
    pub(crate) connections: u64,
    /// Clients by room; rooms with nobody in them are not listed.
    pub(crate) rooms: BTreeMap<String, u64>,
}

/// The counts of one gateway. Shared by all shards, which change it when
/// somebody comes, goes, joins or leaves.
#[derive(Debug, Default)]
pub(crate) struct Occupancy(Mutex<Occupants>);

impl Occupancy {
    /// A client has come, into these rooms.
    pub(super) fn enter<'a>(&self, rooms: impl Iterator<Item = &'a Room>) {
        let mut occupants = self.0.lock();
        occupants.connections += 1;
        rooms.for_each(|room| occupants.add(room));
    }

    /// A client has gone that was in these rooms.
    pub(super) fn leave<'a>(&self, rooms: impl Iterator<Item = &'a Room>) {
        let mut occupants = self.0.lock();
        occupants.connections = occupants.connections.saturating_sub(1);
        rooms.for_each(|room| occupants.take(room));
    }

    /// A client has joined a room.
    pub(super) fn join(&self, room: &Room) {
        self.0.lock().add(room);
    }

    /// A client has left a room.
    pub(super) fn quit(&self, room: &Room) {
        self.0.lock().take(room);
    }

    /// The counts now.
    pub(crate) fn now(&self) -> Occupants {
        self.0.lock().clone()
    }
}

impl Occupants {
    fn add(&mut self, room: &Room) {
        *self.rooms.entry(room.to_string()).or_default() += 1;
    }

    fn take(&mut self, room: &Room) {
        let name = room.to_string();
        if let Some(count) = self.rooms.get_mut(&name) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.rooms.remove(&name);
            }
        }
    }

    /// Adds those of another gateway.
    pub(crate) fn merge(&mut self, other: Self) {
        self.connections += other.connections;
        for (room, count) in other.rooms {
            *self.rooms.entry(room).or_default() += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_are_listed_while_somebody_is_in_them() {
        let occupancy = Occupancy::default();
        let project = Room::Project("p".into());
        occupancy.enter([&Room::Global, &project].into_iter());
        occupancy.enter([&Room::Global].into_iter());
        occupancy.join(&project);
        occupancy.quit(&project);
        let mut both = occupancy.now();
        both.merge(occupancy.now());
        assert_eq!(both.connections, 4);
        assert_eq!(
            both.rooms,
            BTreeMap::from([("global".into(), 4), ("project:p".into(), 2)])
        );
        occupancy.leave([&Room::Global, &project].into_iter());
        occupancy.leave([&Room::Global].into_iter());
        assert_eq!(occupancy.now(), Occupants::default());
    }
}
