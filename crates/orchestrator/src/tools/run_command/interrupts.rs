//! Commands that are to end since nobody waits for them any more. An interruption
//! outlives the call that wants it: the turn gives a call up soon, a shard of the
//! relays may be changing hands.

use std::time::Duration;

use parking_lot::Mutex;
use signalbox_bus::relays::Relays;
use signalbox_protocol::wire::CommandError;
use signalbox_protocol::wire::command_reply::Outcome;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::request::Request;

/// Commands that are being interrupted at once; beyond it they are left to run,
/// which is logged.
const CAPACITY: usize = 256;

/// What became of an interruption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// The command ends, or has ended by it.
    Interrupted,
    /// There is no such command, or it has ended.
    NotFound,
    /// Nobody knows.
    Unanswered,
}

/// An interruption on its way.
pub(super) struct Sent(oneshot::Receiver<Told>);

/// The interruptions of an orchestrator.
pub(super) struct Interrupts {
    relays: Relays,
    patience: Duration,
    running: Mutex<JoinSet<()>>,
}

impl Interrupts {
    /// Relays may take so long for one.
    pub(super) fn new(relays: Relays, patience: Duration) -> Self {
        Self {
            relays,
            patience,
            running: Mutex::default(),
        }
    }

    /// Has a command interrupted, whoever waits for that.
    pub(super) fn send(&self, request: &Request) -> Sent {
        let (sender, receiver) = oneshot::channel();
        let mut running = self.running.lock();
        while running.try_join_next().is_some() {}
        if running.len() >= CAPACITY {
            warn!(command = %request.command_id, "too many commands are being interrupted");
            return Sent(receiver);
        }
        let (relays, patience) = (self.relays.clone(), self.patience);
        let request = request.clone();
        running.spawn(async move {
            let answer = relays
                .command(request.shard, &request.interrupt(), patience)
                .await;
            let told = told(answer);
            debug!(command = %request.command_id, ?told, "command to be interrupted");
            sender.send(told).ok();
        });
        Sent(receiver)
    }
}

impl Sent {
    /// What became of it.
    pub(super) async fn wait(self) -> Told {
        self.0.await.unwrap_or(Told::Unanswered)
    }

    /// What has become of it so far; `None` while nobody knows.
    pub(super) fn now(mut self) -> Option<Told> {
        self.0.try_recv().ok()
    }
}

fn told(answer: Option<Outcome>) -> Told {
    match answer {
        Some(Outcome::Done(_) | Outcome::Accepted(_)) => Told::Interrupted,
        Some(Outcome::Refusal(refusal)) if refusal.code() == CommandError::CommandNotFound => {
            Told::NotFound
        }
        Some(Outcome::Refusal(_)) | None => Told::Unanswered,
    }
}
