//! What writes the answers: one trait in front of hosted models, local models
//! and the built-in analyst. A provider knows one request and its stream; it
//! keeps no session, stores nothing, runs no tool and has no clock of its own
//! beyond the transport's.
//!
//! # Contract
//!
//! - [`Provider::answer`] returns at once; everything happens while the stream
//!   is polled, and dropping the stream gives the request up.
//! - A stream that went well ends with exactly one [`Piece::End`]. One that
//!   ends with an error, or without either, has failed. Nothing follows.
//! - Text comes as it is written, never the analysis: that is in [`End`].
//! - Tool calls come in [`End`] only, when the model stopped to have them run.
//! - [`Failure::retryable`] says whether the same request may be sent again,
//!   as long as nobody has seen text of it; [`retry::answer`] does so.

pub mod anthropic;
mod collect;
mod exchange;
pub mod failure;
mod fence;
#[cfg(test)]
mod hostile;
pub mod http;
pub mod offline;
pub mod openai;
mod prompt;
pub mod retry;
pub mod sse;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ::http::HeaderValue;
use futures_util::Stream;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use signalbox_identity::Secret;

pub use self::failure::{Failure, FailureKind};
pub(crate) use self::prompt::ANALYSIS_TOOL;
use crate::analysis::Schema;
use crate::evidence::Event;

/// The stream of an answer.
pub type Pieces = Pin<Box<dyn Stream<Item = Result<Piece, Failure>> + Send>>;

/// Something that answers.
pub trait Provider: fmt::Debug + Send + Sync {
    /// Answers one request; nothing is sent before the stream is polled.
    fn answer(&self, request: Arc<Request>) -> Pieces;

    /// Whether the same request always gives the same answer, so that a request
    /// with [`Request::so_far`] goes on where another process stopped.
    fn repeats_itself(&self) -> bool {
        false
    }
}

/// What is to be answered.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The agent's type: the offline analyst's job.
    pub agent_type: String,
    /// The model, as the provider calls it.
    pub model: String,
    /// The agent's standing instructions.
    pub instructions: String,
    /// The context given at the start of the chat.
    pub context: Option<Value>,
    /// The conversation, oldest first; the last message is the user's or the
    /// results of tools.
    pub messages: Vec<Message>,
    /// Events that bear on the conversation, oldest first.
    pub events: Arc<[Event]>,
    /// The tools that the model may ask for.
    pub tools: Arc<[Tool]>,
    /// The analysis that is to come with the answer.
    pub analysis: Option<AnalysisRequest>,
    /// The longest answer, in tokens.
    pub max_output_tokens: u32,
    /// The text of the answer that exists already: what follows goes on behind
    /// it. Only for providers that repeat themselves, and an error where they
    /// would have written another text; others refuse anything but nothing.
    pub so_far: String,
}

/// How the analysis is asked for.
#[derive(Clone, Debug)]
pub struct AnalysisRequest {
    /// What it must look like.
    pub schema: Arc<Schema>,
    /// How the model hands it over.
    pub ask: Ask,
    /// Only the analysis is wanted, no text: a repair.
    pub only: bool,
}

/// How a model hands over its analysis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// By calling a tool that is offered beside the others; a repair forces it.
    Tool,
    /// In a fenced block behind the text, which is cut off before anyone sees it.
    Fence,
}

/// A message of the conversation.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(tag = "role", rename_all = "snake_case")]
pub enum Message {
    /// What the user said.
    User {
        /// The words.
        text: String,
        /// Data that came with them.
        context: Option<Value>,
    },
    /// What the agent said.
    Agent {
        /// The words.
        text: String,
        /// The tools it asked for.
        calls: Vec<ToolCall>,
    },
    /// What the tools gave, one for each call of the message before.
    Results {
        /// In the order of the calls.
        results: Vec<ToolResult>,
    },
}

/// A tool that the model may ask for.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Tool {
    /// Its name: letters, digits, `_` and `-`, at most 64.
    pub name: String,
    /// What it does, for the model.
    pub description: String,
    /// The JSON schema of its arguments, an object.
    pub parameters: Value,
}

/// A complete call of a tool.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct ToolCall {
    /// The model's name for the call.
    pub id: String,
    /// The tool.
    pub name: String,
    /// The arguments, or why there are none: such a call is never run, its
    /// result is this sentence.
    pub arguments: Result<Value, String>,
}

/// What a tool gave.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct ToolResult {
    /// The call.
    pub call_id: String,
    /// What is told to the model: one JSON value.
    pub content: String,
    /// Whether it is an error.
    pub failed: bool,
}

/// A part of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// Words for the user, never empty.
    Text(String),
    /// The model is at work on something the user does not see: reasoning,
    /// arguments, the analysis. It winds the clock between tokens.
    Progress,
    /// The tokens of this request as far as they are known, without those of
    /// earlier attempts; replaces what was said before.
    Usage(Usage),
    /// The request failed before anything was visible and is sent again.
    Retrying {
        /// What happened.
        failure: Failure,
        /// The wait before it.
        wait: Duration,
        /// The tokens that the failed request has used, an estimate where its
        /// provider did not come to say.
        cost: Usage,
    },
    /// The end of a complete answer.
    End(End),
}

/// How an answer ended.
#[derive(Clone, Debug, PartialEq)]
pub struct End {
    /// Why the model stopped.
    pub stop: StopReason,
    /// The tools to run, in the model's order, without the call that hands over
    /// the analysis. Arguments there are only where `stop` is
    /// [`StopReason::ToolUse`]: a call that the end cut off is an error.
    pub calls: Vec<ToolCall>,
    /// The analysis as the model wrote it, unchecked.
    pub analysis: Option<String>,
    /// The tokens, without those of earlier attempts; `None` when the provider
    /// does not say.
    pub usage: Option<Usage>,
}

/// Why a model stopped.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// It had said what it wanted.
    EndTurn,
    /// It waits for tools.
    ToolUse,
    /// The answer is as long as it may be; a call at its end is cut and unusable.
    MaxTokens,
    /// It came upon a stop sequence.
    StopSequence,
    /// The provider took a break; sent back as it is, the model goes on.
    PauseTurn,
    /// It will not answer.
    Refusal,
    /// The conversation is longer than the model can read.
    ContextExceeded,
    /// A reason that was not known when this was written.
    Other(String),
}

/// Tokens that were used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Usage {
    /// Read, without those from the cache.
    pub input: u64,
    /// Written.
    pub output: u64,
    /// Read from the provider's cache.
    pub cache_read: u64,
    /// Written into the provider's cache.
    pub cache_write: u64,
    /// Whether they were counted by us instead of by the provider.
    pub estimated: bool,
}

impl Usage {
    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.input
            .saturating_add(self.output)
            .saturating_add(self.cache_read)
            .saturating_add(self.cache_write)
    }

    /// Both together; an estimate in either makes the sum one.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            input: self.input.saturating_add(other.input),
            output: self.output.saturating_add(other.output),
            cache_read: self.cache_read.saturating_add(other.cache_read),
            cache_write: self.cache_write.saturating_add(other.cache_write),
            estimated: self.estimated || other.estimated,
        }
    }

    /// An estimate for a request that ended before its provider told: four
    /// bytes of text are about one token.
    #[must_use]
    pub fn estimate(request: &Request, written_bytes: usize) -> Self {
        Self {
            input: tokens_of(prompt::size(request)),
            output: tokens_of(written_bytes),
            estimated: true,
            ..Self::default()
        }
    }
}

/// About how many tokens a text of this many bytes is.
#[must_use]
pub const fn tokens_of(bytes: usize) -> u64 {
    (bytes as u64).div_ceil(4)
}

/// The answer of providers that cannot go on in the middle.
fn cannot_go_on() -> Failure {
    Failure::new(
        FailureKind::BadRequest,
        "this provider cannot go on in the middle of an answer",
    )
}

/// A header with a key, kept out of all debug output.
fn header_value(prefix: &str, key: &Secret) -> Result<HeaderValue, Failure> {
    let text = format!("{prefix}{}", key.expose());
    let mut value = HeaderValue::from_str(&text)
        .map_err(|_| Failure::new(FailureKind::Auth, "the key has characters that no key has"))?;
    value.set_sensitive(true);
    Ok(value)
}
