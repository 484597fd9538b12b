//! What users ask and agents report, as it comes from the bus.

use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use signalbox_bus::BusError;
use signalbox_bus::history;
use signalbox_bus::subject::{self, LogKind};
use signalbox_bus::trace::{Kind, Span, TraceContext};
use signalbox_protocol::fleet::{Shard, command_id, keyed_command_id};
use signalbox_protocol::wire::{
    AgentConnected, AgentReport, CommandAccepted, CommandComplete, CommandDone, CommandError,
    CommandRefusal, CommandRequest, CommandState, OutputOffset, OutputTaken, ReportTaken,
    RunCommand, SessionOpened, TermRecord, TerminalOutput, agent_delivery::Delivery, agent_reply,
    agent_report, command_reply, command_request, term_record::Record,
};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::{CANDIDATE_CAPACITY, Change, Holder, Input, Reply};
use crate::agent::Connecting;
use crate::answer::Answer;
use crate::clock::millis;
use crate::courier::{COMMAND, Parcel, Purpose, SCOPE};
use crate::emergency;
use crate::recorder::Entry;

/// The most bytes of a command's text with its arguments.
const MOST_COMMAND_BYTES: usize = 128 * 1024;
/// The most arguments of a command.
const MOST_ARGUMENTS: usize = 4_096;
/// The most bytes of output in one report.
const MOST_OUTPUT_BYTES: usize = 1024 * 1024;
/// The longest idempotency key.
const MOST_KEY_BYTES: usize = 256;
/// How much later a connection must say again that it is there; words that were
/// held up somewhere come all at once.
const AGAIN_MS: u64 = 25;
/// The shortest time between two warnings of requests that come too late.
const LATE_PAUSE: Duration = Duration::from_secs(60);
const KIB: usize = 1024;

impl Holder {
    pub(super) async fn take(&mut self, input: Input) {
        match input {
            Input::Command(request, answer, trace) => self.request(request, answer, trace).await,
            Input::Report(report, answer) => self.report(report, answer).await,
            Input::Beat(connection) => {
                // Whether it is the agent's, the shard has answered.
                self.agent.hear(&connection, self.now()).ok();
            }
            // Stored with the next change; until then it is published again after
            // a take-over, under the same id.
            Input::Published(number) => self.agent.announced(number),
            Input::Relinked => {
                let now = self.now();
                self.agent.listen_anew(now);
            }
        }
    }

    async fn request(
        &mut self,
        request: CommandRequest,
        answer: Answer,
        trace: Option<TraceContext>,
    ) {
        let (by, now) = (request.by, self.now());
        match request.verb {
            Some(command_request::Verb::Run(run)) => {
                let mut span = trace.as_ref().and_then(|caller| {
                    Span::behind(caller, SCOPE, Kind::Server, || "accept command".into())
                });
                let trace = span.as_ref().map(Span::context).or(trace.as_ref());
                let trace = trace.map(|trace| trace.parent().to_string());
                let outcome = match self.run_command(&run, &by, trace).await {
                    Ok(accepted) => command_reply::Outcome::Accepted(accepted),
                    Err(refusal) => {
                        self.shared.metrics.refused.add(1);
                        if let Some(span) = &mut span {
                            span.fail("command refused");
                        }
                        command_reply::Outcome::Refusal(refusal)
                    }
                };
                if let (Some(span), command_reply::Outcome::Accepted(accepted)) =
                    (&mut span, &outcome)
                {
                    span.set(COMMAND, accepted.command_id.clone());
                    span.set("signalbox.command.position", i64::from(accepted.position));
                }
                self.replies.push(Reply::Command(answer, outcome, span));
            }
            Some(command_request::Verb::Interrupt(verb)) => {
                let outcome = match self.agent.interrupt(&verb.command_id, &by, now) {
                    Ok(()) => self.done(verb.command_id),
                    Err(refusal) => command_reply::Outcome::Refusal(refusal),
                };
                self.replies.push(Reply::Command(answer, outcome, None));
            }
            Some(command_request::Verb::Clear(_)) => {
                self.clear(by).await;
                let outcome = self.done(String::new());
                self.replies.push(Reply::Command(answer, outcome, None));
            }
            Some(command_request::Verb::Input(input)) => {
                let id = input.command_id.clone();
                self.pass_on(Delivery::Input(input), &id, answer);
            }
            Some(command_request::Verb::Resize(resize)) => {
                let id = resize.command_id.clone();
                self.pass_on(Delivery::Resize(resize), &id, answer);
            }
            None => {
                let refusal = self
                    .agent
                    .refusal(CommandError::Invalid, "the verb is missing");
                let outcome = command_reply::Outcome::Refusal(refusal);
                self.replies.push(Reply::Command(answer, outcome, None));
            }
        }
    }

    fn done(&self, command_id: String) -> command_reply::Outcome {
        command_reply::Outcome::Done(CommandDone {
            command_id,
            agent_id: self.agent_id.clone(),
        })
    }

    async fn clear(&mut self, by: String) {
        if !self.agent.clear(&by) {
            let agent_id = self.agent_id.clone();
            self.change(Change::Cleared { agent_id, by }).await;
        }
    }

    /// Hands on to the agent what is for a command that it runs.
    fn pass_on(&mut self, delivery: Delivery, command_id: &str, answer: Answer) {
        let runs = self
            .agent
            .command(command_id)
            .is_some_and(|command| command.is_busy());
        let refused = if !runs {
            Some((CommandError::CommandNotFound, "no such command runs"))
        } else {
            let purpose = Purpose::input(answer.clone(), command_id, &self.agent_id);
            match self.courier() {
                None => Some((CommandError::AgentOffline, "the agent is not connected")),
                Some(courier) => courier
                    .send(Parcel::new(delivery, purpose))
                    .is_err()
                    .then_some((CommandError::Unavailable, "too much waits for the agent")),
            }
        };
        if let Some((code, words)) = refused {
            let outcome = command_reply::Outcome::Refusal(self.agent.refusal(code, words));
            self.replies.push(Reply::Command(answer, outcome, None));
        }
    }

    async fn run_command(
        &mut self,
        run: &RunCommand,
        by: &str,
        trace: Option<String>,
    ) -> Result<CommandAccepted, CommandRefusal> {
        let refuse = |code, words: &str| Err(self.agent.refusal(code, words));
        if run.command.trim().is_empty() {
            return refuse(CommandError::Invalid, "command: expected some text");
        }
        let bytes = run.command.len() + run.args.iter().map(String::len).sum::<usize>();
        if bytes > MOST_COMMAND_BYTES || run.args.len() > MOST_ARGUMENTS {
            return refuse(
                CommandError::Invalid,
                "command: too long with its arguments",
            );
        }
        if run.idempotency_key.len() > MOST_KEY_BYTES {
            return refuse(CommandError::Invalid, "idempotencyKey: too long");
        }
        let Some(id) = id_of(run, by) else {
            return refuse(
                CommandError::Invalid,
                "nonce: expected 32 hexadecimal digits",
            );
        };
        if let Some(accepted) = self.agent.repeat(&id, self.now()) {
            return Ok(accepted);
        }
        let bus = self.shared.bus.clone();
        // At the leaders: what somebody has just been told must hold here.
        let known = tokio::try_join!(self.in_its_log(&id), emergency::read(&bus));
        let (ended, lock) = match known {
            Ok(known) => known,
            Err(cause) => {
                debug!(agent = %self.agent_id, %cause, "request not looked into");
                return Err(self
                    .agent
                    .refusal(CommandError::Unavailable, "the bus does not answer"));
            }
        };
        if let Some(accepted) = ended {
            return Ok(accepted);
        }
        if lock.active {
            let words = "an emergency stop is in force";
            return Err(self.agent.refusal(CommandError::EmergencyStop, words));
        }
        if run.expires_at_ms != 0
            && let Some(late_ms) = self.shared.clock.past(run.expires_at_ms)
        {
            self.warn_of_lateness(late_ms);
            let words = "the request has come too late";
            return Err(self.agent.refusal(CommandError::Unavailable, words));
        }
        let now = self.now();
        let accepted = self.agent.run(run, by, id, trace, now)?;
        self.shared.metrics.accepted.add(1);
        Ok(accepted)
    }

    /// Says that a request came too late, which is so of all of them where the
    /// clocks of two machines differ; not each time that it comes again.
    fn warn_of_lateness(&mut self, late_ms: u64) {
        let recent = self.late.is_some_and(|last| last.elapsed() < LATE_PAUSE);
        if !recent {
            self.late = Some(Instant::now());
            warn!(agent = %self.agent_id, late_ms, "a request has come too late, or by a clock that differs");
        }
    }

    /// The answer for a command that is over and in its log.
    async fn in_its_log(&self, id: &str) -> Result<Option<CommandAccepted>, BusError> {
        let subject = subject::log(LogKind::Term, id);
        let last = history::last_at_leader(&self.shared.bus, LogKind::Term.stream(), &subject);
        let Some(last) = last.await? else {
            return Ok(None);
        };
        let record = TermRecord::decode(last.payload).unwrap_or_default();
        let state = match record.record {
            Some(Record::Ended(ended)) => ended.state,
            _ => CommandState::Queued.into(),
        };
        Ok(Some(CommandAccepted {
            command_id: id.to_owned(),
            agent_id: self.agent_id.clone(),
            state,
            repeated: true,
            ..CommandAccepted::default()
        }))
    }

    async fn report(&mut self, report: AgentReport, answer: Answer) {
        let now = self.now();
        let Some(what) = report.report else {
            let refusal = self
                .agent
                .refusal(CommandError::Invalid, "the report is missing");
            return answer.report(agent_reply::Outcome::Refusal(refusal)).await;
        };
        if let agent_report::Report::Connected(connected) = &what {
            let gateway = (report.gateway_id.as_str(), report.connection_id.as_str());
            return self.connect(gateway, connected, answer).await;
        }
        if let Err(stale) = self.agent.hear(&report.connection_id, now) {
            return answer.stale(stale.unknown).await;
        }
        match what {
            agent_report::Report::Output(output) => return self.output(output, answer).await,
            agent_report::Report::Complete(complete) => match self.stored_of(&complete) {
                Stored::All => self.agent.complete(&complete, now),
                Stored::Less(taken) => {
                    return answer.report(agent_reply::Outcome::Output(taken)).await;
                }
                Stored::Unknown => return answer.later().await,
            },
            agent_report::Report::Disconnected(_) => self.agent.lose(&report.connection_id, now),
            agent_report::Report::Condition(condition) => {
                self.agent.condition(&condition, now);
            }
            agent_report::Report::Status(status) => self.agent.status(&status, now),
            agent_report::Report::Stopped(stopped) => self.agent.stopped(&stopped.stop_id),
            agent_report::Report::Clear(_) => self.clear(String::new()).await,
            agent_report::Report::Connected(_) | agent_report::Report::Beat(_) => {}
        }
        let taken = agent_reply::Outcome::Taken(ReportTaken {});
        self.replies.push(Reply::Report(answer, taken));
    }

    async fn connect(
        &mut self,
        (gateway, connection): (&str, &str),
        report: &AgentConnected,
        answer: Answer,
    ) {
        if !self.is_alive(connection) {
            return answer.later().await;
        }
        // What is stored of the output must be known, or it could not go on.
        let ids: Vec<String> = self
            .agent
            .document()
            .commands
            .iter()
            .filter(|command| command.is_busy())
            .map(|command| command.id.clone())
            .collect();
        let mut offsets: Vec<OutputOffset> = Vec::new();
        for id in ids {
            match self.recorder(&id).offsets() {
                Some(of_command) => offsets.extend(of_command),
                None => return answer.later().await,
            }
        }
        let now = self.now();
        let connecting = Connecting {
            gateway,
            connection,
            report,
        };
        let opened = match self.agent.connect(connecting, now) {
            Ok(opened) => opened,
            Err(stale) => return answer.stale(stale.unknown).await,
        };
        offsets.retain(|offset| opened.kept.contains(&offset.command_id));
        let session = SessionOpened {
            beat_interval_ms: u32::try_from(millis(self.shared.beat)).unwrap_or(u32::MAX),
            offsets,
            abandoned: opened.abandoned,
            emergency: Some(self.shared.lock.borrow().clone()),
        };
        let outcome = agent_reply::Outcome::Opened(session);
        self.replies.push(Reply::Report(answer, outcome));
    }

    /// Whether a connection that would take another's place is there now, and not
    /// the late word of a gateway that was cut off: one that is there says it again.
    fn is_alive(&mut self, connection: &str) -> bool {
        let session = self.agent.document().session.as_ref();
        if session.is_none_or(|session| session.connection == connection) {
            return true;
        }
        let now = self.now();
        let known = self.candidates.iter().find(|(one, _)| one == connection);
        if let Some((_, since)) = known {
            return now.saturating_sub(*since) >= AGAIN_MS;
        }
        if self.candidates.len() >= CANDIDATE_CAPACITY {
            self.candidates.pop_front();
        }
        self.candidates.push_back((connection.to_owned(), now));
        false
    }

    async fn output(&mut self, output: TerminalOutput, answer: Answer) {
        let bytes: usize = output.chunks.iter().map(|chunk| chunk.data.len()).sum();
        if bytes > MOST_OUTPUT_BYTES {
            let words = "output: more than 1 MiB in one report";
            let refusal = self.agent.refusal(CommandError::Invalid, words);
            return answer.report(agent_reply::Outcome::Refusal(refusal)).await;
        }
        let id = output.command_id;
        let runs = self.agent.command(&id).is_some_and(|one| one.is_busy());
        if !runs {
            // Of a command that is over: nobody will ask for it any more.
            let refusal = self
                .agent
                .refusal(CommandError::CommandNotFound, "no such command runs");
            return answer.report(agent_reply::Outcome::Refusal(refusal)).await;
        }
        self.agent.confirm(&id, self.now());
        let room = u32::try_from(bytes.div_ceil(KIB).max(1)).unwrap_or(u32::MAX);
        let Ok(room) = Arc::clone(&self.shared.memory).try_acquire_many_owned(room) else {
            self.shared.metrics.pushed_back.add(1);
            return answer.later().await;
        };
        let entry = Entry::Output {
            chunks: output.chunks,
            answer,
            room,
        };
        if let Err(Entry::Output { answer, .. }) = self.recorder(&id).write(entry) {
            self.shared.metrics.pushed_back.add(1);
            answer.later().await;
        }
    }

    /// Whether all is stored that a command says to have written.
    fn stored_of(&mut self, complete: &CommandComplete) -> Stored {
        let runs = self
            .agent
            .command(&complete.command_id)
            .is_some_and(|one| one.is_busy());
        if !runs || complete.incomplete || complete.sums.is_empty() {
            return Stored::All;
        }
        // A log that is being opened has more than nobody knows of yet.
        let Some(stored) = self.recorder(&complete.command_id).offsets() else {
            return Stored::Unknown;
        };
        let offset = |stream: i32| {
            let found = stored.iter().find(|offset| offset.stream == stream);
            found.map_or(0, |offset| offset.offset)
        };
        let lacks = complete
            .sums
            .iter()
            .any(|sum| offset(sum.stream) < sum.bytes);
        if !lacks {
            return Stored::All;
        }
        warn!(agent = %self.agent_id, command = %complete.command_id, "output missing at the end");
        let offsets = complete.sums.iter().map(|sum| OutputOffset {
            command_id: complete.command_id.clone(),
            stream: sum.stream,
            offset: offset(sum.stream),
        });
        Stored::Less(OutputTaken {
            offsets: offsets.collect(),
        })
    }
}

/// How much is stored of a command that says that it is over.
enum Stored {
    /// All that it says to have written.
    All,
    /// Less; this much.
    Less(OutputTaken),
    /// Its log is being opened.
    Unknown,
}

/// The id that a request makes; `None` where its nonce is none.
fn id_of(run: &RunCommand, by: &str) -> Option<String> {
    match run.idempotency_key.as_str() {
        "" => command_id(Shard::of_agent(&run.agent_id), &run.nonce),
        key => Some(keyed_command_id(&run.agent_id, by, key)),
    }
}
