//! Passwords: hashed slowly, a few at a time, and never on the threads that
//! answer requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm, Argon2, Params, Version};
use rand::Rng as _;
use serde::{Deserialize, Serialize};
use signalbox_identity::Secret;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tracing::error;

use crate::rejection::Rejection;

/// The shortest password that is accepted for a user, in characters.
pub(crate) const MIN_CHARS: usize = 12;
/// The longest password that is looked at, in bytes.
pub(crate) const MAX_BYTES: usize = 1_024;

/// Hashes under way at once; each fills a processor and its memory.
const CONCURRENCY: usize = 2;
/// Requests that may wait for their turn; further ones are told to try again.
const MAX_WAITING: usize = 64;

/// How much work a guess takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PasswordCost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
}

impl Default for PasswordCost {
    /// 19 MiB and two passes, as OWASP has it for argon2id.
    fn default() -> Self {
        Self {
            memory_kib: 19 * 1024,
            passes: 2,
        }
    }
}

/// What is kept of a password: argon2id in PHC form, with salt and cost.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct StoredPassword(String);

impl std::fmt::Debug for StoredPassword {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Hashes and verifies passwords.
pub(crate) struct Passwords {
    argon2: Arc<Argon2<'static>>,
    permits: Semaphore,
    waiting: AtomicUsize,
    /// The password of nobody: unknown users are checked against it, which
    /// takes as long as for a known one.
    decoy: StoredPassword,
}

impl Passwords {
    /// Prepares for hashing at this cost.
    ///
    /// # Panics
    /// When the cost is beyond what argon2 defines.
    pub(crate) fn new(cost: PasswordCost) -> Self {
        let params = Params::new(cost.memory_kib, cost.passes, 1, None);
        let params = params.expect("the cost is within what argon2 defines");
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let mut nobody = [0; 16];
        rand::rng().fill_bytes(&mut nobody);
        let decoy = hash(&argon2, &nobody).expect("a random salt is a salt");
        Self {
            argon2: Arc::new(argon2),
            permits: Semaphore::new(CONCURRENCY),
            waiting: AtomicUsize::new(0),
            decoy,
        }
    }

    /// Hashes a new password.
    ///
    /// # Errors
    /// [`Rejection::Unfit`] when it may not be one, [`Rejection::Unavailable`]
    /// when too many wait.
    pub(crate) async fn hash(&self, password: Secret) -> Result<StoredPassword, Rejection> {
        let text = password.expose();
        if text.chars().count() < MIN_CHARS || text.len() > MAX_BYTES {
            return Err(Rejection::Unfit {
                field: "password",
                expected: "12 characters or more, and at most 1024 bytes",
            });
        }
        let argon2 = Arc::clone(&self.argon2);
        self.work(move || hash(&argon2, password.expose().as_bytes()))
            .await?
            .ok_or(Rejection::Internal)
    }

    /// Whether `password` is the one that was stored. Without one to compare
    /// with, it takes as long to say no.
    ///
    /// # Errors
    /// [`Rejection::Unavailable`] when too many wait.
    pub(crate) async fn verify(
        &self,
        password: Secret,
        stored: Option<StoredPassword>,
    ) -> Result<bool, Rejection> {
        let known = stored.is_some();
        let stored = stored.unwrap_or_else(|| self.decoy.clone());
        let argon2 = Arc::clone(&self.argon2);
        let matches = self
            .work(move || {
                let text = password.expose();
                // Hashing takes longer with longer ones, known user or not.
                let parsed = PasswordHash::new(&stored.0).ok()?;
                let fits = text.len() <= MAX_BYTES;
                Some(fits && argon2.verify_password(text.as_bytes(), &parsed).is_ok())
            })
            .await?;
        match matches {
            Some(matches) => Ok(known && matches),
            None => {
                error!("unreadable password hash");
                Err(Rejection::Unavailable)
            }
        }
    }

    async fn work<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, Rejection> {
        let _place = Place::take(&self.waiting).ok_or(Rejection::Busy)?;
        let _permit = self.permits.acquire().await.map_err(|_| Rejection::Busy)?;
        spawn_blocking(work).await.map_err(|error| {
            error!(%error, "hashing failed");
            Rejection::Internal
        })
    }
}

/// One who waits or hashes; leaves when dropped.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(taken: &'a AtomicUsize) -> Option<Self> {
        let before = taken.fetch_add(1, Ordering::Relaxed);
        let place = Self(taken);
        (before < MAX_WAITING + CONCURRENCY).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn hash(argon2: &Argon2<'_>, password: &[u8]) -> Option<StoredPassword> {
    let mut salt = [0; 16];
    rand::rng().fill_bytes(&mut salt);
    let hash = argon2.hash_password_with_salt(password, &salt).ok()?;
    Some(StoredPassword(hash.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passwords() -> Passwords {
        Passwords::new(PasswordCost {
            memory_kib: 64,
            passes: 1,
        })
    }

    #[tokio::test]
    async fn the_right_password_alone_is_accepted() {
        let passwords = passwords();
        let secret = || Secret::new("correct horse battery");
        let stored = passwords.hash(secret()).await.unwrap();
        assert!(stored.0.starts_with("$argon2id$v=19$m=64,t=1,p=1$"));
        let verify = async |text: &str, stored| {
            let verified = passwords.verify(Secret::new(text), stored);
            verified.await.unwrap()
        };
        assert!(verify("correct horse battery", Some(stored.clone())).await);
        assert!(!verify("correct horse batterY", Some(stored.clone())).await);
        assert!(!verify("", Some(stored)).await);
        assert!(!verify("correct horse battery", None).await);
        let again = passwords.hash(secret()).await.unwrap();
        let twice = passwords.hash(secret()).await.unwrap();
        assert_ne!(again.0, twice.0, "salted");
    }

    #[tokio::test]
    async fn unfit_passwords_are_refused() {
        for unfit in ["", "elevenchars", &"x".repeat(1_025)] {
            let refused = passwords().hash(Secret::new(unfit)).await.unwrap_err();
            assert_eq!(refused.code().as_str(), "INVALID_MESSAGE");
            assert!(unfit.is_empty() || !refused.to_string().contains(unfit));
        }
    }

    #[test]
    fn places_are_few_and_given_back() {
        let taken = AtomicUsize::new(0);
        let places: Vec<_> = (0..MAX_WAITING + CONCURRENCY)
            .map(|_| Place::take(&taken).unwrap())
            .collect();
        assert!(Place::take(&taken).is_none());
        drop(places);
        assert_eq!(taken.load(Ordering::Relaxed), 0);
    }
}
