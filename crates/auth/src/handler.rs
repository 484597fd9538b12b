//! The requests of other services and their answers, with a line in the audit
//! log for each token that is issued and each request that is refused.

use signalbox_identity::{ApiKey, Secret};
use signalbox_protocol::wire;
use signalbox_protocol::wire::{issue_token_reply, verify_key_reply};
use time::OffsetDateTime;
use tracing::{field, info};

use crate::api_keys::ApiKeys;
use crate::grant::{self, Terms};
use crate::keyring::Keyring;
use crate::metrics::Metrics;
use crate::rejection::Rejection;

/// The log target of what security officers read.
const AUDIT: &str = "audit";

/// Answers requests.
pub(crate) struct Handler {
    api_keys: ApiKeys,
    keyring: Keyring,
    terms: Terms,
    metrics: Metrics,
}

impl Handler {
    pub(crate) fn new(api_keys: ApiKeys, keyring: Keyring, terms: Terms) -> Self {
        Self {
            api_keys,
            keyring,
            terms,
            metrics: Metrics::new(),
        }
    }

    /// Whether requests can be answered now, or why not.
    pub(crate) async fn probe(&self) -> Result<(), &'static str> {
        let found = self.api_keys.probe().await;
        found.map_err(|_| "API keys cannot be looked up")
    }

    /// Says whom an API key stands for. Accepted keys are no audit line here:
    /// gateways note the connection that they were presented on.
    pub(crate) async fn handle_verify_key(
        &self,
        request: &wire::VerifyKeyRequest,
    ) -> wire::VerifyKeyReply {
        let key = ApiKey::parse(&request.api_key).ok();
        let verdict = match &key {
            Some(key) => self.api_keys.authenticate(key).await,
            None => Err(Rejection::Malformed),
        };
        self.metrics.answered("verify_key", &verdict);
        let outcome = match verdict {
            Ok(principal) => verify_key_reply::Outcome::Principal((&principal).into()),
            Err(rejection) => {
                note_refusal("API key refused", key.as_ref(), &rejection);
                verify_key_reply::Outcome::Refusal((&rejection).into())
            }
        };
        wire::VerifyKeyReply {
            outcome: Some(outcome),
        }
    }

    /// Issues an access token for an API key.
    pub(crate) async fn handle_issue_token(
        &self,
        request: wire::IssueTokenRequest,
    ) -> wire::IssueTokenReply {
        let key = ApiKey::parse(&request.api_key).ok();
        let issued = match &key {
            Some(key) => self.issue(key, request).await,
            None => Err(Rejection::Malformed),
        };
        self.metrics.answered("issue_token", &issued);
        let outcome = match issued {
            Ok(token) => issue_token_reply::Outcome::Token(token),
            Err(rejection) => {
                note_refusal("token refused", key.as_ref(), &rejection);
                issue_token_reply::Outcome::Refusal((&rejection).into())
            }
        };
        wire::IssueTokenReply {
            outcome: Some(outcome),
        }
    }

    async fn issue(
        &self,
        key: &ApiKey,
        request: wire::IssueTokenRequest,
    ) -> Result<wire::IssuedToken, Rejection> {
        let principal = self.api_keys.authenticate(key).await?;
        let principal = grant::narrow(principal, request.projects, request.agent_id)?;
        let now = OffsetDateTime::now_utc();
        let claims = self.terms.claims(&principal, request.ttl_seconds, now);
        let signer = self.keyring.signer(now);
        let token: Secret = signer.sign(&claims)?;
        let lifetime = (claims.exp - claims.iat).whole_seconds();
        info!(
            target: AUDIT,
            key = %key.id(),
            subject = %claims.sub,
            role = claims.role.map(field::display),
            agent = claims.agent_id.as_ref().map(field::display),
            projects = ?claims.projects,
            token = %claims.jti,
            kid = signer.kid(),
            lifetime_seconds = lifetime,
            "token issued"
        );
        Ok(wire::IssuedToken {
            access_token: token.expose().to_owned(),
            expires_in: u32::try_from(lifetime).unwrap_or(u32::MAX),
        })
    }
}

fn note_refusal(what: &'static str, key: Option<&ApiKey>, rejection: &Rejection) {
    info!(
        target: AUDIT,
        key = key.map(|key| field::display(key.id())),
        code = %rejection.code(),
        reason = %rejection,
        "{what}"
    );
}
