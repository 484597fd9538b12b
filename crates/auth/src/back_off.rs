//! Repeated failures are answered later and later: how late is counted here,
//! by address and by credential, in the memory of one replica.
//!
//! The service never waits itself; whoever asked for a client withholds the
//! answer. Passwords are not even looked at from an address whose last refusal
//! is still being withheld, since only they can be guessed.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Addresses and credentials that are remembered in a generation, of which
/// there are two; when one is full, the older goes.
const GENERATION_CAPACITY: usize = 32_768;

/// How failures are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackOff {
    /// Failures of one address that are answered at once; many people may
    /// share it.
    pub free_per_address: u32,
    /// Failures with one credential that are answered at once.
    pub free_per_credential: u32,
    /// How late the next one is answered; doubles with each.
    pub first_delay: Duration,
    /// The longest delay.
    pub longest_delay: Duration,
    /// After how long without a failure they are forgotten.
    pub memory: Duration,
}

impl Default for BackOff {
    fn default() -> Self {
        Self {
            free_per_address: 10,
            free_per_credential: 3,
            first_delay: Duration::from_millis(250),
            longest_delay: Duration::from_secs(30),
            memory: Duration::from_secs(900),
        }
    }
}

/// Who failed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Culprit {
    /// An address; of IPv6 the network, since a host picks the rest itself.
    Address(IpAddr),
    /// A credential, by what names it and is no secret.
    Credential(String),
}

impl Culprit {
    /// The address of a request, if it came over the network.
    pub(crate) fn address(text: &str) -> Option<Self> {
        let address = text.parse().ok()?;
        Some(Self::Address(match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(six) => match six.to_ipv4_mapped() {
                Some(four) => IpAddr::V4(four),
                None => IpAddr::from((six.to_bits() & !u128::from(u64::MAX)).to_be_bytes()),
            },
        }))
    }
}

#[derive(Clone, Copy)]
struct Record {
    failures: u32,
    last: Instant,
}

/// Counts failures.
pub(crate) struct Failures {
    settings: BackOff,
    generations: Mutex<[HashMap<Culprit, Record>; 2]>,
}

impl Failures {
    pub(crate) fn new(settings: BackOff) -> Self {
        Self {
            settings,
            generations: Mutex::default(),
        }
    }

    /// For how long an earlier refusal of this culprit is still withheld.
    pub(crate) fn withheld(&self, culprit: &Culprit) -> Duration {
        let generations = self.generations.lock();
        let record = generations.iter().find_map(|one| one.get(culprit));
        let Some(record) = record else {
            return Duration::ZERO;
        };
        let delay = self.delay(culprit, record.failures);
        delay.saturating_sub(record.last.elapsed())
    }

    /// Counts a failure and says how late it is to be answered.
    pub(crate) fn count(&self, culprit: Culprit) -> Duration {
        let now = Instant::now();
        let mut generations = self.generations.lock();
        let [current, previous] = &mut *generations;
        let known = current.get(&culprit).copied();
        let known = known.or_else(|| previous.remove(&culprit));
        let failures = known
            .filter(|record| now - record.last < self.settings.memory)
            .map_or(0, |record| record.failures);
        let failures = failures.saturating_add(1);
        if current.len() >= GENERATION_CAPACITY && !current.contains_key(&culprit) {
            *previous = std::mem::take(current);
        }
        let delay = self.delay(&culprit, failures);
        let record = Record {
            failures,
            last: now,
        };
        current.insert(culprit, record);
        delay
    }

    /// Forgets the failures with a credential that turned out good.
    pub(crate) fn forgive(&self, culprit: &Culprit) {
        for generation in &mut *self.generations.lock() {
            generation.remove(culprit);
        }
    }

    fn delay(&self, culprit: &Culprit, failures: u32) -> Duration {
        let free = match culprit {
            Culprit::Address(_) => self.settings.free_per_address,
            Culprit::Credential(_) => self.settings.free_per_credential,
        };
        match failures.saturating_sub(free) {
            0 => Duration::ZERO,
            over => {
                let factor = 1 << (over - 1).min(20);
                let delay = self.settings.first_delay.saturating_mul(factor);
                delay.min(self.settings.longest_delay)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ada() -> Culprit {
        Culprit::Credential("ada".to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_answered_later_and_later() {
        let failures = Failures::new(BackOff::default());
        let delays: Vec<u128> = (0..12).map(|_| failures.count(ada()).as_millis()).collect();
        assert_eq!(
            delays,
            [
                0, 0, 0, 250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000
            ]
        );
        assert_eq!(failures.withheld(&ada()), Duration::from_secs(30));
        tokio::time::advance(Duration::from_secs(29)).await;
        assert_eq!(failures.withheld(&ada()), Duration::from_secs(1));
        for _ in 0..1_000_000 {
            failures.count(ada());
        }
        assert_eq!(failures.count(ada()), Duration::from_secs(30));
    }

    #[tokio::test(start_paused = true)]
    async fn they_are_forgotten_and_forgiven() {
        let failures = Failures::new(BackOff::default());
        (0..10).for_each(|_| {
            failures.count(ada());
        });
        failures.forgive(&ada());
        assert_eq!(failures.count(ada()), Duration::ZERO);
        (0..10).for_each(|_| {
            failures.count(ada());
        });
        tokio::time::advance(Duration::from_secs(900)).await;
        assert_eq!(failures.count(ada()), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded_and_keeps_the_recent() {
        let failures = Failures::new(BackOff::default());
        (0..4).for_each(|_| {
            failures.count(ada());
        });
        for number in 0..GENERATION_CAPACITY {
            failures.count(Culprit::Credential(number.to_string()));
        }
        assert_eq!(failures.count(ada()).as_millis(), 500, "moved on in time");
        for number in 0..3 * GENERATION_CAPACITY {
            failures.count(Culprit::Credential(number.to_string()));
        }
        let generations = failures.generations.lock();
        let kept: usize = generations.iter().map(HashMap::len).sum();
        assert!(kept <= 2 * GENERATION_CAPACITY, "{kept}");
    }

    #[test]
    fn a_network_counts_as_one_address() {
        let address = |text| Culprit::address(text).unwrap();
        assert_eq!(address("2001:db8::1"), address("2001:db8::ffff:1:2"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
        assert_eq!(address("::ffff:192.0.2.1"), address("192.0.2.1"));
        assert_ne!(address("192.0.2.2"), address("192.0.2.1"));
        assert_eq!(Culprit::address(""), None);
    }
}
