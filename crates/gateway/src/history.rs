//! Events that memory no longer has, read from the stream for subscriptions
//! that return late; and whether the stream still has all that one missed.

use std::sync::Arc;

use signalbox_bus::stream::{self, TOPICS};
use signalbox_bus::{Bus, BusError, subject};
use signalbox_protocol::cursor::Cursor;
use tokio::sync::Semaphore;

use crate::feed;
use crate::hub::{Backlog, HubEvent};

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
        let kept = since.sequence + 1 >= state.first && since.sequence <= state.last;
        Ok(state.epoch == since.epoch && kept)
    }

    /// Reads on in a backlog.
    ///
    /// # Errors
    /// When the bus does not answer.
    pub(crate) async fn read(&self, backlog: &Backlog) -> Result<Chapter, BusError> {
        let _permit = self.permits.acquire().await;
        let filter = subject::topics_of(backlog.channel, backlog.object.as_deref());
        let page =
            signalbox_bus::history::page(&self.bus, TOPICS, &filter, backlog.after + 1, PAGE)
                .await?;
        let last = page
            .messages
            .last()
            .map_or(backlog.after, |message| message.sequence);
        let covered = if page.is_last || last >= backlog.until {
            backlog.until
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
