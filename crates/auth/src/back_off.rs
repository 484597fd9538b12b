//! Repeated failures are answered later and later: how late is counted here,
//! by address and by credential, in the memory of one replica.
//!
//! The service never waits itself; whoever asked for a client withholds the
//! answer. Passwords are not even looked at from an address whose last refusal
//! is still being withheld, since only they can be guessed.

use std::net::IpAddr;
use std::time::Duration;

use signalbox_limits::{Pace, network};

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
        text.parse().ok().map(network).map(Self::Address)
    }
}

/// Counts failures.
pub(crate) struct Failures {
    settings: BackOff,
    counted: signalbox_limits::Failures<Culprit>,
}

impl Failures {
    pub(crate) fn new(settings: BackOff) -> Self {
        Self {
            settings,
            counted: signalbox_limits::Failures::new(Pace {
                first: settings.first_delay,
                longest: settings.longest_delay,
                memory: settings.memory,
            }),
        }
    }

    /// For how long an earlier refusal of this culprit is still withheld.
    pub(crate) fn withheld(&self, culprit: &Culprit) -> Duration {
        self.counted.withheld(culprit, self.free(culprit))
    }

    /// Counts a failure and says how late it is to be answered.
    pub(crate) fn count(&self, culprit: Culprit) -> Duration {
        let free = self.free(&culprit);
        self.counted.count(culprit, free)
    }

    /// Forgets the failures with a credential that turned out good.
    pub(crate) fn forgive(&self, culprit: &Culprit) {
        self.counted.forgive(culprit);
    }

    fn free(&self, culprit: &Culprit) -> u32 {
        match culprit {
            Culprit::Address(_) => self.settings.free_per_address,
            Culprit::Credential(_) => self.settings.free_per_credential,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_credentials_have_their_own_allowance() {
        let failures = Failures::new(BackOff::default());
        let free_of = |culprit: &Culprit| {
            let counted = (1..).find(|_| failures.count(culprit.clone()) > Duration::ZERO);
            counted.unwrap() - 1
        };
        let settings = failures.settings;
        let address = Culprit::address("192.0.2.1").unwrap();
        assert_eq!(free_of(&address), settings.free_per_address);
        let ada = Culprit::Credential("ada".to_owned());
        assert_eq!(free_of(&ada), settings.free_per_credential);
        assert!(failures.withheld(&ada) > Duration::ZERO);
        failures.forgive(&ada);
        assert_eq!(failures.withheld(&ada), Duration::ZERO);
        assert_eq!(Culprit::address(""), None);
    }
}
