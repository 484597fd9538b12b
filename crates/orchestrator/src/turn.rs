//! One answer, from its question to its end: calls the provider within clocks and
//! budgets, stores what it writes, settles what it cost, and ends in exactly one
//! record. Whatever is told of the answer is told by these records.
//!
//! It holds in memory: the answer (128 KiB at most), 80 KiB that are not stored
//! yet, and the request (what conversation, contexts and events may have).

mod ending;
mod listen;
mod recover;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use signalbox_bus::assignment::Stop;
use signalbox_protocol::wire::{
    ChatCallSettled, ChatCallStarted, ChatChunk, ChatError, ChatRecord, chat_record::Record,
};
use tokio::time::Instant;
use tracing::{info, warn};

use self::ending::{Verdict, failed, verdict};
use self::listen::Heard;
use crate::agents::Agent;
use crate::analysis::{self, Fault};
use crate::answer::Answer;
use crate::budget::Meter;
use crate::chat_log::{ChatLog, Lost};
use crate::coalesce::Coalescer;
use crate::evidence_log::EvidenceLog;
use crate::metrics::Metrics;
use crate::moment;
use crate::provider::retry;
use crate::provider::{
    AnalysisRequest, End, Failure, Message, Request, StopReason, ToolCall, ToolResult, Usage,
    tokens_of,
};
use crate::session::Session;
use crate::usage::{self, Ending};

/// The longest answer, in bytes: with its analysis it is one record of the log.
pub(crate) const ANSWER_BYTES: usize = 128 * 1024;
/// How often another orchestrator goes on with an answer.
pub(crate) const RECOVERIES: u32 = 3;

/// How far a log is while a turn writes it, for those who ask.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct View {
    /// The number of the log's last record.
    pub(crate) number: u64,
    /// Its sequence in CHAT.
    pub(crate) sequence: u64,
    /// Chunks of the answer.
    pub(crate) chunks: u32,
}

/// What a turn needs beside its session.
#[derive(Clone)]
pub(crate) struct Means {
    pub(crate) metrics: Metrics,
    pub(crate) evidence: EvidenceLog,
    /// The least time from one chunk to the next.
    pub(crate) interval: Duration,
}

/// An answer that is being written.
pub(crate) struct Turn {
    means: Means,
    agent: Option<Arc<Agent>>,
    /// Away while a record is being appended beside something else.
    log: Option<ChatLog>,
    answer: Answer,
    request: Request,
    meter: Meter,
    cancel: Stop,
    view: Arc<Mutex<View>>,
    /// Bytes of the chunk that is being stored.
    storing_bytes: usize,
    began: Instant,
}

/// What became of a call.
enum Outcome {
    Ended(End),
    Failed(Failure),
    /// The sentence says which clock.
    TimedOut(&'static str),
    /// The sentence says which budget.
    OverBudget(&'static str),
    Cancelled,
}

impl Outcome {
    /// In fixed words, for the log.
    const fn words(&self) -> &'static str {
        match self {
            Self::Ended(end) => match end.stop {
                StopReason::EndTurn => "end_turn",
                StopReason::ToolUse => "tool_use",
                StopReason::MaxTokens => "max_tokens",
                StopReason::StopSequence => "stop_sequence",
                StopReason::PauseTurn => "pause_turn",
                StopReason::Refusal => "refusal",
                StopReason::ContextExceeded => "context_exceeded",
                StopReason::Other(_) => "other",
            },
            Self::Failed(_) => "failed",
            Self::TimedOut(_) => "timed_out",
            Self::OverBudget(_) => "budget_exceeded",
            Self::Cancelled => "cancelled",
        }
    }

    const fn goes_on(&self) -> bool {
        matches!(
            self,
            Self::Ended(End {
                stop: StopReason::ToolUse | StopReason::PauseTurn,
                ..
            })
        )
    }
}

impl Turn {
    /// The last answer of a session, which is being written.
    pub(crate) fn new(
        means: Means,
        agent: Option<Arc<Agent>>,
        log: ChatLog,
        session: &Session,
        answer: Answer,
        (cancel, view): (Stop, Arc<Mutex<View>>),
    ) -> Self {
        let (budget, price) = agent
            .as_ref()
            .map(|agent| (agent.budget, agent.price))
            .unwrap_or_default();
        let request = agent.as_ref().map(|agent| Request {
            agent_type: agent.agent_type.clone(),
            model: agent.model.clone(),
            instructions: agent.instructions.clone(),
            context: session.context.clone(),
            messages: session.conversation.messages(&answer.asked),
            analysis: Some(AnalysisRequest {
                schema: Arc::clone(&agent.schema),
                ask: agent.ask,
                only: false,
            }),
            max_output_tokens: agent.max_output_tokens,
            ..Request::default()
        });
        let passed = moment::now_ms().saturating_sub(answer.asked_ms);
        let now = Instant::now();
        let began = now
            .checked_sub(Duration::from_millis(passed))
            .unwrap_or(now);
        Self {
            means,
            agent,
            log: Some(log),
            request: request.unwrap_or_default(),
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
        let verdict = self.write().await?;
        self.end(verdict).await?;
        match self.log.take() {
            Some(log) => Ok((log, self.answer)),
            None => Err(Lost::Refused),
        }
    }

    /// As [`run`](Self::run), for an answer that another orchestrator has begun.
    pub(crate) async fn go_on(mut self) -> Result<(ChatLog, Answer), Lost> {
        let verdict = match self.recover().await? {
            Some(verdict) => verdict,
            None => self.write().await?,
        };
        self.end(verdict).await?;
        match self.log.take() {
            Some(log) => Ok((log, self.answer)),
            None => Err(Lost::Refused),
        }
    }

    async fn write(&mut self) -> Result<Verdict, Lost> {
        let Some(agent) = self.agent.clone() else {
            let words = "the agent is not configured any more";
            return Ok(failed(ChatError::AgentUnavailable, words, false));
        };
        let asked = &self.answer.asked;
        self.request.events = self
            .means
            .evidence
            .gather(asked, &self.request, agent.events)
            .await;
        loop {
            let request = Arc::new(self.request.clone());
            let (outcome, said) = match self.call(&agent, request, true).await? {
                Ok(called) => called,
                Err(verdict) => return Ok(verdict),
            };
            let end = match outcome {
                Outcome::Ended(end) => end,
                other => return Ok(verdict(other)),
            };
            match end.stop {
                StopReason::ToolUse | StopReason::PauseTurn => self.take_up(said, end.calls),
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
                    return self.conclude(&agent, end.analysis.as_deref()).await;
                }
            }
        }
    }

    /// Adds to the request what the model has said and asked for. No tool is
    /// offered yet, so that each call has an error for its result.
    fn take_up(&mut self, said: String, calls: Vec<ToolCall>) {
        let results: Vec<ToolResult> = calls
            .iter()
            .map(|call| ToolResult {
                call_id: call.id.clone(),
                content: "there is no such tool".to_owned(),
                failed: true,
            })
            .collect();
        self.request
            .messages
            .push(Message::Agent { text: said, calls });
        if !results.is_empty() {
            self.request.messages.push(Message::Results { results });
        }
    }

    /// Checks the analysis of a complete text, and has the model repair it once.
    async fn conclude(&mut self, agent: &Agent, analysis: Option<&str>) -> Result<Verdict, Lost> {
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
        info!(%fault, agent = %agent.agent_type, "analysis to be repaired");
        self.means.metrics.repairs.add(1);
        let Some(request) = analysis::repair(&self.request, &self.answer.text, fault) else {
            return Ok(unusable());
        };
        let (outcome, _) = match self.call(agent, Arc::new(request), false).await? {
            Ok(called) => called,
            Err(verdict) => return Ok(verdict),
        };
        let end = match outcome {
            Outcome::Ended(end) => end,
            other => return Ok(verdict(other)),
        };
        match analysis::checked(&agent.schema, &self.request, end.analysis.as_deref()) {
            Ok(analysis) => Ok(Verdict::Answered(analysis.to_string())),
            Err(fault) => {
                warn!(%fault, agent = %agent.agent_type, "analysis unusable");
                Ok(unusable())
            }
        }
    }

    /// Makes one call and stores what it writes, where that is `visible`; gives
    /// what became of it and what it said, or how the answer ends without it. What
    /// it cost is settled by then.
    async fn call(
        &mut self,
        agent: &Agent,
        request: Arc<Request>,
        visible: bool,
    ) -> Result<Result<(Outcome, String), Verdict>, Lost> {
        if self.cancel.is_triggered() {
            return Ok(Err(Verdict::Stopped));
        }
        if let Some(outcome) = self.clocks(agent).over() {
            return Ok(Err(verdict(outcome)));
        }
        let input_tokens = Usage::estimate(&request, 0).input;
        if let Some(words) = self.meter.refuses(&self.answer.usage, input_tokens) {
            return Ok(Err(failed(ChatError::BudgetExceeded, words, false)));
        }
        let call = self.answer.calls + 1;
        self.append(Record::CallStarted(ChatCallStarted {
            call,
            model: agent.model.clone(),
            input_tokens,
        }))
        .await?;
        let provider = Arc::clone(&agent.provider);
        let pieces = retry::answer(provider, Arc::clone(&request), agent.retries);
        let shown = self.answer.text.len();
        let mut heard = Heard::new(visible, Coalescer::new(self.means.interval), input_tokens);
        let outcome = self.listen(agent, pieces, &mut heard).await?;
        let is_done = matches!(outcome, Outcome::Ended(_)) && !outcome.goes_on();
        self.store_rest(&mut heard, is_done && visible && is_text_whole(&outcome))
            .await?;
        let ending = match &outcome {
            Outcome::Ended(end) => Ending::Complete(end.usage),
            Outcome::Failed(failure) => {
                warn!(%failure, agent = %agent.agent_type, "call failed");
                self.means.metrics.calls_failed.add(1);
                Ending::Failed(failure)
            }
            _ => Ending::GivenUp,
        };
        let used = usage::of_call(&request, heard.reported, heard.written_bytes, ending);
        let cost = usage::settled(&used, &agent.price);
        self.means.metrics.count_usage(&cost);
        self.append(Record::CallSettled(ChatCallSettled {
            call,
            usage: Some(cost),
            outcome: outcome.words().to_owned(),
            goes_on: outcome.goes_on(),
        }))
        .await?;
        let said = self.answer.text.get(shown..).unwrap_or_default();
        Ok(Ok((outcome, said.to_owned())))
    }

    /// Stores what was heard and not stored yet.
    async fn store_rest(&mut self, heard: &mut Heard, is_final: bool) -> Result<(), Lost> {
        loop {
            let content = heard.waiting.take();
            let is_last = heard.waiting.is_empty();
            if content.is_empty() && !is_final {
                return Ok(());
            }
            let chunk = self.chunk(content, is_last && is_final);
            self.append(Record::Chunk(chunk)).await?;
            if is_last {
                return Ok(());
            }
        }
    }

    fn chunk(&self, content: String, is_final: bool) -> ChatChunk {
        self.means.metrics.chunks.add(1);
        ChatChunk {
            chunk_id: self.answer.chunks + 1,
            content,
            is_final,
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
        *self.view.lock() = View {
            number: log.number(),
            sequence: log.sequence(),
            chunks: self.answer.chunks,
        };
    }
}

/// Whether nothing is missing at the end of a text.
fn is_text_whole(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Ended(End {
            stop: StopReason::EndTurn | StopReason::StopSequence | StopReason::Other(_),
            ..
        })
    )
}

/// Tokens of what is being written.
fn writing(input_tokens: u64, written_bytes: usize, reported: Option<Usage>) -> Usage {
    let output = tokens_of(written_bytes);
    match reported {
        Some(reported) => Usage {
            output: reported.output.max(output),
            ..reported
        },
        None => Usage {
            input: input_tokens,
            output,
            ..Usage::default()
        },
    }
}
