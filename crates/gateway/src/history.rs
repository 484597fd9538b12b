//! Events that memory no longer has, read from the stream for subscriptions
//! that return late; and whether the stream still has all that one missed.

use std::sync::Arc;

use signalbox_bus::stream::{self, TOPICS};
use signalbox_bus::{Bus, BusError, history, subject};
use signalbox_protocol::cursor::Cursor;
use tokio::sync::Semaphore;

use crate::feed;
use crate::hub::{Backlog, HubEvent};
use crate::spans;

/// Pages read at once by one gateway; further ones wait.
const CONCURRENCY: usize = 32;
/// Messages of a page.
const PAGE: usize = 256;

/// The stream's history. Shared by all shards.
pub(crate) struct History {
    bus: Bus,
    permits: Semaphore,
}

/// A part of a subscription's backlog.
pub(crate) struct Chapter {
    /// Its events in stream order.
    pub(crate) events: Vec<Arc<HubEvent>>,
    /// There is nothing else for it up to and including this sequence.
    pub(crate) covered: u64,
}

impl History {
    pub(crate) fn new(bus: Bus) -> Self {
        Self {
            bus,
            permits: Semaphore::new(CONCURRENCY),
        }
    }

    /// Whether everything behind `since` is still there.
    ///
    /// # Errors
    /// When the bus does not answer.
    pub(crate) async fn reaches(&self, since: Cursor) -> Result<bool, BusError> {
        let state = stream::state(&self.bus, TOPICS).await?;
        // The client chose the number: one beyond the stream may be the largest
        // there is, and is not to be counted on from.
        let kept = since.sequence <= state.last && since.sequence + 1 >= state.first;
        Ok(state.epoch == since.epoch && kept)
    }

    /// Reads on in a backlog.
    ///
    /// # Errors
    /// When the bus does not answer.
    pub(crate) async fn read(&self, backlog: &Backlog) -> Result<Chapter, BusError> {
        let mut span = spans::chapter(backlog);
        let chapter = self.read_page(backlog).await;
        if let Some(span) = &mut span {
            match &chapter {
                Ok(chapter) => span.set("signalbox.events", chapter.events.len() as i64),
                Err(_) => span.fail("history not read"),
            }
        }
        chapter
    }

    async fn read_page(&self, backlog: &Backlog) -> Result<Chapter, BusError> {
        let _permit = self.permits.acquire().await;
        let filter = subject::topics_of(backlog.channel, backlog.object.as_deref());
        let page = history::page(&self.bus, TOPICS, &filter, backlog.after + 1, PAGE).await?;
        let last = page
            .messages
            .last()
            .map_or(backlog.after, |message| message.sequence);
        let covered = if last >= backlog.until {
            backlog.until
        } else if page.is_last {
            let missing = history::first_at_leader(&self.bus, TOPICS, &filter, last + 1).await?;
            covered(backlog, last, missing)
        } else {
            last
        };
        let events = page
            .messages
            .iter()
            .take_while(|message| message.sequence <= backlog.until)
            .filter_map(feed::decode)
            .collect();
        Ok(Chapter { events, covered })
    }
}

/// How far a backlog is served by a page that ended with `last` because its
/// server had no more, while the leader's next message is `missing`.
fn covered(backlog: &Backlog, last: u64, missing: Option<u64>) -> u64 {
    match missing {
        // That server lags; the rest has to be asked for again.
        Some(sequence) if sequence <= backlog.until => last,
        _ => backlog.until,
    }
}

#[cfg(test)]
mod tests {
    use signalbox_protocol::catalogue::Channel;
    use signalbox_protocol::cursor::Epoch;

    use super::*;

    #[test]
    fn a_lagging_server_does_not_end_a_backlog() {
        let backlog = Backlog {
            epoch: Epoch::from_unix_micros(1),
            channel: Channel::ThreatAlerts,
            object: None,
            after: 10,
            until: 20,
        };
        assert_eq!(covered(&backlog, 15, Some(16)), 15);
        assert_eq!(covered(&backlog, 15, Some(20)), 15);
        assert_eq!(covered(&backlog, 15, Some(21)), 20);
        assert_eq!(covered(&backlog, 10, None), 20);
    }
}
