//! What one call of a provider has added to an answer: its words, the tools it
//! asked for and what became of each. Pure, as all of [`super::Answer`]; from it
//! the next request is made, by whoever makes it.

use serde_json::{Value, json};
use signalbox_protocol::wire::{
    ChatToolDecided, ChatToolEnded, ChatToolHeld, ChatToolPlanned, ToolOutcome, ToolVerdict,
};

use crate::provider::{Message, ToolCall, ToolResult};

/// A round of an answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Round {
    /// What was shown of it: its chunks, joined.
    pub(crate) text: String,
    /// The calls of tools, in the model's order.
    pub(crate) calls: Vec<Called>,
    /// Whether the provider has said all of it, and the answer goes on with another
    /// round.
    pub(crate) is_over: bool,
}

/// A call of a tool, as far as the log says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Called {
    /// As the model asked for it.
    pub(crate) planned: ChatToolPlanned,
    /// That people were asked.
    pub(crate) held: Option<ChatToolHeld>,
    /// What they said.
    pub(crate) decided: Option<ChatToolDecided>,
    /// When it was started, in Unix milliseconds.
    pub(crate) started_ms: Option<u64>,
    /// What became of it.
    pub(crate) ended: Option<ChatToolEnded>,
}

/// How far a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nothing was done with it but to plan it.
    Planned,
    /// People are asked.
    Held,
    /// People have agreed.
    Approved,
    /// People have not agreed.
    Declined,
    /// It runs, or ran when its orchestrator was lost.
    Started,
    /// There is a result.
    Ended,
}

impl Called {
    /// A call that was just planned.
    pub(crate) fn new(planned: ChatToolPlanned) -> Self {
        Self {
            planned,
            ..Self::default()
        }
    }

    /// Its number in the answer.
    pub(crate) const fn number(&self) -> u32 {
        self.planned.tool_call
    }

    /// How far it is.
    pub(crate) fn stage(&self) -> Stage {
        if self.ended.is_some() {
            return Stage::Ended;
        }
        if self.started_ms.is_some() {
            return Stage::Started;
        }
        match (&self.decided, &self.held) {
            (Some(decided), _) if decided.verdict() == ToolVerdict::Approve => Stage::Approved,
            (Some(_), _) => Stage::Declined,
            (None, Some(_)) => Stage::Held,
            (None, None) => Stage::Planned,
        }
    }

    /// What the tool is given.
    pub(crate) fn arguments(&self) -> Value {
        // Only an object is ever planned.
        serde_json::from_str(&self.planned.arguments).unwrap_or_else(|_| json!({}))
    }

    fn result(&self) -> Option<ToolResult> {
        let ended = self.ended.as_ref()?;
        Some(ToolResult {
            call_id: self.planned.model_call_id.clone(),
            content: content(ended),
            failed: ended.outcome() != ToolOutcome::Value,
        })
    }
}

impl Round {
    /// Whether nothing goes on in it but people thinking about it.
    pub(crate) fn is_waiting(&self) -> bool {
        let mut is_held = false;
        for call in &self.calls {
            match call.stage() {
                Stage::Held => is_held = true,
                Stage::Ended => {}
                _ => return false,
            }
        }
        is_held
    }

    /// Adds what was said and what the tools gave, as the next request has it.
    pub(crate) fn add_to(&self, messages: &mut Vec<Message>) {
        let calls = self.calls.iter().map(|call| ToolCall {
            id: call.planned.model_call_id.clone(),
            name: call.planned.tool_name.clone(),
            arguments: Ok(call.arguments()),
        });
        messages.push(Message::Agent {
            text: self.text.clone(),
            calls: calls.collect(),
        });
        let results: Vec<_> = self.calls.iter().filter_map(Called::result).collect();
        if !results.is_empty() {
            messages.push(Message::Results { results });
        }
    }
}

/// A result as the model gets it: JSON, whatever it is.
fn content(ended: &ChatToolEnded) -> String {
    let outcome = match ended.outcome() {
        ToolOutcome::Value if ended.truncated => {
            let beginning: Value = serde_json::from_str(&ended.result).unwrap_or_default();
            return json!({"truncated": true, "beginning": beginning}).to_string();
        }
        ToolOutcome::Value => return ended.result.clone(),
        ToolOutcome::Error => "error",
        ToolOutcome::TimedOut => "timed_out",
        ToolOutcome::Cancelled => "cancelled",
        ToolOutcome::Refused => "refused",
        ToolOutcome::Unknown | ToolOutcome::Unspecified => "unknown",
    };
    json!({"error": ended.result, "outcome": outcome}).to_string()
}
