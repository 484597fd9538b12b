//! Ed25519 signatures that stand beside what they sign, and the public keys
//! for them as PEM.

use std::fmt;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::key_set::PublicKey;

/// The length of a signature, in bytes.
const SIGNATURE_BYTES: usize = 64;
/// What comes before the 32 bytes of an Ed25519 key in its
/// `SubjectPublicKeyInfo` (RFC 8410).
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];
const PEM_BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const PEM_END: &str = "-----END PUBLIC KEY-----";

/// A signature; as text it is base64.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature([u8; SIGNATURE_BYTES]);

/// A text that is no Ed25519 public key in PEM.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("not an Ed25519 public key in PEM (PUBLIC KEY)")]
pub struct UnusablePem;

impl Signature {
    pub(crate) fn new(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The signature in a text; `None` when it is not the base64 of one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        // Longer than any signature, so not worth decoding.
        if text.len() > SIGNATURE_BYTES * 2 {
            return None;
        }
        Self::new(&STANDARD.decode(text).ok()?)
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl PublicKey {
    /// Reads a key from PEM, as `openssl pkey -pubout` writes it.
    ///
    /// # Errors
    /// [`UnusablePem`] when the text is anything else.
    pub fn from_pem(pem: &str) -> Result<Self, UnusablePem> {
        let body = pem
            .trim()
            .strip_prefix(PEM_BEGIN)
            .and_then(|rest| rest.strip_suffix(PEM_END))
            .ok_or(UnusablePem)?;
        let body: String = body.split_ascii_whitespace().collect();
        let der = STANDARD.decode(body).map_err(|_| UnusablePem)?;
        let key = der.strip_prefix(&SPKI_PREFIX).ok_or(UnusablePem)?;
        Ok(Self::new(key.try_into().map_err(|_| UnusablePem)?))
    }

    /// The key as PEM.
    #[must_use]
    pub fn to_pem(&self) -> String {
        let der = [SPKI_PREFIX.as_slice(), self.as_bytes()].concat();
        // 44 bytes are one line of base64.
        format!("{PEM_BEGIN}\n{}\n{PEM_END}\n", STANDARD.encode(der))
    }

    /// Whether the signature is this key's of exactly these bytes.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &Signature) -> bool {
        UnparsedPublicKey::new(&ED25519, self.as_bytes())
            .verify(message, &signature.0)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signing::SigningKey;

    /// The public key of RFC 8410, section 10.1.
    const RFC_8410_PEM: &str = "-----BEGIN PUBLIC KEY-----\n\
        MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n\
        -----END PUBLIC KEY-----\n";

    #[test]
    fn pem_round_trips() {
        let key = PublicKey::from_pem(RFC_8410_PEM).unwrap();
        assert_eq!(key.to_pem(), RFC_8410_PEM);
        let made = SigningKey::generate().unwrap();
        let read = PublicKey::from_pem(&made.public_key().to_pem()).unwrap();
        assert_eq!(&read, made.public_key());
    }

    #[test]
    fn what_is_no_public_key_is_refused() {
        let private = RFC_8410_PEM.replace("PUBLIC", "PRIVATE");
        let short = RFC_8410_PEM.replace("ZuE=", "");
        let twice = RFC_8410_PEM.repeat(2);
        let x25519 = RFC_8410_PEM.replace("K2Vw", "K2Vu");
        for text in ["", "nonsense", PEM_BEGIN, &private, &short, &twice, &x25519] {
            assert_eq!(PublicKey::from_pem(text), Err(UnusablePem), "{text}");
        }
    }

    #[test]
    fn a_signature_is_for_one_key_and_every_byte() {
        let key = SigningKey::generate().unwrap();
        let signature = key.sign_detached(b"message").unwrap();
        let read = Signature::parse(&signature.to_string()).unwrap();
        assert_eq!(read, signature);
        assert!(key.public_key().verifies(b"message", &signature));
        assert!(!key.public_key().verifies(b"message ", &signature));
        let other = SigningKey::generate().unwrap();
        assert!(!other.public_key().verifies(b"message", &signature));
        let mut forged = signature;
        forged.0[0] ^= 1;
        assert!(!key.public_key().verifies(b"message", &forged));
    }

    #[test]
    fn what_is_no_signature_is_not_read() {
        let good = Signature([7; SIGNATURE_BYTES]).to_string();
        assert!(Signature::parse(&good).is_some());
        for text in ["", "!", &good[4..], &good.repeat(2), &format!(" {good}")] {
            assert!(Signature::parse(text).is_none(), "{text}");
        }
    }
}
