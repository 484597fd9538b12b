//! Reading TOPICS from its end backwards: channel by channel in turn, a window of
//! the stream at a time, within bounds of events, bytes and time. What is found
//! is picked from at once and not held.

use std::time::Duration;

use serde_json::Value;
use signalbox_bus::history::{self, Start};
use signalbox_bus::reader::Delivery;
use signalbox_bus::stream::TOPICS;
use signalbox_bus::{Bus, BusError, header, stored_event, stream, subject};
use signalbox_protocol::catalogue::{Audience, Channel};
use signalbox_protocol::timestamp::Timestamp;
use tokio::time::{Instant, timeout_at};

use super::arguments::Period;
use crate::evidence::Event;

/// What one call may look at.
const BOUNDS: Bounds = Bounds {
    events: 50_000,
    bytes: 64 * 1024 * 1024,
    time: Duration::from_secs(8),
};
/// How long before a call's deadline reading ends, so that what was found is
/// given in time.
const MARGIN: Duration = Duration::from_millis(500);
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

/// See [`BOUNDS`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) events: usize,
    pub(super) bytes: usize,
    pub(super) time: Duration,
}

/// A reading of the log that is about to begin.
pub(super) struct Walk<'b> {
    bus: &'b Bus,
    channels: Vec<Channel>,
    deadline: Instant,
    bounds: Bounds,
}

/// An event that was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) event: Event,
    pub(super) time: Timestamp,
}

/// Something picked from an event, and the event's place.
#[derive(Debug)]
pub(super) struct Picked<T> {
    pub(super) time: Timestamp,
    pub(super) seq: u64,
    pub(super) item: T,
}

/// What is picked and how much of it is kept, for each channel.
#[derive(Clone, Copy, Debug)]
pub(super) enum Keep {
    /// So many; there reading ends.
    Newest(usize),
    /// So many of what is reached last.
    Oldest(usize),
}

/// How far a walk came.
#[derive(Clone, Debug)]
pub(super) struct Looked {
    /// The time back to which everything was looked at; `None` for an empty log.
    pub(super) back_to: Option<Timestamp>,
    /// Whether that is all that there is in the period.
    pub(super) complete: bool,
    /// Where.
    pub(super) channels: Vec<Channel>,
}

impl<'b> Walk<'b> {
    /// Through these channels, until shortly before the deadline.
    pub(super) fn new(bus: &'b Bus, channels: Vec<Channel>, deadline: Instant) -> Self {
        Self {
            bus,
            channels,
            deadline,
            bounds: BOUNDS,
        }
    }

    /// Within other bounds.
    #[cfg(test)]
    pub(super) fn within(self, bounds: Bounds) -> Self {
        Self { bounds, ..self }
    }

    /// Whether a channel is walked through.
    pub(super) fn has(&self, channel: Channel) -> bool {
        self.channels.contains(&channel)
    }

    /// Leaves out the channels that are not wanted.
    pub(super) fn narrow(&mut self, wanted: impl Fn(Channel) -> bool) {
        self.channels.retain(|channel| wanted(*channel));
    }

    /// Walks back, and picks from each event of the period, newest first within a
    /// channel. What is picked comes in the order of times.
    pub(super) async fn back<T>(
        self,
        period: Period,
        keep: Keep,
        mut pick: impl FnMut(Found) -> Option<T>,
    ) -> Result<(Vec<Picked<T>>, Looked), BusError> {
        let now = Instant::now();
        let latest = self.deadline.checked_sub(MARGIN).unwrap_or(now);
        let deadline = (now + self.bounds.time).min(latest);
        let state = stream::state(self.bus, TOPICS).await?;
        let mut picked = Vec::new();
        let mut lanes: Vec<Lane<T>> = Vec::new();
        for channel in &self.channels {
            let opening = Lane::open(self.bus, *channel, &state, &period);
            match timeout_at(deadline, opening).await {
                Ok(lane) => lanes.extend(lane?),
                Err(_) => lanes.push(Lane::unopened(*channel)),
            }
        }
        let (mut events, mut bytes) = (self.bounds.events, self.bounds.bytes);
        // One window of each in turn, so that a busy channel takes no more than
        // its share.
        while lanes.iter().any(|lane| lane.end.is_none()) {
            for lane in lanes.iter_mut().filter(|lane| lane.end.is_none()) {
                if events == 0 || bytes == 0 {
                    lane.end = Some(End::Bound);
                    continue;
                }
                let window = timeout_at(deadline, lane.window(self.bus)).await;
                let Ok(window) = window else {
                    lane.end = Some(End::Bound);
                    continue;
                };
                let Some(messages) = window? else { continue };
                events = events.saturating_sub(messages.len());
                let sizes = messages.iter().map(|message| message.payload.len());
                bytes = bytes.saturating_sub(sizes.sum());
                lane.pick(&messages, &period, keep, &mut pick);
            }
        }
        let looked = self.looked(&lanes, state.first, &period).await;
        picked.extend(lanes.into_iter().flat_map(|lane| lane.picked));
        picked.sort_by_key(|one| (one.time, one.seq));
        Ok((picked, looked))
    }

    async fn looked<T>(&self, lanes: &[Lane<T>], first: u64, period: &Period) -> Looked {
        let open = lanes.iter().filter(|lane| lane.end != Some(End::Reached));
        // A lane that saw nothing at all reaches back to now.
        let now = || Timestamp::from(time::OffsetDateTime::now_utc());
        let open = open.map(|lane| lane.back_to.unwrap_or_else(now)).max();
        let complete = open.is_none();
        let back_to = match open {
            Some(back_to) => Some(back_to),
            None => match (period.since, self.begin(first).await) {
                (Some(since), Some(begin)) => Some(since.max(begin)),
                (since, begin) => since.or(begin),
            },
        };
        Looked {
            back_to,
            complete,
            channels: self.channels.clone(),
        }
    }

    /// When the oldest event of all was stored.
    async fn begin(&self, first: u64) -> Option<Timestamp> {
        let page = history::page(self.bus, TOPICS, ALL, first, 1).await.ok()?;
        stored_at(page.messages.first()?)
    }
}

/// Everything in TOPICS.
const ALL: &str = "topics.>";

/// One channel on the way back.
struct Lane<T> {
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
    back_to: Option<Timestamp>,
    picked: Vec<Picked<T>>,
    end: Option<End>,
}

/// Why a lane ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The period, or the channel, is at its begin.
    Reached,
    /// Enough is picked.
    Enough,
    /// A bound is reached.
    Bound,
}

impl<T> Lane<T> {
    /// `None` for a channel without an event.
    async fn open(
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
    fn unopened(channel: Channel) -> Self {
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
    async fn window(&mut self, bus: &Bus) -> Result<Option<Vec<Delivery>>, BusError> {
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
    fn pick(
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
}

impl<T> Lane<T> {
    fn drop_newest(&mut self) {
        let places = self.picked.iter().enumerate();
        let newest = places.max_by_key(|(_, one)| (one.time, one.seq));
        if let Some((place, _)) = newest {
            self.picked.swap_remove(place);
        }
    }
}

impl Found {
    /// The event in a message, where it is on the channel and addressed to no
    /// single person.
    fn of(message: &Delivery, channel: Channel) -> Option<Self> {
        let stored = stored_event::decode(message)?;
        let is_personal = matches!(stored.topic.audience, Audience::User(_));
        if is_personal || stored.topic.channel != channel {
            return None;
        }
        let kind = stored.event.kind;
        Some(Self {
            time: stored.event.time,
            event: Event {
                id: stored.event.id,
                seq: stored.sequence,
                event_type: format!("{}.{}", kind.domain, kind.name),
                time: stored.event.time.to_string(),
                data: Value::Object(stored.event.data),
            },
        })
    }
}

/// When the server stored a message.
fn stored_at(message: &Delivery) -> Option<Timestamp> {
    let headers = message.headers.as_ref()?;
    Timestamp::parse(header::value(headers, header::STORED_AT)?)
}

fn moved(time: Timestamp, by: Duration, forward: bool) -> Option<Timestamp> {
    let by = i64::try_from(by.as_millis()).ok()?;
    let millis = time.unix_millis();
    Timestamp::from_unix_millis(if forward { millis + by } else { millis - by })
}
