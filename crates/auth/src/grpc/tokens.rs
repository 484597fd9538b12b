//! `TokenService`: whom a credential stands for.

use std::sync::Arc;

use signalbox_identity::{AgentId, Permission, Permissions, Principal, Role};
use signalbox_protocol::frame::fields::{Complaint, MAX_TOKEN_BYTES};
use signalbox_protocol::{Domain, ErrorCode};
use tonic::{Request, Response, Status};

use super::caller::Caller;
use super::status;
use crate::api;
use crate::api::token_service_server::TokenService;
use crate::api::verify_token_reply::Outcome;
use crate::handler::Handler;

/// The largest request, in bytes: a token of the greatest length and some.
pub(super) const MAX_MESSAGE_BYTES: usize = 2 * MAX_TOKEN_BYTES;

/// What is said of every credential that is not good.
const NOT_VALID: &str = "the credential is not valid";

/// The service.
pub(super) struct Tokens {
    handler: Arc<Handler>,
}

impl Tokens {
    pub(super) const fn new(handler: Arc<Handler>) -> Self {
        Self { handler }
    }
}

#[tonic::async_trait]
impl TokenService for Tokens {
    async fn verify_token(
        &self,
        request: Request<api::VerifyTokenRequest>,
    ) -> Result<Response<api::VerifyTokenReply>, Status> {
        let (caller, _pass, request) = Caller::of(request)?;
        may_verify(&caller.principal).map_err(|complaint| status::of(&complaint))?;
        let token = request.token;
        if token.len() > MAX_TOKEN_BYTES {
            let expected = format!("at most {MAX_TOKEN_BYTES} bytes");
            return Err(status::of(&Complaint::field("token", &expected)));
        }
        let verifier = &caller.principal.credential;
        let verdict = self.handler.verify_for(verifier, &token).await;
        let outcome = match verdict {
            Ok(principal) => Outcome::Principal(told(&principal)),
            Err(refusal) if refusal.code == ErrorCode::AuthFailed.as_str() => {
                Outcome::Refusal(api::Refusal {
                    code: refusal.code,
                    message: NOT_VALID.to_owned(),
                    delay_ms: refusal.delay_ms,
                })
            }
            Err(refusal) => return Err(status::of_refusal(&refusal)),
        };
        Ok(Response::new(api::VerifyTokenReply {
            outcome: Some(outcome),
        }))
    }
}

/// Systems may ask, people may not: any permission to publish marks a system.
fn may_verify(caller: &Principal) -> Result<(), Complaint> {
    let held = caller.permissions.intersection(Permissions::PUBLISH);
    if !held.is_empty() {
        return Ok(());
    }
    let any = Permission::Publish(Domain::Threat);
    Err(Complaint::plain(
        ErrorCode::Forbidden,
        format!("a permission such as {any} is needed"),
    ))
}

fn told(principal: &Principal) -> api::Principal {
    let agent = principal.agent_id.as_ref();
    api::Principal {
        subject: principal.subject.to_string(),
        name: principal.name.clone(),
        role: principal.role.map(Role::as_str).unwrap_or_default().into(),
        permissions: principal.permissions.words().collect(),
        projects: principal.projects.clone(),
        agent_id: agent.map(AgentId::to_string).unwrap_or_default(),
        credential_id: principal.credential.to_string(),
        expires_at_seconds: principal.expires_at.map_or(0, |end| end.unix_timestamp()),
        messages_per_minute: principal.limits.messages_per_minute,
        agent_chats_per_hour: principal.limits.agent_chats_per_hour,
    }
}

#[cfg(test)]
mod tests {
    use signalbox_identity::{CredentialId, Limits, Origin, UserId};

    use super::*;

    #[test]
    fn systems_and_administrators_may_verify() {
        for role in Role::ALL {
            let caller = Principal {
                subject: UserId::new("u").unwrap(),
                name: "U".to_owned(),
                role: Some(role),
                permissions: role.permissions(),
                projects: Vec::new(),
                agent_id: None,
                limits: Limits::default(),
                expires_at: None,
                credential: CredentialId::new("c").unwrap(),
                origin: Origin::default(),
            };
            let expected = matches!(role, Role::Admin | Role::Producer);
            assert_eq!(may_verify(&caller).is_ok(), expected, "{role}");
        }
    }
}
