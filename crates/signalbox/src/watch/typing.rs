//! What is typed on its way to a command: one message at a time, each sent
//! once. Pure: keys and answers in, messages out.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::client::Message;

/// Bytes that may wait to be sent; beyond them no more is read.
const WAITING_BYTES: usize = 64 * 1024;
/// Bytes of one message.
const PIECE_BYTES: usize = 16 * 1024;
/// Names input in its answer.
const INPUT: &str = "input";
/// The key that is for `watch` itself while others go to the command: Ctrl-].
const OWN_KEY: u8 = 0x1d;

/// What came of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Typed {
    /// The answer is to something else.
    Other,
    /// It arrived, or will be sent again since it was refused.
    Fine,
    /// Nobody can tell whether it arrived.
    Unsure,
    /// There is nobody who reads it.
    Nobody,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Typing {
    /// Whether one key is not for the command.
    has_own_key: bool,
    waiting: Vec<u8>,
    /// How much of it is on its way.
    sent: usize,
    /// Not before.
    pause_until: Option<Instant>,
    end: End,
}

/// Whether the end of what is typed is told: by a message without a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// More may come.
    Open,
    /// No more comes, which is to be told behind the last key.
    Due,
    /// It was told.
    Told,
}

impl Typing {
    pub(super) const fn new(has_own_key: bool) -> Self {
        Self {
            has_own_key,
            waiting: Vec::new(),
            sent: 0,
            pause_until: None,
            end: End::Open,
        }
    }

    /// No more is typed.
    pub(super) fn close(&mut self) {
        self.end = End::Due;
    }

    /// Whether more may be typed.
    pub(super) const fn has_room(&self) -> bool {
        self.waiting.len() < WAITING_BYTES
    }

    /// Takes what was typed; gives how often the key was pressed that is not
    /// for the command.
    pub(super) fn take(&mut self, keys: &[u8]) -> usize {
        if !self.has_own_key {
            self.waiting.extend_from_slice(keys);
            return 0;
        }
        let before = self.waiting.len();
        let others = keys.iter().filter(|key| **key != OWN_KEY);
        self.waiting.extend(others);
        keys.len() - (self.waiting.len() - before)
    }

    /// Whether anything could be sent, and from when on.
    pub(super) fn due(&self) -> Option<Instant> {
        (self.sent == 0 && (!self.waiting.is_empty() || self.end == End::Due))
            .then(|| self.pause_until.unwrap_or_else(Instant::now))
    }

    /// The next message, which is taken to be sent.
    pub(super) fn next(&mut self, command: &str) -> Value {
        let piece = &self.waiting[..self.waiting.len().min(PIECE_BYTES)];
        self.sent = piece.len();
        self.pause_until = None;
        if piece.is_empty() {
            self.end = End::Told;
        }
        let mut message = json!({
            "type": "terminal:input",
            "commandId": command,
            "content": String::from_utf8_lossy(piece),
            "requestId": INPUT,
        });
        if std::str::from_utf8(piece).is_err() {
            message["raw"] = json!(STANDARD.encode(piece));
        }
        message
    }

    /// Takes an answer in.
    pub(super) fn answer(&mut self, message: &Message) -> Typed {
        if message.text("requestId") != Some(INPUT) {
            return Typed::Other;
        }
        if self.sent == 0 {
            // To the end of what was typed, or to what a break has overtaken.
            return Typed::Fine;
        }
        match (message.kind(), message.text("code")) {
            ("request:done", _) => {
                self.arrived();
                Typed::Fine
            }
            // Refused, so it may be sent again.
            (_, Some("RATE_LIMIT")) => {
                let seconds = message.count("retryAfter").unwrap_or(1).max(1);
                self.pause_until = Some(Instant::now() + Duration::from_secs(seconds));
                self.sent = 0;
                Typed::Fine
            }
            (_, Some("TIMEOUT" | "UNAVAILABLE")) => {
                self.arrived();
                Typed::Unsure
            }
            _ => {
                self.waiting.clear();
                self.sent = 0;
                Typed::Nobody
            }
        }
    }

    /// The connection is lost: true where something was on its way, of which
    /// nobody can tell whether it arrived. It is not sent twice.
    pub(super) fn lost(&mut self) -> bool {
        let was_sent = self.sent > 0;
        self.arrived();
        was_sent
    }

    fn arrived(&mut self) {
        self.waiting.drain(..self.sent);
        self.sent = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(value: Value) -> Message {
        Message::read(&value.to_string()).unwrap().remove(0)
    }

    #[test]
    fn keys_go_one_message_at_a_time_and_once() {
        let mut typing = Typing::new(true);
        assert_eq!(typing.take(b"ls"), 0);
        assert!(typing.due().is_some());
        assert_eq!(typing.next("c")["content"], "ls");
        typing.take(b"\r");
        assert_eq!(typing.due(), None);
        let done = answer(json!({"type": "request:done", "requestId": "input"}));
        assert_eq!(typing.answer(&done), Typed::Fine);
        assert_eq!(typing.next("c")["content"], "\r");
        assert!(typing.lost());
        assert_eq!((typing.due(), typing.lost()), (None, false));
    }

    #[test]
    fn only_what_was_refused_is_sent_again() {
        let mut typing = Typing::new(false);
        typing.take(b"\xff\x1d");
        let first = typing.next("c");
        assert_eq!(first["raw"], "/x0=");
        let error = |code: &str| {
            answer(json!({"type": "command:error", "code": code, "requestId": "input"}))
        };
        assert_eq!(typing.answer(&error("RATE_LIMIT")), Typed::Fine);
        assert!(typing.due().is_some_and(|due| due > Instant::now()));
        assert_eq!(typing.next("c"), first);
        assert_eq!(typing.answer(&error("TIMEOUT")), Typed::Unsure);
        assert_eq!(typing.due(), None);
        typing.take(b"x");
        typing.next("c");
        assert_eq!(typing.answer(&error("COMMAND_NOT_FOUND")), Typed::Nobody);
        assert_eq!(typing.answer(&error("FORBIDDEN")), Typed::Fine);
    }

    #[test]
    fn the_end_is_told_behind_the_last_key() {
        let mut typing = Typing::new(false);
        typing.take(b"x");
        typing.close();
        assert_eq!(typing.next("c")["content"], "x");
        assert_eq!(typing.due(), None);
        let done = answer(json!({"type": "request:done", "requestId": "input"}));
        typing.answer(&done);
        assert!(typing.due().is_some());
        assert_eq!(typing.next("c")["content"], "");
        assert_eq!(typing.due(), None);
    }

    #[test]
    fn one_key_is_not_for_the_command() {
        let mut typing = Typing::new(true);
        assert_eq!(typing.take(b"a\x1db\x1d\x03"), 2);
        assert_eq!(typing.next("c")["content"], "ab\u{3}");
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut typing = Typing::new(false);
        typing.take(&vec![b'x'; WAITING_BYTES]);
        assert!(!typing.has_room());
        let first = typing.next("c");
        assert_eq!(first["content"].as_str().unwrap().len(), PIECE_BYTES);
    }
}
