//! What records mean, one after the other.

use signalbox_protocol::wire::{
    ChatAnswered, ChatCallSettled, ChatChunk, ChatTaken, ChatToolDecided, ChatToolEnded,
    ChatToolHeld, ChatToolPlanned, ChatToolStarted, ToolOutcome, ToolVerdict,
};

use super::*;

fn record(record: Record) -> ChatRecord {
    ChatRecord {
        at: "2026-01-02T03:04:05Z".to_owned(),
        answer: 2,
        asked_sequence: 7,
        record: Some(record),
    }
}

fn chunk(chunk_id: u32, content: &str, is_final: bool) -> ChatRecord {
    record(Record::Chunk(ChatChunk {
        chunk_id,
        content: content.to_owned(),
        is_final,
    }))
}

#[test]
fn an_answer_is_what_its_records_say() {
    let asked = record(Record::Asked(ChatAsked::default()));
    let mut answer = Answer::begin(&asked, 3, 7).unwrap();
    assert_eq!((answer.number, answer.asked_sequence), (2, 7));
    let call = |call| {
        record(Record::CallStarted(ChatCallStarted {
            call,
            ..ChatCallStarted::default()
        }))
    };
    let settled = |call, output_tokens| {
        record(Record::CallSettled(ChatCallSettled {
            call,
            usage: Some(ChatUsage {
                output_tokens,
                calls: 1,
                ..ChatUsage::default()
            }),
            ..ChatCallSettled::default()
        }))
    };
    let records = [
        call(1),
        chunk(1, "one ", false),
        chunk(2, "two", false),
        record(Record::Taken(ChatTaken { recovery: 1 })),
    ];
    for (record, sequence) in records.iter().zip(8..) {
        assert!(answer.note(record, sequence).is_continue());
    }
    let (open, shown) = answer.open_call.clone().unwrap();
    assert_eq!((open.call, shown, answer.recoveries), (1, 7, 1));
    assert!(answer.is_running());
    for record in [settled(1, 5), call(2), chunk(3, "", true), settled(2, 6)] {
        assert!(answer.note(&record, 20).is_continue());
    }
    let ended = record(Record::Answered(ChatAnswered::default()));
    assert!(answer.note(&ended, 30).is_break());
    assert_eq!(answer.text, "one two");
    assert_eq!((answer.chunks, answer.is_final, answer.calls), (3, true, 2));
    assert_eq!((answer.usage.output_tokens, answer.usage.calls), (11, 2));
    assert!(answer.open_call.is_none());
    assert_eq!(answer.end.unwrap().sequence, 30);
}

fn at(second: u32, what: Record) -> ChatRecord {
    ChatRecord {
        at: format!("2026-01-02T03:04:{second:02}Z"),
        ..record(what)
    }
}

fn call_started(call: u32) -> Record {
    Record::CallStarted(ChatCallStarted {
        call,
        ..ChatCallStarted::default()
    })
}

fn settled(goes_on: bool) -> Record {
    Record::CallSettled(ChatCallSettled {
        goes_on,
        ..ChatCallSettled::default()
    })
}

fn planned(tool_call: u32) -> Record {
    Record::ToolPlanned(ChatToolPlanned {
        tool_call,
        model_call_id: format!("m{tool_call}"),
        tool_name: "look".to_owned(),
        arguments: r#"{"x":1}"#.to_owned(),
        ..ChatToolPlanned::default()
    })
}

fn started(tool_call: u32) -> Record {
    Record::ToolStarted(ChatToolStarted {
        tool_call,
        ..ChatToolStarted::default()
    })
}

fn held(tool_call: u32) -> Record {
    Record::ToolHeld(ChatToolHeld {
        tool_call,
        ..ChatToolHeld::default()
    })
}

fn decided(tool_call: u32, verdict: ToolVerdict) -> Record {
    Record::ToolDecided(ChatToolDecided {
        tool_call,
        verdict: verdict.into(),
        ..ChatToolDecided::default()
    })
}

fn ended(tool_call: u32, outcome: ToolOutcome, result: &str) -> Record {
    Record::ToolEnded(ChatToolEnded {
        tool_call,
        outcome: outcome.into(),
        result: result.to_owned(),
        ..ChatToolEnded::default()
    })
}

fn words(chunk_id: u32, content: &str) -> Record {
    Record::Chunk(ChatChunk {
        chunk_id,
        content: content.to_owned(),
        is_final: false,
    })
}

fn told(records: impl IntoIterator<Item = (u32, Record)>) -> Answer {
    let asked = at(0, Record::Asked(ChatAsked::default()));
    let mut answer = Answer::begin(&asked, 1, 1).unwrap();
    for (second, record) in records {
        assert!(answer.note(&at(second, record), 2).is_continue());
    }
    answer
}

#[test]
fn the_next_request_has_what_was_said_and_what_tools_gave() {
    let answer = told([
        (1, call_started(1)),
        (1, words(1, "First. ")),
        (1, planned(1)),
        (1, planned(2)),
        (1, settled(true)),
        (2, started(2)),
        (2, started(1)),
        (3, ended(2, ToolOutcome::TimedOut, "too slow")),
        (4, ended(1, ToolOutcome::Value, r#"{"y":2}"#)),
        // One that nobody heard out goes on in the round of the next.
        (5, call_started(2)),
        (5, words(2, "Sec")),
        (6, settled(false)),
        (6, call_started(3)),
        (6, words(3, "ond.")),
    ]);
    assert_eq!(answer.unfinished_text(), "Second.");
    let messages = answer.messages();
    let [Message::Agent { text, calls }, Message::Results { results }] = &messages[..] else {
        panic!("{messages:?}")
    };
    assert_eq!((&**text, calls.len()), ("First. ", 2));
    assert_eq!(calls[0].arguments, Ok(serde_json::json!({"x": 1})));
    let results: Vec<_> = results
        .iter()
        .map(|one| (&*one.call_id, &*one.content, one.failed))
        .collect();
    let late = r#"{"error":"too slow","outcome":"timed_out"}"#;
    assert_eq!(
        results,
        [("m1", r#"{"y":2}"#, false), ("m2", late, true)],
        "in the model's order"
    );
    assert_eq!(answer.text, "First. Second.");
}

#[test]
fn a_call_is_as_far_as_the_log_says() {
    let stage = |records: Vec<(u32, Record)>| {
        let begun = [(1, call_started(1)), (1, planned(1)), (1, settled(true))];
        told(begun.into_iter().chain(records)).called()[0].stage()
    };
    assert_eq!(stage(vec![]), Stage::Planned);
    assert_eq!(stage(vec![(2, held(1))]), Stage::Held);
    let approved = || vec![(2, held(1)), (3, decided(1, ToolVerdict::Approve))];
    assert_eq!(stage(approved()), Stage::Approved);
    for verdict in [
        ToolVerdict::Reject,
        ToolVerdict::Expired,
        ToolVerdict::Unspecified,
    ] {
        let records = vec![(2, held(1)), (3, decided(1, verdict))];
        assert_eq!(stage(records), Stage::Declined, "{verdict:?}");
    }
    let mut records = approved();
    records.push((4, started(1)));
    assert_eq!(stage(records.clone()), Stage::Started);
    records.push((5, ended(1, ToolOutcome::Value, "1")));
    assert_eq!(stage(records), Stage::Ended);
}

#[test]
fn waiting_for_people_is_not_the_answers_time_and_work_beside_it_is() {
    let answer = told([
        (1, call_started(1)),
        (1, planned(1)),
        (1, planned(2)),
        (1, settled(true)),
        (1, held(1)),
        (2, started(2)),
        // Until here the other one ran; for 20 s nothing does.
        (10, ended(2, ToolOutcome::Value, "1")),
        (20, Record::Taken(ChatTaken { recovery: 1 })),
        (30, decided(1, ToolVerdict::Approve)),
        (35, started(1)),
        (40, ended(1, ToolOutcome::Value, "1")),
        (50, Record::Taken(ChatTaken { recovery: 2 })),
    ]);
    assert_eq!(answer.waited_ms, 20_000);
    // Who only waited has lost nothing by a take-over.
    assert_eq!((answer.recoveries, answer.interruptions), (2, 1));
}
