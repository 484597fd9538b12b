//! The state of an investigation, read from the bus: the records from their
//! bucket, and those of its latest events that decide what belongs to it. All
//! events of an investigation are on one subject of TOPICS.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use signalbox_bus::history::Start;
use signalbox_bus::stream::TOPICS;
use signalbox_bus::{BusError, history as pages, investigation, subject};
use signalbox_protocol::timestamp::Timestamp;

use super::Investigations;
use super::found::{self, Behind, State};
use crate::feed;
use crate::history::History;
use crate::hub::HubEvent;

/// Events of one investigation that are looked through for one question; beyond
/// it the state is out of reach, or its progress left out.
const MOST_EVENTS: usize = 8_192;
/// How far the clocks of orchestrators and of the bus may differ.
const SKEW: Duration = Duration::from_secs(60);
/// Positions that are looked back over at first for an update.
const FIRST_LOOK_BACK: u64 = 1_024;
/// By how much more each time.
const LOOK_BACK_GROWTH: u64 = 4;

impl Investigations {
    /// What all events up to position `until` add up to.
    ///
    /// # Errors
    /// When the bus does not answer, or there is too much behind the position.
    pub(crate) async fn state(
        &self,
        history: &History,
        investigation_id: &str,
        until: u64,
    ) -> Result<State, BusError> {
        // Held until everything that was read is added up; it is never closed.
        let _turn = self.readings.acquire().await.ok();
        let records = investigation::read(self.bus(), investigation_id).await?;
        let topic = subject::investigation(investigation_id);
        // Behind the records: the events of all that are settled are up to here.
        let tip = pages::last_at_leader(self.bus(), TOPICS, &topic).await?;
        let Some(tip) = tip else {
            return Ok(found::add_up(records, &Behind::default(), &HashSet::new()));
        };
        let events = match tip.sequence > until {
            true => self.between(history, &topic, until, tip.sequence).await?,
            false => Vec::new(),
        };
        let behind = Behind::read(&events);
        let before = match found::open(&records, &behind) {
            None => HashSet::new(),
            Some((open, earliest)) => {
                let earlier = self.since(history, &topic, earliest, until).await?;
                let ids = earlier.iter().map(|event| event.event.id.clone());
                ids.filter(|id| open.contains(id)).collect()
            }
        };
        let mut state = found::add_up(records, &behind, &before);
        let last = (tip.sequence <= until)
            .then(|| feed::decode(&tip))
            .flatten()
            .and_then(|event| found::progress(&event));
        match last {
            Some(progress) => state.progress = Some(progress),
            None => self.look_back(history, &topic, until, &mut state).await?,
        }
        Ok(state)
    }

    /// The events behind `after`, up to `until`.
    async fn between(
        &self,
        history: &History,
        topic: &str,
        after: u64,
        until: u64,
    ) -> Result<Vec<Arc<HubEvent>>, BusError> {
        let events = history.between(topic, after, until, MOST_EVENTS).await?;
        events.ok_or_else(|| BusError::Api {
            action: format!("read {topic}"),
            cause: format!("more than {MOST_EVENTS} events"),
        })
    }

    /// The events that were stored since a time, up to `until`.
    async fn since(
        &self,
        history: &History,
        topic: &str,
        earliest: i64,
        until: u64,
    ) -> Result<Vec<Arc<HubEvent>>, BusError> {
        let skew = i64::try_from(SKEW.as_millis()).unwrap_or(i64::MAX);
        let start = Timestamp::from_unix_millis(earliest.saturating_sub(skew));
        let first = match start {
            Some(start) => {
                let page = pages::page_from(self.bus(), TOPICS, topic, Start::Time(start), 1);
                page.await?.messages.first().map(|first| first.sequence)
            }
            None => Some(1),
        };
        match first {
            Some(first) if first <= until => self.between(history, topic, first - 1, until).await,
            Some(_) | None => Ok(Vec::new()),
        }
    }

    /// Looks for the last update, further and further back.
    async fn look_back(
        &self,
        history: &History,
        topic: &str,
        until: u64,
        state: &mut State,
    ) -> Result<(), BusError> {
        let first = pages::first_at_leader(self.bus(), TOPICS, topic, 1).await?;
        let Some(first) = first.filter(|first| *first <= until) else {
            return Ok(());
        };
        let (mut until, mut width, mut room) = (until, FIRST_LOOK_BACK, MOST_EVENTS);
        loop {
            let after = until.saturating_sub(width).max(first - 1);
            let Some(events) = history.between(topic, after, until, room).await? else {
                state.progress_omitted = true;
                return Ok(());
            };
            let progress = events.iter().rev().find_map(|event| found::progress(event));
            if progress.is_some() || after < first {
                state.progress = progress;
                return Ok(());
            }
            room = room.saturating_sub(events.len());
            until = after;
            width = width.saturating_mul(LOOK_BACK_GROWTH);
        }
    }
}

#[cfg(test)]
mod tests {
    use signalbox_bus::Bus;
    use signalbox_bus::connection::BusOptions;
    use signalbox_bus::server::User;
    use signalbox_bus::stream::{self, StreamSettings};
    use signalbox_testkit::{DEADLINE, NatsServer};
    use tokio::time::timeout;

    use super::*;
    use crate::investigation::READINGS;

    async fn bus(server: &NatsServer, user: User) -> Bus {
        let options = BusOptions {
            url: server.url(user),
            wait: DEADLINE,
        };
        Bus::connect(&options, "test").await.unwrap()
    }

    #[tokio::test]
    async fn so_many_investigations_are_read_at_once() {
        let server = NatsServer::start().await;
        let admin = bus(&server, User::Admin).await;
        stream::init(&admin, &StreamSettings::default())
            .await
            .unwrap();
        let gateway = bus(&server, User::Gateway).await;
        let history = History::new(gateway.clone());
        let investigations = Investigations::new(gateway, "g1");
        let all = u32::try_from(READINGS).unwrap();
        let turns = investigations.readings.acquire_many(all).await.unwrap();
        let mut state = Box::pin(investigations.state(&history, "inv-1", 0));
        assert!(timeout(Duration::from_secs(1), &mut state).await.is_err());
        drop(turns);
        let state = timeout(DEADLINE, state).await.unwrap().unwrap();
        assert!(state.notes.is_empty());
    }
}
