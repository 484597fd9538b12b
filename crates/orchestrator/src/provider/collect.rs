//! What both APIs' answers come to: text for the reader, the analysis taken out
//! of it, and tool calls that are handed over complete or not at all.

use std::collections::VecDeque;

use serde_json::Value;

use super::failure::{Failure, FailureKind};
use super::fence::Fence;
use super::prompt::ANALYSIS_TOOL;
use super::{Ask, End, Piece, Request, StopReason, ToolCall, Usage};

/// The longest text of one answer, in bytes, hidden parts included. More ends
/// it: [`FailureKind::TooLarge`].
pub(super) const MAX_TEXT_BYTES: usize = 1024 * 1024;
/// The most bytes of arguments of one call. More ends the answer likewise.
pub(super) const MAX_ARGUMENT_BYTES: usize = 256 * 1024;
/// The most calls of one answer. More end it likewise.
pub(super) const MAX_CALLS: usize = 64;

/// An answer on its way.
#[derive(Debug)]
pub(super) struct Collected {
    fence: Option<Fence>,
    /// The whole text, where only the analysis is wanted.
    hidden: Option<String>,
    calls: Vec<Call>,
    text_bytes: usize,
    /// The tokens as the provider tells them.
    pub(super) usage: Option<Usage>,
}

#[derive(Debug)]
struct Call {
    index: u64,
    id: String,
    name: String,
    arguments: String,
}

impl Collected {
    /// Begins the answer to a request.
    pub(super) fn new(request: &Request) -> Self {
        let analysis = request.analysis.as_ref();
        let only = analysis.is_some_and(|analysis| analysis.only);
        let fenced = analysis.is_some_and(|analysis| analysis.ask == Ask::Fence);
        Self {
            fence: (fenced && !only).then(Fence::default),
            hidden: only.then(String::new),
            calls: Vec::new(),
            text_bytes: 0,
            usage: None,
        }
    }

    /// Takes text.
    pub(super) fn text(&mut self, text: &str, pieces: &mut VecDeque<Piece>) -> Result<(), Failure> {
        if text.is_empty() {
            return Ok(());
        }
        self.text_bytes += text.len();
        if self.text_bytes > MAX_TEXT_BYTES {
            return Err(too_large("the text", MAX_TEXT_BYTES));
        }
        if let Some(hidden) = &mut self.hidden {
            hidden.push_str(text);
            pieces.push_back(Piece::Progress);
            return Ok(());
        }
        let visible = match &mut self.fence {
            Some(fence) => fence.feed(text),
            None => text.to_owned(),
        };
        pieces.push_back(if visible.is_empty() {
            Piece::Progress
        } else {
            Piece::Text(visible)
        });
        Ok(())
    }

    /// Begins a call, or names one that has begun. Some servers give all calls of
    /// an answer one number: the last that has it is meant, unless this is another.
    pub(super) fn call(&mut self, index: u64, id: &str, name: &str) -> Result<(), Failure> {
        let begun = self.calls.len();
        match self.numbered(index) {
            Some(call) if !call.is_other(id, name) => {
                if call.id.is_empty() {
                    id.clone_into(&mut call.id);
                }
                if call.name.is_empty() {
                    name.clone_into(&mut call.name);
                }
            }
            _ if begun == MAX_CALLS => {
                let detail = format!("more than {MAX_CALLS} calls");
                return Err(Failure::new(FailureKind::TooLarge, detail));
            }
            _ => self.calls.push(Call {
                index,
                id: id.to_owned(),
                name: name.to_owned(),
                arguments: String::new(),
            }),
        }
        Ok(())
    }

    /// Adds to the arguments of a call that has begun.
    pub(super) fn arguments(&mut self, index: u64, part: &str) -> Result<(), Failure> {
        let Some(call) = self.numbered(index) else {
            let detail = format!("arguments of call {index}, which has not begun");
            return Err(Failure::new(FailureKind::Garbled, detail));
        };
        if call.arguments.len() + part.len() > MAX_ARGUMENT_BYTES {
            return Err(too_large("the arguments of a call", MAX_ARGUMENT_BYTES));
        }
        call.arguments.push_str(part);
        Ok(())
    }

    /// The last call with this number.
    fn numbered(&mut self, index: u64) -> Option<&mut Call> {
        let mut calls = self.calls.iter_mut().rev();
        calls.find(|call| call.index == index)
    }

    /// The number of calls that have begun.
    pub(super) fn calls_begun(&self) -> usize {
        self.calls.len()
    }

    /// Whether there is a call with this id.
    pub(super) fn has_call(&self, id: &str) -> bool {
        self.calls.iter().any(|call| call.id == id)
    }

    /// Ends the answer.
    pub(super) fn end(&mut self, stop: StopReason, pieces: &mut VecDeque<Piece>) {
        let (handed_over, calls): (Vec<Call>, Vec<Call>) = std::mem::take(&mut self.calls)
            .into_iter()
            .partition(|call| call.name == ANALYSIS_TOOL);
        let complete = stop == StopReason::ToolUse;
        let mut analysis = None;
        if complete {
            analysis = handed_over
                .into_iter()
                .next_back()
                .map(|call| call.arguments);
        }
        if let Some(fence) = self.fence.take() {
            let (rest, block) = fence.finish();
            if !rest.is_empty() {
                pieces.push_back(Piece::Text(rest));
            }
            analysis = analysis.or(block);
        }
        if let Some(hidden) = self.hidden.take() {
            analysis = analysis.or_else(|| object_in(&hidden));
        }
        let calls: Vec<ToolCall> = calls
            .into_iter()
            .enumerate()
            .map(|(number, call)| call.settled(number, &stop))
            .collect();
        let stop = match stop {
            // It only handed over the analysis.
            StopReason::ToolUse if calls.is_empty() => StopReason::EndTurn,
            stop => stop,
        };
        pieces.push_back(Piece::End(End {
            stop,
            calls,
            analysis,
            usage: self.usage,
        }));
    }
}

impl Call {
    /// Whether what has this id and function is a call of its own: one with both,
    /// as only a call's beginning has, of which the id is not this one's.
    fn is_other(&self, id: &str, name: &str) -> bool {
        !name.is_empty() && !id.is_empty() && !self.id.is_empty() && self.id != id
    }

    fn settled(self, number: usize, stop: &StopReason) -> ToolCall {
        let arguments = match stop {
            StopReason::ToolUse => parsed(&self.arguments),
            StopReason::MaxTokens => {
                Err("the token limit cut this call off; it was not run".to_owned())
            }
            _ => Err("the answer ended before this call; it was not run".to_owned()),
        };
        let id = if self.id.is_empty() {
            // Some local servers name no calls.
            format!("call_{number}")
        } else {
            self.id
        };
        ToolCall {
            id,
            name: self.name,
            arguments,
        }
    }
}

fn parsed(text: &str) -> Result<Value, String> {
    if text.trim().is_empty() {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    match serde_json::from_str(text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err("the arguments are not a JSON object; the call was not run".to_owned()),
        Err(error) => Err(format!(
            "the arguments are not JSON ({error}); the call was not run"
        )),
    }
}

/// The JSON object in a text that should be nothing else.
fn object_in(text: &str) -> Option<String> {
    let start = text.find('{')?;
    let end = text.rfind('}')?;
    text.get(start..=end).map(str::to_owned)
}

fn too_large(what: &str, limit: usize) -> Failure {
    Failure::new(
        FailureKind::TooLarge,
        format!("{what} is longer than {limit} bytes"),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn end(stop: StopReason, arguments: &[(&str, &str)]) -> End {
        let mut collected = Collected::new(&Request::default());
        let mut pieces = VecDeque::new();
        for (index, (name, arguments)) in (0..).zip(arguments) {
            collected.call(index, "", name).unwrap();
            collected.arguments(index, arguments).unwrap();
        }
        collected.end(stop, &mut pieces);
        match pieces.pop_front() {
            Some(Piece::End(end)) => end,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_a_call_that_was_meant_to_run_has_arguments() {
        let ended = end(StopReason::ToolUse, &[("a", "{\"x\": 1}"), ("b", "")]);
        assert_eq!(ended.calls[0].arguments, Ok(json!({"x": 1})));
        assert_eq!(ended.calls[1].arguments, Ok(json!({})));
        assert_eq!(
            (&*ended.calls[0].id, &*ended.calls[1].id),
            ("call_0", "call_1")
        );
        // Complete JSON, yet the limit may have cut something off.
        for stop in [
            StopReason::MaxTokens,
            StopReason::EndTurn,
            StopReason::Refusal,
        ] {
            let ended = end(stop, &[("a", "{\"x\": 1}")]);
            assert!(ended.calls[0].arguments.is_err());
        }
        for broken in ["{\"x\": ", "[]", "null", "x"] {
            let ended = end(StopReason::ToolUse, &[("a", broken)]);
            assert!(ended.calls[0].arguments.is_err(), "{broken}");
        }
    }

    #[test]
    fn the_analysis_is_not_a_call() {
        let ended = end(StopReason::ToolUse, &[(ANALYSIS_TOOL, "{}")]);
        assert_eq!((ended.stop, ended.calls.len()), (StopReason::EndTurn, 0));
        assert_eq!(ended.analysis.as_deref(), Some("{}"));
        let ended = end(StopReason::MaxTokens, &[(ANALYSIS_TOOL, "{}")]);
        assert_eq!(ended.analysis, None);
    }

    #[test]
    fn arguments_and_calls_are_bounded() {
        let mut collected = Collected::new(&Request::default());
        collected.call(0, "", "a").unwrap();
        let part = "x".repeat(MAX_ARGUMENT_BYTES);
        collected.arguments(0, &part).unwrap();
        collected.arguments(0, "x").unwrap_err();
        collected.arguments(9, "x").unwrap_err();
        for index in 1..MAX_CALLS as u64 {
            collected.call(index, "", "a").unwrap();
        }
        collected.call(99, "", "a").unwrap_err();
        let mut pieces = VecDeque::new();
        collected
            .text(&"x".repeat(MAX_TEXT_BYTES), &mut pieces)
            .unwrap();
        collected.text("x", &mut pieces).unwrap_err();
    }
}
