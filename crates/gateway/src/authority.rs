//! Who a credential stands for: access tokens are verified here with keys
//! that are kept up to date, API keys are looked up by the auth service and
//! remembered for a while. What revocations leave of a principal is all that
//! leaves this module.

mod issuers;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use parking_lot::{Mutex, RwLock};
use signalbox_bus::rpc::{self, CallError};
use signalbox_bus::trace;
use signalbox_bus::{Bus, BusError, key, subject};
use signalbox_identity::external::claimed_issuer;
use signalbox_identity::{
    ApiKey, ApiKeyHash, ApiKeyId, Credential, Expectations, ExternalIssuer, KeySet, Principal,
    PublicKey, Verdict, VerifyError,
};
use signalbox_protocol::ErrorCode;
use signalbox_protocol::wire;
use signalbox_protocol::wire::verify_key_reply::Outcome;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use self::issuers::Issuers;
use crate::auth_service::complaint;
use crate::counts::VerdictCounts;
use crate::revocation::Register;
use crate::spans;

/// How long the auth service may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often an API key is asked about while revocations of keys come in.
const KEY_ATTEMPTS: usize = 4;
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

/// What the bearer of a credential that was taken back is told.
pub(crate) const REVOKED: &str = "the credential was revoked";

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

/// A refusal, and how long it is to be withheld.
#[derive(Clone, Debug)]
pub(crate) struct Withheld {
    /// Why the credential was not accepted.
    pub(crate) refusal: Refusal,
    /// How late the client is to hear it.
    pub(crate) delay: Duration,
}

impl From<Refusal> for Withheld {
    fn from(refusal: Refusal) -> Self {
        Self {
            refusal,
            delay: Duration::ZERO,
        }
    }
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
    /// How often what is remembered was dropped: a verdict that was asked for
    /// before is not to be used after.
    forgotten: AtomicU64,
    issuers: Issuers,
    revocations: Register,
    counts: VerdictCounts,
}

impl Authority {
    /// An authority with the keys that are published now.
    ///
    /// # Errors
    /// When the key set cannot be read.
    pub(crate) async fn new(bus: Bus, expectations: Expectations) -> Result<Self, BusError> {
        let (keys, published) = read_keys(&bus).await?;
        info!(
            keys = keys.iter().count(),
            issuers = published.len(),
            "signing keys read"
        );
        let issuers = Issuers::default();
        issuers.replace(published);
        Ok(Self {
            revocations: Register::new(bus.clone()),
            bus,
            expectations,
            keys: RwLock::new(Arc::new(keys)),
            refetched: tokio::sync::Mutex::new(None),
            remembered: Mutex::default(),
            forgotten: AtomicU64::new(0),
            issuers,
            counts: VerdictCounts::default(),
        })
    }

    /// How often it has judged how.
    pub(crate) const fn counts(&self) -> &VerdictCounts {
        &self.counts
    }

    /// What no longer holds of credentials in use.
    pub(crate) const fn revocations(&self) -> &Register {
        &self.revocations
    }

    /// Drops what is remembered of an API key, and what is being asked about
    /// any.
    pub(crate) fn forget_key(&self, id: &ApiKeyId) {
        let mut remembered = self.remembered.lock();
        self.forgotten.fetch_add(1, Ordering::AcqRel);
        remembered.remove(id);
    }

    /// Drops what is remembered of all API keys.
    pub(crate) fn forget_all_keys(&self) {
        let mut remembered = self.remembered.lock();
        self.forgotten.fetch_add(1, Ordering::AcqRel);
        remembered.clear();
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
        let (keys, published) = read_keys(&self.bus).await?;
        *self.keys.write() = Arc::new(keys);
        self.issuers.replace(published);
        Ok(())
    }

    /// Finds out who presents `credential`.
    ///
    /// # Errors
    /// [`Refusal`], with a sentence for the client.
    pub(crate) async fn authenticate(&self, credential: &str) -> Result<Principal, Refusal> {
        let nobody = wire::RequestContext::default();
        let verdict = self.examine(credential, nobody).await;
        verdict.map_err(|withheld| withheld.refusal)
    }

    /// As [`authenticate`](Self::authenticate), and how late to say no.
    ///
    /// # Errors
    /// [`Withheld`], with a sentence for the client.
    pub(crate) async fn examine(
        &self,
        credential: &str,
        context: wire::RequestContext,
    ) -> Result<Principal, Withheld> {
        trace::within(spans::credential("authenticate"), async {
            let verdict = match self.check(credential, context).await {
                Ok(principal) => self.admit(principal).await.map_err(Withheld::from),
                refused => refused,
            };
            let (count, outcome) = match &verdict {
                Ok(_) => (&self.counts.accepted, "accepted"),
                Err(withheld) => match withheld.refusal {
                    Refusal::Invalid(_) => (&self.counts.refused, "refused"),
                    Refusal::Unavailable => (&self.counts.unavailable, "unavailable"),
                },
            };
            count.add(1);
            trace::note("signalbox.outcome", outcome);
            verdict
        })
        .await
    }

    /// What revocations leave of a principal, once they are known.
    async fn admit(&self, principal: Principal) -> Result<Principal, Refusal> {
        if timeout(PATIENCE, self.revocations.current()).await.is_err() {
            warn!("revocations are not known, nobody is admitted");
            return Err(Refusal::Unavailable);
        }
        self.judge(principal)
    }

    /// What revocations leave of a principal now.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] when that is nothing.
    pub(crate) fn judge(&self, principal: Principal) -> Result<Principal, Refusal> {
        match self.revocations.judge(&principal) {
            Verdict::Untouched => Ok(principal),
            Verdict::Narrowed(less) => Ok(*less),
            Verdict::Ended => Err(Refusal::Invalid(REVOKED)),
        }
    }

    async fn check(
        &self,
        credential: &str,
        context: wire::RequestContext,
    ) -> Result<Principal, Withheld> {
        match Credential::parse(credential) {
            Ok(Credential::Jwt(token)) => Ok(self.verify_token(token.expose()).await?),
            Ok(Credential::ApiKey(key)) => self.verify_key(&key, context).await,
            Err(_) => Err(Refusal::Invalid("neither an API key nor a token").into()),
        }
    }

    async fn verify_token(&self, token: &str) -> Result<Principal, Refusal> {
        let external = claimed_issuer(token)
            .filter(|issuer| *issuer != self.expectations.issuer)
            .filter(|issuer| self.issuers.find(issuer).is_some());
        let verdict = match external {
            Some(issuer) => self.verify_external(token, &issuer).await,
            None => self.verify_own(token).await?,
        };
        verdict.map_err(|error| match error {
            VerifyError::Expired => Refusal::Invalid("the token has expired"),
            VerifyError::NotYetValid => Refusal::Invalid("the token is not valid yet"),
            VerifyError::UnknownKey { .. } | VerifyError::Invalid(_) => {
                debug!(%error, "token refused");
                Refusal::Invalid("the token is not valid")
            }
        })
    }

    /// Verifies a token of an external issuer.
    async fn verify_external(&self, token: &str, issuer: &str) -> Result<Principal, VerifyError> {
        let verify = || match self.issuers.find(issuer) {
            Some(verifier) => {
                verifier.verify_at(token, self.expectations.leeway, OffsetDateTime::now_utc())
            }
            None => Err(VerifyError::UnknownKey { kid: String::new() }),
        };
        let verdict = verify();
        if !matches!(verdict, Err(VerifyError::UnknownKey { .. }))
            || !self.issuers.refresh(&self.bus, issuer, self.reread()).await
        {
            return verdict;
        }
        verify()
    }

    async fn reread(&self) {
        if let Err(error) = self.replace_keys().await {
            warn!(%error, "signing keys not read");
        }
    }

    /// Verifies a token of ours; the outer error is for the time in which
    /// nobody can tell.
    async fn verify_own(&self, token: &str) -> Result<Result<Principal, VerifyError>, Refusal> {
        let keys = Arc::clone(&*self.keys.read());
        let verdict = match keys.verify(token, &self.expectations) {
            Err(VerifyError::UnknownKey { .. }) => {
                self.refetch_keys().await?;
                let keys = Arc::clone(&*self.keys.read());
                keys.verify(token, &self.expectations)
            }
            verdict => verdict,
        };
        Ok(verdict.map(|claims| claims.principal()))
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

    async fn verify_key(
        &self,
        key: &ApiKey,
        context: wire::RequestContext,
    ) -> Result<Principal, Withheld> {
        if let Some(verdict) = self.recall(key) {
            return Ok(verdict?);
        }
        for _ in 0..KEY_ATTEMPTS {
            let asked_at = self.forgotten.load(Ordering::Acquire);
            let (verdict, delay) = self.ask_about(key, context.clone()).await;
            // A revocation may have come between question and answer, and the
            // answer be from before it.
            if self.remember(key, &verdict, asked_at) {
                return verdict.map_err(|refusal| Withheld { refusal, delay });
            }
        }
        warn!("API key not checked: revocations keep coming");
        Err(Refusal::Unavailable.into())
    }

    /// Has the auth service say who an API key belongs to, and how late to
    /// answer if to nobody.
    async fn ask_about(
        &self,
        key: &ApiKey,
        context: wire::RequestContext,
    ) -> (Result<Principal, Refusal>, Duration) {
        let request = wire::VerifyKeyRequest {
            api_key: key.expose().expose().to_owned(),
            context: Some(context),
        };
        let mut delay = Duration::ZERO;
        let reply: Result<wire::VerifyKeyReply, CallError> =
            rpc::call(&self.bus, subject::VERIFY_KEY, &request, None, PATIENCE).await;
        let verdict = match reply.map(|reply| reply.outcome) {
            Ok(Some(Outcome::Principal(principal))) => {
                Principal::try_from(principal).map_err(|_| Refusal::Unavailable)
            }
            Ok(Some(Outcome::Refusal(refusal))) => {
                delay = Duration::from_millis(refusal.delay_ms.into());
                match complaint(refusal).code {
                    ErrorCode::Unavailable => Err(Refusal::Unavailable),
                    _ => Err(Refusal::Invalid("the API key is not valid")),
                }
            }
            Ok(None) => Err(Refusal::Unavailable),
            Err(error) => {
                warn!(%error, "API key not checked");
                Err(Refusal::Unavailable)
            }
        };
        (verdict, delay)
    }

    fn recall(&self, key: &ApiKey) -> Option<Result<Principal, Refusal>> {
        let remembered = self.remembered.lock();
        let found = remembered.get(key.id())?;
        let current = found.until > Instant::now() && found.hash == key.hash();
        current.then(|| found.verdict.clone())
    }

    /// Remembers a verdict that was asked for at `asked_at`, by the count of
    /// what was forgotten; false when it is outdated.
    fn remember(&self, key: &ApiKey, verdict: &Result<Principal, Refusal>, asked_at: u64) -> bool {
        let lifetime = match verdict {
            Ok(_) => ACCEPTED_FOR,
            Err(Refusal::Invalid(_)) => REFUSED_FOR,
            Err(Refusal::Unavailable) => return true,
        };
        let now = Instant::now();
        let mut remembered = self.remembered.lock();
        // Under the lock, as whoever forgets changes it.
        if self.forgotten.load(Ordering::Acquire) != asked_at {
            return false;
        }
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
        true
    }
}

/// Reads the published halves of all signing keys, and the external issuers.
/// What cannot be used is left out with a warning.
async fn read_keys(bus: &Bus) -> Result<(KeySet, Vec<ExternalIssuer>), BusError> {
    let store = bus.bucket(key::SIGNING_KEYS).await?;
    let failed = |error: &dyn std::fmt::Display| BusError::Api {
        action: "read signing keys".to_owned(),
        cause: error.to_string(),
    };
    let mut ids = store.keys().await.map_err(|error| failed(&error))?;
    let mut keys: Vec<PublicKey> = Vec::new();
    let mut issuers: Vec<ExternalIssuer> = Vec::new();
    while let Some(id) = ids.next().await {
        let id = id.map_err(|error| failed(&error))?;
        let Some(value) = store.get(&id).await.map_err(|error| failed(&error))? else {
            continue;
        };
        if key::is_issuer(&id) {
            match serde_json::from_slice(&value) {
                Ok(issuer) => issuers.push(issuer),
                Err(error) => warn!(key = %id, %error, "external issuer left out"),
            }
            continue;
        }
        match serde_json::from_slice(&value) {
            Ok(key) => keys.push(key),
            Err(error) => warn!(kid = %id, %error, "signing key left out"),
        }
    }
    Ok((keys.into_iter().collect(), issuers))
}
