//! Deciding on response actions.

use signalbox_bus::decision::{DecisionError, Outcome};
use signalbox_identity::Permission;
use signalbox_protocol::ErrorCode;
use signalbox_protocol::decision::Decision;
use signalbox_protocol::frame::fields::Complaint;
use tracing::{info, warn};

use super::{AUDIT, Session};
use crate::dialect::{Answer, Dialect};

/// The field of a decision that says on what it was made.
const ARGUMENTS_HASH: &str = "arguments_hash";

impl<D: Dialect + 'static> Session<D> {
    /// The connection's user, who may decide on actions.
    pub(super) fn decider(&self) -> Result<String, Complaint> {
        let Some(principal) = self.standing.principal() else {
            return Err(Complaint::plain(ErrorCode::Forbidden, "authenticate first"));
        };
        let required = Permission::ExecuteActions;
        if !principal.permissions.contains(required) {
            let message = format!("to decide on actions needs permission {required}");
            return Err(Complaint::plain(ErrorCode::Forbidden, message));
        }
        Ok(principal.subject.to_string())
    }

    /// Decides on an action, and answers.
    pub(super) async fn decide(&self, decision: Decision) -> Result<(), Complaint> {
        if !*self.shard.shared.bus_present.borrow() {
            return Err(unavailable());
        }
        let decisions = &self.shard.shared.decisions;
        let outcome = match decisions.decide(decision.clone()).await {
            Ok(outcome) => outcome,
            Err(error) => return Err(self.undecided(&decision, &error)),
        };
        // Neither being second nor being late is a mistake, so neither is a bad
        // message.
        match outcome {
            Outcome::Made => {
                self.note(&decision, "decided");
                self.answer(&Answer::Decided(&decision));
            }
            Outcome::Already(first) => {
                self.note(&decision, "not decided, somebody was first");
                self.answer(&Answer::DecidedBefore(&first));
            }
            Outcome::Expired(end) => {
                self.note(&decision, "not decided, the action has expired");
                self.answer(&Answer::DecidedTooLate(end));
            }
        }
        Ok(())
    }

    /// Notes in the audit log who wanted what, and what came of it.
    fn note(&self, decision: &Decision, outcome: &'static str) {
        info!(
            target: AUDIT,
            session = %self.name,
            subject = %decision.decided_by,
            action = %decision.action_id,
            decision = decision.verdict.as_str(),
            arguments_hash = decision.arguments_hash,
            "{outcome}"
        );
    }

    fn undecided(&self, decision: &Decision, error: &DecisionError) -> Complaint {
        match error {
            DecisionError::UnknownAction => Complaint {
                code: ErrorCode::NotFound,
                message: format!("there is no action `{}`", decision.action_id),
                field: Some("action_id".to_owned()),
            },
            DecisionError::OtherArguments => {
                self.note(decision, "not decided, the action has other arguments");
                Complaint::field(ARGUMENTS_HASH, "the hash of the action's arguments")
            }
            DecisionError::Unpublished(_) | DecisionError::Bus(_) => {
                warn!(session = %self.name, %error, "decision not made");
                unavailable()
            }
        }
    }
}

fn unavailable() -> Complaint {
    let message = "decisions cannot be made now, decide again";
    Complaint::plain(ErrorCode::Unavailable, message)
}
