//! Who the client is: the credential at the upgrade, the end of a token, and
//! fresh ones.

use std::time::Duration;

use signalbox_identity::Principal;
use signalbox_protocol::ErrorCode;
use signalbox_protocol::frame::fields::Complaint;
use signalbox_protocol::frame::fleet::server::ServerFrame;
use signalbox_protocol::wire::{IssuedToken, RefreshTokenRequest, RequestContext};
use signalbox_transport::CloseCode;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep};
use tracing::info;

use super::frames::{last, now, send_urgent};
use super::session::Session;
use super::standing::Part;
use crate::authority::{Refusal, Withheld};
use crate::session::{AUDIT, RETRY_AFTER};
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

impl Session {
    fn context(&self) -> RequestContext {
        RequestContext {
            peer_address: self.visitor.peer.ip().to_canonical().to_string(),
            request_id: self.name.clone(),
            connection_id: self.name.clone(),
        }
    }

    /// Uses what came with the upgrade.
    pub(super) async fn enter(&mut self, credential: Result<Option<String>, Complaint>) {
        let credential = match credential {
            Ok(Some(credential)) => credential,
            Ok(None) => {
                return self
                    .turn_away("a token is required: a header, ?token=, or the cookie token");
            }
            Err(complaint) => return self.turn_away(&complaint.message),
        };
        let verdict = self.examine(&credential).await;
        match verdict {
            Ok(principal) => self.adopt(principal),
            Err(withheld) => match withheld.refusal {
                Refusal::Invalid(reason) => {
                    self.withhold(&withheld, &credential).await;
                    self.turn_away(reason);
                }
                refusal @ Refusal::Unavailable => {
                    info!(target: AUDIT, session = %self.name, peer = %self.visitor.peer, reason = %refusal, "refused");
                    let message = "credentials cannot be checked now";
                    let farewell = last(ErrorCode::ConnectionFailed, message, Some(RETRY_AFTER));
                    self.outbound
                        .close_with(farewell, CloseCode::TRY_AGAIN_LATER, message);
                }
            },
        }
    }

    async fn examine(&self, credential: &str) -> Result<Principal, Withheld> {
        let shared = &self.shard.shared;
        if !*shared.bus_present.borrow() {
            // A token that was revoked meanwhile would pass here.
            return Err(Refusal::Unavailable.into());
        }
        let principal = shared.authority.examine(credential, self.context()).await?;
        // Nothing is awaited between this and `adopt`.
        let principal = shared.authority.judge(principal)?;
        match self.standing.principal() {
            Some(known) if known.subject != principal.subject => {
                Err(Refusal::Invalid("the credential is another user's").into())
            }
            Some(known)
                if self.standing.part() == Part::Agent && known.agent_id != principal.agent_id =>
            {
                Err(Refusal::Invalid("the credential is another agent's").into())
            }
            _ => Ok(principal),
        }
    }

    /// Waits as long as the refusal of a credential is to be withheld.
    async fn withhold(&self, withheld: &Withheld, credential: &str) {
        let back_off = &self.shard.shared.back_off;
        let delay = back_off.count(self.visitor.peer.ip(), credential);
        if let Some((_place, delay)) = back_off.withhold(delay.max(withheld.delay)) {
            sleep(delay).await;
        }
    }

    /// Closes a connection whose credential is missing or bad.
    fn turn_away(&self, reason: &str) {
        info!(target: AUDIT, session = %self.name, peer = %self.visitor.peer, reason, "refused");
        self.outbound
            .close_after_flush(CloseCode::POLICY_VIOLATION, reason);
    }

    fn adopt(&mut self, principal: Principal) {
        self.visitor.ticket.authenticated();
        info!(
            target: AUDIT,
            session = %self.name,
            peer = %self.visitor.peer,
            subject = %principal.subject,
            credential = %principal.credential,
            "authenticated"
        );
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
        let notice = self.shard.shared.options.expiry_notice;
        self.announcement = (!notice.is_zero()).then_some(Expiry { at, deadline });
        self.deadline
            .as_mut()
            .reset(now + left.saturating_sub(notice));
    }

    /// The credential is about to expire, or has.
    pub(super) fn time_is_up(&mut self) {
        if let Some(expiry) = self.announcement.take() {
            send_urgent(
                &self.outbound,
                &ServerFrame::RefreshNeeded {
                    expires_at: expiry.at.into(),
                    timestamp: now(),
                },
            );
            self.deadline.as_mut().reset(expiry.deadline);
            return;
        }
        self.standing.expire();
        let reason = "the token has expired";
        info!(target: AUDIT, session = %self.name, peer = %self.visitor.peer, reason, "time is up");
        let frame = last(ErrorCode::TokenExpired, reason, None);
        let _sent = self.outbound.send_urgent(&frame);
        self.outbound
            .close_after_flush(CloseCode::POLICY_VIOLATION, reason);
        self.deadline.as_mut().reset(Instant::now() + NEVER);
    }

    /// Goes on with a fresh token: the one given, or else one that is issued for
    /// the refresh token.
    pub(super) async fn refresh(
        &mut self,
        token: Option<String>,
        refresh_token: Option<String>,
        request_id: Option<&str>,
    ) -> Result<(), Complaint> {
        if token.is_none() && refresh_token.is_none() {
            return Err(Complaint::field("token", "a token, or else `refreshToken`"));
        }
        let mut refusal = String::new();
        if let Some(token) = token {
            match self.examine(&token).await {
                Ok(principal) if self.is_later(&principal) => {
                    self.succeed(principal, None, request_id);
                    return Ok(());
                }
                Ok(_) => "the token does not expire later".clone_into(&mut refusal),
                Err(withheld) => {
                    if withheld.refusal != Refusal::Unavailable && refresh_token.is_none() {
                        self.withhold(&withheld, &token).await;
                    }
                    refusal = withheld.refusal.to_string();
                }
            }
        }
        if let Some(refresh_token) = refresh_token {
            match self.exchange(refresh_token).await {
                Ok((principal, issued)) => {
                    self.succeed(principal, Some(&issued), request_id);
                    return Ok(());
                }
                Err(reason) => refusal = reason,
            }
        }
        info!(target: AUDIT, session = %self.name, peer = %self.visitor.peer, reason = %refusal, "not refreshed");
        send_urgent(
            &self.outbound,
            &ServerFrame::RefreshFailed {
                error: &refusal,
                request_id,
                timestamp: now(),
            },
        );
        Ok(())
    }

    /// Whether a credential lasts longer than the one in use.
    fn is_later(&self, principal: &Principal) -> bool {
        let known = self.standing.principal();
        match (
            known.and_then(|known| known.expires_at),
            principal.expires_at,
        ) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(known), Some(fresh)) => fresh > known,
        }
    }

    async fn exchange(&self, refresh_token: String) -> Result<(Principal, IssuedToken), String> {
        let request = RefreshTokenRequest {
            refresh_token,
            context: Some(self.context()),
        };
        let auth = &self.shard.shared.auth_service;
        let issued = auth
            .refresh(&request)
            .await
            .map_err(|declined| declined.complaint.message)?;
        let principal = self
            .examine(&issued.access_token)
            .await
            .map_err(|withheld| withheld.refusal.to_string())?;
        Ok((principal, issued))
    }

    fn succeed(
        &mut self,
        principal: Principal,
        issued: Option<&IssuedToken>,
        request_id: Option<&str>,
    ) {
        let expires_at = principal.expires_at;
        self.adopt(principal);
        send_urgent(
            &self.outbound,
            &ServerFrame::RefreshSuccess {
                token: issued.map(|issued| issued.access_token.as_str()),
                refresh_token: issued.map(|issued| issued.refresh_token.as_str()),
                expires_at: expires_at.map(Into::into),
                request_id,
                timestamp: now(),
            },
        );
    }
}
