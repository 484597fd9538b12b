//! The private key that signs tokens.

use std::fmt;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};

use crate::claims::Claims;
use crate::key_set::PublicKey;
use crate::secret::Secret;
use crate::signature::Signature;

/// A key that could not be made or read, or that could not sign.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// The text is not an Ed25519 private key in PKCS#8 PEM.
    #[error("not an Ed25519 private key in PKCS#8 PEM")]
    UnusableKey,
    /// The cryptographic library failed to make a key.
    #[error("could not generate a key")]
    Generate,
    /// The cryptographic library failed to sign.
    #[error("could not sign the token")]
    Sign(#[source] jsonwebtoken::errors::Error),
}

/// An Ed25519 private key with the public key that verifies what it signs.
pub struct SigningKey {
    public: PublicKey,
    /// PKCS#8 version 1; the library that signs refuses version 2.
    private: EncodingKey,
}

impl SigningKey {
    /// Makes a new random key.
    ///
    /// # Errors
    /// [`SigningError::Generate`] when the system gives no randomness.
    pub fn generate() -> Result<Self, SigningError> {
        let pair = Ed25519KeyPair::generate().map_err(|_| SigningError::Generate)?;
        Self::from_pair(&pair).ok_or(SigningError::Generate)
    }

    /// Reads a key from PKCS#8 PEM, version 1 (as `openssl genpkey` writes it)
    /// or version 2.
    ///
    /// # Errors
    /// [`SigningError::UnusableKey`] when the text is anything else.
    pub fn from_pkcs8_pem(pem: &str) -> Result<Self, SigningError> {
        let der =
            EncodingKey::from_ed_pem(pem.as_bytes()).map_err(|_| SigningError::UnusableKey)?;
        let pair =
            Ed25519KeyPair::from_pkcs8(der.as_bytes()).map_err(|_| SigningError::UnusableKey)?;
        Self::from_pair(&pair).ok_or(SigningError::UnusableKey)
    }

    /// The key as PKCS#8 PEM, version 1.
    #[must_use]
    pub fn to_pkcs8_pem(&self) -> Secret {
        // The DER of an Ed25519 key is 48 bytes, so its base64 is one line of 64.
        let body = STANDARD.encode(self.private.as_bytes());
        Secret::new(format!(
            "-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n"
        ))
    }

    /// The public key that verifies what this key signs.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// The id that tokens name this key by: its RFC 7638 thumbprint.
    #[must_use]
    pub fn kid(&self) -> &str {
        self.public.kid()
    }

    /// Signs `claims` into a compact JWT.
    ///
    /// # Errors
    /// [`SigningError::Sign`] when the cryptographic library fails.
    pub fn sign(&self, claims: &Claims) -> Result<Secret, SigningError> {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.kid().to_owned());
        encode(&header, claims, &self.private)
            .map(Secret::new)
            .map_err(SigningError::Sign)
    }

    /// Signs bytes that are sent beside the signature.
    ///
    /// # Errors
    /// [`SigningError::UnusableKey`] when the cryptographic library refuses its
    /// own key.
    pub fn sign_detached(&self, message: &[u8]) -> Result<Signature, SigningError> {
        let pair = Ed25519KeyPair::from_pkcs8(self.private.as_bytes())
            .map_err(|_| SigningError::UnusableKey)?;
        Signature::new(pair.sign(message).as_ref()).ok_or(SigningError::UnusableKey)
    }

    fn from_pair(pair: &Ed25519KeyPair) -> Option<Self> {
        let der: Pkcs8V1Der<'_> = pair.as_der().ok()?;
        let public = pair.public_key().as_ref().try_into().ok()?;
        Some(Self {
            public: PublicKey::new(public),
            private: EncodingKey::from_ed_der(der.as_ref()),
        })
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("kid", &self.kid())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::Pkcs8V2Der;

    use super::*;

    /// The private key of RFC 8410, section 10.3 (version 1).
    const RFC_8410_PEM: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
        -----END PRIVATE KEY-----\n";

    #[test]
    fn pem_round_trips() {
        let key = SigningKey::generate().unwrap();
        let pem = key.to_pkcs8_pem();
        let read = SigningKey::from_pkcs8_pem(pem.expose()).unwrap();
        assert_eq!(read.kid(), key.kid());
        assert_eq!(read.to_pkcs8_pem().expose(), pem.expose());
    }

    #[test]
    fn a_foreign_version_1_key_is_read_as_it_is() {
        let key = SigningKey::from_pkcs8_pem(RFC_8410_PEM).unwrap();
        assert_eq!(key.to_pkcs8_pem().expose(), RFC_8410_PEM);
    }

    #[test]
    fn a_version_2_key_is_read_and_kept_as_version_1() {
        let pair = Ed25519KeyPair::generate().unwrap();
        let der: Pkcs8V2Der<'_> = pair.as_der().unwrap();
        let body = STANDARD.encode(der.as_ref());
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n");
        let key = SigningKey::from_pkcs8_pem(&pem).unwrap();
        assert_eq!(key.private.as_bytes().len(), 48);
        assert_eq!(
            key.public,
            PublicKey::new(pair.public_key().as_ref().try_into().unwrap())
        );
    }

    #[test]
    fn what_is_no_private_key_is_refused() {
        let truncated = RFC_8410_PEM.replace("EdVhC", "");
        let public = RFC_8410_PEM.replace("PRIVATE", "PUBLIC");
        for text in ["", "nonsense", &truncated, &public] {
            let error = SigningKey::from_pkcs8_pem(text).unwrap_err();
            assert!(matches!(error, SigningError::UnusableKey), "{text}");
        }
    }

    #[test]
    fn debug_shows_the_kid_alone() {
        let key = SigningKey::from_pkcs8_pem(RFC_8410_PEM).unwrap();
        let shown = format!("{key:?}");
        assert_eq!(shown, format!("SigningKey {{ kid: {:?}, .. }}", key.kid()));
    }
}
