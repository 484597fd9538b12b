//! Whom a credential stands for, of whatever kind it is, at this moment.

use std::net::IpAddr;

use signalbox_identity::external::claimed_issuer;
use signalbox_identity::{Credential, CredentialId, Principal};
use signalbox_protocol::wire;

use crate::handler::{Asker, Handler};
use crate::rejection::Rejection;

impl Handler {
    /// Finds out who calls from the network.
    ///
    /// # Errors
    /// What to tell the caller, and how late.
    pub(crate) async fn admit_caller(
        &self,
        credential: &str,
        peer: Option<IpAddr>,
    ) -> Result<Principal, wire::Refusal> {
        let asker = Asker::new(Some(wire::RequestContext {
            peer_address: peer.map(|peer| peer.to_string()).unwrap_or_default(),
            ..wire::RequestContext::default()
        }));
        let verdict = self.identify(credential).await;
        self.judged("caller refused", asker, credential, verdict)
    }

    /// Finds out whom a credential stands for, for the system that asks.
    ///
    /// # Errors
    /// What to tell that system. Failures are counted by the key that was
    /// presented and not by the asker or its address: it is somebody else's.
    pub(crate) async fn verify_for(
        &self,
        verifier: &CredentialId,
        credential: &str,
    ) -> Result<Principal, wire::Refusal> {
        let asker = Asker::new(Some(wire::RequestContext {
            request_id: format!("verifier={verifier}"),
            ..wire::RequestContext::default()
        }));
        let verdict = self.identify(credential).await;
        self.metrics.answered("verify_token", &verdict);
        self.judged("credential refused", asker, credential, verdict)
    }

    async fn identify(&self, credential: &str) -> Result<Principal, Rejection> {
        match Credential::parse(credential) {
            Ok(Credential::ApiKey(key)) => self.api_keys.authenticate(&key).await,
            Ok(Credential::Jwt(token)) => {
                let token = token.expose();
                let issuer = claimed_issuer(token);
                match issuer.and_then(|issuer| self.issuers.named(&issuer)) {
                    Some(issuer) => {
                        let principal = self.issuers.verify(issuer, token).await?;
                        let left = self.revoker.judge(principal).await?;
                        left.ok_or_else(|| Rejection::BadToken("revoked".to_owned()))
                    }
                    None => self.sessions.verify(token).await,
                }
            }
            Err(_) => Err(Rejection::BadToken("malformed".to_owned())),
        }
    }

    fn judged(
        &self,
        what: &'static str,
        asker: Asker,
        credential: &str,
        verdict: Result<Principal, Rejection>,
    ) -> Result<Principal, wire::Refusal> {
        let key = match Credential::parse(credential) {
            Ok(Credential::ApiKey(key)) => Some(key),
            _ => None,
        };
        let asker = asker.with("key", key.as_ref().map(|key| key.id().as_str()));
        match verdict {
            Ok(principal) => {
                self.forgive(&asker);
                Ok(principal)
            }
            Err(rejection) => Err(self.refuse(what, &asker, &rejection)),
        }
    }
}
