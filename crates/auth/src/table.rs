//! Records in a bucket: read from its leader, written by compare-and-set, so
//! that replicas can change them at once and none sees what no longer holds.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::kv::Store;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use futures_util::StreamExt as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use signalbox_bus::{Bus, BusError};
use tokio::time::timeout;
use tracing::{error, warn};

use crate::rejection::Rejection;

/// How long one access may take; less than gateways wait, so that they hear
/// what is wrong.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often a change is tried that others keep getting ahead of. Each attempt
/// that fails means that another succeeded.
const ATTEMPTS: usize = 32;
/// Keys that one listing looks at, so that nobody fills the memory.
const MAX_LISTED: usize = 100_000;

/// The records of one kind.
pub(crate) struct Table<T> {
    bus: Bus,
    bucket: &'static str,
    store: Store,
    /// `fn` makes it as shareable as it is: it holds no record.
    records: PhantomData<fn() -> T>,
}

/// What a key holds.
#[derive(Debug)]
pub(crate) struct Slot<T> {
    /// The record, unless there is none.
    pub(crate) record: Option<T>,
    /// The position of what is there, which a write must name.
    pub(crate) revision: u64,
}

/// Why a record was not written.
#[derive(Debug)]
pub(crate) enum WriteError {
    /// Another got ahead.
    Outdated,
    /// The bus refuses or does not answer; it may have been written.
    Failed,
}

/// What [`Table::change`] makes of a record.
pub(crate) enum Change<T, R> {
    /// Write it, and answer this.
    Write(T, R),
    /// Leave it, and answer this.
    Leave(R),
}

impl<T: Serialize + DeserializeOwned> Table<T> {
    /// Opens the bucket.
    ///
    /// # Errors
    /// When it does not exist or the bus does not answer.
    pub(crate) async fn open(bus: &Bus, bucket: &'static str) -> Result<Self, BusError> {
        Ok(Self {
            bus: bus.clone(),
            bucket,
            store: bus.bucket(bucket).await?,
            records: PhantomData,
        })
    }

    /// Reads what a key holds.
    ///
    /// # Errors
    /// [`Rejection::Unavailable`] when nobody can tell.
    pub(crate) async fn read(&self, key: &str) -> Result<Slot<T>, Rejection> {
        let unread = |cause: &dyn fmt::Display| {
            warn!(bucket = self.bucket, key, %cause, "record not read");
            Rejection::Unavailable
        };
        let subject = self.subject(key);
        let read = async {
            let name = format!("KV_{}", self.bucket);
            let stream = self.bus.jetstream().get_stream_no_info(name).await;
            let stream = stream.map_err(|error| unread(&error))?;
            match stream.get_last_raw_message_by_subject(&subject).await {
                Ok(message) => Ok(Some(message)),
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
                Err(error) => Err(unread(&error)),
            }
        };
        let found = timeout(PATIENCE, read)
            .await
            .unwrap_or_else(|_| Err(unread(&format_args!("nothing within {PATIENCE:?}"))))?;
        let Some(message) = found else {
            return Ok(Slot {
                record: None,
                revision: 0,
            });
        };
        // A deletion and an expiry leave a marker without a body.
        let gone = message.headers.get("KV-Operation").is_some()
            || message.headers.get("Nats-Marker-Reason").is_some();
        let record = if gone {
            None
        } else {
            let record = serde_json::from_slice(&message.payload).map_err(|error| {
                error!(bucket = self.bucket, key, %error, "unreadable record");
                Rejection::Unavailable
            })?;
            Some(record)
        };
        Ok(Slot {
            record,
            revision: message.sequence,
        })
    }

    /// Writes a record over what was read as `revision`; with a `lifetime` it
    /// ends by itself.
    pub(crate) async fn write(
        &self,
        key: &str,
        record: &T,
        revision: u64,
        lifetime: Option<Duration>,
    ) -> Result<(), WriteError> {
        let body = serde_json::to_vec(record).expect("records are made of what JSON can express");
        let mut message = PublishMessage::build()
            .payload(body.into())
            .expected_last_subject_sequence(revision);
        if let Some(lifetime) = lifetime {
            message = message.ttl(lifetime.max(Duration::from_secs(1)));
        }
        let written = async {
            let sent = self
                .bus
                .jetstream()
                .send_publish(self.subject(key), message);
            sent.await?.await
        };
        match timeout(PATIENCE, written).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) if error.kind() == PublishErrorKind::WrongLastSequence => {
                Err(WriteError::Outdated)
            }
            Ok(Err(error)) => {
                warn!(bucket = self.bucket, key, %error, "record not written");
                Err(WriteError::Failed)
            }
            Err(_) => {
                warn!(bucket = self.bucket, key, patience = ?PATIENCE, "record not written in time");
                Err(WriteError::Failed)
            }
        }
    }

    /// Changes a record by compare-and-set, as often as others get ahead.
    ///
    /// # Errors
    /// What `change` refuses with, or [`Rejection::Unavailable`].
    pub(crate) async fn change<R>(
        &self,
        key: &str,
        mut change: impl FnMut(Option<T>) -> Result<Change<T, R>, Rejection>,
    ) -> Result<R, Rejection> {
        for _ in 0..ATTEMPTS {
            let slot = self.read(key).await?;
            let (record, answer) = match change(slot.record)? {
                Change::Write(record, answer) => (record, answer),
                Change::Leave(answer) => return Ok(answer),
            };
            match self.write(key, &record, slot.revision, None).await {
                Ok(()) => return Ok(answer),
                Err(WriteError::Outdated) => {}
                Err(WriteError::Failed) => return Err(Rejection::Unavailable),
            }
        }
        warn!(bucket = self.bucket, key, "record is too contended");
        Err(Rejection::Unavailable)
    }

    /// Removes a record, whatever it is.
    ///
    /// # Errors
    /// When the bus refuses or does not answer.
    pub(crate) async fn delete(&self, key: &str) -> Result<(), BusError> {
        let deleted = self.store.delete(key).await;
        deleted.map_err(|error| BusError::Api {
            action: format!("delete {key} of {}", self.bucket),
            cause: error.to_string(),
        })
    }

    /// The keys behind `after` in their order.
    ///
    /// # Errors
    /// [`Rejection::Unavailable`] when the bus does not answer.
    pub(crate) async fn keys(&self, after: &str) -> Result<Vec<String>, Rejection> {
        let unread = |cause: &dyn fmt::Display| {
            warn!(bucket = self.bucket, %cause, "records not listed");
            Rejection::Unavailable
        };
        let mut found = self.store.keys().await.map_err(|error| unread(&error))?;
        let mut keys = Vec::new();
        while let Some(key) = found.next().await {
            let key = key.map_err(|error| unread(&error))?;
            if key.as_str() > after && keys.len() < MAX_LISTED {
                keys.push(key);
            }
        }
        keys.sort_unstable();
        Ok(keys)
    }

    /// The records behind `after` in the order of their keys that are `wanted`,
    /// at most `limit`, and whether there are more.
    ///
    /// # Errors
    /// [`Rejection::Unavailable`] when the bus does not answer.
    pub(crate) async fn page(
        &self,
        after: &str,
        limit: usize,
        wanted: impl Fn(&T) -> bool,
    ) -> Result<(Vec<T>, bool), Rejection> {
        let mut page = Vec::new();
        for key in self.keys(after).await? {
            let record = self.read(&key).await?.record;
            if let Some(record) = record.filter(&wanted) {
                if page.len() == limit {
                    return Ok((page, true));
                }
                page.push(record);
            }
        }
        Ok((page, false))
    }

    fn subject(&self, key: &str) -> String {
        format!("$KV.{}.{key}", self.bucket)
    }
}
