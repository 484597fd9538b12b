//! Reading what several subscriptions have missed, as one walk in stream order.
//!
//! Each wildcard on the bus is read page by page in a lane of its own. A
//! chapter is what all lanes have up to where the slowest has got; what others
//! have read beyond that waits in them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use signalbox_bus::history::{PAGE_BYTES, PageLimits};
use signalbox_bus::{BusError, subject};
use signalbox_protocol::catalogue::Channel;
use signalbox_protocol::cursor::Epoch;

use crate::hub::{Backlog, HubEvent};
use crate::spans;

#[cfg(test)]
mod tests;

/// Lanes of one walk. Where there would be more, whole channels are read and
/// what nobody wants of them is dropped: a connection with hundreds of rooms
/// must not have hundreds of pages in memory.
const MAX_LANES: usize = 64;
/// Lanes of one walk that are read at once.
const CONCURRENCY: usize = 8;
/// Messages that the lanes of a walk may hold together, as long as each has
/// [`SMALLEST_PAGE`].
const MESSAGES: usize = 1_024;
/// Messages of a page, however few lanes there are.
const LARGEST_PAGE: usize = 256;
/// Messages of a page, however many lanes there are.
const SMALLEST_PAGE: usize = 32;
/// Bytes that the lanes of a walk may hold together before they are parsed,
/// but for the last message of each.
const BYTES: usize = 4 * PAGE_BYTES;

/// The part of some backlogs that comes next.
pub(crate) struct Chapter {
    /// The life of the stream that it is of.
    pub(crate) epoch: Epoch,
    /// Its events in stream order, each once.
    pub(crate) events: Vec<Arc<HubEvent>>,
    /// There is nothing else for any of the backlogs up to and including this
    /// sequence.
    pub(crate) covered: u64,
    /// It is no further than what was there before: a server lags.
    pub(crate) is_stuck: bool,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Walk {
    epoch: Option<Epoch>,
    lanes: HashMap<String, Part>,
}

/// A page of what lies on a wildcard.
pub(crate) struct Part {
    /// Its events in stream order.
    pub(crate) events: VecDeque<Arc<HubEvent>>,
    /// There is nothing else on the wildcard up to and including this sequence.
    pub(crate) covered: u64,
}

/// Where pages come from.
pub(crate) trait Pages {
    /// Reads a page of what lies on `wildcard` behind `after`, up to and
    /// including `until`.
    async fn page(
        &self,
        wildcard: &str,
        after: u64,
        until: u64,
        limits: PageLimits,
    ) -> Result<Part, BusError>;
}

impl Walk {
    /// Reads on in backlogs of one life of the stream.
    ///
    /// # Errors
    /// When the bus does not answer. What was read is kept for the next time.
    pub(crate) async fn read(
        &mut self,
        history: &impl Pages,
        backlogs: &[Backlog],
    ) -> Result<Chapter, BusError> {
        let mut span = spans::chapter(backlogs);
        let chapter = self.read_on(history, backlogs).await;
        if let Some(span) = &mut span {
            match &chapter {
                Ok(chapter) => span.set("signalbox.events", chapter.events.len() as i64),
                Err(_) => span.fail("history not read"),
            }
        }
        chapter
    }

    async fn read_on(
        &mut self,
        history: &impl Pages,
        backlogs: &[Backlog],
    ) -> Result<Chapter, BusError> {
        let epoch = backlogs
            .first()
            .map_or(Epoch::from_unix_micros(0), |backlog| backlog.epoch);
        if self.epoch.replace(epoch) != Some(epoch) {
            self.lanes.clear();
        }
        let wildcards = wildcards(backlogs);
        self.lanes
            .retain(|wildcard, _| wildcards.contains_key(wildcard));
        let limits = limits(wildcards.len());
        let until = backlogs.iter().map(|backlog| backlog.until).max();
        let until = until.unwrap_or_default();
        let used_up = wildcards.iter().filter(|(wildcard, after)| {
            self.lanes
                .get(*wildcard)
                .is_none_or(|lane| lane.covered <= **after)
        });
        let mut reads = stream::iter(used_up.collect::<Vec<_>>())
            .map(async |(wildcard, after)| {
                let part = history.page(wildcard, *after, until, limits).await;
                (wildcard, part)
            })
            .buffer_unordered(CONCURRENCY);
        let mut failure = None;
        while let Some((wildcard, part)) = reads.next().await {
            match part {
                Ok(mut part) => {
                    let is_wanted = |event: &Arc<HubEvent>| {
                        let mut addresses = backlogs.iter().map(|backlog| &backlog.address);
                        addresses.any(|address| address.covers(&event.topic))
                    };
                    part.events.retain(is_wanted);
                    self.lanes.insert(wildcard.clone(), part);
                }
                Err(error) => failure = Some(error),
            }
        }
        drop(reads);
        match failure {
            Some(error) => Err(error),
            None => Ok(self.chapter(epoch, backlogs)),
        }
    }

    /// Takes out what is complete.
    fn chapter(&mut self, epoch: Epoch, backlogs: &[Backlog]) -> Chapter {
        let after = backlogs.iter().map(|backlog| backlog.after).min();
        let after = after.unwrap_or_default();
        let covered = self.lanes.values().map(|lane| lane.covered).min();
        let covered = covered.unwrap_or(after);
        let mut events = Vec::new();
        for lane in self.lanes.values_mut() {
            let ready = lane
                .events
                .partition_point(|event| event.sequence <= covered);
            events.extend(lane.events.drain(..ready));
        }
        // An event may be on several wildcards.
        events.sort_unstable_by_key(|event| event.sequence);
        events.dedup_by_key(|event| event.sequence);
        Chapter {
            epoch,
            events,
            covered,
            is_stuck: covered <= after,
        }
    }
}

/// What to read behind which sequence.
fn wildcards(backlogs: &[Backlog]) -> HashMap<String, u64> {
    let narrow = backlogs.iter().flat_map(|backlog| {
        let address = &backlog.address;
        let (object, audience) = (address.object.as_deref(), address.audience.as_ref());
        questions(backlog)
            .into_iter()
            .map(move |channel| (subject::topics_to(channel, object, audience), backlog.after))
    });
    let narrow = with_least(narrow);
    if narrow.len() <= MAX_LANES {
        return narrow;
    }
    with_least(backlogs.iter().flat_map(|backlog| {
        let channels = backlog.address.channels.iter();
        channels.map(|channel| (subject::topics_to(Some(channel), None, None), backlog.after))
    }))
}

/// Each wildcard once, with the least sequence that comes with it.
fn with_least(wildcards: impl Iterator<Item = (String, u64)>) -> HashMap<String, u64> {
    let mut least = HashMap::new();
    for (wildcard, after) in wildcards {
        let known = least.entry(wildcard).or_insert(after);
        *known = after.min(*known);
    }
    least
}

/// The channels to ask the bus about one by one; `None` stands for all in one
/// question. An object or a user has little on other channels, whereas
/// everything on every channel would be far too much.
fn questions(backlog: &Backlog) -> Vec<Option<Channel>> {
    let address = &backlog.address;
    match address.channels.only() {
        Some(channel) => vec![Some(channel)],
        None if address.object.is_some() || address.audience.is_some() => vec![None],
        None => address.channels.iter().map(Some).collect(),
    }
}

/// How much each of so many lanes may read at once.
fn limits(lanes: usize) -> PageLimits {
    let lanes = lanes.max(1);
    PageLimits {
        messages: (MESSAGES / lanes).clamp(SMALLEST_PAGE, LARGEST_PAGE),
        bytes: (BYTES / lanes).min(PAGE_BYTES),
    }
}
