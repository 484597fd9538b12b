//! Logs: records that one owner appends and anyone follows from anywhere.
//!
//! A log is a subject `log.<kind>.<id>` of its kind's stream. Its records are
//! numbered from 1 without gaps by the owner, who is fenced: each append names
//! the sequence of the record before it. The server repeats what it stores on
//! `live.log.<kind>.<id>`, at most once; the numbers tell what is missing there.
//! [`feed::LogFeed`] is the other side.

pub mod feed;
mod order;

use async_nats::HeaderMap;
use bytes::Bytes;
use tracing::debug;

use crate::connection::{Bus, BusError};
use crate::fenced::{self, FenceError};
use crate::header::{self, LOG_NUMBER, LOG_OWNER, LOG_TIP};
use crate::history;
use crate::publish::{Outgoing, PublishError};
use crate::reader::Delivery;
use crate::stream;
use crate::subject::{self, LogKind};

/// The most bytes that one record should have: what readers take at once is a
/// multiple of it.
pub const RECORD_BYTES: usize = 256 * 1024;

/// Why nothing more can be appended.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A later owner has written.
    #[error("another owns the log")]
    Superseded,
    /// The former owner has written since the log was opened: open it again.
    #[error("the log was written to since it was opened")]
    Moved,
    /// The bus refuses the record itself.
    #[error(transparent)]
    Refused(PublishError),
}

/// A log as its owner writes it.
pub struct LogWriter {
    bus: Bus,
    kind: LogKind,
    id: String,
    subject: String,
    owner: u64,
    /// The last record's number; 0 = there is none.
    number: u64,
    /// Its sequence in the stream.
    sequence: u64,
}

impl LogKind {
    /// The stream of this kind.
    #[must_use]
    pub const fn stream(self) -> &'static str {
        match self {
            Self::Term => stream::TERM,
            Self::Chat => stream::CHAT,
        }
    }
}

impl LogWriter {
    /// Opens a log as its owner `owner`, whom all later owners exceed; gives its
    /// last record too, if it has one. The former owner may still append, until
    /// this one has.
    ///
    /// # Errors
    /// When the bus does not answer.
    pub async fn open(
        bus: Bus,
        kind: LogKind,
        id: &str,
        owner: u64,
    ) -> Result<(Self, Option<Delivery>), BusError> {
        let subject = subject::log(kind, id);
        let last = history::last_at_leader(&bus, kind.stream(), &subject).await?;
        let writer = Self {
            bus,
            kind,
            id: id.to_owned(),
            subject,
            owner,
            number: last.as_ref().map_or(0, number),
            sequence: last.as_ref().map_or(0, |last| last.sequence),
        };
        Ok((writer, last))
    }

    /// A log that is known to be empty.
    #[must_use]
    pub fn create(bus: Bus, kind: LogKind, id: &str, owner: u64) -> Self {
        Self {
            bus,
            kind,
            id: id.to_owned(),
            subject: subject::log(kind, id),
            owner,
            number: 0,
            sequence: 0,
        }
    }

    /// The number of the last record; 0 when there is none.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// The sequence of the last record in the stream; 0 when there is none.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Appends a record, trying for as long as it takes; gives its number. Must
    /// not be called again after it was cancelled or has failed.
    ///
    /// # Errors
    /// [`LogError`] says who else has written, or that the bus never takes it.
    pub async fn append(&mut self, payload: Bytes) -> Result<u64, LogError> {
        let number = self.number + 1;
        let mut headers = HeaderMap::new();
        headers.insert(LOG_NUMBER, number.to_string());
        headers.insert(LOG_OWNER, self.owner.to_string());
        let message = Outgoing {
            subject: self.subject.clone(),
            // The subject and not the id, which may have any characters.
            message_id: format!("{}/{}/{}", self.subject, self.owner, number),
            headers,
            payload,
        };
        match fenced::write(&self.bus, self.kind.stream(), &message, self.sequence).await {
            Ok(sequence) => {
                (self.number, self.sequence) = (number, sequence);
                Ok(number)
            }
            Err(FenceError::Overtaken(Some(tip))) if owner(&tip) < self.owner => {
                Err(LogError::Moved)
            }
            Err(FenceError::Overtaken(_)) => Err(LogError::Superseded),
            Err(FenceError::Refused(cause)) => Err(LogError::Refused(cause)),
        }
    }

    /// Repeats to those who follow the log how far it is, so that a last record
    /// that was not repeated is missed. To be called each second while the log is
    /// open, and for 30 s afterwards.
    pub async fn tell_tip(&self) {
        tell_tip(&self.bus, self.kind, &self.id, self.number).await;
    }
}

/// As [`LogWriter::tell_tip`], while the writer is at work.
pub async fn tell_tip(bus: &Bus, kind: LogKind, id: &str, number: u64) {
    let mut headers = HeaderMap::new();
    headers.insert(LOG_TIP, number.to_string());
    let subject = subject::live_log(kind, id);
    let told = bus
        .client()
        .publish_with_headers(subject, headers, Bytes::new());
    if let Err(error) = told.await {
        debug!(%error, log = %id, "tip not told");
    }
}

/// The number of a record; 0 where it has none.
#[must_use]
pub fn number(record: &Delivery) -> u64 {
    value(record, LOG_NUMBER)
}

/// The owner who has written a record.
fn owner(record: &Delivery) -> u64 {
    value(record, LOG_OWNER)
}

fn value(record: &Delivery, name: &str) -> u64 {
    let text = record
        .headers
        .as_ref()
        .and_then(|headers| header::value(headers, name));
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}
