//! A command's log, followed from its beginning to its end: what the command has
//! written last, and how it ended. Whatever the bus repeats or leaves out, the feed
//! below makes up for; relays may change hands meanwhile.

use std::collections::BTreeMap;

use prost::Message as _;
use signalbox_bus::Bus;
use signalbox_bus::log::feed::{Fed, LogFeed};
use signalbox_bus::subject::LogKind;
use signalbox_protocol::wire::{TermEnded, TermQueued, TermRecord, term_record::Record};
use tracing::warn;

use super::request::Request;
use super::tail::Tail;

/// What a log amounts to.
#[derive(Clone, Debug)]
pub(super) enum Followed {
    /// This is how the command ended.
    Ended(Box<TermEnded>),
    /// It is the log of another command than was asked for: whoever asks for one
    /// by dialect `fleet` chooses a key freely.
    Another,
}

/// What a command has written so far.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    most: usize,
    /// By stream, as the log names it.
    pub(super) tails: BTreeMap<i32, Tail>,
    /// Whether the log lacks something that was written.
    pub(super) is_incomplete: bool,
    /// Whether the agent has begun with it.
    pub(super) has_started: bool,
}

/// The log of a command on its way to its end.
pub(super) struct Following {
    feed: LogFeed,
    seen: Seen,
    command: String,
    args: Vec<String>,
    by: String,
    done: Option<Followed>,
}

impl Following {
    /// Of the command that was asked for; keeps so many bytes of each stream.
    pub(super) fn new(bus: Bus, request: &Request, most: usize) -> Self {
        Self {
            feed: LogFeed::one(bus, LogKind::Term, &request.command_id),
            seen: Seen::new(most),
            command: request.command.clone(),
            args: request.args.clone(),
            by: request.by.clone(),
            done: None,
        }
    }

    /// What was seen so far.
    pub(super) const fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Reads on to the end. Cancelling loses nothing.
    pub(super) async fn end(&mut self) -> Followed {
        loop {
            if let Some(done) = &self.done {
                return done.clone();
            }
            // All of them at once, with nothing awaited in between.
            for fed in self.feed.next().await {
                self.take(fed);
            }
        }
    }

    fn take(&mut self, fed: Fed) {
        let record = match fed {
            Fed::Record(record) => record,
            Fed::Lost { id, from, to } => {
                warn!(command = %id, from, to, "records of the command are lost");
                self.seen.is_incomplete = true;
                return;
            }
        };
        let read = match TermRecord::decode(record.payload) {
            Ok(read) => read.record,
            Err(error) => {
                warn!(command = %record.id, number = record.number, %error, "record not understood");
                return;
            }
        };
        match read {
            Some(Record::Queued(queued)) if !self.is_meant(&queued) => {
                self.done = Some(Followed::Another);
            }
            Some(Record::Ended(ended)) => {
                self.done.get_or_insert(Followed::Ended(Box::new(ended)));
            }
            Some(other) => self.seen.take(&other),
            None => {}
        }
    }

    fn is_meant(&self, queued: &TermQueued) -> bool {
        queued.command == self.command && queued.args == self.args && queued.by == self.by
    }
}

impl Seen {
    /// Nothing; keeps so many bytes of each stream.
    pub(super) const fn new(most: usize) -> Self {
        Self {
            most,
            tails: BTreeMap::new(),
            is_incomplete: false,
            has_started: false,
        }
    }

    /// Takes in a record in front of the last.
    pub(super) fn take(&mut self, record: &Record) {
        match record {
            Record::Started(_) => self.has_started = true,
            Record::Output(output) => {
                for chunk in &output.chunks {
                    let tails = self.tails.entry(chunk.stream);
                    let tail = tails.or_insert_with(|| Tail::new(self.most));
                    tail.push(chunk.offset, &chunk.data);
                }
            }
            Record::Gap(_) => self.is_incomplete = true,
            Record::Queued(_) | Record::Cleared(_) | Record::Taken(_) | Record::Ended(_) => {}
        }
    }
}
