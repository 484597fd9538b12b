//! The analyst that is built in: fixed rules over the conversation, the events
//! around it and what tools find, no language model, no network, no clock. It says
//! so. The same request always gives the same answer, so that another process can
//! go on behind what is written.
//!
//! ```text
//! request ──▶ rounds (what was looked up) ──▶ case (its events) ──▶ verdict (rules)
//!                 │                                                     │
//!                 └──▶ plan: a sentence and calls, or ──────────────────┴──▶ report
//! ```

mod case;
mod findings;
mod investigation;
mod knowledge;
mod plan;
mod related;
mod rounds;
mod verdict;
mod write;

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use serde_json::Value;
use tokio::time::sleep;

use self::case::Case;
use self::rounds::Rounds;
use self::verdict::Verdict;
use super::{
    End, Failure, FailureKind, Piece, Pieces, Provider, Request, StopReason, ToolCall, Usage,
};

/// What it is called where other agents have a model.
pub const MODEL: &str = "offline-analyst";
/// The wait between two words: people can read along.
pub const PACE: Duration = Duration::from_millis(12);

/// The built-in analyst.
#[derive(Clone, Debug)]
pub struct Offline {
    /// The wait between two words; zero for none.
    pub pace: Duration,
}

impl Default for Offline {
    fn default() -> Self {
        Self { pace: PACE }
    }
}

/// What an agent's type asks of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    Classify,
    Investigate,
    Advise,
}

impl Job {
    /// Types that it does not know get the first job.
    fn of(agent_type: &str) -> Self {
        match agent_type {
            "investigation_agent" => Self::Investigate,
            "response_advisor" => Self::Advise,
            _ => Self::Classify,
        }
    }
}

impl Provider for Offline {
    fn answer(&self, request: Arc<Request>) -> Pieces {
        let only = request.analysis.as_ref().is_some_and(|it| it.only);
        let written = compose(&request);
        let text = if only { String::new() } else { written.text };
        let Some(rest) = text
            .strip_prefix(request.so_far.as_str())
            .map(str::to_owned)
        else {
            return super::exchange::failed(Failure::new(
                FailureKind::BadRequest,
                "what exists of the answer is not what would be written now",
            ));
        };
        let end = End {
            stop: match written.calls.is_empty() {
                true => StopReason::EndTurn,
                false => StopReason::ToolUse,
            },
            calls: written.calls,
            analysis: written.analysis.map(|analysis| analysis.to_string()),
            usage: Some(Usage::estimate(&request, text.len())),
        };
        let writer = Writer {
            rest,
            end: Some(end),
            pace: self.pace,
        };
        Box::pin(stream::unfold(writer, |mut writer| async move {
            let piece = writer.next().await?;
            Some((Ok(piece), writer))
        }))
    }

    fn repeats_itself(&self) -> bool {
        true
    }
}

struct Writer {
    rest: String,
    end: Option<End>,
    pace: Duration,
}

impl Writer {
    async fn next(&mut self) -> Option<Piece> {
        if self.rest.is_empty() {
            return self.end.take().map(Piece::End);
        }
        if !self.pace.is_zero() {
            sleep(self.pace).await;
        }
        let space = self.rest.find(char::is_whitespace);
        let word = space.map_or(self.rest.len(), |at| {
            let behind = self.rest[at..].find(|char: char| !char.is_whitespace());
            behind.map_or(self.rest.len(), |length| at + length)
        });
        let rest = self.rest.split_off(word);
        Some(Piece::Text(std::mem::replace(&mut self.rest, rest)))
    }
}

/// What is written for a request: a round of lookups, or the answer.
struct Written {
    text: String,
    calls: Vec<ToolCall>,
    analysis: Option<Value>,
}

fn compose(request: &Request) -> Written {
    let request = rounds::asked(request);
    let rounds = Rounds::of(&request);
    let events = case::events_of(&request, &rounds);
    let case = Case::of(&request, &events);
    let job = Job::of(&request.agent_type);
    let opening = write::opening(rounds.is_first && rounds.count == 0);
    let only = request.analysis.as_ref().is_some_and(|it| it.only);
    if !only && let Some(plan) = plan::next(job, &request, &rounds, &case) {
        return Written {
            text: format!("{opening}{}\n\n", plan.words),
            calls: plan.calls,
            analysis: None,
        };
    }
    let verdict = Verdict::of(&case);
    let (text, analysis) = match job {
        Job::Classify => write::classification(&case, &verdict, &opening),
        Job::Investigate => investigation::report(&case, &verdict, &rounds, &opening),
        Job::Advise => write::advice(&case, &verdict, &opening),
    };
    Written {
        text,
        calls: Vec::new(),
        analysis: request.analysis.as_ref().map(|_| analysis),
    }
}

#[cfg(test)]
mod tests;
