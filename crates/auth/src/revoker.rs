//! Tells gateways what no longer holds of credentials in use.
//!
//! An entry says what the records say: it is written after them, and made from
//! what they hold at that moment, so that of two changes at once the entry of
//! the later one stays.

use std::sync::Arc;
use std::time::Duration;

use signalbox_bus::{Bus, BusError, key};
use signalbox_identity::{ApiKeyId, Grant, Principal, Revocation, Target, UserId, Verdict};
use time::OffsetDateTime;
use tracing::warn;

use crate::api_keys::ApiKeys;
use crate::rejection::Rejection;
use crate::table::{Table, WriteError};
use crate::users::Users;

/// How much longer than a token an entry lives: clocks differ, and gateways
/// accept a token a little longer.
const MARGIN: Duration = Duration::from_secs(600);
/// How far the clocks of replicas may be apart. A user's tokens that were issued
/// up to so much after a revocation end too; those that are issued from then on
/// are dated behind it.
const CLOCK_SKEW: Duration = Duration::from_secs(5);
/// How often an entry is tried that others keep getting ahead of.
const ATTEMPTS: usize = 32;

/// What holds of a key or a user, as its record says.
pub(crate) enum Standing {
    /// Nothing, for ever.
    Gone,
    /// This much, for what was issued since a moment.
    Since(OffsetDateTime, Grant),
    /// This much, whenever it was issued.
    Grants(Grant),
}

/// Writes and reads the entries.
pub(crate) struct Revoker {
    table: Table<Revocation>,
    api_keys: Arc<ApiKeys>,
    users: Arc<Users>,
    /// How long the longest token lives.
    lifetime: Duration,
}

/// The moment up to which tokens end that are revoked at the time `now`: behind
/// all clocks, and behind an earlier such moment, at which tokens may be dated.
pub(crate) fn cut(now: OffsetDateTime, earlier: OffsetDateTime) -> OffsetDateTime {
    let at = now + CLOCK_SKEW;
    // Tokens are dated in whole seconds.
    let at = at.replace_nanosecond(0).unwrap_or(at);
    at.max(earlier) + Duration::from_secs(1)
}

impl Revoker {
    /// Opens the bucket.
    ///
    /// # Errors
    /// When it does not exist or the bus does not answer.
    pub(crate) async fn open(
        bus: &Bus,
        api_keys: Arc<ApiKeys>,
        users: Arc<Users>,
        longest_token: Duration,
    ) -> Result<Self, BusError> {
        Ok(Self {
            table: Table::open(bus, key::REVOCATIONS).await?,
            api_keys,
            users,
            lifetime: longest_token + MARGIN,
        })
    }

    /// Ends a target of which there is no record that says so: for ever, or what
    /// was issued to a user until now.
    ///
    /// # Errors
    /// [`Rejection::Unavailable`]; to be tried again.
    pub(crate) async fn end(&self, target: &Target) -> Result<(), Rejection> {
        let key = key_of(target);
        for _ in 0..ATTEMPTS {
            let slot = self.table.read(&key).await?;
            let now = OffsetDateTime::now_utc();
            let mut entry = self.entry(target, now);
            let earlier = slot.record.and_then(|found| {
                entry.grant = found.grant;
                found.not_before
            });
            entry.not_before = match target {
                Target::User(_) => Some(cut(now, earlier.unwrap_or(now))),
                _ => Some(entry.expires_at),
            };
            if self.write(&key, &entry, slot.revision).await? {
                return Ok(());
            }
        }
        Err(contended(&key))
    }

    /// Says what the record of a key says now.
    ///
    /// # Errors
    /// [`Rejection::Unavailable`]; to be tried again.
    pub(crate) async fn announce_key(&self, id: &ApiKeyId) -> Result<(), Rejection> {
        self.announce(&Target::Key(id.clone())).await
    }

    /// Says what the record of a user says now.
    ///
    /// # Errors
    /// [`Rejection::Unavailable`]; to be tried again.
    pub(crate) async fn announce_user(&self, username: &UserId) -> Result<(), Rejection> {
        self.announce(&Target::User(username.clone())).await
    }

    async fn announce(&self, target: &Target) -> Result<(), Rejection> {
        let key = key_of(target);
        for _ in 0..ATTEMPTS {
            let slot = self.table.read(&key).await?;
            let earlier = slot.record.and_then(|found| found.not_before);
            let mut entry = self.entry(target, OffsetDateTime::now_utc());
            // Read behind the entry: whoever writes last has read the latest.
            let standing = match target {
                Target::Key(id) => self.api_keys.standing(id).await?,
                Target::User(id) => self.users.standing(id).await?,
                Target::Token(_) | Target::Family(_) => Standing::Gone,
            };
            match standing {
                Standing::Gone => entry.not_before = Some(entry.expires_at),
                Standing::Since(since, grant) => {
                    entry.not_before = Some(since).max(earlier);
                    entry.grant = Some(grant);
                }
                Standing::Grants(grant) => entry.grant = Some(grant),
            }
            if self.write(&key, &entry, slot.revision).await? {
                return Ok(());
            }
        }
        Err(contended(&key))
    }

    /// What the entries leave of a principal.
    ///
    /// # Errors
    /// [`Rejection::Unavailable`] when nobody can tell.
    pub(crate) async fn judge(&self, principal: Principal) -> Result<Option<Principal>, Rejection> {
        let mut left = principal;
        for target in left.targets() {
            let Some(entry) = self.table.read(&key_of(&target)).await?.record else {
                continue;
            };
            match entry.judge(&left) {
                Verdict::Untouched => {}
                Verdict::Narrowed(less) => left = *less,
                Verdict::Ended => return Ok(None),
            }
        }
        Ok(Some(left))
    }

    fn entry(&self, target: &Target, now: OffsetDateTime) -> Revocation {
        Revocation {
            target: target.clone(),
            not_before: None,
            grant: None,
            changed_at: now,
            expires_at: now + self.lifetime,
        }
    }

    /// Writes an entry, unless another got ahead, which is `Ok(false)`.
    async fn write(&self, key: &str, entry: &Revocation, revision: u64) -> Result<bool, Rejection> {
        let written = self.table.write(key, entry, revision, Some(self.lifetime));
        match written.await {
            Ok(()) => Ok(true),
            Err(WriteError::Outdated) => Ok(false),
            Err(WriteError::Failed) => Err(Rejection::Unavailable),
        }
    }
}

fn contended(key: &str) -> Rejection {
    warn!(key, "revocation is too contended");
    Rejection::Unavailable
}

fn key_of(target: &Target) -> String {
    match target {
        Target::Key(id) => key::revoked_key(id.as_str()),
        Target::Token(id) => key::revoked_token(id.as_str()),
        Target::Family(id) => key::revoked_family(id.as_str()),
        Target::User(id) => key::revoked_user(id.as_str()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cut_is_behind_all_clocks_and_behind_the_last_one() {
        let now = OffsetDateTime::from_unix_timestamp_nanos(1_700_000_000_300_000_000).unwrap();
        let first = cut(now, OffsetDateTime::UNIX_EPOCH);
        assert_eq!(first.unix_timestamp_nanos(), 1_700_000_006_000_000_000);
        // Tokens that were issued in between are dated at the first.
        let second = cut(now, first);
        assert_eq!(second.unix_timestamp(), 1_700_000_007);
    }
}
