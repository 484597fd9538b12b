//! Notes on their way to the orchestrators. A request is sent again as it is
//! until it is answered or the patience for it ends; it is harmless to repeat,
//! see `investigation.proto`.

use std::time::Duration;

use signalbox_bus::rpc::{self, Unheard};
use signalbox_bus::subject;
use signalbox_protocol::investigation;
use signalbox_protocol::wire::investigation_reply::Outcome;
use signalbox_protocol::wire::investigation_request::Verb;
use signalbox_protocol::wire::{InvestigationError, InvestigationReply, InvestigationRequest};

use super::Investigations;

impl Investigations {
    /// Has a verb of a user carried out.
    ///
    /// # Errors
    /// When there is no answer within `patience`, or none but that it cannot be
    /// done now.
    pub(crate) async fn ask(
        &self,
        investigation_id: &str,
        user_id: String,
        verb: Verb,
        patience: Duration,
    ) -> Result<Outcome, Unheard> {
        let shard = investigation::shard(investigation_id);
        let subject = subject::orchestrator_investigation(shard);
        let request = InvestigationRequest {
            investigation_id: investigation_id.to_owned(),
            user_id,
            verb: Some(verb),
        };
        rpc::insist(self.bus(), &subject, &request, patience, |answer| {
            let InvestigationReply { outcome } = answer;
            outcome.filter(|outcome| !is_for_later(outcome))
        })
        .await
    }
}

/// Whether the same is to be asked again.
fn is_for_later(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Refusal(refusal) if refusal.code() == InvestigationError::Unavailable)
}
