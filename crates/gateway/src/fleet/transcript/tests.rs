//! What dashboards are told of records, whatever their edges cut.

use proptest::prelude::*;
use serde_json::{Value, json};
use signalbox_protocol::wire::{ResourceUsage, StreamSum, TermCleared, TermOutput, TermQueued};

use super::*;

const EPOCH: Epoch = Epoch::from_unix_micros(0xa);

fn record(record: Record) -> TermRecord {
    TermRecord {
        agent_id: "a".to_owned(),
        at: "2026-03-02T09:14:07.25Z".to_owned(),
        progress: None,
        record: Some(record),
    }
}

fn output(chunks: &[(OutputStream, u64, &[u8])]) -> TermRecord {
    let chunk = |(stream, offset, data): &(OutputStream, u64, &[u8])| OutputChunk {
        stream: *stream as i32,
        offset: *offset,
        data: data.to_vec().into(),
        time: String::new(),
        after_loss: false,
    };
    record(Record::Output(TermOutput {
        chunks: chunks.iter().map(chunk).collect(),
    }))
}

fn ended() -> TermRecord {
    record(Record::Ended(TermEnded {
        state: CommandState::Failed as i32,
        exit_code: Some(2),
        ..TermEnded::default()
    }))
}

fn said(frames: &[Frame]) -> Vec<Value> {
    let read = |frame: &Frame| serde_json::from_slice(frame.payload()).unwrap();
    frames.iter().map(read).collect()
}

/// The bytes that an output frame stands for.
fn bytes(frame: &Value) -> Vec<u8> {
    match frame["output"]["raw"].as_str() {
        Some(raw) => STANDARD.decode(raw).unwrap(),
        None => frame["output"]["content"].as_str().unwrap().into(),
    }
}

#[test]
fn a_command_is_told_from_its_queue_to_its_end() {
    let mut transcript = Transcript::new(EPOCH);
    let queued = record(Record::Queued(TermQueued {
        command: "ls".to_owned(),
        position: 1,
        by: "ada".to_owned(),
        ..TermQueued::default()
    }));
    let frames = said(&transcript.tell(3, "c", &queued, false));
    assert_eq!(frames[0]["status"], "queued");
    assert_eq!(frames[0]["command"], "ls");
    assert_eq!(frames[0]["seq"], "a-0.3");
    let frames = said(&transcript.tell(4, "c", &ended(), true));
    assert_eq!(frames.len(), 2);
    assert_eq!(frames[0]["type"], "command:status");
    assert_eq!(frames[0]["seq"], "a-0.4.1");
    assert_eq!(frames[1]["type"], "command:complete");
    assert_eq!(frames[1]["seq"], "a-0.4");
    assert_eq!(frames[1]["exitCode"], 2);
    assert_eq!(frames[1]["replay"], true);
}

#[test]
fn the_beginning_of_a_character_is_told_at_the_end_at_last() {
    let mut transcript = Transcript::new(EPOCH);
    let cut = output(&[(OutputStream::Stdout, 0, b"x\xE2\x82")]);
    let frames = said(&transcript.tell(1, "c", &cut, false));
    assert_eq!(frames[0]["output"]["content"], "x");
    let frames = said(&transcript.tell(2, "c", &ended(), false));
    assert_eq!(frames[0]["type"], "terminal:output");
    assert_eq!(frames[0]["offset"], 1);
    assert_eq!(bytes(&frames[0]), b"\xE2\x82");
    assert_eq!(frames[2]["type"], "command:complete");
}

#[test]
fn bytes_that_are_no_text_come_beside_it() {
    let mut transcript = Transcript::new(EPOCH);
    let odd = output(&[(OutputStream::Stderr, 7, b"\xFF!")]);
    let frames = said(&transcript.tell(1, "c", &odd, false));
    assert_eq!(frames[0]["output"]["content"], "\u{fffd}!");
    assert_eq!(frames[0]["output"]["raw"], "/yE=");
    assert_eq!(frames[0]["stream"], "stderr");
    let genuine = output(&[(OutputStream::Stderr, 9, "\u{fffd}".as_bytes())]);
    let frames = said(&transcript.tell(2, "c", &genuine, false));
    assert_eq!(frames[0]["output"].get("raw"), None);
}

#[test]
fn a_clear_is_told_once_for_all_commands_of_an_agent() {
    let mut transcript = Transcript::new(EPOCH);
    let cleared = record(Record::Cleared(TermCleared {
        by: "ada".to_owned(),
        clear_id: "x".to_owned(),
    }));
    assert_eq!(transcript.tell(1, "c", &cleared, false).len(), 1);
    assert_eq!(transcript.tell(2, "d", &cleared, false).len(), 0);
}

proptest! {
    /// However a text is cut, its characters come whole, and the bytes of
    /// anything else are the same; also when a reader begins anywhere.
    #[test]
    fn edges_change_nothing(
        text in prop_oneof![
            "\\PC{0,30}".prop_map(String::into_bytes),
            proptest::collection::vec(any::<u8>(), 0..30),
        ],
        cuts in proptest::collection::vec(0_usize..31, 0..8),
        begin in 0_usize..9,
    ) {
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let records: Vec<_> = cuts
            .windows(2)
            .map(|pair| output(&[(OutputStream::Stdout, pair[0] as u64, &text[pair[0]..pair[1]])]))
            .chain([ended()])
            .collect();
        let begin = begin.min(records.len() - 1);
        let mut whole = Transcript::new(EPOCH);
        let mut late = Transcript::new(EPOCH);
        let mut told = Vec::new();
        let mut contents = String::new();
        for (place, record) in records.iter().enumerate() {
            let frames = said(&whole.tell(place as u64 + 1, "c", record, false));
            if place < begin {
                late.prime("c", record);
            } else {
                prop_assert_eq!(&said(&late.tell(place as u64 + 1, "c", record, false)), &frames);
            }
            for frame in frames.iter().filter(|frame| frame["type"] == "terminal:output") {
                prop_assert_eq!(frame["offset"].as_u64(), Some(told.len() as u64));
                told.extend(bytes(frame));
                contents.push_str(frame["output"]["content"].as_str().unwrap());
            }
        }
        prop_assert_eq!(&told, &text);
        if let Ok(text) = String::from_utf8(text) {
            prop_assert_eq!(contents, text);
        }
    }
}

/// The end says what the log has, and what the agent says.
#[test]
fn an_end_tells_what_was_written_and_what_is_recorded() {
    let sum = |stream: OutputStream, bytes, recorded, hash: &[u8]| StreamSum {
        stream: stream as i32,
        bytes,
        recorded,
        sha256: hash.to_vec().into(),
    };
    let ended = record(Record::Ended(TermEnded {
        sums: vec![
            sum(OutputStream::Stderr, 2, 2, &[0xab; 2]),
            sum(OutputStream::Stdout, 9, 5, &[]),
        ],
        written: vec![
            sum(OutputStream::Stdout, 10, 0, &[0x01]),
            sum(OutputStream::System, 4, 0, &[]),
        ],
        usage: Some(ResourceUsage {
            cpu_time_ms: None,
            peak_memory_bytes: Some(8),
        }),
        ..TermEnded::default()
    }));
    let frames = said(&Transcript::new(EPOCH).tell(9, "c", &ended, false));
    let complete = frames.last().unwrap();
    assert_eq!(
        complete["streams"],
        json!([
            {"stream": "stdout", "bytes": 10, "recorded": 5, "writtenSha256": "01"},
            {"stream": "stderr", "bytes": 2, "recorded": 2, "sha256": "abab"},
            {"stream": "system", "bytes": 4, "recorded": 0},
        ])
    );
    assert_eq!(complete["usage"], json!({"peakMemory": 8}));
    assert!(frames[0].get("streams").is_none(), "{}", frames[0]);
}
