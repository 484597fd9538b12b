//! External issuers: their keys are fetched here and published for gateways,
//! which need not reach out.
//!
//! A server that is slow, down or talks nonsense changes nothing: the keys that
//! are published stay until they are too old to be trusted.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::Value;
use signalbox_bus::{Bus, BusError, key};
use signalbox_identity::{ExternalIssuer, ExternalVerifier, Principal, Role, Trust, VerifyError};
use time::OffsetDateTime;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::error::Error;
use crate::fetch::{Fetcher, Source};
use crate::key_dir::failed;
use crate::rejection::Rejection;
use crate::table::{Slot, Table};

/// How far the clock of an external issuer may be ahead or behind.
const LEEWAY: Duration = Duration::from_secs(5);

/// How the keys of external issuers are kept up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchTimes {
    /// The shortest time between two fetches of one issuer, also after one that
    /// failed, however many unknown keys tokens name.
    pub shortest: Duration,
    /// The time between fetches that nobody asked for.
    pub usual: Duration,
    /// How long one fetch may take.
    pub patience: Duration,
    /// How long keys are trusted that could not be fetched again.
    pub stale: Duration,
}

impl Default for FetchTimes {
    fn default() -> Self {
        Self {
            shortest: Duration::from_secs(30),
            usual: Duration::from_secs(600),
            patience: Duration::from_secs(10),
            stale: Duration::from_secs(86_400),
        }
    }
}

/// An issuer, as the settings file has it.
#[derive(Clone, Debug, Deserialize)]
pub struct IssuerSettings {
    /// Where its keys are: https, or http on this machine.
    jwks_url: String,
    /// How far it is trusted.
    #[serde(flatten)]
    trust: Trust,
}

/// Reads the issuers from a JSON file, a list.
///
/// # Errors
/// Names the file and what is wrong with it.
pub(crate) fn read(path: &Path) -> Result<Vec<IssuerSettings>, Error> {
    let unusable = |problem: String| Error::Issuers {
        path: path.to_owned(),
        problem,
    };
    let text = fs::read_to_string(path).map_err(failed(path))?;
    let issuers: Vec<IssuerSettings> =
        serde_json::from_str(&text).map_err(|error| unusable(error.to_string()))?;
    for (at, issuer) in issuers.iter().enumerate() {
        let trust = &issuer.trust;
        let told = |problem: &str| unusable(format!("issuer `{}`: {problem}", trust.name));
        Source::parse(&issuer.jwks_url).map_err(|problem| told(&problem))?;
        if !signalbox_protocol::name::is_valid(&trust.name) || trust.name.contains(['|', '.']) {
            return Err(told("name: expected an id without `|` and `.`"));
        }
        if trust.audience.is_empty() || trust.issuer.is_empty() || trust.algorithms.is_empty() {
            return Err(told("issuer, audience and algorithms must not be empty"));
        }
        if trust
            .roles
            .iter()
            .any(|mapping| mapping.ours == Role::Agent)
        {
            return Err(told("roles: agents have API keys"));
        }
        let twice = |other: &IssuerSettings| {
            other.trust.name == trust.name || other.trust.issuer == trust.issuer
        };
        if issuers[..at].iter().any(twice) {
            return Err(told("name or issuer: given twice"));
        }
    }
    Ok(issuers)
}

/// One issuer.
pub(crate) struct Issuer {
    settings: IssuerSettings,
    source: Source,
    /// When a fetch last began; held while fetching, so that one serves all who
    /// wait.
    attempted: Mutex<Option<tokio::time::Instant>>,
}

/// All issuers.
pub(crate) struct Issuers {
    table: Table<ExternalIssuer>,
    issuers: Vec<Issuer>,
    fetcher: Arc<Fetcher>,
    times: FetchTimes,
}

impl Issuers {
    /// Opens the bucket.
    ///
    /// # Errors
    /// When it does not exist or the bus does not answer.
    pub(crate) async fn open(
        bus: &Bus,
        settings: Vec<IssuerSettings>,
        times: FetchTimes,
    ) -> Result<Self, BusError> {
        let issuers = settings.into_iter().filter_map(|settings| {
            Some(Issuer {
                source: Source::parse(&settings.jwks_url).ok()?,
                settings,
                attempted: Mutex::default(),
            })
        });
        Ok(Self {
            table: Table::open(bus, key::SIGNING_KEYS).await?,
            issuers: issuers.collect(),
            fetcher: Arc::new(Fetcher::new()),
            times,
        })
    }

    /// Keeps the keys of all issuers up to date, for as long as it is polled.
    pub(crate) async fn follow(&self) {
        loop {
            if let Err(error) = self.withdraw_others().await {
                debug!(%error, "issuers not looked through");
            }
            let fetched = join_all(self.issuers.iter().map(|one| self.refresh_one(one))).await;
            let all = fetched.into_iter().all(|fetched| fetched);
            sleep(if all {
                self.times.usual
            } else {
                self.times.shortest
            })
            .await;
        }
    }

    /// Fetches the keys of the issuer with this `iss`, unless that was done a
    /// moment ago. Says whether they were fetched.
    pub(crate) async fn refresh(&self, issuer: &str) -> bool {
        match self.named(issuer) {
            Some(issuer) => self.refresh_one(issuer).await,
            None => false,
        }
    }

    /// The issuer with this `iss`, if it is trusted.
    pub(crate) fn named(&self, issuer: &str) -> Option<&Issuer> {
        let mut issuers = self.issuers.iter();
        issuers.find(|one| one.settings.trust.issuer == issuer)
    }

    /// Who holds a token of this issuer, revocations aside.
    ///
    /// # Errors
    /// [`Rejection::BadToken`], [`Rejection::Unavailable`] also where its keys
    /// could never be fetched.
    pub(crate) async fn verify(
        &self,
        issuer: &Issuer,
        token: &str,
    ) -> Result<Principal, Rejection> {
        let mut verdict = self.verify_now(issuer, token).await?;
        if matches!(verdict, Err(VerifyError::UnknownKey { .. })) && self.refresh_one(issuer).await
        {
            verdict = self.verify_now(issuer, token).await?;
        }
        verdict.map_err(|error| Rejection::BadToken(error.to_string()))
    }

    async fn verify_now(
        &self,
        issuer: &Issuer,
        token: &str,
    ) -> Result<Result<Principal, VerifyError>, Rejection> {
        let id = key::issuer(&issuer.settings.trust.name);
        let published = self.table.read(&id).await?.record;
        // Settings that changed a moment ago may not be published yet.
        let record = published.filter(|record| record.trust == issuer.settings.trust);
        let verifier = ExternalVerifier::new(record.ok_or(Rejection::Unavailable)?);
        Ok(verifier.verify_at(token, LEEWAY, OffsetDateTime::now_utc()))
    }

    async fn refresh_one(&self, issuer: &Issuer) -> bool {
        let name = &issuer.settings.trust.name;
        let mut attempted = issuer.attempted.lock().await;
        if attempted.is_some_and(|at| at.elapsed() < self.times.shortest) {
            return false;
        }
        let id = key::issuer(name);
        let Ok(slot) = self.table.read(&id).await else {
            return false;
        };
        let now = OffsetDateTime::now_utc();
        // Another replica may have done it.
        let recent = |found: &ExternalIssuer| {
            now - found.fetched_at < self.times.shortest && found.trust == issuer.settings.trust
        };
        if slot.record.as_ref().is_some_and(recent) {
            return true;
        }
        *attempted = Some(tokio::time::Instant::now());
        let fetched = timeout(self.times.patience, self.fetcher.get(&issuer.source));
        let fetched = fetched
            .await
            .unwrap_or_else(|_| Err(format!("nothing within {:?}", self.times.patience)));
        let jwks = match fetched.and_then(|body| {
            serde_json::from_slice::<Value>(&body).map_err(|_| "not JSON".to_owned())
        }) {
            Ok(jwks) => jwks,
            Err(cause) => {
                warn!(issuer = name, cause, "keys of an issuer not fetched");
                return false;
            }
        };
        self.publish(issuer, slot, jwks, now).await
    }

    async fn publish(
        &self,
        issuer: &Issuer,
        slot: Slot<ExternalIssuer>,
        jwks: Value,
        now: OffsetDateTime,
    ) -> bool {
        let trust = issuer.settings.trust.clone();
        let name = trust.name.clone();
        let record = ExternalIssuer {
            trust,
            jwks,
            fetched_at: now,
            stale_at: now + self.times.stale,
        };
        if ExternalVerifier::new(record.clone()).is_empty() {
            warn!(issuer = name, "an issuer has no usable key");
            return false;
        }
        let id = key::issuer(&name);
        if self
            .table
            .write(&id, &record, slot.revision, None)
            .await
            .is_err()
        {
            return false;
        }
        if slot.record.is_none_or(|former| former.jwks != record.jwks) {
            info!(issuer = name, "keys of an issuer published");
        }
        true
    }

    /// Takes issuers off the bus that the settings no longer have.
    async fn withdraw_others(&self) -> Result<(), BusError> {
        let ours: Vec<String> = self
            .issuers
            .iter()
            .map(|one| key::issuer(&one.settings.trust.name))
            .collect();
        let keys = self.table.keys("").await.unwrap_or_default();
        for id in keys
            .iter()
            .filter(|id| key::is_issuer(id) && !ours.contains(id))
        {
            self.table.delete(id).await?;
            info!(issuer = id, "issuer withdrawn");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusable_settings_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("issuers.json");
        let good = r#"{"name": "corp", "issuer": "https://id", "jwks_url": "https://id/k",
            "audience": "us", "algorithms": ["RS256"], "role_claim": "roles",
            "roles": [{"theirs": "a", "ours": "viewer"}]}"#;
        let problem = |text: &str| {
            fs::write(&path, text).unwrap();
            read(&path).err().map(|error| error.to_string())
        };
        assert_eq!(problem(&format!("[{good}]")), None);
        for (from, to, told) in [
            ("https://id/k", "http://id/k", "https"),
            ("\"corp\"", "\"a|b\"", "name"),
            ("\"us\"", "\"\"", "audience"),
            ("\"viewer\"", "\"agent\"", "agents"),
            ("RS256", "HS256", "HS256"),
        ] {
            let text = problem(&format!("[{}]", good.replace(from, to))).unwrap();
            assert!(text.contains(told), "{text}");
        }
        assert!(
            problem(&format!("[{good},{good}]"))
                .unwrap()
                .contains("twice")
        );
    }
}
