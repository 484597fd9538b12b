//! Deciding on response actions.

use signalbox_bus::decision::{DecisionError, Outcome};
use signalbox_identity::Permission;
use signalbox_protocol::ErrorCode;
use signalbox_protocol::decision::{Decision, Verdict};
use signalbox_protocol::frame::fields::Complaint;
use tracing::{info, warn};

use super::{AUDIT, Session};
use crate::dialect::{Answer, Dialect};

impl<D: Dialect + 'static> Session<D> {
    /// Decides on an action in the name of the connection's user, and answers.
    pub(super) async fn decide(
        &self,
        action_id: String,
        verdict: Verdict,
        reason: Option<String>,
    ) -> Result<(), Complaint> {
        let Some(principal) = self.standing.principal() else {
            return Err(Complaint::plain(ErrorCode::Forbidden, "authenticate first"));
        };
        let required = Permission::ExecuteActions;
        if !principal.permissions.contains(required) {
            let message = format!("to decide on actions needs permission {required}");
            return Err(Complaint::plain(ErrorCode::Forbidden, message));
        }
        if !*self.shard.shared.bus_present.borrow() {
            return Err(unavailable());
        }
        let decision = Decision {
            action_id,
            verdict,
            reason,
            decided_by: principal.subject.to_string(),
        };
        match self.shard.shared.decisions.decide(decision.clone()).await {
            Ok(Outcome::Made) => {
                info!(
                    target: AUDIT,
                    session = %self.name,
                    subject = %decision.decided_by,
                    action = %decision.action_id,
                    decision = verdict.as_str(),
                    "decided"
                );
                self.answer(&Answer::Decided(&decision));
                Ok(())
            }
            // Being second is no mistake, so it is no bad message either.
            Ok(Outcome::Already(first)) => {
                self.answer(&Answer::DecidedBefore(&first));
                Ok(())
            }
            Err(DecisionError::UnknownAction) => Err(Complaint {
                code: ErrorCode::NotFound,
                message: format!("there is no action `{}`", decision.action_id),
                field: Some("action_id".to_owned()),
            }),
            Err(error @ (DecisionError::Unpublished(_) | DecisionError::Bus(_))) => {
                warn!(session = %self.name, %error, "decision not made");
                Err(unavailable())
            }
        }
    }
}

fn unavailable() -> Complaint {
    let message = "decisions cannot be made now, decide again";
    Complaint::plain(ErrorCode::Unavailable, message)
}
