//! The body of a token, and the principal that it stands for.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};
use time::OffsetDateTime;

use crate::api_key::ApiKeyId;
use crate::permission::Permissions;
use crate::principal::{AgentId, CredentialId, FamilyId, Limits, Origin, Principal, UserId};
use crate::role::Role;

/// Whom a token is for: one name or, from some issuers, several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Audience {
    /// A single name.
    One(String),
    /// A list of names.
    Many(Vec<String>),
}

impl Audience {
    /// Whether the token is for `name`.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        match self {
            Self::One(only) => only == name,
            Self::Many(names) => names.iter().any(|n| n == name),
        }
    }
}

/// The claims of an access token. Times are whole seconds on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Who issued the token.
    pub iss: String,
    /// Whom the token is for.
    pub aud: Audience,
    /// Who holds the token.
    pub sub: UserId,
    /// The holder's name for people; empty means the subject is shown.
    #[serde(default)]
    pub name: String,
    /// The holder's role; absent, or unknown to this version, grants nothing.
    #[serde(
        default,
        deserialize_with = "known_role",
        skip_serializing_if = "Option::is_none"
    )]
    pub role: Option<Role>,
    /// Narrows the role's permissions; absent leaves them whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permissions: Option<Permissions>,
    /// The holder's projects.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub projects: Vec<String>,
    /// The agent that the holder speaks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<AgentId>,
    /// How much the holder may send.
    #[serde(default)]
    pub limits: Limits,
    /// When the token was issued.
    #[serde(with = "time::serde::timestamp")]
    pub iat: OffsetDateTime,
    /// When the token starts to be valid; absent means at once.
    #[serde(
        default,
        with = "time::serde::timestamp::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub nbf: Option<OffsetDateTime>,
    /// When the token ends.
    #[serde(with = "time::serde::timestamp")]
    pub exp: OffsetDateTime,
    /// The token's own id.
    pub jti: CredentialId,
    /// The line of refresh tokens that the token was issued along.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<FamilyId>,
    /// The API key that the token was issued for; absent for those of users.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<ApiKeyId>,
}

/// What an issuer adds to a principal to make it a token.
#[derive(Clone, Debug)]
pub struct Issuance {
    /// Becomes `iss`.
    pub issuer: String,
    /// Becomes `aud`.
    pub audience: String,
    /// Becomes `jti`; unique per token.
    pub id: CredentialId,
    /// Becomes `iat`, rounded down to a second.
    pub issued_at: OffsetDateTime,
    /// From `iat` to `exp`, rounded down to a second.
    pub lifetime: Duration,
    /// Becomes `sid`.
    pub family: Option<FamilyId>,
}

impl Claims {
    /// The claims by which `principal` is recognised until the token ends.
    #[must_use]
    pub fn issue(principal: &Principal, issuance: Issuance) -> Self {
        let iat = whole_second(issuance.issued_at);
        let lifetime =
            time::Duration::seconds(i64::try_from(issuance.lifetime.as_secs()).unwrap_or(i64::MAX));
        let whole = principal.role.map(Role::permissions) == Some(principal.permissions);
        Self {
            iss: issuance.issuer,
            aud: Audience::One(issuance.audience),
            sub: principal.subject.clone(),
            name: principal.name.clone(),
            role: principal.role,
            permissions: (!whole).then_some(principal.permissions),
            projects: principal.projects.clone(),
            agent_id: principal.agent_id.clone(),
            limits: principal.limits,
            iat,
            nbf: None,
            exp: iat.saturating_add(lifetime),
            jti: issuance.id,
            sid: issuance.family,
            key_id: principal.origin.key.clone(),
        }
    }

    /// What the holder may do: never more than the role grants.
    #[must_use]
    pub fn effective_permissions(&self) -> Permissions {
        let granted = self.role.map_or(Permissions::NONE, Role::permissions);
        self.permissions
            .map_or(granted, |listed| listed.intersection(granted))
    }

    /// The principal that a verified token stands for.
    #[must_use]
    pub fn principal(self) -> Principal {
        let permissions = self.effective_permissions();
        let name = if self.name.is_empty() {
            self.sub.to_string()
        } else {
            self.name
        };
        Principal {
            subject: self.sub,
            name,
            role: self.role,
            permissions,
            projects: self.projects,
            agent_id: self.agent_id,
            limits: self.limits,
            expires_at: Some(self.exp),
            credential: self.jti,
            origin: Origin {
                key: self.key_id,
                family: self.sid,
                issued_at: Some(self.iat),
            },
        }
    }
}

impl From<Claims> for Principal {
    fn from(claims: Claims) -> Self {
        claims.principal()
    }
}

fn known_role<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Role>, D::Error> {
    let word = Option::<String>::deserialize(deserializer)?;
    Ok(word.and_then(|word| word.parse().ok()))
}

fn whole_second(at: OffsetDateTime) -> OffsetDateTime {
    at - time::Duration::nanoseconds(i64::from(at.nanosecond()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::permission::Permission;

    fn decode(changes: serde_json::Value) -> Result<Claims, serde_json::Error> {
        let mut body = json!({
            "iss": "signalbox", "aud": "signalbox", "sub": "user-1", "name": "Ada",
            "role": "analyst", "iat": 1_000, "exp": 2_000, "jti": "t1",
        });
        for (key, value) in changes.as_object().unwrap() {
            body[key] = value.clone();
        }
        serde_json::from_value(body)
    }

    #[test]
    fn without_permissions_the_role_decides() {
        let principal = decode(json!({})).unwrap().principal();
        assert_eq!(principal.permissions, Role::Analyst.permissions());
        assert_eq!(principal.limits, Limits::default());
        assert_eq!(principal.expires_at.unwrap().unix_timestamp(), 2_000);
        assert_eq!(principal.credential.as_str(), "t1");
    }

    #[test]
    fn permissions_narrow_the_role_and_never_widen_it() {
        let claims = decode(json!({"permissions": ["chat_agents", "admin", "fly"]})).unwrap();
        assert_eq!(
            claims.principal().permissions,
            Permissions::of(&[Permission::ChatAgents])
        );
        let claims = decode(json!({"permissions": []})).unwrap();
        assert_eq!(claims.principal().permissions, Permissions::NONE);
    }

    #[test]
    fn an_unknown_or_absent_role_grants_nothing() {
        for role in [json!("emperor"), json!(null), json!("ADMIN")] {
            let claims = decode(json!({"role": role, "permissions": ["admin"]})).unwrap();
            assert_eq!(claims.role, None);
            assert_eq!(claims.principal().permissions, Permissions::NONE);
        }
    }

    #[test]
    fn an_unusable_body_is_refused() {
        for changes in [
            json!({"sub": ""}),
            json!({"sub": "two words"}),
            json!({"jti": null}),
            json!({"exp": null}),
            json!({"exp": "2000"}),
            json!({"exp": 1e30}),
            json!({"permissions": "admin"}),
        ] {
            assert!(decode(changes.clone()).is_err(), "{changes}");
        }
    }

    #[test]
    fn an_absent_name_shows_the_subject() {
        let principal = decode(json!({"name": ""})).unwrap().principal();
        assert_eq!(principal.name, "user-1");
    }

    #[test]
    fn several_audiences_are_understood() {
        let claims = decode(json!({"aud": ["other", "signalbox"]})).unwrap();
        assert!(claims.aud.contains("signalbox"));
        assert!(!claims.aud.contains("signal"));
    }

    fn any_principal() -> impl Strategy<Value = Principal> {
        let role = prop::option::of(prop::sample::select(Role::ALL.to_vec()));
        let words = prop::sample::subsequence(Permissions::ALL.words().collect::<Vec<_>>(), 0..18);
        let id = "[!-~]{1,40}";
        (role, words, id, prop::option::of(id), any::<(u32, u32)>()).prop_map(
            |(role, words, subject, agent, limits)| Principal {
                subject: UserId::new(subject).unwrap(),
                name: "Ada \"L\" \u{1f980}".to_owned(),
                role,
                permissions: Permissions::from_words(words.iter().map(String::as_str))
                    .intersection(role.map_or(Permissions::NONE, Role::permissions)),
                projects: vec!["apollo".to_owned()],
                agent_id: agent.map(|id| AgentId::new(id).unwrap()),
                limits: Limits {
                    messages_per_minute: limits.0,
                    agent_chats_per_hour: limits.1,
                },
                expires_at: None,
                credential: CredentialId::new("key").unwrap(),
                origin: Origin {
                    key: ApiKeyId::parse("abcdefghijk2").ok(),
                    ..Origin::default()
                },
            },
        )
    }

    proptest! {
        #[test]
        fn a_principal_survives_its_token(principal in any_principal(), seconds in 1_u32..1_000_000) {
            let issued_at = OffsetDateTime::from_unix_timestamp_nanos(1_700_000_000_123_456_789).unwrap();
            let claims = Claims::issue(&principal, Issuance {
                issuer: "a".to_owned(),
                audience: "b".to_owned(),
                id: CredentialId::new("t1").unwrap(),
                issued_at,
                lifetime: Duration::from_secs(u64::from(seconds)),
                family: FamilyId::new("f1").ok(),
            });
            let json = serde_json::to_string(&claims).unwrap();
            let decoded: Claims = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(&decoded, &claims);

            let expected = Principal {
                expires_at: Some(claims.exp),
                credential: claims.jti.clone(),
                origin: Origin {
                    family: FamilyId::new("f1").ok(),
                    issued_at: Some(claims.iat),
                    ..principal.origin.clone()
                },
                ..principal
            };
            prop_assert_eq!(decoded.principal(), expected);
            prop_assert_eq!(claims.exp.unix_timestamp(), 1_700_000_000 + i64::from(seconds));
        }
    }
}
