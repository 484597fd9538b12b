//! What chats' logs have about tools, in the words of dialect `threat`.

use serde_json::value::RawValue;
use signalbox_protocol::frame::threat::chat::{
    ChatFrame, ToolDecision, ToolOutcome, ToolResults, ToolStatus,
};
use signalbox_protocol::timestamp::Timestamp;
use signalbox_protocol::wire::chat_record::Record;
use signalbox_protocol::wire::{
    ChatToolDecided, ChatToolEnded, ChatToolHeld, ToolOutcome as Ended, ToolVerdict,
};
use time::OffsetDateTime;

/// The frame for a record about a tool; `None` for any other, and for what
/// clients are not shown.
pub(super) fn frame<'a>(
    session_id: &'a str,
    answer: u32,
    record: &'a Record,
) -> Option<ChatFrame<'a>> {
    match record {
        Record::ToolStarted(started) => Some(ChatFrame::AgentToolExecution {
            session_id,
            tool_name: &started.tool_name,
            status: ToolStatus::Executing,
            parameters: json(&started.arguments)?,
            answer,
            tool_call: started.tool_call,
        }),
        Record::ToolHeld(held) => approval(session_id, answer, held),
        Record::ToolDecided(decided) => Some(decision(session_id, answer, decided)),
        Record::ToolNoted(noted) => Some(ChatFrame::AgentToolTerminal {
            session_id,
            answer,
            tool_call: noted.tool_call,
            agent_id: &noted.agent_id,
            command_id: &noted.command_id,
        }),
        Record::ToolEnded(ended) => Some(result(session_id, answer, ended)),
        _ => None,
    }
}

fn approval<'a>(session_id: &'a str, answer: u32, held: &'a ChatToolHeld) -> Option<ChatFrame<'a>> {
    Some(ChatFrame::AgentToolApproval {
        session_id,
        tool_name: &held.tool_name,
        parameters: json(&held.arguments)?,
        answer,
        tool_call: held.tool_call,
        action_id: &held.action_id,
        action_type: &held.action_type,
        arguments_hash: &held.arguments_hash,
        expires_at: moment(held.expires_at_ms),
    })
}

fn decision<'a>(session_id: &'a str, answer: u32, decided: &'a ChatToolDecided) -> ChatFrame<'a> {
    ChatFrame::AgentToolDecision {
        session_id,
        tool_name: &decided.tool_name,
        answer,
        tool_call: decided.tool_call,
        action_id: &decided.action_id,
        decision: match decided.verdict() {
            ToolVerdict::Approve => ToolDecision::Approve,
            ToolVerdict::Expired => ToolDecision::Expired,
            ToolVerdict::Reject | ToolVerdict::Unspecified => ToolDecision::Reject,
        },
        decided_by: words(&decided.decided_by),
        reason: words(&decided.reason),
    }
}

fn result<'a>(session_id: &'a str, answer: u32, ended: &'a ChatToolEnded) -> ChatFrame<'a> {
    let (outcome, results) = match ended.outcome() {
        Ended::Value => (ToolOutcome::Value, value(&ended.result)),
        Ended::Error => (ToolOutcome::Error, None),
        Ended::TimedOut => (ToolOutcome::TimedOut, None),
        Ended::Cancelled => (ToolOutcome::Cancelled, None),
        Ended::Refused => (ToolOutcome::Refused, None),
        Ended::Unknown | Ended::Unspecified => (ToolOutcome::Unknown, None),
    };
    let error = ToolResults::Error {
        error: &ended.result,
    };
    ChatFrame::AgentToolResult {
        session_id,
        tool_name: &ended.tool_name,
        status: match results {
            Some(_) => ToolStatus::Completed,
            None => ToolStatus::Failed,
        },
        results: results.unwrap_or(error),
        answer,
        tool_call: ended.tool_call,
        outcome,
        truncated: ended.truncated,
    }
}

/// JSON as it is written on the log.
fn json(text: &str) -> Option<&RawValue> {
    serde_json::from_str(text).ok()
}

fn value(text: &str) -> Option<ToolResults<'_>> {
    let value = json(text)?;
    Some(match value.get().starts_with('{') {
        true => ToolResults::Object(value),
        false => ToolResults::Value { value },
    })
}

fn words(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// Later than RFC 3339 can say is as late as it can.
fn moment(unix_ms: u64) -> Timestamp {
    let nanos = i128::from(unix_ms) * 1_000_000;
    let latest = time::macros::datetime!(9999-12-31 23:59:59 UTC);
    OffsetDateTime::from_unix_timestamp_nanos(nanos)
        .unwrap_or(latest)
        .min(latest)
        .into()
}
