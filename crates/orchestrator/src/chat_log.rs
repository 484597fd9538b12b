//! A session's log on the bus: appending to it, and reading back what it says.

use std::time::Duration;

use prost::Message as _;
use signalbox_bus::history;
use signalbox_bus::log::{self, LogError, LogWriter};
use signalbox_bus::reader::Delivery;
use signalbox_bus::subject::{self, LogKind};
use signalbox_bus::{Bus, BusError};
use signalbox_protocol::chat;
use signalbox_protocol::wire::ChatRecord;
use tokio::time::sleep;
use tracing::error;

/// Records that are read at once.
const PAGE: usize = 256;
/// The pause before a stream that lags is asked again.
const PAUSE: Duration = Duration::from_millis(20);
/// How often a stream that lags is asked for records that its leader has.
const ATTEMPTS: u32 = 100;

/// Why nothing more can be appended.
#[derive(Debug)]
pub(crate) enum Lost {
    /// The former owner has written since the log was read: read it again.
    Moved,
    /// Another orchestrator owns the log.
    Superseded,
    /// The bus never takes the record.
    Refused,
}

/// A record as it is stored.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    /// Its number in the log.
    pub(crate) number: u64,
    /// Its sequence in CHAT.
    pub(crate) sequence: u64,
    /// What it says.
    pub(crate) record: ChatRecord,
}

/// A session's log as its owner writes it.
pub(crate) struct ChatLog {
    bus: Bus,
    id: String,
    writer: LogWriter,
}

impl ChatLog {
    /// Opens a session's log as its owner `owner`, whom all later owners exceed;
    /// gives its last record too, if it has one.
    pub(crate) async fn open(
        bus: Bus,
        user_id: &str,
        session_id: &str,
        owner: u64,
    ) -> Result<(Self, Option<Stored>), BusError> {
        let id = chat::log_id(user_id, session_id);
        let (writer, last) = LogWriter::open(bus.clone(), LogKind::Chat, &id, owner).await?;
        let last = last.map(stored);
        Ok((Self { bus, id, writer }, last))
    }

    /// The number of the last record; 0 when there is none.
    pub(crate) const fn number(&self) -> u64 {
        self.writer.number()
    }

    /// Its sequence in CHAT.
    pub(crate) const fn sequence(&self) -> u64 {
        self.writer.sequence()
    }

    /// Appends a record, trying for as long as it takes. Must not be called again
    /// after it was cancelled or has failed.
    pub(crate) async fn append(&mut self, record: &ChatRecord) -> Result<(), Lost> {
        match self.writer.append(record.encode_to_vec().into()).await {
            Ok(_) => Ok(()),
            Err(LogError::Moved) => Err(Lost::Moved),
            Err(LogError::Superseded) => Err(Lost::Superseded),
            Err(LogError::Refused(cause)) => {
                error!(log = %self.id, %cause, "record refused");
                Err(Lost::Refused)
            }
        }
    }

    /// The record at a sequence of CHAT; `None` where it is kept no more.
    pub(crate) async fn record_at(&self, sequence: u64) -> Result<Option<Stored>, BusError> {
        read_at(&self.bus, &self.id, sequence).await
    }

    /// The records from one at `sequence` up to the log's last.
    pub(crate) async fn records_from(&self, sequence: u64) -> Result<Vec<Stored>, BusError> {
        read_from(&self.bus, &self.id, sequence, self.number()).await
    }
}

/// The records of a log from one at `sequence` up to the one of a number, and what
/// was read of those behind it.
pub(crate) async fn read_from(
    bus: &Bus,
    log_id: &str,
    sequence: u64,
    until: u64,
) -> Result<Vec<Stored>, BusError> {
    let filter = subject::log(LogKind::Chat, log_id);
    let stream = LogKind::Chat.stream();
    let mut records: Vec<Stored> = Vec::new();
    let mut from = sequence;
    for _ in 0..ATTEMPTS {
        let page = history::page(bus, stream, &filter, from, PAGE).await?;
        let is_short = page.is_last;
        records.extend(page.messages.into_iter().map(stored));
        if let Some(last) = records.last() {
            if last.number >= until {
                return Ok(records);
            }
            from = last.sequence + 1;
        }
        if is_short {
            // The page may come from a follower that lags.
            sleep(PAUSE).await;
        }
    }
    Err(BusError::Api {
        action: format!("read log {log_id}"),
        cause: "its last records do not come".to_owned(),
    })
}

/// The record of a log at a sequence of CHAT; `None` where it is kept no more.
pub(crate) async fn read_at(
    bus: &Bus,
    log_id: &str,
    sequence: u64,
) -> Result<Option<Stored>, BusError> {
    let filter = subject::log(LogKind::Chat, log_id);
    let stream = LogKind::Chat.stream();
    let page = history::page(bus, stream, &filter, sequence, 1).await?;
    let first = page.messages.into_iter().next().map(stored);
    Ok(first.filter(|first| first.sequence == sequence))
}

fn stored(found: Delivery) -> Stored {
    Stored {
        number: log::number(&found),
        sequence: found.sequence,
        // What a newer version writes may lack what this one knows; fields that
        // are not known are left out.
        record: ChatRecord::decode(found.payload).unwrap_or_default(),
    }
}
