//! The deadlines of all sockets of a shard: one list instead of a timer each.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::pending;
use std::rc::Rc;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::seat::Seat;

/// A deadline, told from others of the same time by a number.
pub(super) type Alarm = (Instant, u64);

/// What is due, in the order in which it comes: at most one thing for each
/// socket.
#[derive(Default)]
pub(super) struct Clock {
    alarms: RefCell<BTreeMap<Alarm, Rc<Seat>>>,
    count: Cell<u64>,
    /// Woken when something is due earlier than was known.
    earlier: Notify,
}

impl Clock {
    /// Calls on a socket at `at`, and no longer when it was to be called on
    /// before.
    pub(super) fn set(&self, seat: &Rc<Seat>, at: Instant) {
        self.clear(seat);
        let count = self.count.get() + 1;
        self.count.set(count);
        let alarm = (at, count);
        seat.alarm.set(Some(alarm));
        let mut alarms = self.alarms.borrow_mut();
        let first = alarms.keys().next().is_none_or(|first| alarm < *first);
        alarms.insert(alarm, Rc::clone(seat));
        if first {
            self.earlier.notify_one();
        }
    }

    /// Calls on a socket no more.
    pub(super) fn clear(&self, seat: &Seat) {
        if let Some(alarm) = seat.alarm.take() {
            self.alarms.borrow_mut().remove(&alarm);
        }
    }

    /// Waits for the next deadline and gives its socket.
    pub(super) async fn next(&self) -> Rc<Seat> {
        loop {
            let next = self.alarms.borrow().keys().next().copied();
            let due = async {
                match next {
                    Some((at, _)) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                () = self.earlier.notified() => continue,
            }
            // It may have been cleared while this slept.
            let now = Instant::now();
            let mut alarms = self.alarms.borrow_mut();
            if let Some(entry) = alarms.first_entry()
                && entry.key().0 <= now
            {
                let seat = entry.remove();
                seat.alarm.set(None);
                return seat;
            }
        }
    }
}
