//! Public keys and the verification of tokens against them.
//!
//! The key decides the algorithm, never the token: every key here is Ed25519,
//! so a token that asks for another algorithm, or none, fails.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use crate::claims::Claims;

/// The longest token that is looked at, in bytes; longer ones are malformed.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// The length of an Ed25519 public key, in bytes.
const KEY_BYTES: usize = 32;
/// The longest key id that is looked up, in bytes; it may end up in a log.
const MAX_KID_BYTES: usize = 128;

/// An Ed25519 public key; in JSON a JWK (RFC 8037).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Jwk", into = "Jwk")]
pub struct PublicKey {
    kid: String,
    key: [u8; KEY_BYTES],
}

/// The members of a JWK that matter here.
#[derive(Serialize, Deserialize)]
struct Jwk {
    kty: String,
    crv: String,
    x: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    alg: Option<String>,
    #[serde(default, rename = "use", skip_serializing_if = "Option::is_none")]
    usage: Option<String>,
}

/// A JWK that is no Ed25519 key for signatures.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not an Ed25519 signature key")]
pub struct UnusableJwk;

impl PublicKey {
    /// A key from its raw bytes, named by its RFC 7638 thumbprint.
    #[must_use]
    pub fn new(key: [u8; KEY_BYTES]) -> Self {
        Self {
            kid: thumbprint(&key),
            key,
        }
    }

    /// The raw bytes.
    pub(crate) const fn as_bytes(&self) -> &[u8] {
        &self.key
    }

    /// The id that tokens name the key by.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }
}

impl From<PublicKey> for Jwk {
    fn from(key: PublicKey) -> Self {
        Self {
            kty: "OKP".to_owned(),
            crv: "Ed25519".to_owned(),
            x: URL_SAFE_NO_PAD.encode(key.key),
            kid: Some(key.kid),
            alg: Some("EdDSA".to_owned()),
            usage: Some("sig".to_owned()),
        }
    }
}

impl TryFrom<Jwk> for PublicKey {
    type Error = UnusableJwk;

    fn try_from(jwk: Jwk) -> Result<Self, UnusableJwk> {
        let is_ed25519 = jwk.kty == "OKP" && jwk.crv == "Ed25519";
        let verifies = jwk.alg.is_none_or(|alg| alg == "EdDSA")
            && jwk.usage.is_none_or(|usage| usage == "sig");
        if !is_ed25519 || !verifies {
            return Err(UnusableJwk);
        }
        let bytes = URL_SAFE_NO_PAD.decode(jwk.x).map_err(|_| UnusableJwk)?;
        let key = bytes.try_into().map_err(|_| UnusableJwk)?;
        Ok(Self {
            kid: jwk.kid.unwrap_or_else(|| thumbprint(&key)),
            key,
        })
    }
}

/// What a token must say to be accepted.
#[derive(Clone, Debug)]
pub struct Expectations {
    /// The only accepted `iss`.
    pub issuer: String,
    /// What `aud` must be or contain.
    pub audience: String,
    /// How far the issuer's clock may differ from ours.
    pub leeway: Duration,
}

/// Why a token was refused.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum VerifyError {
    /// No key of the set has the token's key id; a newer set may.
    #[error("no key with id {kid:?}")]
    UnknownKey {
        /// The key id that the token names; unverified.
        kid: String,
    },
    /// The token was good and has ended.
    #[error("token expired")]
    Expired,
    /// The token is good and has not started.
    #[error("token not yet valid")]
    NotYetValid,
    /// The token is not, and never becomes, acceptable.
    #[error("invalid token: {0}")]
    Invalid(Flaw),
}

/// What is wrong with an unacceptable token; for logs, not for its bearer.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Flaw {
    /// It is too long, not a JWT, names no key or demands an extension.
    #[error("malformed")]
    Malformed,
    /// It asks for an algorithm other than its key's.
    #[error("wrong algorithm")]
    Algorithm,
    /// Its signature does not match.
    #[error("wrong signature")]
    Signature,
    /// A claim is missing or has the wrong form.
    #[error("unusable claims")]
    Claims,
    /// Someone else issued it.
    #[error("wrong issuer")]
    Issuer,
    /// It is for someone else.
    #[error("wrong audience")]
    Audience,
    /// Its external issuer gives its holder no role that counts here.
    #[error("no role here")]
    Role,
    /// The keys of its external issuer have not been fetched for too long.
    #[error("stale keys")]
    StaleKeys,
}

/// The public keys of one issuer by key id; in JSON a JWK set, of which other
/// kinds of keys are skipped. Immutable: share it in an `Arc`, replace it whole.
#[derive(Clone, Debug, Default)]
pub struct KeySet(BTreeMap<String, Entry>);

#[derive(Clone, Debug)]
struct Entry {
    public: PublicKey,
    decoding: DecodingKey,
}

impl KeySet {
    /// Verifies the signature and the claims of `token` at the present time.
    ///
    /// # Errors
    /// [`VerifyError`] says why the token is refused. Times are looked at only
    /// after everything else, so `Expired` means that all else was right.
    pub fn verify(&self, token: &str, expected: &Expectations) -> Result<Claims, VerifyError> {
        self.verify_at(token, expected, OffsetDateTime::now_utc())
    }

    /// As [`KeySet::verify`], at the time `now`.
    ///
    /// # Errors
    /// As [`KeySet::verify`].
    pub fn verify_at(
        &self,
        token: &str,
        expected: &Expectations,
        now: OffsetDateTime,
    ) -> Result<Claims, VerifyError> {
        let claims = self.authentic_claims(token)?;
        if claims.iss != expected.issuer {
            return Err(VerifyError::Invalid(Flaw::Issuer));
        }
        if !claims.aud.contains(&expected.audience) {
            return Err(VerifyError::Invalid(Flaw::Audience));
        }
        let leeway = time::Duration::try_from(expected.leeway).unwrap_or(time::Duration::MAX);
        if now.saturating_sub(leeway) >= claims.exp {
            return Err(VerifyError::Expired);
        }
        if claims
            .nbf
            .is_some_and(|nbf| now.saturating_add(leeway) < nbf)
        {
            return Err(VerifyError::NotYetValid);
        }
        Ok(claims)
    }

    /// The key with the id `kid`.
    #[must_use]
    pub fn find(&self, kid: &str) -> Option<&PublicKey> {
        self.0.get(kid).map(|entry| &entry.public)
    }

    /// The keys, ordered by key id.
    pub fn iter(&self) -> impl Iterator<Item = &PublicKey> {
        self.0.values().map(|entry| &entry.public)
    }

    /// Whether the set has no key, so that it verifies nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The claims of a token that one of the keys signed.
    fn authentic_claims(&self, token: &str) -> Result<Claims, VerifyError> {
        let malformed = VerifyError::Invalid(Flaw::Malformed);
        if token.len() > MAX_TOKEN_BYTES {
            return Err(malformed);
        }
        let header = decode_header(token).map_err(|_| malformed.clone())?;
        if header.alg != Algorithm::EdDSA {
            return Err(VerifyError::Invalid(Flaw::Algorithm));
        }
        // An extension marked critical must be understood, and none is.
        let kid = header.kid.filter(|kid| kid.len() <= MAX_KID_BYTES);
        let (Some(kid), None) = (kid, header.crit) else {
            return Err(malformed);
        };
        let Some(entry) = self.0.get(&kid) else {
            return Err(VerifyError::UnknownKey { kid });
        };
        decode(token, &entry.decoding, &signature_only())
            .map(|data| data.claims)
            .map_err(|error| VerifyError::Invalid(flaw_of(error.kind())))
    }
}

impl FromIterator<PublicKey> for KeySet {
    fn from_iter<I: IntoIterator<Item = PublicKey>>(keys: I) -> Self {
        let entry = |public: PublicKey| Entry {
            decoding: DecodingKey::from_ed_der(&public.key),
            public,
        };
        Self(
            keys.into_iter()
                .map(|key| (key.kid.clone(), entry(key)))
                .collect(),
        )
    }
}

impl Serialize for KeySet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct JwkSet<'a> {
            keys: Vec<&'a PublicKey>,
        }

        let keys = self.iter().collect();
        JwkSet { keys }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for KeySet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct JwkSet {
            keys: Vec<serde_json::Value>,
        }

        let set = JwkSet::deserialize(deserializer)?;
        let usable = |jwk| serde_json::from_value::<PublicKey>(jwk).ok();
        Ok(set.keys.into_iter().filter_map(usable).collect())
    }
}

/// Lets the library check algorithm and signature alone: issuer, audience and
/// times are checked on the typed claims, against a clock that tests can set.
fn signature_only() -> Validation {
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.required_spec_claims.clear();
    validation.validate_aud = false;
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation
}

fn flaw_of(kind: &ErrorKind) -> Flaw {
    match kind {
        ErrorKind::InvalidSignature => Flaw::Signature,
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidKeyFormat => Flaw::Algorithm,
        ErrorKind::Json(_) => Flaw::Claims,
        _ => Flaw::Malformed,
    }
}

/// The RFC 7638 thumbprint: the hash of the required members in a fixed form.
fn thumbprint(key: &[u8; KEY_BYTES]) -> String {
    let x = URL_SAFE_NO_PAD.encode(key);
    let canonical = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
    URL_SAFE_NO_PAD.encode(Sha256::digest(canonical))
}

#[cfg(test)]
mod tests;
