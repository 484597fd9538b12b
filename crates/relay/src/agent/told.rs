//! What others are told of an agent: dashboards all of it, workspaces by events.

use signalbox_protocol::wire::{
    AgentState, AgentStatus, QueueState, QueuedCommand, StopConfirmation,
};

use super::{ANNOUNCEMENT_CAPACITY, Agent, Announcement, Condition, Effect};

impl Agent {
    /// Its status, as the fleet calls it.
    pub(crate) fn status_now(&self) -> AgentStatus {
        let document = &self.document;
        match document.condition {
            _ if document.session.is_none() => AgentStatus::Offline,
            Condition::Error => AgentStatus::Error,
            Condition::Busy => AgentStatus::Busy,
            Condition::Online => AgentStatus::Online,
            Condition::Unsaid if self.busy() >= document.concurrency => AgentStatus::Busy,
            Condition::Unsaid => AgentStatus::Online,
        }
    }

    /// What dashboards see of it.
    pub(crate) fn state(&self, now_ms: u64) -> AgentState {
        let document = &self.document;
        let session = document.session.as_ref();
        AgentState {
            agent_id: document.agent_id.clone(),
            agent_type: document.agent_type.clone(),
            version: document.version.clone(),
            status: self.status_now().into(),
            metrics: self.metrics.clone(),
            connected_at: session.map_or_else(String::new, |one| one.connected_at.clone()),
            concurrency: document.concurrency,
            running: document
                .commands
                .iter()
                .filter(|command| !command.is_waiting())
                .map(|command| command.id.clone())
                .collect(),
            stop: self.confirmation(now_ms).into(),
            at: String::new(),
        }
    }

    /// What dashboards see of its queue.
    pub(crate) fn queue_state(&self, now_ms: u64) -> QueueState {
        let commands = (1..)
            .zip(self.queue(now_ms))
            .map(|(position, (command, estimated_wait_ms))| QueuedCommand {
                command_id: command.id.clone(),
                position,
                estimated_wait_ms,
                priority: signalbox_protocol::wire::CommandPriority::from(command.priority).into(),
            })
            .collect();
        QueueState {
            agent_id: self.document.agent_id.clone(),
            commands,
        }
    }

    /// Whether it has stopped, where it should.
    fn confirmation(&self, now_ms: u64) -> StopConfirmation {
        let Some(stop) = &self.document.stop else {
            return StopConfirmation::Unspecified;
        };
        if stop.confirmed || (stop.told && self.is_idle()) {
            return StopConfirmation::Confirmed;
        }
        let is_late = now_ms.saturating_sub(stop.since_ms) >= self.bounds.confirm_ms;
        if self.document.session.is_none() || is_late {
            return StopConfirmation::Unreachable;
        }
        StopConfirmation::Unspecified
    }

    /// Has an event of the agent published, whatever happens.
    pub(super) fn announce(&mut self, name: &str, now_ms: u64) {
        self.document.announced += 1;
        let announcement = self.announcement(name, self.document.announced, now_ms);
        let waiting = &mut self.document.announcements;
        if waiting.len() >= ANNOUNCEMENT_CAPACITY {
            waiting.remove(0);
        }
        waiting.push(announcement);
        self.changed = true;
        self.effects.push(Effect::Announce);
    }

    /// The agent as an event tells of it.
    pub(crate) fn announcement(&self, name: &str, number: u64, now_ms: u64) -> Announcement {
        let status = match self.status_now() {
            AgentStatus::Online | AgentStatus::Unspecified => "idle",
            AgentStatus::Busy => "busy",
            AgentStatus::Error => "error",
            AgentStatus::Offline => "offline",
        };
        let places = self.document.concurrency;
        let free = match self.document.session {
            None => 0,
            Some(_) => places.saturating_sub(self.busy()),
        };
        Announcement {
            number,
            name: name.to_owned(),
            status: status.to_owned(),
            free: (free, places),
            metrics: self.metrics.clone(),
            at_ms: now_ms,
        }
    }

    /// Forgets what is published, up to this number.
    pub(crate) fn announced(&mut self, number: u64) {
        self.document
            .announcements
            .retain(|announcement| announcement.number > number);
    }
}
