//! One client in the namespace: who it is, which rooms it is in, and all that
//! is said to it. What of it can be carried elsewhere is its [`Standing`].

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use signalbox_identity::Principal;
use signalbox_protocol::Dialect;
use signalbox_socketio::{Ack, Packet, Socket};
use tokio::time::Instant;

use super::clock::{Alarm, Clock};
use super::commands::Waiting;
use super::identity::Due;
use super::opening::Opening;
use super::standing::Standing;
use crate::dialect::Encoding;
use crate::dialect::workspace::Refused;
use crate::hub::{MemberId, SubscriptionId};
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
    pub(super) standing: RefCell<Standing>,
    /// The subscriptions behind its rooms.
    pub(super) rooms: RefCell<HashMap<String, SubscriptionId>>,
    /// The subscriptions behind its events of dialect `pipeline`.
    pub(super) feeds: RefCell<Vec<SubscriptionId>>,
    /// What it is told first.
    pub(super) greeting: Cell<Option<Greeting>>,
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
    pub(super) meter: RefCell<Meter>,
    /// Whether it was told to leave, or has left.
    pub(super) over: Cell<bool>,
    /// Whether nothing of it is kept for its return.
    pub(super) forgotten: Cell<bool>,
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
        delay: std::time::Duration,
    },
    /// It goes on as it was.
    Resumed,
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
    }
}

impl Seat {
    /// Who it is, if that is known.
    pub(super) fn principal(&self) -> Option<Rc<Principal>> {
        self.standing.borrow().principal.clone()
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
        if self.over.get() {
            return;
        }
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
        self.rooms.borrow_mut().clear();
        self.feeds.borrow_mut().clear();
        if self.counted() {
            let rooms = self.standing.borrow().rooms.keys().cloned().collect();
            self.shard.shared.occupancy.leave(rooms);
        }
    }

    /// Whether it is among those that statistics tell of.
    pub(super) fn counted(&self) -> bool {
        self.dialect == Dialect::Workspace && self.standing.borrow().principal.is_some()
    }
}
