//! What dashboards see of one shard, and the numbers of what they are told. Pure.

use std::collections::{BTreeMap, HashMap};

use signalbox_protocol::fleet::Shard;
use signalbox_protocol::wire::{
    AgentState, AgentStatus, EmergencyState, FleetSnapshot, FleetTip, FleetUpdate, QueueState,
    TerminalCleared, fleet_update,
};

use crate::clock::Clock;

/// A shard, as it was told last.
#[derive(Debug)]
pub(crate) struct Fleet {
    shard: Shard,
    term: String,
    number: u64,
    agents: BTreeMap<String, Shown>,
    /// The agent of each command that waits or runs.
    commands: HashMap<String, String>,
    emergency: EmergencyState,
}

/// An agent, as it was told last.
#[derive(Debug, Default)]
struct Shown {
    state: AgentState,
    connection: Option<String>,
    queue: QueueState,
}

/// How much there is of everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Agents with a connection.
    pub(crate) connected: u64,
    /// Commands in queues.
    pub(crate) waiting: u64,
    /// Commands beyond them.
    pub(crate) running: u64,
}

impl Fleet {
    pub(crate) fn new(shard: Shard, term: String) -> Self {
        Self {
            shard,
            term,
            number: 0,
            agents: BTreeMap::new(),
            commands: HashMap::new(),
            emergency: EmergencyState::default(),
        }
    }

    /// The agent of a command that waits or runs.
    pub(crate) fn agent_of(&self, command_id: &str) -> Option<&str> {
        self.commands.get(command_id).map(String::as_str)
    }

    /// The connection that is the agent's.
    pub(crate) fn connection_of(&self, agent_id: &str) -> Option<&str> {
        self.agents.get(agent_id)?.connection.as_deref()
    }

    pub(crate) fn set_agent(&mut self, state: &AgentState, connection: Option<String>) {
        let agent_id = state.agent_id.clone();
        let shown = self.agents.entry(agent_id.clone()).or_default();
        for id in &shown.state.running {
            self.commands.remove(id);
        }
        let waiting = shown.queue.commands.iter().map(|one| &one.command_id);
        for id in state.running.iter().chain(waiting) {
            self.commands.insert(id.clone(), agent_id.clone());
        }
        shown.state.clone_from(state);
        shown.connection = connection;
    }

    pub(crate) fn set_queue(&mut self, queue: &QueueState) {
        let agent_id = queue.agent_id.clone();
        let shown = self.agents.entry(agent_id.clone()).or_default();
        for one in &shown.queue.commands {
            self.commands.remove(&one.command_id);
        }
        let waiting = queue.commands.iter().map(|one| &one.command_id);
        for id in shown.state.running.iter().chain(waiting) {
            self.commands.insert(id.clone(), agent_id.clone());
        }
        shown.queue.clone_from(queue);
    }

    pub(crate) fn set_emergency(&mut self, state: &EmergencyState) {
        self.emergency.clone_from(state);
    }

    pub(crate) fn cleared(&self, agent_id: String, by: String, clock: &Clock) -> TerminalCleared {
        TerminalCleared {
            agent_id,
            by,
            at: clock.timestamp(clock.now_ms()),
        }
    }

    pub(crate) fn forget(&mut self, agent_id: &str) {
        self.agents.remove(agent_id);
        self.commands.retain(|_, of| of != agent_id);
    }

    /// The next update.
    pub(crate) fn update(&mut self, change: fleet_update::Change) -> FleetUpdate {
        self.number += 1;
        FleetUpdate {
            change: Some(change),
            ..self.tip()
        }
    }

    /// Where the shard is.
    pub(crate) fn tip(&self) -> FleetUpdate {
        FleetUpdate {
            shard: u32::from(self.shard.number()),
            term: self.term.clone(),
            number: self.number,
            change: Some(fleet_update::Change::Tip(FleetTip {})),
        }
    }

    pub(crate) fn snapshot(&self) -> FleetSnapshot {
        let queues = self.agents.values().map(|shown| &shown.queue);
        FleetSnapshot {
            shard: u32::from(self.shard.number()),
            term: self.term.clone(),
            number: self.number,
            agents: self
                .agents
                .values()
                .map(|shown| shown.state.clone())
                .collect(),
            queues: queues
                .filter(|queue| !queue.commands.is_empty())
                .cloned()
                .collect(),
            emergency: Some(self.emergency.clone()),
        }
    }

    pub(crate) fn totals(&self, offline: AgentStatus) -> Totals {
        let mut totals = Totals::default();
        for shown in self.agents.values() {
            totals.connected += u64::from(shown.state.status() != offline);
            totals.waiting += shown.queue.commands.len() as u64;
            totals.running += shown.state.running.len() as u64;
        }
        totals
    }
}

#[cfg(test)]
mod tests {
    use signalbox_protocol::wire::QueuedCommand;

    use super::*;

    fn running(ids: &[&str]) -> AgentState {
        AgentState {
            agent_id: "a".to_owned(),
            running: ids.iter().map(|id| (*id).to_owned()).collect(),
            ..AgentState::default()
        }
    }

    fn waiting(ids: &[&str]) -> QueueState {
        let commands = ids.iter().map(|id| QueuedCommand {
            command_id: (*id).to_owned(),
            ..QueuedCommand::default()
        });
        QueueState {
            agent_id: "a".to_owned(),
            commands: commands.collect(),
        }
    }

    #[test]
    fn a_command_is_found_while_it_waits_and_runs_and_no_longer() {
        let mut fleet = Fleet::new(Shard::of_agent("a"), "1".to_owned());
        fleet.set_queue(&waiting(&["c1", "c2"]));
        assert_eq!(fleet.agent_of("c1"), Some("a"));
        fleet.set_agent(&running(&["c1"]), None);
        assert_eq!(fleet.agent_of("c1"), Some("a"));
        fleet.set_queue(&waiting(&["c2"]));
        assert_eq!(fleet.agent_of("c1"), Some("a"));
        fleet.set_agent(&running(&[]), None);
        assert_eq!(fleet.agent_of("c1"), None);
        assert_eq!(fleet.agent_of("c2"), Some("a"));
        fleet.forget("a");
        assert_eq!(fleet.agent_of("c2"), None);
    }

    #[test]
    fn a_snapshot_has_the_number_of_the_last_update() {
        let mut fleet = Fleet::new(Shard::of_agent("a"), "1".to_owned());
        fleet.set_agent(&running(&[]), None);
        let update = fleet.update(fleet_update::Change::Agent(running(&[])));
        assert_eq!((update.number, fleet.tip().number), (1, 1));
        assert_eq!(fleet.snapshot().number, 1);
        assert_eq!(fleet.snapshot().agents.len(), 1);
    }
}
