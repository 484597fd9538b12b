//! What chats are called, and the bounds that all services keep.

use crate::fleet::Shard;

/// What every session's id begins with.
const SESSION: &str = "chat-";
/// Hexadecimal digits of a session's id.
const DIGITS: usize = 32;

/// The longest message of a user, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 32 * 1024;
/// The longest context of a session or message, in bytes of JSON.
pub const MAX_CONTEXT_BYTES: usize = 64 * 1024;
/// The longest id that a client may give a message, in bytes.
pub const MAX_MESSAGE_ID_BYTES: usize = 64;

/// The shard of a user's chats, the same for ever.
#[must_use]
pub fn shard(user_id: &str) -> Shard {
    Shard::of_agent(user_id)
}

/// The id of a session, from 32 hexadecimal digits in lower case that were drawn
/// at random; `None` for anything else.
#[must_use]
pub fn session_id(nonce: &str) -> Option<String> {
    is_nonce(nonce).then(|| format!("{SESSION}{nonce}"))
}

/// Whether `text` can be the id of a session.
#[must_use]
pub fn is_session_id(text: &str) -> bool {
    text.strip_prefix(SESSION).is_some_and(is_nonce)
}

/// The id of the log of a session, which has the user in front.
#[must_use]
pub fn log_id(user_id: &str, session_id: &str) -> String {
    format!("{user_id}/{session_id}")
}

/// User and session of a log's id.
#[must_use]
pub fn parse_log_id(log_id: &str) -> Option<(&str, &str)> {
    log_id.rsplit_once('/')
}

fn is_nonce(text: &str) -> bool {
    text.len() == DIGITS
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_named_in_one_way_only() {
        let nonce = "0123456789abcdef0123456789abcdef";
        let id = session_id(nonce).unwrap();
        assert!(is_session_id(&id));
        assert_eq!(
            parse_log_id(&log_id("corp/ada", &id)),
            Some(("corp/ada", &*id))
        );
        for text in [
            "",
            "chat-",
            "chat-1",
            nonce,
            "chat-0123456789ABCDEF0123456789abcdef",
        ] {
            assert!(!is_session_id(text), "{text}");
        }
        assert_eq!(session_id("x"), None);
    }
}
