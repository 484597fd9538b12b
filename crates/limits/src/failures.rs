//! Repeated failures are answered later and later: how late is counted here,
//! for whatever the caller tells culprits apart by.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Culprits that are remembered in a generation, of which there are two; when
/// one is full, the older goes.
const GENERATION_CAPACITY: usize = 32_768;

/// How answers are delayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// How late the first failure is answered that is not free; doubles with
    /// each.
    pub first: Duration,
    /// The longest delay.
    pub longest: Duration,
    /// After how long without a failure they are forgotten.
    pub memory: Duration,
}

/// Counts failures, in the memory of one process. It bounds what it remembers,
/// and never waits itself.
#[derive(Debug)]
pub struct Failures<K> {
    pace: Pace,
    generations: Mutex<[HashMap<K, Record>; 2]>,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    failures: u32,
    last: Instant,
}

impl<K: Eq + Hash> Failures<K> {
    /// Nothing has failed yet.
    #[must_use]
    pub fn new(pace: Pace) -> Self {
        Self {
            pace,
            generations: Mutex::default(),
        }
    }

    /// Counts a failure and says how late it is to be answered; the first
    /// `free` of a culprit at once.
    pub fn count(&self, culprit: K, free: u32) -> Duration {
        let now = Instant::now();
        let mut generations = self.generations.lock();
        let [current, previous] = &mut *generations;
        let known = current.get(&culprit).copied();
        let known = known.or_else(|| previous.remove(&culprit));
        let failures = known
            .filter(|record| now - record.last < self.pace.memory)
            .map_or(0, |record| record.failures)
            .saturating_add(1);
        if current.len() >= GENERATION_CAPACITY && !current.contains_key(&culprit) {
            *previous = std::mem::take(current);
        }
        let last = now;
        current.insert(culprit, Record { failures, last });
        self.delay(failures, free)
    }

    /// For how long the answer to a culprit's last failure is still withheld.
    pub fn withheld(&self, culprit: &K, free: u32) -> Duration {
        let generations = self.generations.lock();
        let record = generations.iter().find_map(|one| one.get(culprit));
        record.map_or(Duration::ZERO, |record| {
            let delay = self.delay(record.failures, free);
            delay.saturating_sub(record.last.elapsed())
        })
    }

    /// Forgets the failures of a culprit that turned out to be none.
    pub fn forgive(&self, culprit: &K) {
        for generation in &mut *self.generations.lock() {
            generation.remove(culprit);
        }
    }

    fn delay(&self, failures: u32, free: u32) -> Duration {
        match failures.saturating_sub(free) {
            0 => Duration::ZERO,
            over => {
                let factor = 1 << (over - 1).min(20);
                let delay = self.pace.first.saturating_mul(factor);
                delay.min(self.pace.longest)
            }
        }
    }
}

/// What an address counts as: of IPv6 the network (/64), since a host picks the
/// rest itself; an IPv4 address in IPv6 clothes is that address.
#[must_use]
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(six) => {
            let network = six.to_bits() & !u128::from(u64::MAX);
            IpAddr::from(network.to_be_bytes())
        }
        four => four,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: u32 = 3;
    const PACE: Pace = Pace {
        first: Duration::from_millis(250),
        longest: Duration::from_secs(30),
        memory: Duration::from_secs(900),
    };

    #[tokio::test(start_paused = true)]
    async fn failures_are_answered_later_and_later() {
        let failures = Failures::new(PACE);
        let count = || failures.count("ada", FREE);
        let delays: Vec<u128> = (0..12).map(|_| count().as_millis()).collect();
        assert_eq!(
            delays,
            [
                0, 0, 0, 250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000
            ]
        );
        assert_eq!(failures.withheld(&"ada", FREE), PACE.longest);
        tokio::time::advance(Duration::from_secs(29)).await;
        assert_eq!(failures.withheld(&"ada", FREE), Duration::from_secs(1));
        for _ in 0..1_000_000 {
            count();
        }
        assert_eq!(count(), PACE.longest);
        assert_eq!(failures.count("bob", FREE), Duration::ZERO);
        assert_eq!(failures.withheld(&"bob", FREE), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn they_are_forgotten_and_forgiven() {
        let failures = Failures::new(PACE);
        let ten = || {
            for _ in 0..10 {
                failures.count("ada", FREE);
            }
        };
        ten();
        failures.forgive(&"ada");
        assert_eq!(failures.count("ada", FREE), Duration::ZERO);
        ten();
        tokio::time::advance(PACE.memory).await;
        assert_eq!(failures.count("ada", FREE), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded_and_keeps_the_recent() {
        let failures = Failures::new(PACE);
        for _ in 0..4 {
            failures.count(usize::MAX, FREE);
        }
        for number in 0..GENERATION_CAPACITY {
            failures.count(number, FREE);
        }
        let delay = failures.count(usize::MAX, FREE);
        assert_eq!(delay, 2 * PACE.first, "moved on in time");
        for number in 0..3 * GENERATION_CAPACITY {
            failures.count(number, FREE);
        }
        let generations = failures.generations.lock();
        let kept: usize = generations.iter().map(HashMap::len).sum();
        assert!(kept <= 2 * GENERATION_CAPACITY, "{kept}");
    }

    #[test]
    fn a_network_counts_as_one_address() {
        let address = |text: &str| network(text.parse().unwrap());
        assert_eq!(address("2001:db8::1"), address("2001:db8::ffff:1:2"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
        assert_eq!(address("::ffff:192.0.2.1"), address("192.0.2.1"));
        assert_ne!(address("192.0.2.2"), address("192.0.2.1"));
    }
}
