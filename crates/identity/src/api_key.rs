//! Long-lived keys: their text form, and the record that is kept instead.
//!
//! A key is `sbk_<id>_<secret>`. The id finds the record; the secret is never
//! stored, only its hash. The secret has 256 random bits, so a fast hash is
//! enough and there is nothing to guess.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::RngExt as _;
use rand::distr::{Alphanumeric, SampleString as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use time::OffsetDateTime;

use crate::principal::{AgentId, CredentialId, Limits, Origin, Principal, UserId};
use crate::role::Role;
use crate::secret::Secret;

/// What every API key starts with.
pub const PREFIX: &str = "sbk_";

/// The characters of an id: lower-case base32, without lookalikes.
const ID_ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// The length of an id: 60 bits, so ids do not collide.
const ID_CHARS: usize = 12;
/// The length of a secret: 43 of 62 characters are 256 bits.
const SECRET_CHARS: usize = 43;

/// Text that is not an API key or an id of one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not an API key")]
pub struct InvalidApiKey;

/// The public part of an API key, by which its record is found.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ApiKeyId(String);

impl ApiKeyId {
    /// Checks and takes an id.
    ///
    /// # Errors
    /// [`InvalidApiKey`] when the text has not the form of an id.
    pub fn parse(text: &str) -> Result<Self, InvalidApiKey> {
        let well_formed =
            text.len() == ID_CHARS && text.bytes().all(|byte| ID_ALPHABET.contains(&byte));
        if !well_formed {
            return Err(InvalidApiKey);
        }
        Ok(Self(text.to_owned()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ApiKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl TryFrom<String> for ApiKeyId {
    type Error = InvalidApiKey;

    fn try_from(text: String) -> Result<Self, InvalidApiKey> {
        Self::parse(&text)
    }
}

impl From<ApiKeyId> for String {
    fn from(id: ApiKeyId) -> Self {
        id.0
    }
}

impl From<&ApiKeyId> for CredentialId {
    fn from(id: &ApiKeyId) -> Self {
        Self::new(id.as_str()).expect("the alphabet of key ids is valid in every id")
    }
}

/// A whole API key, as its owner holds it.
#[derive(Clone, Debug)]
pub struct ApiKey {
    id: ApiKeyId,
    secret: Secret,
}

impl ApiKey {
    /// Makes a new random key.
    #[must_use]
    pub fn generate() -> Self {
        let mut rng = rand::rng();
        let id = (0..ID_CHARS)
            .map(|_| char::from(ID_ALPHABET[rng.random_range(0..ID_ALPHABET.len())]))
            .collect();
        Self {
            id: ApiKeyId(id),
            secret: Secret::new(Alphanumeric.sample_string(&mut rng, SECRET_CHARS)),
        }
    }

    /// Reads a key from its text form.
    ///
    /// # Errors
    /// [`InvalidApiKey`] when the text has not that form. The error does not
    /// repeat the text.
    pub fn parse(text: &str) -> Result<Self, InvalidApiKey> {
        let (id, secret) = text
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once('_'))
            .ok_or(InvalidApiKey)?;
        let well_formed =
            secret.len() == SECRET_CHARS && secret.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !well_formed {
            return Err(InvalidApiKey);
        }
        Ok(Self {
            id: ApiKeyId::parse(id)?,
            secret: Secret::new(secret),
        })
    }

    /// The public part.
    #[must_use]
    pub fn id(&self) -> &ApiKeyId {
        &self.id
    }

    /// The text form, for its owner.
    #[must_use]
    pub fn expose(&self) -> Secret {
        Secret::new(format!("{PREFIX}{}_{}", self.id, self.secret.expose()))
    }

    /// What a record keeps of the secret.
    #[must_use]
    pub fn hash(&self) -> ApiKeyHash {
        ApiKeyHash(Sha256::digest(self.secret.expose()).into())
    }
}

/// The SHA-256 of a key's secret. Comparison takes the same time wherever the
/// difference is.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ApiKeyHash([u8; 32]);

impl PartialEq for ApiKeyHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for ApiKeyHash {}

impl fmt::Debug for ApiKeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl TryFrom<String> for ApiKeyHash {
    type Error = InvalidApiKey;

    fn try_from(text: String) -> Result<Self, InvalidApiKey> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidApiKey)?;
        bytes.try_into().map(Self).map_err(|_| InvalidApiKey)
    }
}

impl From<ApiKeyHash> for String {
    fn from(hash: ApiKeyHash) -> Self {
        URL_SAFE_NO_PAD.encode(hash.0)
    }
}

/// What is kept of an API key, and whom it stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKeyRecord {
    /// The public part of the key.
    pub id: ApiKeyId,
    /// The hash of the secret part.
    pub hash: ApiKeyHash,
    /// What the key may do.
    pub role: Role,
    /// What people call the key.
    pub name: String,
    /// The user or system that the key acts as.
    pub subject: UserId,
    /// The projects that the key belongs to.
    #[serde(default)]
    pub projects: Vec<String>,
    /// The agent that the key speaks for.
    #[serde(default)]
    pub agent_id: Option<AgentId>,
    /// How much the key may send.
    #[serde(default)]
    pub limits: Limits,
    /// When the key was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// Whether the key is no longer accepted.
    pub revoked: bool,
}

impl ApiKeyRecord {
    /// The principal of `key`, unless it is another key or is revoked.
    #[must_use]
    pub fn authenticate(&self, key: &ApiKey) -> Option<Principal> {
        let genuine = self.id == *key.id() && self.hash == key.hash();
        (genuine && !self.revoked).then(|| self.principal())
    }

    /// Whom the key stands for. It does not check that the key is accepted;
    /// [`ApiKeyRecord::authenticate`] does.
    #[must_use]
    pub fn principal(&self) -> Principal {
        Principal {
            subject: self.subject.clone(),
            name: self.name.clone(),
            role: Some(self.role),
            permissions: self.role.permissions(),
            projects: self.projects.clone(),
            agent_id: self.agent_id.clone(),
            limits: self.limits,
            expires_at: None,
            credential: CredentialId::from(&self.id),
            origin: Origin {
                key: Some(self.id.clone()),
                ..Origin::default()
            },
        }
    }
}

#[cfg(test)]
mod tests;
