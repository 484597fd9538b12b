//! The public halves of signing keys on the bus, where gateways read them.

use std::fmt;

use async_nats::jetstream::kv::{Operation, Store};
use signalbox_bus::{Bus, BusError, key};
use signalbox_identity::{PublicKey, SigningKey};
use time::OffsetDateTime;
use tracing::info;

use crate::keyring::PublishedKey;

/// Puts the public half of each key on the bus, unless it is there already,
/// and finds out since when it is.
///
/// # Errors
/// When the bus refuses or does not answer.
pub(crate) async fn publish(
    bus: &Bus,
    keys: Vec<SigningKey>,
) -> Result<Vec<PublishedKey>, BusError> {
    let bucket = bus.bucket(key::SIGNING_KEYS).await?;
    let mut published = Vec::with_capacity(keys.len());
    for key in keys {
        let since = publish_one(&bucket, key.public_key()).await?;
        published.push(PublishedKey { key, since });
    }
    Ok(published)
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
