//! Reading the logs of commands back: what a dashboard lacks at first, and what
//! a reader that begins in the middle of a log has to know of the part before.

use std::collections::VecDeque;
use std::time::Duration;

use prost::Message as _;
use signalbox_bus::history::{self, Page};
use signalbox_bus::reader::Delivery;
use signalbox_bus::stream::TERM;
use signalbox_bus::subject::{self, LogKind};
use signalbox_bus::{Bus, BusError};
use signalbox_protocol::wire::TermRecord;
use signalbox_protocol::wire::term_record::Record;
use tokio::time::sleep;
use tracing::{debug, warn};

use super::transcript::{Told, Transcript, told};

/// Records that are read at once from all logs.
const PAGE: usize = 64;
/// Records that are read at once from each of several logs.
const LOG_PAGE: usize = 16;
/// How far back in the stream the record before is looked for at first.
const LOOK_BACK: u64 = 2_000;
/// The pause before a read that failed is tried again.
const PAUSE: Duration = Duration::from_millis(250);

/// A record of a command's log, read.
pub(super) struct Entry {
    pub(super) sequence: u64,
    pub(super) command_id: String,
    pub(super) record: TermRecord,
}

/// Reads a stored message; `None` for what this version does not know.
pub(super) fn read(delivery: &Delivery) -> Option<Entry> {
    let command_id = subject::log_id(LogKind::Term, &delivery.subject)?;
    match TermRecord::decode(delivery.payload.clone()) {
        Ok(record) => Some(Entry {
            sequence: delivery.sequence,
            command_id,
            record,
        }),
        Err(error) => {
            warn!(sequence = delivery.sequence, %error, "record not understood");
            None
        }
    }
}

/// Reads until it succeeds.
async fn page(bus: &Bus, filter: &str, from: u64, most: usize) -> Page {
    loop {
        match history::page(bus, TERM, filter, from, most).await {
            Ok(page) => return page,
            Err(error) => debug!(%error, "logs not read, trying again"),
        }
        sleep(PAUSE).await;
    }
}

/// Lets a transcript know what a log has before a record of it.
pub(super) async fn prime(bus: &Bus, transcript: &mut Transcript, entry: &Entry) {
    let filter = subject::log(LogKind::Term, &entry.command_id);
    let near = entry.sequence.saturating_sub(LOOK_BACK).max(1);
    for start in [near, 1] {
        let mut next = start;
        let mut outputs = 0;
        loop {
            let page = page(bus, &filter, next, PAGE).await;
            let Some(last) = page.messages.last().map(|last| last.sequence) else {
                break;
            };
            for before in page.messages.iter().filter_map(read) {
                if before.sequence >= entry.sequence {
                    break;
                }
                outputs += usize::from(matches!(before.record.record, Some(Record::Output(_))));
                transcript.prime(&entry.command_id, &before.record);
            }
            if page.is_last || last >= entry.sequence {
                break;
            }
            next = last + 1;
        }
        let is_beginning = match &entry.record.record {
            Some(Record::Output(output)) => output.chunks.iter().all(|chunk| chunk.offset == 0),
            _ => false,
        };
        if outputs > 0 || is_beginning {
            break;
        }
    }
    // Known now, even if there is nothing.
    transcript.adopt(&entry.command_id);
}

/// The first record of a command's log; `None` where nothing is stored yet.
///
/// # Errors
/// When the bus does not answer.
pub(super) async fn first(bus: &Bus, command_id: &str) -> Result<Option<u64>, BusError> {
    let filter = subject::log(LogKind::Term, command_id);
    history::first_at_leader(bus, TERM, &filter, 1).await
}

/// Reads all logs on from a position.
pub(super) struct Walk {
    bus: Bus,
    pub(super) transcript: Transcript,
    /// Everything up to here was told.
    pub(super) reached: u64,
    /// Frames of the next record that are known.
    skip: usize,
    /// The record of which they are.
    begun: u64,
}

impl Walk {
    /// Goes on behind a record, or behind so many frames of it.
    pub(super) fn new(bus: Bus, transcript: Transcript, after: u64, part: u32) -> Self {
        let skip = usize::try_from(part).unwrap_or(usize::MAX);
        Self {
            bus,
            transcript,
            reached: if skip == 0 {
                after
            } else {
                after.saturating_sub(1)
            },
            skip,
            begun: after,
        }
    }

    /// Whether it stands between two records.
    pub(super) const fn is_whole(&self) -> bool {
        self.skip == 0
    }

    /// The frames of the next records; none when there are no more up to `goal`.
    pub(super) async fn next(&mut self, goal: u64) -> Vec<Told> {
        let filter = subject::logs_of(LogKind::Term);
        let page = page(&self.bus, &filter, self.reached + 1, PAGE).await;
        let mut all = Vec::new();
        for delivery in &page.messages {
            if let Some(entry) = read(delivery) {
                if self
                    .transcript
                    .needs_priming(&entry.command_id, &entry.record)
                {
                    prime(&self.bus, &mut self.transcript, &entry).await;
                }
                let frames =
                    self.transcript
                        .tell(entry.sequence, &entry.command_id, &entry.record, false);
                let told = told(self.transcript.epoch(), entry.sequence, frames);
                let skip = std::mem::take(&mut self.skip);
                let known = if entry.sequence == self.begun {
                    skip
                } else {
                    0
                };
                all.extend(told.into_iter().skip(known));
            }
            self.reached = delivery.sequence;
        }
        if page.messages.is_empty() {
            // A server that lags may have what its leader has; the leader may
            // have dropped what is too old.
            match history::first_at_leader(&self.bus, TERM, &filter, self.reached + 1).await {
                Ok(Some(first)) if first <= goal => sleep(PAUSE).await,
                Ok(_) => {
                    self.reached = self.reached.max(goal);
                    self.skip = 0;
                }
                Err(error) => {
                    debug!(%error, "logs not read, trying again");
                    sleep(PAUSE).await;
                }
            }
        }
        all
    }
}

/// One log on its way into a backlog.
struct Source {
    command_id: String,
    filter: String,
    next: u64,
    entries: VecDeque<Entry>,
    is_done: bool,
}

/// What several commands wrote up to a position, in the order in which it was
/// stored: so that a dashboard that is cut off in the middle can say where.
pub(super) struct Backlog {
    bus: Bus,
    pub(super) transcript: Transcript,
    sources: Vec<Source>,
    until: u64,
}

impl Backlog {
    /// The logs of these commands, each from its last clear on.
    pub(super) async fn open(
        bus: Bus,
        mut transcript: Transcript,
        commands: Vec<String>,
        until: u64,
    ) -> Self {
        let mut sources = Vec::new();
        for command_id in commands {
            let filter = subject::log(LogKind::Term, &command_id);
            let mut next = 1;
            let mut cleared = None;
            loop {
                let page = page(&bus, &filter, next, PAGE).await;
                let Some(last) = page.messages.last().map(|last| last.sequence) else {
                    break;
                };
                for entry in page.messages.iter().filter_map(read) {
                    let is_clear = matches!(entry.record.record, Some(Record::Cleared(_)));
                    if is_clear && entry.sequence <= until {
                        cleared = Some(entry.sequence);
                    }
                }
                if page.is_last || last >= until {
                    break;
                }
                next = last + 1;
            }
            if cleared.is_some() {
                transcript.adopt(&command_id);
            }
            sources.push(Source {
                command_id,
                filter,
                next: cleared.map_or(1, |cleared| cleared + 1),
                entries: VecDeque::new(),
                is_done: false,
            });
        }
        Self {
            bus,
            transcript,
            sources,
            until,
        }
    }

    /// The frames of the next record; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Vec<Told>> {
        for source in &mut self.sources {
            while source.entries.is_empty() && !source.is_done {
                let page = page(&self.bus, &source.filter, source.next, LOG_PAGE).await;
                let last = page.messages.last().map(|last| last.sequence);
                let until = self.until;
                let entries = page.messages.iter().filter_map(read);
                source
                    .entries
                    .extend(entries.filter(|entry| entry.sequence <= until));
                source.is_done = page.is_last || last.is_none_or(|last| last >= until);
                source.next = last.map_or(source.next, |last| last + 1);
            }
        }
        let next = self
            .sources
            .iter_mut()
            .filter(|source| !source.entries.is_empty())
            .min_by_key(|source| source.entries.front().map(|entry| entry.sequence))?;
        let entry = next.entries.pop_front()?;
        if self
            .transcript
            .needs_priming(&entry.command_id, &entry.record)
        {
            prime(&self.bus, &mut self.transcript, &entry).await;
        }
        debug_assert_eq!(
            next.command_id, entry.command_id,
            "a log has its own records"
        );
        let frames = self
            .transcript
            .tell(entry.sequence, &entry.command_id, &entry.record, true);
        Some(told(self.transcript.epoch(), entry.sequence, frames))
    }
}
