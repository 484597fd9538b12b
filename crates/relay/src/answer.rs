//! The way back of a request that is answered later, from wherever that is
//! decided.

use async_nats::Subject;
use prost::Message;
use signalbox_bus::Bus;
use signalbox_protocol::wire::{
    AgentReply, CommandError, CommandRefusal, CommandReply, StaleSession, agent_reply,
    command_reply,
};
use tracing::debug;

/// After how long something that there was no room for may come again.
const LATER_MS: u32 = 50;

/// Who waits for an answer. Dropped without one, the request is sent again.
#[derive(Clone)]
pub(crate) struct Answer {
    bus: Bus,
    reply: Option<Subject>,
}

impl Answer {
    /// To the sender of a message.
    pub(crate) fn new(bus: Bus, reply: Option<Subject>) -> Self {
        Self { bus, reply }
    }

    /// Sends the answer.
    pub(crate) async fn send(self, message: &impl Message) {
        let Some(reply) = self.reply else { return };
        let body = message.encode_to_vec().into();
        if let Err(error) = self.bus.client().publish(reply, body).await {
            debug!(%error, "answer not sent");
        }
    }

    /// Answers a user's request.
    pub(crate) async fn command(self, outcome: command_reply::Outcome) {
        self.send(&CommandReply {
            outcome: Some(outcome),
        }).await;
    }

    /// Turns a user's request down.
    pub(crate) async fn refuse(self, code: CommandError, message: &str, agent_id: &str) {
        self.command(command_reply::Outcome::Refusal(CommandRefusal {
            code: code.into(),
            message: message.to_owned(),
            agent_id: agent_id.to_owned(),
        })).await;
    }

    /// Answers an agent's report.
    pub(crate) async fn report(self, outcome: agent_reply::Outcome) {
        self.send(&AgentReply {
            outcome: Some(outcome),
        }).await;
    }

    /// Says that a report is not of the agent's connection.
    pub(crate) async fn stale(self, unknown: bool) {
        self.report(agent_reply::Outcome::Stale(StaleSession { unknown })).await;
    }

    /// Says that there is no room for a report now.
    pub(crate) async fn later(self) {
        self.report(agent_reply::Outcome::LaterMs(LATER_MS)).await;
    }
}
