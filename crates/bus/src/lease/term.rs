//! The clock of a lease: when to renew it, and when it is over.

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

/// The part of its time to live after which a lease is renewed.
const RENEWALS_PER_TTL: u32 = 3;
/// The pause after a failed renewal, as a part of the time to live.
const RETRIES_PER_TTL: u32 = 20;

/// What became of an attempt to renew a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Renewal {
    /// It is renewed.
    Done,
    /// Nobody knows; it may be tried again.
    Failed,
    /// Another has it.
    Refused,
}

/// What can be renewed.
pub(super) trait Renew {
    /// Makes one attempt.
    fn renew(&mut self) -> impl Future<Output = Renewal> + Send;
}

/// How long a lease lasts by its holder's own clock.
pub(super) struct Term {
    ttl: Duration,
    /// When the last successful renewal was sent.
    since: Instant,
    end: watch::Sender<Instant>,
}

/// Whether a lease still holds, at any moment and for anyone. Clones share it.
#[derive(Clone, Debug)]
pub struct Tenure {
    end: watch::Receiver<Instant>,
}

impl Tenure {
    /// Whether the lease is over: it could not be renewed in time, or was
    /// refused.
    #[must_use]
    pub fn is_over(&self) -> bool {
        Instant::now() >= *self.end.borrow()
    }
}

impl Term {
    /// A term that begins with an acquisition sent at `sent`.
    pub(super) fn new(ttl: Duration, sent: Instant) -> Self {
        Self {
            ttl,
            since: sent,
            end: watch::Sender::new(sent + ttl),
        }
    }

    pub(super) fn tenure(&self) -> Tenure {
        Tenure {
            end: self.end.subscribe(),
        }
    }

    fn end(&self) -> Instant {
        self.since + self.ttl
    }

    fn renewed(&mut self, sent: Instant) {
        self.since = sent;
        self.end.send_replace(sent + self.ttl);
    }

    /// Renews at a third of the time to live, and again soon where that fails;
    /// returns once the term is over.
    pub(super) async fn keep(&mut self, lease: &mut impl Renew) {
        loop {
            sleep_until(self.since + self.ttl / RENEWALS_PER_TTL).await;
            loop {
                let sent = Instant::now();
                // Asked of the clock itself: after the process was stopped, its
                // timers may come later than its messages.
                if sent >= self.end() {
                    return;
                }
                match timeout_at(self.end(), lease.renew()).await {
                    Ok(Renewal::Done) => {
                        self.renewed(sent);
                        break;
                    }
                    Ok(Renewal::Failed) => sleep(self.ttl / RETRIES_PER_TTL).await,
                    Ok(Renewal::Refused) => {
                        self.end.send_replace(sent);
                        return;
                    }
                    Err(_) => return,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::advance;

    use super::*;

    const TTL: Duration = Duration::from_secs(9);

    /// Renewals as a test has them: each takes a while and has an outcome;
    /// behind the last there is no answer.
    struct Script {
        start: Instant,
        outcomes: Vec<(Duration, Renewal)>,
        /// When each was asked for, in seconds.
        asked: Vec<u64>,
    }

    impl Renew for Script {
        async fn renew(&mut self) -> Renewal {
            let outcome = self.outcomes.get(self.asked.len()).copied();
            self.asked.push(self.start.elapsed().as_secs());
            match outcome {
                Some((takes, renewal)) => {
                    sleep(takes).await;
                    renewal
                }
                None => pending().await,
            }
        }
    }

    /// Keeps a lease through these renewals; gives when they were asked for,
    /// and when it was over.
    async fn keep(outcomes: &[(u64, Renewal)]) -> (Vec<u64>, Duration) {
        let start = Instant::now();
        let mut term = Term::new(TTL, start);
        let tenure = term.tenure();
        assert!(!tenure.is_over());
        let mut script = Script {
            start,
            outcomes: outcomes
                .iter()
                .map(|(seconds, renewal)| (Duration::from_secs(*seconds), *renewal))
                .collect(),
            asked: Vec::new(),
        };
        term.keep(&mut script).await;
        assert!(tenure.is_over());
        (script.asked, start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_renewed_at_a_third_of_its_time() {
        use Renewal::{Done, Refused};
        let (asked, over) = keep(&[(0, Done), (0, Done), (0, Done), (0, Refused)]).await;
        assert_eq!((asked, over), (vec![3, 6, 9, 12], Duration::from_secs(12)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_unanswered_renewal_ends_the_term_in_time() {
        assert_eq!(keep(&[]).await, (vec![3], TTL));
    }

    #[tokio::test(start_paused = true)]
    async fn the_term_counts_from_before_the_renewal_was_sent() {
        // Sent after 3 s, answered after 5 s.
        let (asked, over) = keep(&[(2, Renewal::Done)]).await;
        assert_eq!((asked, over), (vec![3, 6], Duration::from_secs(3) + TTL));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_renewal_is_tried_again_until_the_end() {
        let (asked, over) = keep(&[(0, Renewal::Failed), (0, Renewal::Done)]).await;
        assert_eq!((asked.len(), over > TTL), (3, true));
        let (asked, over) = keep(&[(0, Renewal::Failed); 100]).await;
        assert!(asked.len() > 3);
        assert!(
            over >= TTL && over < TTL + TTL / RETRIES_PER_TTL,
            "{over:?}"
        );
    }

    /// As after SIGCONT: the clock has moved on and no timer has fired yet.
    #[tokio::test(start_paused = true)]
    async fn a_tenure_is_over_by_the_clock_before_anyone_says_so() {
        let term = Term::new(TTL, Instant::now());
        let tenure = term.tenure();
        advance(TTL - Duration::from_millis(1)).await;
        assert!(!tenure.is_over());
        advance(Duration::from_millis(1)).await;
        assert!(tenure.is_over());
    }
}
