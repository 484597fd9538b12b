//! Reading TOPICS from its end backwards: channel by channel in turn, a window of
//! the stream at a time, within bounds of events, bytes and time. What is found
//! is picked from at once and not held.

mod lane;

use std::time::Duration;

use serde_json::Value;
use signalbox_bus::history;
use signalbox_bus::reader::Delivery;
use signalbox_bus::stream::TOPICS;
use signalbox_bus::{Bus, BusError, stored_event, stream};
use signalbox_protocol::catalogue::{Audience, Channel};
use signalbox_protocol::timestamp::Timestamp;
use tokio::time::{Instant, timeout_at};

use self::lane::{End, Lane, stored_at};
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
        let mut looked = self.looked(&lanes, state.first, &period).await;
        picked.extend(lanes.into_iter().flat_map(|lane| lane.picked));
        picked.sort_by_key(|one| (one.time, one.seq));
        // An event is stored after it has happened.
        let first = picked
            .first()
            .map(|one| one.time)
            .filter(|_| looked.complete);
        if let (Some(first), Some(back_to)) = (first, &mut looked.back_to) {
            *back_to = first.min(*back_to);
        }
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
