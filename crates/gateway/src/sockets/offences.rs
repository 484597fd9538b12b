//! Who has sent too much at once. The transport is closed for it, the client
//! returns and may well send the same again: the second time within a minute
//! it is sent out of the namespace, from which it does not return by itself.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use signalbox_identity::UserId;
use tokio::time::Instant;

/// How long an offence is remembered.
const MEMORY: Duration = Duration::from_secs(60);
/// Users that are remembered; beyond it those go whose time is over, then all.
const MAX_KNOWN: usize = 4_096;

/// The offences of one gateway. Shared by all shards.
#[derive(Debug, Default)]
pub(crate) struct Offences(Mutex<HashMap<UserId, Vec<Instant>>>);

impl Offences {
    /// Notes one.
    pub(super) fn note(&self, user: &UserId) {
        let now = Instant::now();
        let mut known = self.0.lock();
        if known.len() >= MAX_KNOWN {
            known.retain(|_, times| times.iter().any(|time| now - *time < MEMORY));
        }
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        let times = known.entry(user.clone()).or_default();
        times.retain(|time| now - *time < MEMORY);
        times.push(now);
    }

    /// Whether there were two within a minute, which are then settled.
    pub(super) fn settle(&self, user: &UserId) -> bool {
        let mut known = self.0.lock();
        let now = Instant::now();
        let recent = known.get(user).map_or(0, |times| {
            times.iter().filter(|time| now - **time < MEMORY).count()
        });
        recent >= 2 && known.remove(user).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_second_within_a_minute_counts() {
        let offences = Offences::default();
        let user = UserId::new("ada").unwrap();
        offences.note(&user);
        assert!(!offences.settle(&user));
        tokio::time::advance(MEMORY).await;
        offences.note(&user);
        assert!(!offences.settle(&user), "the first is forgotten");
        offences.note(&user);
        assert!(!offences.settle(&UserId::new("eve").unwrap()));
        assert!(offences.settle(&user));
        assert!(!offences.settle(&user), "it is settled");
        for number in 0..2 * MAX_KNOWN {
            offences.note(&UserId::new(number.to_string()).unwrap());
        }
        assert!(offences.0.lock().len() <= MAX_KNOWN);
    }
}
