//! The way back of a request that is answered later, from wherever that is
//! decided.

use async_nats::Subject;
use prost::Message as _;
use signalbox_bus::Bus;
use signalbox_protocol::wire::{ChatError, ChatRefusal, ChatReply, chat_reply::Outcome};
use tracing::debug;

/// Who waits for an answer. Dropped without one, the request is sent again.
#[derive(Clone)]
pub(crate) struct Reply {
    bus: Bus,
    to: Option<Subject>,
}

impl Reply {
    /// To the sender of a message.
    pub(crate) fn new(bus: Bus, to: Option<Subject>) -> Self {
        Self { bus, to }
    }

    /// Sends the answer.
    pub(crate) async fn send(self, outcome: Outcome) {
        let Some(to) = self.to else { return };
        let body = ChatReply {
            outcome: Some(outcome),
        };
        let sent = self.bus.client().publish(to, body.encode_to_vec().into());
        if let Err(error) = sent.await {
            debug!(%error, "answer not sent");
        }
    }

    /// Turns the request down.
    pub(crate) async fn refuse(self, refusal: ChatRefusal) {
        self.send(Outcome::Refusal(refusal)).await;
    }
}

/// A refusal in a fixed sentence, which says by its code whether the same may
/// succeed later.
pub(crate) fn refusal(code: ChatError, message: &str) -> ChatRefusal {
    ChatRefusal {
        code: code.into(),
        message: message.to_owned(),
        retry_available: matches!(
            code,
            ChatError::AgentBusy | ChatError::AgentUnavailable | ChatError::Unavailable
        ),
        ..ChatRefusal::default()
    }
}

/// A refusal for a field that is not as it must be.
pub(crate) fn invalid(field: &str, message: &str) -> ChatRefusal {
    ChatRefusal {
        field: field.to_owned(),
        ..refusal(ChatError::Invalid, message)
    }
}
