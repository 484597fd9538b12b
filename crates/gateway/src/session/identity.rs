//! Who the client is: credentials at the upgrade and later, and their end.

use std::time::Duration;

use signalbox_identity::{Principal, Role};
use signalbox_protocol::frame::fields::Complaint;
use signalbox_protocol::{Dialect as Name, ErrorCode};
use signalbox_transport::CloseCode;
use time::OffsetDateTime;
use tokio::time::Instant;
use tracing::info;

use super::{AUDIT, RETRY_AFTER, Session};
use crate::access;
use crate::authority::Refusal;
use crate::dialect::{Answer, Dialect, Occasion};

/// How far away the deadline of a credential without expiry is.
const NEVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

impl<D: Dialect> Session<D> {
    /// The credential expired, or none ever came.
    pub(super) fn time_is_up(&mut self) {
        let reason = match self.principal {
            Some(_) => "the token has expired",
            None => "not authenticated in time",
        };
        match self.principal {
            Some(_) => self.answer(&Answer::Expired { reason }),
            None => self.refuse(&Complaint::plain(ErrorCode::AuthFailed, reason)),
        }
        self.outbound
            .close_after_flush(CloseCode::POLICY_VIOLATION, reason);
        self.deadline.as_mut().reset(Instant::now() + NEVER);
    }

    /// Uses what came with the upgrade.
    pub(super) async fn enter(&mut self, credential: Result<Option<String>, Complaint>) {
        match credential {
            Ok(Some(credential)) => self.authenticate(&credential, Occasion::Upgrade).await,
            Ok(None) if D::AUTHENTICATION.is_some() => {}
            Ok(None) => self.deny(
                "a token is required: ?token=, or a header",
                Occasion::Upgrade,
            ),
            Err(complaint) => self.deny(&complaint.message, Occasion::Upgrade),
        }
    }

    pub(super) async fn authenticate(&mut self, credential: &str, occasion: Occasion) {
        let verdict = if *self.shard.shared.bus_present.borrow() {
            self.shard.shared.authority.authenticate(credential).await
        } else {
            // A token that was revoked meanwhile would pass here.
            Err(Refusal::Unavailable)
        };
        let verdict = verdict.and_then(|principal| self.acceptable(principal));
        match verdict {
            Ok(principal) => self.adopt(principal, occasion),
            Err(Refusal::Invalid(reason)) => self.deny(reason, occasion),
            Err(refusal @ Refusal::Unavailable) => {
                info!(target: AUDIT, session = %self.name, peer = %self.visitor.peer, reason = %refusal, "refused");
                let message = "credentials cannot be checked now";
                let farewell = self.dialect.farewell(message, RETRY_AFTER);
                self.outbound
                    .close_with(farewell, CloseCode::TRY_AGAIN_LATER, message);
            }
        }
    }

    /// Whether this connection may go on as `principal`.
    fn acceptable(&self, principal: Principal) -> Result<Principal, Refusal> {
        if principal.role == Some(Role::Agent) && D::NAME != Name::Fleet {
            return Err(Refusal::Invalid(
                "credentials of agents open dialect fleet only",
            ));
        }
        match &self.principal {
            Some(known) if known.subject != principal.subject => {
                Err(Refusal::Invalid("the credential is another user's"))
            }
            _ => Ok(principal),
        }
    }

    fn adopt(&mut self, principal: Principal, occasion: Occasion) {
        self.visitor.ticket.authenticated();
        info!(
            target: AUDIT,
            session = %self.name,
            peer = %self.visitor.peer,
            subject = %principal.subject,
            credential = %principal.credential,
            "authenticated"
        );
        let left = principal.expires_at.map_or(NEVER, |end| {
            Duration::try_from(end - OffsetDateTime::now_utc()).unwrap_or(Duration::ZERO)
        });
        self.deadline
            .as_mut()
            .reset(Instant::now() + left.min(NEVER));
        self.answer(&Answer::Authenticated {
            session_id: &self.name,
            principal: &principal,
            occasion,
        });
        let permissions = principal.permissions;
        self.principal = Some(principal);
        let mut hub = self.shard.hub.borrow_mut();
        self.subscriptions.retain(|_, held| {
            let kept = permissions.contains(access::required(held.channel));
            if !kept {
                hub.unsubscribe(held.id);
            }
            kept
        });
    }

    /// Refuses a credential, which ends the connection.
    fn deny(&self, reason: &str, occasion: Occasion) {
        info!(target: AUDIT, session = %self.name, peer = %self.visitor.peer, reason, "refused");
        self.answer(&Answer::Denied { reason, occasion });
        self.outbound
            .close_after_flush(CloseCode::POLICY_VIOLATION, reason);
    }
}
