//! Events of dialect `pipeline`: everything that a client may have, narrowed as
//! it likes.

use std::rc::Rc;

use signalbox_identity::Principal;
use signalbox_protocol::cursor::Cursor;
use signalbox_protocol::frame::fields::Complaint;
use signalbox_protocol::frame::pipeline::Subscribe;
use signalbox_protocol::{Dialect, ErrorCode};
use signalbox_socketio::Ack;
use tracing::debug;

use super::Sockets;
use super::commands::{Refused, Reply};
use super::keeping::FEED;
use super::seat::Seat;
use crate::dialect::pipeline;
use crate::hub::{Progress, Selection, SubscriptionId};
use crate::ledger::{Joined, Narrowing};
use crate::replay::{OutOfReach, is_within_reach, replay, replay_together};

impl Sockets {
    /// Goes on with a client as `principal`, and says so.
    pub(super) async fn adopt(
        self: &Rc<Self>,
        seat: &Rc<Seat>,
        principal: Principal,
        ack: Option<Ack>,
    ) {
        let principal = Rc::new(principal);
        self.trust(seat, &principal);
        seat.account.borrow_mut().principal = Some(Rc::clone(&principal));
        self.clear_rooms(seat, &principal);
        let picked_up = self.pick_up(seat).await;
        if seat.over.get() {
            return;
        }
        let is_fed = seat.account.borrow().rooms.contains_key(FEED);
        let mut beginning = None;
        let recovered = if picked_up.is_some() {
            picked_up
        } else if is_fed {
            self.adjust_feed(seat);
            None
        } else if seat.opening.serves(Dialect::Pipeline) {
            let (start, recovered) = self.begin_feed(seat).await;
            beginning = Some(start);
            recovered
        } else {
            None
        };
        if seat.over.get() {
            // It returns as who it is by now.
            self.keep_soon(seat);
            return;
        }
        self.keep(seat).await;
        if seat.over.get() {
            return;
        }
        // A revocation may have come while this waited for the bus.
        let Some(principal) = seat.principal() else {
            return;
        };
        let here = self.shard.hub.borrow().cursor();
        if let Some(start) = beginning {
            // What came during the write came before: beside rooms it would
            // come out of turn, which the account does not know of.
            let start = start.unwrap_or(here).sequence;
            self.place_feed(seat, &principal, &Narrowing::default(), start);
        }
        let feeds = seat.feeds.borrow().clone();
        let seq = match feeds.first() {
            Some(id) => self.shard.hub.borrow().cursor_of(*id),
            None => here,
        };
        seat.say(&pipeline::authenticated(&principal, seq, recovered));
        if let Some(ack) = ack {
            seat.acknowledge(ack, &pipeline::success(seq, recovered));
        }
        self.catch_up_feed(seat);
    }

    /// Adds the events of dialect `pipeline` to what is kept of a client. Tells
    /// behind which position they begin, if not with what comes next, and
    /// whether all that it missed comes, if it asked for something.
    async fn begin_feed(&self, seat: &Seat) -> (Option<Cursor>, Option<bool>) {
        let since = seat.since.take();
        let recovered = match since {
            None => None,
            // Out of reach now is told as what cannot be recovered.
            Some(since) => Some(is_within_reach(&self.shard, since).await == Ok(true)),
        };
        let recovered = recovered.or(seat.lost.take().then_some(false));
        let start = since.filter(|_| recovered == Some(true));
        let at = start.unwrap_or_else(|| self.shard.hub.borrow().cursor());
        let mut account = seat.account.borrow_mut();
        if account.rooms.is_empty() {
            account.connected_at = at;
        }
        account.rooms.insert(FEED.to_owned(), Joined::At(at));
        account.with_pipeline = seat.dialect == Dialect::Workspace;
        (start, recovered)
    }

    /// Subscribes to what a client may have and wants.
    pub(super) fn place_feed(
        &self,
        seat: &Seat,
        principal: &Principal,
        narrowing: &Narrowing,
        start: u64,
    ) {
        let encoding = seat.encoding(Dialect::Pipeline);
        let mut hub = self.shard.hub.borrow_mut();
        for old in seat.feeds.take() {
            hub.unsubscribe(old);
        }
        let ids = pipeline::selections(principal, narrowing)
            .into_iter()
            .map(|selection| hub.subscribe(seat.member, selection, &encoding, Some(start)));
        let ids = ids.collect();
        seat.feeds.replace(ids);
    }

    /// Puts what a client may have and wants by now in the place of what it
    /// has, without a gap or a repeat. False when it did so too often.
    fn replace_feed(&self, seat: &Seat, narrowing: &Narrowing, start: Option<u64>) -> bool {
        let Some(principal) = seat.principal() else {
            return true;
        };
        let encoding = seat.encoding(Dialect::Pipeline);
        let selections: Vec<Selection> = pipeline::selections(&principal, narrowing);
        let mut old = seat.feeds.take().into_iter();
        let mut hub = self.shard.hub.borrow_mut();
        let mut ids: Vec<SubscriptionId> = Vec::new();
        let mut done = true;
        for selection in selections {
            let id = match old.next() {
                None => hub.subscribe(seat.member, selection, &encoding, start),
                Some(old) => {
                    let replaced = hub.replace(old, selection, &encoding, start);
                    done &= replaced.is_some();
                    replaced.unwrap_or(old)
                }
            };
            ids.push(id);
        }
        hub.settle(seat.member);
        old.for_each(|old| hub.unsubscribe(old));
        seat.feeds.replace(ids);
        done
    }

    /// Goes on with the events that a changed credential leaves or adds. Sends
    /// a client back whose events cannot be replaced now: those that it has are
    /// bound by what its credential was.
    fn adjust_feed(&self, seat: &Seat) {
        let (is_fed, narrowing) = {
            let account = seat.account.borrow();
            let narrowing = account.narrowing.clone();
            (account.rooms.contains_key(FEED), narrowing)
        };
        if is_fed && !self.replace_feed(seat, &narrowing.unwrap_or_default(), None) {
            debug!(session = %seat.name, "too much is being replayed to go on");
            seat.send_back(&self.clock);
        }
    }

    /// Goes on with less than before: rooms and events that are not its any
    /// more end.
    pub(super) fn go_on_as(self: &Rc<Self>, seat: &Seat, principal: Principal) {
        let principal = Rc::new(principal);
        seat.account.borrow_mut().principal = Some(Rc::clone(&principal));
        self.clear_rooms(seat, &principal);
        // Those that are still to come begin with what is left.
        if !seat.feeds.borrow().is_empty() {
            self.adjust_feed(seat);
        }
        let ids = seat.feeds.borrow().clone();
        // They go on where they stood, which is at the edge or in a replay.
        for id in ids {
            self.shard.hub.borrow_mut().catch_up(id);
        }
        self.keep_soon(seat);
    }

    /// Narrows a client's events, and answers.
    pub(super) async fn narrow(
        self: &Rc<Self>,
        seat: &Rc<Seat>,
        asked: &Subscribe,
        reply: Reply,
    ) -> Result<(), Refused> {
        let refused = |code, message: &str, reply| {
            let complaint = Complaint::plain(code, message);
            Err(Refused { complaint, reply })
        };
        if !seat.account.borrow().rooms.contains_key(FEED) {
            return refused(ErrorCode::AuthMissing, "authenticate first", reply);
        }
        let recovered = match asked.since {
            None => None,
            Some(since) => match is_within_reach(&self.shard, since).await {
                Ok(reached) => Some(reached),
                Err(OutOfReach) => {
                    let message = "history is out of reach, subscribe again";
                    return refused(ErrorCode::Unavailable, message, reply);
                }
            },
        };
        let Some(principal) = seat.principal().filter(|_| !seat.over.get()) else {
            return Ok(());
        };
        if let Some(permission) = pipeline::lacking(&principal, asked) {
            let message = format!("what is asked for needs permission {permission}");
            return refused(ErrorCode::Forbidden, &message, reply);
        }
        let start = asked.since.filter(|_| recovered == Some(true));
        let narrowing = pipeline::narrowing(asked);
        if !self.replace_feed(seat, &narrowing, start.map(|since| since.sequence)) {
            let message = "subscribed again too often, wait for what is being replayed";
            return refused(ErrorCode::RateLimit, message, reply);
        }
        {
            let mut account = seat.account.borrow_mut();
            account.narrowing = Some(narrowing);
            if let Some(since) = start {
                let joined = if seat.rooms.borrow().is_empty() {
                    Joined::At(since)
                } else {
                    Joined::Replaying
                };
                account.rooms.insert(FEED.to_owned(), joined);
            }
        }
        self.keep(seat).await;
        let seq = {
            let hub = self.shard.hub.borrow();
            let first = seat.feeds.borrow().first().copied();
            first.map_or_else(|| hub.cursor(), |id| hub.cursor_of(id))
        };
        reply.confirm(seat, &pipeline::success(seq, recovered));
        debug!(session = %seat.name, %seq, ?recovered, "narrowed");
        self.catch_up_feed(seat);
        Ok(())
    }

    /// Takes a client's events to the live edge: as one walk where they are
    /// all that it gets, else one by one, since its rooms may be ahead.
    fn catch_up_feed(self: &Rc<Self>, seat: &Rc<Seat>) {
        let ids = seat.feeds.borrow().clone();
        let alone = seat.rooms.borrow().is_empty();
        let live = {
            let mut hub = self.shard.hub.borrow_mut();
            if alone {
                hub.catch_up_together(&ids) == Progress::Live
            } else {
                ids.iter().all(|id| hub.catch_up(*id) == Progress::Live)
            }
        };
        if live || ids.is_empty() {
            if self.note_feed_live(seat, &ids) {
                self.keep_soon(seat);
            }
            return;
        }
        let (desk, seat) = (Rc::clone(self), Rc::clone(seat));
        self.tasks.spawn(async move {
            let outbound = seat.socket.outbound().clone();
            if alone {
                replay_together(&desk.shard, &outbound, &ids).await;
            } else {
                for id in &ids {
                    replay(Rc::clone(&desk.shard), outbound.clone(), *id).await;
                }
            }
            if desk.note_feed_live(&seat, &ids) {
                desk.keep(&seat).await;
            }
        });
    }

    /// Notes that a client's events have caught up; false if they are others
    /// by now.
    fn note_feed_live(&self, seat: &Seat, ids: &[SubscriptionId]) -> bool {
        if *seat.feeds.borrow() != ids {
            return false;
        }
        let here = self.shard.hub.borrow().cursor();
        match seat.account.borrow_mut().rooms.get_mut(FEED) {
            Some(joined) if *joined == Joined::Replaying => {
                *joined = Joined::ReplayedUntil(here);
                true
            }
            _ => false,
        }
    }
}
