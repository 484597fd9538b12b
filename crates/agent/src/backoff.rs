//! How long to wait before the next attempt: longer each time, never the same
//! for all agents.

use std::time::Duration;

use rand::RngExt as _;

/// Between the first attempts.
const FIRST: Duration = Duration::from_millis(250);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(30);

/// Counts attempts that failed.
#[derive(Clone, Debug)]
pub(crate) struct BackOff {
    failures: u32,
    longest: Duration,
}

impl BackOff {
    pub(crate) const fn new() -> Self {
        Self {
            failures: 0,
            longest: LONGEST,
        }
    }

    /// It works again.
    pub(crate) const fn reset(&mut self) {
        self.failures = 0;
    }

    /// The wait before the next attempt: a random part of what has doubled with
    /// each failure, and at least `least`.
    pub(crate) fn next(&mut self, least: Duration) -> Duration {
        let most = FIRST
            .saturating_mul(1 << self.failures.min(16))
            .min(self.longest);
        self.failures = self.failures.saturating_add(1);
        let part: f64 = rand::rng().random_range(0.2..=1.0);
        // Also what was asked for is spread, or all agents come at once.
        let spread = least.mul_f64(rand::rng().random_range(1.0..=1.5));
        spread + most.mul_f64(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_stay_bounded() {
        let mut back_off = BackOff::new();
        let waits: Vec<Duration> = (0..40).map(|_| back_off.next(Duration::ZERO)).collect();
        assert!(waits[0] <= FIRST);
        assert!(waits[10..].iter().all(|wait| *wait >= LONGEST.mul_f64(0.2)));
        assert!(waits.iter().all(|wait| *wait <= LONGEST));
        back_off.reset();
        assert!(back_off.next(Duration::ZERO) <= FIRST);
        let asked = Duration::from_secs(5);
        back_off.reset();
        let wait = back_off.next(asked);
        assert!(wait >= asked && wait <= asked.mul_f64(1.5) + FIRST);
    }
}
