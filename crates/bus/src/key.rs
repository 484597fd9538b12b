//! Every KV bucket and key is named here.

/// Bucket: API keys by id.
pub const API_KEYS: &str = "api_keys";
/// Bucket: public halves of the keys that sign access tokens, by key id.
pub const SIGNING_KEYS: &str = "signing_keys";

/// Whether `text` can be a key of a bucket as it is: what NATS allows, less
/// the dot.
#[must_use]
pub fn is_plain(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}
