//! One answer, from its question to its end: calls the provider within clocks and
//! budgets, stores what it writes, settles what it cost, has the tools run that it
//! asks for, and ends in exactly one record. Whatever is told of the answer is told
//! by these records.
//!
//! ```text
//! round: call the provider ─▶ plan its calls of tools ─▶ settle ─▶ work them off ─┐
//!    ▲                                                                            │
//!    └────────────── the request anew, from what the log says ◀───────────────────┘
//! ```
//!
//! It holds in memory: the answer (128 KiB at most), 80 KiB that are not stored
//! yet, and the request twice (what conversation, contexts and events may have, and
//! of tools a mebibyte of results and 64 KiB of arguments for each call).

mod call;
mod desk;
mod ending;
mod listen;
mod people;
mod places;
mod plan;
mod recover;
mod supervise;
mod tools;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use signalbox_bus::assignment::Stop;
use signalbox_protocol::wire::{ChatError, ChatRecord, chat_record::Record};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use self::call::Outcome;
use self::ending::{Verdict, failed, verdict};
pub(crate) use self::places::{Full, OfUser, Places};
use crate::agents::Agent;
use crate::analysis::{self, Fault};
use crate::answer::Answer;
use crate::approval::Approvals;
use crate::budget::Meter;
use crate::chat_log::{ChatLog, Lost};
use crate::evidence_log::EvidenceLog;
use crate::metrics::Metrics;
use crate::moment;
use crate::open_turn::SessionKey;
use crate::progress::{Progress, Watch};
use crate::provider::{AnalysisRequest, Request, StopReason};
use crate::session::Session;
use crate::tools::Toolbox;

/// The longest answer, in bytes: with its analysis it is one record of the log.
pub(crate) const ANSWER_BYTES: usize = 128 * 1024;
/// How often another orchestrator goes on with an answer.
pub(crate) const RECOVERIES: u32 = 3;
/// Rounds of an answer that another one may follow. The tools of the last of them
/// are not run, so that the model comes to its end.
const MAX_ROUNDS: usize = 16;

/// How far a log is while a turn writes it, for those who ask.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct View {
    /// The number of the log's last record.
    pub(crate) number: u64,
    /// Its sequence in CHAT.
    pub(crate) sequence: u64,
    /// Chunks of the answer.
    pub(crate) chunks: u32,
    /// Since when nothing is done but people asked; `None` otherwise.
    pub(crate) waits_since: Option<Instant>,
}

/// What a turn needs beside its session.
#[derive(Clone)]
pub(crate) struct Means {
    pub(crate) metrics: Metrics,
    pub(crate) evidence: EvidenceLog,
    /// Where those who follow an investigation are told of it.
    pub(crate) progress: Progress,
    /// The tools that there are.
    pub(crate) toolbox: Arc<Toolbox>,
    /// How people decide on calls of them.
    pub(crate) approvals: Approvals,
    /// Chats that may wait for that at once.
    pub(crate) waiting: Arc<Semaphore>,
    /// The least time from one chunk to the next.
    pub(crate) interval: Duration,
}

/// An answer that is being written.
pub(crate) struct Turn {
    means: Means,
    key: SessionKey,
    agent: Option<Arc<Agent>>,
    /// Who follows the investigation that it is part of.
    watch: Option<Watch>,
    /// Away while a record is being appended beside something else.
    log: Option<ChatLog>,
    answer: Answer,
    request: Request,
    /// Messages of the request that were there before the answer.
    earlier: usize,
    meter: Meter,
    places: Places,
    cancel: Stop,
    view: Arc<Mutex<View>>,
    /// Bytes of the chunk that is being stored.
    storing_bytes: usize,
    began: Instant,
}

impl Turn {
    /// The last answer of a session, which is being written.
    pub(crate) fn new(
        means: Means,
        agent: Option<Arc<Agent>>,
        log: ChatLog,
        session: &Session,
        (key, answer): (SessionKey, Answer),
        places: Places,
        (cancel, view): (Stop, Arc<Mutex<View>>),
    ) -> Self {
        let (budget, price) = agent
            .as_ref()
            .map(|agent| (agent.budget, agent.price))
            .unwrap_or_default();
        let asked = &answer.asked;
        let request = agent.as_ref().map(|agent| Request {
            agent_type: agent.agent_type.clone(),
            model: agent.model.clone(),
            instructions: agent.instructions.clone(),
            context: session.context.clone(),
            messages: session.conversation.messages(asked),
            analysis: Some(AnalysisRequest {
                schema: Arc::clone(&agent.schema),
                ask: agent.ask,
                only: false,
            }),
            max_output_tokens: agent.max_output_tokens,
            ..Request::default()
        });
        let request = request.unwrap_or_default();
        let passed = moment::now_ms().saturating_sub(answer.asked_ms);
        let now = Instant::now();
        let began = now
            .checked_sub(Duration::from_millis(passed))
            .unwrap_or(now);
        let context = session.context.as_ref();
        let watch = means
            .progress
            .watch(agent.as_deref(), &key, context, &answer);
        Self {
            means,
            key,
            agent,
            watch,
            log: Some(log),
            earlier: request.messages.len(),
            request,
            places,
            meter: Meter {
                budget,
                price,
                spent: session.spent,
                spent_ms: session.spent_ms,
            },
            answer,
            cancel,
            view,
            storing_bytes: 0,
            began,
        }
    }

    /// Writes the answer to its end; gives back the log, and what it says now.
    /// Dropped, it leaves the answer to the next owner of the log.
    pub(crate) async fn run(mut self) -> Result<(ChatLog, Answer), Lost> {
        let verdict = self.write(false).await?;
        self.conclude(verdict).await
    }

    /// As [`run`](Self::run), for an answer that another orchestrator has begun.
    pub(crate) async fn go_on(mut self) -> Result<(ChatLog, Answer), Lost> {
        if !self.answer.is_waiting() {
            // What is gone on with waits for its turn, which new ones do not.
            let last = self.last_moment();
            self.take_place(last).await;
        }
        let verdict = match self.recover().await? {
            Some(verdict) => verdict,
            None => self.write(true).await?,
        };
        self.conclude(verdict).await
    }

    async fn conclude(mut self, verdict: Verdict) -> Result<(ChatLog, Answer), Lost> {
        self.end(verdict).await?;
        match self.log.take() {
            Some(log) => Ok((log, self.answer)),
            None => Err(Lost::Refused),
        }
    }

    async fn write(&mut self, is_taken: bool) -> Result<Verdict, Lost> {
        let Some(agent) = self.agent.clone() else {
            let words = "the agent is not configured any more";
            return Ok(failed(ChatError::AgentUnavailable, words, false));
        };
        if is_taken {
            self.await_tools(&agent).await;
        }
        if let Some(verdict) = self.work_off(&agent, is_taken).await? {
            return Ok(verdict);
        }
        self.gather(&agent).await;
        loop {
            self.renew_request();
            let request = Arc::new(self.request.clone());
            let outcome = match self.call(&agent, request, true).await? {
                Ok(outcome) => outcome,
                Err(verdict) => return Ok(verdict),
            };
            let end = match outcome {
                Outcome::Ended(end) => end,
                other => return Ok(verdict(other)),
            };
            if self.answer.rounds.last().is_some_and(|round| round.is_over) {
                match self.work_off(&agent, false).await? {
                    Some(verdict) => return Ok(verdict),
                    None => continue,
                }
            }
            match end.stop {
                StopReason::ToolUse | StopReason::PauseTurn => {
                    let words = "the answer has asked for tools too often";
                    return Ok(failed(ChatError::BudgetExceeded, words, false));
                }
                StopReason::MaxTokens => {
                    let words = "the answer is as long as it may be";
                    return Ok(failed(ChatError::BudgetExceeded, words, false));
                }
                StopReason::Refusal => {
                    let words = "the model refuses to answer";
                    return Ok(failed(ChatError::AgentUnavailable, words, false));
                }
                StopReason::ContextExceeded => {
                    let words = "the conversation is too long for the model";
                    return Ok(failed(ChatError::AgentUnavailable, words, false));
                }
                StopReason::EndTurn | StopReason::StopSequence | StopReason::Other(_) => {
                    return self.check(&agent, end.analysis.as_deref()).await;
                }
            }
        }
    }

    /// Gives the model the events that bear on the question.
    async fn gather(&mut self, agent: &Agent) {
        let asked = &self.answer.asked;
        let evidence = &self.means.evidence;
        self.request.events = evidence.gather(asked, &self.request, agent.events).await;
    }

    /// Makes the request what the log says: the question, the rounds that are over
    /// with what their tools gave, and what there is of the one that is not. Tools
    /// are those that are there now.
    fn renew_request(&mut self) {
        if let Some(agent) = &self.agent {
            let permissions = &self.answer.asked.permissions;
            self.request.tools = self.means.toolbox.offered(&agent.tools, permissions);
        }
        self.request.messages.truncate(self.earlier);
        self.request.messages.extend(self.answer.messages());
        self.request.so_far = self.answer.unfinished_text().to_owned();
    }

    /// Waits for a place among the answers that are written, unless the answer is
    /// cancelled or over before.
    async fn take_place(&mut self, last: Instant) -> bool {
        let cancel = self.cancel.clone();
        tokio::select! {
            biased;
            () = self.places.take() => true,
            () = cancel.wait() => false,
            () = sleep_until(last) => false,
        }
    }

    /// Checks the analysis of a complete text, and has the model repair it once.
    async fn check(&mut self, agent: &Agent, analysis: Option<&str>) -> Result<Verdict, Lost> {
        let fault = match analysis::checked(&agent.schema, &self.request, analysis) {
            Ok(analysis) => return Ok(Verdict::Answered(analysis.to_string())),
            Err(fault) => fault,
        };
        self.repair(agent, &fault).await
    }

    async fn repair(&mut self, agent: &Agent, fault: &Fault) -> Result<Verdict, Lost> {
        let unusable = || {
            let words = "the answer's analysis does not fit its schema";
            failed(ChatError::AgentUnavailable, words, true)
        };
        let problems = fault.problems.len();
        info!(problems, agent = %agent.agent_type, "analysis to be repaired");
        debug!(%fault, "problems of the analysis");
        self.means.metrics.repairs.add(1);
        self.renew_request();
        let written = self.answer.unfinished_text();
        let Some(request) = analysis::repair(&self.request, written, fault) else {
            return Ok(unusable());
        };
        let outcome = match self.call(agent, Arc::new(request), false).await? {
            Ok(outcome) => outcome,
            Err(verdict) => return Ok(verdict),
        };
        let end = match outcome {
            Outcome::Ended(end) => end,
            other => return Ok(verdict(other)),
        };
        match analysis::checked(&agent.schema, &self.request, end.analysis.as_deref()) {
            Ok(analysis) => Ok(Verdict::Answered(analysis.to_string())),
            Err(fault) => {
                let problems = fault.problems.len();
                warn!(problems, agent = %agent.agent_type, "analysis unusable");
                debug!(%fault, "problems of the analysis");
                Ok(unusable())
            }
        }
    }

    fn record(&self, record: Record) -> ChatRecord {
        ChatRecord {
            at: moment::text(moment::now_ms()),
            answer: self.answer.number,
            asked_sequence: self.answer.asked_sequence,
            record: Some(record),
        }
    }

    /// Appends a record and takes note of it.
    async fn append(&mut self, record: Record) -> Result<(), Lost> {
        let record = self.record(record);
        let Some(log) = &mut self.log else {
            return Err(Lost::Refused);
        };
        log.append(&record).await?;
        self.note(&record);
        Ok(())
    }

    fn note(&mut self, record: &ChatRecord) {
        let Some(log) = &self.log else { return };
        self.means.metrics.records.add(1);
        // An end is noted as well: there is nothing to go on with then.
        let _ended = self.answer.note(record, log.sequence());
        if let Some(watch) = &self.watch {
            watch.note(log.number(), record);
        }
        let mut view = self.view.lock();
        view.number = log.number();
        view.sequence = log.sequence();
        view.chunks = self.answer.chunks;
    }
}

#[cfg(test)]
mod tests;
