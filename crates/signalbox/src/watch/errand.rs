//! A command on its way: asked for under a key until there is an answer, so
//! that it is run once however often the connection breaks. What the logs tell
//! of it before the answer says its name is held back until then.

use std::collections::HashSet;
use std::str::FromStr as _;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::options::WatchArgs;
use crate::client::Message;
use crate::client::plain;

/// Names the request in its answer.
const REQUEST: &str = "run";
/// Names an interruption in its answer.
pub(super) const INTERRUPT: &str = "interrupt";
/// Bytes that are held back before the answer; beyond them they are dropped,
/// and read again once the name is known.
const HELD_BYTES: usize = 4 * 1024 * 1024;
/// The pause before an answer that says nothing is asked for again.
const PAUSE: Duration = Duration::from_secs(1);

/// What a command that was interrupted before it began would have ended with.
const INTERRUPTED: u8 = 130;
/// Added to a signal's number, as shells do.
const SIGNALLED: u8 = 128;
/// The command has no exit code, or nobody knows it.
pub(super) const UNKNOWN: u8 = 255;

/// How far it is.
#[derive(Debug, PartialEq, Eq)]
enum State {
    /// It is to be asked for, at this time.
    Due(Instant),
    /// It was asked for.
    Asked,
    /// It has a name.
    Accepted(String),
}

/// What an answer means.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// Nothing to do.
    Wait,
    /// It will be asked for again, for this reason.
    Again(String),
    /// It has a name; these messages are about it. `false` where some were
    /// dropped and must be read again.
    Accepted(String, Vec<Message>, bool),
    /// It is refused.
    Refused(String),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Errand {
    request: Value,
    state: State,
    /// The position before which nothing is about it.
    pub(super) since: Option<String>,
    /// Commands that may be it.
    candidates: HashSet<String>,
    held: Vec<Message>,
    held_bytes: usize,
    dropped: bool,
}

impl Errand {
    pub(super) fn new(agent: &str, args: &WatchArgs) -> Option<Self> {
        let (command, rest) = args.run.split_first()?;
        let key = uuid::Uuid::new_v4().simple().to_string();
        let mut request = json!({
            "type": "command:request",
            "agentId": agent,
            "command": command,
            "args": rest,
            "idempotencyKey": key,
            "queueIfOffline": args.queue_if_offline,
            "requestId": REQUEST,
        });
        if let Some(priority) = args.priority {
            request["priority"] = json!(priority.as_str());
        }
        Some(Self {
            request,
            state: State::Due(Instant::now()),
            since: None,
            candidates: HashSet::new(),
            held: Vec::new(),
            held_bytes: 0,
            dropped: false,
        })
    }

    /// The command's name, once it has one.
    pub(super) fn command(&self) -> Option<&str> {
        match &self.state {
            State::Accepted(id) => Some(id),
            State::Due(_) | State::Asked => None,
        }
    }

    /// When it is to be asked for.
    pub(super) const fn due(&self) -> Option<Instant> {
        match self.state {
            State::Due(at) => Some(at),
            State::Asked | State::Accepted(_) => None,
        }
    }

    /// The request, which is taken to be sent.
    pub(super) fn ask(&mut self, position: Option<&str>) -> Value {
        self.state = State::Asked;
        if self.since.is_none() {
            self.since = position.map(str::to_owned);
        }
        self.request.clone()
    }

    /// There is a new connection: what was asked on the last is asked again.
    pub(super) fn returned(&mut self) {
        if self.state == State::Asked {
            self.state = State::Due(Instant::now());
        }
    }

    /// Holds back what may be about it; false where there is nothing to wait
    /// for.
    pub(super) fn hold(&mut self, message: &Message) -> bool {
        if self.command().is_some() {
            return false;
        }
        let Some(id) = message.text("commandId") else {
            return false;
        };
        if message.kind() == "command:status"
            && message.text("command") == self.request["command"].as_str()
            && message.text("agentId") == self.request["agentId"].as_str()
        {
            self.candidates.insert(id.to_owned());
        }
        if self.candidates.contains(id) {
            self.held_bytes += message.weight();
            if self.held_bytes > HELD_BYTES {
                self.held.clear();
                self.dropped = true;
            }
            if !self.dropped {
                self.held.push(message.clone());
            }
        }
        true
    }

    /// Takes an answer in.
    pub(super) fn answer(&mut self, message: &Message) -> Step {
        if message.text("requestId") != Some(REQUEST) || self.command().is_some() {
            return Step::Wait;
        }
        let error = plain(message.text("error").unwrap_or_default());
        let again = |state: &mut State, pause: Duration| {
            *state = State::Due(Instant::now() + pause);
            Step::Again(error.clone())
        };
        match (message.kind(), message.text("code")) {
            ("command:queued", _) => {
                let id = message.text("commandId").unwrap_or_default().to_owned();
                self.state = State::Accepted(id.clone());
                let held = std::mem::take(&mut self.held).into_iter();
                let ours = held.filter(|held| held.text("commandId") == Some(&id));
                Step::Accepted(id.clone(), ours.collect(), !self.dropped)
            }
            // The key is the same, so this is the same command.
            (_, Some("TIMEOUT" | "UNAVAILABLE")) => again(&mut self.state, PAUSE),
            (_, Some("RATE_LIMIT")) => {
                let seconds = message.count("retryAfter").unwrap_or(1).max(1);
                again(&mut self.state, Duration::from_secs(seconds))
            }
            (_, Some(code)) => Step::Refused(format!("{error} ({})", plain(code))),
            _ => Step::Wait,
        }
    }
}

/// The exit code that a command's end stands for.
pub(super) fn exit_code(complete: &Message) -> u8 {
    if let Some(code) = complete.count("exitCode") {
        // Interrupted for want of its input, it may still say that all is well.
        if code == 0 && complete.text("status") == Some("failed") {
            return UNKNOWN;
        }
        // A greater one must not become 0 on its way.
        return u8::try_from(code).unwrap_or(UNKNOWN);
    }
    let signal = complete.text("signal").and_then(|name| {
        let name = name.trim_start_matches("SIG");
        Signal::from_str(&format!("SIG{name}")).ok()
    });
    match (signal, complete.text("status")) {
        (Some(signal), _) => u8::try_from(signal as i32).map_or(UNKNOWN, |n| SIGNALLED + n),
        (None, Some("interrupted")) => INTERRUPTED,
        (None, _) => UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: WatchArgs,
    }

    fn errand() -> Errand {
        let line = Line::parse_from(["watch", "a", "--", "make", "-k", "all"]);
        Errand::new("a", &line.args).unwrap()
    }

    fn message(value: &Value) -> Message {
        Message::read(&value.to_string()).unwrap().remove(0)
    }

    fn queued(id: &str, command: &str) -> Message {
        message(
            &json!({"type": "command:status", "status": "queued", "agentId": "a",
            "commandId": id, "command": command}),
        )
    }

    #[test]
    fn what_came_ahead_of_the_answer_is_kept() {
        let mut errand = errand();
        let request = errand.ask(Some("p"));
        assert_eq!(request["args"], json!(["-k", "all"]));
        assert!(errand.hold(&queued("c-1", "make")));
        assert!(errand.hold(&queued("c-2", "other")));
        let output = |id: &str| message(&json!({"type": "terminal:output", "commandId": id}));
        assert!(errand.hold(&output("c-1")) && errand.hold(&output("c-2")));
        let answer = json!({"type": "command:queued", "commandId": "c-1", "requestId": "run"});
        let Step::Accepted(id, held, whole) = errand.answer(&message(&answer)) else {
            panic!("not accepted");
        };
        assert_eq!((id.as_str(), held.len(), whole), ("c-1", 2, true));
        assert!(!errand.hold(&output("c-1")));
    }

    #[test]
    fn too_much_to_hold_is_read_again() {
        let mut errand = errand();
        errand.ask(Some("p"));
        errand.hold(&queued("c-1", "make"));
        let content = "x".repeat(HELD_BYTES);
        errand.hold(&message(
            &json!({"type": "terminal:output", "commandId": "c-1",
            "output": {"content": content}}),
        ));
        let answer = json!({"type": "command:queued", "commandId": "c-1", "requestId": "run"});
        let step = errand.answer(&message(&answer));
        assert_eq!(step, Step::Accepted("c-1".to_owned(), Vec::new(), false));
        assert_eq!(errand.since.as_deref(), Some("p"));
    }

    #[test]
    fn a_break_and_a_time_out_are_asked_about_again_under_the_same_key() {
        let mut errand = errand();
        let first = errand.ask(None);
        assert_eq!(errand.due(), None);
        errand.returned();
        assert!(errand.due().is_some());
        assert_eq!(errand.ask(None), first);
        let answer =
            json!({"type": "command:error", "code": "TIMEOUT", "error": "e", "requestId": "run"});
        assert!(matches!(errand.answer(&message(&answer)), Step::Again(_)));
        assert!(errand.due().is_some());
        assert_eq!(errand.ask(None), first);
        let answer =
            json!({"type": "command:error", "code": "FORBIDDEN", "error": "e", "requestId": "run"});
        let refused = Step::Refused("e (FORBIDDEN)".to_owned());
        assert_eq!(errand.answer(&message(&answer)), refused);
    }

    #[test]
    fn ends_have_the_codes_that_shells_give_them() {
        let code = |value: Value| exit_code(&message(&value));
        assert_eq!(code(json!({"exitCode": 0, "status": "completed"})), 0);
        assert_eq!(code(json!({"exitCode": 137, "signal": "SIGKILL"})), 137);
        assert_eq!(code(json!({"signal": "SIGTERM", "status": "failed"})), 143);
        assert_eq!(code(json!({"signal": "INT"})), 130);
        assert_eq!(code(json!({"status": "interrupted"})), 130);
        assert_eq!(
            code(json!({"status": "failed", "reason": "agent_lost"})),
            255
        );
        assert_eq!(code(json!({"exitCode": 256})), 255);
        assert_eq!(code(json!({"exitCode": 0, "status": "failed"})), 255);
    }
}
