//! From the records of commands' logs to frames. A character that lies in two
//! records is told with the second: what a log's frames say depends on the
//! bytes that its former records left over, so that a reader which begins in
//! the middle of a log has to be primed with what lies before.

use std::collections::{HashMap, VecDeque};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use signalbox_protocol::cursor::{Epoch, FleetCursor};
use signalbox_protocol::frame::fleet::server::{
    End, Output, RecordedStream, Requested, ServerFrame, Usage, Waiting,
};
use signalbox_protocol::timestamp::Timestamp;
use signalbox_protocol::wire::term_record::Record;
use signalbox_protocol::wire::{
    CommandPriority, CommandState, GapReason, OutputChunk, OutputStream, TermEnded, TermRecord,
};
use signalbox_transport::Frame;

use super::frames::{now, write};

/// Clears that are remembered, each of which is in the logs of all commands
/// that ran then.
const CLEARS_REMEMBERED: usize = 64;

/// What the records of a log have left over.
#[derive(Clone, Debug, Default)]
struct Rest {
    /// The beginning of a character: up to three bytes.
    bytes: Vec<u8>,
    /// The offset behind it.
    end: u64,
}

/// Reads the records of any number of logs, each in its order.
#[derive(Debug)]
pub(super) struct Transcript {
    epoch: Epoch,
    logs: HashMap<String, HashMap<i32, Rest>>,
    clears: VecDeque<String>,
}

/// A frame and the position that it says.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) seq: FleetCursor,
    pub(super) frame: Frame,
}

/// The record in hand.
struct Subject<'a> {
    command_id: &'a str,
    agent_id: &'a str,
    at: Timestamp,
    replay: Option<bool>,
}

/// A frame that still lacks its position.
type Draft<'a> = Box<dyn Fn(FleetCursor) -> Frame + 'a>;

impl Transcript {
    pub(super) fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            logs: HashMap::new(),
            clears: VecDeque::new(),
        }
    }

    /// The life of the stream that it reads.
    pub(super) const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether what a record says depends on records of its log that were not
    /// read here.
    pub(super) fn needs_priming(&self, command_id: &str, record: &TermRecord) -> bool {
        let begins = matches!(record.record, Some(Record::Queued(_)));
        !begins && !self.logs.contains_key(command_id)
    }

    /// Reads a record that was told before.
    pub(super) fn prime(&mut self, command_id: &str, record: &TermRecord) {
        let streams = self.logs.entry(command_id.to_owned()).or_default();
        if let Some(Record::Output(output)) = &record.record {
            for chunk in &output.chunks {
                take(streams, chunk);
            }
        }
    }

    /// Takes it that nothing is left over of a log so far.
    pub(super) fn adopt(&mut self, command_id: &str) {
        self.logs.entry(command_id.to_owned()).or_default();
    }

    /// The frames that tell of a record.
    pub(super) fn tell(
        &mut self,
        sequence: u64,
        command_id: &str,
        record: &TermRecord,
        replay: bool,
    ) -> Vec<Frame> {
        let told = Subject {
            command_id,
            agent_id: &record.agent_id,
            at: Timestamp::parse(&record.at).unwrap_or_else(now),
            replay: replay.then_some(true),
        };
        let streams = self.logs.entry(command_id.to_owned()).or_default();
        let mut drafts: Vec<Draft<'_>> = Vec::new();
        match &record.record {
            Some(Record::Queued(queued)) => drafts.push(Box::new(|seq| {
                write(&ServerFrame::CommandStatus {
                    command_id,
                    agent_id: told.agent_id,
                    status: "queued",
                    waiting: (queued.position > 0).then_some(Waiting {
                        position: queued.position,
                        estimated_wait: queued.estimated_wait_ms,
                    }),
                    request: Some(Requested {
                        command: &queued.command,
                        args: &queued.args,
                        priority: priority(queued.priority()),
                        by: &queued.by,
                    }),
                    end: None,
                    replay: told.replay,
                    seq,
                    timestamp: told.at,
                })
            })),
            Some(Record::Started(_)) => drafts.push(Box::new(|seq| {
                write(&ServerFrame::CommandStatus {
                    command_id,
                    agent_id: told.agent_id,
                    status: "running",
                    waiting: None,
                    request: None,
                    end: None,
                    replay: told.replay,
                    seq,
                    timestamp: told.at,
                })
            })),
            Some(Record::Output(output)) => {
                for chunk in &output.chunks {
                    let (from, bytes) = take(streams, chunk);
                    if !bytes.is_empty() {
                        let at = Timestamp::parse(&chunk.time).unwrap_or(told.at);
                        drafts.push(told.output(chunk.stream(), from, bytes, at));
                    }
                }
            }
            Some(Record::Gap(gap)) => {
                flush(streams, &told, &mut drafts);
                drafts.push(Box::new(|seq| {
                    write(&ServerFrame::TerminalGap {
                        agent_id: told.agent_id,
                        command_id,
                        stream: stream_name(gap.stream()),
                        from: gap.from,
                        to: (gap.to > 0).then_some(gap.to),
                        reason: match gap.reason() {
                            GapReason::Capped => "capped",
                            GapReason::Lost | GapReason::Unspecified => "lost",
                        },
                        replay: told.replay,
                        seq,
                        timestamp: told.at,
                    })
                }));
            }
            Some(Record::Cleared(cleared)) => {
                let is_new = !self.clears.contains(&cleared.clear_id);
                if is_new {
                    if self.clears.len() == CLEARS_REMEMBERED {
                        self.clears.pop_front();
                    }
                    self.clears.push_back(cleared.clear_id.clone());
                    drafts.push(Box::new(|seq| {
                        write(&ServerFrame::TerminalClear {
                            agent_id: told.agent_id,
                            by: (!cleared.by.is_empty()).then_some(&cleared.by),
                            seq,
                            timestamp: told.at,
                        })
                    }));
                }
            }
            Some(Record::Ended(ended)) => {
                flush(streams, &told, &mut drafts);
                drafts.push(Box::new(|seq| {
                    write(&ServerFrame::CommandStatus {
                        command_id,
                        agent_id: told.agent_id,
                        status: state_name(ended.state()),
                        waiting: None,
                        request: None,
                        end: Some(end(ended)),
                        replay: told.replay,
                        seq,
                        timestamp: told.at,
                    })
                }));
                drafts.push(Box::new(|seq| {
                    write(&ServerFrame::CommandComplete {
                        command_id,
                        agent_id: told.agent_id,
                        status: state_name(ended.state()),
                        end: end(ended),
                        streams: amounts(ended),
                        usage: ended.usage.map(|usage| Usage {
                            cpu_time: usage.cpu_time_ms,
                            peak_memory: usage.peak_memory_bytes,
                        }),
                        replay: told.replay,
                        seq,
                        timestamp: told.at,
                    })
                }));
            }
            Some(Record::Taken(_)) | None => {}
        }
        let last = drafts.len();
        let frames = drafts
            .iter()
            .enumerate()
            .map(|(place, draft)| draft(position(self.epoch, sequence, place, last)))
            .collect();
        drop(drafts);
        if matches!(record.record, Some(Record::Ended(_))) {
            self.logs.remove(command_id);
        }
        frames
    }
}

impl<'a> Subject<'a> {
    /// A frame with these bytes.
    fn output(&self, stream: OutputStream, from: u64, bytes: Vec<u8>, at: Timestamp) -> Draft<'a> {
        let (command_id, agent_id, replay) = (self.command_id, self.agent_id, self.replay);
        let name = stream_name(stream);
        Box::new(move |seq| {
            let content = String::from_utf8_lossy(&bytes);
            // A genuine U+FFFD stays borrowed; only replaced bytes need the
            // exact ones beside them.
            let raw =
                matches!(content, std::borrow::Cow::Owned(_)).then(|| STANDARD.encode(&bytes));
            write(&ServerFrame::TerminalOutput {
                agent_id,
                command_id,
                output: Output {
                    kind: name,
                    content: &content,
                    timestamp: at,
                    raw: raw.as_deref(),
                },
                stream: name,
                offset: from,
                replay,
                seq,
                timestamp: at,
            })
        })
    }
}

/// The position behind one frame of several of a record.
fn position(epoch: Epoch, sequence: u64, place: usize, frames: usize) -> FleetCursor {
    let told = place + 1;
    let part = if told == frames { 0 } else { told };
    FleetCursor {
        epoch,
        events: 0,
        logs: sequence,
        part: u32::try_from(part).unwrap_or(u32::MAX),
    }
}

/// All frames of a record, with the positions that they say.
pub(super) fn told(epoch: Epoch, sequence: u64, frames: Vec<Frame>) -> Vec<Told> {
    let count = frames.len();
    frames
        .into_iter()
        .enumerate()
        .map(|(place, frame)| Told {
            seq: position(epoch, sequence, place, count),
            frame,
        })
        .collect()
}

/// The bytes to be told now that a chunk has come, and their offset: what was
/// left over before it, and all of it but the beginning of a character.
fn take(streams: &mut HashMap<i32, Rest>, chunk: &OutputChunk) -> (u64, Vec<u8>) {
    let rest = streams.entry(chunk.stream).or_default();
    let mut bytes = std::mem::take(&mut rest.bytes);
    if rest.end != chunk.offset {
        // Behind a gap nothing goes on; the gap's own record has told the rest.
        bytes.clear();
    }
    let from = chunk.offset - bytes.len() as u64;
    bytes.extend_from_slice(&chunk.data);
    rest.end = chunk.offset + chunk.data.len() as u64;
    rest.bytes = bytes.split_off(bytes.len() - unfinished(&bytes));
    (from, bytes)
}

/// Tells what is left over, since nothing follows that could complete it.
fn flush<'a>(streams: &mut HashMap<i32, Rest>, told: &Subject<'a>, drafts: &mut Vec<Draft<'a>>) {
    let mut left: Vec<_> = streams
        .iter_mut()
        .filter(|(_, rest)| !rest.bytes.is_empty())
        .map(|(stream, rest)| {
            let bytes = std::mem::take(&mut rest.bytes);
            (*stream, rest.end - bytes.len() as u64, bytes)
        })
        .collect();
    // Whoever reads the log tells the same.
    left.sort_unstable_by_key(|(stream, ..)| *stream);
    for (stream, from, bytes) in left {
        let stream = OutputStream::try_from(stream).unwrap_or(OutputStream::Stdout);
        drafts.push(told.output(stream, from, bytes, told.at));
    }
}

/// How many bytes at the end are the beginning of a character.
fn unfinished(bytes: &[u8]) -> usize {
    let tail = &bytes[bytes.len().saturating_sub(3)..];
    for (place, byte) in tail.iter().enumerate().rev() {
        let length = match byte {
            0x80..=0xBF => continue,
            0xC2..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF4 => 4,
            _ => return 0,
        };
        let present = tail.len() - place;
        let begins = std::str::from_utf8(&tail[place..])
            .is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none());
        return if present < length && begins {
            present
        } else {
            0
        };
    }
    0
}

fn end(ended: &TermEnded) -> End<'_> {
    End {
        exit_code: ended.exit_code,
        duration: ended.duration_ms,
        signal: (!ended.signal.is_empty()).then_some(&ended.signal),
        reason: (!ended.reason.is_empty()).then_some(&ended.reason),
        incomplete: ended.incomplete.then_some(true),
    }
}

/// What a command has written: by the log, and by its agent's word.
fn amounts(ended: &TermEnded) -> Vec<RecordedStream<'static>> {
    let digits = |hash: &[u8]| {
        let digits = hash.iter().map(|byte| format!("{byte:02x}"));
        (!hash.is_empty()).then(|| digits.collect())
    };
    let mut streams: Vec<(i32, RecordedStream<'static>)> = Vec::new();
    for (sum, is_recorded) in ended
        .sums
        .iter()
        .map(|sum| (sum, true))
        .chain(ended.written.iter().map(|sum| (sum, false)))
    {
        let place = streams.iter().position(|(stream, _)| *stream == sum.stream);
        let place = place.unwrap_or_else(|| {
            let stream = RecordedStream {
                stream: stream_name(sum.stream()),
                bytes: 0,
                recorded: 0,
                sha256: None,
                written_sha256: None,
            };
            streams.push((sum.stream, stream));
            streams.len() - 1
        });
        let stream = &mut streams[place].1;
        stream.bytes = stream.bytes.max(sum.bytes);
        if is_recorded {
            stream.recorded = sum.recorded;
            stream.sha256 = digits(&sum.sha256);
        } else {
            stream.written_sha256 = digits(&sum.sha256);
        }
    }
    streams.sort_by_key(|(stream, _)| *stream);
    streams.into_iter().map(|(_, stream)| stream).collect()
}

/// How frames name a stream.
pub(super) const fn stream_name(stream: OutputStream) -> &'static str {
    match stream {
        OutputStream::Stdout => "stdout",
        OutputStream::Stderr => "stderr",
        OutputStream::System => "system",
        OutputStream::Command => "command",
    }
}

/// The stream of this name.
pub(super) fn stream_of(name: &str) -> OutputStream {
    match name {
        "stderr" => OutputStream::Stderr,
        "system" => OutputStream::System,
        "command" => OutputStream::Command,
        _ => OutputStream::Stdout,
    }
}

const fn state_name(state: CommandState) -> &'static str {
    match state {
        CommandState::Queued => "queued",
        CommandState::Running => "running",
        CommandState::Completed => "completed",
        CommandState::Failed => "failed",
        CommandState::Interrupted => "interrupted",
    }
}

/// How frames name a priority.
pub(super) const fn priority(priority: CommandPriority) -> &'static str {
    match priority {
        CommandPriority::High => "high",
        CommandPriority::Normal => "normal",
        CommandPriority::Low => "low",
    }
}

#[cfg(test)]
mod tests;
