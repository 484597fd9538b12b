//! What is typed on its way to a command: one message at a time, each sent
//! once. Of keys one may be lost on the way; what comes from a pipe arrives
//! whole, or nothing follows what did not. Pure: keys and answers in, messages
//! out.

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
/// The pause before the end of what is typed is told again.
const PAUSE: Duration = Duration::from_secs(1);
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
    /// It comes from a pipe, and not all of it arrived, as far as one can tell:
    /// no more is sent.
    Incomplete,
    /// There is nobody who reads it.
    Nobody,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Typing {
    /// Whether somebody types at a terminal: then one key is not for the command.
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
    /// It is on its way.
    Sent,
    /// It was told, or nobody is left who needs to know.
    Told,
    /// Nothing is told, since something is missing in front of it.
    Broken,
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
        if self.end == End::Open {
            self.end = End::Due;
        }
    }

    /// Whether not all of what came from a pipe arrived.
    pub(super) fn is_broken(&self) -> bool {
        self.end == End::Broken
    }

    /// Whether more may be typed.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < WAITING_BYTES && !self.is_broken()
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
            self.end = End::Sent;
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
        let is_end = self.end == End::Sent;
        if self.sent == 0 && !is_end {
            // To what a break has overtaken.
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
                self.again(Duration::from_secs(seconds))
            }
            // The end may be told twice.
            (_, Some("TIMEOUT" | "UNAVAILABLE" | "AGENT_OFFLINE")) if is_end => self.again(PAUSE),
            // It reads no more.
            (_, Some("COMMAND_NOT_FOUND")) if is_end => {
                self.arrived();
                Typed::Fine
            }
            (_, code) if !self.has_own_key && code != Some("COMMAND_NOT_FOUND") => self.fail(),
            (_, Some("TIMEOUT" | "UNAVAILABLE")) => {
                self.arrived();
                Typed::Unsure
            }
            _ => {
                self.waiting.clear();
                self.arrived();
                Typed::Nobody
            }
        }
    }

    /// The connection is lost. Of what was on its way nobody can tell whether it
    /// arrived, and it is not sent twice.
    pub(super) fn lost(&mut self) -> Typed {
        match self.sent {
            0 if self.end == End::Sent => self.again(Duration::ZERO),
            0 => Typed::Fine,
            _ if self.has_own_key => {
                self.arrived();
                Typed::Unsure
            }
            _ => self.fail(),
        }
    }

    fn arrived(&mut self) {
        let sent = self.sent.min(self.waiting.len());
        self.waiting.drain(..sent);
        self.sent = 0;
        if self.end == End::Sent {
            self.end = End::Told;
        }
    }

    /// What was sent is to be sent again.
    fn again(&mut self, pause: Duration) -> Typed {
        self.pause_until = Some(Instant::now() + pause);
        self.sent = 0;
        if self.end == End::Sent {
            self.end = End::Due;
        }
        Typed::Fine
    }

    fn fail(&mut self) -> Typed {
        self.waiting.clear();
        self.sent = 0;
        self.end = End::Broken;
        Typed::Incomplete
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
        assert_eq!(typing.lost(), Typed::Unsure);
        assert_eq!((typing.due(), typing.lost()), (None, Typed::Fine));
    }

    fn done() -> Message {
        answer(json!({"type": "request:done", "requestId": "input"}))
    }

    fn error(code: &str) -> Message {
        answer(json!({"type": "command:error", "code": code, "requestId": "input"}))
    }

    #[test]
    fn only_what_was_refused_is_sent_again() {
        for has_own_key in [true, false] {
            let mut typing = Typing::new(has_own_key);
            typing.take(b"\xff\x1c");
            let first = typing.next("c");
            assert_eq!(first["raw"], "/xw=");
            assert_eq!(typing.answer(&error("RATE_LIMIT")), Typed::Fine);
            assert!(typing.due().is_some_and(|due| due > Instant::now()));
            assert_eq!(typing.next("c"), first);
            if has_own_key {
                assert_eq!(typing.answer(&error("TIMEOUT")), Typed::Unsure);
                assert_eq!(typing.due(), None);
                typing.take(b"x");
                typing.next("c");
            }
            assert_eq!(typing.answer(&error("COMMAND_NOT_FOUND")), Typed::Nobody);
            assert_eq!(typing.answer(&error("FORBIDDEN")), Typed::Fine);
        }
    }

    #[test]
    fn nothing_follows_what_did_not_arrive_from_a_pipe() {
        let codes = ["TIMEOUT", "UNAVAILABLE", "AGENT_OFFLINE", "FORBIDDEN"];
        for code in codes.map(Some).into_iter().chain([None]) {
            let mut typing = Typing::new(false);
            typing.take(&vec![b'x'; PIECE_BYTES + 1]);
            typing.next("c");
            let typed = match code {
                Some(code) => typing.answer(&error(code)),
                None => typing.lost(),
            };
            assert_eq!((typed, typing.is_broken()), (Typed::Incomplete, true));
            typing.close();
            assert!(typing.due().is_none() && !typing.has_room());
        }
    }

    #[test]
    fn the_end_is_told_behind_the_last_key() {
        let mut typing = Typing::new(false);
        typing.take(b"x");
        typing.close();
        assert_eq!(typing.next("c")["content"], "x");
        assert_eq!(typing.due(), None);
        typing.answer(&done());
        assert!(typing.due().is_some());
        assert_eq!(typing.next("c")["content"], "");
        assert_eq!(typing.due(), None);
        assert_eq!(typing.answer(&done()), Typed::Fine);
        assert_eq!((typing.lost(), typing.due()), (Typed::Fine, None));
    }

    #[test]
    fn the_end_is_told_until_it_has_arrived() {
        let mut typing = Typing::new(false);
        typing.close();
        for code in ["RATE_LIMIT", "TIMEOUT", "UNAVAILABLE", "AGENT_OFFLINE"] {
            assert_eq!(typing.next("c")["content"], "");
            assert_eq!(typing.answer(&error(code)), Typed::Fine);
            assert!(typing.due().is_some_and(|due| due > Instant::now()));
        }
        typing.next("c");
        assert_eq!(typing.lost(), Typed::Fine);
        assert!(typing.due().is_some());
        typing.next("c");
        assert_eq!(typing.answer(&error("COMMAND_NOT_FOUND")), Typed::Fine);
        assert_eq!((typing.due(), typing.is_broken()), (None, false));
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
