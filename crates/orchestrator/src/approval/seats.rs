//! Who waits for a decision: a seat for each, woken when there may be news.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

/// Those who wait, by the key of the record that they wait for: as many as the chats
/// that may wait for people have calls in a round.
#[derive(Debug, Default)]
pub(super) struct Seats(Mutex<HashMap<String, watch::Sender<()>>>);

/// The place of one who waits. Dropped, it is given up.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    key: String,
    news: watch::Receiver<()>,
}

impl Seats {
    /// Takes a seat; news from now on wake it.
    pub(super) fn take(self: &Arc<Self>, key: String) -> Seat {
        let news = self.0.lock().entry(key.clone()).or_default().subscribe();
        Seat {
            seats: Arc::clone(self),
            key,
            news,
        }
    }

    /// Wakes those who wait for this record.
    pub(super) fn wake(&self, key: &str) {
        if let Some(sender) = self.0.lock().get(key) {
            sender.send_replace(());
        }
    }

    /// Wakes all.
    pub(super) fn wake_all(&self) {
        for sender in self.0.lock().values() {
            sender.send_replace(());
        }
    }
}

impl Seat {
    /// Waits for news since it was last woken. Cancel safe.
    pub(super) async fn woken(&mut self) {
        if self.news.changed().await.is_err() {
            // There is a sender for as long as there is a seat.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.seats.0.lock();
        // The receiver of this one counts still.
        let is_last = seats
            .get(&self.key)
            .is_some_and(|sender| sender.receiver_count() <= 1);
        if is_last {
            seats.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn news_wake_those_they_are_for_also_when_they_come_first() {
        let seats = Arc::new(Seats::default());
        let mut one = seats.take("one".to_owned());
        let mut twin = seats.take("one".to_owned());
        let mut other = seats.take("other".to_owned());
        seats.wake("one");
        assert!(one.woken().now_or_never().is_some());
        assert!(one.woken().now_or_never().is_none());
        assert!(twin.woken().now_or_never().is_some());
        assert!(other.woken().now_or_never().is_none());
        seats.wake_all();
        assert!(one.woken().now_or_never().is_some());
        assert!(other.woken().now_or_never().is_some());
    }

    #[test]
    fn a_seat_that_is_given_up_leaves_nothing() {
        let seats = Arc::new(Seats::default());
        let (one, mut twin) = (seats.take("k".to_owned()), seats.take("k".to_owned()));
        drop(one);
        seats.wake("k");
        assert!(twin.woken().now_or_never().is_some());
        drop(twin);
        assert!(seats.0.lock().is_empty());
    }
}
