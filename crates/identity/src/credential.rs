//! Which kind of credential a client presented.

use crate::api_key::{ApiKey, PREFIX};
use crate::secret::Secret;

/// A presented credential, told apart by its shape and not yet verified.
#[derive(Clone, Debug)]
pub enum Credential {
    /// An API key, to be looked up by its id.
    ApiKey(ApiKey),
    /// A signed token, to be verified against a key set.
    Jwt(Secret),
}

/// Text that has the shape of no credential.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("neither an API key nor a token")]
pub struct UnknownCredential;

impl Credential {
    /// Tells a credential's kind by its shape.
    ///
    /// # Errors
    /// [`UnknownCredential`] when the text can be neither kind. The error does
    /// not repeat the text.
    pub fn parse(text: &str) -> Result<Self, UnknownCredential> {
        if text.starts_with(PREFIX) {
            return ApiKey::parse(text)
                .map(Self::ApiKey)
                .map_err(|_| UnknownCredential);
        }
        if is_compact_jws(text) {
            return Ok(Self::Jwt(Secret::new(text)));
        }
        Err(UnknownCredential)
    }
}

/// Whether the text is three base64url parts between dots.
fn is_compact_jws(text: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    text.split('.').count() == 3 && text.split('.').all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_apart_by_shape() {
        let key = ApiKey::generate();
        let parsed = Credential::parse(key.expose().expose());
        assert!(matches!(parsed, Ok(Credential::ApiKey(found)) if found.id() == key.id()));

        let parsed = Credential::parse("eyJh.eyJz-_.c2ln");
        assert!(
            matches!(parsed, Ok(Credential::Jwt(token)) if token.expose() == "eyJh.eyJz-_.c2ln")
        );
        let parsed = Credential::parse("sbk_.b.c");
        assert!(parsed.is_err(), "the prefix decides");
    }

    #[test]
    fn other_shapes_are_refused() {
        for text in [
            "", "a", "a.b", "a.b.c.d", "a..c", "a.b.", "a.b.c ", "a.b.c=", "é.b.c",
        ] {
            assert!(Credential::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn debug_hides_both_kinds() {
        let token = Credential::parse("eyJh.eyJz.c2ln").unwrap();
        assert!(!format!("{token:?}").contains("eyJ"));
    }
}
