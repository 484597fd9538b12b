//! Clients whose session moves to another gateway, or comes from one: they
//! notice nothing, and miss nothing.

use std::rc::Rc;
use std::time::Duration;

use prost::Message as _;
use signalbox_protocol::Dialect;
use signalbox_protocol::cursor::Cursor;
use signalbox_protocol::wire::{OpeningState, SeatState};
use signalbox_socketio::Socket;
use tokio::time::Instant;
use tracing::info;

use super::identity::Due;
use super::keeping::on_loss;
use super::opening::Opening;
use super::seat::{Seat, Seated};
use super::{AUDIT, Sockets};
use crate::ledger::{Account, Pid, TakeOverError};
use crate::replay::{End, is_within_reach, replay_together};

/// How often a session is taken over that its former gateway still writes.
const TAKE_OVER_ATTEMPTS: usize = 3;

impl Opening {
    /// What another gateway goes on with.
    pub(super) fn state(&self) -> Vec<u8> {
        OpeningState {
            token: self.token.clone(),
            dialect: self.dialect.clone(),
            takes_offsets: self.takes_offsets,
        }
        .encode_to_vec()
    }

    /// What another gateway kept, with the client where it is now.
    pub(super) fn of_state(here: Self, state: &[u8]) -> Option<Self> {
        let state = OpeningState::decode(state).ok()?;
        Some(Self {
            guest: here.guest,
            token: state.token,
            dialect: state.dialect,
            takes_offsets: state.takes_offsets,
        })
    }
}

impl Sockets {
    /// Whether something is under way for a client that ends here.
    pub(super) fn is_at_work(&self, seat: &Seat) -> bool {
        let hub = self.shard.hub.borrow();
        let here = hub.cursor();
        let is_replaying = || {
            let ids = Self::subscriptions(seat);
            ids.into_iter().any(|id| hub.cursor_of(id) != here)
        };
        seat.working.get()
            || !seat.inbox.borrow().is_empty()
            || seat.left_behind.borrow().is_some()
            || is_replaying()
    }

    /// What another gateway goes on with; `None` for a client that is leaving.
    pub(super) fn state_of(&self, seat: &Seat) -> Option<Vec<u8>> {
        if seat.over.get() || seat.refused.borrow().is_some() || self.is_at_work(seat) {
            return None;
        }
        // What is noted for it goes ahead; the rest it gets there.
        self.shard.hub.borrow_mut().settle(seat.member);
        let position = self.shard.hub.borrow().cursor();
        let entry = seat.entry.borrow();
        let pid = match (&*entry, &*seat.pid.borrow()) {
            (Some(entry), _) => entry.pid().expose().to_owned(),
            (None, Some(pid)) => pid.expose().to_owned(),
            (None, None) => String::new(),
        };
        let due = seat.due.take();
        seat.due.set(due);
        let credential_in = match (due, seat.alarm.get()) {
            (Due::Credential, Some((at, _))) => Some(at.saturating_duration_since(Instant::now())),
            _ => None,
        };
        let since = seat.since.get();
        let state = SeatState {
            name: seat.name.clone(),
            account: Some((&*seat.account.borrow()).into()),
            offsets: seat.offsets,
            pid,
            entered: entry.is_some(),
            position: position.to_string(),
            since: since.map(|since| since.to_string()).unwrap_or_default(),
            lost: seat.lost.get(),
            credential_in_ms: credential_in
                .map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
            strikes: seat.strikes.get(),
            bad_tokens: seat.bad_tokens.get(),
        };
        Some(state.encode_to_vec())
    }

    /// Goes on with a client of another gateway. `None` if that cannot be; it
    /// then comes back as after any break.
    pub(super) async fn move_in(
        self: &Rc<Self>,
        socket: Socket,
        opening: Rc<Opening>,
        state: &[u8],
    ) -> Option<Seated> {
        let state = SeatState::decode(state).ok()?;
        let account = Account::try_from(state.account?).ok()?;
        let position: Cursor = state.position.parse().ok()?;
        let dialect = account.dialect;
        if !opening.serves(dialect) || !*self.shard.shared.bus_present.borrow() {
            return None;
        }
        let seat = self.seat_for(&socket, &opening, dialect, state.offsets, state.name);
        let seated = self.seated(seat);
        let seat = &seated.seat;
        seat.since.set(state.since.parse().ok());
        seat.lost.set(state.lost);
        seat.strikes.set(state.strikes);
        seat.bad_tokens.set(state.bad_tokens);
        let is_known = account.principal.is_some();
        seat.account.replace(account);
        if !state.pid.is_empty() {
            let pid = Pid::parse(&state.pid)?;
            if state.entered {
                self.take_entry(seat, &pid).await?;
            } else {
                seat.pid.replace(Some(pid));
            }
        }
        if is_known {
            self.go_on_from(seat, position).await?;
        } else if dialect == Dialect::Pipeline {
            let left = Duration::from_millis(state.credential_in_ms.unwrap_or_default());
            seat.due.set(Due::Credential);
            self.clock.set(seat, Instant::now() + left);
        }
        info!(
            target: AUDIT,
            session = %seat.name,
            peer = %opening.peer(),
            "moved here"
        );
        Some(seated)
    }

    /// Makes a session in the ledger this connection's.
    async fn take_entry(self: &Rc<Self>, seat: &Rc<Seat>, pid: &Pid) -> Option<()> {
        for _ in 0..TAKE_OVER_ATTEMPTS {
            let mut kept = self.ledger.find(pid).await.ok()??;
            kept.account = seat.account.borrow().clone();
            match self.ledger.take_over(kept, on_loss(seat)).await {
                Ok(entry) => {
                    seat.entry.replace(Some(Rc::new(entry)));
                    return Some(());
                }
                // The former gateway was writing what it still had to.
                Err(TakeOverError::TooLate) => {}
                Err(TakeOverError::OutOfReach(_)) => return None,
            }
        }
        None
    }

    /// Brings everything behind a position, and what comes from then on.
    async fn go_on_from(self: &Rc<Self>, seat: &Rc<Seat>, position: Cursor) -> Option<()> {
        // What was revoked while it was under way is known from here on.
        self.shard.shared.authority.revocations().current().await;
        if is_within_reach(&self.shard, position).await != Ok(true)
            || !self.settle_in(seat, |_| position.sequence)
        {
            return None;
        }
        let ids = Self::subscriptions(seat);
        let outbound = seat.socket.outbound().clone();
        let is_over =
            !ids.is_empty() && replay_together(&self.shard, &outbound, &ids).await == End::Over;
        (!is_over).then_some(())
    }

    /// Tells a client that has moved of rooms that it may not be in any more.
    pub(super) fn tell_of_losses(&self, seat: &Seat) {
        for room in seat.denied.take() {
            self.tell_denied(seat, &room);
        }
    }
}
