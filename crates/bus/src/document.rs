//! State in a bucket that has one owner at a time. Whoever writes is fenced by
//! the revision that it knows: an owner that was replaced finds out when it
//! writes, and changes nothing.

use async_nats::HeaderMap;
use bytes::Bytes;

use crate::connection::{Bus, BusError};
use crate::fenced::{self, FenceError};
use crate::history;
use crate::publish::Outgoing;
use crate::reader::Delivery;

/// Documents of a page.
const PAGE: usize = 256;
/// What says that a key was removed.
const OPERATION: &str = "KV-Operation";

/// A document as its owner writes it.
pub struct Document {
    bus: Bus,
    stream: &'static str,
    subject: String,
    /// As the owner knows it; 0 = there is none.
    revision: u64,
    /// Tells this owner's writes from those of others.
    writer: String,
    writes: u64,
}

impl Document {
    /// The document at `subject` of the bucket that `stream` is, as of
    /// `revision` (0: it is not there).
    #[must_use]
    pub fn new(bus: Bus, stream: &'static str, subject: String, revision: u64) -> Self {
        Self {
            bus,
            stream,
            subject,
            revision,
            writer: format!("{:016x}", rand::random::<u64>()),
            writes: 0,
        }
    }

    /// The revision that the owner knows.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// Writes the document, trying for as long as it takes; gives its revision.
    /// Must not be called again after it was cancelled.
    ///
    /// # Errors
    /// [`FenceError::Overtaken`] when another owns it.
    pub async fn write(&mut self, body: Bytes) -> Result<u64, FenceError> {
        self.put(body, HeaderMap::new()).await
    }

    /// Removes the document.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn remove(&mut self) -> Result<u64, FenceError> {
        let mut headers = HeaderMap::new();
        headers.insert(OPERATION, "PURGE");
        headers.insert("Nats-Rollup", "sub");
        self.put(Bytes::new(), headers).await
    }

    async fn put(&mut self, body: Bytes, headers: HeaderMap) -> Result<u64, FenceError> {
        self.writes += 1;
        let message = Outgoing {
            subject: self.subject.clone(),
            message_id: format!("{}/{}", self.writer, self.writes),
            headers,
            payload: body,
        };
        self.revision = fenced::write(&self.bus, self.stream, &message, self.revision).await?;
        Ok(self.revision)
    }
}

/// Reads all documents that match the wildcard, as the stream has them; those
/// that were removed are left out.
///
/// # Errors
/// When the bus does not answer.
pub async fn read_all(
    bus: &Bus,
    stream: &'static str,
    filter: &str,
) -> Result<Vec<Delivery>, BusError> {
    let mut documents = Vec::new();
    let mut from = 1;
    loop {
        let page = history::page(bus, stream, filter, from, PAGE).await?;
        if let Some(last) = page.messages.last() {
            from = last.sequence + 1;
        }
        documents.extend(page.messages.into_iter().filter(is_there));
        if page.is_last {
            break;
        }
    }
    Ok(documents)
}

/// Reads one document from the leader, unless it is not there.
///
/// # Errors
/// When the bus does not answer.
pub async fn read(
    bus: &Bus,
    stream: &'static str,
    subject: &str,
) -> Result<Option<Delivery>, BusError> {
    history::last_at_leader(bus, stream, subject).await
}

/// Whether a message of a bucket is a document and not a removal.
#[must_use]
pub fn is_there(message: &Delivery) -> bool {
    message
        .headers
        .as_ref()
        .is_none_or(|headers| headers.get(OPERATION).is_none())
}
