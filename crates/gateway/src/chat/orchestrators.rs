//! Requests to orchestrators. Each is sent again as it is until it is answered
//! or the patience for it ends: nobody serves a shard while it changes hands.
//! Every request is harmless to repeat, see `chat.proto`.

use std::time::Duration;

use signalbox_bus::rpc;
use signalbox_bus::{Bus, subject};
use signalbox_protocol::chat;
use signalbox_protocol::wire::chat_reply::Outcome;
use signalbox_protocol::wire::chat_request::Verb;
use signalbox_protocol::wire::{ChatError, ChatReply, ChatRequest};
use tokio::time::{Instant, sleep};
use tracing::debug;

/// How long one attempt may take before the request is sent again.
const ATTEMPT: Duration = Duration::from_secs(1);
/// The pause before a request is sent again.
const PAUSE: Duration = Duration::from_millis(50);

/// Nobody has answered in time. The request may have been served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unheard;

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
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let answer: Result<ChatReply, _> =
                rpc::ask(&self.bus, &subject, &request, left.min(ATTEMPT)).await;
            match answer {
                Ok(ChatReply {
                    outcome: Some(outcome),
                }) if !is_for_later(&outcome) => return Ok(outcome),
                Ok(_) => debug!(subject, "not now"),
                Err(error) => debug!(%error, subject, "no answer"),
            }
            if Instant::now() + PAUSE >= deadline {
                return Err(Unheard);
            }
            sleep(PAUSE).await;
        }
    }
}

/// Whether the same is to be asked again.
fn is_for_later(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Refusal(refusal) if refusal.code() == ChatError::Unavailable)
}
