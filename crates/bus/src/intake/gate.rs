//! How much may be under way at once: requests of one credential, and bytes
//! of all.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use signalbox_protocol::ErrorCode;
use signalbox_protocol::frame::fields::Complaint;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// What a gate lets in.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Requests of one credential at once; further ones get RATE_LIMIT.
    pub requests_per_credential: usize,
    /// Bytes of bodies of all requests at once; beyond them requests get
    /// UNAVAILABLE.
    pub bytes: usize,
}

/// Lets requests in one by one; `K` names a credential.
#[derive(Debug)]
pub struct Gate<K: Eq + Hash> {
    bounds: Bounds,
    bytes: Arc<Semaphore>,
    requests: Arc<Mutex<HashMap<K, usize>>>,
}

/// A request that was let in; counts for as long as it exists.
#[derive(Debug)]
pub struct Pass<K: Eq + Hash> {
    bytes: Option<OwnedSemaphorePermit>,
    _place: Taken<K>,
}

/// A place among the requests of a credential.
#[derive(Debug)]
struct Taken<K: Eq + Hash> {
    credential: K,
    requests: Arc<Mutex<HashMap<K, usize>>>,
}

impl<K: Clone + Eq + Hash> Gate<K> {
    /// A gate that nothing has passed.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            bytes: Arc::new(Semaphore::new(bounds.bytes)),
            requests: Arc::default(),
        }
    }

    /// Lets in a request of this credential with a body of at most `bytes`.
    ///
    /// # Errors
    /// What to tell the client when there is too much already.
    pub fn enter(&self, credential: &K, bytes: usize) -> Result<Pass<K>, Complaint> {
        let place = self.take(credential)?;
        let permit = Arc::clone(&self.bytes)
            .try_acquire_many_owned(permits(bytes))
            .map_err(|_| full())?;
        Ok(Pass {
            bytes: Some(permit),
            _place: place,
        })
    }

    /// As [`enter`](Self::enter), but waits for room for at most `patience`,
    /// first come, first served. Those who wait have a place among the requests
    /// of their credential.
    ///
    /// # Errors
    /// What to tell the client when there is too much already.
    pub async fn wait(
        &self,
        credential: &K,
        bytes: usize,
        patience: Duration,
    ) -> Result<Pass<K>, Complaint> {
        let place = self.take(credential)?;
        let permit = Arc::clone(&self.bytes).acquire_many_owned(permits(bytes));
        match timeout(patience, permit).await {
            Ok(Ok(permit)) => Ok(Pass {
                bytes: Some(permit),
                _place: place,
            }),
            _ => Err(full()),
        }
    }

    fn take(&self, credential: &K) -> Result<Taken<K>, Complaint> {
        let most = self.bounds.requests_per_credential;
        let mut requests = self.requests.lock();
        let count = requests.entry(credential.clone()).or_default();
        if *count >= most {
            return Err(Complaint::plain(
                ErrorCode::RateLimit,
                format!("expected at most {most} requests at once of one credential"),
            ));
        }
        *count += 1;
        Ok(Taken {
            credential: credential.clone(),
            requests: Arc::clone(&self.requests),
        })
    }
}

impl<K: Eq + Hash> Pass<K> {
    /// Gives back all but `bytes` of what the body was let in for: it turned
    /// out to be no larger.
    pub fn shrink(&mut self, bytes: usize) {
        if let Some(permit) = &mut self.bytes {
            let spare = permit.num_permits().saturating_sub(bytes);
            drop(permit.split(spare));
        }
    }
}

impl<K: Eq + Hash> Drop for Taken<K> {
    fn drop(&mut self) {
        let mut requests = self.requests.lock();
        if let Some(count) = requests.get_mut(&self.credential) {
            *count -= 1;
            if *count == 0 {
                requests.remove(&self.credential);
            }
        }
    }
}

fn permits(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

fn full() -> Complaint {
    Complaint::plain(
        ErrorCode::Unavailable,
        "too many events are arriving, try again",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        requests_per_credential: 8,
        bytes: 1_000,
    };

    #[test]
    fn one_credential_does_not_take_the_places_of_another() {
        let gate = Gate::new(BOUNDS);
        let mut passes: Vec<_> = (0..8).map(|_| gate.enter(&"a", 1).unwrap()).collect();
        let refused = gate.enter(&"a", 1).err().map(|complaint| complaint.code);
        assert_eq!(refused, Some(ErrorCode::RateLimit));
        assert!(gate.enter(&"b", 1).is_ok());
        passes.pop();
        assert!(gate.enter(&"a", 1).is_ok());
        drop(passes);
        assert!(gate.requests.lock().is_empty());
        assert_eq!(gate.bytes.available_permits(), BOUNDS.bytes);
    }

    #[test]
    fn bytes_are_bounded_over_all_credentials() {
        let gate = Gate::new(BOUNDS);
        let mut pass = gate.enter(&"a", BOUNDS.bytes).unwrap();
        let refused = gate.enter(&"b", 1).err();
        assert_eq!(refused.unwrap().code, ErrorCode::Unavailable);
        pass.shrink(BOUNDS.bytes - 1);
        assert!(gate.enter(&"b", 1).is_ok());
        assert!(gate.enter(&"b", 2).is_err());
        assert!(!gate.requests.lock().contains_key("b"), "the place is back");
        drop(pass);
        assert!(gate.enter(&"b", BOUNDS.bytes).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_with_room_or_patience() {
        let gate = Gate::new(BOUNDS);
        let pass = gate.enter(&"a", BOUNDS.bytes).unwrap();
        let patience = Duration::from_secs(1);
        let refused = gate.wait(&"b", 1, patience).await.err();
        assert_eq!(refused.unwrap().code, ErrorCode::Unavailable);
        let (late, ()) = tokio::join!(gate.wait(&"b", 1, patience), async { drop(pass) });
        assert!(late.is_ok());
    }
}
