//! Who a credential stands for: access tokens are verified here with keys
//! that are kept up to date, API keys are looked up by the auth service and
//! remembered for a while.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use parking_lot::{Mutex, RwLock};
use signalbox_bus::rpc::{self, CallError};
use signalbox_bus::trace;
use signalbox_bus::{Bus, BusError, key, subject};
use signalbox_identity::{
    ApiKey, ApiKeyHash, ApiKeyId, Credential, Expectations, KeySet, Principal, PublicKey,
    VerifyError,
};
use signalbox_protocol::ErrorCode;
use signalbox_protocol::wire;
use signalbox_protocol::wire::verify_key_reply::Outcome;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use crate::auth_service::complaint;
use crate::counts::VerdictCounts;
use crate::spans;

/// How long the auth service may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long an accepted API key is remembered.
const ACCEPTED_FOR: Duration = Duration::from_secs(60);
/// How long a refused API key is remembered.
const REFUSED_FOR: Duration = Duration::from_secs(5);
/// API keys that are remembered; beyond it the outdated go, then all.
const MAX_REMEMBERED: usize = 10_000;
/// The shortest time between two reads of the key set for unknown key ids.
const REFETCH_PAUSE: Duration = Duration::from_secs(1);
/// The pause before a lost watch of the key set is set up again.
const WATCH_PAUSE: Duration = Duration::from_millis(500);

/// Why a credential was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// It is not, or no longer, good. The sentence is fit for its bearer.
    #[error("{0}")]
    Invalid(&'static str),
    /// Nobody can tell now; it may be good.
    #[error("credentials cannot be checked now")]
    Unavailable,
}

/// The verdict on an API key, for a while.
struct Remembered {
    hash: ApiKeyHash,
    verdict: Result<Principal, Refusal>,
    until: Instant,
}

/// Checks credentials. Shared by all shards.
pub(crate) struct Authority {
    bus: Bus,
    expectations: Expectations,
    keys: RwLock<Arc<KeySet>>,
    /// When the key set was last read on demand; held while reading, so that
    /// one read serves all who wait.
    refetched: tokio::sync::Mutex<Option<Instant>>,
    remembered: Mutex<HashMap<ApiKeyId, Remembered>>,
    counts: VerdictCounts,
}

impl Authority {
    /// An authority with the keys that are published now.
    ///
    /// # Errors
    /// When the key set cannot be read.
    pub(crate) async fn new(bus: Bus, expectations: Expectations) -> Result<Self, BusError> {
        let keys = read_keys(&bus).await?;
        info!(keys = keys.iter().count(), "signing keys read");
        Ok(Self {
            bus,
            expectations,
            keys: RwLock::new(Arc::new(keys)),
            refetched: tokio::sync::Mutex::new(None),
            remembered: Mutex::default(),
            counts: VerdictCounts::default(),
        })
    }

    /// How often it has judged how.
    pub(crate) const fn counts(&self) -> &VerdictCounts {
        &self.counts
    }

    /// Keeps the key set up to date, for as long as it is polled.
    pub(crate) async fn follow_keys(self: Arc<Self>) {
        loop {
            if let Err(error) = self.watch().await {
                debug!(%error, "signing keys not watched");
            }
            sleep(WATCH_PAUSE).await;
        }
    }

    async fn watch(&self) -> Result<(), BusError> {
        let store = self.bus.bucket(key::SIGNING_KEYS).await?;
        let failed = |error: &dyn std::fmt::Display| BusError::Api {
            action: "watch signing keys".to_owned(),
            cause: error.to_string(),
        };
        let mut changes = store.watch_all().await.map_err(|error| failed(&error))?;
        // What changed while nobody watched.
        self.replace_keys().await?;
        while let Some(change) = changes.next().await {
            change.map_err(|error| failed(&error))?;
            self.replace_keys().await?;
        }
        Ok(())
    }

    /// The keys that tokens are verified with.
    pub(crate) fn keys(&self) -> Arc<KeySet> {
        Arc::clone(&*self.keys.read())
    }

    async fn replace_keys(&self) -> Result<(), BusError> {
        let keys = read_keys(&self.bus).await?;
        *self.keys.write() = Arc::new(keys);
        Ok(())
    }

    /// Finds out who presents `credential`.
    ///
    /// # Errors
    /// [`Refusal`], with a sentence for the client.
    pub(crate) async fn authenticate(&self, credential: &str) -> Result<Principal, Refusal> {
        trace::within(spans::credential("authenticate"), async {
            let verdict = self.check(credential).await;
            let (count, outcome) = match &verdict {
                Ok(_) => (&self.counts.accepted, "accepted"),
                Err(Refusal::Invalid(_)) => (&self.counts.refused, "refused"),
                Err(Refusal::Unavailable) => (&self.counts.unavailable, "unavailable"),
            };
            count.add(1);
            trace::note("signalbox.outcome", outcome);
            verdict
        })
        .await
    }

    async fn check(&self, credential: &str) -> Result<Principal, Refusal> {
        match Credential::parse(credential) {
            Ok(Credential::Jwt(token)) => self.verify_token(token.expose()).await,
            Ok(Credential::ApiKey(key)) => self.verify_key(&key).await,
            Err(_) => Err(Refusal::Invalid("neither an API key nor a token")),
        }
    }

    async fn verify_token(&self, token: &str) -> Result<Principal, Refusal> {
        let keys = Arc::clone(&*self.keys.read());
        let verdict = match keys.verify(token, &self.expectations) {
            Err(VerifyError::UnknownKey { .. }) => {
                self.refetch_keys().await?;
                let keys = Arc::clone(&*self.keys.read());
                keys.verify(token, &self.expectations)
            }
            verdict => verdict,
        };
        match verdict {
            Ok(claims) => Ok(claims.principal()),
            Err(VerifyError::Expired) => Err(Refusal::Invalid("the token has expired")),
            Err(VerifyError::NotYetValid) => Err(Refusal::Invalid("the token is not valid yet")),
            Err(error @ (VerifyError::UnknownKey { .. } | VerifyError::Invalid(_))) => {
                debug!(%error, "token refused");
                Err(Refusal::Invalid("the token is not valid"))
            }
        }
    }

    /// Reads the key set for a key id that it lacks, rarely enough that made-up
    /// ids are no burden.
    async fn refetch_keys(&self) -> Result<(), Refusal> {
        let mut refetched = self.refetched.lock().await;
        if refetched.is_some_and(|last| last.elapsed() < REFETCH_PAUSE) {
            return Ok(());
        }
        *refetched = Some(Instant::now());
        self.replace_keys().await.map_err(|error| {
            warn!(%error, "signing keys not read");
            Refusal::Unavailable
        })
    }

    async fn verify_key(&self, key: &ApiKey) -> Result<Principal, Refusal> {
        if let Some(verdict) = self.recall(key) {
            return verdict;
        }
        let request = wire::VerifyKeyRequest {
            api_key: key.expose().expose().to_owned(),
            ..wire::VerifyKeyRequest::default()
        };
        let reply: Result<wire::VerifyKeyReply, CallError> =
            rpc::call(&self.bus, subject::VERIFY_KEY, &request, None, PATIENCE).await;
        let verdict = match reply.map(|reply| reply.outcome) {
            Ok(Some(Outcome::Principal(principal))) => {
                Principal::try_from(principal).map_err(|_| Refusal::Unavailable)
            }
            Ok(Some(Outcome::Refusal(refusal))) => match complaint(refusal).code {
                ErrorCode::Unavailable => Err(Refusal::Unavailable),
                _ => Err(Refusal::Invalid("the API key is not valid")),
            },
            Ok(None) => Err(Refusal::Unavailable),
            Err(error) => {
                warn!(%error, "API key not checked");
                Err(Refusal::Unavailable)
            }
        };
        self.remember(key, &verdict);
        verdict
    }

    fn recall(&self, key: &ApiKey) -> Option<Result<Principal, Refusal>> {
        let remembered = self.remembered.lock();
        let found = remembered.get(key.id())?;
        let current = found.until > Instant::now() && found.hash == key.hash();
        current.then(|| found.verdict.clone())
    }

    fn remember(&self, key: &ApiKey, verdict: &Result<Principal, Refusal>) {
        let lifetime = match verdict {
            Ok(_) => ACCEPTED_FOR,
            Err(Refusal::Invalid(_)) => REFUSED_FOR,
            Err(Refusal::Unavailable) => return,
        };
        let now = Instant::now();
        let mut remembered = self.remembered.lock();
        if remembered.len() >= MAX_REMEMBERED {
            remembered.retain(|_, entry| entry.until > now);
        }
        if remembered.len() >= MAX_REMEMBERED {
            remembered.clear();
        }
        let entry = Remembered {
            hash: key.hash(),
            verdict: verdict.clone(),
            until: now + lifetime,
        };
        remembered.insert(key.id().clone(), entry);
    }
}

/// Reads the published halves of all signing keys. One that cannot be used is
/// left out with a warning.
async fn read_keys(bus: &Bus) -> Result<KeySet, BusError> {
    let store = bus.bucket(key::SIGNING_KEYS).await?;
    let failed = |error: &dyn std::fmt::Display| BusError::Api {
        action: "read signing keys".to_owned(),
        cause: error.to_string(),
    };
    let mut ids = store.keys().await.map_err(|error| failed(&error))?;
    let mut keys: Vec<PublicKey> = Vec::new();
    while let Some(id) = ids.next().await {
        let id = id.map_err(|error| failed(&error))?;
        if key::is_issuer(&id) {
            continue;
        }
        let Some(value) = store.get(&id).await.map_err(|error| failed(&error))? else {
            continue;
        };
        match serde_json::from_slice(&value) {
            Ok(key) => keys.push(key),
            Err(error) => warn!(kid = %id, %error, "signing key left out"),
        }
    }
    Ok(keys.into_iter().collect())
}
