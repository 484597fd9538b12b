//! Replies in the published shapes of the two APIs.

use serde_json::{Value, json};

use super::reply::{Finish, Part, Reply};

/// An API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Api {
    Anthropic,
    OpenAi,
}

/// Writes one reply.
pub(super) struct Shape {
    api: Api,
    usage: Option<(u64, u64)>,
    begun: bool,
    /// The number of the next block or call.
    next: u64,
    /// A block of this kind is open.
    open: Option<&'static str>,
}

impl Shape {
    pub(super) fn new(api: Api, reply: &Reply) -> Self {
        Self {
            api,
            usage: reply.usage,
            begun: false,
            next: 0,
            open: None,
        }
    }

    /// The events that a part is, each with its empty line.
    pub(super) fn events(&mut self, part: &Part) -> Vec<Vec<u8>> {
        if let Part::Raw(bytes) = part {
            return vec![bytes.clone()];
        }
        let mut events = Vec::new();
        match self.api {
            Api::Anthropic => self.anthropic(part, &mut events),
            Api::OpenAi => self.openai(part, &mut events),
        }
        events.into_iter().map(String::into_bytes).collect()
    }

    fn anthropic(&mut self, part: &Part, events: &mut Vec<String>) {
        let mut say = |event: Value| {
            let name = event["type"].as_str().unwrap_or_default().to_owned();
            events.push(format!("event: {name}\ndata: {event}\n\n"));
        };
        if !std::mem::replace(&mut self.begun, true) {
            let mut message = json!({"id": "msg_1", "type": "message", "role": "assistant",
                "content": [], "model": "fake", "stop_reason": null, "stop_sequence": null});
            if let Some((input, _)) = self.usage {
                message["usage"] = json!({"input_tokens": input, "output_tokens": 1,
                    "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0});
            }
            say(json!({"type": "message_start", "message": message}));
            say(json!({"type": "ping"}));
        }
        let kind = match part {
            Part::Text(_) => Some("text"),
            Part::Reasoning(_) => Some("thinking"),
            _ => None,
        };
        if self.open.is_some() && self.open != kind && !matches!(part, Part::Problem { .. }) {
            say(json!({"type": "content_block_stop", "index": self.next}));
            self.open = None;
            self.next += 1;
        }
        let index = self.next;
        if let (None, Some(kind)) = (self.open, kind) {
            self.open = Some(kind);
            say(json!({"type": "content_block_start", "index": index,
                "content_block": {"type": kind, kind: ""}}));
        }
        let mut delta = |delta: Value| {
            say(json!({"type": "content_block_delta", "index": index, "delta": delta}));
        };
        match part {
            Part::Text(text) => delta(json!({"type": "text_delta", "text": text})),
            Part::Reasoning(text) => delta(json!({"type": "thinking_delta", "thinking": text})),
            Part::Call {
                id,
                name,
                arguments,
            } => {
                say(json!({"type": "content_block_start", "index": index,
                    "content_block": {"type": "tool_use", "id": id, "name": name, "input": {}}}));
                for part in arguments {
                    say(json!({"type": "content_block_delta", "index": index,
                        "delta": {"type": "input_json_delta", "partial_json": part}}));
                }
                say(json!({"type": "content_block_stop", "index": index}));
                self.next += 1;
            }
            Part::Problem { kind, message } => {
                say(json!({"type": "error", "error": {"type": kind, "message": message}}));
            }
            Part::End(finish) => {
                let reason = match finish {
                    Finish::Done => "end_turn",
                    Finish::Tools => "tool_use",
                    Finish::Limit => "max_tokens",
                    Finish::Refusal => "refusal",
                    Finish::Pause => "pause_turn",
                };
                let mut event = json!({"type": "message_delta",
                    "delta": {"stop_reason": reason, "stop_sequence": null}});
                if let Some((_, output)) = self.usage {
                    event["usage"] = json!({"output_tokens": output});
                }
                say(event);
                say(json!({"type": "message_stop"}));
            }
            Part::Raw(_) | Part::Wait(_) | Part::Break => {}
        }
    }

    fn openai(&mut self, part: &Part, events: &mut Vec<String>) {
        let chunk = |choices: Value, usage: Option<Value>| {
            let mut chunk = json!({"id": "chatcmpl-1", "object": "chat.completion.chunk",
                "created": 1, "model": "fake", "choices": choices});
            if let Some(usage) = usage {
                chunk["usage"] = usage;
            }
            format!("data: {chunk}\n\n")
        };
        let usage = self.usage;
        let none = || usage.map(|_| Value::Null);
        let mut say = |delta: Value, reason: Option<&str>| {
            let choice = json!({"index": 0, "delta": delta, "finish_reason": reason});
            events.push(chunk(json!([choice]), none()));
        };
        if !std::mem::replace(&mut self.begun, true) {
            say(json!({"role": "assistant", "content": ""}), None);
        }
        match part {
            Part::Text(text) => say(json!({"content": text}), None),
            Part::Reasoning(text) => say(json!({"reasoning_content": text}), None),
            Part::Call {
                id,
                name,
                arguments,
            } => {
                let index = self.next;
                say(
                    json!({"tool_calls": [{"index": index, "id": id, "type": "function",
                    "function": {"name": name, "arguments": ""}}]}),
                    None,
                );
                for part in arguments {
                    say(
                        json!({"tool_calls": [{"index": index,
                        "function": {"arguments": part}}]}),
                        None,
                    );
                }
                self.next += 1;
            }
            Part::Problem { kind, message } => {
                let error = json!({"error": {"type": kind, "code": kind, "message": message}});
                events.push(format!("data: {error}\n\n"));
            }
            Part::End(finish) => {
                let reason = match finish {
                    Finish::Done | Finish::Pause => "stop",
                    Finish::Tools => "tool_calls",
                    Finish::Limit => "length",
                    Finish::Refusal => "content_filter",
                };
                say(json!({}), Some(reason));
                if let Some((input, output)) = usage {
                    let usage = json!({"prompt_tokens": input, "completion_tokens": output,
                        "total_tokens": input + output,
                        "prompt_tokens_details": {"cached_tokens": 0}});
                    events.push(chunk(json!([]), Some(usage)));
                }
                events.push("data: [DONE]\n\n".to_owned());
            }
            Part::Raw(_) | Part::Wait(_) | Part::Break => {}
        }
    }
}
