//! How an answer ends: in one record, which says all of it.

use signalbox_protocol::wire::{
    ChatAnswered, ChatError, ChatFailed, ChatStopped, chat_record::Record,
};

use super::Turn;
use super::call::Outcome;
use super::tools::Off;
use crate::chat_log::Lost;
use crate::moment;

/// How an answer ends.
pub(super) enum Verdict {
    /// With its analysis.
    Answered(String),
    /// With what the user is told, and whether the same may succeed later.
    Failed(ChatError, String, bool),
    /// By its user.
    Stopped,
}

impl Turn {
    /// Appends the end, behind those of all that was asked for.
    pub(super) async fn end(&mut self, verdict: Verdict) -> Result<(), Lost> {
        self.close(match verdict {
            Verdict::Stopped => Off::Cancelled,
            Verdict::Answered(_) | Verdict::Failed(..) => Off::Over("the answer is over"),
        })
        .await?;
        let text = std::mem::take(&mut self.answer.text);
        let (usage, chunks) = (Some(self.answer.usage), self.answer.chunks);
        let passed_ms = moment::millis(self.began.elapsed());
        let processing_time_ms = passed_ms.saturating_sub(self.answer.waited_ms);
        let metrics = &self.means.metrics;
        let record = match verdict {
            Verdict::Answered(analysis) => {
                metrics.answered.add(1);
                Record::Answered(ChatAnswered {
                    full_response: text.clone(),
                    analysis,
                    processing_time_ms,
                    usage,
                    chunks,
                })
            }
            Verdict::Failed(code, message, retry_available) => {
                metrics.failed(code).add(1);
                Record::Failed(ChatFailed {
                    code: code.into(),
                    message,
                    retry_available,
                    partial_response: text.clone(),
                    processing_time_ms,
                    usage,
                    chunks,
                })
            }
            Verdict::Stopped => {
                metrics.stopped.add(1);
                Record::Stopped(ChatStopped {
                    partial_response: text.clone(),
                    processing_time_ms,
                    usage,
                    chunks,
                })
            }
        };
        self.append(record).await?;
        self.answer.text = text;
        Ok(())
    }
}

/// How an answer ends whose call did not end well.
pub(super) fn verdict(outcome: Outcome) -> Verdict {
    match outcome {
        Outcome::Cancelled => Verdict::Stopped,
        Outcome::TimedOut(words) => failed(ChatError::AgentTimeout, words, true),
        Outcome::OverBudget(words) => failed(ChatError::BudgetExceeded, words, false),
        Outcome::Failed(failure) => failed(
            ChatError::AgentUnavailable,
            failure.kind.sentence(),
            failure.retryable(),
        ),
        Outcome::Ended(_) => failed(ChatError::AgentUnavailable, "the answer is empty", true),
    }
}

pub(super) fn failed(code: ChatError, message: &str, retry_available: bool) -> Verdict {
    Verdict::Failed(code, message.to_owned(), retry_available)
}
