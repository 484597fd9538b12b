//! What the log says of one answer. Pure: records in, what they mean out; whoever
//! goes on with an answer knows no more than this.

mod round;

use std::ops::ControlFlow;

use signalbox_protocol::wire::{
    ChatAsked, ChatCallStarted, ChatRecord, ChatUsage, chat_record::Record,
};

use crate::moment;
use crate::provider::Message;
use crate::usage;

pub(crate) use self::round::{Called, Round, Stage};

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
    /// What the calls have said and asked for. A call that nobody heard out goes on
    /// in the round of the one before it.
    pub(crate) rounds: Vec<Round>,
    /// Calls of tools that were planned.
    pub(crate) tool_calls: u32,
    /// Bytes of the results of tools.
    pub(crate) result_bytes: usize,
    /// For how long nothing was done but people asked, in milliseconds.
    pub(crate) waited_ms: u64,
    /// When the last record was written, in Unix milliseconds.
    pub(crate) last_ms: u64,
    /// What all settled calls have cost.
    pub(crate) usage: ChatUsage,
    /// How often another orchestrator went on with it.
    pub(crate) recoveries: u32,
    /// How often that was because something under way was lost, not just the wait
    /// for people.
    pub(crate) interruptions: u32,
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
            last_ms: moment::parse(&record.at),
            ..Self::default()
        })
    }

    /// Takes note of a record of this answer; breaks at its end.
    pub(crate) fn note(&mut self, record: &ChatRecord, sequence: u64) -> ControlFlow<()> {
        let Some(what) = &record.record else {
            return ControlFlow::Continue(());
        };
        let at_ms = moment::parse(&record.at);
        if self.is_waiting() {
            self.waited_ms += at_ms.saturating_sub(self.last_ms);
        }
        let took_ms = match what {
            Record::Answered(end) => end.processing_time_ms,
            Record::Failed(end) => end.processing_time_ms,
            Record::Stopped(end) => end.processing_time_ms,
            _ => {
                self.note_step(what, at_ms);
                self.last_ms = self.last_ms.max(at_ms);
                return ControlFlow::Continue(());
            }
        };
        self.end = Some(End { sequence, took_ms });
        ControlFlow::Break(())
    }

    fn note_step(&mut self, what: &Record, at_ms: u64) {
        match what {
            Record::CallStarted(started) => {
                self.calls = self.calls.max(started.call);
                self.open_call = Some((started.clone(), 0));
                if self.rounds.last().is_none_or(|round| round.is_over) {
                    self.rounds.push(Round::default());
                }
            }
            Record::Chunk(chunk) => {
                self.text.push_str(&chunk.content);
                if let Some(round) = self.rounds.last_mut() {
                    round.text.push_str(&chunk.content);
                }
                self.chunks = chunk.chunk_id;
                self.is_final = chunk.is_final;
                if let Some((_, shown)) = &mut self.open_call {
                    *shown += chunk.content.len();
                }
            }
            Record::CallSettled(settled) => {
                self.open_call = None;
                if let Some(round) = self.rounds.last_mut() {
                    round.is_over |= settled.goes_on;
                }
                if let Some(cost) = &settled.usage {
                    usage::add(&mut self.usage, cost);
                }
            }
            Record::Taken(taken) => {
                self.recoveries = taken.recovery;
                self.interruptions += u32::from(!self.is_waiting());
            }
            Record::ToolPlanned(planned) => {
                self.tool_calls = planned.tool_call;
                if let Some(round) = self.rounds.last_mut() {
                    round.calls.push(Called::new(planned.clone()));
                }
            }
            Record::ToolHeld(held) => {
                if let Some(call) = self.called_mut(held.tool_call) {
                    call.held = Some(held.clone());
                }
            }
            Record::ToolDecided(decided) => {
                if let Some(call) = self.called_mut(decided.tool_call) {
                    call.decided = Some(decided.clone());
                }
            }
            Record::ToolStarted(started) => {
                if let Some(call) = self.called_mut(started.tool_call) {
                    call.started_ms = Some(at_ms);
                }
            }
            Record::ToolEnded(ended) => {
                self.result_bytes += ended.result.len();
                if let Some(call) = self.called_mut(ended.tool_call) {
                    call.ended = Some(ended.clone());
                }
            }
            // Where a tool can be watched is for clients alone; ends are noted by
            // the caller.
            Record::ToolNoted(_)
            | Record::Opened(_)
            | Record::Asked(_)
            | Record::Answered(_)
            | Record::Failed(_)
            | Record::Stopped(_) => {}
        }
    }

    /// The calls of tools of the round that is under way, or that was last.
    pub(crate) fn called(&self) -> &[Called] {
        self.rounds.last().map_or(&[], |round| &round.calls)
    }

    /// A call of a tool, by its number.
    pub(crate) fn call(&self, number: u32) -> Option<&Called> {
        let calls = self.rounds.iter().rev().flat_map(|round| &round.calls);
        calls.into_iter().find(|call| call.number() == number)
    }

    fn called_mut(&mut self, number: u32) -> Option<&mut Called> {
        let rounds = self.rounds.iter_mut().rev();
        rounds
            .flat_map(|round| &mut round.calls)
            .find(|call| call.number() == number)
    }

    /// Whether nothing is done but people asked.
    pub(crate) fn is_waiting(&self) -> bool {
        self.open_call.is_none() && self.rounds.last().is_some_and(Round::is_waiting)
    }

    /// What the answer has of the round that is not over: what a provider goes on
    /// behind.
    pub(crate) fn unfinished_text(&self) -> &str {
        let round = self.rounds.last().filter(|round| !round.is_over);
        round.map_or("", |round| &round.text)
    }

    /// The rounds that are over, as the next request has them.
    pub(crate) fn messages(&self) -> Vec<Message> {
        let mut messages = Vec::new();
        for round in self.rounds.iter().filter(|round| round.is_over) {
            round.add_to(&mut messages);
        }
        messages
    }

    /// What is kept of it once it has ended: not what its tools gave.
    pub(crate) fn without_rounds(self) -> Self {
        Self {
            rounds: Vec::new(),
            ..self
        }
    }

    /// Whether it is being written.
    pub(crate) const fn is_running(&self) -> bool {
        self.end.is_none()
    }
}

#[cfg(test)]
mod tests;
