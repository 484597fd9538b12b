//! Refused credentials are answered later and later: how late is counted here,
//! by address and by credential, in the memory of one gateway. The auth service
//! counts what it gets to see; bad tokens it never sees.
//!
//! Only refusals wait. A good credential is taken at once, whatever came from
//! its address before.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use signalbox_limits::{Failures, Pace, network};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

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

/// Counts failures. Shared by all shards.
pub(crate) struct BackOff {
    longest: Duration,
    hasher: RandomState,
    failures: Failures<Culprit>,
    withheld: Arc<Semaphore>,
}

impl BackOff {
    /// With delays up to `longest`; none when that is zero.
    pub(crate) fn new(longest: Duration) -> Self {
        Self {
            longest,
            hasher: RandomState::new(),
            failures: Failures::new(Pace {
                first: longest / FIRST_PART,
                longest,
                memory: MEMORY,
            }),
            withheld: Arc::new(Semaphore::new(WITHHELD_CAPACITY)),
        }
    }

    /// Counts a failure and says how late it is to be answered.
    pub(crate) fn count(&self, address: IpAddr, credential: &str) -> Duration {
        let credential = Culprit::Credential(self.hasher.hash_one(credential));
        let address = Culprit::Address(network(address));
        let by_address = self.failures.count(address, FREE_PER_ADDRESS);
        by_address.max(self.failures.count(credential, FREE_PER_CREDENTIAL))
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
    async fn places_are_bounded() {
        let back_off = BackOff::new(LONGEST);
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
