//! The codec of dialect `fleet` is what its shape says.

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::super::server::{
    End, Limits, ListedAgent, Output, RecordedStream, Requested, ServerFrame, StoppedAgent,
    StoredOutput, Usage, Used, Waiting,
};
use super::super::{ClientFrame, TYPES};
use super::*;
use crate::cursor::{Epoch, FleetCursor};
use crate::frame::shape::tests::{decoder_agrees, encoder_agrees};
use crate::timestamp::Timestamp;

const SEQ: FleetCursor = FleetCursor {
    epoch: Epoch::from_unix_micros(0xa),
    events: 0,
    logs: 7,
    part: 0,
};

#[test]
fn the_decoder_agrees() {
    decoder_agrees(&SHAPE, ClientFrame::decode);
    let listed: Vec<_> = SHAPE.client.iter().map(|message| message.kind).collect();
    assert_eq!(listed, TYPES);
}

/// Every server frame, with all that may be absent or without it.
fn frames(full: bool) -> Vec<Value> {
    let some = full.then_some(());
    let timestamp = Timestamp::parse("2024-12-19T21:30:00Z").unwrap();
    let metrics = RawValue::from_string("{}".to_owned()).unwrap();
    let request_id = some.map(|()| "r");
    let used = Used { used: 1, limit: 1 };
    let end = End {
        exit_code: some.map(|()| 1),
        duration: some.map(|()| 1),
        signal: some.map(|()| "s"),
        reason: some.map(|()| "r"),
        incomplete: some.map(|()| true),
    };
    let frames = [
        ServerFrame::ConnectionError {
            error: "e",
            code: ErrorCode::RateLimit,
            retry_after: some.map(|()| 1),
            limits: some.map(|()| Limits {
                per_minute: used,
                per_hour: Some(used),
            }),
            request_id,
            timestamp,
        },
        ServerFrame::ValidationError {
            error: "e",
            field: some.map(|()| "f"),
            code: ErrorCode::InvalidMessage,
            request_id,
            timestamp,
        },
        ServerFrame::AgentList {
            agents: vec![ListedAgent {
                agent_id: "a",
                agent_type: "t",
                status: "online",
                connected_at: timestamp,
                version: "1",
                running: &[],
                metrics: some.map(|()| &*metrics),
            }],
            recovered: some.map(|()| true),
            seq: SEQ,
            request_id,
            timestamp,
        },
        ServerFrame::AgentConnected {
            agent_id: "a",
            heartbeat_interval: 1,
            offsets: if full {
                vec![StoredOutput {
                    command_id: "c",
                    stream: "stdout",
                    offset: 1,
                }]
            } else {
                Vec::new()
            },
            abandoned: if full { &[String::new()] } else { &[] },
            request_id,
            timestamp,
        },
        ServerFrame::AgentStatus {
            agent_id: "a",
            status: "busy",
            metrics: some.map(|()| &*metrics),
            agent_type: "t",
            connected_at: some.map(|()| timestamp),
            seq: SEQ,
            timestamp,
        },
        ServerFrame::CommandQueued {
            command_id: "c",
            agent_id: "a",
            position: 1,
            estimated_wait: 1,
            request_id,
            timestamp,
        },
        ServerFrame::CommandError {
            error: "e",
            code: ErrorCode::QueueFull,
            agent_id: some.map(|()| "a"),
            command_id: some.map(|()| "c"),
            request_id,
            timestamp,
        },
        ServerFrame::CommandExecute {
            command_id: "c",
            command: "x",
            args: &[],
            attempt: 1,
            timestamp,
        },
        ServerFrame::CommandStatus {
            command_id: "c",
            agent_id: "a",
            status: "queued",
            waiting: some.map(|()| Waiting {
                position: 1,
                estimated_wait: 1,
            }),
            request: some.map(|()| Requested {
                command: "x",
                args: &[],
                priority: "low",
                by: "u",
            }),
            end: some.map(|()| end),
            replay: some.map(|()| true),
            seq: SEQ,
            timestamp,
        },
        ServerFrame::CommandInterrupt {
            command_id: "c",
            by: some.map(|()| "u"),
            timestamp,
        },
        ServerFrame::CommandComplete {
            command_id: "c",
            agent_id: "a",
            status: "failed",
            end,
            streams: if full {
                vec![RecordedStream {
                    stream: "stdout",
                    bytes: 1,
                    recorded: 1,
                    sha256: Some("0".repeat(64)),
                    written_sha256: Some("0".repeat(64)),
                }]
            } else {
                Vec::new()
            },
            usage: some.map(|()| Usage {
                cpu_time: Some(1),
                peak_memory: Some(1),
            }),
            replay: some.map(|()| true),
            seq: SEQ,
            timestamp,
        },
        ServerFrame::TerminalOutput {
            agent_id: "a",
            command_id: "c",
            output: Output {
                kind: "stdout",
                content: "x",
                timestamp,
                raw: some.map(|()| "eA=="),
            },
            stream: "stdout",
            offset: 1,
            replay: some.map(|()| true),
            seq: SEQ,
            timestamp,
        },
        ServerFrame::TerminalGap {
            agent_id: "a",
            command_id: "c",
            stream: "stdout",
            from: 1,
            to: some.map(|()| 2),
            reason: "lost",
            replay: some.map(|()| true),
            seq: SEQ,
            timestamp,
        },
        ServerFrame::TerminalClear {
            agent_id: "a",
            by: some.map(|()| "u"),
            seq: SEQ,
            timestamp,
        },
        ServerFrame::TerminalAck {
            command_id: "c",
            stream: "stdout",
            offset: 1,
            timestamp,
        },
        ServerFrame::TerminalInput {
            command_id: "c",
            content: "x",
            raw: some.map(|()| "eA=="),
            timestamp,
        },
        ServerFrame::TerminalResize {
            command_id: "c",
            columns: 80,
            rows: 24,
            timestamp,
        },
        ServerFrame::HeartbeatPing { timestamp },
        ServerFrame::HeartbeatPong {
            request_id,
            timestamp,
        },
        ServerFrame::EmergencyStop {
            reason: "r",
            by: "u",
            stop_id: "s",
            timestamp,
        },
        ServerFrame::Resume {
            by: "u",
            stop_id: "s",
            timestamp,
        },
        ServerFrame::EmergencyStatus {
            agents: vec![StoppedAgent {
                agent_id: "a",
                state: "confirmed",
            }],
            reason: "r",
            by: "u",
            stop_id: "s",
            timestamp,
        },
        ServerFrame::RefreshNeeded {
            expires_at: timestamp,
            timestamp,
        },
        ServerFrame::RefreshSuccess {
            token: some.map(|()| "t"),
            refresh_token: some.map(|()| "t"),
            expires_at: some.map(|()| timestamp),
            request_id,
            timestamp,
        },
        ServerFrame::RefreshFailed {
            error: "e",
            request_id,
            timestamp,
        },
        ServerFrame::RequestDone {
            request_id: "r",
            timestamp,
        },
        ServerFrame::Batch {
            messages: &[&metrics],
            count: 1,
            timestamp,
        },
        ServerFrame::Compressed {
            algorithm: "gzip",
            original_type: "batch",
            original_size: 1,
            compressed_size: 1,
            data: "x",
            timestamp,
        },
    ];
    frames.iter().map(|frame| json!(frame)).collect()
}

#[test]
fn server_frames_have_the_fields_of_their_shapes() {
    encoder_agrees(&SHAPE, &frames(true), &frames(false));
}

/// The examples of the documentation, by side.
fn examples(side: &str) -> Vec<(String, Value)> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/fleet");
    let files = std::fs::read_dir(format!("{root}/{side}")).unwrap();
    files
        .map(|file| {
            let file = file.unwrap();
            let text = std::fs::read_to_string(file.path()).unwrap();
            let name = file.file_name().into_string().unwrap();
            (name, serde_json::from_str(&text).unwrap())
        })
        .collect()
}

#[test]
fn examples_are_what_the_shape_says() {
    for (name, example) in examples("client") {
        let shape = SHAPE.client(example["type"].as_str().unwrap()).unwrap();
        assert_eq!(shape.check(&example), Ok(()), "{name}");
        assert!(ClientFrame::decode(&example.to_string()).is_ok(), "{name}");
    }
    for (name, example) in examples("server") {
        let shape = SHAPE.server(example["type"].as_str().unwrap()).unwrap();
        assert_eq!(shape.check(&example), Ok(()), "{name}");
    }
}
