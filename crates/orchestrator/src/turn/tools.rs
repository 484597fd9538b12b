//! Has the planned calls of a round run, side by side, until each of them has a
//! result. Whatever is done is in the log first: whoever goes on with the answer
//! knows by that which call may be started and which never again.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use signalbox_bus::assignment::Stop;
use signalbox_bus::trace;
use signalbox_protocol::wire::{
    ChatToolEnded, ChatToolNoted, ChatToolStarted, ToolOutcome, chat_record::Record,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::Turn;
use super::call::Outcome as CallOutcome;
use super::desk::{AT_ONCE, Desk};
use super::ending::{Verdict, verdict};
use super::people::status_at_end;
use super::supervise::Supervision;
use crate::agents::Agent;
use crate::answer::{Called, Stage};
use crate::approval::Status;
use crate::chat_log::Lost;
use crate::moment;
use crate::tools::{self, Call, NOTES_CAPACITY, Note, Outcome, Tool};

/// What the results of one answer may have together, in bytes: the model is given
/// all of them with each further call.
const RESULTS_BYTES: usize = 1024 * 1024;
/// What each of them may have all the same.
const LEAST_RESULT_BYTES: usize = 512;
/// The time that is left at least to a tool that another orchestrator has started,
/// to say what became of it.
const ADOPTION: Duration = Duration::from_secs(5);
/// What the model is told of a call of which nobody knows whether it ran.
const UNKNOWN: &str = "the outcome of this call is unknown; do not assume that it ran, nor that \
                       it did not";
/// What it is told of a tool that is there no more.
const GONE: &str = "there is no such tool any more";

/// Why calls are given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Off {
    /// The user has cancelled the answer.
    Cancelled,
    /// The answer has ended otherwise, as this says.
    Over(&'static str),
}

impl Off {
    const fn words(self) -> &'static str {
        match self {
            Self::Cancelled => "the chat was cancelled",
            Self::Over(words) => words,
        }
    }
}

impl Turn {
    /// Sees to it that each call of the last round has a result; gives how the
    /// answer ends if it ends by that. `is_taken`: another orchestrator may have
    /// begun with it.
    pub(super) async fn work_off(
        &mut self,
        agent: &Agent,
        is_taken: bool,
    ) -> Result<Option<Verdict>, Lost> {
        if self.answer.called().is_empty() {
            return Ok(None);
        }
        let mut desk = Desk::new(self.means.approvals.clone());
        self.lay_out(&mut desk, is_taken).await?;
        let verdict = self.attend(agent, &mut desk).await?;
        self.view.lock().waits_since = None;
        desk.all_told().await;
        Ok(verdict)
    }

    /// Gives every call that has no result one, since the answer ends. Where another
    /// orchestrator may have been lost before it told of some, that is made up for.
    pub(super) async fn close(&mut self, off: Off) -> Result<(), Lost> {
        let was_taken = self.answer.recoveries > 0;
        if !was_taken && self.answer.called().iter().all(|call| call.ended.is_some()) {
            return Ok(());
        }
        let mut desk = Desk::new(self.means.approvals.clone());
        if was_taken {
            for call in self.answer.called() {
                self.tell_again(&mut desk, call).await;
            }
        }
        self.call_off(&mut desk, off).await?;
        desk.all_told().await;
        Ok(())
    }

    /// The tool of this name as it is now, if the agent has it and the user may use it.
    pub(super) fn tool(&self, name: &str) -> Option<Arc<Tool>> {
        let (agent, asked) = (self.agent.as_ref()?, &self.answer.asked);
        let toolbox = &self.means.toolbox;
        toolbox.find_offered(name, &agent.tools, &asked.permissions)
    }

    /// Puts each call where it belongs, by what the log says of it.
    async fn lay_out(&mut self, desk: &mut Desk, is_taken: bool) -> Result<(), Lost> {
        for call in self.answer.called().to_vec() {
            if is_taken {
                self.tell_again(desk, &call).await;
            }
            match call.stage() {
                Stage::Ended => {}
                Stage::Planned if !call.planned.refusal.is_empty() => {
                    let words = call.planned.refusal.clone();
                    self.end_call(desk, &call, Outcome::Error(words)).await?;
                }
                Stage::Planned => self.prepare(desk, &call).await?,
                Stage::Held => self.wait_for_people(desk, &call),
                Stage::Approved => desk.ready.push_back(call.number()),
                Stage::Declined => self.decline(desk, &call).await?,
                Stage::Started => self.adopt(desk, &call).await?,
            }
        }
        Ok(())
    }

    /// Has a call run, or people asked first.
    async fn prepare(&mut self, desk: &mut Desk, call: &Called) -> Result<(), Lost> {
        let Some(tool) = self.tool(&call.planned.tool_name) else {
            let outcome = Outcome::Error(GONE.to_owned());
            return self.end_call(desk, call, outcome).await;
        };
        match &tool.approval {
            Some(approval) => self.hold(desk, call, approval).await,
            None => {
                desk.ready.push_back(call.number());
                Ok(())
            }
        }
    }

    /// Keeps the calls going until all have ended, or the answer has.
    async fn attend(&mut self, agent: &Agent, desk: &mut Desk) -> Result<Option<Verdict>, Lost> {
        let cancel = self.cancel.clone();
        let mut cancelled = std::pin::pin!(cancel.wait());
        loop {
            if self.cancel.is_triggered() {
                self.call_off(desk, Off::Cancelled).await?;
                return Ok(Some(Verdict::Stopped));
            }
            if desk.is_clear() {
                return Ok(None);
            }
            let is_waiting = desk.is_waiting();
            self.rest(is_waiting);
            let clocks = self.clocks(agent);
            if let Some(outcome) = clocks.over().filter(|_| !is_waiting) {
                self.call_off(desk, Off::Over(words_of(&outcome))).await?;
                return Ok(Some(verdict(outcome)));
            }
            let last = clocks.last();
            if !desk.ready.is_empty() && desk.runs.len() < AT_ONCE {
                if self.take_place(last).await {
                    self.start_next(desk, last).await?;
                }
                continue;
            }
            tokio::select! {
                biased;
                () = &mut cancelled => {}
                Some((number, note)) = desk.notes.recv() => self.note_call(number, note).await?,
                Some((number, outcome)) = desk.runs.ended() => {
                    self.note_end_of_run(desk, number, outcome).await?;
                }
                Some((number, decided)) = desk.waiting.next() => {
                    self.decide(desk, number, decided).await?;
                }
                () = sleep_until(last), if !is_waiting => {}
            }
        }
    }

    /// Leaves the place to others while people are asked and nothing else goes on.
    fn rest(&mut self, is_waiting: bool) {
        if is_waiting {
            self.places.give_back();
        }
        let mut view = self.view.lock();
        view.waits_since = match is_waiting {
            true => view.waits_since.or(Some(Instant::now())),
            false => None,
        };
    }

    async fn start_next(&mut self, desk: &mut Desk, last: Instant) -> Result<(), Lost> {
        let next = desk.ready.pop_front();
        let Some(call) = next.and_then(|number| self.answer.call(number).cloned()) else {
            return Ok(());
        };
        let Some(tool) = self.tool(&call.planned.tool_name) else {
            let outcome = Outcome::Error(GONE.to_owned());
            return self.end_call(desk, &call, outcome).await;
        };
        // It may have come to need one since the call was put among those that run.
        if let Some(approval) = &tool.approval
            && call.stage() != Stage::Approved
        {
            return self.hold(desk, &call, approval).await;
        }
        self.append(Record::ToolStarted(ChatToolStarted {
            tool_call: call.number(),
            tool_name: call.planned.tool_name.clone(),
            arguments: call.planned.arguments.clone(),
        }))
        .await?;
        if let Some(action) = self.action(&call) {
            desk.told(action, Status::Executing).await;
        }
        let deadline = (Instant::now() + tool.limits.time).min(last);
        let (call, supervision) = self.call_of(desk, &call, deadline);
        desk.runs
            .begin(call.number, supervision.run(tool.runner.run(call)));
        Ok(())
    }

    /// Goes on with a call that another orchestrator has started, where its tool
    /// can; runs nothing.
    async fn adopt(&mut self, desk: &mut Desk, call: &Called) -> Result<(), Lost> {
        let Some(tool) = self.tool(&call.planned.tool_name) else {
            let outcome = Outcome::Unknown(UNKNOWN.to_owned());
            return self.end_call(desk, call, outcome).await;
        };
        let passed = moment::now_ms().saturating_sub(call.started_ms.unwrap_or_default());
        let left = tool
            .limits
            .time
            .saturating_sub(Duration::from_millis(passed));
        let deadline = Instant::now() + left.max(ADOPTION);
        let (adopted, supervision) = self.call_of(desk, call, deadline);
        match tool.runner.adopt(adopted) {
            Some(running) => {
                desk.runs.begin(call.number(), supervision.run(running));
                Ok(())
            }
            None => {
                let outcome = Outcome::Unknown(UNKNOWN.to_owned());
                self.end_call(desk, call, outcome).await
            }
        }
    }

    /// A call as its runner gets it, and what it is held to.
    fn call_of(&self, desk: &Desk, call: &Called, deadline: Instant) -> (Call, Supervision) {
        let (note, notes) = mpsc::channel(NOTES_CAPACITY);
        let stop = Stop::default();
        let supervision = Supervision {
            number: call.number(),
            deadline,
            cancel: self.cancel.clone(),
            stop: stop.clone(),
            notes,
            told: desk.tell.clone(),
        };
        let asked = &self.answer.asked;
        let call = Call {
            user_id: self.key.user_id.clone(),
            session_id: self.key.session_id.clone(),
            answer: self.answer.number,
            number: call.number(),
            name: call.planned.tool_name.clone(),
            arguments: call.arguments(),
            channels: asked.channels.clone(),
            permissions: asked.permissions.clone(),
            deadline,
            cancel: stop,
            note,
            trace: trace::current(),
        };
        (call, supervision)
    }

    async fn note_call(&mut self, number: u32, note: Note) -> Result<(), Lost> {
        let Note::Terminal {
            agent_id,
            command_id,
        } = note;
        self.append(Record::ToolNoted(ChatToolNoted {
            tool_call: number,
            agent_id,
            command_id,
        }))
        .await
    }

    /// Takes note that a run has ended, behind all that it has told.
    async fn note_end_of_run(
        &mut self,
        desk: &mut Desk,
        number: u32,
        outcome: Outcome,
    ) -> Result<(), Lost> {
        while let Ok((number, note)) = desk.notes.try_recv() {
            self.note_call(number, note).await?;
        }
        match self.answer.call(number).cloned() {
            Some(call) => self.end_call(desk, &call, outcome).await,
            None => Ok(()),
        }
    }

    /// Ends everything that is under way, and all that is not begun.
    async fn call_off(&mut self, desk: &mut Desk, off: Off) -> Result<(), Lost> {
        desk.ready.clear();
        // Nobody waits for people any more; what they have said counts below.
        desk.waiting.clear();
        let held = self.answer.called().iter();
        let held = held.filter(|call| call.stage() == Stage::Held);
        let actions: Vec<_> = held.filter_map(|call| self.action(call)).collect();
        let approvals = self.means.approvals.clone();
        // Side by side: a bus that refuses takes its time for each of them.
        let settled = actions
            .iter()
            .map(|action| approvals.settle(action, off.words()));
        for (action, decided) in actions.iter().zip(join_all(settled).await) {
            self.note_decision(action.tool_call, decided).await?;
        }
        // Each of these ends within its time and the grace.
        while let Some((number, outcome)) = desk.runs.ended().await {
            self.note_end_of_run(desk, number, outcome).await?;
        }
        for call in self.answer.called().to_vec() {
            let outcome = match (call.stage(), off) {
                (Stage::Ended, _) => continue,
                (Stage::Started, _) => Outcome::Unknown(UNKNOWN.to_owned()),
                (_, Off::Cancelled) => Outcome::Cancelled,
                (_, Off::Over(words)) => Outcome::Error(format!("{words}; it was not run")),
            };
            self.end_call(desk, &call, outcome).await?;
        }
        Ok(())
    }

    /// Stores what became of a call. An error of one that was not started is a
    /// refusal.
    pub(super) async fn end_call(
        &mut self,
        desk: &mut Desk,
        call: &Called,
        outcome: Outcome,
    ) -> Result<(), Lost> {
        let number = call.number();
        let now_ms = moment::now_ms();
        // As it is by now, which `call` may not know.
        let started_ms = self.answer.call(number).and_then(|call| call.started_ms);
        let took_ms = started_ms.map_or(0, |at| now_ms.saturating_sub(at));
        let limit = self.means.toolbox.find(&call.planned.tool_name);
        let limit = limit.map_or(tools::DEFAULT_RESULT_BYTES, |tool| tool.limits.result_bytes);
        let left = RESULTS_BYTES.saturating_sub(self.answer.result_bytes);
        let most = limit.min(tools::MAX_RESULT_BYTES).min(left);
        let (outcome, result, truncated) =
            stored(outcome, started_ms.is_some(), most.max(LEAST_RESULT_BYTES));
        self.means.metrics.tool_ended(outcome, took_ms);
        self.append(Record::ToolEnded(ChatToolEnded {
            tool_call: number,
            tool_name: call.planned.tool_name.clone(),
            outcome: outcome.into(),
            result,
            truncated,
            took_ms,
        }))
        .await?;
        if let Some(call) = self.answer.call(number).cloned()
            && let Some(action) = self.action(&call)
        {
            desk.told(action, status_at_end(&call, outcome)).await;
        }
        Ok(())
    }
}

/// An outcome as the log has it, without anything that could do harm.
fn stored(outcome: Outcome, was_started: bool, most_bytes: usize) -> (ToolOutcome, String, bool) {
    let (outcome, words) = match outcome {
        Outcome::Value(value) => {
            let contained = tools::contain(&value, most_bytes);
            return (ToolOutcome::Value, contained.json, contained.truncated);
        }
        Outcome::Error(words) if was_started => (ToolOutcome::Error, words),
        Outcome::Error(words) => (ToolOutcome::Refused, words),
        Outcome::TimedOut => {
            let words = "the tool gave nothing in its time; whether it acted is unknown";
            (ToolOutcome::TimedOut, words.to_owned())
        }
        Outcome::Cancelled if was_started => {
            let words = "the call was cancelled; whether it acted is unknown";
            (ToolOutcome::Cancelled, words.to_owned())
        }
        Outcome::Cancelled => {
            let words = "the call was cancelled before it ran";
            (ToolOutcome::Cancelled, words.to_owned())
        }
        Outcome::Stopped(words) => (ToolOutcome::Cancelled, words),
        Outcome::Unknown(words) => (ToolOutcome::Unknown, words),
    };
    (outcome, tools::contain_text(&words, most_bytes), false)
}

const fn words_of(outcome: &CallOutcome) -> &'static str {
    match outcome {
        CallOutcome::TimedOut(words) | CallOutcome::OverBudget(words) => words,
        _ => "the answer is over",
    }
}
