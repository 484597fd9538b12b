//! The codec of dialect `threat` is what its shape says.

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::super::chat::{
    AgentErrorCode, AgentFailure, AgentInfo, ChatFrame, ResponseMetadata, ToolDecision,
    ToolOutcome, ToolResults, ToolStatus,
};
use super::super::investigation::InvestigationFrame;
use super::super::{ClientFrame, FlatEvent, NestedEvent, RateLimits, ServerFrame};
use super::*;
use crate::catalogue;
use crate::cursor::{Cursor, Epoch};
use crate::frame::shape::tests::{decoder_agrees, encoder_agrees};
use crate::investigation::{Member, Note};
use crate::timestamp::Timestamp;

const SEQ: Cursor = Cursor {
    epoch: Epoch::from_unix_micros(0xa),
    sequence: 7,
};

#[test]
fn the_decoder_agrees() {
    decoder_agrees(&SHAPE, ClientFrame::decode);
}

/// Every server frame, with all that may be absent or without it. A variant
/// that is not here does not compile.
fn frames(full: bool) -> Vec<Value> {
    let options = full.then_some(());
    let frames = [
        ServerFrame::AuthSuccess {
            session_id: "s",
            permissions: vec!["read_threats".to_owned()],
            rate_limits: RateLimits {
                messages_per_minute: 60,
                agent_chats_per_hour: 100,
            },
        },
        ServerFrame::SubscriptionConfirmed {
            channel: "threat_alerts",
            subscription_id: "sub-1",
            seq: SEQ,
            recovered: options.map(|()| true),
        },
        ServerFrame::UnsubscriptionConfirmed {
            channel: "threat_alerts",
            subscription_id: "sub-1",
        },
        ServerFrame::ActionDecisionRecorded {
            action_id: "a",
            decision: Verdict::Approve,
        },
        ServerFrame::RateLimitExceeded {
            limit_type: "messages_per_minute",
            current_usage: "61/60".to_owned(),
            reset_time: Timestamp::parse("2024-12-19T21:30:00Z").unwrap(),
        },
        ServerFrame::Pong,
        ServerFrame::Error {
            code: ErrorCode::InvalidMessage,
            message: "m",
            field: options.map(|()| "f"),
            retry_after: options.map(|()| 1_000),
            expires_at: options.map(|()| Timestamp::parse("2024-12-19T21:30:00Z").unwrap()),
            decided_by: options.map(|()| "u"),
            decision: options.map(|()| Verdict::Reject),
        },
    ];
    for frame in &frames {
        match frame {
            ServerFrame::AuthSuccess { .. }
            | ServerFrame::SubscriptionConfirmed { .. }
            | ServerFrame::UnsubscriptionConfirmed { .. }
            | ServerFrame::ActionDecisionRecorded { .. }
            | ServerFrame::RateLimitExceeded { .. }
            | ServerFrame::Pong
            | ServerFrame::Error { .. } => {}
        }
    }
    let frames = frames.iter().map(|frame| json!(frame));
    let frames = frames.chain(chat_frames(full));
    frames.chain(investigation_frames(full)).collect()
}

/// The same of chats.
fn chat_frames(full: bool) -> Vec<Value> {
    let options = full.then_some(());
    let analysis = RawValue::from_string(r#"{"risk_factors":[]}"#.to_owned()).unwrap();
    let metadata = ResponseMetadata {
        processing_time: "14.2s".to_owned(),
        tokens_used: 450,
    };
    let frames = [
        ChatFrame::ChatSessionStarted {
            session_id: "s",
            agent_type: "a",
            agent_info: AgentInfo {
                name: "A",
                model: "m",
                capabilities: &["c".to_owned()],
            },
        },
        ChatFrame::ChatResumed {
            session_id: "s",
            answer: options.map(|()| 1),
            after_chunk: 0,
            answering: false,
        },
        ChatFrame::ChatCancelled {
            session_id: "s",
            answer: options.map(|()| 1),
        },
        ChatFrame::AgentResponseChunk {
            session_id: "s",
            chunk_id: 1,
            content: "",
            is_final: true,
            answer: 1,
        },
        ChatFrame::AgentResponseComplete {
            session_id: "s",
            full_response: "r",
            analysis: options.map(|()| &*analysis),
            metadata: metadata.clone(),
            answer: 1,
        },
        ChatFrame::AgentResponseCancelled {
            session_id: "s",
            partial_response: "r",
            metadata,
            answer: 1,
        },
        ChatFrame::AgentError {
            session_id: options.map(|()| "s"),
            error: AgentFailure {
                code: AgentErrorCode::AgentTimeout,
                message: "m",
                retry_available: true,
            },
            answer: options.map(|()| 1),
            partial_response: options.map(|()| ""),
        },
        ChatFrame::AgentToolExecution {
            session_id: "s",
            tool_name: "t",
            status: ToolStatus::Executing,
            parameters: &analysis,
            answer: 1,
            tool_call: 1,
        },
        ChatFrame::AgentToolApproval {
            session_id: "s",
            tool_name: "t",
            parameters: &analysis,
            answer: 1,
            tool_call: 1,
            action_id: "tool-1",
            action_type: "t",
            arguments_hash: "0f",
            expires_at: Timestamp::parse("2024-12-19T21:30:00Z").unwrap(),
        },
        ChatFrame::AgentToolDecision {
            session_id: "s",
            tool_name: "t",
            answer: 1,
            tool_call: 1,
            action_id: "tool-1",
            decision: ToolDecision::Reject,
            decided_by: options.map(|()| "u"),
            reason: options.map(|()| "r"),
        },
        ChatFrame::AgentToolTerminal {
            session_id: "s",
            answer: 1,
            tool_call: 1,
            agent_id: "a",
            command_id: "cmd-1",
        },
        ChatFrame::AgentToolResult {
            session_id: "s",
            tool_name: "t",
            status: ToolStatus::Completed,
            results: match full {
                true => ToolResults::Value { value: &analysis },
                false => ToolResults::Error { error: "e" },
            },
            answer: 1,
            tool_call: 1,
            outcome: ToolOutcome::Value,
            truncated: full,
        },
    ];
    for frame in &frames {
        match frame {
            ChatFrame::ChatSessionStarted { .. }
            | ChatFrame::ChatResumed { .. }
            | ChatFrame::ChatCancelled { .. }
            | ChatFrame::AgentResponseChunk { .. }
            | ChatFrame::AgentResponseComplete { .. }
            | ChatFrame::AgentResponseCancelled { .. }
            | ChatFrame::AgentToolExecution { .. }
            | ChatFrame::AgentToolApproval { .. }
            | ChatFrame::AgentToolDecision { .. }
            | ChatFrame::AgentToolTerminal { .. }
            | ChatFrame::AgentToolResult { .. }
            | ChatFrame::AgentError { .. } => {}
        }
    }
    frames.iter().map(|frame| json!(frame)).collect()
}

/// The frames about investigations, with every field or without the optional ones.
fn investigation_frames(full: bool) -> Vec<Value> {
    let progress = json!({"progress": 45});
    let user = Member {
        id: "ada".to_owned(),
        name: "Ada".to_owned(),
        role: "analyst".to_owned(),
    };
    let note = Note {
        id: "note-1".to_owned(),
        author: "ada".to_owned(),
        content: "c".to_owned(),
        timestamp: Timestamp::parse("2026-03-02T09:14:07Z").unwrap(),
        attachments: vec!["a.json".to_owned()],
    };
    let frames = [
        InvestigationFrame::InvestigationState {
            investigation_id: "inv-1",
            seq: "a-1".parse().unwrap(),
            users: &[user],
            notes: &[note],
            notes_omitted: full.then_some(3),
            progress: full.then_some(&progress),
            progress_omitted: full,
            unavailable: full,
        },
        InvestigationFrame::InvestigationNoteRecorded {
            investigation_id: "inv-1",
            note_id: "n",
            id: "note-1",
        },
    ];
    frames.iter().map(|frame| json!(frame)).collect()
}

#[test]
fn server_frames_have_the_fields_of_their_shapes() {
    encoder_agrees(&SHAPE, &frames(true), &frames(false));
}

/// Data with a value for every checked field.
fn data(kind: &EventType) -> Map<String, Value> {
    let fields = kind.fields.iter();
    fields
        .map(|field| {
            (
                field.name.to_owned(),
                Kind::from(field.kind).samples().swap_remove(0),
            )
        })
        .collect()
}

#[test]
fn events_have_the_fields_of_their_shapes() {
    let pick = |data: &Map<String, Value>, names: &[&str], wanted: bool| {
        let fields = data
            .iter()
            .filter(|(key, _)| names.contains(&key.as_str()) == wanted);
        fields
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect::<Map<_, _>>()
    };
    let timestamp = Timestamp::parse("2024-12-19T21:30:00Z").unwrap();
    for (kind, message) in SHAPE.events() {
        let data = data(kind);
        kind.check(&data).unwrap();
        let frame = match kind.words.threat.unwrap().body {
            ThreatBody::Nested { lifted } => json!(NestedEvent {
                kind: message.kind,
                channel: kind.route.channel.name(),
                lifted: &pick(&data, lifted, true),
                timestamp,
                data: &pick(&data, lifted, false),
                id: "e-1",
                seq: SEQ,
            }),
            ThreatBody::Flat { fields } => json!(FlatEvent {
                kind: message.kind,
                fields: &pick(&data, fields, true),
                timestamp,
                id: "e-1",
                seq: SEQ,
            }),
        };
        message.check(&frame).unwrap();
        let keys = frame.as_object().unwrap().len();
        assert_eq!(keys, message.fields.len() + 1, "{frame}");
    }
    assert_eq!(
        SHAPE.events().count(),
        catalogue::all()
            .filter(|kind| kind.words.threat.is_some())
            .count()
    );
}
