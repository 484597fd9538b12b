//! What becomes of a client whose credential is taken back while it is there.

use signalbox_identity::{Revocations, Verdict};
use signalbox_protocol::{Dialect, ErrorCode};
use tracing::info;

use super::AUDIT;
use super::seat::Seat;
use crate::authority::REVOKED;
use crate::dialect::{pipeline, workspace};
use crate::shard::{Holder, Shard};

impl Holder for Seat {
    fn judge(&self, _shard: &Shard, entries: &Revocations) {
        let Some(principal) = self.principal() else {
            return;
        };
        let verdict = entries.judge(&principal);
        let outcome = match &verdict {
            Verdict::Untouched => return,
            Verdict::Narrowed(_) => "narrowed",
            Verdict::Ended => "ended",
        };
        info!(
            target: AUDIT,
            session = %self.name,
            subject = %principal.subject,
            credential = %principal.credential,
            outcome,
            "revoked"
        );
        let Some(desk) = self.desk.upgrade() else {
            return;
        };
        match verdict {
            Verdict::Untouched => {}
            Verdict::Narrowed(less) => desk.go_on_as(self, *less),
            Verdict::Ended => {
                // What was noted for it was meant for someone who had the
                // right to it.
                self.withdraw(&desk.clock);
                desk.part(self, ErrorCode::AuthFailed, REVOKED);
            }
        }
    }

    fn present_again(&self) {
        let is_key = self.principal().is_some_and(|principal| {
            // Tokens that were issued for a key have a time of issue.
            principal.origin.key.is_some() && principal.origin.issued_at.is_none()
        });
        let Some(desk) = self.desk.upgrade() else {
            return;
        };
        if !is_key {
            return;
        }
        info!(target: AUDIT, session = %self.name, "sent away to present its API key again");
        let message = "present the API key again";
        match self.dialect {
            Dialect::Workspace => self.say(&workspace::refusal(&workspace::Refused {
                code: ErrorCode::AuthFailed,
                message,
            })),
            _ => self.say(&pipeline::auth_error(ErrorCode::AuthFailed, message)),
        }
        // Nothing is kept: a session would go on without the key.
        self.forgotten.set(true);
        self.send_back(&desk.clock);
    }
}
