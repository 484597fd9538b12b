//! What has been read of many logs, and what is missing. Pure: numbers in,
//! what to make of them out.

use std::collections::HashMap;

use tokio::time::Instant;

/// What a record that has come is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The next of its log.
    Next,
    /// It was there before.
    Known,
    /// Others are missing in front of it.
    Ahead,
}

/// How far one log has been read.
#[derive(Clone, Copy, Debug)]
struct Mark {
    number: u64,
    /// The sequence of that record in the stream.
    sequence: u64,
    heard: Instant,
}

/// How far each log has been read.
#[derive(Debug)]
pub(super) struct Order {
    marks: HashMap<String, Mark>,
    /// Nothing at or before this sequence is asked for.
    start: u64,
}

impl Order {
    /// Nothing read yet; what the stream has up to `start` is not missed.
    pub(super) fn new(start: u64) -> Self {
        Self {
            marks: HashMap::new(),
            start,
        }
    }

    /// Where a record of a live log stands.
    pub(super) fn place(&mut self, id: &str, number: u64, now: Instant) -> Place {
        let Some(mark) = self.marks.get_mut(id) else {
            return if number == 1 {
                Place::Next
            } else {
                Place::Ahead
            };
        };
        mark.heard = now;
        match number {
            _ if number <= mark.number => Place::Known,
            _ if number == mark.number + 1 => Place::Next,
            _ => Place::Ahead,
        }
    }

    /// Notes a record that was handed on; gives how many are missing in front of
    /// it, where that is known.
    pub(super) fn note(&mut self, id: &str, number: u64, sequence: u64, now: Instant) -> u64 {
        let missing = match self.marks.get(id) {
            Some(mark) => number.saturating_sub(mark.number + 1),
            // What lies before the start is nobody's loss.
            None if self.start > 0 => 0,
            None => number.saturating_sub(1),
        };
        let mark = Mark {
            number,
            sequence,
            heard: now,
        };
        self.marks.insert(id.to_owned(), mark);
        missing
    }

    /// The last record of a log that was handed on.
    pub(super) fn last(&self, id: &str) -> Option<u64> {
        self.marks.get(id).map(|mark| mark.number)
    }

    /// The sequence behind which the rest of a log lies.
    pub(super) fn behind(&self, id: &str) -> u64 {
        self.marks.get(id).map_or(self.start, |mark| mark.sequence)
    }

    /// Forgets logs that were not heard of since `then`: an open one would have
    /// told its tip. What they had is not asked for again if they go on.
    pub(super) fn forget_before(&mut self, then: Instant) {
        let mut start = self.start;
        self.marks.retain(|_, mark| {
            let is_recent = mark.heard >= then;
            if !is_recent {
                start = start.max(mark.sequence);
            }
            is_recent
        });
        self.start = start;
    }

    /// A stream made anew: everything is to be read from its beginning.
    pub(super) fn reset(&mut self) {
        self.marks.clear();
        self.start = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_log_that_is_joined_midway_is_ahead() {
        let now = Instant::now();
        let mut order = Order::new(10);
        assert_eq!(order.place("a", 1, now), Place::Next);
        assert_eq!(order.place("b", 4, now), Place::Ahead);
        assert_eq!(order.behind("b"), 10);
        assert_eq!(order.note("b", 4, 17, now), 0);
        assert_eq!(order.behind("b"), 17);
        assert_eq!(order.place("b", 4, now), Place::Known);
        assert_eq!(order.place("b", 5, now), Place::Next);
        assert_eq!(order.note("b", 9, 20, now), 4);
        order.forget_before(now);
        assert_eq!(order.last("b"), Some(9));
        // A log that was forgotten goes on behind what it had.
        let later = now + std::time::Duration::from_secs(1);
        order.note("a", 1, 30, later);
        order.forget_before(later);
        assert_eq!((order.last("b"), order.last("a")), (None, Some(1)));
        assert_eq!(order.place("b", 10, later), Place::Ahead);
        assert_eq!(order.behind("b"), 20);
    }

    proptest! {
        /// Whatever is dropped, doubled or late: with a fill at each gap, the
        /// records of a log come out in order, each once.
        #[test]
        fn fills_make_up_for_every_loss(
            kept in proptest::collection::vec((1_u64..40, any::<bool>()), 1..200),
        ) {
            let now = Instant::now();
            let mut order = Order::new(0);
            let mut out = Vec::new();
            let mut stored = 0;
            for (number, dropped) in kept {
                stored = stored.max(number);
                if dropped {
                    continue;
                }
                match order.place("a", number, now) {
                    Place::Known => {}
                    Place::Next => {
                        prop_assert_eq!(order.note("a", number, number, now), 0);
                        out.push(number);
                    }
                    Place::Ahead => {
                        for filled in order.behind("a") + 1..=number {
                            prop_assert_eq!(order.note("a", filled, filled, now), 0);
                            out.push(filled);
                        }
                    }
                }
            }
            let expected: Vec<u64> = (1..=out.last().copied().unwrap_or(0)).collect();
            prop_assert_eq!(out, expected);
        }
    }
}
