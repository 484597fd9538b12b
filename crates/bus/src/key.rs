//! Every KV bucket and key is named here.

use signalbox_protocol::cursor::Cursor;
use signalbox_protocol::domain::Domain;

/// Bucket: API keys by id.
pub const API_KEYS: &str = "api_keys";
/// Bucket: public halves of the keys that sign access tokens, by key id.
pub const SIGNING_KEYS: &str = "signing_keys";
/// Bucket: which dead letters were replayed, by their position in DLQ.
pub const REPLAYS: &str = "dlq_replays";

/// Bucket: decisions on response actions, by action.
pub const DECISIONS: &str = "decisions";

/// The key of an action in [`DECISIONS`]: its id in hexadecimal, since ids may
/// have characters that keys may not.
#[must_use]
pub fn decision(action_id: &str) -> String {
    let mut key = String::with_capacity(2 * action_id.len());
    for byte in action_id.bytes() {
        key.push_str(&format!("{byte:02x}"));
    }
    key
}

/// The key of a dead letter in [`REPLAYS`].
#[must_use]
pub fn replay(letter: Cursor) -> String {
    letter.to_string()
}

/// Bucket: who does what of the things that one at a time may do, and who is
/// there to do them.
pub const LEASES: &str = "leases";
/// The stream that the bucket of leases is.
pub const LEASES_STREAM: &str = "KV_leases";

const MEMBER: &str = "member.";

/// The lease of the router that works on a domain.
#[must_use]
pub fn router_lease(domain: Domain) -> String {
    format!("router.{domain}")
}

/// The lease by which a router says that it is alive.
#[must_use]
pub fn member(id: &str) -> String {
    format!("{MEMBER}{id}")
}

/// Whether a key of the bucket of leases is a router's sign of life.
#[must_use]
pub fn is_member(key: &str) -> bool {
    key.starts_with(MEMBER)
}

#[cfg(test)]
mod tests {
    use signalbox_protocol::cursor::Epoch;

    use super::*;

    /// Whether `text` can be a key of a bucket as it is: what NATS allows, less
    /// the dot.
    fn is_plain(text: &str) -> bool {
        !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
    }

    #[test]
    fn keys_are_plain() {
        let letter = Cursor {
            epoch: Epoch::from_unix_micros(0xabc),
            sequence: 7,
        };
        assert_eq!(replay(letter), "abc-7");
        assert!(is_plain(&replay(letter)) && !is_plain("a.b"));
        assert_eq!(decision("a.é*"), "612ec3a92a");
    }
}
