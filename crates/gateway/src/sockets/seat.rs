//! One client in the namespace: who it is, which rooms it is in, and all that
//! is said to it. What of it can be carried elsewhere is its [`Standing`].

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::{Rc, Weak};
use std::time::Duration;

use signalbox_identity::Principal;
use signalbox_protocol::Dialect;
use signalbox_protocol::cursor::Cursor;
use signalbox_protocol::frame::workspace::Room;
use signalbox_socketio::{Ack, Packet, Socket};
use tokio::time::Instant;

use super::Sockets;
use super::clock::{Alarm, Clock};
use super::commands::Waiting;
use super::identity::Due;
use super::opening::Opening;
use crate::dialect::Encoding;
use crate::dialect::workspace::Refused;
use crate::hub::{MemberId, SubscriptionId};
use crate::ledger::{self, Account, Kept, Pid};
use crate::session::meter::Meter;
use crate::shard::{Presence, Shard};

/// A client in the namespace.
pub(crate) struct Seat {
    /// How the audit log names it.
    pub(super) name: String,
    pub(super) socket: Socket,
    pub(super) opening: Rc<Opening>,
    pub(super) shard: Rc<Shard>,
    pub(super) member: MemberId,
    /// The dialect that it came with.
    pub(super) dialect: Dialect,
    /// Whether its events end in an offset.
    pub(super) offsets: bool,
    pub(super) began: Instant,
    /// Who it is, its rooms, and from where on each brings events: what can be
    /// carried to another connection, shard or gateway.
    pub(super) account: RefCell<Account>,
    /// Its entry in the ledger, if it can come back.
    pub(super) entry: RefCell<Option<Rc<ledger::Seat>>>,
    /// The secret that it was given, and that is not in the ledger before it
    /// says who it is.
    pub(super) pid: RefCell<Option<Pid>>,
    /// The session that it came back to, as long as it has not shown that it
    /// may have it; and the last event that it has of it.
    pub(super) left_behind: RefCell<Option<(Kept, Option<Cursor>)>>,
    /// After which position it wants to go on.
    pub(super) since: Cell<Option<Cursor>>,
    /// Whether it has missed what cannot be brought any more.
    pub(super) lost: Cell<bool>,
    /// What is wrong with what it asked for in its CONNECT.
    pub(super) complaint: Cell<Option<&'static str>>,
    /// Rooms that it was in and may not be in any more.
    pub(super) denied: RefCell<Vec<Room>>,
    /// The subscriptions behind its rooms.
    pub(super) rooms: RefCell<HashMap<Room, SubscriptionId>>,
    /// The subscriptions behind its events of dialect `pipeline`.
    pub(super) feeds: RefCell<Vec<SubscriptionId>>,
    /// What it is told first.
    pub(super) greeting: Cell<Greeting>,
    /// What is due of it, and when it is called on for that.
    pub(super) due: Cell<Due>,
    pub(super) alarm: Cell<Option<Alarm>>,
    /// Commands that wait for their turn.
    pub(super) inbox: RefCell<VecDeque<Waiting>>,
    /// Whether somebody is at work on them.
    pub(super) working: Cell<bool>,
    /// Why it has to leave; commands are answered with it.
    pub(super) refused: RefCell<Option<Refused>>,
    /// Bad messages in a row.
    pub(super) strikes: Cell<u32>,
    /// Bad tokens.
    pub(super) bad_tokens: Cell<u32>,
    /// Taken while a message is counted.
    pub(super) meter: Cell<Option<Meter>>,
    /// Whether it was told to leave, or has left.
    pub(super) over: Cell<bool>,
    /// Whether nothing of it is kept for its return.
    pub(super) forgotten: Cell<bool>,
    /// Whether it is among those that statistics tell of.
    pub(super) counted: Cell<bool>,
    pub(super) desk: Weak<Sockets>,
}

/// What a client is told when it is in.
pub(super) enum Greeting {
    /// Nothing: it has to say who it is.
    None,
    /// It is in its rooms.
    Established {
        /// Whether all that it missed comes, if it asked for something.
        recovered: Option<bool>,
        /// Whether to name the rooms that it is in again.
        rooms: bool,
    },
    /// It has to leave.
    Refused {
        /// How late it is told.
        delay: Duration,
    },
}

/// A [`Seat`] for as long as it is taken.
pub(crate) struct Seated {
    pub(super) seat: Rc<Seat>,
    clock: Rc<Clock>,
    _presence: Presence,
}

impl Seated {
    pub(super) fn new(seat: Rc<Seat>, clock: Rc<Clock>, presence: Presence) -> Self {
        Self {
            seat,
            clock,
            _presence: presence,
        }
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        self.seat.withdraw(&self.clock);
        if let Some(desk) = self.seat.desk.upgrade() {
            let sid = self.seat.socket.link().sid();
            desk.trusted.borrow_mut().remove(sid);
        }
    }
}

impl Seat {
    /// Who it is, if that is known.
    pub(super) fn principal(&self) -> Option<Rc<Principal>> {
        self.account.borrow().principal.clone()
    }

    /// How events of a dialect are written for it.
    pub(super) fn encoding(&self, dialect: Dialect) -> Encoding {
        let offset = self.offsets;
        match dialect {
            Dialect::Pipeline => Encoding::Pipeline { offset },
            _ => Encoding::Workspace { offset },
        }
    }

    /// Sends a packet behind everything that was sent before.
    pub(super) fn say(&self, packet: &Packet) {
        self.shard.hub.borrow_mut().settle(self.member);
        // A session that takes no more ends by itself.
        let _sent = self.socket.emit(packet);
    }

    /// Acknowledges a command behind everything that was sent before.
    pub(super) fn acknowledge(&self, ack: Ack, answer: &serde_json::Value) {
        self.shard.hub.borrow_mut().settle(self.member);
        let _sent = ack.send(|packet| packet.value(answer));
    }

    /// Sends it out of the namespace: it does not return by itself, and
    /// nothing is kept for it.
    pub(super) fn send_away(&self, clock: &Clock) {
        self.forgotten.set(true);
        self.withdraw(clock);
        self.socket.disconnect();
    }

    /// Closes its transport: it returns, here or elsewhere, and goes on.
    pub(super) fn send_back(&self, clock: &Clock) {
        self.withdraw(clock);
        self.socket.close();
    }

    /// Delivers nothing more and is called on no more. Frames that are noted
    /// with the hub for it are dropped.
    pub(super) fn withdraw(&self, clock: &Clock) {
        if self.over.replace(true) {
            return;
        }
        clock.clear(self);
        self.shard.hub.borrow_mut().leave(self.member);
        self.feeds.borrow_mut().clear();
        let rooms = self.rooms.take();
        if self.counted.take() {
            self.shard.shared.occupancy.leave(rooms.keys());
        }
    }
}
