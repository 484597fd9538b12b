//! Refused credentials are answered later and later: how late is counted here,
//! by address and by credential, in the memory of one gateway. The auth service
//! counts what it gets to see; bad tokens it never sees.
//!
//! Only refusals wait. A good credential is taken at once, whatever came from
//! its address before.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Addresses and credentials that are remembered in a generation, of which
/// there are two; when one is full, the older goes.
const GENERATION_CAPACITY: usize = 32_768;
/// Refusals that are withheld at once; further ones are given without delay, so
/// that a flood of them holds no more connections than this.
const WITHHELD_CAPACITY: usize = 4_096;
/// Failures of one address that are answered at once; many people may share it.
const FREE_PER_ADDRESS: u32 = 10;
/// Failures with one credential that are answered at once.
const FREE_PER_CREDENTIAL: u32 = 3;
/// Into how many parts the longest delay goes to give the first; it doubles
/// with each failure.
const FIRST_PART: u32 = 120;
/// After how long without a failure they are forgotten.
const MEMORY: Duration = Duration::from_secs(900);

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Culprit {
    /// An address; of IPv6 the network, since a host picks the rest itself.
    Address(IpAddr),
    /// The keyed hash of a credential.
    Credential(u64),
}

#[derive(Clone, Copy)]
struct Record {
    failures: u32,
    last: Instant,
}

/// Counts failures. Shared by all shards.
pub(crate) struct BackOff {
    longest: Duration,
    hasher: RandomState,
    generations: Mutex<[HashMap<Culprit, Record>; 2]>,
    withheld: Arc<Semaphore>,
}

impl BackOff {
    /// With delays up to `longest`; none when that is zero.
    pub(crate) fn new(longest: Duration) -> Self {
        Self {
            longest,
            hasher: RandomState::new(),
            generations: Mutex::default(),
            withheld: Arc::new(Semaphore::new(WITHHELD_CAPACITY)),
        }
    }

    /// Counts a failure and says how late it is to be answered.
    pub(crate) fn count(&self, address: IpAddr, credential: &str) -> Duration {
        let credential = Culprit::Credential(self.hasher.hash_one(credential));
        let by_address = self.note(Culprit::Address(network(address)), FREE_PER_ADDRESS);
        by_address.max(self.note(credential, FREE_PER_CREDENTIAL))
    }

    /// A place to withhold a refusal for `delay`, cut to the longest there is;
    /// `None` to give it now.
    pub(crate) fn withhold(&self, delay: Duration) -> Option<(OwnedSemaphorePermit, Duration)> {
        let delay = delay.min(self.longest);
        if delay.is_zero() {
            return None;
        }
        let permit = Arc::clone(&self.withheld).try_acquire_owned().ok()?;
        Some((permit, delay))
    }

    fn note(&self, culprit: Culprit, free: u32) -> Duration {
        let now = Instant::now();
        let mut generations = self.generations.lock();
        let [current, previous] = &mut *generations;
        let known = current.get(&culprit).copied();
        let known = known.or_else(|| previous.remove(&culprit));
        let failures = known
            .filter(|record| now - record.last < MEMORY)
            .map_or(0, |record| record.failures)
            .saturating_add(1);
        if current.len() >= GENERATION_CAPACITY && !current.contains_key(&culprit) {
            *previous = std::mem::take(current);
        }
        let last = now;
        current.insert(culprit, Record { failures, last });
        match failures.saturating_sub(free) {
            0 => Duration::ZERO,
            over => {
                let factor = 1_u32 << (over - 1).min(20);
                let first = self.longest / FIRST_PART;
                first.saturating_mul(factor).min(self.longest)
            }
        }
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(six) => match six.to_ipv4_mapped() {
            Some(four) => IpAddr::V4(four),
            None => IpAddr::from((six.to_bits() & !u128::from(u64::MAX)).to_be_bytes()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(30);

    fn address(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    #[tokio::test(start_paused = true)]
    async fn failures_with_a_credential_are_answered_later_and_later() {
        let back_off = BackOff::new(LONGEST);
        let delays: Vec<u128> = (0..12)
            .map(|number| back_off.count(address(number), "ada").as_millis())
            .collect();
        let expected = [
            0, 0, 0, 250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000,
        ];
        assert_eq!(delays, expected);
        tokio::time::advance(MEMORY).await;
        assert_eq!(back_off.count(address(0), "ada"), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_of_an_address_count_whatever_was_presented() {
        let back_off = BackOff::new(LONGEST);
        for number in 0..FREE_PER_ADDRESS {
            let delay = back_off.count(address(1), &number.to_string());
            assert_eq!(delay, Duration::ZERO);
        }
        assert_eq!(back_off.count(address(1), "x").as_millis(), 250);
        assert_eq!(back_off.count(address(2), "y"), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_and_places_are_bounded() {
        let back_off = BackOff::new(LONGEST);
        for number in 0..100_000 {
            back_off.count(address(number), &number.to_string());
        }
        let kept: usize = back_off.generations.lock().iter().map(HashMap::len).sum();
        assert!(kept <= 2 * GENERATION_CAPACITY, "{kept}");
        let held: Vec<_> = (0..WITHHELD_CAPACITY)
            .map(|_| back_off.withhold(LONGEST * 2).unwrap())
            .collect();
        assert_eq!(held[0].1, LONGEST);
        assert!(back_off.withhold(LONGEST).is_none());
        drop(held);
        assert!(back_off.withhold(LONGEST).is_some());
    }

    #[test]
    fn zero_switches_it_off() {
        let back_off = BackOff::new(Duration::ZERO);
        for _ in 0..50 {
            assert_eq!(back_off.count(address(1), "x"), Duration::ZERO);
        }
        assert!(back_off.withhold(LONGEST).is_none());
    }
}
