//! One channel on the way back: a window of the stream at a time, larger where
//! little is on the channel and smaller where much is.

use std::time::Duration;

use signalbox_bus::history::{self, Start};
use signalbox_bus::reader::Delivery;
use signalbox_bus::stream::TOPICS;
use signalbox_bus::{Bus, BusError, header, stream, subject};
use signalbox_protocol::catalogue::Channel;
use signalbox_protocol::timestamp::Timestamp;

use super::super::arguments::Period;
use super::{Found, Keep, Picked};

/// Events that are read at once.
const PAGE: usize = 256;
/// Sequences of the first window of a channel.
const FIRST_WINDOW: u64 = 512;
/// Events in a window beyond which a smaller one is taken; with fewer than a
/// quarter the next one is larger.
const WINDOW_EVENTS: usize = 1_024;
/// Bytes in a window beyond which a smaller one is taken.
const WINDOW_BYTES: usize = 4 * 1024 * 1024;
/// By how much windows grow.
const GROWTH: u64 = 4;
/// By how much windows shrink.
const SHRINK: u64 = 8;
/// How far producers' clocks may be ahead of the server's: what was stored
/// earlier than this before `since` happened before it.
const AHEAD: Duration = Duration::from_secs(5 * 60);
/// How late most events are stored. With an `until` that is past, what was stored
/// later than this behind it is looked at last.
const LATE: Duration = Duration::from_secs(15 * 60);

/// One channel on the way back.
pub(super) struct Lane<T> {
    channel: Channel,
    filter: String,
    /// The first sequence of the channel.
    floor: u64,
    /// The highest sequence that was not looked at yet.
    next: u64,
    /// How many sequences are looked at next.
    width: u64,
    /// First and last sequence of what is looked at when the begin is reached:
    /// what was stored long after the period's end.
    later: Option<(u64, u64)>,
    /// Whether that is what is looked at.
    is_later: bool,
    /// Back to when it was looked at.
    pub(super) back_to: Option<Timestamp>,
    pub(super) picked: Vec<Picked<T>>,
    pub(super) end: Option<End>,
}

/// Why a lane ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The period, or the channel, is at its begin.
    Reached,
    /// Enough is picked.
    Enough,
    /// A bound is reached.
    Bound,
}

impl<T> Lane<T> {
    /// `None` for a channel without an event.
    pub(super) async fn open(
        bus: &Bus,
        channel: Channel,
        state: &stream::StreamState,
        period: &Period,
    ) -> Result<Option<Self>, BusError> {
        let filter = subject::topics_of(channel, None);
        let first = history::page(bus, TOPICS, &filter, state.first, 1).await?;
        let Some(first) = first.messages.first() else {
            return Ok(None);
        };
        let (mut next, mut later) = (state.last, None);
        if let Some(until) = period.until.and_then(|until| moved(until, LATE, true)) {
            let behind = Start::Time(until);
            let behind = history::page_from(bus, TOPICS, &filter, behind, 1).await?;
            let behind = behind.messages.first().map(|behind| behind.sequence);
            if let Some(behind) = behind.filter(|behind| *behind <= next) {
                later = Some((behind, next));
                next = behind - 1;
            }
        }
        let mut lane = Self {
            filter,
            floor: first.sequence,
            next,
            later,
            end: None,
            ..Self::unopened(channel)
        };
        if next < first.sequence {
            lane.reached();
        }
        Ok(Some(lane))
    }

    /// A channel of which nothing could be read in time.
    pub(super) fn unopened(channel: Channel) -> Self {
        Self {
            channel,
            filter: String::new(),
            floor: 0,
            next: 0,
            width: FIRST_WINDOW,
            later: None,
            is_later: false,
            back_to: None,
            picked: Vec::new(),
            end: Some(End::Bound),
        }
    }

    /// There is nothing further back.
    fn reached(&mut self) {
        match self.later.take() {
            Some((first, last)) => {
                (self.floor, self.next) = (first, last);
                (self.width, self.is_later) = (FIRST_WINDOW, true);
            }
            None => self.end = Some(End::Reached),
        }
    }

    /// Reads the next window; `None` when it has too much, and is smaller now.
    pub(super) async fn window(&mut self, bus: &Bus) -> Result<Option<Vec<Delivery>>, BusError> {
        let high = self.next;
        let low = (high + 1).saturating_sub(self.width).max(self.floor);
        let (mut from, mut bytes) = (low, 0);
        let mut messages = Vec::new();
        loop {
            let page = history::page(bus, TOPICS, &self.filter, from, PAGE).await?;
            let last = page.messages.last().map(|message| message.sequence);
            let inside = page.messages.into_iter();
            let inside = inside.filter(|message| message.sequence <= high);
            for message in inside {
                bytes += message.payload.len();
                messages.push(message);
            }
            match last {
                Some(last) if last < high && !page.is_last => from = last + 1,
                _ => break,
            }
            if messages.len() > WINDOW_EVENTS || bytes > WINDOW_BYTES {
                self.width = (self.width / SHRINK).max(1);
                return Ok(None);
            }
        }
        if messages.len() < WINDOW_EVENTS / 4 && bytes < WINDOW_BYTES / 4 {
            self.width = self.width.saturating_mul(GROWTH);
        }
        self.next = low.saturating_sub(1);
        Ok(Some(messages))
    }

    /// Picks from the window that was read last.
    pub(super) fn pick(
        &mut self,
        messages: &[Delivery],
        period: &Period,
        keep: Keep,
        pick: &mut impl FnMut(Found) -> Option<T>,
    ) {
        let begin = period.since.and_then(|since| moved(since, AHEAD, false));
        for message in messages.iter().rev() {
            let stored = stored_at(message);
            if let (Some(begin), Some(stored)) = (begin, stored)
                && stored < begin
            {
                self.reached();
                return;
            }
            if !self.is_later {
                self.back_to = stored.or(self.back_to);
            }
            let found = Found::of(message, self.channel);
            let Some(found) = found.filter(|found| period.contains(found.time)) else {
                continue;
            };
            let (time, seq) = (found.time, found.event.seq);
            let Some(item) = pick(found) else { continue };
            self.picked.push(Picked { time, seq, item });
            match keep {
                Keep::Newest(most) if self.picked.len() >= most => {
                    self.end = Some(End::Enough);
                    return;
                }
                Keep::Oldest(most) if self.picked.len() > most => self.drop_newest(),
                Keep::Newest(_) | Keep::Oldest(_) => {}
            }
        }
        if self.next < self.floor {
            self.reached();
        }
    }

    fn drop_newest(&mut self) {
        let places = self.picked.iter().enumerate();
        let newest = places.max_by_key(|(_, one)| (one.time, one.seq));
        if let Some((place, _)) = newest {
            self.picked.swap_remove(place);
        }
    }
}

/// When the server stored a message.
pub(super) fn stored_at(message: &Delivery) -> Option<Timestamp> {
    let headers = message.headers.as_ref()?;
    Timestamp::parse(header::value(headers, header::STORED_AT)?)
}

fn moved(time: Timestamp, by: Duration, forward: bool) -> Option<Timestamp> {
    let by = i64::try_from(by.as_millis()).ok()?;
    let millis = time.unix_millis();
    Timestamp::from_unix_millis(if forward { millis + by } else { millis - by })
}
