//! The chat completions API as OpenAI published it, streaming, and the many
//! servers that speak it, local ones included. They differ in what they leave
//! out, so little is taken for granted.

use std::collections::VecDeque;
use std::sync::Arc;

use http::{HeaderMap, header};
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
pub const BASE_URL: &str = "https://api.openai.com/v1";
/// The host of the hosted models, which have the newer name of the token limit.
const HOSTED: &str = "api.openai.com";
/// What ends a stream.
const DONE: &str = "[DONE]";

/// A server of the chat completions API.
#[derive(Clone, Debug)]
pub struct OpenAi {
    /// Sends the requests.
    pub client: Client,
    /// Where it is, with `/v1` or whatever the server has.
    pub base: BaseUrl,
    /// Its key; local servers want none.
    pub key: Option<Arc<Secret>>,
    /// How long it may be silent.
    pub timeouts: Timeouts,
    /// How it calls the longest answer.
    pub token_limit: Option<TokenLimit>,
}

/// What the longest answer is called: newer hosted models refuse the older
/// name, other servers know no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenLimit {
    /// `max_tokens`.
    Tokens,
    /// `max_completion_tokens`.
    CompletionTokens,
}

impl OpenAi {
    fn token_limit(&self) -> &'static str {
        let hosted = self.base.is_host(HOSTED);
        match self.token_limit {
            Some(TokenLimit::CompletionTokens) => "max_completion_tokens",
            None if hosted => "max_completion_tokens",
            Some(TokenLimit::Tokens) | None => "max_tokens",
        }
    }
}

impl Provider for OpenAi {
    fn answer(&self, request: Arc<Request>) -> Pieces {
        if !request.so_far.is_empty() {
            return exchange::failed(super::cannot_go_on());
        }
        let this = self.clone();
        let decoder = Completion::new(Collected::new(&request), self.key.clone());
        let opening = async move {
            let mut headers = HeaderMap::new();
            if let Some(key) = &this.key {
                headers.insert(header::AUTHORIZATION, super::header_value("Bearer ", key)?);
            }
            let body = body(&request, this.token_limit()).to_string().into_bytes();
            let client = this.client;
            let key = this.key.as_deref();
            client
                .post(
                    &this.base,
                    "/chat/completions",
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

fn body(request: &Request, limit: &str) -> Value {
    let mut messages = vec![json!({"role": "system", "content": prompt::system(request)})];
    for said in prompt::conversation(request) {
        add_messages(&said, &mut messages);
    }
    let mut body = json!({
        "model": request.model,
        "stream": true,
        "stream_options": {"include_usage": true},
        "messages": messages,
    });
    body[limit] = json!(request.max_output_tokens);
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
            Some(_) => json!({"type": "function", "function": {"name": ANALYSIS_TOOL}}),
            None => json!("none"),
        };
    }
    body
}

fn tool(tool: &Tool) -> Value {
    json!({
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.parameters,
        },
    })
}

fn add_messages(said: &Said, messages: &mut Vec<Value>) {
    match said {
        Said::User(text) => messages.push(json!({"role": "user", "content": text})),
        Said::Agent { text, calls } => {
            let mut message = json!({"role": "assistant", "content": text});
            if !calls.is_empty() {
                let calls = calls.iter().map(|call| {
                    json!({
                        "id": call.id,
                        "type": "function",
                        "function": {"name": call.name, "arguments": prompt::arguments(call)},
                    })
                });
                message["tool_calls"] = calls.collect();
            }
            messages.push(message);
        }
        Said::Results(results) => messages.extend(results.iter().map(|result| {
            json!({"role": "tool", "tool_call_id": result.call_id, "content": result.content})
        })),
    }
}

#[derive(Deserialize)]
struct Chunk {
    choices: Option<Vec<Choice>>,
    usage: Option<Tokens>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    index: u64,
    delta: Option<Delta>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
    refusal: Option<String>,
    reasoning_content: Option<String>,
    reasoning: Option<Value>,
    tool_calls: Option<Vec<CallDelta>>,
}

#[derive(Deserialize)]
struct CallDelta {
    index: Option<u64>,
    id: Option<String>,
    function: Option<FunctionDelta>,
}

#[derive(Deserialize)]
struct FunctionDelta {
    name: Option<String>,
    arguments: Option<Value>,
}

#[derive(Deserialize)]
struct Tokens {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
    prompt_tokens_details: Option<PromptTokens>,
}

#[derive(Deserialize)]
struct PromptTokens {
    cached_tokens: Option<u64>,
}

/// Understands the stream.
pub(super) struct Completion {
    collected: Collected,
    stop: Option<StopReason>,
    refused: bool,
    key: Option<Arc<Secret>>,
}

impl Decoder for Completion {
    fn event(&mut self, event: &SseEvent, pieces: &mut VecDeque<Piece>) -> Result<(), Failure> {
        if event.data.trim() == DONE {
            return self.closed(pieces);
        }
        let chunk: Chunk = serde_json::from_str(&event.data).map_err(|error| {
            let detail = clean(&error.to_string(), self.key.as_deref());
            Failure::new(FailureKind::Garbled, detail)
        })?;
        if let Some(error) = chunk.error.filter(|error| !error.is_null()) {
            return Err(self.failure(&error));
        }
        if let Some(tokens) = chunk.usage {
            self.count(&tokens, pieces);
        }
        for choice in chunk.choices.into_iter().flatten() {
            // Only one answer is asked for.
            if choice.index == 0 {
                self.choice(choice, pieces)?;
            }
        }
        Ok(())
    }

    /// A stream may end behind the reason to stop: not every server sends the
    /// last line.
    fn closed(&mut self, pieces: &mut VecDeque<Piece>) -> Result<(), Failure> {
        let stop = self.stop.take().ok_or_else(exchange::cut)?;
        let stop = match stop {
            StopReason::EndTurn if self.refused => StopReason::Refusal,
            // A call that was forced, and every call of some servers, ends so.
            StopReason::EndTurn if self.collected.calls_begun() > 0 => StopReason::ToolUse,
            stop => stop,
        };
        self.collected.end(stop, pieces);
        Ok(())
    }
}

impl Completion {
    /// At the beginning of a stream.
    pub(super) const fn new(collected: Collected, key: Option<Arc<Secret>>) -> Self {
        Self {
            collected,
            stop: None,
            refused: false,
            key,
        }
    }

    fn choice(&mut self, choice: Choice, pieces: &mut VecDeque<Piece>) -> Result<(), Failure> {
        if let Some(delta) = choice.delta {
            if let Some(text) = delta.content {
                self.collected.text(&text, pieces)?;
            }
            if let Some(text) = delta.refusal.filter(|text| !text.is_empty()) {
                self.refused = true;
                self.collected.text(&text, pieces)?;
            }
            if delta.reasoning_content.is_some() || delta.reasoning.is_some() {
                pieces.push_back(Piece::Progress);
            }
            for call in delta.tool_calls.into_iter().flatten() {
                self.call(&call)?;
                pieces.push_back(Piece::Progress);
            }
        }
        if let Some(reason) = choice.finish_reason.filter(|reason| !reason.is_empty()) {
            self.stop = Some(stop_reason(reason));
        }
        Ok(())
    }

    fn call(&mut self, call: &CallDelta) -> Result<(), Failure> {
        let id = call.id.as_deref().unwrap_or_default();
        let function = call.function.as_ref();
        let name = function.and_then(|function| function.name.as_deref());
        let name = name.unwrap_or_default();
        // Servers that number no calls send each whole, or name the next one: by
        // its id, or where they give none by its function.
        let index = call.index.unwrap_or_else(|| {
            let begun = self.collected.calls_begun() as u64;
            let is_known = match id {
                "" => name.is_empty(),
                id => self.collected.has_call(id),
            };
            if begun > 0 && is_known {
                begun - 1
            } else {
                begun
            }
        });
        self.collected.call(index, id, name)?;
        match function.and_then(|function| function.arguments.as_ref()) {
            None | Some(Value::Null) => Ok(()),
            Some(Value::String(part)) => self.collected.arguments(index, part),
            Some(whole) => self.collected.arguments(index, &whole.to_string()),
        }
    }

    fn count(&mut self, tokens: &Tokens, pieces: &mut VecDeque<Piece>) {
        let details = tokens.prompt_tokens_details.as_ref();
        let cached = details
            .and_then(|details| details.cached_tokens)
            .unwrap_or(0);
        let usage = Usage {
            input: tokens.prompt_tokens.saturating_sub(cached),
            output: tokens.completion_tokens,
            cache_read: cached,
            ..Usage::default()
        };
        self.collected.usage = Some(usage);
        pieces.push_back(Piece::Usage(usage));
    }

    fn failure(&self, error: &Value) -> Failure {
        let text = |key: &str| error.get(key).and_then(Value::as_str).unwrap_or_default();
        let sign = format!("{} {}", text("type"), text("code"));
        let status = error.get("code").and_then(Value::as_u64);
        let kind = match status {
            Some(429) => FailureKind::RateLimited,
            Some(503 | 529) => FailureKind::Overloaded,
            Some(401..=403) => FailureKind::Auth,
            _ if sign.contains("context_length") => FailureKind::ContextExceeded,
            _ if sign.contains("rate_limit") => FailureKind::RateLimited,
            _ if sign.contains("overloaded") => FailureKind::Overloaded,
            _ if sign.contains("insufficient_quota") || sign.contains("api_key") => {
                FailureKind::Auth
            }
            Some(400 | 404 | 422) => FailureKind::BadRequest,
            _ if sign.contains("invalid_request") => FailureKind::BadRequest,
            _ => FailureKind::ServerError,
        };
        let detail = match kind {
            FailureKind::Auth => sign,
            _ => error.to_string(),
        };
        Failure::new(kind, clean(&detail, self.key.as_deref()))
    }
}

fn stop_reason(text: String) -> StopReason {
    match text.as_str() {
        "stop" => StopReason::EndTurn,
        "length" => StopReason::MaxTokens,
        "tool_calls" | "function_call" => StopReason::ToolUse,
        "content_filter" => StopReason::Refusal,
        _ => StopReason::Other(text),
    }
}
