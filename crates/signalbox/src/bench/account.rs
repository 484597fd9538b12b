//! Exact accounts of what one client received: each event once, in order, and
//! nothing that it did not ask for.

use std::collections::VecDeque;

use serde::Serialize;

use super::mark::Mark;

/// Which numbers of one sequence have come.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// All below this have come.
    next: u64,
    /// One past the highest that has come.
    highest: u64,
    /// From `next` on, whether each has come; empty while nothing is missing.
    ahead: VecDeque<bool>,
}

/// What an arrival was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// New, and none with a higher number had come before.
    InOrder,
    /// New, after one with a higher number.
    Reordered,
    /// It had come before.
    Doubled,
    /// About something that the client does not watch.
    Misrouted,
    /// Of another run, or with a number that was never published.
    Unknown,
}

impl Seen {
    fn note(&mut self, sequence: u64) -> Arrival {
        let Some(offset) = sequence.checked_sub(self.next) else {
            return Arrival::Doubled;
        };
        if offset == 0 && self.ahead.is_empty() {
            self.next += 1;
            self.highest = self.next;
            return Arrival::InOrder;
        }
        // Callers let no number through that was not published, so this stays
        // as small as what is missing is old.
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        if self.ahead.get(offset) == Some(&true) {
            return Arrival::Doubled;
        }
        if self.ahead.len() <= offset {
            self.ahead.resize(offset + 1, false);
        }
        self.ahead[offset] = true;
        while self.ahead.front() == Some(&true) {
            self.ahead.pop_front();
            self.next += 1;
        }
        let late = sequence < self.highest;
        self.highest = self.highest.max(sequence + 1);
        if late {
            Arrival::Reordered
        } else {
            Arrival::InOrder
        }
    }

    /// Numbers below `published` that have not come, save those that are
    /// `excused`.
    fn missing(&self, published: u64, excused: impl Fn(u64) -> bool) -> u64 {
        (self.next..published)
            .zip(self.ahead.iter().copied().chain(std::iter::repeat(false)))
            .filter(|(sequence, come)| !come && !excused(*sequence))
            .count() as u64
    }
}

/// What a client watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Watch {
    /// One target.
    One(u32),
    /// Every target.
    All,
}

/// The account of one client, kept through all its connections.
#[derive(Debug)]
pub(super) struct Account {
    run: u32,
    watch: Watch,
    seen: Vec<Seen>,
    tally: Tally,
}

/// Sums over clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Tally {
    /// Deliveries that were due: each acknowledged event, once for each client
    /// that watches it.
    pub(super) due: u64,
    /// Events that came, each counted once per client.
    pub(super) received: u64,
    /// Due, and never came.
    pub(super) lost: u64,
    /// Came again.
    pub(super) doubled: u64,
    /// Came after a later one.
    pub(super) reordered: u64,
    /// Came to a client that does not watch them.
    pub(super) misrouted: u64,
    /// Marked, but of another run or never published.
    pub(super) unknown: u64,
}

impl Tally {
    /// Adds another's sums.
    pub(super) fn add(&mut self, other: &Self) {
        self.due += other.due;
        self.received += other.received;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.reordered += other.reordered;
        self.misrouted += other.misrouted;
        self.unknown += other.unknown;
    }

    /// Whether everything came once, in order, to the right ones.
    pub(super) fn is_clean(&self) -> bool {
        self.lost + self.doubled + self.reordered + self.misrouted + self.unknown == 0
    }
}

impl Account {
    /// An empty account, with as many sequences as the client watches.
    pub(super) fn new(run: u32, watch: Watch, targets: usize) -> Self {
        let sequences = match watch {
            Watch::One(_) => 1,
            Watch::All => targets,
        };
        Self {
            run,
            watch,
            seen: (0..sequences).map(|_| Seen::default()).collect(),
            tally: Tally::default(),
        }
    }

    /// Enters an arrival. `published` gives how many events of a target have
    /// been published so far.
    pub(super) fn note(&mut self, mark: &Mark, published: impl FnOnce(u32) -> u64) -> Arrival {
        let arrival = self.judge(mark, published);
        match arrival {
            Arrival::InOrder => self.tally.received += 1,
            Arrival::Reordered => {
                self.tally.received += 1;
                self.tally.reordered += 1;
            }
            Arrival::Doubled => self.tally.doubled += 1,
            Arrival::Misrouted => self.tally.misrouted += 1,
            Arrival::Unknown => self.tally.unknown += 1,
        }
        arrival
    }

    fn judge(&mut self, mark: &Mark, published: impl FnOnce(u32) -> u64) -> Arrival {
        if mark.run != self.run || mark.sequence >= published(mark.target) {
            return Arrival::Unknown;
        }
        let index = match self.watch {
            Watch::One(target) if target != mark.target => return Arrival::Misrouted,
            Watch::One(_) => 0,
            Watch::All => mark.target as usize,
        };
        self.seen[index].note(mark.sequence)
    }

    /// Whether everything up to `goal` of its first sequence has come.
    pub(super) fn has_all(&self, goal: u64) -> bool {
        self.seen.first().is_none_or(|seen| seen.next >= goal)
    }

    /// The target of its first sequence.
    pub(super) fn first_target(&self) -> u32 {
        match self.watch {
            Watch::One(target) => target,
            Watch::All => 0,
        }
    }

    /// The sums, given how many events of each target were published and which
    /// of them (target, number) nobody acknowledged.
    pub(super) fn audit(&self, published: &[u64], unacknowledged: &[(u32, u64)]) -> Tally {
        let mut tally = self.tally;
        for (index, seen) in self.seen.iter().enumerate() {
            let target = match self.watch {
                Watch::One(target) => target,
                Watch::All => index as u32,
            };
            let total = published[target as usize];
            let excused = |sequence| unacknowledged.contains(&(target, sequence));
            let excuses = unacknowledged
                .iter()
                .filter(|(of, _)| *of == target)
                .count() as u64;
            tally.due += total - excuses.min(total);
            tally.lost += seen.missing(total, excused);
        }
        tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: u32 = 5;

    fn mark(target: u32, sequence: u64) -> Mark {
        Mark {
            run: RUN,
            target,
            sequence,
            sent: 0,
        }
    }

    /// The audit of a client of target 1 that got these numbers, of ten.
    fn audit(numbers: &[u64]) -> Tally {
        let mut account = Account::new(RUN, Watch::One(1), 2);
        for number in numbers {
            account.note(&mark(1, *number), |_| 10);
        }
        account.audit(&[0, 10], &[])
    }

    #[test]
    fn everything_once_and_in_order_is_clean() {
        let tally = audit(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert!(tally.is_clean());
        assert_eq!((tally.due, tally.received), (10, 10));
    }

    #[test]
    fn a_loss_is_seen_wherever_it_is() {
        for absent in 0..10 {
            let numbers: Vec<u64> = (0..10).filter(|number| *number != absent).collect();
            let tally = audit(&numbers);
            assert_eq!((tally.lost, tally.received), (1, 9), "{absent}");
            assert_eq!((tally.doubled, tally.reordered), (0, 0), "{absent}");
        }
        assert_eq!(audit(&[]).lost, 10);
    }

    #[test]
    fn a_duplicate_is_seen_at_once_and_late() {
        let tally = audit(&[0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 4]);
        assert_eq!((tally.doubled, tally.lost, tally.received), (2, 0, 10));
        // Also of one that is ahead of a gap.
        assert_eq!(audit(&[0, 3, 3]).doubled, 1);
    }

    #[test]
    fn a_swap_is_seen() {
        let tally = audit(&[0, 2, 1, 3, 4, 5, 6, 7, 9, 8]);
        assert_eq!((tally.reordered, tally.lost, tally.doubled), (2, 0, 0));
        assert_eq!(tally.received, 10);
    }

    #[test]
    fn a_misroute_and_a_forgery_are_seen() {
        let mut account = Account::new(RUN, Watch::One(1), 2);
        assert_eq!(account.note(&mark(0, 0), |_| 10), Arrival::Misrouted);
        assert_eq!(account.note(&mark(1, 10), |_| 10), Arrival::Unknown);
        let stranger = Mark {
            run: 6,
            ..mark(1, 0)
        };
        assert_eq!(account.note(&stranger, |_| 10), Arrival::Unknown);
        let tally = account.audit(&[10, 0], &[]);
        assert_eq!((tally.misrouted, tally.unknown, tally.received), (1, 2, 0));
    }

    #[test]
    fn what_nobody_acknowledged_may_come_or_not() {
        let mut account = Account::new(RUN, Watch::All, 2);
        account.note(&mark(0, 0), |_| 2);
        account.note(&mark(1, 0), |_| 2);
        account.note(&mark(1, 1), |_| 2);
        let tally = account.audit(&[2, 2], &[(0, 1), (1, 1)]);
        assert!(tally.is_clean());
        assert_eq!((tally.due, tally.received), (2, 3));
        assert_eq!(account.audit(&[2, 2], &[]).lost, 1);
    }
}
