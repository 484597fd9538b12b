//! Events that memory no longer has, read from the stream for subscriptions
//! that return late; and whether the stream still has all that one missed.

mod walk;

use std::sync::Arc;
use std::time::Duration;

use signalbox_bus::history::PageLimits;
use signalbox_bus::stream::{self, StreamState, TOPICS};
use signalbox_bus::{Bus, BusError, history, subject};
use signalbox_protocol::cursor::Cursor;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tracing::debug;

pub(crate) use self::walk::{Chapter, Walk};
use self::walk::{Pages, Part};
use crate::feed;
use crate::hub::HubEvent;

/// Pages read at once by one gateway; further ones wait.
const CONCURRENCY: usize = 32;
/// Messages of a page.
const PAGE: usize = 256;
/// The pause before a server that lags is asked again.
const LAG_PAUSE: Duration = Duration::from_millis(100);
/// How often that is done in a row.
const LAG_PAUSES: usize = 10;
/// How long reading what was before may hold up a start.
const RECENT_PATIENCE: Duration = Duration::from_secs(2);

/// The stream's history. Shared by all shards.
pub(crate) struct History {
    bus: Bus,
    permits: Semaphore,
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
}

impl Pages for History {
    async fn page(
        &self,
        wildcard: &str,
        after: u64,
        until: u64,
        limits: PageLimits,
    ) -> Result<Part, BusError> {
        let _permit = self.permits.acquire().await;
        let page = history::page_within(&self.bus, TOPICS, wildcard, after + 1, limits).await?;
        let last = page
            .messages
            .last()
            .map_or(after, |message| message.sequence);
        let covered = if last >= until {
            until
        } else if page.is_last {
            let missing = history::first_at_leader(&self.bus, TOPICS, wildcard, last + 1).await?;
            covered(until, last, missing)
        } else {
            last
        };
        let events = page
            .messages
            .iter()
            .take_while(|message| message.sequence <= until)
            .filter_map(feed::decode)
            .collect();
        Ok(Part { events, covered })
    }
}

impl History {
    /// Everything that matches `wildcard` behind `after`, up to and including
    /// `until`; `None` where that is more than `most`.
    ///
    /// # Errors
    /// When the bus does not answer, or a server lags for too long.
    pub(crate) async fn between(
        &self,
        wildcard: &str,
        after: u64,
        until: u64,
        most: usize,
    ) -> Result<Option<Vec<Arc<HubEvent>>>, BusError> {
        let (mut events, mut reached, mut pauses) = (Vec::new(), after, 0);
        while reached < until {
            let part = self
                .page(wildcard, reached, until, PageLimits::messages(PAGE))
                .await?;
            events.extend(part.events);
            if events.len() > most {
                return Ok(None);
            }
            if part.covered > reached {
                reached = part.covered;
                continue;
            }
            pauses += 1;
            if pauses > LAG_PAUSES {
                return Err(BusError::Api {
                    action: format!("read {wildcard}"),
                    cause: "the server lags".to_owned(),
                });
            }
            sleep(LAG_PAUSE).await;
        }
        Ok(Some(events))
    }
}

/// The stream's latest events, for a gateway that starts: clients that lost
/// another one are about to return with what they missed, all at once.
pub(crate) struct Recent {
    /// In stream order, up to the position where live reading begins.
    pub(crate) events: Vec<Arc<HubEvent>>,
    /// Every event behind this sequence is among them.
    pub(crate) floor: u64,
}

impl History {
    /// Reads up to `most` events up to the stream's end at `state`; none where
    /// that cannot be done in time, since it only saves work later.
    pub(crate) async fn recent(&self, state: StreamState, most: u64) -> Recent {
        match timeout(RECENT_PATIENCE, self.read_recent(state, most)).await {
            Ok(Ok(recent)) => return recent,
            Ok(Err(error)) => debug!(%error, "starting without recent events"),
            Err(_) => debug!("starting without recent events: they took too long"),
        }
        Recent {
            events: Vec::new(),
            floor: state.last,
        }
    }

    async fn read_recent(&self, state: StreamState, most: u64) -> Result<Recent, BusError> {
        let filter = format!("{}.>", subject::TOPICS_PREFIX);
        let floor = state
            .last
            .saturating_sub(most)
            .max(state.first.saturating_sub(1));
        let mut events = Vec::new();
        let mut last = floor;
        while last < state.last {
            let page = history::page(&self.bus, TOPICS, &filter, last + 1, PAGE).await?;
            let Some(end) = page.messages.last() else {
                // A server that lags has less than there is.
                return Err(BusError::Api {
                    action: "read recent events".to_owned(),
                    cause: format!("nothing behind {last}"),
                });
            };
            last = end.sequence;
            events.extend(
                page.messages
                    .iter()
                    .take_while(|message| message.sequence <= state.last)
                    .filter_map(feed::decode),
            );
        }
        Ok(Recent { events, floor })
    }
}

/// How far what is wanted up to `until` is served by a page that ended with
/// `last` because its server had no more, while the leader's next message is
/// `missing`.
fn covered(until: u64, last: u64, missing: Option<u64>) -> u64 {
    match missing {
        // That server lags; the rest has to be asked for again.
        Some(sequence) if sequence <= until => last,
        _ => until,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lagging_server_does_not_end_a_backlog() {
        assert_eq!(covered(20, 15, Some(16)), 15);
        assert_eq!(covered(20, 15, Some(20)), 15);
        assert_eq!(covered(20, 15, Some(21)), 20);
        assert_eq!(covered(20, 10, None), 20);
    }
}
