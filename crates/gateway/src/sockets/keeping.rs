//! What is kept of a client in the ledger, so that it can come back.

use std::rc::Rc;
use std::time::Duration;

use signalbox_bus::subject::GATEWAY_TAKEN_OVER;
use signalbox_bus::survey;
use signalbox_socketio::Connecting;
use tokio::time::sleep;
use tracing::{debug, info};

use super::seat::Seat;
use super::{AUDIT, Sockets};
use crate::ledger::{self, Pid, SaveError, TakenOver};

/// The pause before a subscription that was lost is made again.
const PAUSE: Duration = Duration::from_secs(1);
/// The name under which the account has the events of dialect `pipeline`
/// among its rooms; no room has it.
pub(super) const FEED: &str = "pipeline";

impl Sockets {
    /// Tells a client, with the answer to its CONNECT, how to come back; its
    /// entry is made by [`keep`](Self::keep), once it has said who it is.
    pub(super) fn offer(&self, connecting: &Connecting<Self>, seat: &Seat) {
        if !seat.offsets {
            return;
        }
        let pid = Pid::generate();
        connecting.offer_recovery(pid.expose());
        seat.pid.replace(Some(pid));
    }

    /// Puts the account of a client where it finds it when it comes back: what
    /// it is told next outlives this gateway.
    pub(super) async fn keep(self: &Rc<Self>, seat: &Rc<Seat>) {
        if seat.over.get() || seat.principal().is_none() {
            return;
        }
        let account = seat.account.borrow().clone();
        let entry = seat.entry.borrow().clone();
        if let Some(entry) = entry {
            entry.change(|kept| *kept = account);
            if entry.save().await == Err(SaveError::Unsaved) {
                debug!(session = %seat.name, "session not kept");
            }
            return;
        }
        let Some(pid) = seat.pid.take() else { return };
        let entered = self
            .ledger
            .enter_as(pid, account.clone(), on_loss(seat))
            .await;
        if let Some(entry) = entered {
            let entry = Rc::new(entry);
            seat.entry.replace(Some(Rc::clone(&entry)));
            // It may have gone on, or away, while this waited.
            if seat.forgotten.get() {
                entry.close().await;
            } else if *seat.account.borrow() != account {
                let account = seat.account.borrow().clone();
                entry.change(|kept| *kept = account);
                entry.save().await.ok();
            }
        }
    }

    /// As [`keep`](Self::keep) for a client that is in the ledger, without
    /// waiting, and for one that has to return as well.
    pub(super) fn keep_soon(&self, seat: &Seat) {
        let Some(entry) = seat.entry.borrow().clone() else {
            return;
        };
        let account = seat.account.borrow().clone();
        entry.change(|kept| *kept = account);
        self.tasks.spawn(async move {
            entry.save().await.ok();
        });
    }

    /// Tells the other shards and gateways that a session was taken over, so
    /// that a connection that has it still ends at once.
    pub(super) fn announce(&self, entry: &ledger::Seat) {
        let text = entry.announcement().to_string();
        let bus = self.shard.shared.statistics.bus().clone();
        self.tasks.spawn(async move {
            if let Err(error) = survey::tell_all(&bus, GATEWAY_TAKEN_OVER, text).await {
                debug!(%error, "take-over not announced");
            }
        });
    }

    /// Hears of sessions that were taken over, for as long as it is polled.
    pub(super) async fn hear_of_losses(&self) {
        let bus = self.shard.shared.statistics.bus().clone();
        loop {
            let heard = survey::hear_all(&bus, GATEWAY_TAKEN_OVER, async |text: &str| {
                if let Some(announced) = TakenOver::parse(text) {
                    self.ledger.look_again(&announced).await;
                }
            });
            if let Err(error) = heard.await {
                debug!(%error, "take-overs not heard of");
            }
            sleep(PAUSE).await;
        }
    }

    /// Lets go of what is kept of a client that has left: it is closed if the
    /// client is not to come back to it.
    pub(super) fn let_go(self: &Rc<Self>, seat: &Rc<Seat>) {
        let entry = seat.entry.take();
        if let Some(entry) = entry
            && seat.forgotten.get()
        {
            self.tasks.spawn(async move { entry.close().await });
        }
    }
}

/// What happens when another connection takes a client's session over: the
/// client is there and not here, so that this one ends without a word.
pub(super) fn on_loss(seat: &Rc<Seat>) -> impl Fn() + 'static {
    let seat = Rc::downgrade(seat);
    move || {
        let Some(seat) = seat.upgrade() else { return };
        let Some(desk) = seat.desk.upgrade() else {
            return;
        };
        info!(target: AUDIT, session = %seat.name, "taken over by another connection");
        seat.send_back(&desk.clock);
    }
}
