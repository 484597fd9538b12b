//! A client that comes back with the secret of a session that it had: what it
//! may have of it, and everything that it missed.

use std::rc::Rc;

use signalbox_identity::Principal;
use signalbox_protocol::Dialect;
use signalbox_protocol::cursor::Cursor;
use signalbox_socketio::{Connecting, Recovery, Verdict};
use time::OffsetDateTime;
use tracing::info;

use super::hello::Hello;
use super::keeping::on_loss;
use super::seat::{Greeting, Seat, Seated};
use super::{AUDIT, Sockets};
use crate::ledger::{Account, Joined, Kept, Pid, TakeOverError};
use crate::replay::{End, is_within_reach, replay_together};

impl Sockets {
    /// Decides on a CONNECT with the secret of a session; `None` for one that
    /// is as if it had none.
    pub(super) async fn recover(
        self: &Rc<Self>,
        connecting: &Connecting<Self>,
        hello: &Hello,
        name: &str,
        recovery: Recovery,
    ) -> Option<Verdict<Seated>> {
        let unknown = |reason: &str| {
            info!(
                target: AUDIT,
                session = %name,
                peer = %connecting.opening().peer(),
                reason,
                "session not recovered"
            );
        };
        if !hello.recovery {
            return None;
        }
        let Some(pid) = Pid::parse(&recovery.pid) else {
            unknown("the secret is none of ours");
            return None;
        };
        let kept = match self.ledger.find(&pid).await {
            Ok(Some(kept)) => kept,
            Ok(None) => {
                unknown("there is no such session");
                return None;
            }
            Err(_) => return Some(Verdict::Close),
        };
        if !connecting.opening().serves(kept.account.dialect) {
            unknown("its dialect is not served on this port");
            return None;
        }
        // What is no offset of ours is as none.
        let offset = recovery.offset.and_then(|offset| offset.parse().ok());
        match kept.account.dialect {
            Dialect::Workspace => {
                let principal = match self.identify(connecting, hello, name).await {
                    Ok(principal) => principal,
                    Err(decision) => return Some(decision),
                };
                if !is_of(&kept.account, &principal) {
                    unknown("it is another user's");
                    // Nothing is told of that; the credential is looked at
                    // once more, which costs little.
                    return None;
                }
                Some(
                    self.come_back(connecting, kept, offset, principal, name)
                        .await,
                )
            }
            _ => {
                let principal = kept.account.principal.clone()?;
                let holds = principal
                    .expires_at
                    .is_none_or(|end| end > OffsetDateTime::now_utc());
                let authority = &self.shard.shared.authority;
                authority.revocations().current().await;
                match self.acceptable((*principal).clone(), None) {
                    Ok(principal) if holds => Some(
                        self.come_back(connecting, kept, offset, principal, name)
                            .await,
                    ),
                    _ => Some(self.wait_for_credential(connecting, kept, offset, name)),
                }
            }
        }
    }

    /// Lets a client in whose credential has ended since: what it missed comes
    /// once it has a fresh one of the same user.
    fn wait_for_credential(
        self: &Rc<Self>,
        connecting: &Connecting<Self>,
        kept: Kept,
        offset: Option<Cursor>,
        name: &str,
    ) -> Verdict<Seated> {
        let seated =
            self.seated(self.seat(connecting, kept.account.dialect, true, name.to_owned()));
        let seat = &seated.seat;
        connecting.restore_id(kept.account.socket_id.as_str());
        connecting.offer_recovery(kept.pid().expose());
        seat.left_behind.replace(Some((kept, offset)));
        self.await_credential(seat);
        Verdict::Accept(seated)
    }

    /// Takes a session over for a client that may have it.
    async fn come_back(
        self: &Rc<Self>,
        connecting: &Connecting<Self>,
        mut kept: Kept,
        offset: Option<Cursor>,
        principal: Principal,
        name: &str,
    ) -> Verdict<Seated> {
        let Ok(within_reach) = self.is_recoverable(&kept.account, offset).await else {
            return Verdict::Close;
        };
        let dialect = kept.account.dialect;
        let seated = self.seated(self.seat(connecting, dialect, true, name.to_owned()));
        let seat = &seated.seat;
        kept.account.principal = Some(Rc::new(principal));
        if within_reach {
            connecting.restore_id(kept.account.socket_id.as_str());
            connecting.offer_recovery(kept.pid().expose());
        } else {
            self.start_over(&mut kept.account, seat);
        }
        seat.account.replace(kept.account.clone());
        if let Err(decision) = self.take(seat, kept, within_reach).await {
            return decision;
        }
        if !within_reach {
            self.offer(connecting, seat);
            self.keep(seat).await;
        }
        let place = place_of(&seat.account.borrow(), offset.filter(|_| within_reach));
        // What nobody can say is not recoverable, and starts here.
        let settled = self.settle_in(seat, |joined| joined.start(place).unwrap_or(place.sequence));
        if !settled {
            return Verdict::Close;
        }
        if within_reach {
            let ids = Self::subscriptions(seat);
            let outbound = seat.socket.outbound().clone();
            if !ids.is_empty() && replay_together(&self.shard, &outbound, &ids).await == End::Over {
                return Verdict::Close;
            }
        } else {
            seat.lost.set(true);
        }
        if dialect == Dialect::Workspace {
            seat.greeting.set(Greeting::Established {
                recovered: Some(within_reach),
                rooms: true,
            });
        }
        info!(
            target: AUDIT,
            session = %name,
            recovered = within_reach,
            brought = offset.is_some(),
            from = %place,
            "session taken over"
        );
        Verdict::Accept(seated)
    }

    /// Whether everything that a session missed can still be brought.
    async fn is_recoverable(
        &self,
        account: &Account,
        offset: Option<Cursor>,
    ) -> Result<bool, crate::replay::OutOfReach> {
        let place = place_of(account, offset);
        let starts = account.rooms.values().map(|joined| joined.start(place));
        let Some(starts) = starts.collect::<Option<Vec<u64>>>() else {
            return Ok(false);
        };
        let Some(sequence) = starts.into_iter().min() else {
            return Ok(true);
        };
        let epoch = place.epoch;
        is_within_reach(&self.shard, Cursor { epoch, sequence }).await
    }

    /// Has a session go on from here, with everything that it missed lost.
    fn start_over(&self, account: &mut Account, seat: &Seat) {
        let here = self.shard.hub.borrow().cursor();
        account.socket_id = seat.socket.id().to_string();
        account.connected_at = here;
        for joined in account.rooms.values_mut() {
            *joined = Joined::At(here);
        }
    }

    /// Makes a session this client's, and ends whoever has it still; one that
    /// does not go on is closed.
    ///
    /// # Errors
    /// What is decided about the client instead.
    async fn take(
        self: &Rc<Self>,
        seat: &Rc<Seat>,
        kept: Kept,
        goes_on: bool,
    ) -> Result<(), Verdict<Seated>> {
        match self.ledger.take_over(kept, on_loss(seat)).await {
            Ok(entry) if goes_on => {
                self.announce(&entry);
                seat.entry.replace(Some(Rc::new(entry)));
                Ok(())
            }
            Ok(entry) => {
                self.announce(&entry);
                entry.close().await;
                Ok(())
            }
            // The client comes again, and finds what the other has made of it.
            Err(TakeOverError::TooLate | TakeOverError::OutOfReach(_)) => Err(Verdict::Close),
        }
    }

    /// Goes on with the session that a client left behind, now that it has
    /// said who it is. Tells whether all that it missed comes; `None` where
    /// there is none, or it is another user's. While nobody can tell, it is
    /// sent back: what it has of the session is as good when it returns.
    pub(super) async fn pick_up(self: &Rc<Self>, seat: &Rc<Seat>) -> Option<bool> {
        let (mut kept, offset) = seat.left_behind.take()?;
        let principal = seat.principal()?;
        if !is_of(&kept.account, &principal) {
            info!(
                target: AUDIT,
                session = %seat.name,
                peer = %seat.opening.peer(),
                reason = "it is another user's",
                "session not recovered"
            );
            seat.lost.set(true);
            return None;
        }
        let Ok(within_reach) = self.is_recoverable(&kept.account, offset).await else {
            seat.send_back(&self.clock);
            return None;
        };
        if !within_reach {
            self.start_over(&mut kept.account, seat);
        }
        kept.account.principal = Some(principal);
        seat.account.replace(kept.account.clone());
        if self.take(seat, kept, true).await.is_err() {
            seat.send_back(&self.clock);
            return None;
        }
        if seat.over.get() {
            // It has left meanwhile, and finds its session when it returns.
            self.let_go(seat);
            return None;
        }
        let place = place_of(&seat.account.borrow(), offset.filter(|_| within_reach));
        if !self.settle_in(seat, |joined| joined.start(place).unwrap_or(place.sequence)) {
            seat.send_back(&self.clock);
            return None;
        }
        Some(within_reach)
    }
}

/// Where a client stands: behind the last event that it has, or where its
/// session began.
fn place_of(account: &Account, offset: Option<Cursor>) -> Cursor {
    offset.unwrap_or(account.connected_at)
}

/// Whether a session is this user's.
fn is_of(account: &Account, principal: &Principal) -> bool {
    account
        .principal
        .as_ref()
        .is_some_and(|known| known.subject == principal.subject)
}
