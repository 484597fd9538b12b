//! One agent: its session, its queue and its commands. Pure: requests, reports
//! and the time in, changes of its document and what they demand out.
//!
//! Whoever holds it stores the document when [`Agent::take_change`] says that it
//! has changed, and only then does what the effects say. After a take-over
//! [`Agent::recover`] gives the effects that the document demands; all of them
//! may be done twice.

mod commands;
mod document;
mod session;
mod told;

#[cfg(test)]
mod tests;

use signalbox_protocol::wire::{
    CommandAccepted, CommandError, CommandRefusal, CommandState, RunCommand,
};

pub(crate) use self::commands::Delivered;
pub(crate) use self::document::{
    Announcement, Command, Condition, Document, End, Interrupt, Outcome, Phase, Session, Stop,
    Usage, Written,
};
pub(crate) use self::session::Connecting;
use crate::queue::{Priority, estimates};

/// Announcements that wait to be published; beyond it the oldest are dropped.
const ANNOUNCEMENT_CAPACITY: usize = 16;
/// What a command takes of the document beside its text, more or less: names of
/// fields, ids and times.
const ENTRY_BYTES: usize = 512;

/// What bounds an agent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Commands that may wait.
    pub(crate) queue: usize,
    /// Bytes that all commands of the document may take of it.
    pub(crate) bytes: usize,
    /// After which a command of lower priority goes next, in milliseconds.
    pub(crate) due_ms: u64,
    /// How long a lost agent's commands are believed to run.
    pub(crate) grace_ms: u64,
    /// How long a session lasts without a beat.
    pub(crate) silence_ms: u64,
    /// How long an agent may take to confirm an emergency stop.
    pub(crate) confirm_ms: u64,
    /// How long an agent without connection and commands is remembered.
    pub(crate) memory_ms: u64,
}

/// What a change demands, once it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Send a command to the agent.
    Execute(String),
    /// Have the agent end a command.
    Interrupt(String),
    /// Tell the agent how the emergency stop stands.
    Emergency,
    /// Have a former connection closed.
    Replace(Session),
    /// Write into a command's log what its document says.
    Record(String),
    /// Write into the logs of all commands that run that they were cleared.
    Clear {
        /// By whom; empty = the agent.
        by: String,
    },
    /// Publish what waits for it.
    Announce,
}

/// One agent.
#[derive(Clone, Debug)]
pub(crate) struct Agent {
    document: Document,
    bounds: Bounds,
    /// When the session was last heard of.
    heard_ms: u64,
    /// One JSON object, in the agent's words.
    metrics: String,
    effects: Vec<Effect>,
    changed: bool,
}

impl Agent {
    /// The agent that a document describes, at this time.
    pub(crate) fn new(document: Document, bounds: Bounds, now_ms: u64) -> Self {
        Self {
            document,
            bounds,
            heard_ms: now_ms,
            metrics: String::new(),
            effects: Vec::new(),
            changed: false,
        }
    }

    /// What lasts.
    pub(crate) const fn document(&self) -> &Document {
        &self.document
    }

    /// One JSON object, in the agent's words; empty = none.
    pub(crate) fn metrics(&self) -> &str {
        &self.metrics
    }

    /// Whether the document has changed since this was asked last.
    pub(crate) fn take_change(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// What is to be done once the document is stored.
    pub(crate) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// A command that is not over, or whose end is not recorded.
    pub(crate) fn command(&self, id: &str) -> Option<&Command> {
        self.document.commands.iter().find(|one| one.id == id)
    }

    fn command_mut(&mut self, id: &str) -> Option<&mut Command> {
        self.document.commands.iter_mut().find(|one| one.id == id)
    }

    /// Does again what the document demands and may not be done.
    pub(crate) fn recover(&mut self, now_ms: u64) {
        for command in &self.document.commands {
            self.effects.push(Effect::Record(command.id.clone()));
            match &command.phase {
                Phase::Starting { connection } if self.is_session(connection) => {
                    self.effects.push(Effect::Execute(command.id.clone()));
                }
                _ => {}
            }
            if command.is_busy() && command.interrupt.is_some() {
                self.effects.push(Effect::Interrupt(command.id.clone()));
            }
        }
        if self.document.stop.as_ref().is_some_and(|stop| !stop.told) {
            self.effects.push(Effect::Emergency);
        }
        if !self.document.announcements.is_empty() {
            self.effects.push(Effect::Announce);
        }
        self.dispatch(now_ms);
    }

    /// Accepts a command, unless there is a reason not to. `id` is new.
    pub(crate) fn run(
        &mut self,
        request: &RunCommand,
        by: &str,
        id: String,
        trace: Option<String>,
        now_ms: u64,
    ) -> Result<CommandAccepted, CommandRefusal> {
        if self.document.session.is_none() && !request.queue_if_offline {
            return Err(self.refusal(CommandError::AgentOffline, "the agent is not connected"));
        }
        let waiting = self.document.commands.iter().filter(|one| one.is_waiting());
        let commands = self.document.commands.iter();
        let bytes: usize = commands.map(|one| size(&one.command, &one.args)).sum();
        let its_bytes = size(&request.command, &request.args);
        if waiting.count() >= self.bounds.queue || bytes + its_bytes > self.bounds.bytes {
            return Err(self.refusal(CommandError::QueueFull, "the agent's queue is full"));
        }
        self.document.accepted += 1;
        self.document.commands.push(Command {
            id: id.clone(),
            order: self.document.accepted,
            command: request.command.clone(),
            args: request.args.clone(),
            priority: Priority::from(request.priority()),
            by: by.to_owned(),
            accepted_ms: now_ms,
            position: 0,
            estimated_ms: 0,
            attempt: 0,
            phase: Phase::Waiting,
            interrupt: None,
            doubt_since_ms: None,
            trace,
        });
        let queue = self.queue(now_ms);
        let (position, estimated_ms) = (1..)
            .zip(&queue)
            .find(|(_, (waiting, _))| waiting.id == id)
            .map_or((1, 0), |(position, (_, wait))| (position, *wait));
        if let Some(command) = self.command_mut(&id) {
            (command.position, command.estimated_ms) = (position, estimated_ms);
        }
        self.changed = true;
        self.effects.push(Effect::Record(id.clone()));
        self.dispatch(now_ms);
        Ok(CommandAccepted {
            command_id: id,
            agent_id: self.document.agent_id.clone(),
            position,
            estimated_wait_ms: estimated_ms,
            state: CommandState::Queued.into(),
            repeated: false,
        })
    }

    /// The answer to a request for a command that was accepted before.
    pub(crate) fn repeat(&self, id: &str, now_ms: u64) -> Option<CommandAccepted> {
        let command = self.command(id)?;
        let queue = self.queue(now_ms);
        let place = (1..)
            .zip(&queue)
            .find(|(_, (waiting, _))| waiting.id == id)
            .map(|(position, (_, wait))| (position, *wait));
        let (position, estimated_wait_ms) = place.unwrap_or_default();
        let state = match &command.phase {
            Phase::Waiting => CommandState::Queued,
            Phase::Starting { .. } | Phase::Running { .. } => CommandState::Running,
            Phase::Ended(outcome) => outcome.end.into(),
        };
        Some(CommandAccepted {
            command_id: id.to_owned(),
            agent_id: self.document.agent_id.clone(),
            position,
            estimated_wait_ms,
            state: state.into(),
            repeated: true,
        })
    }

    /// What waits, in the order in which it will run, and for how long each is
    /// likely to wait.
    pub(crate) fn queue(&self, now_ms: u64) -> Vec<(&Command, u64)> {
        let commands = &self.document.commands;
        let mut waiting: Vec<&Command> = commands.iter().filter(|one| one.is_waiting()).collect();
        waiting.sort_by_key(|one| one.claim().rank(now_ms, self.bounds.due_ms));
        let busy: Vec<u64> = commands
            .iter()
            .filter_map(|command| match command.phase {
                Phase::Starting { .. } => Some(self.document.average_ms),
                Phase::Running { since_ms } => Some(
                    self.document
                        .average_ms
                        .saturating_sub(now_ms.saturating_sub(since_ms)),
                ),
                Phase::Waiting | Phase::Ended(_) => None,
            })
            .collect();
        let places = self.document.concurrency as usize;
        let waits = estimates(waiting.len(), places, &busy, self.document.average_ms);
        waiting.into_iter().zip(waits).collect()
    }

    /// Starts what may start.
    fn dispatch(&mut self, now_ms: u64) {
        let Some(session) = &self.document.session else {
            return;
        };
        if self.document.stop.is_some() {
            return;
        }
        let connection = session.connection.clone();
        while self.busy() < self.document.concurrency {
            let bound = self.bounds.due_ms;
            let next = self
                .document
                .commands
                .iter_mut()
                .filter(|one| one.is_waiting())
                .min_by_key(|one| one.claim().rank(now_ms, bound));
            let Some(next) = next else { break };
            next.attempt += 1;
            next.phase = Phase::Starting {
                connection: connection.clone(),
            };
            self.effects.push(Effect::Execute(next.id.clone()));
            self.changed = true;
        }
    }

    /// How many places are taken.
    pub(crate) fn busy(&self) -> u32 {
        let busy = self.document.commands.iter().filter(|one| one.is_busy());
        u32::try_from(busy.count()).unwrap_or(u32::MAX)
    }

    fn is_session(&self, connection: &str) -> bool {
        let session = self.document.session.as_ref();
        session.is_some_and(|session| session.connection == connection)
    }

    /// A refusal about this agent.
    pub(crate) fn refusal(&self, code: CommandError, message: &str) -> CommandRefusal {
        CommandRefusal {
            code: code.into(),
            message: message.to_owned(),
            agent_id: self.document.agent_id.clone(),
        }
    }
}

impl From<End> for CommandState {
    fn from(end: End) -> Self {
        match end {
            End::Completed => Self::Completed,
            End::Failed => Self::Failed,
            End::Interrupted => Self::Interrupted,
        }
    }
}

/// What a command takes of the document.
fn size(command: &str, args: &[String]) -> usize {
    ENTRY_BYTES + written(command) + args.iter().map(|one| written(one)).sum::<usize>()
}

/// Bytes of a text in JSON, with its quotes and what parts it from the next.
fn written(text: &str) -> usize {
    let bytes = text.bytes().map(|byte| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..=0x1f => 6,
        _ => 1,
    });
    bytes.sum::<usize>() + 3
}
