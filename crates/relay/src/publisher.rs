//! Events of agents, published in order as any producer's are.

use std::time::Duration;

use async_nats::HeaderMap;
use serde_json::{Map, Value, json};
use signalbox_bus::Bus;
use signalbox_bus::publish::{Outgoing, PublishError, publish_event};
use signalbox_bus::subject;
use signalbox_protocol::domain::Domain;
use signalbox_protocol::envelope::{CE_ID, CE_SOURCE, CE_TIME};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::agent::Announcement;
use crate::clock::Clock;

/// Who the events come from.
const SOURCE: &str = "agent_service";
/// Events that wait to be published; further ones are left out.
const CAPACITY: usize = 1_024;
/// How long one event is tried.
const PATIENCE: Duration = Duration::from_secs(30);

/// An event that waits.
struct Waiting {
    agent_id: String,
    /// Which of the agent's announcements it is; 0 = none that must be made.
    number: u64,
    event: Outgoing,
}

/// Publishes a shard's events, one after the other.
pub(crate) struct Publisher {
    events: mpsc::Sender<Waiting>,
    published: mpsc::Receiver<(String, u64)>,
    _task: JoinSet<()>,
}

impl Publisher {
    /// Must be called within a runtime.
    pub(crate) fn new(bus: Bus) -> Self {
        let (events, mut waiting) = mpsc::channel::<Waiting>(CAPACITY);
        let (publish, published) = mpsc::channel(CAPACITY);
        let mut task = JoinSet::new();
        task.spawn(async move {
            while let Some(mut waiting) = waiting.recv().await {
                publish_one(&bus, &mut waiting).await;
                if waiting.number > 0 {
                    let done = (waiting.agent_id, waiting.number);
                    publish.send(done).await.ok();
                }
            }
        });
        Self {
            events,
            published,
            _task: task,
        }
    }

    /// Waits for an announcement to be made; gives the agent and its number.
    /// Cancel safe.
    pub(crate) async fn published(&mut self) -> Option<(String, u64)> {
        self.published.recv().await
    }

    /// Publishes an event of an agent. One that there is no room for is left out;
    /// where it must be made, it is after a take-over.
    pub(crate) fn publish(
        &self,
        agent_id: String,
        id: String,
        announcement: Announcement,
        version: String,
        clock: &Clock,
    ) {
        let time = clock.timestamp(announcement.at_ms);
        let waiting = Waiting {
            event: event(&agent_id, &id, &announcement, &version, time),
            number: announcement.number,
            agent_id,
        };
        if let Err(full) = self.events.try_send(waiting) {
            let agent_id = full.into_inner().agent_id;
            warn!(agent = %agent_id, event = %announcement.name, "too many events wait, one left out");
        }
    }
}

/// Publishes an event; one that must be made is tried for as long as it takes.
async fn publish_one(bus: &Bus, waiting: &mut Waiting) {
    loop {
        let event = &mut waiting.event;
        match publish_event(bus, event, true, PATIENCE).await {
            Ok(_) => {
                debug!(subject = %event.subject, "event published");
                return;
            }
            Err(cause @ PublishError::Unacknowledged(_)) => {
                warn!(subject = %event.subject, %cause, "event not published in time");
                if waiting.number == 0 {
                    return;
                }
            }
            Err(cause) => {
                warn!(subject = %event.subject, %cause, "event not published");
                return;
            }
        }
    }
}

fn event(
    agent_id: &str,
    id: &str,
    announcement: &Announcement,
    version: &str,
    time: String,
) -> Outgoing {
    let (free, places) = announcement.free;
    let mut metadata: Map<String, Value> =
        serde_json::from_str(&announcement.metrics).unwrap_or_default();
    metadata.insert("version".to_owned(), version.into());
    metadata.insert("last_update".to_owned(), time.clone().into());
    let data = json!({
        "agent_id": agent_id,
        "agent_name": agent_id,
        "status": announcement.status,
        "availability": u64::from(free) * 100 / u64::from(places.max(1)),
        "metadata": metadata,
    });
    let mut headers = HeaderMap::new();
    headers.insert(CE_ID, id);
    headers.insert(CE_SOURCE, SOURCE);
    headers.insert(CE_TIME, time);
    Outgoing {
        subject: subject::event(Domain::Agent, &announcement.name),
        message_id: format!("{}/{SOURCE}/{id}", Domain::Agent),
        headers,
        payload: data.to_string().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_what_workspaces_expect() {
        let announcement = Announcement {
            number: 1,
            name: "connected".to_owned(),
            status: "idle".to_owned(),
            free: (1, 4),
            metrics: r#"{"cpuUsage":1.5}"#.to_owned(),
            at_ms: 1_700_000_000_000,
        };
        let time = "2023-11-14T22:13:20.000Z";
        let event = event(
            "agent-1",
            "agent-1-7",
            &announcement,
            "2.0",
            time.to_owned(),
        );
        assert_eq!(event.subject, "events.agent.connected");
        assert_eq!(event.message_id, "agent/agent_service/agent-1-7");
        let data: Value = serde_json::from_slice(&event.payload).unwrap();
        assert_eq!(data["availability"], 25);
        assert_eq!(data["metadata"]["cpuUsage"], 1.5);
        assert_eq!(data["metadata"]["version"], "2.0");
        assert_eq!(data["metadata"]["last_update"], time);
    }
}
