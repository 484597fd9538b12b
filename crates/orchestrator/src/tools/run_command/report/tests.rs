//! What models are told of each kind of end.

use serde_json::json;
use signalbox_protocol::wire::term_record::Record;
use signalbox_protocol::wire::{OutputChunk, StreamSum, TermGap, TermOutput, TermStarted};

use super::super::request::tests::call;
use super::*;

const ROOM: usize = 4_096;

fn request() -> Request {
    Request::read(&call(json!({"agent_id": "web-1", "command": "x"}))).unwrap()
}

fn seen(pieces: &[(OutputStream, &str)]) -> Seen {
    let mut seen = Seen::new(ROOM);
    seen.take(&Record::Started(TermStarted { attempt: 1 }));
    for (stream, text) in pieces {
        let tail = seen.tails.get(&(*stream).into());
        let chunk = OutputChunk {
            stream: (*stream).into(),
            offset: tail.map_or(0, Tail::end),
            data: (*text).to_owned().into(),
            ..OutputChunk::default()
        };
        let chunks = vec![chunk];
        seen.take(&Record::Output(TermOutput { chunks }));
    }
    seen
}

fn end(state: CommandState, exit_code: Option<i32>, reason: &str) -> TermEnded {
    TermEnded {
        state: state.into(),
        exit_code,
        reason: reason.to_owned(),
        duration_ms: Some(7),
        ..TermEnded::default()
    }
}

fn told(seen: &Seen, end: &TermEnded, timed_out: Option<Duration>) -> Outcome {
    let report = Report {
        request: &request(),
        seen,
        result_bytes: ROOM,
    };
    report.ended(end, timed_out)
}

fn value(outcome: Outcome) -> Value {
    match outcome {
        Outcome::Value(value) => value,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_exit_code_is_a_value() {
    let out = seen(&[
        (OutputStream::Stdout, "a\n"),
        (OutputStream::Stderr, "no\n"),
    ]);
    let mut failed = end(CommandState::Failed, Some(3), "");
    failed.sums = vec![StreamSum {
        stream: OutputStream::Stdout.into(),
        bytes: 2,
        recorded: 2,
        ..StreamSum::default()
    }];
    let value = value(told(&out, &failed, None));
    let id = request().command_id;
    assert_eq!(
        value,
        json!({
            "command_id": id, "agent_id": "web-1", "status": "failed", "exit_code": 3,
            "duration_ms": 7,
            "stdout": {"tail": "a\n", "bytes": 2, "truncated": false},
            "stderr": {"tail": "no\n", "bytes": 3, "truncated": false},
        })
    );
}

#[tokio::test]
async fn a_long_output_is_cut_to_what_a_result_may_have() {
    let long = "0123456789\n".repeat(2_000);
    let out = seen(&[
        (OutputStream::Stdout, &long),
        (OutputStream::Stderr, "warn\n"),
    ]);
    let mut completed = end(CommandState::Completed, Some(0), "");
    completed.sums = vec![StreamSum {
        stream: OutputStream::Stdout.into(),
        bytes: long.len() as u64,
        ..StreamSum::default()
    }];
    let value = value(told(&out, &completed, None));
    assert!(value.to_string().len() <= ROOM, "{value}");
    assert_eq!(value["stdout"]["bytes"], long.len());
    assert_eq!(value["stdout"]["truncated"], true);
    let tail = value["stdout"]["tail"].as_str().unwrap();
    assert!(tail.len() > ROOM / 2 && long.ends_with(tail) && tail.starts_with("0123"));
    assert_eq!(
        value["stderr"],
        json!({"tail": "warn\n", "bytes": 5, "truncated": false})
    );
}

#[tokio::test]
async fn what_nobody_can_know_is_unknown_and_a_stop_an_error() {
    let out = seen(&[(OutputStream::Stdout, "step 1\n")]);
    for reason in ["agent_lost", "outcome_unknown"] {
        match told(&out, &end(CommandState::Failed, None, reason), None) {
            Outcome::Unknown(words) => {
                assert!(
                    words.contains(reason) && words.ends_with("stdout: step 1\n"),
                    "{words}"
                );
            }
            other => panic!("{other:?}"),
        }
    }
    let stop = end(CommandState::Interrupted, Some(130), "emergency_stop");
    let words = told(&out, &stop, None);
    assert!(matches!(&words, Outcome::Error(words) if words.contains("emergency stop")));
}

#[tokio::test]
async fn what_never_ran_is_an_error_with_the_reason() {
    let nothing = Seen::new(ROOM);
    let refused = end(
        CommandState::Failed,
        None,
        "not_allowed: no pattern allows it",
    );
    let Outcome::Error(words) = told(&nothing, &refused, None) else {
        panic!("it did not run");
    };
    assert_eq!(
        words,
        "agent \"web-1\" has not run the command: not_allowed: no pattern allows it"
    );
    let mut removed = end(CommandState::Interrupted, None, "");
    removed.by = "bob".to_owned();
    let outcome = told(&nothing, &removed, None);
    assert!(
        matches!(&outcome, Outcome::Error(words) if words.contains("\"bob\"")),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn the_end_of_its_time_is_told_with_what_became_of_it() {
    let out = seen(&[(OutputStream::Stdout, "tick\n")]);
    let mut interrupted = end(CommandState::Interrupted, Some(130), "");
    (interrupted.signal, interrupted.by) = ("SIGINT".to_owned(), "ada".to_owned());
    let after = Duration::from_millis(30_040);
    let ended = value(told(&out, &interrupted, Some(after)));
    assert_eq!(ended["status"], "timed_out");
    assert_eq!(ended["interrupted_after_seconds"], 30.0);
    assert_eq!(
        (&ended["signal"], ended.get("interrupted_by")),
        (&json!("SIGINT"), None)
    );
    let by_other = value(told(&out, &interrupted, None));
    assert_eq!(
        (&by_other["status"], &by_other["interrupted_by"]),
        (&json!("interrupted"), &json!("ada"))
    );
    let report = Report {
        request: &request(),
        seen: &out,
        result_bytes: ROOM,
    };
    let runs = value(report.still_runs(after, true));
    assert_eq!(runs["status"], "timed_out");
    assert_eq!(runs["stdout"]["tail"], "tick\n");
    assert!(runs["reason"].as_str().unwrap().contains("not ended"));
}

#[tokio::test]
async fn missing_output_is_told() {
    let mut out = seen(&[(OutputStream::Stdout, "a")]);
    out.take(&Record::Gap(TermGap::default()));
    let value = value(told(&out, &end(CommandState::Completed, Some(0), ""), None));
    assert_eq!(value["incomplete"], true);
}

#[tokio::test]
async fn refusals_of_the_relay_say_that_nothing_ran() {
    for (code, part) in [
        (CommandError::AgentNotFound, "\"web-1\" is not known"),
        (CommandError::AgentOffline, "\"web-1\" is not connected"),
        (CommandError::QueueFull, "too many commands"),
        (CommandError::EmergencyStop, "emergency stop"),
        (CommandError::Invalid, "command: too long"),
    ] {
        let refusal = CommandRefusal {
            code: code.into(),
            message: "command: too long".to_owned(),
            ..CommandRefusal::default()
        };
        let Outcome::Error(words) = refused(&request(), &refusal) else {
            panic!("a refusal is an error");
        };
        assert!(
            words.starts_with("the command was not run: ") && words.contains(part),
            "{words}"
        );
    }
}

#[tokio::test]
async fn what_became_of_a_cancelled_command_is_told() {
    let out = seen(&[(OutputStream::Stdout, "tick\n")]);
    let report = Report {
        request: &request(),
        seen: &out,
        result_bytes: ROOM,
    };
    let mut interrupted = end(CommandState::Interrupted, Some(130), "");
    interrupted.signal = "SIGINT".to_owned();
    let removed = end(CommandState::Interrupted, None, "");
    for (end, part) in [
        (
            Some(&interrupted),
            "ended with exit code 130, SIGINT; the last of its stdout: tick\n",
        ),
        (Some(&removed), "was ended before it ran"),
        (None, "had not ended yet"),
    ] {
        match report.cancelled(end) {
            Outcome::Stopped(words) => assert!(words.contains(part), "{words}"),
            other => panic!("{other:?}"),
        }
    }
}
