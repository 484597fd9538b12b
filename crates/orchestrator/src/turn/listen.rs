//! Reads a provider's stream and stores what comes, both at once: while a chunk
//! is being stored, what arrives gathers for the next.

use std::pin::Pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use signalbox_protocol::wire::{ChatRecord, chat_record::Record};
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::call::{Outcome, writing};
use super::{ANSWER_BYTES, Turn};
use crate::agents::Agent;
use crate::chat_log::{ChatLog, Lost};
use crate::coalesce::Coalescer;
use crate::provider::{Failure, FailureKind, Piece, Pieces, Usage};

/// A record on its way into the log, and the log with it.
type Storing = Pin<Box<dyn Future<Output = (ChatLog, ChatRecord, Result<(), Lost>)> + Send>>;

/// What was heard of a call.
pub(super) struct Heard {
    /// Whether its text is for the user.
    visible: bool,
    /// What is not stored yet.
    pub(super) waiting: Coalescer,
    /// Bytes that the model has written, for an estimate.
    pub(super) written_bytes: usize,
    /// What the provider says that it cost until now.
    pub(super) reported: Option<Usage>,
    /// What attempts have cost that failed before this one.
    pub(super) earlier: Usage,
    input_tokens: u64,
}

impl Heard {
    pub(super) fn new(visible: bool, waiting: Coalescer, input_tokens: u64) -> Self {
        Self {
            visible,
            waiting,
            written_bytes: 0,
            reported: None,
            earlier: Usage::default(),
            input_tokens,
        }
    }
}

/// When the stream has been silent for too long.
pub(super) struct Clocks {
    first: Duration,
    between: Duration,
    /// When the answer must be over, and whether that is because of a budget.
    last: Instant,
    is_budget: bool,
    has_begun: bool,
    /// Since when something is waited for.
    since: Instant,
}

impl Clocks {
    /// Winds the clock. Of a request that is sent again nothing has come yet, and
    /// one of which nothing had come is waited for as before.
    fn heard(&mut self, piece: &Piece) {
        let is_again = matches!(piece, Piece::Retrying { .. });
        if is_again && !self.has_begun {
            return;
        }
        self.has_begun = !is_again;
        self.since = Instant::now();
    }

    fn silence(&self) -> Instant {
        let most = if self.has_begun {
            self.between
        } else {
            self.first
        };
        self.since + most
    }

    /// What it means that the answer should be over, if so.
    pub(super) fn over(&self) -> Option<Outcome> {
        (self.last <= self.since).then(|| self.outcome())
    }

    /// When the answer must be over.
    pub(super) const fn last(&self) -> Instant {
        self.last
    }

    fn due(&self) -> Instant {
        self.silence().min(self.last)
    }

    /// What it means that a clock has run out.
    fn outcome(&self) -> Outcome {
        if self.last <= self.silence() {
            return match self.is_budget {
                true => Outcome::OverBudget("the chat has used up its time"),
                false => Outcome::TimedOut("the answer took too long"),
            };
        }
        match self.has_begun {
            true => Outcome::TimedOut("the model stopped in the middle of its answer"),
            false => Outcome::TimedOut("the model did not begin to answer in time"),
        }
    }
}

impl Turn {
    /// Reads a call to its end, one way or another. What was heard and is not
    /// stored stays in `heard`; nothing is being stored any more.
    pub(super) async fn listen(
        &mut self,
        agent: &Agent,
        mut pieces: Pieces,
        heard: &mut Heard,
    ) -> Result<Outcome, Lost> {
        let mut clocks = self.clocks(agent);
        let mut storing: Option<Storing> = None;
        let cancel = self.cancel.clone();
        let mut cancelled = std::pin::pin!(cancel.wait());
        let outcome = loop {
            let due = heard.waiting.due().filter(|_| storing.is_none());
            if due.is_some_and(|due| due <= Instant::now()) {
                storing = self.store(heard);
                continue;
            }
            // A bus that is slow slows the model, and winds its clock.
            let is_reading = !heard.waiting.is_full();
            if !is_reading {
                clocks.since = Instant::now();
            }
            tokio::select! {
                biased;
                () = &mut cancelled => break Outcome::Cancelled,
                (log, record, stored) = async {
                    match storing.as_mut() {
                        Some(storing) => storing.await,
                        None => std::future::pending().await,
                    }
                } => {
                    storing = None;
                    self.take_back(log, &record, stored)?;
                }
                piece = pieces.next(), if is_reading => {
                    if let Some(Ok(piece)) = &piece {
                        clocks.heard(piece);
                    }
                    if let Some(outcome) = self.hear(piece, heard) {
                        break outcome;
                    }
                }
                () = sleep_until(clocks.due()) => break clocks.outcome(),
                () = async {
                    match due {
                        Some(due) => sleep_until(due).await,
                        None => std::future::pending().await,
                    }
                } => {}
            }
        };
        drop(pieces);
        if let Some(storing) = storing {
            let (log, record, stored) = storing.await;
            self.take_back(log, &record, stored)?;
        }
        Ok(outcome)
    }

    /// The clocks as they are now. The time in which nothing was done but people
    /// asked is not the answer's.
    pub(super) fn clocks(&self, agent: &Agent) -> Clocks {
        let began = self.began + Duration::from_millis(self.answer.waited_ms);
        let total = began + agent.clocks.total;
        let budget = self.meter.time_left().map(|left| began + left);
        let is_budget = budget.is_some_and(|budget| budget < total);
        Clocks {
            first: agent.clocks.first_token,
            between: agent.clocks.between_tokens,
            last: budget.map_or(total, |budget| budget.min(total)),
            is_budget,
            has_begun: false,
            since: Instant::now(),
        }
    }

    /// When the answer must be over, whoever writes it.
    pub(super) fn last_moment(&self) -> Instant {
        let agent = self.agent.as_ref();
        agent.map_or_else(Instant::now, |agent| self.clocks(agent).last())
    }

    /// Begins to store the next chunk.
    fn store(&mut self, heard: &mut Heard) -> Option<Storing> {
        let mut log = self.log.take()?;
        let chunk = self.chunk(heard.waiting.take(), false);
        self.storing_bytes = chunk.content.len();
        let record = self.record(Record::Chunk(chunk));
        Some(Box::pin(async move {
            let stored = log.append(&record).await;
            (log, record, stored)
        }))
    }

    fn take_back(
        &mut self,
        log: ChatLog,
        record: &ChatRecord,
        stored: Result<(), Lost>,
    ) -> Result<(), Lost> {
        self.log = Some(log);
        self.storing_bytes = 0;
        stored?;
        self.note(record);
        Ok(())
    }

    /// Takes in a piece; gives what became of the call once that is known.
    fn hear(
        &mut self,
        piece: Option<Result<Piece, Failure>>,
        heard: &mut Heard,
    ) -> Option<Outcome> {
        match piece {
            None => {
                let failure = Failure::new(FailureKind::Cut, "the stream has no end");
                return Some(Outcome::Failed(failure));
            }
            Some(Err(failure)) => return Some(Outcome::Failed(failure)),
            Some(Ok(Piece::End(end))) => return Some(Outcome::Ended(end)),
            Some(Ok(Piece::Progress)) => return None,
            Some(Ok(Piece::Retrying {
                failure,
                wait,
                cost,
            })) => {
                debug!(%failure, ?wait, "call is made again");
                self.means.metrics.retries.add(1);
                heard.earlier = heard.earlier.and(cost);
                heard.reported = None;
            }
            Some(Ok(Piece::Usage(usage))) => heard.reported = Some(usage),
            Some(Ok(Piece::Text(text))) => {
                heard.written_bytes += text.len();
                if heard.visible
                    && let Some(outcome) = self.show(&text, heard)
                {
                    return Some(outcome);
                }
            }
        }
        let call = writing(heard.input_tokens, heard.written_bytes, heard.reported);
        self.meter
            .is_over(&self.answer.usage, &heard.earlier.and(call))
            .map(Outcome::OverBudget)
    }

    /// Takes in text for the user, as much of it as an answer may have.
    fn show(&self, text: &str, heard: &mut Heard) -> Option<Outcome> {
        let before = self.answer.text.len() + self.storing_bytes + heard.waiting.len();
        let room = ANSWER_BYTES.saturating_sub(before);
        let fits = text.floor_char_boundary(text.len().min(room));
        heard.waiting.push(&text[..fits]);
        (fits < text.len()).then_some(Outcome::OverBudget("the answer is as long as it may be"))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const FIRST: Duration = Duration::from_secs(60);
    const BETWEEN: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_sent_again_has_not_begun() {
        let began = Instant::now();
        let mut clocks = Clocks {
            first: FIRST,
            between: BETWEEN,
            last: began + 10 * FIRST,
            is_budget: false,
            has_begun: false,
            since: began,
        };
        let again = Piece::Retrying {
            failure: Failure::new(FailureKind::RateLimited, ""),
            wait: BETWEEN,
            cost: Usage::default(),
        };
        advance(Duration::from_secs(1)).await;
        clocks.heard(&again);
        assert_eq!(clocks.due(), began + FIRST);
        advance(BETWEEN).await;
        clocks.heard(&Piece::Progress);
        assert_eq!(clocks.due(), Instant::now() + BETWEEN);
        // It broke off in the middle of its reasoning.
        advance(Duration::from_secs(29)).await;
        clocks.heard(&again);
        assert_eq!(clocks.due(), Instant::now() + FIRST);
    }
}
