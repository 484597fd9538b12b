//! What the sessions of one engine share without knowing the layer above: timers, tasks, counts,
//! and the list of what is to be done at the engine's next turn.

use std::{
    cell::{Cell, RefCell},
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    future::Future,
    net::{IpAddr, Ipv6Addr},
    rc::Rc,
    task::{Context, Poll},
};

use tokio::{
    sync::Notify,
    task::{AbortHandle, JoinSet},
    time::Instant,
};
use tracing::error;

use super::EndReason;

/// A session's number; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// Its place in the list of sessions, which another may take after it.
    pub(crate) index: u32,
    /// The count of sessions at its beginning.
    pub(crate) number: u32,
}

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TimerKind {
    /// A ping, or the end of the wait for a pong.
    Heartbeat,
    /// A poll that has to be answered for an upgrade to go on.
    Noop,
    /// A deadline of the layer above.
    Layer,
}

/// A timer that has fired or will. Those that no longer apply are recognised when they fire.
pub(crate) type Timer = (Instant, Key, TimerKind);

/// Something to be done at the next turn rather than at once, since whoever asks for it may be
/// within a fan-out or a callback.
#[derive(Debug)]
pub(crate) enum Chore {
    /// The session has lost its polling transport.
    PollingGone(Key),
    /// The session is to end.
    End(Key, EndReason),
    /// A namespace was left by this side.
    Left(Key, Rc<str>),
}

/// The shared state of one engine.
#[derive(Default)]
pub(crate) struct Core {
    timers: RefCell<BinaryHeap<Reverse<Timer>>>,
    chores: RefCell<Vec<Chore>>,
    tasks: RefCell<JoinSet<()>>,
    /// Woken when there is something to do earlier than was known.
    pub(crate) wake: Notify,
    /// Woken when something of a session is no longer in progress.
    pub(crate) calmer: Notify,
    unsettled: RefCell<HashMap<IpAddr, usize>>,
    pub(crate) draining: Cell<bool>,
}

impl Core {
    pub(crate) fn set_timer(&self, at: Instant, key: Key, kind: TimerKind) {
        let mut timers = self.timers.borrow_mut();
        let earliest = timers.peek().is_none_or(|Reverse(first)| at < first.0);
        timers.push(Reverse((at, key, kind)));
        if earliest {
            self.wake.notify_one();
        }
    }

    /// The next timer that is due at `now`.
    pub(crate) fn take_due(&self, now: Instant) -> Option<Timer> {
        let mut timers = self.timers.borrow_mut();
        let due = timers.peek().is_some_and(|Reverse(first)| first.0 <= now);
        due.then(|| timers.pop())
            .flatten()
            .map(|Reverse(timer)| timer)
    }

    pub(crate) fn next_timer(&self) -> Option<Instant> {
        self.timers.borrow().peek().map(|Reverse(first)| first.0)
    }

    pub(crate) fn add_chore(&self, chore: Chore) {
        self.chores.borrow_mut().push(chore);
        self.wake.notify_one();
    }

    pub(crate) fn take_chores(&self) -> Vec<Chore> {
        self.chores.take()
    }

    /// Runs a task for as long as the engine lives.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + 'static) -> AbortHandle {
        let handle = self.tasks.borrow_mut().spawn_local(task);
        self.wake.notify_one();
        handle
    }

    /// Takes note of tasks that have ended; never ready.
    pub(crate) fn poll_tasks(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut tasks = self.tasks.borrow_mut();
        while let Poll::Ready(Some(ended)) = tasks.poll_join_next(cx) {
            if let Err(error) = ended
                && error.is_panic()
            {
                error!(%error, "a task of a socket.io session panicked");
            }
        }
        Poll::Pending
    }

    /// Ends all tasks.
    pub(crate) fn stop(&self) {
        self.tasks.borrow_mut().abort_all();
    }

    /// Counts a session that is not settled; `None` if its address has too many.
    pub(crate) fn count(self: &Rc<Self>, address: IpAddr, limit: usize) -> Option<Unsettled> {
        let address = group(address);
        let mut counts = self.unsettled.borrow_mut();
        let count = counts.get(&address).copied().unwrap_or_default();
        if count >= limit {
            return None;
        }
        counts.insert(address, count + 1);
        Some(Unsettled {
            core: Rc::clone(self),
            address,
        })
    }
}

/// Counts a session against its address for as long as it lives.
pub(crate) struct Unsettled {
    core: Rc<Core>,
    address: IpAddr,
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        let mut counts = self.core.unsettled.borrow_mut();
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
                // What a wave of strangers needed is given back after it.
                if counts.is_empty() {
                    counts.shrink_to_fit();
                }
            }
        }
    }
}

/// The address that counts: an IPv6 host picks the last half of its address itself.
fn group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (!0 << 64)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsettled_sessions_are_counted_by_address_and_by_network() {
        let core = Rc::<Core>::default();
        let count = |address: &str| core.count(address.parse().unwrap(), 2);
        let held = [
            count("10.0.0.1").unwrap(),
            count("::ffff:10.0.0.1").unwrap(),
        ];
        assert!(count("10.0.0.1").is_none());
        assert!(count("10.0.0.2").is_some());
        let network = [count("2001:db8::1").unwrap(), count("2001:db8::2").unwrap()];
        assert!(count("2001:db8::3").is_none());
        assert!(count("2001:db8:0:1::1").is_some());
        drop((held, network));
        assert!(count("10.0.0.1").is_some());
        assert!(core.unsettled.borrow().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn timers_fire_in_their_order() {
        let core = Core::default();
        let now = Instant::now();
        let key = |number| Key { index: 0, number };
        for after in [3, 1, 2] {
            let at = now + std::time::Duration::from_secs(after);
            core.set_timer(at, key(after as u32), TimerKind::Layer);
        }
        assert_eq!(core.take_due(now), None);
        let later = now + std::time::Duration::from_secs(2);
        let fired: Vec<_> = std::iter::from_fn(|| core.take_due(later))
            .map(|timer| timer.1.number)
            .collect();
        assert_eq!(fired, [1, 2]);
        assert_eq!(
            core.next_timer(),
            Some(now + std::time::Duration::from_secs(3))
        );
    }
}
