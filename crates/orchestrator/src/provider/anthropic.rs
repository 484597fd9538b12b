//! The Anthropic Messages API, streaming, and servers that speak it.

use std::collections::VecDeque;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::{Value, json};
use signalbox_identity::Secret;

use super::collect::Collected;
use super::exchange::{self, Decoder};
use super::failure::{Failure, FailureKind};
use super::http::{BaseUrl, Client, Timeouts, clean};
use super::prompt::{self, ANALYSIS_TOOL, Said};
use super::sse::SseEvent;
use super::{Piece, Pieces, Provider, Request, StopReason, Tool, Usage};

/// Where the hosted models are.
pub const BASE_URL: &str = "https://api.anthropic.com";
/// The version of the API that this is written for.
const VERSION: HeaderValue = HeaderValue::from_static("2023-06-01");
const VERSION_HEADER: HeaderName = HeaderName::from_static("anthropic-version");
const KEY_HEADER: HeaderName = HeaderName::from_static("x-api-key");

/// A server of the Messages API.
#[derive(Clone, Debug)]
pub struct Anthropic {
    /// Sends the requests.
    pub client: Client,
    /// Where it is, without `/v1`.
    pub base: BaseUrl,
    /// Its key; some servers want none.
    pub key: Option<Arc<Secret>>,
    /// How long it may be silent.
    pub timeouts: Timeouts,
}

impl Provider for Anthropic {
    fn answer(&self, request: Arc<Request>) -> Pieces {
        if !request.so_far.is_empty() {
            return exchange::failed(super::cannot_go_on());
        }
        let this = self.clone();
        let decoder = Messages::new(Collected::new(&request), self.key.clone());
        let opening = async move {
            let mut headers = HeaderMap::new();
            headers.insert(VERSION_HEADER, VERSION);
            if let Some(key) = &this.key {
                headers.insert(KEY_HEADER, super::header_value("", key)?);
            }
            let body = body(&request).to_string().into_bytes();
            let client = this.client;
            let key = this.key.as_deref();
            client
                .post(
                    &this.base,
                    "/v1/messages",
                    headers,
                    body,
                    this.timeouts,
                    key,
                )
                .await
        };
        exchange::pieces(opening, decoder)
    }
}

fn body(request: &Request) -> Value {
    let mut body = json!({
        "model": request.model,
        "max_tokens": request.max_output_tokens,
        "stream": true,
        "system": prompt::system(request),
        "messages": prompt::conversation(request).iter().map(message).collect::<Vec<_>>(),
    });
    let analysis = prompt::analysis_tool(request);
    let tools: Vec<Value> = request.tools.iter().chain(&analysis).map(tool).collect();
    let has_tools = !tools.is_empty();
    if has_tools {
        body["tools"] = Value::Array(tools);
    }
    let asked = request.analysis.as_ref();
    if asked.is_some_and(|asked| asked.only) && has_tools {
        // Tools of earlier calls must be described, and are not to be called again.
        body["tool_choice"] = match analysis {
            Some(_) => json!({"type": "tool", "name": ANALYSIS_TOOL}),
            None => json!({"type": "none"}),
        };
    }
    body
}

fn tool(tool: &Tool) -> Value {
    json!({
        "name": tool.name,
        "description": tool.description,
        "input_schema": tool.parameters,
    })
}

fn message(said: &Said) -> Value {
    match said {
        Said::User(text) => json!({"role": "user", "content": text}),
        Said::Agent { text, calls } => {
            let mut content = Vec::new();
            if !text.trim().is_empty() {
                content.push(json!({"type": "text", "text": text}));
            }
            content.extend(calls.iter().map(|call| {
                let input = call.arguments.clone().unwrap_or_else(|_| json!({}));
                json!({"type": "tool_use", "id": call.id, "name": call.name, "input": input})
            }));
            json!({"role": "assistant", "content": content})
        }
        Said::Results(results) => {
            let content: Vec<Value> = results
                .iter()
                .map(|result| {
                    json!({
                        "type": "tool_result",
                        "tool_use_id": result.call_id,
                        "content": result.content,
                        "is_error": result.failed,
                    })
                })
                .collect();
            json!({"role": "user", "content": content})
        }
    }
}

/// An event of the stream; what it does not name is ignored, as the API asks.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Event {
    MessageStart {
        message: Start,
    },
    ContentBlockStart {
        index: u64,
        content_block: Block,
    },
    ContentBlockDelta {
        index: u64,
        delta: Delta,
    },
    MessageDelta {
        delta: Stop,
        usage: Option<Tokens>,
    },
    MessageStop {},
    Error {
        error: Problem,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Start {
    usage: Option<Tokens>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Block {
    Text {
        #[serde(default)]
        text: String,
    },
    ToolUse {
        id: String,
        name: String,
        #[serde(default)]
        input: Value,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum Delta {
    #[serde(rename = "text_delta")]
    Text { text: String },
    #[serde(rename = "input_json_delta")]
    InputJson { partial_json: String },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Stop {
    stop_reason: Option<String>,
}

#[derive(Deserialize)]
struct Problem {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    message: String,
}

/// Tokens so far; a number that is not there has not changed.
#[derive(Deserialize)]
struct Tokens {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
}

/// Understands the stream.
pub(super) struct Messages {
    collected: Collected,
    stop: Option<StopReason>,
    key: Option<Arc<Secret>>,
}

impl Decoder for Messages {
    fn event(&mut self, event: &SseEvent, pieces: &mut VecDeque<Piece>) -> Result<(), Failure> {
        let event: Event = serde_json::from_str(&event.data).map_err(|error| {
            let detail = format!("event `{}`: {error}", event.name);
            Failure::new(FailureKind::Garbled, clean(&detail, self.key.as_deref()))
        })?;
        match event {
            Event::MessageStart { message } => self.count(message.usage, pieces),
            Event::ContentBlockStart {
                index,
                content_block,
            } => match content_block {
                Block::Text { text } => self.collected.text(&text, pieces)?,
                Block::ToolUse { id, name, input } => {
                    self.collected.call(index, &id, &name)?;
                    // Some servers send a call whole.
                    if input.as_object().is_some_and(|input| !input.is_empty()) {
                        self.collected.arguments(index, &input.to_string())?;
                    }
                    pieces.push_back(Piece::Progress);
                }
                Block::Other => pieces.push_back(Piece::Progress),
            },
            Event::ContentBlockDelta { index, delta } => match delta {
                Delta::Text { text } => self.collected.text(&text, pieces)?,
                Delta::InputJson { partial_json } => {
                    self.collected.arguments(index, &partial_json)?;
                    pieces.push_back(Piece::Progress);
                }
                Delta::Other => pieces.push_back(Piece::Progress),
            },
            Event::MessageDelta { delta, usage } => {
                if let Some(reason) = delta.stop_reason {
                    self.stop = Some(stop_reason(reason));
                }
                self.count(usage, pieces);
            }
            Event::MessageStop {} => {
                let stop = self.stop.take().ok_or_else(exchange::cut)?;
                self.collected.end(stop, pieces);
            }
            Event::Error { error } => return Err(self.failure(&error)),
            Event::Other => {}
        }
        Ok(())
    }
}

impl Messages {
    /// At the beginning of a stream.
    pub(super) const fn new(collected: Collected, key: Option<Arc<Secret>>) -> Self {
        Self {
            collected,
            stop: None,
            key,
        }
    }

    fn count(&mut self, tokens: Option<Tokens>, pieces: &mut VecDeque<Piece>) {
        let Some(tokens) = tokens else { return };
        let before = self.collected.usage.unwrap_or_default();
        let usage = Usage {
            input: tokens.input_tokens.unwrap_or(before.input),
            output: tokens.output_tokens.unwrap_or(before.output),
            cache_read: tokens.cache_read_input_tokens.unwrap_or(before.cache_read),
            cache_write: tokens
                .cache_creation_input_tokens
                .unwrap_or(before.cache_write),
            estimated: false,
        };
        self.collected.usage = Some(usage);
        pieces.push_back(Piece::Usage(usage));
    }

    fn failure(&self, problem: &Problem) -> Failure {
        let kind = match problem.kind.as_str() {
            "overloaded_error" => FailureKind::Overloaded,
            "rate_limit_error" => FailureKind::RateLimited,
            "authentication_error" | "permission_error" | "billing_error" => FailureKind::Auth,
            "invalid_request_error" | "not_found_error" | "request_too_large" => {
                FailureKind::BadRequest
            }
            _ => FailureKind::ServerError,
        };
        let detail = match kind {
            FailureKind::Auth => problem.kind.clone(),
            _ => format!("{}: {}", problem.kind, problem.message),
        };
        Failure::new(kind, clean(&detail, self.key.as_deref()))
    }
}

fn stop_reason(text: String) -> StopReason {
    match text.as_str() {
        "end_turn" => StopReason::EndTurn,
        "tool_use" => StopReason::ToolUse,
        "max_tokens" => StopReason::MaxTokens,
        "stop_sequence" => StopReason::StopSequence,
        "pause_turn" => StopReason::PauseTurn,
        "refusal" => StopReason::Refusal,
        "model_context_window_exceeded" => StopReason::ContextExceeded,
        _ => StopReason::Other(text),
    }
}
