//! External issuers: their tokens are verified with what the auth service has
//! published of them, and it is asked to look again for a key that is missing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use signalbox_bus::rpc::{self, CallError};
use signalbox_bus::{Bus, subject};
use signalbox_identity::{ExternalIssuer, ExternalVerifier};
use signalbox_protocol::wire;
use tokio::time::Instant;
use tracing::{debug, warn};

/// How long the auth service may take to fetch the keys of an issuer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The shortest time between two such requests for one issuer.
const PAUSE: Duration = Duration::from_secs(30);

/// When an issuer's keys were last asked for; held while asking, so that one
/// request serves all who wait.
type Asked = Arc<tokio::sync::Mutex<Option<Instant>>>;

/// The issuers that are trusted, by their `iss`.
#[derive(Default)]
pub(super) struct Issuers {
    verifiers: RwLock<HashMap<String, Arc<ExternalVerifier>>>,
    asked: Mutex<HashMap<String, Asked>>,
}

impl Issuers {
    /// The verifier for tokens that claim to be of this issuer.
    pub(super) fn find(&self, issuer: &str) -> Option<Arc<ExternalVerifier>> {
        self.verifiers.read().get(issuer).cloned()
    }

    /// Takes what is published now.
    pub(super) fn replace(&self, published: Vec<ExternalIssuer>) {
        let verifiers: HashMap<_, _> = published
            .into_iter()
            .map(ExternalVerifier::new)
            .map(|verifier| (verifier.issuer().to_owned(), Arc::new(verifier)))
            .collect();
        self.asked
            .lock()
            .retain(|issuer, _| verifiers.contains_key(issuer));
        *self.verifiers.write() = verifiers;
    }

    /// Has the keys of a known issuer fetched again, and read by `read`; false
    /// when that was done a short while ago, or could not be.
    pub(super) async fn refresh(
        &self,
        bus: &Bus,
        issuer: &str,
        read: impl Future<Output = ()>,
    ) -> bool {
        let asked = Arc::clone(self.asked.lock().entry(issuer.to_owned()).or_default());
        let arrived = Instant::now();
        let mut asked = asked.lock().await;
        if let Some(last) = *asked {
            // One that ended while this one waited was for it, too.
            if last >= arrived {
                return true;
            }
            if last.elapsed() < PAUSE {
                return false;
            }
        }
        let request = wire::RefreshIssuerRequest {
            issuer: issuer.to_owned(),
        };
        let reply: Result<wire::RefreshIssuerReply, CallError> =
            rpc::call(bus, subject::REFRESH_ISSUER, &request, None, PATIENCE).await;
        let heard = match reply {
            Ok(reply) => {
                debug!(issuer, fetched = reply.fetched, "issuer asked for");
                read.await;
                true
            }
            Err(error) => {
                warn!(issuer, %error, "keys of an issuer not asked for");
                false
            }
        };
        *asked = Some(Instant::now());
        heard
    }
}
