//! Notes on their way to the orchestrators. A request is sent again as it is
//! until it is answered or the patience for it ends; it is harmless to repeat,
//! see `investigation.proto`.

use std::time::Duration;

use signalbox_bus::{rpc, subject};
use signalbox_protocol::investigation;
use signalbox_protocol::wire::investigation_reply::Outcome;
use signalbox_protocol::wire::investigation_request::Verb;
use signalbox_protocol::wire::{InvestigationError, InvestigationReply, InvestigationRequest};
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::Investigations;

/// How long one attempt may take before the request is sent again.
const ATTEMPT: Duration = Duration::from_secs(1);
/// The pause before a request is sent again.
const PAUSE: Duration = Duration::from_millis(50);

/// Nobody has answered in time. The request may have been served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unheard;

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
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let answer: Result<InvestigationReply, _> =
                rpc::ask(self.bus(), &subject, &request, left.min(ATTEMPT)).await;
            match answer {
                Ok(InvestigationReply {
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
    matches!(outcome, Outcome::Refusal(refusal) if refusal.code() == InvestigationError::Unavailable)
}
