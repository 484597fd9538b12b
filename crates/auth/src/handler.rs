//! The requests of other services and their answers, with a line in the audit
//! log for each token that is issued and each request that is refused.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use signalbox_identity::{ApiKey, Credential, Permission, Target};
use signalbox_protocol::wire::{
    self, issue_token_reply, manage_reply, revoke_reply, revoke_request, verify_key_reply,
};
use tracing::{field, info};

use crate::AUDIT;
use crate::api_keys::ApiKeys;
use crate::back_off::{Culprit, Failures};
use crate::family::RefreshToken;
use crate::issuers::Issuers;
use crate::manage::Manager;
use crate::metrics::Metrics;
use crate::rejection::Rejection;
use crate::revoker::Revoker;
use crate::sessions::{Issued, Sessions};
use crate::users;

/// Answers requests.
pub(crate) struct Handler {
    pub(crate) api_keys: Arc<ApiKeys>,
    pub(crate) revoker: Arc<Revoker>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) manager: Manager,
    pub(crate) failures: Failures,
    pub(crate) issuers: Issuers,
    pub(crate) metrics: Metrics,
}

/// Who asks, and with which credential, as far as it may be named.
pub(crate) struct Asker {
    context: wire::RequestContext,
    /// What names the credential: an id or a username.
    credential: Option<String>,
}

impl Asker {
    pub(crate) fn new(context: Option<wire::RequestContext>) -> Self {
        Self {
            context: context.unwrap_or_default(),
            credential: None,
        }
    }

    pub(crate) fn with(mut self, kind: &str, credential: Option<&str>) -> Self {
        self.credential = credential.map(|credential| format!("{kind}={credential}"));
        self
    }

    fn address(&self) -> Option<Culprit> {
        Culprit::address(&self.context.peer_address)
    }

    fn named(&self) -> Option<Culprit> {
        self.credential.clone().map(Culprit::Credential)
    }

    fn connection(&self) -> Option<&str> {
        Some(self.context.connection_id.as_str()).filter(|id| !id.is_empty())
    }

    /// The address as it may stand in a log.
    fn peer(&self) -> Option<IpAddr> {
        self.context.peer_address.parse().ok()
    }
}

impl Handler {
    /// Whether requests can be answered now, or why not.
    pub(crate) async fn probe(&self) -> Result<(), &'static str> {
        let found = self.api_keys.probe().await;
        found.map_err(|_| "API keys cannot be looked up")
    }

    /// Says whom an API key stands for. Accepted keys are no audit line here:
    /// gateways note the connection that they were presented on.
    pub(crate) async fn handle_verify_key(
        &self,
        request: wire::VerifyKeyRequest,
    ) -> wire::VerifyKeyReply {
        let key = ApiKey::parse(&request.api_key).ok();
        let asker =
            Asker::new(request.context).with("key", key.as_ref().map(|key| key.id().as_str()));
        let verdict = match &key {
            Some(key) => self.api_keys.authenticate(key).await,
            None => Err(Rejection::BadKey("malformed")),
        };
        self.metrics.answered("verify_key", &verdict);
        let outcome = match verdict {
            Ok(principal) => verify_key_reply::Outcome::Principal((&principal).into()),
            Err(rejection) => {
                let refusal = self.refuse("API key refused", &asker, &rejection);
                verify_key_reply::Outcome::Refusal(refusal)
            }
        };
        wire::VerifyKeyReply {
            outcome: Some(outcome),
        }
    }

    /// Issues the first tokens of a line for an API key or a password.
    pub(crate) async fn handle_issue_token(
        &self,
        mut request: wire::IssueTokenRequest,
    ) -> wire::IssueTokenReply {
        let asker = Asker::new(request.context.take());
        let by_password = !request.username.is_empty() || !request.password.is_empty();
        let (asker, issued) = match by_password {
            true if request.api_key.is_empty() => {
                let username = users::username(&request.username);
                let named = username.as_ref().ok().map(|name| name.as_str());
                let asker = asker.with("user", named);
                let issued = match (username, self.withheld(&asker)) {
                    (Err(rejection), _) | (_, Some(rejection)) => Err(rejection),
                    (Ok(name), None) => self.sessions.begin_with_password(name, request).await,
                };
                (asker, issued)
            }
            true => (
                asker,
                Err(Rejection::Unfit {
                    field: "api_key",
                    expected: "an API key, or a username and a password, and not both",
                }),
            ),
            false => {
                let key = ApiKey::parse(&request.api_key).ok();
                let asker = asker.with("key", key.as_ref().map(|key| key.id().as_str()));
                let issued = match &key {
                    Some(key) => self.sessions.begin_with_key(key, request).await,
                    None => Err(Rejection::BadKey("malformed")),
                };
                (asker, issued)
            }
        };
        self.metrics.answered("issue_token", &issued);
        self.answer("token issued", "token refused", &asker, issued)
    }

    /// Exchanges a refresh token.
    pub(crate) async fn handle_refresh_token(
        &self,
        request: wire::RefreshTokenRequest,
    ) -> wire::IssueTokenReply {
        let token = RefreshToken::parse(&request.refresh_token);
        let family = token.as_ref().map(|token| token.family().as_str());
        let asker = Asker::new(request.context).with("family", family);
        let issued = match &token {
            Some(token) => self.sessions.refresh(token, asker.connection()).await,
            None => Err(Rejection::BadRefresh("malformed")),
        };
        self.metrics.answered("refresh_token", &issued);
        self.answer("token refreshed", "refresh refused", &asker, issued)
    }

    /// Revokes what the bearer holds.
    pub(crate) async fn handle_revoke(&self, request: wire::RevokeRequest) -> wire::RevokeReply {
        let asker = Asker::new(request.context);
        let revoked = self.revoke(request.held).await;
        self.metrics.answered("revoke", &revoked);
        let outcome = match revoked {
            Ok(what) => {
                info!(
                    target: AUDIT, peer = asker.peer().map(field::display),
                    request = asker.context.request_id, what, "revoked by its bearer"
                );
                revoke_reply::Outcome::Done(wire::Done {})
            }
            Err(rejection) => {
                let refusal = self.refuse("revocation refused", &asker, &rejection);
                revoke_reply::Outcome::Refusal(refusal)
            }
        };
        wire::RevokeReply {
            outcome: Some(outcome),
        }
    }

    /// Does what an administrator asks for, who is recognised by the credential
    /// in the request.
    pub(crate) async fn handle_manage(&self, request: wire::ManageRequest) -> wire::ManageReply {
        let asker = Asker::new(request.context);
        let actor = match self.administrator(&request.credential).await {
            Ok(actor) => actor,
            Err(rejection) => {
                let refusal = self.refuse("administration refused", &asker, &rejection);
                return managed(manage_reply::Outcome::Refusal(refusal));
            }
        };
        self.operate(&asker, &actor, request.operation).await
    }

    /// Does what someone asks for who may send on the administrators' subject.
    pub(crate) async fn handle_admin_manage(
        &self,
        request: wire::ManageRequest,
    ) -> wire::ManageReply {
        let asker = Asker::new(request.context);
        let actor = format!("cli:{}", request.actor.escape_debug());
        self.operate(&asker, &actor, request.operation).await
    }

    /// Fetches the keys of an external issuer.
    pub(crate) async fn handle_refresh_issuer(
        &self,
        request: wire::RefreshIssuerRequest,
    ) -> wire::RefreshIssuerReply {
        let fetched = self.issuers.refresh(&request.issuer).await;
        wire::RefreshIssuerReply { fetched }
    }

    async fn operate(
        &self,
        asker: &Asker,
        actor: &str,
        operation: Option<wire::manage_request::Operation>,
    ) -> wire::ManageReply {
        let outcome = match operation {
            Some(operation) => self.manager.operate(operation, actor).await,
            None => Err(Rejection::Unfit {
                field: "operation",
                expected: "one that this version knows",
            }),
        };
        self.metrics.answered("manage", &outcome);
        managed(outcome.unwrap_or_else(|rejection| {
            let refusal = self.refuse("administration refused", asker, &rejection);
            manage_reply::Outcome::Refusal(refusal)
        }))
    }

    /// Who administers with this credential.
    async fn administrator(&self, credential: &str) -> Result<String, Rejection> {
        let principal = match Credential::parse(credential) {
            Ok(Credential::ApiKey(key)) => self.api_keys.authenticate(&key).await?,
            Ok(Credential::Jwt(token)) => self.sessions.verify(token.expose()).await?,
            Err(_) => return Err(Rejection::BadToken("malformed".to_owned())),
        };
        match principal.permissions.contains(Permission::Admin) {
            true => Ok(format!("{} by {}", principal.subject, principal.credential)),
            false => Err(Rejection::NotAdmin),
        }
    }

    async fn revoke(&self, held: Option<revoke_request::Held>) -> Result<&'static str, Rejection> {
        use revoke_request::Held;

        match held {
            Some(Held::RefreshToken(text)) => {
                let token = RefreshToken::parse(&text).ok_or(Rejection::BadRefresh("malformed"))?;
                self.sessions.revoke_presented(&token).await?;
                Ok("family")
            }
            Some(Held::AccessToken(text)) => {
                let principal = self.sessions.verify(&text).await?;
                self.revoker
                    .end(&Target::Token(principal.credential))
                    .await?;
                if let Some(family) = principal.origin.family {
                    match self.sessions.revoke(&family).await {
                        // The line may have ended by itself.
                        Ok(()) | Err(Rejection::NotFound(_)) => {}
                        Err(other) => return Err(other),
                    }
                }
                Ok("token")
            }
            Some(Held::EverythingOf(text)) => {
                let principal = self.sessions.verify(&text).await?;
                if principal.origin.key.is_some() {
                    return Err(Rejection::Unfit {
                        field: "everything_of",
                        expected: "the token of a user, and not of an API key",
                    });
                }
                let actor = format!("{}", principal.credential);
                self.manager
                    .end_tokens_of(&principal.subject, &actor)
                    .await?;
                Ok("all tokens")
            }
            None => Err(Rejection::Unfit {
                field: "held",
                expected: "a refresh token or an access token",
            }),
        }
    }

    /// Whether the address of a login must wait before a password is looked at.
    fn withheld(&self, asker: &Asker) -> Option<Rejection> {
        let rest = self.failures.withheld(&asker.address()?);
        (!rest.is_zero()).then_some(Rejection::Withheld(rest))
    }

    fn answer(
        &self,
        done: &'static str,
        refused: &'static str,
        asker: &Asker,
        issued: Result<Issued, Rejection>,
    ) -> wire::IssueTokenReply {
        let outcome = match issued {
            Ok(issued) => {
                self.forgive(asker);
                note_issue(done, asker, &issued);
                issue_token_reply::Outcome::Token(issued.tokens)
            }
            Err(rejection) => {
                issue_token_reply::Outcome::Refusal(self.refuse(refused, asker, &rejection))
            }
        };
        wire::IssueTokenReply {
            outcome: Some(outcome),
        }
    }

    /// Forgets the failures with a credential that turned out good.
    pub(crate) fn forgive(&self, asker: &Asker) {
        if let Some(named) = asker.named() {
            self.failures.forgive(&named);
        }
    }

    /// Turns a request down: counts it if it may have been a guess, and notes it.
    pub(crate) fn refuse(
        &self,
        what: &'static str,
        asker: &Asker,
        rejection: &Rejection,
    ) -> wire::Refusal {
        let culprits = [asker.address(), asker.named()];
        let count = |culprit| self.failures.count(culprit);
        let delay = match rejection.is_failure() {
            true => culprits.into_iter().flatten().map(count).max(),
            false => None,
        };
        let refusal = rejection.refusal(delay.unwrap_or(Duration::ZERO));
        info!(
            target: AUDIT,
            peer = asker.peer().map(field::display),
            request = asker.context.request_id,
            credential = asker.credential,
            code = refusal.code,
            reason = %rejection,
            delay_ms = refusal.delay_ms,
            "{what}"
        );
        refusal
    }
}

fn managed(outcome: manage_reply::Outcome) -> wire::ManageReply {
    wire::ManageReply {
        outcome: Some(outcome),
    }
}

fn note_issue(what: &'static str, asker: &Asker, issued: &Issued) {
    let claims = &issued.claims;
    info!(
        target: AUDIT,
        peer = asker.peer().map(field::display),
        request = asker.context.request_id,
        credential = asker.credential,
        key = claims.key_id.as_ref().map(field::display),
        subject = %claims.sub,
        role = claims.role.map(field::display),
        agent = claims.agent_id.as_ref().map(field::display),
        projects = ?claims.projects,
        token = %claims.jti,
        family = claims.sid.as_ref().map(field::display),
        kid = issued.kid,
        lifetime_seconds = issued.tokens.expires_in,
        "{what}"
    );
}
