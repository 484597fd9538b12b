//! Principals as services send them to each other.
//!
//! The message has no end of validity, since only principals of API keys are
//! sent, and those do not expire on their own.

use signalbox_protocol::wire;

use crate::api_key::ApiKeyId;
use crate::permission::Permissions;
use crate::principal::{AgentId, CredentialId, InvalidId, Limits, Origin, Principal, UserId};
use crate::role::Role;

/// A message that stands for no principal.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("principal: field `{field}`: {cause}")]
pub struct InvalidPrincipal {
    /// The field that is wrong, as the message names it.
    pub field: &'static str,
    /// What is wrong with it.
    #[source]
    pub cause: InvalidId,
}

impl From<&Principal> for wire::Principal {
    fn from(principal: &Principal) -> Self {
        Self {
            subject: principal.subject.to_string(),
            name: principal.name.clone(),
            role: principal.role.map(Role::as_str).unwrap_or_default().into(),
            permissions: principal.permissions.words().collect(),
            projects: principal.projects.clone(),
            agent_id: principal
                .agent_id
                .as_ref()
                .map(AgentId::to_string)
                .unwrap_or_default(),
            messages_per_minute: principal.limits.messages_per_minute,
            agent_chats_per_hour: principal.limits.agent_chats_per_hour,
            credential: principal.credential.to_string(),
        }
    }
}

/// Absent fields take their defaults: no agent, the usual limits, the subject
/// as name. A role that this version does not know grants nothing, and listed
/// permissions narrow a role and never widen it.
impl TryFrom<wire::Principal> for Principal {
    type Error = InvalidPrincipal;

    fn try_from(message: wire::Principal) -> Result<Self, InvalidPrincipal> {
        let wrong = |field| move |cause| InvalidPrincipal { field, cause };
        let subject = UserId::new(message.subject).map_err(wrong("subject"))?;
        let agent_id = Some(message.agent_id)
            .filter(|id| !id.is_empty())
            .map(AgentId::new)
            .transpose()
            .map_err(wrong("agent_id"))?;
        let credential = CredentialId::new(message.credential).map_err(wrong("credential"))?;
        let role: Option<Role> = message.role.parse().ok();
        let listed = Permissions::from_words(message.permissions.iter().map(String::as_str));
        let usual = Limits::default();
        Ok(Self {
            name: Some(message.name)
                .filter(|name| !name.is_empty())
                .unwrap_or_else(|| subject.to_string()),
            subject,
            role,
            permissions: listed.intersection(role.map_or(Permissions::NONE, Role::permissions)),
            projects: message.projects,
            agent_id,
            limits: Limits {
                messages_per_minute: or(message.messages_per_minute, usual.messages_per_minute),
                agent_chats_per_hour: or(message.agent_chats_per_hour, usual.agent_chats_per_hour),
            },
            expires_at: None,
            origin: Origin {
                key: ApiKeyId::parse(credential.as_str()).ok(),
                ..Origin::default()
            },
            credential,
        })
    }
}

/// `sent`, unless the field is absent, which reads as zero.
const fn or(sent: u32, usual: u32) -> u32 {
    if sent == 0 { usual } else { sent }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::permission::Permission;

    fn message() -> wire::Principal {
        wire::Principal {
            subject: "user-1".to_owned(),
            name: "Ada".to_owned(),
            role: "analyst".to_owned(),
            permissions: vec!["chat_agents".to_owned()],
            projects: vec!["apollo".to_owned()],
            agent_id: "agent-1".to_owned(),
            messages_per_minute: 7,
            agent_chats_per_hour: 8,
            credential: "abcdefghijk2".to_owned(),
        }
    }

    #[test]
    fn every_field_arrives() {
        let principal = Principal::try_from(message()).unwrap();
        assert_eq!(
            principal,
            Principal {
                subject: UserId::new("user-1").unwrap(),
                name: "Ada".to_owned(),
                role: Some(Role::Analyst),
                permissions: Permissions::of(&[Permission::ChatAgents]),
                projects: vec!["apollo".to_owned()],
                agent_id: Some(AgentId::new("agent-1").unwrap()),
                limits: Limits {
                    messages_per_minute: 7,
                    agent_chats_per_hour: 8,
                },
                expires_at: None,
                credential: CredentialId::new("abcdefghijk2").unwrap(),
                origin: Origin {
                    key: ApiKeyId::parse("abcdefghijk2").ok(),
                    ..Origin::default()
                },
            }
        );
    }

    #[test]
    fn principals_of_all_roles_round_trip() {
        for role in Role::ALL {
            let sent = Principal {
                role: Some(role),
                permissions: role.permissions(),
                agent_id: None,
                ..Principal::try_from(message()).unwrap()
            };
            assert_eq!(Principal::try_from(wire::Principal::from(&sent)), Ok(sent));
        }
        assert_eq!(
            wire::Principal::from(&Principal::try_from(message()).unwrap()),
            message()
        );
    }

    #[test]
    fn absent_fields_take_their_defaults() {
        let principal = Principal::try_from(wire::Principal {
            subject: "user-1".to_owned(),
            credential: "abcdefghijk2".to_owned(),
            ..wire::Principal::default()
        })
        .unwrap();
        assert_eq!(principal.agent_id, None);
        assert_eq!(principal.limits, Limits::default());
        assert_eq!(principal.name, "user-1");
        assert_eq!(principal.role, None);
    }

    #[test]
    fn nothing_is_granted_beyond_a_known_role() {
        let granted = |role: &str, words: &[&str]| {
            let principal = Principal::try_from(wire::Principal {
                role: role.to_owned(),
                permissions: words.iter().map(|&word| word.to_owned()).collect(),
                ..message()
            });
            let principal = principal.unwrap();
            (principal.role, principal.permissions)
        };
        assert_eq!(granted("emperor", &["admin"]), (None, Permissions::NONE));
        assert_eq!(
            granted("viewer", &["admin", "read_threats", "fly"]),
            (
                Some(Role::Viewer),
                Permissions::of(&[Permission::ReadThreats])
            )
        );
    }

    #[test]
    fn an_unusable_id_is_refused_by_its_field() {
        let refused = |change: fn(&mut wire::Principal)| {
            let mut message = message();
            change(&mut message);
            Principal::try_from(message).unwrap_err().field
        };
        assert_eq!(refused(|m| m.subject.clear()), "subject");
        assert_eq!(refused(|m| m.agent_id = "a b".to_owned()), "agent_id");
        assert_eq!(refused(|m| m.credential.clear()), "credential");
    }
}
