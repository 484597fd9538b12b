//! An agent's connections, and what becomes of its commands without one.

use std::collections::HashSet;

use signalbox_protocol::wire::{AgentCondition, AgentConnected, AgentStatus, EmergencyState};

use super::commands::{EMERGENCY_STOP, stopped_by};
use super::{Agent, Condition, Effect, End, Interrupt, Outcome, Phase, Session, Stop};

/// The most commands that an agent may run at once.
const MOST_PLACES: u32 = 1_024;
/// The most bytes of what an agent says of itself.
const MOST_TEXT: usize = 256;
/// Connections that are known to be former ones; older ones were closed long ago.
const SUPERSEDED_CAPACITY: usize = 16;
/// The most bytes of an agent's metrics.
const MOST_METRICS: usize = 16 * 1024;
/// Why a command failed whose agent did not return in time.
const AGENT_LOST: &str = "agent_lost";
/// Why a command failed of which nobody knows what became.
const OUTCOME_UNKNOWN: &str = "outcome_unknown";

/// The report is not of the agent's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stale {
    /// Whether the agent has no connection at all.
    pub(crate) unknown: bool,
}

/// A connection that an agent announces itself with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connecting<'a> {
    /// The gateway that has it.
    pub(crate) gateway: &'a str,
    /// Its id.
    pub(crate) connection: &'a str,
    /// What the agent says.
    pub(crate) report: &'a AgentConnected,
}

/// What an agent is told when it has connected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Opened {
    /// Commands that it goes on with.
    pub(crate) kept: Vec<String>,
    /// Commands of its that were given up.
    pub(crate) abandoned: Vec<String>,
}

impl Agent {
    /// Makes a connection the agent's, in the place of a former one, and goes on
    /// with the commands that it still has.
    ///
    /// # Errors
    /// When another has taken the connection's place before: a gateway may not
    /// know yet that its agent is elsewhere.
    pub(crate) fn connect(
        &mut self,
        connecting: Connecting<'_>,
        now_ms: u64,
    ) -> Result<Opened, Stale> {
        let report = connecting.report;
        let superseded = &mut self.document.superseded;
        if superseded.iter().any(|one| one == connecting.connection) {
            return Err(Stale { unknown: false });
        }
        let last = &mut self.document.last_connection;
        if last != connecting.connection {
            let former = std::mem::replace(last, connecting.connection.to_owned());
            if superseded.len() >= SUPERSEDED_CAPACITY {
                superseded.remove(0);
            }
            superseded.push(former);
        }
        self.heard_ms = now_ms;
        let repeated = self.is_session(connecting.connection);
        let was_offline = self.document.session.is_none();
        let session = Session {
            gateway: connecting.gateway.to_owned(),
            connection: connecting.connection.to_owned(),
            connected_at: report.connected_at.clone(),
        };
        let former = self.document.session.replace(session);
        if let Some(former) = former
            && !repeated
        {
            self.effects.push(Effect::Replace(former));
        }
        self.document.agent_type = cut(&report.agent_type);
        self.document.version = cut(&report.version);
        self.document.concurrency = report.concurrency.clamp(1, MOST_PLACES);
        self.document.keeps_journal = report.keeps_journal;
        self.changed = true;
        if !repeated {
            self.document.condition = Condition::Unsaid;
            self.metrics.clear();
            self.reconcile(report, now_ms);
        }
        if let Some(stop) = &mut self.document.stop
            && !repeated
        {
            (stop.told, stop.confirmed, stop.since_ms) = (false, false, now_ms);
            self.effects.push(Effect::Emergency);
        }
        if was_offline {
            self.announce("connected", now_ms);
        }
        self.dispatch(now_ms);
        let has = |id: &String| self.command(id).is_some_and(|one| !one.is_ended());
        let (kept, abandoned) = report
            .commands
            .iter()
            .map(|known| known.command_id.clone())
            .partition(has);
        let mut opened = Opened { kept, abandoned };
        for command in &self.document.commands {
            if matches!(command.phase, Phase::Running { .. }) && !opened.kept.contains(&command.id)
            {
                opened.kept.push(command.id.clone());
            }
        }
        Ok(opened)
    }

    /// Compares what the agent knows of commands with what it should.
    fn reconcile(&mut self, report: &AgentConnected, now_ms: u64) {
        let known: HashSet<&str> = report
            .commands
            .iter()
            .map(|known| known.command_id.as_str())
            .collect();
        let connection = self.document.session.as_ref();
        let connection = connection.map_or_else(String::new, |one| one.connection.clone());
        let (mut confirmed, mut again, mut interrupts) = (Vec::new(), Vec::new(), Vec::new());
        for command in &mut self.document.commands {
            let is_known = known.contains(command.id.as_str());
            match &command.phase {
                Phase::Starting { .. } | Phase::Running { .. } if is_known => {
                    command.doubt_since_ms = None;
                    confirmed.push(command.id.clone());
                }
                // It keeps account of what it has begun, and this is not in it.
                Phase::Starting { .. } if report.keeps_journal => {
                    command.phase = Phase::Starting {
                        connection: connection.clone(),
                    };
                    again.push(command.id.clone());
                }
                Phase::Starting { .. } | Phase::Running { .. } if !report.lists_commands => {
                    command.doubt_since_ms = Some(now_ms);
                }
                _ => {}
            }
            if command.is_busy() && command.interrupt.is_some() {
                interrupts.push(command.id.clone());
            }
        }
        for id in confirmed {
            self.confirm(&id, now_ms);
        }
        if report.lists_commands {
            self.fail(OUTCOME_UNKNOWN, now_ms, |command| {
                !known.contains(command.id.as_str()) && !again.contains(&command.id)
            });
        }
        self.effects.extend(again.into_iter().map(Effect::Execute));
        self.effects
            .extend(interrupts.into_iter().map(Effect::Interrupt));
    }

    /// Takes note that a connection is heard of.
    ///
    /// # Errors
    /// When it is not the agent's.
    pub(crate) fn hear(&mut self, connection: &str, now_ms: u64) -> Result<(), Stale> {
        if self.is_session(connection) {
            self.heard_ms = now_ms;
            return Ok(());
        }
        Err(Stale {
            unknown: self.document.session.is_none(),
        })
    }

    /// Begins to wait for beats anew: nothing could be heard for a while.
    pub(crate) fn listen_anew(&mut self, now_ms: u64) {
        self.heard_ms = now_ms;
    }

    /// Takes note that a connection is gone; its commands go on for a while.
    pub(crate) fn lose(&mut self, connection: &str, now_ms: u64) {
        if !self.is_session(connection) {
            return;
        }
        self.document.session = None;
        self.document.offline_since_ms = now_ms;
        self.metrics.clear();
        self.changed = true;
        self.announce("disconnected", now_ms);
    }

    /// Takes what the agent says of itself; gives whether more than its metrics
    /// has changed.
    pub(crate) fn condition(&mut self, condition: &AgentCondition, now_ms: u64) -> bool {
        if !condition.metrics.is_empty() && condition.metrics.len() <= MOST_METRICS {
            self.metrics.clone_from(&condition.metrics);
        }
        let said = match condition.status() {
            AgentStatus::Unspecified => return false,
            AgentStatus::Online => Condition::Online,
            AgentStatus::Busy => Condition::Busy,
            AgentStatus::Error => Condition::Error,
            // It is here, or it could not say so.
            AgentStatus::Offline => return false,
        };
        if self.document.condition == said {
            return false;
        }
        self.document.condition = said;
        self.changed = true;
        self.announce("status_changed", now_ms);
        true
    }

    /// Does what time demands.
    pub(crate) fn tick(&mut self, now_ms: u64) {
        if let Some(session) = &self.document.session {
            if now_ms.saturating_sub(self.heard_ms) >= self.bounds.silence_ms {
                let connection = session.connection.clone();
                self.lose(&connection, now_ms);
            }
        } else if self.is_past(self.document.offline_since_ms, now_ms) {
            self.fail(AGENT_LOST, now_ms, |_| true);
        }
        let grace = self.bounds.grace_ms;
        self.fail(OUTCOME_UNKNOWN, now_ms, |command| {
            let since = command.doubt_since_ms;
            since.is_some_and(|since| now_ms.saturating_sub(since) >= grace)
        });
    }

    fn is_past(&self, since_ms: u64, now_ms: u64) -> bool {
        now_ms.saturating_sub(since_ms) >= self.bounds.grace_ms
    }

    /// When [`tick`](Self::tick) has something to do, or what is told changes by
    /// itself.
    pub(crate) fn next_tick_ms(&self, now_ms: u64) -> Option<u64> {
        let document = &self.document;
        let grace = self.bounds.grace_ms;
        let mut times = Vec::new();
        if document.session.is_some() {
            times.push(self.heard_ms + self.bounds.silence_ms);
        } else if self.busy() > 0 {
            times.push(document.offline_since_ms + grace);
        }
        for command in &document.commands {
            if let (true, Some(since)) = (command.is_busy(), command.doubt_since_ms) {
                times.push(since + grace);
            }
            let due = command.claim().due_ms(self.bounds.due_ms);
            if let (true, Some(due)) = (command.is_waiting(), due)
                && due > now_ms
            {
                times.push(due);
            }
        }
        if let Some(stop) = &document.stop {
            let end = stop.since_ms + self.bounds.confirm_ms;
            if !stop.confirmed && end > now_ms {
                times.push(end);
            }
        }
        times.into_iter().min()
    }

    /// Whether nothing of the agent is worth keeping.
    pub(crate) fn is_forgettable(&self, now_ms: u64) -> bool {
        let since = self.document.offline_since_ms;
        self.document.session.is_none()
            && self.document.commands.is_empty()
            && now_ms.saturating_sub(since) >= self.bounds.memory_ms
    }

    /// Does what the emergency stop demands, or what its end does.
    pub(crate) fn emergency(&mut self, state: &EmergencyState, now_ms: u64) {
        let under = self.document.stop.as_ref().map(|stop| stop.id.as_str());
        if !state.active {
            if self.document.stop.take().is_some() {
                self.changed = true;
                self.effects.push(Effect::Emergency);
                self.dispatch(now_ms);
            }
            return;
        }
        if under == Some(state.stop_id.as_str()) {
            return;
        }
        self.document.stop = Some(Stop {
            id: state.stop_id.clone(),
            since_ms: now_ms,
            told: false,
            confirmed: false,
        });
        self.changed = true;
        self.effects.push(Effect::Emergency);
        let (mut over, mut interrupts) = (Vec::new(), Vec::new());
        for command in &mut self.document.commands {
            match command.phase {
                Phase::Waiting => over.push(command.id.clone()),
                Phase::Starting { .. } | Phase::Running { .. } => {
                    command
                        .interrupt
                        .get_or_insert_with(|| Interrupt { by: String::new() });
                    interrupts.push(command.id.clone());
                }
                Phase::Ended(_) => {}
            }
        }
        for id in over {
            let outcome = Outcome {
                end: End::Interrupted,
                reason: EMERGENCY_STOP.to_owned(),
                at_ms: now_ms,
                ..Outcome::default()
            };
            self.end(&id, outcome, now_ms);
        }
        self.effects
            .extend(interrupts.into_iter().map(Effect::Interrupt));
    }

    /// Takes note that the agent's connection has got the emergency stop.
    pub(crate) fn emergency_told(&mut self, stop_id: &str) {
        if let Some(stop) = &mut self.document.stop
            && stop.id == stop_id
            && !stop.told
        {
            stop.told = true;
            self.changed = true;
        }
    }

    /// Takes the agent's word that it has stopped.
    pub(crate) fn stopped(&mut self, stop_id: &str) {
        if let Some(stop) = &mut self.document.stop
            && stop.id == stop_id
            && !stop.confirmed
        {
            stop.confirmed = true;
            self.changed = true;
        }
    }

    /// Whether the agent is free of commands that an interrupt is meant for.
    pub(super) fn is_idle(&self) -> bool {
        self.busy() == 0
    }

    /// The reason of an interrupted command.
    pub(crate) fn reason_of(outcome: &Outcome) -> String {
        match outcome.end {
            End::Interrupted if outcome.reason.is_empty() => stopped_by(&outcome.by),
            End::Interrupted | End::Completed | End::Failed => outcome.reason.clone(),
        }
    }
}

/// Text of an agent, no longer than it may be.
fn cut(text: &str) -> String {
    let mut end = text.len().min(MOST_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
