//! How tests wait: for a condition, until a deadline.

use std::time::{Duration, Instant};

/// The deadline of a wait that a test does not choose: far longer than anything
/// takes, since a busy machine must not fail a test.
pub const DEADLINE: Duration = Duration::from_secs(30);

const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Asks `probe` until it gives a value, and returns that.
///
/// # Panics
/// When `deadline` has passed first; `what` says what was waited for.
pub async fn eventually<T>(
    what: &str,
    deadline: Duration,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(
            Instant::now() < end,
            "waited {deadline:?} in vain for {what}"
        );
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn value_is_waited_for() {
        let mut left = 3;
        let value = eventually("zero", DEADLINE, async || {
            left -= 1;
            (left == 0).then_some("done")
        });
        assert_eq!(value.await, "done");
    }

    #[tokio::test]
    #[should_panic(expected = "in vain for a miracle")]
    async fn deadline_fails_the_test() {
        eventually("a miracle", Duration::ZERO, async || None::<()>).await;
    }
}
