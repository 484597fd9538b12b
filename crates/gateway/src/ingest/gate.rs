//! How much may be under way at once: requests of one credential, and bytes
//! of all.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use signalbox_identity::CredentialId;
use signalbox_protocol::ErrorCode;
use signalbox_protocol::frame::fields::Complaint;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Requests of one credential at once; further ones get RATE_LIMIT.
const MAX_REQUESTS_PER_CREDENTIAL: usize = 8;
/// Bytes of bodies of all requests at once; beyond them requests get
/// UNAVAILABLE. What is made of a body while it is checked can take some
/// twenty times its size.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// Lets requests in one by one.
pub(crate) struct Gate {
    bytes: Arc<Semaphore>,
    requests: Arc<Mutex<HashMap<CredentialId, usize>>>,
}

/// A request that was let in; counts for as long as it exists.
pub(crate) struct Pass {
    _bytes: OwnedSemaphorePermit,
    credential: CredentialId,
    requests: Arc<Mutex<HashMap<CredentialId, usize>>>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            bytes: Arc::new(Semaphore::new(MAX_BYTES)),
            requests: Arc::default(),
        }
    }
}

impl Gate {
    /// Lets in a request of this credential with a body of at most `bytes`.
    ///
    /// # Errors
    /// What to tell the client when there is too much already.
    pub(crate) fn enter(&self, credential: &CredentialId, bytes: usize) -> Result<Pass, Complaint> {
        let asked = u32::try_from(bytes).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.bytes)
            .try_acquire_many_owned(asked)
            .map_err(|_| {
                Complaint::plain(
                    ErrorCode::Unavailable,
                    "too many events are arriving, try again",
                )
            })?;
        let mut requests = self.requests.lock();
        let count = requests.entry(credential.clone()).or_default();
        if *count >= MAX_REQUESTS_PER_CREDENTIAL {
            return Err(Complaint::plain(
                ErrorCode::RateLimit,
                format!(
                    "expected at most {MAX_REQUESTS_PER_CREDENTIAL} requests at once of one credential"
                ),
            ));
        }
        *count += 1;
        drop(requests);
        Ok(Pass {
            _bytes: permit,
            credential: credential.clone(),
            requests: Arc::clone(&self.requests),
        })
    }
}

impl Drop for Pass {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(id: &str) -> CredentialId {
        CredentialId::new(id).unwrap()
    }

    #[test]
    fn one_credential_does_not_take_the_places_of_another() {
        let gate = Gate::default();
        let (greedy, modest) = (credential("a"), credential("b"));
        let mut passes: Vec<Pass> = (0..MAX_REQUESTS_PER_CREDENTIAL)
            .map(|_| gate.enter(&greedy, 1).unwrap_or_else(|_| panic!("refused")))
            .collect();
        let refused = gate.enter(&greedy, 1).err().map(|complaint| complaint.code);
        assert_eq!(refused, Some(ErrorCode::RateLimit));
        assert!(gate.enter(&modest, 1).is_ok());
        passes.pop();
        assert!(gate.enter(&greedy, 1).is_ok());
        drop(passes);
        assert!(gate.requests.lock().is_empty());
        assert_eq!(gate.bytes.available_permits(), MAX_BYTES);
    }

    #[test]
    fn bytes_are_bounded_over_all_credentials() {
        let gate = Gate::default();
        let pass = gate.enter(&credential("a"), MAX_BYTES).ok();
        let refused = gate.enter(&credential("b"), 1).err();
        assert_eq!(refused.unwrap().code, ErrorCode::Unavailable);
        drop(pass);
        assert!(gate.enter(&credential("b"), 1).is_ok());
    }
}
