//! An authenticated party: who a connection is, as far as authorisation and
//! audit need to know.

use std::fmt;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use signalbox_protocol::name;

use crate::api_key::ApiKeyId;
use crate::permission::{Permission, Permissions};
use crate::role::Role;

/// Chat and command messages per minute when a credential sets no limit.
const DEFAULT_MESSAGES_PER_MINUTE: u32 = 60;
/// Agent chats per hour when a credential sets no limit.
const DEFAULT_AGENT_CHATS_PER_HOUR: u32 = 100;

/// An id that is empty, too long, or holds white space or control characters.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "an id is 1 to {} bytes without white space or control characters",
    name::MAX_NAME_BYTES
)]
pub struct InvalidId;

/// Declares a checked id: a newtype of a string that may stand in room names,
/// subjects and log lines.
macro_rules! id {
    ($(#[$doc:meta])+ $name:ident) => {
        $(#[$doc])+
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks and takes the id.
            ///
            /// # Errors
            /// [`InvalidId`] when the text may not stand as an id.
            pub fn new(text: impl Into<String>) -> Result<Self, InvalidId> {
                let text = text.into();
                if name::is_valid(&text) { Ok(Self(text)) } else { Err(InvalidId) }
            }

            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(text: String) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    };
}

id! {
    /// The stable id of a user or system: the `sub` of its tokens.
    UserId
}
id! {
    /// The id of an agent, as its tokens and commands name it.
    AgentId
}
id! {
    /// The id of one credential: an API key's id or a token's `jti`. It names
    /// the credential in revocations and audit lines and is no secret.
    CredentialId
}

id! {
    /// The id of a line of refresh tokens: the `sid` of the access tokens that
    /// were issued along it. It is no secret.
    FamilyId
}

/// How much a principal may send, counted per user across its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Messages per minute.
    pub messages_per_minute: u32,
    /// Chats started with agents, per hour.
    pub agent_chats_per_hour: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            messages_per_minute: DEFAULT_MESSAGES_PER_MINUTE,
            agent_chats_per_hour: DEFAULT_AGENT_CHATS_PER_HOUR,
        }
    }
}

/// Where a credential comes from: what a revocation may be aimed at besides the
/// credential itself and its subject.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Origin {
    /// The API key that it is, or that it was issued for.
    pub key: Option<ApiKeyId>,
    /// The line of refresh tokens that it was issued along.
    pub family: Option<FamilyId>,
    /// When it was issued; `None` for API keys, whose revocation needs no time.
    #[serde(with = "time::serde::rfc3339::option")]
    pub issued_at: Option<OffsetDateTime>,
}

/// Who a connection is and what it may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// The user or system.
    pub subject: UserId,
    /// The name shown to people.
    pub name: String,
    /// The role; `None` is one this version does not know, which grants nothing.
    pub role: Option<Role>,
    /// What it may do: at most what the role grants.
    pub permissions: Permissions,
    /// The projects it belongs to.
    pub projects: Vec<String>,
    /// The agent it speaks for, if it is one.
    pub agent_id: Option<AgentId>,
    /// How much it may send.
    pub limits: Limits,
    /// When the credential ends; `None` for API keys, which do not expire.
    #[serde(with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    /// The credential that it came with.
    pub credential: CredentialId,
    /// Where the credential comes from.
    #[serde(default)]
    pub origin: Origin,
}

impl Principal {
    /// Whether it may see and change `project`: one of its own, or any for
    /// those who administer projects.
    #[must_use]
    pub fn may_access_project(&self, project: &str) -> bool {
        self.permissions.contains(Permission::Admin) || self.projects.iter().any(|p| p == project)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal(permissions: Permissions) -> Principal {
        Principal {
            subject: UserId::new("user-1").unwrap(),
            name: "Ada".to_owned(),
            role: Some(Role::Admin),
            permissions,
            projects: vec!["apollo".to_owned()],
            agent_id: Some(AgentId::new("agent-1").unwrap()),
            limits: Limits::default(),
            expires_at: Some(OffsetDateTime::UNIX_EPOCH),
            credential: CredentialId::new("k1").unwrap(),
            origin: Origin::default(),
        }
    }

    #[test]
    fn ids_refuse_what_could_break_a_log_line_or_a_room_name() {
        for bad in ["", "a b", "a\nb", "\u{0}", &"x".repeat(129)] {
            assert_eq!(UserId::new(bad), Err(InvalidId), "{bad:?}");
            let json = serde_json::to_string(bad).unwrap();
            assert!(serde_json::from_str::<UserId>(&json).is_err());
        }
        let id: UserId = serde_json::from_str("\"auth0|7\"").unwrap();
        assert_eq!(id.to_string(), "auth0|7");
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"auth0|7\"");
    }

    #[test]
    fn limits_default_one_by_one() {
        let limits: Limits = serde_json::from_str(r#"{"messages_per_minute": 5}"#).unwrap();
        assert_eq!(
            (limits.messages_per_minute, limits.agent_chats_per_hour),
            (5, 100)
        );
        assert_eq!(Limits::default().messages_per_minute, 60);
    }

    #[test]
    fn projects_are_ones_own_except_for_administrators() {
        let member = principal(Permissions::NONE);
        assert!(member.may_access_project("apollo"));
        assert!(!member.may_access_project("gemini"));
        let admin = principal(Permissions::of(&[Permission::Admin]));
        assert!(admin.may_access_project("gemini"));
    }

    #[test]
    fn json_round_trips() {
        let before = principal(Role::Analyst.permissions());
        let json = serde_json::to_string(&before).unwrap();
        assert_eq!(serde_json::from_str::<Principal>(&json).unwrap(), before);
    }
}
