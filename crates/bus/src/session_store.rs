//! Socket.IO sessions that clients may come back to, in the bucket `sessions`.
//!
//! An entry is found by the session's secret alone: its key is a digest of
//! that. Entries are written by compare-and-set and read from the bucket's
//! leader, so that one connection at a time has a session: whoever takes it
//! over moves the revision, and the next write of the former holder fails.
//! Entries that nobody writes expire by themselves; so do those of sessions
//! that are over.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use prost::Message as _;
use signalbox_protocol::wire::RecoverableSession;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::connection::{Bus, BusError};
use crate::key::{self, SESSIONS, SESSIONS_STREAM};
use crate::stream;

/// The most bytes of an entry: some 500 rooms with long names. What is larger
/// is not stored.
pub const MAX_ENTRY_BYTES: usize = 64 * 1024;
/// Reads and writes that one gateway has under way; more wait, within their
/// time.
const UNDER_WAY: usize = 1_024;
/// How long a read or write may take, the wait for its turn included. Clients
/// that connect wait for it, all those of a lost gateway at once.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Where an entry is, without the secret that leads there.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SessionKey(Arc<str>);

impl SessionKey {
    /// The key of the session with this `pid`.
    #[must_use]
    pub fn of(pid: &str) -> Self {
        Self(key::session(pid).into())
    }

    /// The key that [`as_str`](Self::as_str) gave.
    #[must_use]
    pub fn from_key(key: &str) -> Self {
        Self(key.into())
    }

    /// The key, which is no secret.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn subject(&self) -> String {
        format!("$KV.{SESSIONS}.{}", self.0)
    }
}

impl fmt::Debug for SessionKey {
    /// Enough to find the entry in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.get(..12).unwrap_or_default())
    }
}

/// One state of an entry; every write makes another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revision(u64);

impl Revision {
    /// There is no entry.
    pub const NONE: Self = Self(0);
}

/// An entry as it is in the bucket.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// What it says.
    pub session: RecoverableSession,
    /// The state that a write has to name.
    pub revision: Revision,
}

/// Why an entry was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another has written it since.
    #[error("another has the session")]
    Outdated,
    /// It is larger than [`MAX_ENTRY_BYTES`].
    #[error("the session takes {bytes} bytes, which is more than {MAX_ENTRY_BYTES}")]
    TooLarge {
        /// How large it is.
        bytes: usize,
    },
    /// The bus refuses or does not answer in time; it may have been written.
    #[error("the store of sessions is out of reach: {0}")]
    Unavailable(String),
}

/// The bucket of sessions. Clones share it and its bounds.
#[derive(Clone)]
pub struct SessionStore {
    bus: Bus,
    lifetime: Duration,
    permits: Arc<Semaphore>,
}

impl SessionStore {
    /// Opens the bucket.
    ///
    /// # Errors
    /// When it was not prepared by `init`, or the bus does not answer.
    pub async fn open(bus: Bus) -> Result<Self, BusError> {
        let lifetime = stream::sessions_lifetime(&bus).await?;
        Ok(Self {
            bus,
            lifetime,
            permits: Arc::new(Semaphore::new(UNDER_WAY)),
        })
    }

    /// How long an entry lasts that nobody writes again.
    #[must_use]
    pub const fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// Reads an entry from the bucket's leader.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], also for an entry that this version cannot
    /// read.
    pub async fn find(&self, key: &SessionKey) -> Result<Option<Stored>, StoreError> {
        self.in_time(self.read(key)).await
    }

    /// Writes an entry, provided that it still is as `expected` says; returns
    /// what it is from now on.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn put(
        &self,
        key: &SessionKey,
        session: &RecoverableSession,
        expected: Revision,
    ) -> Result<Revision, StoreError> {
        let bytes = session.encoded_len();
        if bytes > MAX_ENTRY_BYTES {
            return Err(StoreError::TooLarge { bytes });
        }
        let message = PublishMessage::build()
            .payload(session.encode_to_vec().into())
            .expected_last_subject_sequence(expected.0);
        self.in_time(self.write(key, message)).await
    }

    async fn in_time<T>(
        &self,
        operation: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let queued = async {
            let _permit = self.permits.acquire().await;
            operation.await
        };
        timeout(PATIENCE, queued)
            .await
            .unwrap_or_else(|_| Err(unavailable(&format!("nothing within {PATIENCE:?}"))))
    }

    async fn read(&self, key: &SessionKey) -> Result<Option<Stored>, StoreError> {
        let jetstream = self.bus.jetstream();
        let stream = jetstream
            .get_stream_no_info(SESSIONS_STREAM)
            .await
            .map_err(|error| unavailable(&error))?;
        let subject = key.subject();
        let refusal = format!("$JS.API.STREAM.MSG.GET.{SESSIONS_STREAM}");
        let last = stream.get_last_raw_message_by_subject(&subject);
        let last = self.bus.unless_refused(&refusal, last).await;
        match last.map_err(|error| unavailable(&error))? {
            Ok(message) => Ok(Some(Stored {
                session: RecoverableSession::decode(message.payload)
                    .map_err(|error| unavailable(&error))?,
                revision: Revision(message.sequence),
            })),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(unavailable(&error)),
        }
    }

    async fn write(
        &self,
        key: &SessionKey,
        message: PublishMessage,
    ) -> Result<Revision, StoreError> {
        let subject = key.subject();
        let jetstream = self.bus.jetstream();
        let written = async {
            jetstream
                .send_publish(subject.clone(), message)
                .await?
                .await
        };
        let written = self.bus.unless_refused(&subject, written).await;
        match written.map_err(|error| unavailable(&error))? {
            Ok(written) => Ok(Revision(written.sequence)),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => {
                Err(StoreError::Outdated)
            }
            Err(error) => Err(unavailable(&error)),
        }
    }
}

fn unavailable(cause: &dyn fmt::Display) -> StoreError {
    StoreError::Unavailable(cause.to_string())
}
