//! Requests to relays. Each is sent again as it is until it is answered or the
//! patience for it ends: nobody serves a shard while it changes hands.

use std::time::Duration;

use prost::Message;
use signalbox_bus::rpc::{self, Unanswered};
use signalbox_bus::{Bus, subject};
use signalbox_protocol::fleet::Shard;
use signalbox_protocol::wire::{
    AgentReply, AgentReport, CommandReply, CommandRequest, EmergencyReply, EmergencyRequest,
    FleetRequest, FleetSnapshot,
};
use tokio::time::{Instant, sleep};
use tracing::debug;

/// How long one attempt may take before the request is sent again.
const ATTEMPT: Duration = Duration::from_secs(1);
/// The pause before a request is sent again.
const PAUSE: Duration = Duration::from_millis(100);

/// The way to the relays. Shared by all shards.
#[derive(Clone)]
pub(super) struct Relays {
    bus: Bus,
}

impl Relays {
    pub(super) const fn new(bus: Bus) -> Self {
        Self { bus }
    }

    /// Has a verb of a user carried out; `None` without an answer within
    /// `patience`.
    pub(super) async fn command(
        &self,
        shard: Shard,
        request: &CommandRequest,
        patience: Duration,
    ) -> Option<CommandReply> {
        self.insist(&subject::relay_commands(shard), request, patience)
            .await
    }

    /// As [`command`](Self::command), for what must not be done twice: it is
    /// sent again only while nobody hears it.
    pub(super) async fn command_once(
        &self,
        shard: Shard,
        request: &CommandRequest,
        patience: Duration,
    ) -> Option<CommandReply> {
        let subject = subject::relay_commands(shard);
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match rpc::ask(&self.bus, &subject, request, left).await {
                Ok(reply) => return Some(reply),
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
    pub(super) async fn report(&self, shard: Shard, report: &AgentReport) -> Option<AgentReply> {
        let subject = subject::relay_agents(shard);
        let answer = rpc::ask(&self.bus, &subject, report, 3 * ATTEMPT).await;
        answer
            .inspect_err(|error| debug!(%error, subject, "no answer"))
            .ok()
    }

    /// All that is known of a shard.
    pub(super) async fn snapshot(&self, shard: Shard) -> Option<FleetSnapshot> {
        let subject = subject::relay_snapshot(shard);
        rpc::ask(&self.bus, &subject, &FleetRequest {}, ATTEMPT)
            .await
            .ok()
    }

    /// Stops all agents, or lets them go on.
    pub(super) async fn emergency(
        &self,
        request: &EmergencyRequest,
        patience: Duration,
    ) -> Option<EmergencyReply> {
        self.insist(subject::EMERGENCY, request, patience).await
    }

    async fn insist<Req: Message, Rep: Message + Default>(
        &self,
        subject: &str,
        request: &Req,
        patience: Duration,
    ) -> Option<Rep> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match rpc::ask(&self.bus, subject, request, left.min(ATTEMPT)).await {
                Ok(reply) => return Some(reply),
                Err(error) => debug!(%error, subject, "no answer"),
            }
            if Instant::now() + PAUSE >= deadline {
                return None;
            }
            sleep(PAUSE).await;
        }
    }
}
