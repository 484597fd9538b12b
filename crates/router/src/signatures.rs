//! Which event types must be signed, and by whose keys.
//!
//! A producer signs the payload, byte for byte, with Ed25519. The signature is
//! no part of what is stored on TOPICS: clients trust the router.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use signalbox_bus::{header, subject};
use signalbox_identity::{PublicKey, Signature};
use signalbox_protocol::catalogue::{self, EventType};
use signalbox_protocol::domain::Domain;
use signalbox_protocol::envelope::Headers;

#[cfg(test)]
mod tests;

/// The longest key id that is repeated in a reason, in characters.
const SHOWN_KEY_ID: usize = 64;

/// The setting that an event type must be signed by the key in a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Requirement {
    kind: &'static EventType,
    key_file: PathBuf,
}

/// A requirement that cannot be.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidRequirement {
    /// It has not the form of one.
    #[error("expected DOMAIN.TYPE=KEYFILE")]
    Form,
    /// There is no such event type.
    #[error("there is no event type `{0}`")]
    UnknownType(String),
}

/// A key file that is of no use.
#[derive(Debug, thiserror::Error)]
#[error("--require-signature: {path}: {cause}")]
pub struct UnusableKeyFile {
    path: String,
    cause: String,
}

/// The keys that sign, by what must be signed. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Signatures {
    signers: Arc<HashMap<(Domain, &'static str), Vec<Signer>>>,
}

/// A key and the ids that it is known by.
#[derive(Debug)]
struct Signer {
    key: PublicKey,
    file: String,
}

/// Why an event does not count as signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    Missing,
    Malformed,
    UnknownKey(String),
    Mismatch,
}

impl FromStr for Requirement {
    type Err = InvalidRequirement;

    fn from_str(text: &str) -> Result<Self, InvalidRequirement> {
        let (name, path) = text.split_once('=').ok_or(InvalidRequirement::Form)?;
        if path.is_empty() {
            return Err(InvalidRequirement::Form);
        }
        let unknown = || InvalidRequirement::UnknownType(name.to_owned());
        let subject = format!("events.{name}");
        let (domain, event) = subject::parse_event(&subject).ok_or_else(unknown)?;
        Ok(Self {
            kind: catalogue::find(domain, event).ok_or_else(unknown)?,
            key_file: path.into(),
        })
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("signature: ")?;
        match self {
            Self::Missing => f.write_str("missing, and events of this type must be signed"),
            Self::Malformed => f.write_str("expected the base64 of 64 bytes"),
            Self::UnknownKey(id) => {
                let shown: String = id.chars().take(SHOWN_KEY_ID).collect();
                write!(f, "no key {shown:?} signs events of this type")
            }
            Self::Mismatch => f.write_str("not that of this payload by a key for this type"),
        }
    }
}

impl Signatures {
    /// Reads the key files.
    ///
    /// # Errors
    /// Names the first file that is not there or has no public key.
    pub fn read(requirements: &[Requirement]) -> Result<Self, UnusableKeyFile> {
        let mut signers: HashMap<_, Vec<Signer>> = HashMap::new();
        for Requirement { kind, key_file } in requirements {
            let unusable = |cause: String| UnusableKeyFile {
                path: key_file.display().to_string(),
                cause,
            };
            let pem =
                std::fs::read_to_string(key_file).map_err(|error| unusable(error.to_string()))?;
            let key = PublicKey::from_pem(&pem).map_err(|error| unusable(error.to_string()))?;
            let file = key_file.file_stem().unwrap_or_default();
            let signers = signers.entry((kind.domain, kind.name)).or_default();
            signers.push(Signer {
                key,
                file: file.to_string_lossy().into_owned(),
            });
        }
        Ok(Self {
            signers: Arc::new(signers),
        })
    }

    /// Whether an event is signed as its type demands.
    pub(crate) fn check(
        &self,
        kind: &'static EventType,
        headers: &impl Headers,
        payload: &[u8],
    ) -> Result<(), Flaw> {
        let Some(signers) = self.signers.get(&(kind.domain, kind.name)) else {
            return Ok(());
        };
        let text = headers.value(header::SIGNATURE).ok_or(Flaw::Missing)?;
        let signature = Signature::parse(text).ok_or(Flaw::Malformed)?;
        let id = headers.value(header::KEY_ID);
        let mut candidates = signers
            .iter()
            .filter(|signer| id.is_none_or(|id| signer.is_known_as(id)))
            .peekable();
        if let (None, Some(id)) = (candidates.peek(), id) {
            return Err(Flaw::UnknownKey(id.to_owned()));
        }
        if candidates.any(|signer| signer.key.verifies(payload, &signature)) {
            Ok(())
        } else {
            Err(Flaw::Mismatch)
        }
    }
}

impl Signer {
    fn is_known_as(&self, id: &str) -> bool {
        id == self.file || id == self.key.kid()
    }
}
