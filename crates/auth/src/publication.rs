//! The public halves of signing keys on the bus, where gateways read them.

use std::fmt;

use async_nats::jetstream::kv::{Operation, Store};
use futures_util::StreamExt as _;
use signalbox_bus::{Bus, BusError, key};
use signalbox_identity::{PublicKey, SigningKey};
use time::OffsetDateTime;
use tracing::{info, warn};

use crate::keyring::PublishedKey;

/// The bucket of public halves.
pub(crate) struct Publication {
    bucket: Store,
}

impl Publication {
    /// Opens the bucket.
    ///
    /// # Errors
    /// When it does not exist or the bus does not answer.
    pub(crate) async fn open(bus: &Bus) -> Result<Self, BusError> {
        Ok(Self {
            bucket: bus.bucket(key::SIGNING_KEYS).await?,
        })
    }

    /// Puts the public half of a key on the bus, unless it is there already, and
    /// finds out since when it is.
    ///
    /// # Errors
    /// When the bus refuses or does not answer.
    pub(crate) async fn publish(&self, key: SigningKey) -> Result<PublishedKey, BusError> {
        let since = publish_one(&self.bucket, key.public_key()).await?;
        Ok(PublishedKey { key, since })
    }

    /// Takes a public half off the bus: what it signed is no longer accepted.
    ///
    /// # Errors
    /// When the bus refuses or does not answer.
    pub(crate) async fn withdraw(&self, kid: &str) -> Result<(), BusError> {
        let failed = |cause: &dyn fmt::Display| BusError::Api {
            action: format!("withdraw signing key {kid}"),
            cause: cause.to_string(),
        };
        let found = self.bucket.get(kid).await.map_err(|error| failed(&error))?;
        if found.is_some() {
            let deleted = self.bucket.delete(kid).await;
            deleted.map_err(|error| failed(&error))?;
            info!(%kid, "signing key withdrawn");
        }
        Ok(())
    }

    /// All public halves, those of other replicas' keys too.
    ///
    /// # Errors
    /// When the bus refuses or does not answer.
    pub(crate) async fn all(&self) -> Result<Vec<PublicKey>, BusError> {
        let failed = |cause: &dyn fmt::Display| BusError::Api {
            action: "read signing keys".to_owned(),
            cause: cause.to_string(),
        };
        let mut ids = self.bucket.keys().await.map_err(|error| failed(&error))?;
        let mut keys = Vec::new();
        while let Some(id) = ids.next().await {
            let id = id.map_err(|error| failed(&error))?;
            if key::is_issuer(&id) {
                continue;
            }
            let value = self.bucket.get(&id).await.map_err(|error| failed(&error))?;
            match value.map(|value| serde_json::from_slice(&value)) {
                Some(Ok(key)) => keys.push(key),
                Some(Err(error)) => warn!(kid = %id, %error, "signing key left out"),
                None => {}
            }
        }
        Ok(keys)
    }
}

async fn publish_one(bucket: &Store, public: &PublicKey) -> Result<OffsetDateTime, BusError> {
    let kid = public.kid();
    let failed = |cause: &dyn fmt::Display| BusError::Api {
        action: format!("publish signing key {kid}"),
        cause: cause.to_string(),
    };
    let entry = bucket.entry(kid).await.map_err(|error| failed(&error))?;
    // The key is compared, not its text: written anew because a later version
    // spells it differently, it would count as new.
    let same =
        |value: &[u8]| serde_json::from_slice(value).is_ok_and(|found: PublicKey| found == *public);
    if let Some(entry) = entry
        && entry.operation == Operation::Put
        && same(&entry.value)
    {
        return Ok(entry.created);
    }
    let jwk = serde_json::to_vec(public).map_err(|error| failed(&error))?;
    bucket
        .put(kid, jwk.into())
        .await
        .map_err(|error| failed(&error))?;
    info!(%kid, "signing key published");
    Ok(OffsetDateTime::now_utc())
}
