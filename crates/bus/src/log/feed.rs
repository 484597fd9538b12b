//! Following logs: what is stored, then what comes, each log in the order of its
//! numbers and each record once. What the server's repeats leave out is read
//! from the stream, as is everything behind the last known sequence when the
//! link was away.

use std::collections::VecDeque;
use std::time::Duration;

use async_nats::{HeaderMap, Message, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::number;
use super::order::{Order, Place};
use crate::connection::{Bus, BusError, Link};
use crate::header::{self, LOG_NUMBER, LOG_TIP, SEQUENCE};
use crate::history;
use crate::reader::Delivery;
use crate::stream;
use crate::subject::{self, LogKind};

/// Records that are read from the stream at once.
const PAGE: usize = 256;
/// Records that are handed on at once.
const BATCH: usize = 256;
/// The pause after a failed read, and before a stream that lags is asked again.
const PAUSE: Duration = Duration::from_millis(100);
/// After this long without a word a log is over; its owner would have told its
/// tip each second.
const FORGOTTEN: Duration = Duration::from_secs(120);

/// A record of a log.
#[derive(Clone, Debug)]
pub struct Record {
    /// The log.
    pub id: String,
    /// Its number in the log, from 1.
    pub number: u64,
    /// Its sequence in the stream of all logs of the kind.
    pub sequence: u64,
    /// Its headers.
    pub headers: Option<HeaderMap>,
    /// Its body.
    pub payload: Bytes,
}

/// What a feed has to tell.
#[derive(Debug)]
pub enum Fed {
    /// A record.
    Record(Record),
    /// Records that the stream no longer has.
    Lost {
        /// The log.
        id: String,
        /// The first of them.
        from: u64,
        /// The last of them.
        to: u64,
    },
}

/// What a feed follows, with the subscription that tells what is new.
pub struct LogFeed {
    bus: Bus,
    kind: LogKind,
    /// The subject in the stream, and the one where records are repeated.
    filter: String,
    live: String,
    subscriber: Option<Subscriber>,
    order: Order,
    /// The highest sequence that was seen.
    position: u64,
    /// Read the filter from behind this sequence on.
    catching_up: Option<u64>,
    /// Logs with missing records, and the numbers that are known to exist.
    fills: VecDeque<Fill>,
    ready: VecDeque<Fed>,
    link: watch::Receiver<Link>,
    pruned: Instant,
}

/// A log of which records are missing.
struct Fill {
    id: String,
    until: u64,
}

impl LogFeed {
    /// Follows all logs of a kind, from now on.
    ///
    /// # Errors
    /// When the bus does not answer.
    pub async fn all(bus: Bus, kind: LogKind) -> Result<Self, BusError> {
        let (filter, live) = (subject::logs_of(kind), subject::live_logs_of(kind));
        Self::from_now(bus, kind, filter, live).await
    }

    /// Follows all logs of a group, from now on.
    ///
    /// # Errors
    /// When the bus does not answer.
    pub async fn group(bus: Bus, kind: LogKind, group: &str) -> Result<Self, BusError> {
        let filter = subject::logs_in(kind, group);
        let live = subject::live_logs_in(kind, group);
        Self::from_now(bus, kind, filter, live).await
    }

    async fn from_now(
        bus: Bus,
        kind: LogKind,
        filter: String,
        live: String,
    ) -> Result<Self, BusError> {
        let mut feed = Self::new(bus, kind, filter, live, 0);
        // Before the position is read, or what is stored in between is missed.
        feed.subscribe().await?;
        let state = stream::state(&feed.bus, kind.stream()).await?;
        feed.position = state.last;
        feed.order = Order::new(state.last);
        feed.catching_up = None;
        Ok(feed)
    }

    /// Follows one log from its beginning.
    #[must_use]
    pub fn one(bus: Bus, kind: LogKind, id: &str) -> Self {
        let (filter, live) = (subject::log(kind, id), subject::live_log(kind, id));
        Self::new(bus, kind, filter, live, 0)
    }

    fn new(bus: Bus, kind: LogKind, filter: String, live: String, start: u64) -> Self {
        let link = bus.link();
        Self {
            bus,
            kind,
            filter,
            live,
            subscriber: None,
            order: Order::new(start),
            position: start,
            catching_up: Some(start),
            fills: VecDeque::new(),
            ready: VecDeque::new(),
            link,
            pruned: Instant::now(),
        }
    }

    /// The highest sequence of the stream that was seen.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// Waits for records; gives at least one. Cancelling loses nothing.
    pub async fn next(&mut self) -> Vec<Fed> {
        loop {
            if !self.ready.is_empty() {
                let most = self.ready.len().min(BATCH);
                return self.ready.drain(..most).collect();
            }
            if let Err(error) = self.step().await {
                debug!(%error, filter = %self.filter, "logs not read");
                let mut link = self.link.clone();
                tokio::select! {
                    () = sleep(PAUSE) => {}
                    Ok(()) = link.changed() => {}
                }
            }
        }
    }

    async fn step(&mut self) -> Result<(), BusError> {
        if self.link.has_changed().unwrap_or(false) {
            self.relink();
        }
        if self.subscriber.is_none() {
            self.subscribe().await?;
        }
        if let Some(from) = self.catching_up {
            return self.catch_up(from).await;
        }
        if self.fills.front().is_some() {
            return self.fill().await;
        }
        let Some(subscriber) = &mut self.subscriber else {
            return Ok(());
        };
        tokio::select! {
            message = subscriber.next() => match message {
                Some(message) => self.hear_all(message),
                None => self.subscriber = None,
            },
            Ok(()) = self.link.changed() => self.relink(),
        }
        Ok(())
    }

    /// What was repeated while the link was away is lost.
    fn relink(&mut self) {
        self.link.borrow_and_update();
        let from = self.catching_up.unwrap_or(self.position);
        self.catching_up = Some(from.min(self.position));
    }

    async fn subscribe(&mut self) -> Result<(), BusError> {
        let subscriber = self
            .bus
            .client()
            .subscribe(self.live.clone())
            .await
            .map_err(|error| BusError::api("follow logs", error))?;
        // The server has heard of it before anything is read.
        self.bus
            .client()
            .flush()
            .await
            .map_err(|error| BusError::api("follow logs", error))?;
        self.subscriber = Some(subscriber);
        self.relink();
        Ok(())
    }

    /// Takes a message and whatever else has arrived.
    fn hear_all(&mut self, first: Message) {
        let now = Instant::now();
        let mut next = Some(first);
        while let Some(message) = next.take() {
            self.hear(message, now);
            if self.ready.len() < BATCH {
                next = self
                    .subscriber
                    .as_mut()
                    .and_then(|subscriber| subscriber.next().now_or_never().flatten());
            }
        }
        if now.duration_since(self.pruned) > FORGOTTEN {
            self.pruned = now;
            if let Some(then) = now.checked_sub(FORGOTTEN) {
                self.order.forget_before(then);
            }
        }
    }

    fn hear(&mut self, message: Message, now: Instant) {
        let Some(id) = subject::log_id(self.kind, &message.subject) else {
            return;
        };
        let field = |name| {
            let text = header::value(message.headers.as_ref()?, name)?;
            text.parse::<u64>().ok()
        };
        if let Some(tip) = field(LOG_TIP) {
            if tip > 0 && self.order.place(&id, tip, now) != Place::Known {
                self.miss(id, tip);
            }
            return;
        }
        let (Some(number), Some(sequence)) = (field(LOG_NUMBER), field(SEQUENCE)) else {
            return;
        };
        self.position = self.position.max(sequence);
        // While records of it are missing, it is read from the stream.
        let filling = self.fills.iter().any(|fill| fill.id == id);
        match self.order.place(&id, number, now) {
            Place::Known => {}
            Place::Next if !filling => self.hand_on(Record {
                id,
                number,
                sequence,
                headers: message.headers,
                payload: message.payload,
            }),
            Place::Next | Place::Ahead => self.miss(id, number),
        }
    }

    /// Notes that the records of a log up to `until` are wanted.
    fn miss(&mut self, id: String, until: u64) {
        match self.fills.iter_mut().find(|fill| fill.id == id) {
            Some(fill) => fill.until = fill.until.max(until),
            None => self.fills.push_back(Fill { id, until }),
        }
    }

    /// Reads on everything behind `from`.
    async fn catch_up(&mut self, from: u64) -> Result<(), BusError> {
        let stream = self.kind.stream();
        let state = stream::state(&self.bus, stream).await?;
        if state.last < from {
            // Made anew, or begun anew by its server.
            self.order.reset();
            self.position = 0;
            self.catching_up = Some(0);
            return Ok(());
        }
        let page = history::page(&self.bus, stream, &self.filter, from + 1, PAGE).await?;
        let last = page.messages.last().map(|last| last.sequence);
        let is_last = page.is_last;
        page.messages
            .into_iter()
            .for_each(|found| self.offer(found));
        self.catching_up = match (last, is_last) {
            (Some(last), false) => Some(last),
            (None, false) => Some(from),
            _ => None,
        };
        Ok(())
    }

    /// Reads on the first of the logs with missing records.
    async fn fill(&mut self) -> Result<(), BusError> {
        let Some(fill) = self.fills.front() else {
            return Ok(());
        };
        let (id, until) = (fill.id.clone(), fill.until);
        let behind = self.order.behind(&id);
        let filter = subject::log(self.kind, &id);
        let page = history::page(&self.bus, self.kind.stream(), &filter, behind + 1, PAGE).await?;
        let found = page.messages.len();
        page.messages
            .into_iter()
            .for_each(|found| self.offer(found));
        if self.order.last(&id).is_some_and(|last| last >= until) {
            self.fills.pop_front();
        } else if found == 0 {
            // The page may come from a follower that lags.
            let stream = self.kind.stream();
            match history::first_at_leader(&self.bus, stream, &filter, behind + 1).await? {
                None => self.give_up(&id, until),
                Some(_) => sleep(PAUSE).await,
            }
        }
        Ok(())
    }

    /// Takes note that the stream has no more of a log, though it had.
    fn give_up(&mut self, id: &str, until: u64) {
        self.fills.retain(|fill| fill.id != id);
        // Of a log that nothing was read of, it lies before the start.
        if let Some(last) = self.order.last(id) {
            self.ready.push_back(Fed::Lost {
                id: id.to_owned(),
                from: last + 1,
                to: until,
            });
        }
        let behind = self.order.behind(id);
        self.order.note(id, until, behind, Instant::now());
    }

    /// Hands on a record that was read from the stream, which has all there are.
    fn offer(&mut self, found: Delivery) {
        let Some(id) = subject::log_id(self.kind, &found.subject) else {
            return;
        };
        self.position = self.position.max(found.sequence);
        let number = number(&found);
        if self.order.last(&id).is_some_and(|last| last >= number) {
            return;
        }
        self.hand_on(Record {
            id,
            number,
            sequence: found.sequence,
            headers: found.headers,
            payload: found.payload,
        });
    }

    fn hand_on(&mut self, record: Record) {
        let now = Instant::now();
        let missing = self
            .order
            .note(&record.id, record.number, record.sequence, now);
        if missing > 0 {
            self.ready.push_back(Fed::Lost {
                id: record.id.clone(),
                from: record.number - missing,
                to: record.number - 1,
            });
        }
        self.ready.push_back(Fed::Record(record));
    }
}
