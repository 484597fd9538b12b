//! Requests to relays, by whoever has commands run or has agents. Each is sent
//! again as it is until it is answered or the patience for it ends: nobody serves
//! a shard while it changes hands. What answers mean is the callers' matter.

use std::time::Duration;

use signalbox_protocol::fleet::Shard;
use signalbox_protocol::wire::command_reply::Outcome;
use signalbox_protocol::wire::{
    AgentReply, AgentReport, CommandError, CommandReply, CommandRequest, EmergencyReply,
    EmergencyRequest, FleetRequest, FleetSnapshot,
};
use tokio::time::{Instant, sleep};
use tracing::debug;

use crate::connection::Bus;
use crate::rpc::{self, Unanswered};
use crate::subject;

/// How long an answer may take.
const ATTEMPT: Duration = Duration::from_secs(1);
/// The pause before a request is sent again.
const PAUSE: Duration = Duration::from_millis(100);

/// The way to the relays. Clones share it.
#[derive(Clone)]
pub struct Relays {
    bus: Bus,
}

impl Relays {
    /// The way through this connection.
    #[must_use]
    pub const fn new(bus: Bus) -> Self {
        Self { bus }
    }

    /// Has a verb of a user carried out, asking again for as long as the shard
    /// cannot tell; `None` when nobody can within `patience`. It may have been
    /// carried out all the same.
    pub async fn command(
        &self,
        shard: Shard,
        request: &CommandRequest,
        patience: Duration,
    ) -> Option<Outcome> {
        let subject = subject::relay_commands(shard);
        let settle = |reply: CommandReply| match reply.outcome {
            Some(Outcome::Refusal(refusal)) if refusal.code() == CommandError::Unavailable => None,
            // One that cannot be read is an answer as well.
            outcome => Some(outcome),
        };
        let settled = rpc::insist(&self.bus, &subject, request, patience, settle).await;
        settled.ok().flatten()
    }

    /// As [`command`](Self::command), for what must not be done twice: it is
    /// sent again only while nobody hears it, and an answer is given as it is.
    pub async fn command_once(
        &self,
        shard: Shard,
        request: &CommandRequest,
        patience: Duration,
    ) -> Option<Outcome> {
        let subject = subject::relay_commands(shard);
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let reply: Result<CommandReply, _> = rpc::ask(&self.bus, &subject, request, left).await;
            match reply {
                Ok(reply) => return reply.outcome,
                Err(Unanswered::Unheard) if Instant::now() + PAUSE < deadline => {
                    sleep(PAUSE).await;
                }
                Err(error) => {
                    debug!(%error, subject, "no answer");
                    return None;
                }
            }
        }
    }

    /// Tells of an agent, once; `None` without an answer.
    pub async fn report(&self, shard: Shard, report: &AgentReport) -> Option<AgentReply> {
        let subject = subject::relay_agents(shard);
        let answer = rpc::ask(&self.bus, &subject, report, 3 * ATTEMPT).await;
        answer
            .inspect_err(|error| debug!(%error, subject, "no answer"))
            .ok()
    }

    /// All that is known of a shard.
    pub async fn snapshot(&self, shard: Shard) -> Option<FleetSnapshot> {
        let subject = subject::relay_snapshot(shard);
        rpc::ask(&self.bus, &subject, &FleetRequest {}, ATTEMPT)
            .await
            .ok()
    }

    /// Stops all agents, or lets them go on.
    pub async fn emergency(
        &self,
        request: &EmergencyRequest,
        patience: Duration,
    ) -> Option<EmergencyReply> {
        rpc::insist(&self.bus, subject::EMERGENCY, request, patience, Some)
            .await
            .ok()
    }
}
