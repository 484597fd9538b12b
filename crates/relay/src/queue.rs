//! In which order commands wait. Pure: what waits and the time in, order and
//! waiting times out.
//!
//! High goes before normal before low, and within one priority the first that
//! came. A command of lower priority that has waited for as long as the bound
//! goes before all that have not, the first that came first: so none waits for
//! longer than the bound, the commands ahead of it that are overdue as well, and
//! the one that runs.

use serde::{Deserialize, Serialize};
use signalbox_protocol::wire::CommandPriority;

/// How urgent a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Priority {
    /// Before all others.
    High,
    /// What nobody says anything about.
    Normal,
    /// When nothing else waits, or the bound is reached.
    Low,
}

impl From<CommandPriority> for Priority {
    fn from(priority: CommandPriority) -> Self {
        match priority {
            CommandPriority::High => Self::High,
            CommandPriority::Normal => Self::Normal,
            CommandPriority::Low => Self::Low,
        }
    }
}

impl From<Priority> for CommandPriority {
    fn from(priority: Priority) -> Self {
        match priority {
            Priority::High => Self::High,
            Priority::Normal => Self::Normal,
            Priority::Low => Self::Low,
        }
    }
}

/// A command's claim to be the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// Which of the agent's commands it is; later ones have greater numbers.
    pub(crate) order: u64,
    /// How urgent it is.
    pub(crate) priority: Priority,
    /// When it was accepted, in Unix milliseconds.
    pub(crate) accepted_ms: u64,
}

impl Claim {
    /// When it becomes overdue; never, for the highest priority.
    pub(crate) fn due_ms(&self, bound_ms: u64) -> Option<u64> {
        (self.priority != Priority::High).then_some(self.accepted_ms.saturating_add(bound_ms))
    }

    /// Compares less than that of all commands that go later.
    pub(crate) fn rank(&self, now_ms: u64, bound_ms: u64) -> (u8, u64) {
        let is_overdue = self.due_ms(bound_ms).is_some_and(|due| due <= now_ms);
        let class = match self.priority {
            _ if is_overdue => 0,
            Priority::High => 1,
            Priority::Normal => 2,
            Priority::Low => 3,
        };
        (class, self.order)
    }
}

/// How long each of `waiting` commands is likely to wait, in the order in which
/// they will run: each takes the place that is free first. `busy` are the times
/// after which places in use are likely to be free.
pub(crate) fn estimates(waiting: usize, places: usize, busy: &[u64], each_ms: u64) -> Vec<u64> {
    let places = places.max(1);
    let mut free: Vec<u64> = busy.to_vec();
    free.sort_unstable();
    free.truncate(places);
    free.resize(places, 0);
    (0..waiting)
        .map(|_| {
            let first = free
                .iter_mut()
                .min()
                .expect("there is at least one place");
            let wait = *first;
            *first += each_ms;
            wait
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUND: u64 = 60_000;

    fn claim(order: u64, priority: Priority, accepted_ms: u64) -> Claim {
        Claim {
            order,
            priority,
            accepted_ms,
        }
    }

    fn priority() -> impl Strategy<Value = Priority> {
        prop_oneof![
            Just(Priority::High),
            Just(Priority::Normal),
            Just(Priority::Low)
        ]
    }

    #[test]
    fn priorities_then_arrival_decide() {
        use Priority::{High, Low, Normal};
        let mut waiting = [
            claim(1, Low, 0),
            claim(2, Normal, 0),
            claim(3, High, 0),
            claim(4, High, 0),
            claim(5, Normal, 0),
        ];
        waiting.sort_by_key(|claim| claim.rank(BOUND - 1, BOUND));
        assert_eq!(waiting.map(|claim| claim.order), [3, 4, 2, 5, 1]);
        waiting.sort_by_key(|claim| claim.rank(BOUND, BOUND));
        assert_eq!(waiting.map(|claim| claim.order), [1, 2, 5, 3, 4]);
    }

    #[test]
    fn waiting_times_follow_the_places() {
        assert_eq!(estimates(3, 1, &[], 10), [0, 10, 20]);
        assert_eq!(estimates(3, 1, &[4], 10), [4, 14, 24]);
        assert_eq!(estimates(3, 2, &[4], 10), [0, 4, 10]);
        assert_eq!(estimates(2, 0, &[4, 2], 10), [2, 12]);
        assert!(estimates(0, 1, &[], 10).is_empty());
    }

    proptest! {
        /// With one command at a time, each as long as `each`, and high priority
        /// arriving faster than it is worked off, every command starts within the
        /// bound, the overdue ones ahead of it, and the one that runs.
        #[test]
        fn nothing_starves(
            arrivals in proptest::collection::vec((0_u64..200, priority()), 1..120),
            each in 1_u64..50,
            bound in 1_u64..400,
        ) {
            let mut arrivals: Vec<Claim> = {
                let mut now = 0;
                arrivals
                    .into_iter()
                    .enumerate()
                    .map(|(order, (pause, priority))| {
                        now += pause / 8;
                        claim(order as u64, priority, now)
                    })
                    .collect()
            };
            arrivals.reverse();
            let (mut now, mut waiting, mut served) = (0, Vec::<Claim>::new(), Vec::new());
            while !arrivals.is_empty() || !waiting.is_empty() {
                while arrivals.last().is_some_and(|claim| claim.accepted_ms <= now) {
                    waiting.extend(arrivals.pop());
                }
                let next = waiting
                    .iter()
                    .enumerate()
                    .min_by_key(|(_, claim)| claim.rank(now, bound))
                    .map(|(index, _)| index);
                match next {
                    None => now += 1,
                    Some(index) => {
                        let claim = waiting.remove(index);
                        served.push((claim, now));
                        now += each;
                    }
                }
            }
            for (claim, started) in &served {
                let Some(due) = claim.due_ms(bound) else { continue };
                // Those that were overdue earlier, and waited still.
                let ahead = served
                    .iter()
                    .filter(|(other, at)| {
                        other.order < claim.order && other.priority != Priority::High && *at >= due
                    })
                    .count() as u64;
                prop_assert!(*started <= due + (ahead + 1) * each, "{claim:?} started at {started}");
            }
            // First in, first out within a priority.
            for one in [Priority::High, Priority::Normal, Priority::Low] {
                let orders: Vec<u64> = served
                    .iter()
                    .filter(|(claim, _)| claim.priority == one)
                    .map(|(claim, _)| claim.order)
                    .collect();
                prop_assert!(orders.is_sorted(), "{orders:?}");
            }
        }
    }
}
