//! From the records of a command's log to the lines of an asciicast, version 2:
//! a header, then `[seconds, kind, text]`. Output is `o`; where something is
//! missing, or the command ends, there is a marker, `m`.
//!
//! The times of records are the relay's, those of what was written the agent's,
//! whose clock may be another, or be set meanwhile: its spacing is kept, on the
//! relay's clock, where nothing is stored before it was written.
//!
//! Casts are text. Bytes that are no UTF-8 become U+FFFD; characters that two
//! records share are put together. What was typed is in no log, nor the size.

use std::collections::VecDeque;

use serde_json::{Value, json};
use signalbox_protocol::timestamp::Timestamp;
use signalbox_protocol::wire::{
    CommandState, GapReason, OutputStream, TermOutput, TermRecord, term_record::Record,
};

use crate::agent::CellSize;

/// The longest that a character is, in bytes.
const MAX_CHARACTER_BYTES: usize = 4;
/// What is further out of order is from a clock that was set, or is another.
const TOLERANCE_MS: i64 = 1_000;

/// A cast being made.
pub(super) struct Cast {
    title: String,
    size: CellSize,
    /// When the command began, in Unix milliseconds.
    began: Option<i64>,
    /// Of the last line: time does not run backwards.
    last_ms: i64,
    /// What makes a time of the agent's one of the relay's.
    skew: Option<i64>,
    /// The agent's greatest time since its clock was set last.
    heard: i64,
    /// The beginnings of characters, by stream.
    halves: [Vec<u8>; 2],
    ended: bool,
    lines: VecDeque<Value>,
}

impl Cast {
    pub(super) fn new(id: &str, size: CellSize) -> Self {
        Self {
            title: id.to_owned(),
            size,
            began: None,
            last_ms: 0,
            skew: None,
            heard: i64::MIN,
            halves: [Vec::new(), Vec::new()],
            ended: false,
            lines: VecDeque::new(),
        }
    }

    /// Whether the command has started.
    pub(super) const fn has_begun(&self) -> bool {
        self.began.is_some()
    }

    /// Whether the log is complete.
    pub(super) const fn has_ended(&self) -> bool {
        self.ended
    }

    /// The lines that follow from a record.
    pub(super) fn lines(&mut self, record: &TermRecord) -> Vec<Value> {
        let at = millis(&record.at);
        match &record.record {
            Some(Record::Queued(queued)) => {
                let words = std::iter::once(&queued.command).chain(&queued.args);
                self.title = words.cloned().collect::<Vec<_>>().join(" ");
            }
            Some(Record::Started(_)) => self.begin(at),
            Some(Record::Output(output)) => {
                let skew = self.skew(output, at);
                for chunk in &output.chunks {
                    let at = millis(&chunk.time).map(|time| time + skew).or(at);
                    self.begin(at);
                    let text = self.decode(chunk.stream(), &chunk.data);
                    self.push(at, "o", &text);
                }
            }
            Some(Record::Gap(gap)) => {
                self.begin(at);
                // What was begun in front of the gap does not go on behind it.
                self.flush(at);
                let stream = name_of(gap.stream());
                let what = match gap.to.checked_sub(gap.from) {
                    Some(bytes) if gap.to > 0 => format!("{bytes} bytes of {stream}"),
                    _ => format!("the rest of {stream}"),
                };
                let why = match gap.reason() {
                    GapReason::Capped => "is beyond what a log takes",
                    GapReason::Lost | GapReason::Unspecified => "is lost",
                };
                self.push(at, "m", &format!("gap: {what} {why}"));
            }
            Some(Record::Ended(ended)) if self.has_begun() => {
                self.flush(at);
                let mut words = match ended.state() {
                    CommandState::Completed => "completed".to_owned(),
                    CommandState::Interrupted => "interrupted".to_owned(),
                    _ => "failed".to_owned(),
                };
                if let Some(code) = ended.exit_code {
                    words.push_str(&format!(", exit code {code}"));
                }
                if !ended.reason.is_empty() {
                    words.push_str(&format!(", {}", ended.reason));
                }
                if ended.incomplete {
                    words.push_str(", output may be missing");
                }
                self.push(at, "m", &words);
                self.ended = true;
            }
            Some(Record::Ended(_)) => self.ended = true,
            Some(Record::Cleared(_) | Record::Taken(_)) | None => {}
        }
        self.lines.drain(..).collect()
    }

    /// The lines that are left at the end.
    pub(super) fn end(&mut self) -> Vec<Value> {
        self.flush(None);
        self.lines.drain(..).collect()
    }

    /// What is to be added to the times of this output, which was stored then.
    fn skew(&mut self, output: &TermOutput, at: Option<i64>) -> i64 {
        let times = || output.chunks.iter().filter_map(|chunk| millis(&chunk.time));
        let (Some(oldest), Some(newest), Some(at)) = (times().min(), times().max(), at) else {
            return self.skew.unwrap_or_default();
        };
        let most = at - newest;
        let fits = |began| oldest + TOLERANCE_MS >= began;
        let skew = match self.skew {
            Some(skew) if newest + TOLERANCE_MS >= self.heard => skew.min(most),
            // The same clock, as far as one can tell.
            None if self.began.is_none_or(fits) => most.min(0),
            _ => {
                self.heard = newest;
                most
            }
        };
        self.heard = self.heard.max(newest);
        self.skew = Some(skew);
        skew
    }

    fn begin(&mut self, at: Option<i64>) {
        if self.began.is_some() {
            return;
        }
        let began = at.unwrap_or_default();
        self.began = Some(began);
        self.lines.push_back(json!({
            "version": 2,
            "width": self.size.columns,
            "height": self.size.rows,
            "timestamp": began / 1_000,
            "title": self.title,
            "env": {"TERM": "xterm-256color"},
        }));
    }

    fn push(&mut self, at: Option<i64>, kind: &str, text: &str) {
        if text.is_empty() {
            return;
        }
        let since = at.unwrap_or_default() - self.began.unwrap_or_default();
        self.last_ms = self.last_ms.max(since);
        let seconds = self.last_ms as f64 / 1_000.0;
        self.lines.push_back(json!([seconds, kind, text]));
    }

    /// Text of what is whole; the beginning of a character waits for the rest.
    fn decode(&mut self, stream: OutputStream, bytes: &[u8]) -> String {
        let half = &mut self.halves[usize::from(stream == OutputStream::Stderr)];
        half.extend_from_slice(bytes);
        let cut = half.len() - unfinished(half);
        let rest = half.split_off(cut);
        let whole = std::mem::replace(half, rest);
        String::from_utf8_lossy(&whole).into_owned()
    }

    fn flush(&mut self, at: Option<i64>) {
        for place in 0..self.halves.len() {
            let half = std::mem::take(&mut self.halves[place]);
            self.push(at, "o", &String::from_utf8_lossy(&half));
        }
    }
}

/// How many bytes at the end begin a character that may still become one.
fn unfinished(bytes: &[u8]) -> usize {
    for length in 1..MAX_CHARACTER_BYTES.min(bytes.len() + 1) {
        let tail = &bytes[bytes.len() - length..];
        match std::str::from_utf8(tail) {
            Err(error) if error.valid_up_to() == 0 && error.error_len().is_none() => {
                return length;
            }
            _ => {}
        }
    }
    0
}

fn millis(time: &str) -> Option<i64> {
    Timestamp::parse(time).map(|time| time.unix_millis())
}

const fn name_of(stream: OutputStream) -> &'static str {
    match stream {
        OutputStream::Stdout => "stdout",
        OutputStream::Stderr => "stderr",
        OutputStream::System => "system",
        OutputStream::Command => "command",
    }
}

#[cfg(test)]
mod tests {
    use signalbox_protocol::wire::{OutputChunk, TermEnded, TermGap, TermQueued, TermStarted};

    use super::*;

    const SIZE: CellSize = CellSize {
        columns: 100,
        rows: 30,
    };

    fn record(ms: i64, record: Record) -> TermRecord {
        TermRecord {
            at: Timestamp::from_unix_millis(ms).unwrap().to_string(),
            record: Some(record),
            ..TermRecord::default()
        }
    }

    fn output(ms: i64, bytes: &[u8]) -> TermRecord {
        stored(ms + 500, ms, bytes)
    }

    fn stored(at: i64, ms: i64, bytes: &[u8]) -> TermRecord {
        let chunk = OutputChunk {
            data: bytes.to_vec().into(),
            time: Timestamp::from_unix_millis(ms).unwrap().to_string(),
            ..OutputChunk::default()
        };
        let output = TermOutput {
            chunks: vec![chunk],
        };
        record(at, Record::Output(output))
    }

    #[test]
    fn a_log_becomes_a_cast() {
        let mut cast = Cast::new("cmd-1", SIZE);
        let queued = TermQueued {
            command: "cargo".to_owned(),
            args: vec!["test".to_owned()],
            ..TermQueued::default()
        };
        let gap = TermGap {
            from: 10,
            to: 30,
            reason: GapReason::Lost.into(),
            ..TermGap::default()
        };
        let ended = TermEnded {
            state: CommandState::Failed.into(),
            exit_code: Some(101),
            ..TermEnded::default()
        };
        let lines: Vec<Value> = [
            record(9_000, Record::Queued(queued)),
            record(10_000, Record::Started(TermStarted::default())),
            output(10_250, b"a\x1b[1m\n"),
            // Time does not run backwards.
            output(10_100, b"b"),
            record(12_000, Record::Gap(gap)),
            record(12_500, Record::Ended(ended)),
        ]
        .iter()
        .flat_map(|record| cast.lines(record))
        .collect();
        assert_eq!(lines[0]["title"], "cargo test");
        assert_eq!(
            (&lines[0]["width"], &lines[0]["timestamp"]),
            (&json!(100), &json!(10))
        );
        let rest = [
            json!([0.25, "o", "a\u{1b}[1m\n"]),
            json!([0.25, "o", "b"]),
            json!([2.0, "m", "gap: 20 bytes of stdout is lost"]),
            json!([2.5, "m", "failed, exit code 101"]),
        ];
        assert_eq!(lines[1..], rest);
        assert!(cast.has_ended() && cast.end().is_empty());
    }

    #[test]
    fn the_spacing_is_the_agents_whatever_its_clock_says() {
        const HOUR: i64 = 3_600_000;
        const DAY: i64 = 24 * HOUR;
        // What is added to the agent's clock at each of its outputs, and where
        // they stand: at the latest where they were stored.
        for (clock, expected) in [
            ([0, 0, 0, 0], [0.5, 1.5, 3.5, 5.0]),
            ([HOUR, HOUR, HOUR, HOUR], [1.0, 2.0, 4.0, 5.5]),
            ([-HOUR, -HOUR, -HOUR, -HOUR], [1.0, 2.0, 4.0, 5.5]),
            ([0, 0, -HOUR, -HOUR], [0.5, 1.5, 4.0, 5.5]),
            ([0, HOUR, HOUR, HOUR], [0.5, 2.0, 4.0, 5.5]),
            ([HOUR, -HOUR, HOUR, 0], [1.0, 2.0, 4.0, 5.5]),
        ] {
            let mut cast = Cast::new("c", SIZE);
            let started = record(DAY, Record::Started(TermStarted::default()));
            let mut lines = cast.lines(&started);
            for (written, clock) in [500, 1_500, 3_500, 5_000].into_iter().zip(clock) {
                let at = DAY + written;
                lines.extend(cast.lines(&stored(at + 500, at + clock, b"x")));
            }
            let ended = record(DAY + 9_000, Record::Ended(TermEnded::default()));
            lines.extend(cast.lines(&ended));
            let times = lines[1..].iter().filter_map(|line| line[0].as_f64());
            let expected = expected.into_iter().chain([9.0]);
            assert_eq!(times.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_was_stored_late_stands_where_it_was_written() {
        let mut cast = Cast::new("c", SIZE);
        let started = record(10_000, Record::Started(TermStarted::default()));
        let mut lines = cast.lines(&started);
        for written in [10_500, 20_000, 65_000] {
            lines.extend(cast.lines(&stored(70_000, written, b"x")));
        }
        let times = lines[1..].iter().filter_map(|line| line[0].as_f64());
        assert_eq!(times.collect::<Vec<_>>(), [0.5, 10.0, 55.0]);
    }

    #[test]
    fn characters_are_put_together_wherever_they_are_cut() {
        let text = "aé€𝄞z\u{ff}".as_bytes();
        let mut bytes = text.to_vec();
        bytes.extend(b"\xff\xe2\x82 \xf0");
        let expected = String::from_utf8_lossy(&bytes).into_owned();
        for at in 0..=bytes.len() {
            let mut cast = Cast::new("c", SIZE);
            let mut lines = cast.lines(&output(1, &bytes[..at]));
            lines.extend(cast.lines(&output(2, &bytes[at..])));
            lines.extend(cast.end());
            let texts = lines.iter().filter_map(|line| line[2].as_str());
            assert_eq!(texts.collect::<String>(), expected, "{at}");
        }
    }

    #[test]
    fn a_command_that_never_started_is_no_cast() {
        let mut cast = Cast::new("c", SIZE);
        let ended = record(1, Record::Ended(TermEnded::default()));
        assert!(cast.lines(&ended).is_empty() && !cast.has_begun());
    }
}
