//! Which announcements are stored: events of an investigation that were
//! published and are looked for on TOPICS, where the router puts them.

use std::collections::HashMap;
use std::time::Duration;

use signalbox_bus::history::{self, Start};
use signalbox_bus::stream::TOPICS;
use signalbox_bus::{Bus, BusError, stored_event, subject};
use signalbox_protocol::timestamp::Timestamp;
use tokio::time::Instant;

/// The pause before the first look; doubled while nothing is found.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// Events that are read at once.
const PAGE: usize = 256;
/// How far the clocks of orchestrators and of the bus may differ.
const SKEW: Duration = Duration::from_secs(60);

/// What an announcement is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Matter {
    /// A user, by id.
    Member(String),
    /// A note, by id.
    Note(String),
}

/// See the module.
pub(super) struct Settlement {
    bus: Bus,
    topic: String,
    /// What is looked for, by the event's id.
    awaited: HashMap<String, Matter>,
    /// How far was looked; `None` before the first look.
    reached: Option<u64>,
    /// The earliest time that an awaited event can have, in Unix milliseconds.
    earliest: i64,
    pause: Duration,
    next: Instant,
}

impl Settlement {
    pub(super) fn new(bus: Bus, investigation_id: &str) -> Self {
        Self {
            bus,
            topic: subject::investigation(investigation_id),
            awaited: HashMap::new(),
            reached: None,
            earliest: i64::MAX,
            pause: FIRST_PAUSE,
            next: Instant::now(),
        }
    }

    /// Looks for an event from now on, which was recorded at that time.
    pub(super) fn expect(&mut self, event_id: String, matter: Matter, at: Timestamp) {
        // After a pause there may be much behind the last look, of which nothing is
        // older than this event.
        if self.awaited.is_empty() && self.next.elapsed() > SKEW {
            (self.reached, self.earliest) = (None, i64::MAX);
        }
        let skew = i64::try_from(SKEW.as_millis()).unwrap_or(i64::MAX);
        self.earliest = self.earliest.min(at.unix_millis().saturating_sub(skew));
        self.awaited.insert(event_id, matter);
        self.pause = FIRST_PAUSE;
        self.next = Instant::now() + FIRST_PAUSE;
    }

    /// Whether an event is still looked for.
    pub(super) fn awaits(&self, event_id: &str) -> bool {
        self.awaited.contains_key(event_id)
    }

    /// When to look; `None` where nothing is looked for.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.awaited.is_empty()).then_some(self.next)
    }

    /// Looks; gives what is stored now.
    pub(super) async fn look(&mut self) -> Result<Vec<Matter>, BusError> {
        let looked = self.read().await;
        let is_idle = looked.as_ref().map_or(true, Vec::is_empty);
        self.pause = match is_idle {
            true => (self.pause * 2).min(LONGEST_PAUSE),
            false => FIRST_PAUSE,
        };
        self.next = Instant::now() + self.pause;
        looked
    }

    async fn read(&mut self) -> Result<Vec<Matter>, BusError> {
        let mut found = Vec::new();
        loop {
            let start = match (self.reached, Timestamp::from_unix_millis(self.earliest)) {
                (Some(reached), _) => Start::Sequence(reached + 1),
                (None, Some(earliest)) => Start::Time(earliest),
                (None, None) => Start::Sequence(1),
            };
            let page = history::page_from(&self.bus, TOPICS, &self.topic, start, PAGE).await?;
            if let Some(last) = page.messages.last() {
                self.reached = Some(last.sequence);
            }
            let events = page.messages.iter().filter_map(stored_event::decode);
            found.extend(events.filter_map(|stored| self.awaited.remove(&stored.event.id)));
            if page.is_last {
                return Ok(found);
            }
        }
    }
}
