//! What chats' logs have and orchestrators answer, in the words of dialect
//! `threat`.

mod tools;

use prost::Message as _;
use serde_json::value::RawValue;
use signalbox_protocol::frame::threat::chat::{
    AgentErrorCode, AgentFailure, AgentInfo, ChatFrame, ResponseMetadata,
};
use signalbox_protocol::wire::chat_record::Record;
use signalbox_protocol::wire::{self, ChatError, ChatRecord, ChatRefusal, ChatUsage};
use signalbox_transport::Frame;
use tracing::warn;

use super::write;

/// The frame for a record of a chat; `None` for what clients are not shown.
pub(crate) fn frame(session_id: &str, payload: &[u8]) -> Option<Frame> {
    frame_unless(session_id, payload, (0, 0))
}

/// As [`frame`], but for the chunks of an answer up to one: `known` is the
/// number of the answer and that of the chunk.
pub(crate) fn frame_unless(session_id: &str, payload: &[u8], known: (u32, u32)) -> Option<Frame> {
    let record = ChatRecord::decode(payload)
        .inspect_err(|error| warn!(session_id, %error, "record not understood"))
        .ok()?;
    let answer = record.answer;
    if let Some(frame) = tools::frame(session_id, answer, record.record.as_ref()?) {
        return Some(write(&frame));
    }
    let frame = match record.record.as_ref()? {
        Record::Opened(opened) => {
            return opened
                .agent
                .as_ref()
                .map(|agent| started(session_id, agent));
        }
        Record::Chunk(chunk) if answer == known.0 && chunk.chunk_id <= known.1 => return None,
        Record::Chunk(chunk) => ChatFrame::AgentResponseChunk {
            session_id,
            chunk_id: chunk.chunk_id,
            content: &chunk.content,
            is_final: chunk.is_final,
            answer,
        },
        Record::Answered(answered) => {
            let analysis = serde_json::from_str::<&RawValue>(&answered.analysis);
            return Some(write(&ChatFrame::AgentResponseComplete {
                session_id,
                full_response: &answered.full_response,
                // Empty where the agent's type has none.
                analysis: analysis.ok(),
                metadata: metadata(answered.processing_time_ms, answered.usage.as_ref()),
                answer,
            }));
        }
        Record::Stopped(stopped) => ChatFrame::AgentResponseCancelled {
            session_id,
            partial_response: &stopped.partial_response,
            metadata: metadata(stopped.processing_time_ms, stopped.usage.as_ref()),
            answer,
        },
        Record::Failed(failed) => ChatFrame::AgentError {
            session_id: Some(session_id),
            error: AgentFailure {
                code: code(failed.code()),
                message: &failed.message,
                retry_available: failed.retry_available,
            },
            answer: Some(answer),
            partial_response: Some(&failed.partial_response),
        },
        Record::Asked(_) | Record::CallStarted(_) | Record::CallSettled(_) | Record::Taken(_) => {
            return None;
        }
        Record::ToolPlanned(_)
        | Record::ToolHeld(_)
        | Record::ToolDecided(_)
        | Record::ToolStarted(_)
        | Record::ToolNoted(_)
        | Record::ToolEnded(_) => return None,
    };
    Some(write(&frame))
}

/// The chat has begun.
pub(crate) fn started(session_id: &str, agent: &wire::AgentInfo) -> Frame {
    write(&ChatFrame::ChatSessionStarted {
        session_id,
        agent_type: &agent.agent_type,
        agent_info: AgentInfo {
            name: &agent.name,
            model: &agent.model,
            capabilities: &agent.capabilities,
        },
    })
}

/// What a client is told of a refusal.
pub(crate) fn refused<'a>(refusal: &'a ChatRefusal, session_id: Option<&'a str>) -> ChatFrame<'a> {
    failed(
        session_id,
        code(refusal.code()),
        &refusal.message,
        refusal.retry_available,
    )
}

/// A request failed.
pub(crate) const fn failed<'a>(
    session_id: Option<&'a str>,
    code: AgentErrorCode,
    message: &'a str,
    retry_available: bool,
) -> ChatFrame<'a> {
    ChatFrame::AgentError {
        session_id,
        error: AgentFailure {
            code,
            message,
            retry_available,
        },
        answer: None,
        partial_response: None,
    }
}

const fn code(error: ChatError) -> AgentErrorCode {
    match error {
        ChatError::SessionNotFound => AgentErrorCode::SessionNotFound,
        ChatError::AgentBusy => AgentErrorCode::AgentBusy,
        ChatError::AgentTimeout => AgentErrorCode::AgentTimeout,
        ChatError::BudgetExceeded => AgentErrorCode::BudgetExceeded,
        // Those that clients are told in other words are answered elsewhere.
        ChatError::AgentUnavailable
        | ChatError::Unavailable
        | ChatError::UnknownAgent
        | ChatError::Invalid
        | ChatError::Unspecified => AgentErrorCode::AgentUnavailable,
    }
}

fn metadata(processing_time_ms: u64, usage: Option<&ChatUsage>) -> ResponseMetadata {
    let tokens = |usage: &ChatUsage| usage.input_tokens + usage.output_tokens;
    let (seconds, tenths) = (processing_time_ms / 1_000, processing_time_ms % 1_000 / 100);
    ResponseMetadata {
        processing_time: format!("{seconds}.{tenths}s"),
        tokens_used: usage.map_or(0, tokens),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use signalbox_protocol::wire::{ChatAnswered, ChatAsked, ChatChunk, ChatFailed};

    use super::*;

    fn record(answer: u32, record: Record) -> Vec<u8> {
        let record = ChatRecord {
            answer,
            record: Some(record),
            ..ChatRecord::default()
        };
        record.encode_to_vec()
    }

    fn shown(payload: &[u8], known: (u32, u32)) -> Option<Value> {
        let frame = frame_unless("chat-1", payload, known)?;
        serde_json::from_slice(frame.payload()).ok()
    }

    #[test]
    fn known_chunks_of_the_answer_are_left_out() {
        let chunk = |answer, chunk_id| {
            let chunk = ChatChunk {
                chunk_id,
                content: "a".to_owned(),
                is_final: false,
            };
            record(answer, Record::Chunk(chunk))
        };
        assert_eq!(shown(&chunk(2, 3), (2, 3)), None);
        let next = json!({
            "type": "agent_response_chunk", "session_id": "chat-1", "chunk_id": 4, "content": "a",
            "is_final": false, "answer": 2,
        });
        assert_eq!(shown(&chunk(2, 4), (2, 3)), Some(next));
        assert!(shown(&chunk(3, 1), (2, 3)).is_some());
        assert!(shown(&chunk(1, 1), (0, 0)).is_some());
    }

    #[test]
    fn an_answer_is_written_as_documented() {
        let answered = |analysis: &str, processing_time_ms| {
            let usage = ChatUsage {
                input_tokens: 400,
                output_tokens: 50,
                ..ChatUsage::default()
            };
            let answered = ChatAnswered {
                full_response: "r".to_owned(),
                analysis: analysis.to_owned(),
                processing_time_ms,
                usage: Some(usage),
                chunks: 1,
            };
            shown(&record(1, Record::Answered(answered)), (1, 9)).unwrap()
        };
        let complete = answered(r#"{"b":1,"a":2.50}"#, 14_260);
        let metadata = json!({"processing_time": "14.2s", "tokens_used": 450});
        assert_eq!(complete["metadata"], metadata);
        assert_eq!(complete["analysis"], json!({"b": 1, "a": 2.50}));
        let bare = answered("", 49);
        assert_eq!(bare.get("analysis"), None);
        assert_eq!(bare["metadata"]["processing_time"], "0.0s");
    }

    #[test]
    fn a_failure_has_one_of_the_documented_codes() {
        for code in [
            ChatError::AgentTimeout,
            ChatError::BudgetExceeded,
            ChatError::AgentUnavailable,
            ChatError::Unspecified,
        ] {
            let failed = ChatFailed {
                code: code.into(),
                ..ChatFailed::default()
            };
            let error = shown(&record(1, Record::Failed(failed)), (0, 0)).unwrap();
            let word = error["error"]["code"].as_str().unwrap();
            assert!(AgentErrorCode::WORDS.contains(&word), "{word}");
        }
    }

    #[test]
    fn what_is_not_for_clients_is_not_shown() {
        let asked = record(1, Record::Asked(ChatAsked::default()));
        assert_eq!(shown(&asked, (0, 0)), None);
        assert_eq!(shown(b"\xff\xff", (0, 0)), None);
        // A record of a later version.
        assert_eq!(shown(&ChatRecord::default().encode_to_vec(), (0, 0)), None);
    }
}
