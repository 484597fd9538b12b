//! Tokens of external issuers: whom they are trusted to name, and how their
//! words become ours.
//!
//! The auth service fetches the keys and publishes an [`ExternalIssuer`] per
//! issuer; gateways verify with that alone and never reach out. The key and the
//! issuer's settings decide the algorithm, never the token. Without a role that
//! the settings map, a token is refused.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;

use crate::claims::Audience;
use crate::key_set::{Flaw, MAX_TOKEN_BYTES, VerifyError};
use crate::principal::{CredentialId, Limits, Origin, Principal, UserId};
use crate::role::Role;

/// The shortest RSA modulus that is trusted, in bytes.
const MIN_RSA_BYTES: usize = 256;
/// The longest key id that is looked up, in bytes.
const MAX_KID_BYTES: usize = 128;
/// Keys of one issuer; further ones are passed over.
const MAX_KEYS: usize = 100;

/// An algorithm that an issuer may be trusted to sign with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrustedAlgorithm {
    /// RSA with SHA-256, PKCS#1 1.5.
    RS256,
    /// RSA with SHA-256, PSS.
    PS256,
    /// ECDSA on P-256.
    ES256,
    /// Ed25519.
    EdDSA,
}

impl TrustedAlgorithm {
    const fn of_library(self) -> Algorithm {
        match self {
            Self::RS256 => Algorithm::RS256,
            Self::PS256 => Algorithm::PS256,
            Self::ES256 => Algorithm::ES256,
            Self::EdDSA => Algorithm::EdDSA,
        }
    }

    const fn key_type(self) -> &'static str {
        match self {
            Self::RS256 | Self::PS256 => "RSA",
            Self::ES256 => "EC",
            Self::EdDSA => "OKP",
        }
    }
}

/// What a role of an issuer is here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleMapping {
    /// Their word.
    pub theirs: String,
    /// Our role.
    pub ours: Role,
}

/// How far an issuer is trusted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trust {
    /// Our name for it: precedes `|` in the subjects of its users, so that they
    /// are never taken for ours.
    pub name: String,
    /// Its `iss`.
    pub issuer: String,
    /// What `aud` must be or contain.
    pub audience: String,
    /// What it may sign with; of two for one kind of key, the first.
    pub algorithms: Vec<TrustedAlgorithm>,
    /// Where its tokens tell roles: a claim, with dots between nested ones.
    pub role_claim: String,
    /// What its roles are here; the first that a token has counts.
    pub roles: Vec<RoleMapping>,
    /// Where its tokens tell projects, if they do.
    #[serde(default)]
    pub projects_claim: Option<String>,
    /// The longest that a token is accepted after its issue, in seconds.
    #[serde(default = "a_day")]
    pub max_lifetime_seconds: u32,
}

const fn a_day() -> u32 {
    86_400
}

/// An issuer as it is published: how far it is trusted, and its keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalIssuer {
    /// How far it is trusted.
    pub trust: Trust,
    /// Its JWK set, as it was fetched.
    pub jwks: Value,
    /// When that was.
    #[serde(with = "time::serde::rfc3339")]
    pub fetched_at: OffsetDateTime,
    /// When the keys are too old to be trusted.
    #[serde(with = "time::serde::rfc3339")]
    pub stale_at: OffsetDateTime,
}

/// The members of a JWK that matter here.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: String,
    #[serde(default)]
    alg: Option<String>,
    #[serde(default, rename = "use")]
    usage: Option<String>,
    #[serde(default)]
    crv: String,
    #[serde(default)]
    n: String,
    #[serde(default)]
    e: String,
    #[serde(default)]
    x: String,
    #[serde(default)]
    y: String,
}

/// The claims that every issuer spells alike.
#[derive(Deserialize)]
struct CommonClaims {
    iss: String,
    aud: Audience,
    sub: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    jti: Option<String>,
    #[serde(with = "time::serde::timestamp")]
    iat: OffsetDateTime,
    #[serde(with = "time::serde::timestamp")]
    exp: OffsetDateTime,
    #[serde(default, with = "time::serde::timestamp::option")]
    nbf: Option<OffsetDateTime>,
}

/// An issuer whose tokens can be verified.
#[derive(Clone, Debug)]
pub struct ExternalVerifier {
    trust: Trust,
    keys: BTreeMap<String, (Algorithm, DecodingKey)>,
    stale_at: OffsetDateTime,
}

impl ExternalVerifier {
    /// Prepares the keys of an issuer; those that its settings do not trust are
    /// passed over.
    #[must_use]
    pub fn new(issuer: ExternalIssuer) -> Self {
        let listed = issuer.jwks["keys"].as_array().cloned().unwrap_or_default();
        let keys = listed
            .into_iter()
            .filter_map(|jwk| serde_json::from_value(jwk).ok())
            .filter_map(|jwk| usable(jwk, &issuer.trust.algorithms))
            .take(MAX_KEYS)
            .collect();
        Self {
            trust: issuer.trust,
            keys,
            stale_at: issuer.stale_at,
        }
    }

    /// Whether no key is usable.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The `iss` of its tokens.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.trust.issuer
    }

    /// Verifies a token and finds out who holds it, at the time `now`.
    ///
    /// # Errors
    /// [`VerifyError`]; with [`VerifyError::UnknownKey`] newer keys may be worth
    /// asking for.
    pub fn verify_at(
        &self,
        token: &str,
        leeway: Duration,
        now: OffsetDateTime,
    ) -> Result<Principal, VerifyError> {
        let invalid = VerifyError::Invalid;
        if token.len() > MAX_TOKEN_BYTES {
            return Err(invalid(Flaw::Malformed));
        }
        if now >= self.stale_at {
            return Err(invalid(Flaw::StaleKeys));
        }
        let header = decode_header(token).map_err(|_| invalid(Flaw::Malformed))?;
        let kid = header.kid.filter(|kid| kid.len() <= MAX_KID_BYTES);
        let (Some(kid), None) = (kid, header.crit) else {
            return Err(invalid(Flaw::Malformed));
        };
        let Some((algorithm, key)) = self.keys.get(&kid) else {
            return Err(VerifyError::UnknownKey { kid });
        };
        if header.alg != *algorithm {
            return Err(invalid(Flaw::Algorithm));
        }
        let mut signature_only = Validation::new(*algorithm);
        signature_only.required_spec_claims.clear();
        signature_only.validate_aud = false;
        signature_only.validate_exp = false;
        signature_only.validate_nbf = false;
        let body: Value = decode(token, key, &signature_only)
            .map_err(|_| invalid(Flaw::Signature))?
            .claims;
        self.principal(token, &body, leeway, now)
    }

    fn principal(
        &self,
        token: &str,
        body: &Value,
        leeway: Duration,
        now: OffsetDateTime,
    ) -> Result<Principal, VerifyError> {
        let invalid = VerifyError::Invalid;
        let claims = CommonClaims::deserialize(body).map_err(|_| invalid(Flaw::Claims))?;
        if claims.iss != self.trust.issuer {
            return Err(invalid(Flaw::Issuer));
        }
        if !claims.aud.contains(&self.trust.audience) {
            return Err(invalid(Flaw::Audience));
        }
        let longest = Duration::from_secs(self.trust.max_lifetime_seconds.into());
        let end = claims.exp.min(
            claims
                .iat
                .saturating_add(time::Duration::try_from(longest).unwrap_or(time::Duration::MAX)),
        );
        let leeway = time::Duration::try_from(leeway).unwrap_or(time::Duration::MAX);
        if now.saturating_sub(leeway) >= end {
            return Err(VerifyError::Expired);
        }
        let starts = claims.nbf.unwrap_or(claims.iat).max(claims.iat);
        if now.saturating_add(leeway) < starts {
            return Err(VerifyError::NotYetValid);
        }
        let held = words(claim(body, &self.trust.role_claim));
        let mapped = self.trust.roles.iter();
        let role = mapped.filter(|mapping| held.contains(&mapping.theirs.as_str()));
        let role = role.map(|mapping| mapping.ours).next();
        let role = role.ok_or(invalid(Flaw::Role))?;
        let ours = |text: &str| format!("{}|{text}", self.trust.name);
        let subject = UserId::new(ours(&claims.sub)).map_err(|_| invalid(Flaw::Claims))?;
        let hash = || URL_SAFE_NO_PAD.encode(Sha256::digest(token));
        let credential = claims
            .jti
            .and_then(|jti| CredentialId::new(ours(&jti)).ok());
        let credential = credential.or_else(|| CredentialId::new(ours(&hash())).ok());
        let projects = self.trust.projects_claim.as_deref();
        let projects = words(projects.and_then(|path| claim(body, path)));
        Ok(Principal {
            name: claims.name.unwrap_or(claims.sub),
            subject,
            role: Some(role),
            permissions: role.permissions(),
            projects: projects.into_iter().map(str::to_owned).collect(),
            agent_id: None,
            limits: Limits::default(),
            expires_at: Some(end),
            credential: credential.ok_or(invalid(Flaw::Claims))?,
            origin: Origin {
                issued_at: Some(claims.iat),
                ..Origin::default()
            },
        })
    }
}

/// The `iss` that a token claims to have, to find out who could verify it.
#[must_use]
pub fn claimed_issuer(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Issuer {
        iss: String,
    }

    if token.len() > MAX_TOKEN_BYTES {
        return None;
    }
    let body = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice(&body).ok().map(|Issuer { iss }| iss)
}

/// A claim by its path.
fn claim<'a>(body: &'a Value, path: &str) -> Option<&'a Value> {
    // Some issuers name claims by URLs, which have dots of their own.
    body.get(path).or_else(|| {
        path.split('.')
            .try_fold(body, |value, name| value.get(name))
    })
}

/// One word, or several.
fn words(value: Option<&Value>) -> Vec<&str> {
    match value {
        Some(Value::String(word)) => vec![word],
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// The key of a JWK, if one of the algorithms is trusted with it.
fn usable(jwk: Jwk, trusted: &[TrustedAlgorithm]) -> Option<(String, (Algorithm, DecodingKey))> {
    if jwk.usage.is_some_and(|usage| usage != "sig") || jwk.kid.len() > MAX_KID_BYTES {
        return None;
    }
    let fits = |algorithm: &&TrustedAlgorithm| {
        let named = jwk.alg.as_deref();
        algorithm.key_type() == jwk.kty
            && named.is_none_or(|named| named == format!("{algorithm:?}"))
    };
    let algorithm = *trusted.iter().find(fits)?;
    let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).ok();
    let key = match algorithm {
        TrustedAlgorithm::RS256 | TrustedAlgorithm::PS256 => {
            if bytes(&jwk.n)?.len() < MIN_RSA_BYTES {
                return None;
            }
            DecodingKey::from_rsa_components(&jwk.n, &jwk.e).ok()?
        }
        TrustedAlgorithm::ES256 => {
            let whole = bytes(&jwk.x)?.len() == 32 && bytes(&jwk.y)?.len() == 32;
            if jwk.crv != "P-256" || !whole {
                return None;
            }
            DecodingKey::from_ec_components(&jwk.x, &jwk.y).ok()?
        }
        TrustedAlgorithm::EdDSA => {
            if jwk.crv != "Ed25519" || bytes(&jwk.x)?.len() != 32 {
                return None;
            }
            DecodingKey::from_ed_components(&jwk.x).ok()?
        }
    };
    Some((jwk.kid, (algorithm.of_library(), key)))
}

#[cfg(test)]
mod tests;
