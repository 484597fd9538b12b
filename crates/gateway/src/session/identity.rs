//! Who the client is: credentials at the upgrade and later, and their end.

use std::time::Duration;

use signalbox_identity::{Principal, Role};
use signalbox_protocol::frame::fields::Complaint;
use signalbox_protocol::wire::RequestContext;
use signalbox_protocol::{Dialect as Name, ErrorCode};
use signalbox_transport::CloseCode;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep};
use tracing::info;

use super::{AUDIT, RETRY_AFTER, Session};
use crate::authority::{Refusal, Withheld};
use crate::dialect::{Answer, Dialect, Occasion};
use crate::shard::Holder as _;

/// How far away the deadline of a credential without expiry is.
const NEVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The end of a credential that is still to be announced.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expiry {
    /// When it comes, by the clock of tokens.
    at: OffsetDateTime,
    /// When it comes, by ours.
    deadline: Instant,
}

impl<D: Dialect + 'static> Session<D> {
    /// The credential is about to expire or has, or none ever came.
    pub(super) fn time_is_up(&mut self) {
        let authenticated = self.standing.principal().is_some();
        if let Some(expiry) = self.announcement.take() {
            self.answer(&Answer::Expiring {
                expires_at: expiry.at,
            });
            self.deadline.as_mut().reset(expiry.deadline);
            return;
        }
        let reason = if authenticated {
            "the token has expired"
        } else {
            "not authenticated in time"
        };
        if authenticated {
            self.answer(&Answer::Expired { reason });
        } else {
            self.refuse(&Complaint::plain(ErrorCode::AuthFailed, reason));
        }
        info!(target: AUDIT, session = %self.name, peer = %self.visitor.peer, reason, "time is up");
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
        let context = RequestContext {
            peer_address: self.visitor.peer.ip().to_canonical().to_string(),
            request_id: self.name.clone(),
            connection_id: self.name.clone(),
        };
        let verdict = if *self.shard.shared.bus_present.borrow() {
            let authority = &self.shard.shared.authority;
            authority.examine(credential, context).await
        } else {
            // A token that was revoked meanwhile would pass here.
            Err(Refusal::Unavailable.into())
        };
        let verdict = verdict.and_then(|principal| Ok(self.acceptable(principal)?));
        let withheld = match verdict {
            Ok(principal) => return self.adopt(principal, occasion),
            Err(withheld) => withheld,
        };
        match withheld.refusal {
            Refusal::Invalid(reason) => {
                self.withhold(&withheld, credential).await;
                self.deny(reason, occasion);
            }
            refusal @ Refusal::Unavailable => {
                info!(target: AUDIT, session = %self.name, peer = %self.visitor.peer, reason = %refusal, "refused");
                let message = "credentials cannot be checked now";
                let farewell = self.dialect.farewell(message, RETRY_AFTER);
                self.outbound
                    .close_with(farewell, CloseCode::TRY_AGAIN_LATER, message);
            }
        }
    }

    /// Waits as long as the refusal of a credential is to be withheld; the
    /// session does nothing else meanwhile, and its connection ends after.
    async fn withhold(&self, withheld: &Withheld, credential: &str) {
        let back_off = &self.shard.shared.back_off;
        let delay = back_off.count(self.visitor.peer.ip(), credential);
        if let Some((_place, delay)) = back_off.withhold(delay.max(withheld.delay)) {
            sleep(delay).await;
        }
    }

    /// Whether this connection may go on as `principal`. Nothing is awaited
    /// between this and [`adopt`](Self::adopt): a revocation comes before both
    /// and is seen here, or after and finds the connection.
    fn acceptable(&self, principal: Principal) -> Result<Principal, Refusal> {
        let principal = self.shard.shared.authority.judge(principal)?;
        if principal.role == Some(Role::Agent) && D::NAME != Name::Fleet {
            return Err(Refusal::Invalid(
                "credentials of agents open dialect fleet only",
            ));
        }
        match self.standing.principal() {
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
        self.answer(&Answer::Authenticated {
            session_id: &self.name,
            principal: &principal,
            occasion,
        });
        self.expect_end(principal.expires_at);
        self.standing.go_on_as(&self.shard, principal);
    }

    /// Sets the clock for the end of a credential and its announcement.
    fn expect_end(&mut self, expires_at: Option<OffsetDateTime>) {
        let now = Instant::now();
        let Some(at) = expires_at else {
            self.announcement = None;
            self.deadline.as_mut().reset(now + NEVER);
            return;
        };
        let left = Duration::try_from(at - OffsetDateTime::now_utc()).unwrap_or(Duration::ZERO);
        let left = left.min(NEVER);
        let deadline = now + left;
        // A token that lives no longer than the notice is announced at once.
        let notice = self.shard.shared.options.expiry_notice;
        self.announcement = (!notice.is_zero()).then_some(Expiry { at, deadline });
        let first = if notice.is_zero() {
            deadline
        } else {
            now + left.saturating_sub(notice)
        };
        self.deadline.as_mut().reset(first);
    }

    /// Refuses a credential, which ends the connection.
    fn deny(&self, reason: &str, occasion: Occasion) {
        info!(target: AUDIT, session = %self.name, peer = %self.visitor.peer, reason, "refused");
        self.answer(&Answer::Denied { reason, occasion });
        self.outbound
            .close_after_flush(CloseCode::POLICY_VIOLATION, reason);
    }
}
