//! What chats' logs have and orchestrators answer, in the words of dialect
//! `threat`.

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
