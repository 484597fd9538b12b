//! Which of several keys signs.

use std::time::Duration;

use signalbox_identity::SigningKey;
use time::OffsetDateTime;

/// A signing key whose public half is on the bus.
#[derive(Debug)]
pub(crate) struct PublishedKey {
    /// The key.
    pub(crate) key: SigningKey,
    /// Since when its public half is there.
    pub(crate) since: OffsetDateTime,
}

/// The signing keys of this replica, of which one signs at a time.
#[derive(Debug)]
pub(crate) struct Keyring {
    /// At least one, the newest first.
    keys: Vec<PublishedKey>,
    propagation: Duration,
}

impl Keyring {
    /// A keyring of at least one key, the newest first, each of which signs
    /// when its public half has been known for the time of `propagation`.
    pub(crate) fn new(keys: Vec<PublishedKey>, propagation: Duration) -> Self {
        Self { keys, propagation }
    }

    /// The ids of the keys, the newest first.
    pub(crate) fn ids(&self) -> Vec<&str> {
        self.keys.iter().map(|held| held.key.kid()).collect()
    }

    /// The key that signs at the time `now`: the newest that gateways have had
    /// time to learn. Where they had that of none, as at the very first start,
    /// waiting would only refuse tokens, so the newest of all signs.
    pub(crate) fn signer(&self, now: OffsetDateTime) -> &SigningKey {
        let learned = |held: &&PublishedKey| now - held.since >= self.propagation;
        self.keys
            .iter()
            .find(learned)
            .or(self.keys.first())
            .map(|held| &held.key)
            .expect("a keyring is made of at least one key")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROPAGATION: Duration = Duration::from_secs(60);

    /// A keyring of keys published so many seconds ago, and their ids.
    fn keyring<const N: usize>(ages: [i64; N]) -> (Keyring, [String; N], OffsetDateTime) {
        let now = OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap();
        let keys = ages.map(|age| PublishedKey {
            key: SigningKey::generate().unwrap(),
            since: now - time::Duration::seconds(age),
        });
        let ids = keys.each_ref().map(|held| held.key.kid().to_owned());
        (Keyring::new(keys.into(), PROPAGATION), ids, now)
    }

    #[test]
    fn a_new_key_signs_when_its_public_half_is_known() {
        let (keyring, [new, old], now) = keyring([10, 600]);
        assert_eq!(keyring.signer(now).kid(), old);
        let almost = now + Duration::from_millis(49_999);
        assert_eq!(keyring.signer(almost).kid(), old);
        let later = now + Duration::from_secs(50);
        assert_eq!(keyring.signer(later).kid(), new);
    }

    #[test]
    fn the_newest_of_several_known_keys_signs() {
        let (keyring, [newest, _, _], now) = keyring([60, 600, 6_000]);
        assert_eq!(keyring.signer(now).kid(), newest);
    }

    #[test]
    fn the_newest_signs_at_once_where_none_is_known() {
        let (keyring, [newest, _], now) = keyring([0, 0]);
        assert_eq!(keyring.signer(now).kid(), newest);
    }

    #[test]
    fn a_clock_behind_that_of_the_bus_delays_and_does_no_more() {
        let (keyring, [new, old], now) = keyring([-5, 600]);
        assert_eq!(keyring.signer(now).kid(), old);
        assert_eq!(keyring.signer(now + Duration::from_secs(65)).kid(), new);
    }
}
