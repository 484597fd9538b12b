//! The records of API keys on the bus.

use std::fmt;

use async_nats::jetstream::kv::{CreateErrorKind, Store};
use signalbox_bus::{Bus, BusError, key};
use signalbox_identity::{ApiKey, ApiKeyId, ApiKeyRecord, Grant, Limits, Principal, Role, UserId};
use time::OffsetDateTime;

use crate::rejection::Rejection;
use crate::revoker::Standing;
use crate::table::{Change, Table};

/// The records of all API keys. Nothing is kept in memory: what a lookup finds
/// is what the bus has.
pub(crate) struct ApiKeys {
    table: Table<ApiKeyRecord>,
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
        let decoy = decoy();
        let stored = encode(&decoy);
        Ok(Self {
            table: Table::open(bus, key::API_KEYS).await?,
            decoy: (decoy.id, stored),
        })
    }

    /// Finds out whom `key` stands for.
    ///
    /// # Errors
    /// [`Rejection::Unavailable`] when nobody can tell, else what is wrong
    /// with the key.
    pub(crate) async fn authenticate(&self, key: &ApiKey) -> Result<Principal, Rejection> {
        let found = self.find(key.id()).await?;
        let known = found.is_some();
        let record = found.unwrap_or_else(|| {
            let mut decoy: ApiKeyRecord =
                serde_json::from_slice(&self.decoy.1).expect("it was encoded by us");
            // With another id the secret would not even be hashed.
            decoy.id = key.id().clone();
            decoy
        });
        record.authenticate(key).ok_or(Rejection::BadKey(if known {
            "wrong secret, or revoked"
        } else {
            "unknown"
        }))
    }

    /// The record of a key.
    ///
    /// # Errors
    /// [`Rejection::Unavailable`].
    pub(crate) async fn find(&self, id: &ApiKeyId) -> Result<Option<ApiKeyRecord>, Rejection> {
        Ok(self.table.read(id.as_str()).await?.record)
    }

    /// Whom a key stands for that was authenticated earlier; `None` when it is
    /// no longer accepted.
    ///
    /// # Errors
    /// [`Rejection::Unavailable`].
    pub(crate) async fn principal(&self, id: &ApiKeyId) -> Result<Option<Principal>, Rejection> {
        let record = self.find(id).await?.filter(|record| !record.revoked);
        Ok(record.map(|record| record.principal()))
    }

    /// What holds of a key now.
    ///
    /// # Errors
    /// [`Rejection::Unavailable`].
    pub(crate) async fn standing(&self, id: &ApiKeyId) -> Result<Standing, Rejection> {
        let record = self.find(id).await?;
        Ok(match record.filter(|record| !record.revoked) {
            None => Standing::Gone,
            Some(record) => Standing::Grants(Grant {
                role: record.role,
                projects: record.projects,
                agent_id: record.agent_id,
                limits: record.limits,
            }),
        })
    }

    /// Stores a new key.
    ///
    /// # Errors
    /// [`Rejection::Unavailable`].
    pub(crate) async fn add(&self, record: &ApiKeyRecord) -> Result<(), Rejection> {
        self.table
            .change(record.id.as_str(), |found| match found {
                // Ids have 60 bits.
                Some(_) => Err(Rejection::Internal),
                None => Ok(Change::Write(record.clone(), ())),
            })
            .await
    }

    /// Changes a key that there is, and returns what has become of it.
    ///
    /// # Errors
    /// [`Rejection::NotFound`], [`Rejection::Unavailable`], or what `change`
    /// refuses with.
    pub(crate) async fn change(
        &self,
        id: &ApiKeyId,
        mut change: impl FnMut(&mut ApiKeyRecord) -> Result<(), Rejection>,
    ) -> Result<ApiKeyRecord, Rejection> {
        self.table
            .change(id.as_str(), |found| {
                let mut record = found.ok_or(Rejection::NotFound("key"))?;
                let before = record.clone();
                change(&mut record)?;
                Ok(if record == before {
                    Change::Leave(record)
                } else {
                    Change::Write(record.clone(), record)
                })
            })
            .await
    }

    /// The keys behind the id `after`, at most `limit`, and whether there are
    /// more.
    ///
    /// # Errors
    /// [`Rejection::Unavailable`].
    pub(crate) async fn page(
        &self,
        after: &str,
        limit: usize,
    ) -> Result<(Vec<ApiKeyRecord>, bool), Rejection> {
        self.table.page(after, limit, |_| true).await
    }

    /// The ids of all keys that act as `subject`.
    ///
    /// # Errors
    /// [`Rejection::Unavailable`].
    pub(crate) async fn of_subject(&self, subject: &UserId) -> Result<Vec<ApiKeyId>, Rejection> {
        let mut ids = Vec::new();
        for key in self.table.keys("").await? {
            let record = self.table.read(&key).await?.record;
            ids.extend(
                record
                    .filter(|record| record.subject == *subject)
                    .map(|record| record.id),
            );
        }
        Ok(ids)
    }

    /// Finds out whether keys can be looked up.
    ///
    /// # Errors
    /// When they cannot.
    pub(crate) async fn probe(&self) -> Result<(), Rejection> {
        self.find(&self.decoy.0).await.map(drop)
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
