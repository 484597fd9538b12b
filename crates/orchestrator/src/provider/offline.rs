//! The analyst that is built in: fixed rules over the conversation and the
//! events around it, no language model, no network, no clock. It says so. The
//! same request always gives the same answer, so that another process can go
//! on behind what is written.

mod case;
mod knowledge;
mod verdict;
mod write;

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use serde_json::Value;
use tokio::time::sleep;

use self::case::Case;
use self::verdict::Verdict;
use super::{
    End, Failure, FailureKind, Message, Piece, Pieces, Provider, Request, StopReason, Usage,
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
        let (text, analysis) = compose(&request);
        let only = request
            .analysis
            .as_ref()
            .is_some_and(|analysis| analysis.only);
        let text = if only { String::new() } else { text };
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
            stop: StopReason::EndTurn,
            calls: Vec::new(),
            analysis: request.analysis.as_ref().map(|_| analysis.to_string()),
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

/// The answer to a request and its analysis.
fn compose(request: &Request) -> (String, Value) {
    let case = Case::of(request);
    let verdict = Verdict::of(&case);
    let is_first = !request
        .messages
        .iter()
        .any(|message| matches!(message, Message::Agent { .. }));
    match Job::of(&request.agent_type) {
        Job::Classify => write::classification(&case, &verdict, is_first),
        Job::Investigate => write::investigation(&case, &verdict, is_first),
        Job::Advise => write::advice(&case, &verdict, is_first),
    }
}

#[cfg(test)]
mod tests;
