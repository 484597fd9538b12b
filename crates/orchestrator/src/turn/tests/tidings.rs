//! What people are told of an action whose orchestrator was lost when it had ended
//! and nobody had been told of that yet.

use async_nats::jetstream;
use serde_json::Value;
use signalbox_bus::stream::EVENTS;
use signalbox_protocol::wire::{
    ChatCallSettled, ChatCallStarted, ChatTaken, ChatToolDecided, ChatToolEnded, ChatToolHeld,
    ChatToolPlanned, ChatToolStarted, ToolVerdict,
};

use super::*;

const ACTION: &str = "tool-0123456789abcdef0123456789abcdef";

/// Writes a log up to the end of an approved call, and that it was taken over so
/// often since.
async fn leave(stage: &Stage, recoveries: u32) {
    let (mut log, session) = stage.load().await;
    let asked_sequence = session.last.unwrap().asked_sequence;
    let tool_name = || "echo".to_owned();
    let arguments = || "{}".to_owned();
    let steps = [
        Record::CallStarted(ChatCallStarted {
            call: 1,
            ..ChatCallStarted::default()
        }),
        Record::ToolPlanned(ChatToolPlanned {
            tool_call: 1,
            call: 1,
            model_call_id: "m1".to_owned(),
            tool_name: tool_name(),
            arguments: arguments(),
            ..ChatToolPlanned::default()
        }),
        Record::CallSettled(ChatCallSettled {
            call: 1,
            goes_on: true,
            ..ChatCallSettled::default()
        }),
        Record::ToolHeld(ChatToolHeld {
            tool_call: 1,
            tool_name: tool_name(),
            arguments: arguments(),
            action_id: ACTION.to_owned(),
            action_type: "echo".to_owned(),
            expires_at_ms: moment::now_ms() + 60_000,
            ..ChatToolHeld::default()
        }),
        Record::ToolDecided(ChatToolDecided {
            tool_call: 1,
            tool_name: tool_name(),
            action_id: ACTION.to_owned(),
            verdict: ToolVerdict::Approve.into(),
            decided_by: "grace".to_owned(),
            ..ChatToolDecided::default()
        }),
        Record::ToolStarted(ChatToolStarted {
            tool_call: 1,
            tool_name: tool_name(),
            arguments: arguments(),
        }),
        Record::ToolEnded(ChatToolEnded {
            tool_call: 1,
            tool_name: tool_name(),
            outcome: ToolOutcome::Value.into(),
            result: "1".to_owned(),
            ..ChatToolEnded::default()
        }),
    ];
    let taken = (1..=recoveries).map(|recovery| Record::Taken(ChatTaken { recovery }));
    for step in steps.into_iter().chain(taken) {
        let record = ChatRecord {
            asked_sequence,
            ..record(1, step)
        };
        log.append(&record).await.unwrap();
    }
}

/// The ids of the events that wait for routers.
async fn told(stage: &Stage) -> Vec<String> {
    let client = stage._server.connect(User::Admin).await;
    let mut events = jetstream::new(client).get_stream(EVENTS).await.unwrap();
    let state = events.info().await.unwrap().state.clone();
    let mut ids = Vec::new();
    for sequence in state.first_sequence.max(1)..=state.last_sequence {
        let message = events.get_raw_message(sequence).await.unwrap();
        let event: Value = serde_json::from_slice(&message.payload).unwrap();
        ids.push(event["id"].as_str().unwrap().to_owned());
    }
    ids
}

fn expected() -> [String; 2] {
    ["EXECUTING", "COMPLETED"].map(|status| format!("{ACTION}/{status}"))
}

#[tokio::test]
async fn the_end_of_an_action_is_told_by_who_only_ends_its_answer() {
    let mut stage = Stage::start(false, Vec::new()).await;
    leave(&stage, RECOVERIES).await;
    let records = stage.finish().await;
    assert!(matches!(records.last(), Some(Record::Failed(_))));
    assert_eq!(told(&stage).await, expected());
}

#[tokio::test]
async fn the_end_of_an_action_is_told_without_the_agent_it_was_for() {
    let mut stage = Stage::start(false, Vec::new()).await;
    leave(&stage, 0).await;
    let (mut turn, _) = stage.turn().await;
    turn.agent = None;
    turn.go_on().await.unwrap();
    let records = stage.records().await;
    assert!(matches!(records.last(), Some(Record::Failed(_))));
    assert_eq!(told(&stage).await, expected());
}
