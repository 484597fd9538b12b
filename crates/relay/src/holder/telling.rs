//! What agents and dashboards are told.

use signalbox_protocol::wire::{
    AgentState, DeliverInterrupt, EmergencyState, ExecuteCommand, TermCleared,
    agent_delivery::Delivery,
};
use tokio::time::Instant;

use super::{Change, Holder, METRICS_PAUSE};
use crate::agent::Command;

use crate::recorder::Entry;

pub(super) fn execute(command: &Command) -> Delivery {
    Delivery::Execute(ExecuteCommand {
        command_id: command.id.clone(),
        attempt: command.attempt,
        command: command.command.clone(),
        args: command.args.clone(),
    })
}

pub(super) fn interrupt(command_id: String, by: String) -> Delivery {
    Delivery::Interrupt(DeliverInterrupt { command_id, by })
}

pub(super) fn emergency(state: EmergencyState) -> Delivery {
    Delivery::Emergency(state)
}

impl Holder {
    /// Whether the agent's metrics wait to be shown.
    pub(super) fn has_metrics_to_show(&self) -> bool {
        self.shown
            .as_ref()
            .is_some_and(|shown| shown.metrics != self.agent.metrics())
    }

    /// Shows dashboards what has changed: metrics alone not too often, all else at
    /// once.
    pub(super) async fn show(&mut self) {
        let now = self.now();
        let state = self.agent.state(now);
        let same = |one: &AgentState, other: &AgentState| {
            AgentState {
                metrics: String::new(),
                at: String::new(),
                ..one.clone()
            } == AgentState {
                metrics: String::new(),
                at: String::new(),
                ..other.clone()
            }
        };
        let shown = self.shown.as_ref();
        let session = self.agent.document().session.as_ref();
        let connection = session.map(|session| session.connection.clone());
        // Whose connection it is, too: the shard answers beats by it.
        let is_new =
            self.shown_connection != connection || !shown.is_some_and(|shown| same(shown, &state));
        let has_metrics = shown.is_some_and(|shown| shown.metrics != state.metrics);
        if is_new || (has_metrics && Instant::now() >= self.metrics_at) {
            self.metrics_at = Instant::now() + METRICS_PAUSE;
            let is_announced = shown.is_none_or(|shown| {
                // Coming and going are announced as such.
                shown.connected_at != state.connected_at
                    || (shown.metrics == state.metrics
                        && shown.status == state.status
                        && shown.running == state.running)
            });
            if !is_announced {
                self.pass_announcement().await;
            }
            let shown = AgentState {
                at: self.shared.clock.timestamp(now),
                ..state
            };
            self.shown = Some(shown.clone());
            self.shown_connection.clone_from(&connection);
            self.change(Change::Agent {
                state: shown,
                connection,
            })
            .await;
        }
        let queue = self.agent.queue_state(now);
        let places = |queue: &signalbox_protocol::wire::QueueState| {
            let commands = queue.commands.iter();
            commands
                .map(|one| one.command_id.clone())
                .collect::<Vec<_>>()
        };
        let is_same = match &self.shown_queue {
            Some(shown) => places(shown) == places(&queue),
            None => queue.commands.is_empty(),
        };
        if !is_same {
            self.shown_queue = Some(queue.clone());
            self.change(Change::Queue(queue)).await;
        }
    }

    /// Publishes that the agent has other metrics or free places; the next such
    /// event makes up for one that is lost.
    async fn pass_announcement(&mut self) {
        self.passing += 1;
        let announcement = self.agent.announcement("status_changed", 0, self.now());
        let id = format!("{}-p{}-{}", self.agent_id, self.numbers.term, self.passing);
        self.event(id, announcement).await;
    }

    /// Publishes what the document says is to be published.
    pub(super) async fn publish_announcements(&mut self) {
        let announcements = self.agent.document().announcements.clone();
        for announcement in announcements {
            if announcement.number <= self.published {
                continue;
            }
            self.published = announcement.number;
            let id = format!("{}-{}", self.agent_id, announcement.number);
            self.event(id, announcement).await;
        }
    }

    async fn event(&self, id: String, announcement: crate::agent::Announcement) {
        self.change(Change::Event {
            agent_id: self.agent_id.clone(),
            id,
            announcement,
            version: self.agent.document().version.clone(),
        })
        .await;
    }

    /// Writes into the logs of all commands that run that they were cleared.
    pub(super) async fn record_clear(&mut self, by: String) {
        let clear_id = format!("{:016x}", rand::random::<u64>());
        let running: Vec<String> = self
            .agent
            .document()
            .commands
            .iter()
            .filter(|command| command.is_busy())
            .map(|command| command.id.clone())
            .collect();
        for id in running {
            let recorder = self.recorder(&id);
            let cleared = TermCleared {
                by: by.clone(),
                clear_id: clear_id.clone(),
            };
            recorder.insist(Entry::Cleared(cleared)).await;
        }
    }

    pub(super) async fn change(&self, change: Change) {
        // Without a shard the holder is about to end too.
        self.changes.send(change).await.ok();
    }
}
