//! Leases: the right to do what one at a time may do, for as long as it is
//! renewed.
//!
//! A lease is a key of the bucket `leases` that the bus forgets after its time
//! to live. Its holder renews it at a third of that time and takes it for lost
//! once the time has passed since the last successful renewal was **sent**, by
//! its own clock; the bus counts from a later moment, so that nobody else has
//! the lease yet.
//!
//! A lease decides who tries, and no more: a process may be stopped between
//! looking at its clock and acting. Whatever must not happen twice needs a
//! fence of its own; [`Generation`] numbers the holders for that.

mod term;
mod watch;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use bytes::Bytes;
use signalbox_protocol::cursor::{Cursor, Epoch, InvalidCursor};
use tokio::time::{Instant, timeout};
use tracing::debug;

pub use self::term::Tenure;
use self::term::{Renew, Renewal, Term};
pub use self::watch::{LeaseWatch, Leaseholders};
use crate::connection::{Bus, BusError};
use crate::key::{LEASES, LEASES_STREAM};
use crate::{header, stream};

/// The shortest time to live: the bus counts in whole seconds.
pub const SHORTEST_TTL: Duration = Duration::from_secs(1);
/// How long giving a lease up may take; afterwards it is left to expire.
const RELEASE_PATIENCE: Duration = Duration::from_secs(2);
/// What the client library calls the header that says what became of a key.
const KV_OPERATION: &str = "KV-Operation";
/// The header by which the bus says that a key has expired.
const MARKER_REASON: &str = "Nats-Marker-Reason";

/// Which of a lease's holders one is: later ones compare greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation {
    /// The bucket's life.
    epoch: Epoch,
    /// The bucket's sequence at which the lease was acquired.
    revision: u64,
}

impl Generation {
    /// The number of the generation, which is greater for later ones for as long
    /// as the bucket lives.
    #[must_use]
    pub const fn revision(self) -> u64 {
        self.revision
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.revision)
    }
}

impl FromStr for Generation {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let cursor: Cursor = text.parse()?;
        Ok(Self {
            epoch: cursor.epoch,
            revision: cursor.sequence,
        })
    }
}

/// Why a lease was not acquired.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Another has it.
    #[error("{0} has the lease")]
    Taken(String),
    /// The bus refuses or does not answer.
    #[error(transparent)]
    Bus(#[from] BusError),
}

/// The bucket of leases, as one holder uses it. Clones share it.
#[derive(Clone)]
pub struct Leases {
    bus: Bus,
    holder: Arc<str>,
    ttl: Duration,
}

/// A lease that was acquired. It lasts for as long as [`Lease::keep`] runs;
/// dropping it leaves it to expire.
pub struct Lease {
    slot: Slot,
    generation: Generation,
    term: Term,
}

/// A key of the bucket that its holder writes.
struct Slot {
    leases: Leases,
    key: String,
    /// As the holder wrote it last.
    revision: u64,
}

/// A key as it is in the bucket.
struct Entry {
    /// Its sequence; 0 where there is none.
    revision: u64,
    /// Who has the lease.
    holder: Option<String>,
}

/// Why a key was not written.
enum PutError {
    /// It has another revision than expected.
    Outdated,
    /// The bus refuses or does not answer; it may have been written.
    Failed(String),
}

impl Leases {
    /// The leases of `holder`, an id that nobody else has and that is fit for a
    /// key; each lives for `ttl`, in whole seconds and at least
    /// [`SHORTEST_TTL`].
    #[must_use]
    pub fn new(bus: Bus, holder: &str, ttl: Duration) -> Self {
        Self {
            bus,
            holder: Arc::from(holder),
            ttl: Duration::from_secs(ttl.max(SHORTEST_TTL).as_secs()),
        }
    }

    /// The id under which leases are held.
    #[must_use]
    pub fn holder(&self) -> &str {
        &self.holder
    }

    /// How long a lease lasts without renewal.
    #[must_use]
    pub const fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Takes a lease that nobody else has.
    ///
    /// # Errors
    /// [`LeaseError::Taken`] when another has it.
    pub async fn acquire(&self, key: &str) -> Result<Lease, LeaseError> {
        let failed = |cause: String| BusError::Api {
            action: format!("acquire lease {key}"),
            cause,
        };
        let epoch = stream::state(&self.bus, LEASES_STREAM).await?.epoch;
        let entry = self.read(key).await?;
        if let Some(holder) = entry.holder
            && *holder != *self.holder
        {
            return Err(LeaseError::Taken(holder));
        }
        // Counted from before it is sent, so that it ends here first.
        let sent = Instant::now();
        match self.put(key, entry.revision).await {
            Ok(revision) => Ok(Lease {
                slot: Slot {
                    leases: self.clone(),
                    key: key.to_owned(),
                    revision,
                },
                generation: Generation { epoch, revision },
                term: Term::new(self.ttl, sent),
            }),
            Err(PutError::Outdated) => Err(LeaseError::Taken("somebody faster".to_owned())),
            Err(PutError::Failed(cause)) => Err(failed(cause).into()),
        }
    }

    /// Writes the key, provided that it has the revision `expected`.
    async fn put(&self, key: &str, expected: u64) -> Result<u64, PutError> {
        let message = PublishMessage::build()
            .payload(Bytes::copy_from_slice(self.holder.as_bytes()))
            .ttl(self.ttl);
        self.write(key, message, expected).await
    }

    /// Removes the key, provided that it has the revision `expected`.
    async fn purge(&self, key: &str, expected: u64) -> Result<u64, PutError> {
        let message = PublishMessage::build()
            .header(KV_OPERATION, "PURGE")
            .header("Nats-Rollup", "sub")
            .ttl(stream::LEASE_MARKER);
        self.write(key, message, expected).await
    }

    async fn write(
        &self,
        key: &str,
        message: PublishMessage,
        expected: u64,
    ) -> Result<u64, PutError> {
        let failed = |error: &dyn fmt::Display| PutError::Failed(error.to_string());
        let message = message.expected_last_subject_sequence(expected);
        let written = async {
            self.bus
                .jetstream()
                .send_publish(subject(key), message)
                .await?
                .await
        };
        // An answer that is late is worth less than another attempt.
        match timeout(self.ttl / 3, written).await {
            Ok(Ok(written)) => Ok(written.sequence),
            Ok(Err(error)) if error.kind() == PublishErrorKind::WrongLastSequence => {
                Err(PutError::Outdated)
            }
            Ok(Err(error)) => Err(failed(&error)),
            Err(_) => Err(failed(&"no acknowledgement")),
        }
    }

    /// Reads a key from the bucket's leader.
    async fn read(&self, key: &str) -> Result<Entry, BusError> {
        let failed = |error: &dyn fmt::Display| BusError::api(format!("read lease {key}"), error);
        let stream = self
            .bus
            .jetstream()
            .get_stream_no_info(LEASES_STREAM)
            .await
            .map_err(|error| failed(&error))?;
        match stream.get_last_raw_message_by_subject(&subject(key)).await {
            Ok(message) => Ok(Entry {
                revision: message.sequence,
                holder: holder(Some(&message.headers), &message.payload),
            }),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(Entry {
                revision: 0,
                holder: None,
            }),
            Err(error) => Err(failed(&error)),
        }
    }
}

impl Lease {
    /// Which of the lease's holders this is.
    #[must_use]
    pub const fn generation(&self) -> Generation {
        self.generation
    }

    /// Tells, at any moment and to anyone, whether the lease still holds.
    #[must_use]
    pub fn tenure(&self) -> Tenure {
        self.term.tenure()
    }

    /// Renews the lease for as long as that succeeds; returns once it is lost.
    /// Cancel safe.
    pub async fn keep(&mut self) {
        self.term.keep(&mut self.slot).await;
    }

    /// Gives the lease up, so that another can have it at once.
    pub async fn release(self) {
        let Slot { key, .. } = &self.slot;
        match timeout(RELEASE_PATIENCE, self.slot.clear()).await {
            Ok(Ok(())) => {}
            Ok(Err(cause)) => debug!(%key, %cause, "lease left to expire"),
            Err(_) => debug!(%key, "lease left to expire"),
        }
    }
}

impl Slot {
    /// Removes the key, unless another has it.
    async fn clear(&self) -> Result<(), String> {
        let mut revision = self.revision;
        loop {
            match self.leases.purge(&self.key, revision).await {
                Ok(_) => return Ok(()),
                Err(PutError::Failed(cause)) => return Err(cause),
                // A renewal was cut off before its answer, or it is lost.
                Err(PutError::Outdated) => match self.current().await {
                    Ok(Some(current)) => revision = current,
                    Ok(None) => return Ok(()),
                    Err(error) => return Err(error.to_string()),
                },
            }
        }
    }

    /// The key's revision, where its holder has it still.
    async fn current(&self) -> Result<Option<u64>, BusError> {
        let entry = self.leases.read(&self.key).await?;
        let is_own = entry.holder.as_deref() == Some(&*self.leases.holder);
        Ok(is_own.then_some(entry.revision))
    }
}

impl Renew for Slot {
    async fn renew(&mut self) -> Renewal {
        let failed = |cause: &dyn fmt::Display| {
            debug!(key = %self.key, %cause, "lease not renewed");
            Renewal::Failed
        };
        match self.leases.put(&self.key, self.revision).await {
            Ok(revision) => {
                self.revision = revision;
                Renewal::Done
            }
            Err(PutError::Outdated) => match self.current().await {
                // An earlier renewal has succeeded without a word.
                Ok(Some(revision)) => {
                    self.revision = revision;
                    Renewal::Failed
                }
                Ok(None) => Renewal::Refused,
                Err(error) => failed(&error),
            },
            Err(PutError::Failed(cause)) => failed(&cause),
        }
    }
}

/// Checks that the bucket of leases is there.
///
/// # Errors
/// [`BusError::Stream`] says what to run.
pub async fn verify(bus: &Bus) -> Result<(), BusError> {
    stream::state(bus, LEASES_STREAM).await.map(|_| ())
}

/// Ends all leases, for whoever knows that all their holders are gone. Needs
/// the administrator's rights.
///
/// # Errors
/// When the bus refuses or does not answer.
pub async fn clear(bus: &Bus) -> Result<(), BusError> {
    let failed = |error: &dyn fmt::Display| BusError::api("clear leases", error);
    let stream = bus
        .jetstream()
        .get_stream_no_info(LEASES_STREAM)
        .await
        .map_err(|error| failed(&error))?;
    stream.purge().await.map_err(|error| failed(&error))?;
    Ok(())
}

fn subject(key: &str) -> String {
    format!("$KV.{LEASES}.{key}")
}

/// Who has a lease, by a message of the bucket; nobody where it says that the
/// key was removed or has expired.
fn holder(headers: Option<&HeaderMap>, payload: &[u8]) -> Option<String> {
    let removed = headers.is_some_and(|headers| {
        [KV_OPERATION, MARKER_REASON]
            .iter()
            .any(|name| header::value(headers, name).is_some())
    });
    if removed {
        return None;
    }
    Some(String::from_utf8_lossy(payload).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_generations_are_greater_also_in_a_bucket_made_anew() {
        let generation = |text: &str| text.parse::<Generation>().unwrap();
        assert!(generation("5f-10") > generation("5f-9"));
        assert!(generation("60-1") > generation("5f-10"));
        assert_eq!(generation("5f-10").to_string(), "5f-10");
        assert!("threat".parse::<Generation>().is_err());
    }

    #[test]
    fn a_removed_or_expired_key_has_no_holder() {
        assert_eq!(holder(None, b"a"), Some("a".to_owned()));
        for name in [KV_OPERATION, MARKER_REASON] {
            let mut headers = HeaderMap::new();
            headers.insert(name, "x");
            assert_eq!(holder(Some(&headers), b""), None, "{name}");
        }
    }
}
