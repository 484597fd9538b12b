//! The records of API keys on the bus.

use std::fmt;
use std::time::Duration;

use async_nats::jetstream::kv::{CreateErrorKind, Store};
use signalbox_bus::{Bus, BusError, key};
use signalbox_identity::{ApiKey, ApiKeyId, ApiKeyRecord, Limits, Principal, Role, UserId};
use time::OffsetDateTime;
use tokio::time::timeout;
use tracing::{error, warn};

use crate::rejection::Rejection;

/// How long a lookup may take; less than gateways wait, so that they hear what
/// is wrong.
const LOOKUP_PATIENCE: Duration = Duration::from_secs(2);

/// The records of all API keys. Nothing is kept in memory: what a lookup finds
/// is what the bus has.
pub(crate) struct ApiKeys {
    bucket: Store,
    /// The record, as it would be stored, of a key that nobody has. Unknown
    /// keys are checked against it, which takes as long as a known one.
    decoy: (ApiKeyId, Vec<u8>),
}

impl ApiKeys {
    /// Opens the records.
    ///
    /// # Errors
    /// When the bucket does not exist or the bus does not answer.
    pub(crate) async fn open(bus: &Bus) -> Result<Self, BusError> {
        let bucket = bus.bucket(key::API_KEYS).await?;
        let decoy = decoy();
        let stored = encode(&decoy);
        Ok(Self {
            bucket,
            decoy: (decoy.id, stored),
        })
    }

    /// Finds out whom `key` stands for.
    ///
    /// # Errors
    /// [`Rejection::NotLookedUp`] when nobody can tell, else what is wrong
    /// with the key.
    pub(crate) async fn authenticate(&self, key: &ApiKey) -> Result<Principal, Rejection> {
        let found = self.lookup(key.id()).await?;
        let (known, stored) = match &found {
            Some(stored) => (true, stored.as_slice()),
            None => (false, self.decoy.1.as_slice()),
        };
        let mut record: ApiKeyRecord = serde_json::from_slice(stored).map_err(|error| {
            error!(key = %key.id(), %error, "unreadable record of an API key");
            Rejection::NotLookedUp
        })?;
        if !known {
            // With another id the secret would not even be hashed.
            record.id = key.id().clone();
        }
        record.authenticate(key).ok_or(if known {
            Rejection::NotAccepted
        } else {
            Rejection::Unknown
        })
    }

    /// Finds out whether keys can be looked up.
    ///
    /// # Errors
    /// When they cannot.
    pub(crate) async fn probe(&self) -> Result<(), Rejection> {
        self.lookup(&self.decoy.0).await.map(drop)
    }

    async fn lookup(&self, id: &ApiKeyId) -> Result<Option<Vec<u8>>, Rejection> {
        let cause = match timeout(LOOKUP_PATIENCE, self.bucket.get(id.as_str())).await {
            Ok(Ok(found)) => return Ok(found.map(Vec::from)),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("nothing within {LOOKUP_PATIENCE:?}"),
        };
        warn!(%cause, "API key not looked up");
        Err(Rejection::NotLookedUp)
    }
}

/// Stores a record, unless there is one of its id.
///
/// # Errors
/// When the bus refuses or does not answer.
pub(crate) async fn create(bucket: &Store, record: &ApiKeyRecord) -> Result<(), BusError> {
    let failed = |cause: &dyn fmt::Display| BusError::Api {
        action: format!("store API key {}", record.id),
        cause: cause.to_string(),
    };
    match bucket
        .create(record.id.as_str(), encode(record).into())
        .await
    {
        Err(error) if error.kind() != CreateErrorKind::AlreadyExists => Err(failed(&error)),
        _ => Ok(()),
    }
}

fn encode(record: &ApiKeyRecord) -> Vec<u8> {
    serde_json::to_vec(record).expect("a record has nothing that JSON cannot express")
}

fn decoy() -> ApiKeyRecord {
    let key = ApiKey::generate();
    ApiKeyRecord {
        id: key.id().clone(),
        hash: key.hash(),
        role: Role::Agent,
        name: "nobody".to_owned(),
        subject: UserId::new("nobody").expect("a word is an id"),
        projects: Vec::new(),
        agent_id: None,
        limits: Limits::default(),
        created_at: OffsetDateTime::UNIX_EPOCH,
        revoked: true,
    }
}
