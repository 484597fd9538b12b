//! Requests to orchestrators. Each is sent again as it is until it is answered
//! or the patience for it ends: nobody serves a shard while it changes hands.
//! Every request is harmless to repeat, see `chat.proto`.

use std::time::Duration;

use signalbox_bus::rpc::{self, Unheard};
use signalbox_bus::{Bus, subject};
use signalbox_protocol::chat;
use signalbox_protocol::wire::chat_reply::Outcome;
use signalbox_protocol::wire::chat_request::Verb;
use signalbox_protocol::wire::{ChatError, ChatReply, ChatRequest};

/// The way to the orchestrators. Shared by all shards.
pub(crate) struct Orchestrators {
    bus: Bus,
}

impl Orchestrators {
    pub(super) const fn new(bus: Bus) -> Self {
        Self { bus }
    }

    /// Has a verb of a user carried out.
    ///
    /// # Errors
    /// When there is no answer within `patience`, or none but that it cannot be
    /// done now.
    pub(crate) async fn ask(
        &self,
        user: &str,
        verb: Verb,
        patience: Duration,
    ) -> Result<Outcome, Unheard> {
        let subject = subject::orchestrator_chat(chat::shard(user));
        let request = ChatRequest {
            user_id: user.to_owned(),
            verb: Some(verb),
        };
        rpc::insist(&self.bus, &subject, &request, patience, |answer| {
            let ChatReply { outcome } = answer;
            outcome.filter(|outcome| !is_for_later(outcome))
        })
        .await
    }
}

/// Whether the same is to be asked again.
fn is_for_later(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Refusal(refusal) if refusal.code() == ChatError::Unavailable)
}
