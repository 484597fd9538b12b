//! Sends a request again while nobody has seen anything of its answer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use rand::RngExt as _;
use tokio::time::sleep;

use super::{Failure, Piece, Pieces, Provider, Request, Usage};
use crate::usage::{self, Ending};

/// How often and when a request is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    /// How often at most, the first time not counted.
    pub most: u32,
    /// The wait before the first, doubled for each further one.
    pub first_wait: Duration,
    /// The longest of these waits.
    pub longest_wait: Duration,
    /// The longest wait that a provider may ask for. One that asks for more is
    /// not asked again: the failure has its wish.
    pub longest_asked: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            most: 2,
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(8),
            longest_asked: Duration::from_secs(30),
        }
    }
}

impl Retries {
    /// No second attempt.
    pub const NONE: Self = Self {
        most: 0,
        first_wait: Duration::ZERO,
        longest_wait: Duration::ZERO,
        longest_asked: Duration::ZERO,
    };

    /// The wait before the next attempt, or `None` when there is none.
    fn wait(&self, failure: &Failure, before: u32) -> Option<Duration> {
        if before >= self.most || !failure.retryable() {
            return None;
        }
        let doubled = self.first_wait.saturating_mul(1 << before.min(16));
        let own = doubled.min(self.longest_wait);
        // Up to a quarter less, so that many that failed together return apart.
        let own = own.mul_f64(rand::rng().random_range(0.75..=1.0));
        match failure.retry_after {
            Some(asked) if asked > self.longest_asked => None,
            Some(asked) => Some(asked.max(own)),
            None => Some(own),
        }
    }
}

struct Attempts {
    provider: Arc<dyn Provider>,
    request: Arc<Request>,
    retries: Retries,
    current: Pieces,
    before: u32,
    /// The tokens of the current one, as far as its provider says.
    spending: Option<Usage>,
    visible: bool,
    next: VecDeque<Step>,
}

enum Step {
    Yield(Result<Piece, Failure>),
    Wait(Duration),
    Over,
}

/// Answers as `provider` does, and sends the request again on failures that
/// allow it until something of the answer is visible. Each further attempt is
/// announced by [`Piece::Retrying`] with what the one before it has cost.
#[must_use]
pub fn answer(provider: Arc<dyn Provider>, request: Arc<Request>, retries: Retries) -> Pieces {
    let attempts = Attempts {
        current: provider.answer(Arc::clone(&request)),
        provider,
        request,
        retries,
        before: 0,
        spending: None,
        visible: false,
        next: VecDeque::new(),
    };
    Box::pin(stream::unfold(attempts, |mut attempts| async move {
        let item = attempts.next().await?;
        Some((item, attempts))
    }))
}

impl Attempts {
    async fn next(&mut self) -> Option<Result<Piece, Failure>> {
        loop {
            match self.next.pop_front() {
                Some(Step::Yield(item)) => return Some(item),
                Some(Step::Wait(wait)) => {
                    sleep(wait).await;
                    self.current = self.provider.answer(Arc::clone(&self.request));
                }
                Some(Step::Over) => {
                    self.next.push_back(Step::Over);
                    return None;
                }
                None => {
                    let item = self.current.next().await;
                    self.take(item);
                }
            }
        }
    }

    fn take(&mut self, item: Option<Result<Piece, Failure>>) {
        let failure = match item {
            Some(Ok(piece)) => {
                let ended = matches!(piece, Piece::End(_));
                match piece {
                    Piece::Usage(usage) => self.spending = Some(usage),
                    Piece::Text(_) => self.visible = true,
                    _ => {}
                }
                self.next.push_back(Step::Yield(Ok(piece)));
                if ended {
                    self.next.push_back(Step::Over);
                }
                return;
            }
            Some(Err(failure)) => failure,
            None => super::exchange::cut(),
        };
        let wait = self.retries.wait(&failure, self.before);
        let Some(wait) = wait.filter(|_| !self.visible) else {
            self.next.extend([Step::Yield(Err(failure)), Step::Over]);
            return;
        };
        self.before += 1;
        let spending = self.spending.take();
        let cost = usage::of_call(&self.request, spending, 0, Ending::Failed(&failure));
        let retrying = Piece::Retrying {
            failure,
            wait,
            cost,
        };
        self.next
            .extend([Step::Yield(Ok(retrying)), Step::Wait(wait)]);
    }
}
