//! One call of the provider within a turn: what it writes is stored and what it
//! costs settled, whatever becomes of it.

use std::sync::Arc;

use signalbox_protocol::wire::{
    ChatCallSettled, ChatCallStarted, ChatChunk, ChatError, chat_record::Record,
};
use tracing::warn;

use super::ending::{Verdict, failed, verdict};
use super::listen::Heard;
use super::{MAX_ROUNDS, Turn};
use crate::agents::Agent;
use crate::chat_log::Lost;
use crate::coalesce::Coalescer;
use crate::provider::retry;
use crate::provider::{End, Failure, Request, StopReason, Usage, tokens_of};
use crate::usage::{self, Ending};

/// What became of a call.
pub(super) enum Outcome {
    Ended(End),
    Failed(Failure),
    /// The sentence says which clock.
    TimedOut(&'static str),
    /// The sentence says which budget.
    OverBudget(&'static str),
    Cancelled,
}

impl Outcome {
    /// In fixed words, for the log.
    const fn words(&self) -> &'static str {
        match self {
            Self::Ended(end) => match end.stop {
                StopReason::EndTurn => "end_turn",
                StopReason::ToolUse => "tool_use",
                StopReason::MaxTokens => "max_tokens",
                StopReason::StopSequence => "stop_sequence",
                StopReason::PauseTurn => "pause_turn",
                StopReason::Refusal => "refusal",
                StopReason::ContextExceeded => "context_exceeded",
                StopReason::Other(_) => "other",
            },
            Self::Failed(_) => "failed",
            Self::TimedOut(_) => "timed_out",
            Self::OverBudget(_) => "budget_exceeded",
            Self::Cancelled => "cancelled",
        }
    }
}

impl Turn {
    /// Makes one call and stores what it writes and which tools it asks for, where
    /// that is `visible`; gives what became of it, or how the answer ends without
    /// it. What it cost is settled by then.
    pub(super) async fn call(
        &mut self,
        agent: &Agent,
        request: Arc<Request>,
        visible: bool,
    ) -> Result<Result<Outcome, Verdict>, Lost> {
        let last = self.clocks(agent).last();
        self.take_place(last).await;
        if self.cancel.is_triggered() {
            return Ok(Err(Verdict::Stopped));
        }
        if let Some(outcome) = self.clocks(agent).over() {
            return Ok(Err(verdict(outcome)));
        }
        let input_tokens = Usage::estimate(&request, 0).input;
        if let Some(words) = self.meter.refuses(&self.answer.usage, input_tokens) {
            return Ok(Err(failed(ChatError::BudgetExceeded, words, false)));
        }
        let call = self.answer.calls + 1;
        self.append(Record::CallStarted(ChatCallStarted {
            call,
            model: agent.model.clone(),
            input_tokens,
        }))
        .await?;
        let provider = Arc::clone(&agent.provider);
        let pieces = retry::answer(provider, Arc::clone(&request), agent.retries);
        let mut heard = Heard::new(visible, Coalescer::new(self.means.interval), input_tokens);
        let outcome = self.listen(agent, pieces, &mut heard).await?;
        self.store_rest(&mut heard, visible && is_text_whole(&outcome))
            .await?;
        let goes_on = visible && self.goes_on(&outcome);
        if let (Outcome::Ended(end), true) = (&outcome, goes_on) {
            // Ahead of the settlement, which says that the round is whole.
            self.plan(agent, call, &end.calls).await?;
        }
        let ending = match &outcome {
            Outcome::Ended(end) => Ending::Complete(end.usage),
            Outcome::Failed(failure) => {
                warn!(%failure, agent = %agent.agent_type, "call failed");
                self.means.metrics.calls_failed.add(1);
                Ending::Failed(failure)
            }
            _ => Ending::GivenUp,
        };
        let used = usage::of_call(&request, heard.reported, heard.written_bytes, ending);
        let cost = usage::settled(&heard.earlier.and(used), &agent.price);
        self.means.metrics.count_usage(&cost);
        self.append(Record::CallSettled(ChatCallSettled {
            call,
            usage: Some(cost),
            outcome: outcome.words().to_owned(),
            goes_on,
        }))
        .await?;
        Ok(Ok(outcome))
    }

    /// Whether another round follows: the model waits for tools, or has asked for
    /// them in words that were cut off, which it is told.
    fn goes_on(&self, outcome: &Outcome) -> bool {
        let Outcome::Ended(end) = outcome else {
            return false;
        };
        let wants_to = match end.stop {
            StopReason::ToolUse | StopReason::PauseTurn => true,
            StopReason::MaxTokens => !end.calls.is_empty(),
            _ => false,
        };
        wants_to && self.answer.rounds.len() <= MAX_ROUNDS
    }

    /// Stores what was heard and not stored yet.
    async fn store_rest(&mut self, heard: &mut Heard, is_final: bool) -> Result<(), Lost> {
        loop {
            let content = heard.waiting.take();
            let is_last = heard.waiting.is_empty();
            if content.is_empty() && !is_final {
                return Ok(());
            }
            let chunk = self.chunk(content, is_last && is_final);
            self.append(Record::Chunk(chunk)).await?;
            if is_last {
                return Ok(());
            }
        }
    }

    pub(super) fn chunk(&self, content: String, is_final: bool) -> ChatChunk {
        self.means.metrics.chunks.add(1);
        ChatChunk {
            chunk_id: self.answer.chunks + 1,
            content,
            is_final,
        }
    }
}

/// Whether nothing is missing at the end of a text.
fn is_text_whole(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Ended(End {
            stop: StopReason::EndTurn | StopReason::StopSequence | StopReason::Other(_),
            ..
        })
    )
}

/// Tokens of what is being written.
pub(super) fn writing(input_tokens: u64, written_bytes: usize, reported: Option<Usage>) -> Usage {
    let output = tokens_of(written_bytes);
    match reported {
        Some(reported) => Usage {
            output: reported.output.max(output),
            ..reported
        },
        None => Usage {
            input: input_tokens,
            output,
            ..Usage::default()
        },
    }
}
