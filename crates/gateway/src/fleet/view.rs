//! What is known of the fleet: agents, queues and the emergency stop, by shard.
//! Pure: updates go in, what has changed comes out.

use std::collections::BTreeMap;

use signalbox_protocol::cursor::FleetCursor;
use signalbox_protocol::fleet::Shard;
use signalbox_protocol::frame::fleet::server::{ListedAgent, ServerFrame, StoppedAgent};
use signalbox_protocol::timestamp::Timestamp;
use signalbox_protocol::wire::fleet_update::Change as Update;
use signalbox_protocol::wire::{
    AgentState, AgentStatus, EmergencyState, FleetSnapshot, FleetUpdate, QueueState,
    StopConfirmation, TerminalCleared,
};
use signalbox_transport::Frame;

use super::frames::{now, raw, write};

/// What has changed.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change {
    /// An agent; `pressing` where more than its metrics has.
    Agent {
        /// Which.
        id: String,
        /// Whether dashboards are to hear it at once.
        pressing: bool,
    },
    /// The places of those who wait for an agent.
    Queue(QueueState),
    /// The emergency stop is in force, or lifted.
    Emergency,
    /// How far the emergency stop is obeyed.
    Obedience,
    /// A terminal on which nothing ran was cleared.
    Cleared(TerminalCleared),
    /// An agent is known no longer.
    Forgotten(String),
}

/// An update that cannot be used: the shard has to be asked for a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outdated;

/// What is known of one shard.
#[derive(Clone, Debug, Default)]
struct Part {
    /// The holder that said so; empty = nothing is known.
    term: String,
    number: u64,
    agents: BTreeMap<String, AgentState>,
}

/// What is known of all shards.
#[derive(Clone, Debug)]
pub(super) struct View {
    parts: Vec<Part>,
    emergency: Option<EmergencyState>,
}

impl Default for View {
    fn default() -> Self {
        Self {
            parts: (0..Shard::COUNT).map(|_| Part::default()).collect(),
            emergency: None,
        }
    }
}

impl View {
    /// Takes an update in.
    ///
    /// # Errors
    /// [`Outdated`] when something is missing in front of it.
    pub(super) fn update(&mut self, update: FleetUpdate) -> Result<Vec<Change>, Outdated> {
        let part = self
            .parts
            .get_mut(update.shard as usize)
            .filter(|part| part.term == update.term)
            .ok_or(Outdated)?;
        let is_tip = matches!(update.change, Some(Update::Tip(_)) | None);
        let follows = if is_tip {
            update.number <= part.number
        } else if update.number <= part.number {
            return Ok(Vec::new());
        } else {
            update.number == part.number + 1
        };
        if !follows {
            return Err(Outdated);
        }
        if !is_tip {
            part.number = update.number;
        }
        Ok(match update.change {
            Some(Update::Agent(agent)) => put(&mut part.agents, agent),
            Some(Update::Queue(queue)) => vec![Change::Queue(queue)],
            Some(Update::Emergency(state)) => self.stop(state),
            Some(Update::Cleared(cleared)) => vec![Change::Cleared(cleared)],
            Some(Update::ForgottenAgentId(id)) => {
                part.agents.remove(&id);
                vec![Change::Forgotten(id)]
            }
            Some(Update::Tip(_)) | None => Vec::new(),
        })
    }

    /// Takes all that is known of a shard.
    pub(super) fn replace(&mut self, snapshot: FleetSnapshot) -> Vec<Change> {
        let Some(part) = self.parts.get_mut(snapshot.shard as usize) else {
            return Vec::new();
        };
        if part.term == snapshot.term && snapshot.number < part.number {
            return Vec::new();
        }
        part.term = snapshot.term;
        part.number = snapshot.number;
        let before = std::mem::take(&mut part.agents);
        for agent in &snapshot.agents {
            if let Some(known) = before.get(&agent.agent_id) {
                part.agents.insert(agent.agent_id.clone(), known.clone());
            }
        }
        let gone = before
            .into_keys()
            .filter(|id| !part.agents.contains_key(id))
            .map(Change::Forgotten);
        let mut changes: Vec<_> = gone.collect();
        for agent in snapshot.agents {
            changes.extend(put(&mut part.agents, agent));
        }
        changes.extend(snapshot.queues.into_iter().map(Change::Queue));
        if let Some(state) = snapshot.emergency {
            changes.extend(self.stop(state));
        }
        changes
    }

    fn stop(&mut self, state: EmergencyState) -> Vec<Change> {
        let known = self.emergency.as_ref().map(|known| known.revision);
        let was_active = self.emergency.as_ref().is_some_and(|known| known.active);
        if known.is_some_and(|known| known >= state.revision) {
            return Vec::new();
        }
        let is_news = was_active || state.active;
        self.emergency = Some(state);
        if is_news {
            vec![Change::Emergency, Change::Obedience]
        } else {
            Vec::new()
        }
    }

    /// Whether anything is known of a shard.
    pub(super) fn knows(&self, shard: Shard) -> bool {
        !self.parts[usize::from(shard.number())].term.is_empty()
    }

    /// The commands that run.
    pub(super) fn running(&self) -> Vec<String> {
        let agents = self.agents();
        agents.flat_map(|agent| agent.running.clone()).collect()
    }

    fn agents(&self) -> impl Iterator<Item = &AgentState> {
        self.parts.iter().flat_map(|part| part.agents.values())
    }

    /// The stop that is in force.
    fn in_force(&self) -> Option<&EmergencyState> {
        self.emergency.as_ref().filter(|state| state.active)
    }

    /// Every agent that is connected.
    pub(super) fn list(
        &self,
        seq: FleetCursor,
        recovered: Option<bool>,
        request_id: Option<&str>,
    ) -> Frame {
        let agents = self.agents().filter_map(|agent| {
            Some(ListedAgent {
                agent_id: &agent.agent_id,
                agent_type: &agent.agent_type,
                status: status_name(agent.status()),
                connected_at: Timestamp::parse(&agent.connected_at)?,
                version: &agent.version,
                running: &agent.running,
                metrics: raw(&agent.metrics),
            })
        });
        write(&ServerFrame::AgentList {
            agents: agents.collect(),
            recovered,
            seq,
            request_id,
            timestamp: now(),
        })
    }

    /// How an agent is.
    pub(super) fn status(&self, agent_id: &str, seq: FleetCursor) -> Option<Frame> {
        let part = &self.parts[usize::from(Shard::of_agent(agent_id).number())];
        let agent = part.agents.get(agent_id)?;
        Some(write(&ServerFrame::AgentStatus {
            agent_id,
            status: status_name(agent.status()),
            metrics: raw(&agent.metrics),
            agent_type: &agent.agent_type,
            connected_at: Timestamp::parse(&agent.connected_at),
            seq,
            timestamp: Timestamp::parse(&agent.at).unwrap_or_else(now),
        }))
    }

    /// That all agents stop, or go on.
    pub(super) fn emergency(&self) -> Option<Frame> {
        let state = self.emergency.as_ref()?;
        let timestamp = Timestamp::parse(&state.at).unwrap_or_else(now);
        Some(write(&if state.active {
            ServerFrame::EmergencyStop {
                reason: &state.reason,
                by: &state.by,
                stop_id: &state.stop_id,
                timestamp,
            }
        } else {
            ServerFrame::Resume {
                by: &state.by,
                stop_id: &state.stop_id,
                timestamp,
            }
        }))
    }

    /// How far the stop is obeyed, if one is in force.
    pub(super) fn obedience(&self) -> Option<Frame> {
        let stop = self.in_force()?;
        let agents = self.agents().filter_map(|agent| {
            let state = match agent.stop() {
                StopConfirmation::Unspecified => return None,
                StopConfirmation::Confirmed => "confirmed",
                StopConfirmation::Unreachable => "unreachable",
            };
            Some(StoppedAgent {
                agent_id: &agent.agent_id,
                state,
            })
        });
        Some(write(&ServerFrame::EmergencyStatus {
            agents: agents.collect(),
            reason: &stop.reason,
            by: &stop.by,
            stop_id: &stop.stop_id,
            timestamp: now(),
        }))
    }
}

/// Takes an agent in; gives what has changed.
fn put(agents: &mut BTreeMap<String, AgentState>, agent: AgentState) -> Vec<Change> {
    let id = agent.agent_id.clone();
    let Some(before) = agents.insert(id.clone(), agent) else {
        return vec![Change::Agent { id, pressing: true }];
    };
    let after = &agents[&id];
    let mut changes = Vec::new();
    let pressing = before.status != after.status || before.connected_at != after.connected_at;
    if pressing || before.metrics != after.metrics {
        changes.push(Change::Agent { id, pressing });
    }
    if before.stop != after.stop {
        changes.push(Change::Obedience);
    }
    changes
}

/// How frames name a status.
const fn status_name(status: AgentStatus) -> &'static str {
    match status {
        AgentStatus::Online => "online",
        AgentStatus::Busy => "busy",
        AgentStatus::Error => "error",
        AgentStatus::Offline | AgentStatus::Unspecified => "offline",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(status: AgentStatus, metrics: &str) -> AgentState {
        AgentState {
            agent_id: "a".to_owned(),
            status: status as i32,
            metrics: metrics.to_owned(),
            connected_at: "2026-03-02T09:14:07Z".to_owned(),
            ..AgentState::default()
        }
    }

    fn update(number: u64, change: Update) -> FleetUpdate {
        FleetUpdate {
            shard: u32::from(Shard::of_agent("a").number()),
            term: "t".to_owned(),
            number,
            change: Some(change),
        }
    }

    fn view() -> View {
        let mut view = View::default();
        view.replace(FleetSnapshot {
            shard: u32::from(Shard::of_agent("a").number()),
            term: "t".to_owned(),
            number: 4,
            agents: vec![agent(AgentStatus::Online, "")],
            ..FleetSnapshot::default()
        });
        view
    }

    #[test]
    fn a_gap_or_another_holder_asks_for_a_snapshot() {
        let mut view = view();
        let busy = || Update::Agent(agent(AgentStatus::Busy, ""));
        assert_eq!(view.update(update(4, busy())), Ok(Vec::new()));
        assert_eq!(view.update(update(6, busy())), Err(Outdated));
        let tip = Update::Tip(signalbox_protocol::wire::FleetTip {});
        assert_eq!(view.update(update(4, tip.clone())), Ok(Vec::new()));
        assert_eq!(view.update(update(5, tip)), Err(Outdated));
        let mut other = update(5, busy());
        other.term = "u".to_owned();
        assert_eq!(view.update(other), Err(Outdated));
        assert_eq!(view.update(update(5, busy())).unwrap().len(), 1);
    }

    #[test]
    fn agents_that_are_known_no_longer_are_forgotten() {
        let mut view = view();
        let forgotten = vec![Change::Forgotten("a".to_owned())];
        let gone = Update::ForgottenAgentId("a".to_owned());
        assert_eq!(view.clone().update(update(5, gone)), Ok(forgotten.clone()));
        let snapshot = |number, agents| FleetSnapshot {
            shard: u32::from(Shard::of_agent("a").number()),
            term: "t".to_owned(),
            number,
            agents,
            ..FleetSnapshot::default()
        };
        let same = vec![agent(AgentStatus::Online, "")];
        assert_eq!(view.replace(snapshot(5, same)), []);
        assert_eq!(view.replace(snapshot(6, Vec::new())), forgotten);
    }

    #[test]
    fn metrics_alone_do_not_press() {
        let mut view = view();
        let mut number = 4;
        let mut pressing = |view: &mut View, status, metrics| {
            number += 1;
            let changes = view
                .update(update(number, Update::Agent(agent(status, metrics))))
                .unwrap();
            changes.first().map(|change| match change {
                Change::Agent { pressing, .. } => *pressing,
                other => panic!("{other:?}"),
            })
        };
        assert_eq!(pressing(&mut view, AgentStatus::Online, "{}"), Some(false));
        assert_eq!(pressing(&mut view, AgentStatus::Online, "{}"), None);
        assert_eq!(pressing(&mut view, AgentStatus::Busy, "{}"), Some(true));
    }

    #[test]
    fn a_stop_is_told_once_however_often_it_is_heard() {
        let mut view = view();
        let stop = |revision, active| {
            Update::Emergency(EmergencyState {
                active,
                revision,
                stop_id: "s".to_owned(),
                ..EmergencyState::default()
            })
        };
        assert!(view.update(update(5, stop(1, false))).unwrap().is_empty());
        assert_eq!(view.update(update(6, stop(2, true))).unwrap().len(), 2);
        assert!(view.update(update(7, stop(2, true))).unwrap().is_empty());
        assert!(view.obedience().is_some());
        assert_eq!(view.update(update(8, stop(3, false))).unwrap().len(), 2);
        assert!(view.obedience().is_none());
    }
}
