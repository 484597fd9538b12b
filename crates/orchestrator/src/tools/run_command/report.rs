//! What a model is told of a command: how it ended, and the last part of what it
//! wrote, within the bytes that a result may have. Pure.

use std::time::Duration;

use serde_json::{Map, Value, json};
use signalbox_protocol::wire::{
    CommandError, CommandRefusal, CommandState, OutputStream, TermEnded,
};

use super::following::Seen;
use super::request::Request;
use super::tail::Tail;
use crate::tools::Outcome;

/// The relay's words for commands that it cannot follow any more, and for those
/// that everyone was told to end.
const AGENT_LOST: &str = "agent_lost";
const OUTCOME_UNKNOWN: &str = "outcome_unknown";
const EMERGENCY_STOP: &str = "emergency_stop";

/// The longest part of an agent's own words.
const REASON_BYTES: usize = 512;
/// The last output beside a sentence, of each stream, in bytes of JSON.
const LAST_WORDS_BYTES: usize = 1_024;

/// What there is to tell of a command.
pub(super) struct Report<'a> {
    pub(super) request: &'a Request,
    pub(super) seen: &'a Seen,
    pub(super) result_bytes: usize,
}

/// The relay does not take the command.
pub(super) fn refused(request: &Request, refusal: &CommandRefusal) -> Outcome {
    let agent = &request.agent_id;
    let why = match refusal.code() {
        CommandError::AgentNotFound => format!("agent {agent:?} is not known"),
        CommandError::AgentOffline => format!("agent {agent:?} is not connected"),
        CommandError::QueueFull => format!("too many commands wait for agent {agent:?}"),
        CommandError::EmergencyStop => {
            "an emergency stop is in force: no agent runs commands until it is lifted".to_owned()
        }
        CommandError::Unspecified
        | CommandError::CommandNotFound
        | CommandError::Unavailable
        | CommandError::Invalid => {
            format!("the relay refuses it: {}", shortened(&refusal.message))
        }
    };
    Outcome::Error(format!("the command was not run: {why}"))
}

impl Report<'_> {
    /// The command has ended, after it was interrupted where its time was over.
    pub(super) fn ended(&self, end: &TermEnded, timed_out: Option<Duration>) -> Outcome {
        let (agent, command) = (&self.request.agent_id, &self.request.command_id);
        let has_code = end.exit_code.is_some() || !end.signal.is_empty();
        let reason = shortened(&end.reason);
        match end.reason.as_str() {
            EMERGENCY_STOP => {
                let words =
                    format!("an emergency stop has ended command {command} on agent {agent:?}");
                return Outcome::Error(self.with_last_words(words));
            }
            AGENT_LOST | OUTCOME_UNKNOWN => {
                let words = format!(
                    "agent {agent:?} was lost while it ran command {command}, and nobody knows \
                     whether that ran to its end ({reason})"
                );
                return Outcome::Unknown(self.with_last_words(words));
            }
            _ => {}
        }
        match end.state() {
            CommandState::Failed if !has_code => {
                let words = match self.seen.has_started {
                    true => format!("command {command} failed on agent {agent:?}: {reason}"),
                    false => format!("agent {agent:?} has not run the command: {reason}"),
                };
                return Outcome::Error(self.with_last_words(words));
            }
            CommandState::Interrupted if !has_code && timed_out.is_none() => {
                let words = format!(
                    "command {command} was interrupted by {:?} before it began",
                    shortened(&end.by)
                );
                return Outcome::Error(words);
            }
            _ => {}
        }
        let mut told = self.begun(match timed_out {
            Some(_) => "timed_out",
            None => status(end.state()),
        });
        if let Some(exit_code) = end.exit_code {
            told.insert("exit_code".to_owned(), exit_code.into());
        }
        if !end.signal.is_empty() {
            told.insert("signal".to_owned(), shortened(&end.signal).into());
        }
        if !end.reason.is_empty() {
            told.insert("reason".to_owned(), reason.into());
        }
        if let Some(duration) = end.duration_ms {
            told.insert("duration_ms".to_owned(), duration.into());
        }
        match timed_out {
            Some(after) => {
                told.insert("interrupted_after_seconds".to_owned(), seconds(after));
            }
            None if !end.by.is_empty() => {
                told.insert("interrupted_by".to_owned(), shortened(&end.by).into());
            }
            None => {}
        }
        if end.incomplete {
            told.insert("incomplete".to_owned(), true.into());
        }
        let bytes = |stream: i32| {
            let sum = end.sums.iter().find(|sum| sum.stream == stream);
            sum.map_or(0, |sum| sum.bytes)
        };
        Outcome::Value(self.with_output(told, bytes))
    }

    /// Its time is over, and it has not ended yet.
    pub(super) fn still_runs(&self, after: Duration, is_told: bool) -> Outcome {
        let mut told = self.begun("timed_out");
        told.insert("interrupted_after_seconds".to_owned(), seconds(after));
        let words = match is_told {
            true => "it was told to end, and has not ended yet",
            false => "it is being told to end, and has not ended yet",
        };
        told.insert("reason".to_owned(), words.into());
        Outcome::Value(self.with_output(told, |_| 0))
    }

    /// The call was cancelled, and the command interrupted.
    pub(super) fn cancelled(&self, end: Option<&TermEnded>) -> Outcome {
        let command = &self.request.command_id;
        let became = match end {
            None => "was told to end, and had not ended yet".to_owned(),
            Some(end) if end.exit_code.is_none() && end.signal.is_empty() => {
                "was ended before it ran".to_owned()
            }
            Some(end) => {
                let code = end.exit_code.map(|code| format!("exit code {code}"));
                let signal = (!end.signal.is_empty()).then(|| shortened(&end.signal).to_owned());
                let how: Vec<String> = code.into_iter().chain(signal).collect();
                format!("was told to end, and ended with {}", how.join(", "))
            }
        };
        let words = format!("the chat was cancelled; command {command} {became}");
        Outcome::Stopped(self.with_last_words(words))
    }

    fn begun(&self, status: &str) -> Map<String, Value> {
        let mut told = Map::new();
        told.insert(
            "command_id".to_owned(),
            self.request.command_id.as_str().into(),
        );
        told.insert("agent_id".to_owned(), self.request.agent_id.as_str().into());
        told.insert("status".to_owned(), status.into());
        if self.seen.is_incomplete || self.seen.tails.values().any(Tail::is_broken) {
            told.insert("incomplete".to_owned(), true.into());
        }
        told
    }

    /// Adds the last part of each stream, as much as there is room for. `bytes` is
    /// what a stream has according to the log's end.
    fn with_output(&self, mut told: Map<String, Value>, bytes: impl Fn(i32) -> u64) -> Value {
        let nothing = Tail::new(0);
        let mut streams: Vec<(i32, &Tail)> = vec![(OutputStream::Stdout.into(), &nothing)];
        for (stream, tail) in &self.seen.tails {
            match streams.iter_mut().find(|(known, _)| known == stream) {
                Some((_, known)) => *known = tail,
                None => streams.push((*stream, tail)),
            }
        }
        let written = |stream, tail: &Tail| bytes(stream).max(tail.end());
        let entry = |text: &str, bytes: u64, truncated: bool| json!({"tail": text, "bytes": bytes, "truncated": truncated});
        for (stream, tail) in &streams {
            // What it takes without text; `false` is longer than `true`.
            let empty = entry("", written(*stream, tail), false);
            told.insert(name(*stream).to_owned(), empty);
        }
        let frame = Value::Object(told.clone()).to_string().len();
        let room = self.result_bytes.saturating_sub(frame);
        for ((stream, tail), room) in streams.iter().zip(shares(room, &streams)) {
            let excerpt = tail.excerpt(room);
            let bytes = written(*stream, tail);
            let is_cut = excerpt.is_cut || bytes > tail.end();
            let entry = entry(&excerpt.text, bytes, is_cut);
            told.insert(name(*stream).to_owned(), entry);
        }
        Value::Object(told)
    }

    /// A sentence with the last part of what the command wrote.
    fn with_last_words(&self, mut words: String) -> String {
        for (stream, tail) in &self.seen.tails {
            let excerpt = tail.excerpt(LAST_WORDS_BYTES);
            if !excerpt.text.trim().is_empty() {
                words.push_str(&format!(
                    "; the last of its {}: {}",
                    name(*stream),
                    excerpt.text
                ));
            }
        }
        words
    }
}

/// How much of the room each stream gets: what it needs, or as much as any other
/// that needs more.
fn shares(room: usize, streams: &[(i32, &Tail)]) -> Vec<usize> {
    let needs: Vec<usize> = streams.iter().map(|(_, tail)| tail.json_bytes()).collect();
    let mut order: Vec<usize> = (0..needs.len()).collect();
    order.sort_by_key(|at| needs[*at]);
    let (mut left, mut shares) = (room, vec![0; needs.len()]);
    for (done, at) in order.iter().enumerate() {
        shares[*at] = needs[*at].min(left / (needs.len() - done));
        left -= shares[*at];
    }
    shares
}

/// What a stream is called.
fn name(stream: i32) -> &'static str {
    match OutputStream::try_from(stream) {
        Ok(OutputStream::Stdout) => "stdout",
        Ok(OutputStream::Stderr) => "stderr",
        Ok(OutputStream::System) => "system",
        Ok(OutputStream::Command) => "command",
        Err(_) => "other",
    }
}

const fn status(state: CommandState) -> &'static str {
    match state {
        CommandState::Completed => "completed",
        CommandState::Interrupted => "interrupted",
        CommandState::Failed | CommandState::Queued | CommandState::Running => "failed",
    }
}

/// Seconds, to the tenth.
fn seconds(duration: Duration) -> Value {
    let tenths = (duration.as_secs_f64() * 10.0).round() / 10.0;
    tenths.into()
}

/// The beginning of somebody else's words.
fn shortened(words: &str) -> &str {
    &words[..words.floor_char_boundary(REASON_BYTES)]
}

#[cfg(test)]
mod tests;
