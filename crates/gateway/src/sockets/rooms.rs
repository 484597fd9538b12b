//! Rooms of dialect `workspace`: who may be in which, and what joining brings.

use std::rc::Rc;

use signalbox_identity::Principal;
use signalbox_protocol::cursor::Cursor;
use signalbox_protocol::frame::fields::Complaint;
use signalbox_protocol::frame::workspace::Room;
use signalbox_protocol::{Dialect, ErrorCode};
use tracing::debug;

use super::Sockets;
use super::commands::{Refused, Reply};
use super::seat::Seat;
use crate::dialect::workspace;
use crate::hub::{Progress, SubscriptionId};
use crate::ledger::Joined;
use crate::replay::{OutOfReach, is_within_reach, replay};

/// Rooms that one client may be in. Each costs what it brings back when the
/// client returns.
const MAX_ROOMS: usize = 512;

/// A room that a client may not be in.
pub(super) fn denied(room: &Room) -> Complaint {
    Complaint {
        code: ErrorCode::RoomAccessDenied,
        message: format!("no access to room {room}"),
        field: Some("room".to_owned()),
    }
}

impl Sockets {
    /// Lets a client into a room, if it may be there, and answers.
    pub(super) async fn join(
        self: &Rc<Self>,
        seat: &Rc<Seat>,
        room: Room,
        since: Option<Cursor>,
        reply: Reply,
    ) -> Result<(), Refused> {
        let refused = |complaint, reply| Err(Refused { complaint, reply });
        if !may_enter(seat, &room) {
            return refused(denied(&room), reply);
        }
        let is_in = seat.rooms.borrow().contains_key(&room);
        if !is_in && seat.rooms.borrow().len() >= MAX_ROOMS {
            let message = format!("a connection is in at most {MAX_ROOMS} rooms");
            let complaint = Complaint::plain(ErrorCode::RateLimit, message);
            return refused(complaint, reply);
        }
        let recovered = match since {
            None => None,
            Some(since) => match is_within_reach(&self.shard, since).await {
                Ok(reached) => Some(reached),
                Err(OutOfReach) => {
                    let message = "history is out of reach, subscribe again";
                    let complaint = Complaint::plain(ErrorCode::Unavailable, message);
                    return refused(complaint, reply);
                }
            },
        };
        // The credential may have been taken back, and the room with it.
        if !may_enter(seat, &room) {
            return refused(denied(&room), reply);
        }
        if seat.over.get() {
            return Ok(());
        }
        if is_in && recovered != Some(true) {
            let seq = self.shard.hub.borrow().cursor();
            reply.confirm(seat, &workspace::success(&room, Some(seq), recovered));
            return Ok(());
        }
        let since = since.filter(|_| recovered == Some(true));
        let joined = match since {
            Some(_) => Joined::Replaying,
            None => Joined::At(self.shard.hub.borrow().cursor()),
        };
        // Kept before it is confirmed: what is confirmed outlives the gateway.
        let name = room.to_string();
        seat.account.borrow_mut().rooms.insert(name, joined);
        self.keep(seat).await;
        if seat.over.get() || !may_enter(seat, &room) {
            return refused(denied(&room), reply);
        }
        // What came during the write came before: now it would come out of
        // turn, which the account does not know of.
        let start = since.unwrap_or_else(|| self.shard.hub.borrow().cursor());
        let id = {
            let encoding = seat.encoding(Dialect::Workspace);
            let selection = workspace::selection(&room);
            let mut hub = self.shard.hub.borrow_mut();
            let former = seat.rooms.borrow().get(&room).copied();
            match former {
                None => {
                    Some(hub.subscribe(seat.member, selection, &encoding, Some(start.sequence)))
                }
                Some(former) => hub.replace(former, selection, &encoding, Some(start.sequence)),
            }
        };
        let Some(id) = id else {
            let message = "subscribed again too often, wait for what is being replayed";
            let complaint = Complaint::plain(ErrorCode::RateLimit, message);
            return refused(complaint, reply);
        };
        let is_new = seat.rooms.borrow_mut().insert(room.clone(), id).is_none();
        if is_new && seat.counted.get() {
            self.shard.shared.occupancy.join(&room);
        }
        let seq = self.shard.hub.borrow().cursor_of(id);
        reply.confirm(seat, &workspace::success(&room, Some(seq), recovered));
        debug!(session = %seat.name, %room, %seq, ?recovered, "joined");
        self.catch_up_room(seat, room, id);
        Ok(())
    }

    /// Takes a room's subscription to the live edge, by itself: other rooms
    /// may be ahead.
    fn catch_up_room(self: &Rc<Self>, seat: &Rc<Seat>, room: Room, id: SubscriptionId) {
        let progress = self.shard.hub.borrow_mut().catch_up(id);
        if progress == Progress::Live {
            if self.note_live(seat, &room, id) {
                self.keep_soon(seat);
            }
            return;
        }
        let (desk, seat) = (Rc::clone(self), Rc::clone(seat));
        self.tasks.spawn(async move {
            let outbound = seat.socket.outbound().clone();
            replay(Rc::clone(&desk.shard), outbound, id).await;
            if desk.note_live(&seat, &room, id) {
                desk.keep(&seat).await;
            }
        });
    }

    /// Notes that a room has caught up; false if it is another's by now.
    fn note_live(&self, seat: &Seat, room: &Room, id: SubscriptionId) -> bool {
        if seat.rooms.borrow().get(room) != Some(&id) {
            return false;
        }
        let here = self.shard.hub.borrow().cursor();
        let name = room.to_string();
        match seat.account.borrow_mut().rooms.get_mut(&name) {
            Some(joined) if *joined == Joined::Replaying => {
                *joined = Joined::ReplayedUntil(here);
                true
            }
            _ => false,
        }
    }

    /// Takes a client out of a room, and answers.
    pub(super) async fn quit(self: &Rc<Self>, seat: &Rc<Seat>, room: &Room, reply: Reply) {
        if self.lose(seat, room) {
            self.keep(seat).await;
        }
        reply.confirm(seat, &workspace::success(room, None, None));
    }

    /// Takes a client out of a room; false if it was not in it.
    fn lose(&self, seat: &Seat, room: &Room) -> bool {
        seat.account.borrow_mut().rooms.remove(&room.to_string());
        let Some(id) = seat.rooms.borrow_mut().remove(room) else {
            return false;
        };
        {
            let mut hub = self.shard.hub.borrow_mut();
            hub.settle(seat.member);
            hub.unsubscribe(id);
        }
        if seat.counted.get() {
            self.shard.shared.occupancy.quit(room);
        }
        true
    }

    /// Takes a client out of the rooms that its credential does not open any
    /// more, and tells it of each.
    pub(super) fn clear_rooms(&self, seat: &Seat, principal: &Principal) {
        let rooms: Vec<Room> = seat.rooms.borrow().keys().cloned().collect();
        for room in rooms {
            if !workspace::may_enter(principal, &room) {
                self.lose(seat, &room);
                self.tell_denied(seat, &room);
            }
        }
    }

    /// Tells a client of a room that it is not in any more.
    pub(super) fn tell_denied(&self, seat: &Seat, room: &Room) {
        let name = room.to_string();
        let complaint = denied(room);
        let id = seat.socket.id();
        seat.say(&workspace::complaint(&complaint, &id, Some(&name), None));
    }
}

fn may_enter(seat: &Seat, room: &Room) -> bool {
    seat.principal()
        .is_some_and(|principal| workspace::may_enter(&principal, room))
}
