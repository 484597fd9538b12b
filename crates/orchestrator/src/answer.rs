//! What the log says of one answer. Pure: records in, what they mean out; whoever
//! goes on with an answer knows no more than this.

use std::ops::ControlFlow;

use signalbox_protocol::wire::{
    ChatAsked, ChatCallStarted, ChatRecord, ChatUsage, chat_record::Record,
};

use crate::moment;
use crate::usage;

/// An answer as far as its log says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    /// Its number in the session, from 1.
    pub(crate) number: u32,
    /// What was asked.
    pub(crate) asked: ChatAsked,
    /// Where that lies in CHAT, and its number in the log.
    pub(crate) asked_sequence: u64,
    pub(crate) asked_number: u64,
    /// When it was asked, in Unix milliseconds.
    pub(crate) asked_ms: u64,
    /// What was shown: the chunks, joined.
    pub(crate) text: String,
    /// How many chunks that is.
    pub(crate) chunks: u32,
    /// Whether the last chunk was the final one.
    pub(crate) is_final: bool,
    /// Calls that were begun.
    pub(crate) calls: u32,
    /// The call that has no settlement yet, and the bytes that were shown of it.
    pub(crate) open_call: Option<(ChatCallStarted, usize)>,
    /// Whether a call ended in a way that has the answer go on with another one.
    pub(crate) went_on: bool,
    /// What all settled calls have cost.
    pub(crate) usage: ChatUsage,
    /// How often another orchestrator went on with it.
    pub(crate) recoveries: u32,
    /// How it ended.
    pub(crate) end: Option<End>,
}

/// The end of an answer.
#[derive(Clone, Debug)]
pub(crate) struct End {
    /// Where its record lies in CHAT.
    pub(crate) sequence: u64,
    /// How long the answer took.
    pub(crate) took_ms: u64,
}

impl Answer {
    /// The answer that a record begins; `None` for any but `ChatAsked`.
    pub(crate) fn begin(record: &ChatRecord, number: u64, sequence: u64) -> Option<Self> {
        let Some(Record::Asked(asked)) = &record.record else {
            return None;
        };
        Some(Self {
            number: record.answer,
            asked: asked.clone(),
            asked_sequence: sequence,
            asked_number: number,
            asked_ms: moment::parse(&record.at),
            ..Self::default()
        })
    }

    /// Takes note of a record of this answer; breaks at its end.
    pub(crate) fn note(&mut self, record: &ChatRecord, sequence: u64) -> ControlFlow<()> {
        let Some(what) = &record.record else {
            return ControlFlow::Continue(());
        };
        let took_ms = match what {
            Record::CallStarted(started) => {
                self.calls = self.calls.max(started.call);
                self.open_call = Some((started.clone(), 0));
                return ControlFlow::Continue(());
            }
            Record::Chunk(chunk) => {
                self.text.push_str(&chunk.content);
                self.chunks = chunk.chunk_id;
                self.is_final = chunk.is_final;
                if let Some((_, shown)) = &mut self.open_call {
                    *shown += chunk.content.len();
                }
                return ControlFlow::Continue(());
            }
            Record::CallSettled(settled) => {
                self.open_call = None;
                self.went_on |= settled.goes_on;
                if let Some(cost) = &settled.usage {
                    usage::add(&mut self.usage, cost);
                }
                return ControlFlow::Continue(());
            }
            Record::Taken(taken) => {
                self.recoveries = taken.recovery;
                return ControlFlow::Continue(());
            }
            Record::Opened(_)
            | Record::Asked(_)
            | Record::ToolPlanned(_)
            | Record::ToolHeld(_)
            | Record::ToolDecided(_)
            | Record::ToolStarted(_)
            | Record::ToolNoted(_)
            | Record::ToolEnded(_) => return ControlFlow::Continue(()),
            Record::Answered(end) => end.processing_time_ms,
            Record::Failed(end) => end.processing_time_ms,
            Record::Stopped(end) => end.processing_time_ms,
        };
        self.end = Some(End { sequence, took_ms });
        ControlFlow::Break(())
    }

    /// Whether it is being written.
    pub(crate) const fn is_running(&self) -> bool {
        self.end.is_none()
    }
}

#[cfg(test)]
mod tests {
    use signalbox_protocol::wire::{ChatAnswered, ChatCallSettled, ChatChunk, ChatTaken};

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
}
