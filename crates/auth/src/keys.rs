//! The signing keys of this replica, kept in step with their directory, and
//! the public halves of all replicas' keys.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use signalbox_bus::{Bus, BusError};
use signalbox_identity::PublicKey;
use time::OffsetDateTime;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::config::Options;
use crate::error::Error;
use crate::key_dir;
use crate::keyring::{Keyring, PublishedKey};
use crate::publication::Publication;
use crate::rejection::Rejection;

/// The keys, as they are now.
pub(crate) struct Keys {
    dir: PathBuf,
    publication: Publication,
    propagation: Duration,
    /// How long a key is needed after it signed for the last time.
    afterlife: Duration,
    keyring: RwLock<Arc<Keyring>>,
    /// Keys that left the directory, and when.
    gone: Mutex<Vec<(String, OffsetDateTime)>>,
}

impl Keys {
    /// Reads the directory and publishes what it holds.
    ///
    /// # Errors
    /// When there is no usable key, or the bus refuses or does not answer.
    pub(crate) async fn open(bus: &Bus, options: &Options) -> Result<Self, Error> {
        let keys = Self {
            dir: options.signing_keys.clone(),
            publication: Publication::open(bus).await?,
            propagation: options.key_propagation,
            afterlife: options.max_token_ttl + options.key_afterlife,
            keyring: RwLock::new(Arc::new(Keyring::new(Vec::new(), Duration::ZERO))),
            gone: Mutex::default(),
        };
        keys.step().await?;
        Ok(keys)
    }

    /// The keys of this replica.
    pub(crate) fn keyring(&self) -> Arc<Keyring> {
        Arc::clone(&self.keyring.read())
    }

    /// The public keys of all replicas.
    ///
    /// # Errors
    /// [`Rejection::Unavailable`].
    pub(crate) async fn published(&self) -> Result<Vec<PublicKey>, Rejection> {
        self.publication.all().await.map_err(|error| {
            warn!(%error, "signing keys not read");
            Rejection::Unavailable
        })
    }

    /// Keeps in step with the directory, for as long as it is polled.
    pub(crate) async fn follow(&self, interval: Duration) {
        loop {
            sleep(interval).await;
            if let Err(error) = self.step().await {
                warn!(%error, "signing keys stay as they are");
            }
        }
    }

    async fn step(&self) -> Result<(), Error> {
        let dir = self.dir.clone();
        let read = tokio::task::spawn_blocking(move || key_dir::read(&dir));
        let keys = read.await.map_err(|error| BusError::Api {
            action: "read the signing keys".to_owned(),
            cause: error.to_string(),
        })??;
        if keys.is_empty() {
            return Err(Error::NoSigningKey(self.dir.clone()));
        }
        let now = OffsetDateTime::now_utc();
        let mut published: Vec<PublishedKey> = Vec::new();
        for key in keys {
            let signs_since = |newer: &PublishedKey| newer.since + self.propagation;
            let retired = published.iter().map(signs_since).min();
            // What has retired is not published again, though the file stays.
            if retired.is_some_and(|at| now - at >= self.afterlife) {
                self.publication.withdraw(key.kid()).await?;
            } else {
                published.push(self.publication.publish(key).await?);
            }
        }
        let keyring = Keyring::new(published, self.propagation);
        let former = self.keyring();
        if keyring.ids() != former.ids() {
            info!(keys = ?keyring.ids(), "signing keys changed");
        }
        self.forget(&former, &keyring, now).await?;
        *self.keyring.write() = Arc::new(keyring);
        Ok(())
    }

    /// Takes keys off the bus whose files went away for long enough that none
    /// of their tokens is left. Another replica that has such a key puts it
    /// back.
    async fn forget(
        &self,
        former: &Keyring,
        keyring: &Keyring,
        now: OffsetDateTime,
    ) -> Result<(), BusError> {
        let due: Vec<String> = {
            let mut gone = self.gone.lock();
            let left = former.ids().into_iter().map(|kid| (kid.to_owned(), now));
            let left: Vec<_> = left
                .filter(|(kid, _)| !gone.iter().any(|(known, _)| known == kid))
                .collect();
            gone.extend(left);
            gone.retain(|(kid, _)| !keyring.ids().contains(&kid.as_str()));
            let due = gone.iter().filter(|(_, at)| now - *at >= self.afterlife);
            due.map(|(kid, _)| kid.clone()).collect()
        };
        for kid in due {
            self.publication.withdraw(&kid).await?;
            self.gone.lock().retain(|(gone, _)| *gone != kid);
        }
        Ok(())
    }
}
