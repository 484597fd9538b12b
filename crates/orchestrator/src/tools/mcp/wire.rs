//! Messages of the protocol as bytes: bounded before they are read, and what
//! stands in for one that is too long.

use rmcp::model::{ErrorCode, ErrorData, NumberOrString, RequestId};
use rmcp::service::{RoleClient, RxJsonRpcMessage};
use tracing::debug;

/// The longest message that is read, in bytes; as values in memory it is up to
/// fifty times as large. A longer answer is an error to whoever waits for it, and
/// is not kept.
pub const MAX_MESSAGE_BYTES: usize = 2 * 1024 * 1024;
/// How far into a message its id is looked for, in bytes.
const MAX_HEAD_BYTES: usize = 4096;
/// How much of a text of a server one line of the log may have, in characters.
const MAX_LOGGED_CHARS: usize = 500;

/// What a server says.
pub(super) type Incoming = RxJsonRpcMessage<RoleClient>;

/// Reads a message; `None` if it is none, which servers are known to write.
pub(super) fn read(server: &str, bytes: &[u8]) -> Option<Incoming> {
    if bytes.trim_ascii().is_empty() {
        return None;
    }
    match serde_json::from_slice(bytes) {
        Ok(message) => Some(message),
        Err(error) => {
            let line = line(&String::from_utf8_lossy(
                &bytes[..bytes.len().min(MAX_HEAD_BYTES)],
            ));
            debug!(server, %error, line, "not a message");
            None
        }
    }
}

/// The answer to a request whose own answer is too long.
pub(super) fn too_long(id: RequestId) -> Incoming {
    let sentence = format!(
        "the tool's result is longer than {MAX_MESSAGE_BYTES} bytes and was not read; ask for less"
    );
    Incoming::error(
        ErrorData::new(ErrorCode::INTERNAL_ERROR, sentence, None),
        Some(id),
    )
}

/// A text of a server as one line for the log: bounded, no control characters.
pub(super) fn line(text: &str) -> String {
    let shown = text
        .chars()
        .map(|char| if char.is_control() { ' ' } else { char });
    shown
        .take(MAX_LOGGED_CHARS)
        .collect::<String>()
        .trim()
        .to_owned()
}

/// The id of a response of which there is only the beginning, if that has it.
pub(super) fn id_of_beginning(bytes: &[u8]) -> Option<RequestId> {
    let head = &bytes[..bytes.len().min(MAX_HEAD_BYTES)];
    let (mut depth, mut at) = (0_usize, 0_usize);
    let mut key = None;
    while let Some(byte) = head.get(at) {
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.checked_sub(1)?,
            b'"' => {
                let end = end_of_string(head, at)?;
                if depth == 1 {
                    key = Some(&head[at + 1..end]);
                }
                at = end;
            }
            b':' if depth == 1 && key == Some(b"id") => return id_at(&head[at + 1..]),
            _ => {}
        }
        at += 1;
    }
    None
}

/// Where the string ends that begins here: its closing quote.
fn end_of_string(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

fn id_at(bytes: &[u8]) -> Option<RequestId> {
    let bytes = bytes.trim_ascii_start();
    if bytes.first() == Some(&b'"') {
        let end = end_of_string(bytes, 0)?;
        let text: String = serde_json::from_slice(&bytes[..=end]).ok()?;
        return Some(NumberOrString::String(text.into()));
    }
    let end = bytes.iter().position(|byte| !byte.is_ascii_digit())?;
    let number = std::str::from_utf8(&bytes[..end]).ok()?.parse().ok()?;
    Some(NumberOrString::Number(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_found_in_a_beginning() {
        let number = |text: &str| match id_of_beginning(text.as_bytes()) {
            Some(NumberOrString::Number(number)) => Some(number),
            _ => None,
        };
        assert_eq!(
            number(r#"{"jsonrpc":"2.0","id":7,"result":{"content"#),
            Some(7)
        );
        assert_eq!(
            number(r#"{ "a\"id\"": {"id": 3, "b": ["id", 4]}, "id" : 12, "#),
            Some(12)
        );
        for none in [
            r#"{"jsonrpc":"2.0","result":{"id":7,"#,
            r#"{"id":7"#,
            r#"{"id":-"#,
            "}{",
            "\"id\":7,",
            "",
        ] {
            assert_eq!(id_of_beginning(none.as_bytes()), None, "{none}");
        }
        assert_eq!(
            id_of_beginning(br#"{"id":"a-1","result":"#),
            Some(NumberOrString::String("a-1".into()))
        );
    }

    #[test]
    fn lines_of_servers_are_harmless_in_logs() {
        assert_eq!(line("a\u{1b}[31m\nb\u{9b}c\r\n"), "a [31m b c");
        assert_eq!(line(&"x".repeat(9999)).len(), MAX_LOGGED_CHARS);
    }
}
