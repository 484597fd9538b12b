use std::sync::Arc;

use serde_json::json;
use signalbox_protocol::catalogue;
use signalbox_protocol::wire::{
    ChatAnswered, ChatAsked, ChatCallStarted, ChatChunk, ChatFailed, ChatStopped, ChatTaken,
    ChatToolEnded, ChatToolPlanned, ChatToolStarted, ToolOutcome, chat_record::Record,
};

use super::*;
use crate::agents::Agents;

fn key() -> SessionKey {
    SessionKey {
        user_id: "ada".to_owned(),
        session_id: "chat-1".to_owned(),
    }
}

fn asked(context: &str, channels: &[&str]) -> Answer {
    Answer {
        number: 3,
        asked: ChatAsked {
            context: context.to_owned(),
            channels: channels.iter().map(|&name| name.to_owned()).collect(),
            ..ChatAsked::default()
        },
        ..Answer::default()
    }
}

fn started(call: u32, name: &str) -> Record {
    Record::ToolStarted(ChatToolStarted {
        tool_call: call,
        tool_name: name.to_owned(),
        ..ChatToolStarted::default()
    })
}

fn ended(call: u32, name: &str, outcome: ToolOutcome, result: &Value) -> Record {
    Record::ToolEnded(ChatToolEnded {
        tool_call: call,
        tool_name: name.to_owned(),
        outcome: outcome.into(),
        result: result.to_string(),
        ..ChatToolEnded::default()
    })
}

fn answered() -> Record {
    let finding = json!({"statement": "x".repeat(300), "evidence": [{"tool_call": 1}]});
    Record::Answered(ChatAnswered {
        analysis: json!({"findings": [finding], "risk_factors": ["r"]}).to_string(),
        ..ChatAnswered::default()
    })
}

fn story() -> Vec<Record> {
    let begun = ChatCallStarted {
        call: 1,
        ..ChatCallStarted::default()
    };
    let found = json!({"entries": [{"event_id": "e-1", "time": "t"}, {"event_id": "e-2"},
        {"event_id": "chat-0123456789abcdef0123456789abcdef/1/3", "time": "t"}]});
    vec![
        Record::CallStarted(begun),
        started(1, "event_timeline"),
        started(2, "search_events"),
        ended(2, "search_events", ToolOutcome::TimedOut, &json!("late")),
        ended(1, "event_timeline", ToolOutcome::Value, &found),
        ended(3, "run_command", ToolOutcome::Refused, &json!("no")),
        answered(),
    ]
}

fn tell(records: &[Record]) -> Vec<Value> {
    let mut state = State::default();
    let steps = records.iter().filter_map(Step::of);
    steps.filter_map(|step| state.take(&step)).collect()
}

#[test]
fn each_step_is_told_and_the_figure_never_goes_back() {
    let told = tell(&story());
    let of = |key: &str| -> Vec<Value> { told.iter().map(|data| data[key].clone()).collect() };
    assert_eq!(of("progress"), [5, 5, 5, 22, 35, 46, 100].map(Value::from));
    let collecting = "COLLECTING_EVIDENCE";
    let analyzing = "ANALYZING_EVIDENCE";
    assert_eq!(
        of("status"),
        [
            collecting,
            collecting,
            collecting,
            collecting,
            analyzing,
            analyzing,
            "COMPLETED"
        ]
    );
    assert_eq!(of("evidence_collected")[4], 2);
    assert_eq!(
        told[6]["tools_executed"],
        json!(["search_events", "event_timeline"])
    );
    assert_eq!(
        told[6]["findings"][0]["evidence"],
        json!([{"tool_call": 1}])
    );
    let preview = told[6]["findings_preview"][0].as_str().unwrap();
    assert_eq!(preview.chars().count(), 201);
    let kind = catalogue::find(Domain::Threat, EVENT).unwrap();
    for mut data in told {
        data["investigation_id"] = json!("inv-1");
        for field in kind.fields {
            field.check(data.as_object().unwrap()).unwrap();
        }
    }
}

#[test]
fn every_end_is_told_and_what_is_said_is_not() {
    let failed = Record::Failed(ChatFailed {
        message: "no".to_owned(),
        ..ChatFailed::default()
    });
    let told = tell(&[failed, Record::Stopped(ChatStopped::default())]);
    assert_eq!(
        (&told[0]["status"], &told[1]["status"]),
        (&json!("FAILED"), &json!("CANCELLED"))
    );
    let second = ChatCallStarted {
        call: 2,
        ..ChatCallStarted::default()
    };
    for silent in [
        Record::CallStarted(second),
        Record::Chunk(ChatChunk::default()),
        Record::ToolPlanned(ChatToolPlanned::default()),
    ] {
        assert_eq!(Step::of(&silent), None);
    }
    assert_eq!(
        tell(&[Record::Taken(ChatTaken::default())]),
        [Value::Null; 0]
    );
}

#[test]
fn only_an_investigation_that_the_user_may_follow_is_told_of() {
    let (progress, _teller) = new();
    let mut agent = (**Agents::shipped().find("investigation_agent").unwrap()).clone();
    agent.progress = true;
    let channels = ["threat_alerts", "investigation_progress"];
    let session = json!({"investigation_id": "inv-1"});
    let watch = |agent: &Agent, context: Option<&Value>, answer: &Answer| {
        let watch = progress.watch(Some(agent), &key(), context, answer)?;
        Some(watch.about.investigation_id.clone())
    };
    let of = |context: &str| watch(&agent, Some(&session), &asked(context, &channels));
    assert_eq!(of("").as_deref(), Some("inv-1"));
    assert_eq!(
        of(r#"{"investigation_id": "inv-2"}"#).as_deref(),
        Some("inv-2")
    );
    assert_eq!(
        of(r#"{"investigation_id": "no id"}"#).as_deref(),
        Some("inv-1")
    );
    assert_eq!(watch(&agent, None, &asked("", &channels)), None);
    assert_eq!(
        watch(&agent, Some(&session), &asked("", &channels[..1])),
        None
    );
    agent.progress = false;
    assert_eq!(watch(&agent, Some(&session), &asked("", &channels)), None);
}

#[tokio::test]
async fn events_are_named_by_records_and_the_end_of_all_turns_ends_the_queue() {
    let (progress, teller) = new();
    let mut agent = (**Agents::shipped().find("investigation_agent").unwrap()).clone();
    agent.progress = true;
    let context = json!({"investigation_id": "inv-1"});
    let answer = asked("", &["investigation_progress"]);
    let watch = progress.watch(Some(&agent), &key(), Some(&context), &answer);
    let watch = watch.unwrap();
    drop(progress);
    for (number, record) in (7..).zip(story()) {
        let record = ChatRecord {
            at: "2026-01-02T03:04:05Z".to_owned(),
            answer: 3,
            asked_sequence: 5,
            record: Some(record),
        };
        watch.note(number, &record);
    }
    drop(watch);
    let mut ids = Vec::new();
    let mut state = State::default();
    while let Some(told) = teller.queue.next().await {
        let event = event(&told, state.take(&told.step).unwrap());
        let data: Value = serde_json::from_slice(&event.payload).unwrap();
        assert_eq!(data["investigation_id"], "inv-1");
        assert_eq!(data["session_id"], "chat-1");
        assert_eq!(event.subject, "events.threat.investigation_update");
        ids.push(event.message_id);
    }
    let expected: Vec<String> = (7..14)
        .map(|number| format!("threat/investigation_service/chat-1/3/{number}"))
        .collect();
    assert_eq!(ids, expected);
    assert_eq!(Arc::strong_count(&teller.queue), 1);
}
