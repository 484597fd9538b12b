//! A line of refresh tokens: what is kept of it, and what a presented token
//! means for it. Does no I/O.
//!
//! Each token of a line is made from the one before: an HMAC over it, keyed by
//! the family's salt. So the successor of a token is known as soon as the token
//! is presented, and only then: a replica whose answer was lost, or that was
//! killed before it answered, is repeated by any other with the same result,
//! and nothing is stored from which a token could be made. Nor does a stolen
//! old token tell the newer ones, without the salt.
//!
//! A token that was consumed proves itself in the same way: its chain leads to
//! the one that is current.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::{Rng as _, RngExt as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use signalbox_identity::{AgentId, ApiKeyId, FamilyId, Secret, UserId};
use subtle::ConstantTimeEq as _;
use time::OffsetDateTime;

/// What every refresh token starts with.
const PREFIX: &str = "sbr_";
const ID_ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// The length of a family's id: 100 bits, so that they do not collide.
const ID_CHARS: usize = 20;
/// Tokens of one line. Beyond it the holder logs in anew: every step back from
/// the current token costs a hash to prove.
pub(crate) const MAX_STEPS: u32 = 10_000;

/// 256 bits; in JSON as base64url.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Bits([u8; 32]);

impl Bits {
    fn random() -> Self {
        let mut bits = [0; 32];
        rand::rng().fill_bytes(&mut bits);
        Self(bits)
    }

    fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        bytes.try_into().map(Self).ok()
    }

    fn hash(&self) -> Self {
        Self(Sha256::digest(self.0).into())
    }
}

impl PartialEq for Bits {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl TryFrom<String> for Bits {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("expected 256 bits in base64url")
    }
}

impl From<Bits> for String {
    fn from(bits: Bits) -> Self {
        URL_SAFE_NO_PAD.encode(bits.0)
    }
}

/// A refresh token, as its holder has it.
#[derive(Debug)]
pub(crate) struct RefreshToken {
    family: FamilyId,
    step: u32,
    secret: Bits,
}

impl RefreshToken {
    /// Reads a token from its text form.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix(PREFIX)?.splitn(3, '_');
        let (family, step, secret) = (parts.next()?, parts.next()?, parts.next()?);
        let well_formed =
            family.len() == ID_CHARS && family.bytes().all(|byte| ID_ALPHABET.contains(&byte));
        if !well_formed || !step.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        Some(Self {
            family: FamilyId::new(family).ok()?,
            step: step.parse().ok()?,
            secret: Bits::parse(secret)?,
        })
    }

    /// The family that it says it is of.
    pub(crate) fn family(&self) -> &FamilyId {
        &self.family
    }

    /// The text form, for its holder.
    pub(crate) fn expose(&self) -> Secret {
        let (family, step) = (&self.family, self.step);
        Secret::new(format!(
            "{PREFIX}{family}_{step}_{}",
            String::from(self.secret)
        ))
    }
}

/// What a family was begun with, and is looked at again at each refresh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "id", rename_all = "lowercase")]
pub(crate) enum Source {
    /// An API key.
    Key(ApiKeyId),
    /// A user's password.
    User(UserId),
}

/// How the first token was narrowed, and so are all others.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Narrowing {
    /// To these projects; none = as the source.
    pub(crate) projects: Vec<String>,
    /// To this agent.
    pub(crate) agent_id: Option<AgentId>,
    /// To this lifetime of access tokens, in seconds; 0 = the usual one.
    pub(crate) ttl_seconds: u32,
}

/// What is kept of a line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Family {
    /// Names the line.
    pub(crate) id: FamilyId,
    /// What it was begun with.
    pub(crate) source: Source,
    /// How it was narrowed.
    pub(crate) narrowing: Narrowing,
    /// Keys the step from a token to the next.
    salt: Bits,
    /// How often it was refreshed.
    step: u32,
    /// The hash of the token that is current.
    current: Bits,
    /// When the current token took the place of the one before.
    #[serde(with = "time::serde::rfc3339")]
    rotated_at: OffsetDateTime,
    /// The connection that consumed the one before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rotated_by: Option<String>,
    /// When it began.
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) started_at: OffsetDateTime,
    /// When it ends, however often it is refreshed.
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) ends_at: OffsetDateTime,
    /// Whether it ended early.
    pub(crate) revoked: bool,
}

/// What a presented token means.
#[derive(Debug)]
pub(crate) enum Presented {
    /// It is the current one: this is what becomes of the family, and this the
    /// next token.
    Current(Box<Family>, RefreshToken),
    /// It was consumed a moment ago: its successor is told again.
    Again(RefreshToken),
    /// It was consumed earlier, by someone else or a long time ago.
    Reused,
    /// The family has ended.
    Ended,
    /// It is not, and never was, one of this family.
    Foreign,
}

impl Family {
    /// Begins a line, with its first token.
    pub(crate) fn begin(
        source: Source,
        narrowing: Narrowing,
        now: OffsetDateTime,
        lifetime: Duration,
    ) -> (Self, RefreshToken) {
        let mut rng = rand::rng();
        let id: String = (0..ID_CHARS)
            .map(|_| char::from(ID_ALPHABET[rng.random_range(0..ID_ALPHABET.len())]))
            .collect();
        let id = FamilyId::new(id).expect("the alphabet is valid in ids");
        let secret = Bits::random();
        let token = RefreshToken {
            family: id.clone(),
            step: 0,
            secret,
        };
        let family = Self {
            id,
            source,
            narrowing,
            salt: Bits::random(),
            step: 0,
            current: secret.hash(),
            rotated_at: now,
            rotated_by: None,
            started_at: now,
            ends_at: now + lifetime,
            revoked: false,
        };
        (family, token)
    }

    /// What `token`, presented by `connection`, means at the time `now`.
    /// Whoever consumed a token gets its successor again at any time if it is
    /// the same connection, and within `grace` otherwise.
    pub(crate) fn present(
        &self,
        token: &RefreshToken,
        connection: Option<&str>,
        now: OffsetDateTime,
        grace: Duration,
    ) -> Presented {
        let Some(steps) = self.step.checked_sub(token.step) else {
            return Presented::Foreign;
        };
        // Walks from the token to the current one; a token of ours arrives.
        let mut reached = token.secret;
        for step in token.step..self.step {
            reached = self.next(&reached, step + 1);
        }
        if reached.hash() != self.current {
            return Presented::Foreign;
        }
        if self.revoked || now >= self.ends_at || self.step >= MAX_STEPS {
            return Presented::Ended;
        }
        let of = |step, secret| RefreshToken {
            family: self.id.clone(),
            step,
            secret,
        };
        if steps == 0 {
            let secret = self.next(&reached, self.step + 1);
            let next = Self {
                step: self.step + 1,
                current: secret.hash(),
                rotated_at: now,
                rotated_by: connection.map(str::to_owned),
                ..self.clone()
            };
            return Presented::Current(Box::new(next), of(self.step + 1, secret));
        }
        let by_the_same = connection.is_some() && connection == self.rotated_by.as_deref();
        if steps == 1 && (by_the_same || now - self.rotated_at <= grace) {
            return Presented::Again(of(self.step, reached));
        }
        Presented::Reused
    }

    /// For how long it is still refreshed.
    pub(crate) fn remaining(&self, now: OffsetDateTime) -> Duration {
        (self.ends_at - now).try_into().unwrap_or(Duration::ZERO)
    }

    fn next(&self, secret: &Bits, step: u32) -> Bits {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.salt.0);
        let mut context = hmac::Context::with_key(&key);
        context.update(&secret.0);
        context.update(&step.to_be_bytes());
        let tag = context.sign();
        let bits = tag.as_ref().try_into();
        Bits(bits.expect("the tag of SHA-256 has 256 bits"))
    }
}

#[cfg(test)]
mod tests;
