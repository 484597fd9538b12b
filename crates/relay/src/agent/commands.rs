//! What becomes of commands once they are accepted.

use signalbox_protocol::wire::{
    CommandComplete, CommandError, CommandRefusal, CommandState, CommandStatus,
};

use super::{Agent, Command, Effect, End, Interrupt, Outcome, Phase, Usage, Written};

/// What became of an attempt to send something to the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivered {
    /// Its connection has it.
    Done,
    /// There is no such connection any more. `surely` tells that nothing was
    /// written; otherwise an earlier attempt, whose answer was lost, may have.
    Gone {
        /// Whether nothing was written.
        surely: bool,
    },
}

impl Agent {
    /// Ends a command early, whatever it is doing.
    pub(crate) fn interrupt(
        &mut self,
        id: &str,
        by: &str,
        now_ms: u64,
    ) -> Result<(), CommandRefusal> {
        let unknown = self.refusal(
            CommandError::CommandNotFound,
            "no such command runs or waits",
        );
        let Some(command) = self.command_mut(id) else {
            return Err(unknown);
        };
        match &command.phase {
            Phase::Ended(_) => return Err(unknown),
            Phase::Waiting => {
                let outcome = Outcome {
                    end: End::Interrupted,
                    by: by.to_owned(),
                    at_ms: now_ms,
                    ..Outcome::default()
                };
                self.end(id, outcome, now_ms);
            }
            Phase::Starting { .. } | Phase::Running { .. } => {
                let first = command.interrupt.is_none();
                command
                    .interrupt
                    .get_or_insert_with(|| Interrupt { by: by.to_owned() });
                // Again, where somebody insists.
                self.effects.push(Effect::Interrupt(id.to_owned()));
                self.changed |= first;
            }
        }
        Ok(())
    }

    /// Clears the agent's terminal; tells whether any command's log says so.
    pub(crate) fn clear(&mut self, by: &str) -> bool {
        let any = self.busy() > 0;
        if any {
            self.effects.push(Effect::Clear { by: by.to_owned() });
        }
        any
    }

    /// Takes note of what became of sending a command to the agent.
    pub(crate) fn executed(&mut self, id: &str, on: &str, delivered: Delivered, now_ms: u64) {
        let keeps_journal = self.document.keeps_journal;
        let Some(command) = self.command_mut(id) else {
            return;
        };
        let Phase::Starting { connection } = &command.phase else {
            return;
        };
        if connection != on {
            return;
        }
        match delivered {
            // It may be that it never gets further than the connection: an agent
            // with a journal says so itself.
            Delivered::Done if !keeps_journal => self.confirm(id, now_ms),
            Delivered::Done => {}
            Delivered::Gone { surely: true } => {
                command.phase = Phase::Waiting;
                self.changed = true;
                self.lose(on, now_ms);
                self.settle_interrupted(now_ms);
            }
            Delivered::Gone { surely: false } => self.lose(on, now_ms),
        }
    }

    /// A command that was to be interrupted and never left ends at once.
    fn settle_interrupted(&mut self, now_ms: u64) {
        let over: Vec<(String, String)> = self
            .document
            .commands
            .iter()
            .filter(|command| command.is_waiting())
            .filter_map(|command| Some((command.id.clone(), command.interrupt.clone()?.by)))
            .collect();
        for (id, by) in over {
            let outcome = Outcome {
                end: End::Interrupted,
                reason: stopped_by(&by),
                by,
                at_ms: now_ms,
                ..Outcome::default()
            };
            self.end(&id, outcome, now_ms);
        }
    }

    /// Takes note that the agent has begun a command.
    pub(crate) fn confirm(&mut self, id: &str, now_ms: u64) {
        let Some(command) = self.command_mut(id) else {
            return;
        };
        if command.doubt_since_ms.take().is_some() {
            self.changed = true;
        }
        let Some(command) = self.command_mut(id) else {
            return;
        };
        if let Phase::Starting { .. } = command.phase {
            command.phase = Phase::Running { since_ms: now_ms };
            self.changed = true;
            self.effects.push(Effect::Record(id.to_owned()));
        }
    }

    /// Takes the agent's word for how far a command is.
    pub(crate) fn status(&mut self, status: &CommandStatus, now_ms: u64) {
        match status.state() {
            CommandState::Queued => {}
            CommandState::Running => self.confirm(&status.command_id, now_ms),
            end @ (CommandState::Completed | CommandState::Failed | CommandState::Interrupted) => {
                let complete = CommandComplete {
                    command_id: status.command_id.clone(),
                    exit_code: status.exit_code,
                    signal: status.signal.clone(),
                    duration_ms: status.duration_ms,
                    ..CommandComplete::default()
                };
                self.complete_as(&complete, Some(end), now_ms);
            }
        }
    }

    /// Takes the agent's word that a command is over. One that is known to be
    /// over stays as it is.
    pub(crate) fn complete(&mut self, complete: &CommandComplete, now_ms: u64) {
        let said = match complete.state() {
            CommandState::Queued | CommandState::Running => None,
            end @ (CommandState::Completed | CommandState::Failed | CommandState::Interrupted) => {
                Some(end)
            }
        };
        self.complete_as(complete, said, now_ms);
    }

    fn complete_as(&mut self, complete: &CommandComplete, said: Option<CommandState>, now_ms: u64) {
        let Some(command) = self.command(&complete.command_id) else {
            return;
        };
        if !command.is_busy() {
            return;
        }
        let exit_code = complete.exit_code;
        let is_bad = exit_code.is_some_and(|code| code != 0)
            || !complete.signal.is_empty()
            || !complete.reason.is_empty();
        let interrupt = command.interrupt.clone();
        let end = match said {
            Some(CommandState::Interrupted) => End::Interrupted,
            Some(CommandState::Failed) if interrupt.is_none() => End::Failed,
            // It may have been done before the interrupt came.
            _ if is_bad && interrupt.is_some() => End::Interrupted,
            Some(CommandState::Failed) => End::Interrupted,
            _ if is_bad => End::Failed,
            _ => End::Completed,
        };
        let by = match end {
            End::Interrupted => interrupt.map_or_else(String::new, |interrupt| interrupt.by),
            End::Completed | End::Failed => String::new(),
        };
        if let Phase::Running { since_ms } = command.phase {
            let took = complete
                .duration_ms
                .unwrap_or(now_ms.saturating_sub(since_ms));
            self.document.average_ms = (self.document.average_ms * 3 + took) / 4;
        }
        let outcome = Outcome {
            end,
            exit_code,
            signal: complete.signal.clone(),
            duration_ms: complete.duration_ms,
            reason: complete.reason.clone(),
            incomplete: complete.incomplete,
            by,
            written: Written::of(&complete.sums),
            usage: complete.usage.map(Usage::from),
            at_ms: now_ms,
        };
        self.end(&complete.command_id, outcome, now_ms);
    }

    /// Ends a command, and starts what may start instead.
    pub(super) fn end(&mut self, id: &str, outcome: Outcome, now_ms: u64) {
        let Some(command) = self.command_mut(id) else {
            return;
        };
        if command.is_ended() {
            return;
        }
        command.phase = Phase::Ended(outcome);
        self.changed = true;
        self.effects.push(Effect::Record(id.to_owned()));
        self.dispatch(now_ms);
    }

    /// Fails all commands that `which` picks.
    pub(super) fn fail(&mut self, reason: &str, now_ms: u64, which: impl Fn(&Command) -> bool) {
        let failed: Vec<String> = self
            .document
            .commands
            .iter()
            .filter(|command| command.is_busy() && which(command))
            .map(|command| command.id.clone())
            .collect();
        for id in failed {
            let outcome = Outcome {
                reason: reason.to_owned(),
                incomplete: true,
                at_ms: now_ms,
                ..Outcome::default()
            };
            self.end(&id, outcome, now_ms);
        }
    }

    /// Forgets a command whose end is in its log.
    pub(crate) fn recorded(&mut self, id: &str) {
        let before = self.document.commands.len();
        self.document
            .commands
            .retain(|command| command.id != id || !command.is_ended());
        self.changed |= self.document.commands.len() != before;
    }
}

/// Why a command was interrupted, where nobody in particular wanted it.
pub(super) fn stopped_by(by: &str) -> String {
    let reason = if by.is_empty() { EMERGENCY_STOP } else { "" };
    reason.to_owned()
}

/// The reason of commands that an emergency stop has ended.
pub(super) const EMERGENCY_STOP: &str = "emergency_stop";
