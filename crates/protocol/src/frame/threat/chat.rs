//! Messages about chats with agents.

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::MAX_WORD_BYTES;
use crate::chat::{MAX_CONTEXT_BYTES, MAX_MESSAGE_BYTES, MAX_MESSAGE_ID_BYTES};
use crate::frame::fields::{Complaint, Fields};
use crate::timestamp::Timestamp;

/// A request to begin a chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartChat {
    /// What kind of agent is asked for.
    pub agent_type: String,
    /// What the chat is about: a JSON object, as text.
    pub context: Option<String>,
}

/// Something that is said in a chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatMessage {
    /// The chat; `None` = the one that this connection began last.
    pub session_id: Option<String>,
    /// What is said.
    pub message: String,
    /// What it is about: a JSON object, as text.
    pub context: Option<String>,
    /// Tells the message from others of the chat: said again under the same id,
    /// it is said once.
    pub message_id: Option<String>,
}

/// A request to end an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CancelChat {
    /// The chat; `None` = the one that this connection began last.
    pub session_id: Option<String>,
    /// The answer; `None` = whichever is being written.
    pub answer: Option<u32>,
}

/// A request for what a chat has behind a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResumeChat {
    /// The chat.
    pub session_id: String,
    /// The answer; `None` = the last one.
    pub answer: Option<u32>,
    /// The last chunk of it that the client has; 0 = none.
    pub after_chunk: u32,
}

/// Reads a `start_chat`.
pub(super) fn start(mut fields: Fields) -> Result<StartChat, Complaint> {
    Ok(StartChat {
        agent_type: fields.text("agent_type", MAX_WORD_BYTES)?,
        context: context(&mut fields)?,
    })
}

/// Reads a `chat_message`.
pub(super) fn message(mut fields: Fields) -> Result<ChatMessage, Complaint> {
    Ok(ChatMessage {
        session_id: fields.optional_id("session_id")?,
        message: fields.text("message", MAX_MESSAGE_BYTES)?,
        context: context(&mut fields)?,
        message_id: fields.optional_text("message_id", MAX_MESSAGE_ID_BYTES)?,
    })
}

/// Reads a `cancel_chat`.
pub(super) fn cancel(mut fields: Fields) -> Result<CancelChat, Complaint> {
    Ok(CancelChat {
        session_id: fields.optional_id("session_id")?,
        answer: fields.optional_integer("answer", 1..=u32::MAX)?,
    })
}

/// Reads a `resume_chat`.
pub(super) fn resume(mut fields: Fields) -> Result<ResumeChat, Complaint> {
    Ok(ResumeChat {
        session_id: fields.id("session_id")?,
        answer: fields.optional_integer("answer", 1..=u32::MAX)?,
        after_chunk: fields.integer("after_chunk", 0..=u32::MAX)?,
    })
}

fn context(fields: &mut Fields) -> Result<Option<String>, Complaint> {
    let Some(context) = fields.optional_object("context")? else {
        return Ok(None);
    };
    let text = Value::Object(context.into_rest()).to_string();
    if text.len() > MAX_CONTEXT_BYTES {
        let expected = format!("an object of at most {MAX_CONTEXT_BYTES} bytes");
        return Err(Complaint::field("context", &expected));
    }
    Ok(Some(text))
}

/// What a client is sent about chats.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ChatFrame<'a> {
    /// The chat has begun.
    ChatSessionStarted {
        /// Names the chat.
        session_id: &'a str,
        /// As it was asked for.
        agent_type: &'a str,
        /// Who answers.
        agent_info: AgentInfo<'a>,
    },
    /// What the chat has behind the chunk follows.
    ChatResumed {
        /// The chat.
        session_id: &'a str,
        /// The answer; absent where nothing was asked yet.
        #[serde(skip_serializing_if = "Option::is_none")]
        answer: Option<u32>,
        /// The chunk.
        after_chunk: u32,
        /// Whether the chat's last answer is being written.
        answering: bool,
    },
    /// No answer, or not the one that was meant, is being written any more.
    ChatCancelled {
        /// The chat.
        session_id: &'a str,
        /// The answer that was ended; absent where there was none.
        #[serde(skip_serializing_if = "Option::is_none")]
        answer: Option<u32>,
    },
    /// Part of an answer.
    AgentResponseChunk {
        /// The chat.
        session_id: &'a str,
        /// From 1 in each answer.
        chunk_id: u32,
        /// The part.
        content: &'a str,
        /// Whether it is the last.
        is_final: bool,
        /// Which answer of the chat, from 1.
        answer: u32,
    },
    /// An answer as a whole.
    AgentResponseComplete {
        /// The chat.
        session_id: &'a str,
        /// All chunks joined.
        full_response: &'a str,
        /// What the agent concludes, as its type's schema has it.
        #[serde(skip_serializing_if = "Option::is_none")]
        analysis: Option<&'a RawValue>,
        /// What it took.
        metadata: ResponseMetadata,
        /// Which answer of the chat, from 1.
        answer: u32,
    },
    /// An answer that was cancelled.
    AgentResponseCancelled {
        /// The chat.
        session_id: &'a str,
        /// What was written until then.
        partial_response: &'a str,
        /// What it took.
        metadata: ResponseMetadata,
        /// Which answer of the chat, from 1.
        answer: u32,
    },
    /// A tool runs.
    AgentToolExecution {
        /// The chat.
        session_id: &'a str,
        /// The tool.
        tool_name: &'a str,
        /// `EXECUTING`.
        status: ToolStatus,
        /// What it is given.
        parameters: &'a RawValue,
        /// Which answer of the chat, from 1.
        answer: u32,
        /// Which call of the answer, from 1.
        tool_call: u32,
    },
    /// A tool waits until somebody decides.
    AgentToolApproval {
        /// The chat.
        session_id: &'a str,
        /// The tool.
        tool_name: &'a str,
        /// What it would be given.
        parameters: &'a RawValue,
        /// Which answer of the chat, from 1.
        answer: u32,
        /// Which call of the answer, from 1.
        tool_call: u32,
        /// What is decided on, by `action_decision`.
        action_id: &'a str,
        /// What kind of action it is.
        action_type: &'a str,
        /// SHA-256 of tool and parameters: what the decision is bound to.
        arguments_hash: &'a str,
        /// When it is too late.
        expires_at: Timestamp,
    },
    /// Somebody decided on a tool that waited, or nobody did in time.
    AgentToolDecision {
        /// The chat.
        session_id: &'a str,
        /// The tool.
        tool_name: &'a str,
        /// Which answer of the chat, from 1.
        answer: u32,
        /// Which call of the answer, from 1.
        tool_call: u32,
        /// What was decided on.
        action_id: &'a str,
        /// What was decided.
        decision: ToolDecision,
        /// Who decided; absent where nobody did.
        #[serde(skip_serializing_if = "Option::is_none")]
        decided_by: Option<&'a str>,
        /// Why.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'a str>,
    },
    /// A tool runs a command, whose terminal can be watched in dialect `fleet`.
    AgentToolTerminal {
        /// The chat.
        session_id: &'a str,
        /// Which answer of the chat, from 1.
        answer: u32,
        /// Which call of the answer, from 1.
        tool_call: u32,
        /// The agent that runs it.
        agent_id: &'a str,
        /// The command.
        command_id: &'a str,
    },
    /// What a tool gave.
    AgentToolResult {
        /// The chat.
        session_id: &'a str,
        /// The tool.
        tool_name: &'a str,
        /// `COMPLETED` or `FAILED`.
        status: ToolStatus,
        /// What it gave; `value` where that is no object, `error` where it failed.
        results: ToolResults<'a>,
        /// Which answer of the chat, from 1.
        answer: u32,
        /// Which call of the answer, from 1.
        tool_call: u32,
        /// What became of the call.
        outcome: ToolOutcome,
        /// Whether what it gave was longer, and this is the beginning.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        truncated: bool,
    },
    /// A chat, a request about one or an answer failed.
    AgentError {
        /// The chat, where there is one.
        #[serde(skip_serializing_if = "Option::is_none")]
        session_id: Option<&'a str>,
        /// Why.
        error: AgentFailure<'a>,
        /// The answer that broke off.
        #[serde(skip_serializing_if = "Option::is_none")]
        answer: Option<u32>,
        /// What was written of it until then.
        #[serde(skip_serializing_if = "Option::is_none")]
        partial_response: Option<&'a str>,
    },
}

/// Who answers in a chat.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct AgentInfo<'a> {
    /// The agent's name.
    pub name: &'a str,
    /// The model behind it.
    pub model: &'a str,
    /// What it can do.
    pub capabilities: &'a [String],
}

/// What an answer took.
#[derive(Clone, Debug, Serialize)]
pub struct ResponseMetadata {
    /// The time, in seconds: `14.2s`.
    pub processing_time: String,
    /// Tokens in and out.
    pub tokens_used: u64,
}

/// How far a tool is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ToolStatus {
    /// It runs.
    Executing,
    /// It gave something.
    Completed,
    /// It gave nothing, for whatever reason.
    Failed,
}

/// What was decided on a tool that waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolDecision {
    /// It runs.
    Approve,
    /// It does not run.
    Reject,
    /// Nobody decided in time; it does not run.
    Expired,
}

impl ToolDecision {
    /// The words on the wire.
    pub const WORDS: &'static [&'static str] = &["approve", "reject", "expired"];
}

/// What became of a call of a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolOutcome {
    /// It gave something.
    Value,
    /// It says that it failed.
    Error,
    /// It took too long; whether it acted is unknown.
    TimedOut,
    /// The answer was cancelled.
    Cancelled,
    /// It never ran.
    Refused,
    /// It ran, and nobody knows what became of it.
    Unknown,
}

impl ToolOutcome {
    /// The words on the wire.
    pub const WORDS: &'static [&'static str] = &[
        "value",
        "error",
        "timed_out",
        "cancelled",
        "refused",
        "unknown",
    ];
}

/// What a tool gave: an object always.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(untagged)]
pub enum ToolResults<'a> {
    /// What it gave is an object.
    Object(&'a RawValue),
    /// It is something else.
    Value {
        /// What it gave.
        value: &'a RawValue,
    },
    /// It gave nothing.
    Error {
        /// Why, for people.
        error: &'a str,
    },
}

/// Why something about a chat failed.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct AgentFailure<'a> {
    /// For programs.
    pub code: AgentErrorCode,
    /// For people.
    pub message: &'a str,
    /// Whether the same again may succeed.
    pub retry_available: bool,
}

/// What can go wrong with an agent, as clients are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AgentErrorCode {
    /// It took too long.
    AgentTimeout,
    /// It cannot answer now, or the answer broke off.
    AgentUnavailable,
    /// The user has no such chat.
    SessionNotFound,
    /// It is still writing an answer.
    AgentBusy,
    /// What an answer may cost is used up.
    BudgetExceeded,
}

impl AgentErrorCode {
    /// The words on the wire.
    pub const WORDS: &'static [&'static str] = &[
        "AGENT_TIMEOUT",
        "AGENT_UNAVAILABLE",
        "SESSION_NOT_FOUND",
        "AGENT_BUSY",
        "BUDGET_EXCEEDED",
    ];
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::threat::ClientFrame;

    #[test]
    fn a_context_is_kept_in_its_order() {
        let text = r#"{"type":"start_chat","agent_type":"a","context":{"z":1,"a":[{"b":2.50}]}}"#;
        let Ok(ClientFrame::StartChat(start)) = ClientFrame::decode(text) else {
            panic!()
        };
        assert_eq!(start.context.unwrap(), r#"{"z":1,"a":[{"b":2.5}]}"#);
    }

    #[test]
    fn a_context_is_bounded() {
        let context = |bytes: usize| {
            let long = "x".repeat(bytes);
            let text =
                format!(r#"{{"type":"chat_message","message":"m","context":{{"a":"{long}"}}}}"#);
            ClientFrame::decode(&text)
        };
        let around = r#"{"a":""}"#.len();
        assert!(context(MAX_CONTEXT_BYTES - around).is_ok());
        let complaint = context(MAX_CONTEXT_BYTES - around + 1).unwrap_err();
        assert_eq!(complaint.field.as_deref(), Some("context"));
        assert!(complaint.message.ends_with("at most 65536 bytes"));
    }

    #[test]
    fn codes_are_their_words() {
        use AgentErrorCode::*;
        let codes = [
            AgentTimeout,
            AgentUnavailable,
            SessionNotFound,
            AgentBusy,
            BudgetExceeded,
        ];
        for (code, word) in codes.iter().zip(AgentErrorCode::WORDS) {
            assert_eq!(serde_json::to_value(code).unwrap(), *word);
        }
    }

    #[test]
    fn outcomes_are_their_words() {
        use ToolOutcome::*;
        let outcomes = [Value, Error, TimedOut, Cancelled, Refused, Unknown];
        for (outcome, word) in outcomes.iter().zip(ToolOutcome::WORDS) {
            assert_eq!(serde_json::to_value(outcome).unwrap(), *word);
        }
        use ToolDecision::*;
        for (decision, word) in [Approve, Reject, Expired].iter().zip(ToolDecision::WORDS) {
            assert_eq!(serde_json::to_value(decision).unwrap(), *word);
        }
    }
}
