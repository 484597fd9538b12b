//! An agent's side of a connection: what it reports goes to the relay in the
//! order in which it came, one report after the other, and is held until the
//! relay has taken it; what the relay delivers goes to the agent.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use signalbox_identity::Role;
use signalbox_protocol::ErrorCode;
use signalbox_protocol::fleet::Shard as FleetShard;
use signalbox_protocol::frame::fields::Complaint;
use signalbox_protocol::frame::fleet::server::{ServerFrame, StoredOutput};
use signalbox_protocol::frame::fleet::{AgentConnect, AgentStatus, CommandReport, TerminalOutput};
use signalbox_protocol::timestamp::Timestamp;
use signalbox_protocol::wire::agent_delivery::Delivery;
use signalbox_protocol::wire::agent_reply::Outcome;
use signalbox_protocol::wire::agent_report::Report;
use signalbox_protocol::wire::{
    AgentCondition, AgentConnected, AgentDelivery, AgentDisconnected, AgentReply, AgentReport,
    AgentStatus as Status, ClearTerminal, CommandComplete, CommandState, CommandStatus,
    DeliveryOutcome, EmergencyConfirmed, KnownCommand, OutputChunk, OutputTaken, SessionOpened,
    TerminalOutput as ReportedOutput,
};
use signalbox_transport::CloseCode;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::agents::{Note, Seated};
use super::dashboard::bytes;
use super::frames::{last, now, send, send_urgent};
use super::session::Session;
use super::standing::Part;
use super::transcript::{stream_name, stream_of};
use crate::session::AUDIT;

/// What may be held for the relay; when full, the connection is not read.
const WINDOW_BYTES: usize = 1024 * 1024;
/// Output that goes in one report, in bytes.
const REPORT_BYTES: usize = 256 * 1024;
/// What a report weighs beside its output.
const REPORT_WEIGHT: usize = 256;
/// The pause before a report that was not taken is sent again.
const PAUSE: Duration = Duration::from_millis(100);
/// How long what is held may take to be taken once the agent is gone.
const FLUSH_PATIENCE: Duration = Duration::from_secs(10);

/// A report on its way, and its answer.
pub(super) type Flight = Pin<Box<dyn Future<Output = Option<AgentReply>>>>;

/// An agent, as its connection knows it.
pub(super) struct Agent {
    id: String,
    shard: FleetShard,
    connection: String,
    /// How it is announced.
    announcement: AgentConnected,
    /// That of `agent:connect`.
    request_id: Option<String>,
    /// Whether it takes acknowledgements, and sends again what lacks them.
    acknowledges: bool,
    /// Whether the relay has opened the session.
    is_open: bool,
    /// Whether the agent was told so.
    is_greeted: bool,
    /// Whether it said goodbye.
    is_leaving: bool,
    held: VecDeque<Report>,
    held_bytes: usize,
    /// The report on its way.
    sent: Option<Report>,
    /// How long to wait before the next report.
    pause: Duration,
    /// Where each stream of each command is, by the gateway's count.
    counted: HashMap<(String, i32), u64>,
    /// The latest delivery that was carried out.
    delivered: (u64, u64),
    /// The highest attempt of each command that was written.
    executed: HashMap<String, u32>,
    _seated: Seated,
}

impl Agent {
    /// Whether no more may be held.
    pub(super) fn is_full(&self) -> bool {
        self.held_bytes >= WINDOW_BYTES
    }

    /// Whether deliveries may be carried out.
    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    fn hold(&mut self, report: Report) {
        self.held_bytes += weight(&report);
        self.held.push_back(report);
    }

    /// Puts a report in front of those that are held.
    fn hold_first(&mut self, report: Report) {
        self.held_bytes += weight(&report);
        self.held.push_front(report);
    }

    /// The next report: output of one command goes together.
    fn next(&mut self) -> Option<Report> {
        let mut first = self.held.pop_front()?;
        self.held_bytes -= weight(&first);
        if let Report::Output(output) = &mut first {
            let mut size = size_of_chunks(&output.chunks);
            while let Some(Report::Output(more)) = self.held.front() {
                size += size_of_chunks(&more.chunks);
                if more.command_id != output.command_id || size > REPORT_BYTES {
                    break;
                }
                if let Some(Report::Output(more)) = self.held.pop_front() {
                    self.held_bytes -= REPORT_WEIGHT + size_of_chunks(&more.chunks);
                    output.chunks.extend(more.chunks);
                }
            }
        }
        Some(first)
    }
}

fn size_of_chunks(chunks: &[OutputChunk]) -> usize {
    chunks.iter().map(|chunk| chunk.data.len()).sum()
}

fn weight(report: &Report) -> usize {
    REPORT_WEIGHT
        + match report {
            Report::Output(output) => size_of_chunks(&output.chunks),
            Report::Condition(condition) => condition.metrics.len(),
            _ => 0,
        }
}

/// The command that a report is about.
fn command_of(report: &Report) -> Option<&str> {
    match report {
        Report::Output(output) => Some(&output.command_id),
        Report::Status(status) => Some(&status.command_id),
        Report::Complete(complete) => Some(&complete.command_id),
        _ => None,
    }
}

impl Session {
    /// Takes the connection as an agent's.
    pub(super) fn connect_agent(
        &mut self,
        asked: AgentConnect,
        request_id: Option<String>,
    ) -> Result<(), Complaint> {
        let forbidden = |message: &str, field: Option<&str>| Complaint {
            code: ErrorCode::Forbidden,
            message: message.to_owned(),
            field: field.map(str::to_owned),
        };
        if self.standing.part() != Part::Stranger {
            return Err(forbidden("the connection has a role already", None));
        }
        let is_own = self.standing.principal().is_some_and(|principal| {
            let id = principal.agent_id.as_ref();
            principal.role == Some(Role::Agent)
                && id.is_some_and(|id| id.as_str() == asked.agent_id)
        });
        if !is_own {
            let message = "this needs a token of role agent for this `agentId`";
            return Err(forbidden(message, Some("agentId")));
        }
        self.standing.play(Part::Agent);
        self.identified();
        let can = |word: &str| asked.capabilities.iter().any(|known| known == word);
        self.wants_heartbeat = can("heartbeat");
        let acknowledges = can("ack");
        let keeps_journal = can("journal");
        let connection = Uuid::now_v7().simple().to_string();
        info!(target: AUDIT, session = %self.name, agent = %asked.agent_id, connection, "agent");
        let agents = self.shard.shared.fleet.agents();
        let (seated, notes) = agents.seat(&asked.agent_id, &connection);
        self.notes = Some(notes);
        let commands = |ids: Vec<String>, ended| {
            ids.into_iter()
                .map(move |command_id| KnownCommand { command_id, ended })
        };
        let announcement = AgentConnected {
            agent_type: asked.agent_type,
            version: asked.version,
            capabilities: asked.capabilities,
            concurrency: asked.concurrency,
            commands: commands(asked.running, false)
                .chain(commands(asked.ended, true))
                .collect(),
            lists_commands: keeps_journal,
            keeps_journal,
            connected_at: now().to_string(),
        };
        let mut agent = Agent {
            shard: FleetShard::of_agent(&asked.agent_id),
            id: asked.agent_id,
            connection,
            request_id,
            acknowledges,
            is_open: false,
            is_greeted: false,
            is_leaving: false,
            held: VecDeque::new(),
            held_bytes: 0,
            sent: None,
            pause: Duration::ZERO,
            counted: HashMap::new(),
            delivered: (0, 0),
            executed: HashMap::new(),
            _seated: seated,
            announcement,
        };
        agent.hold(Report::Connected(agent.announcement.clone()));
        self.agent = Some(Box::new(agent));
        Ok(())
    }

    /// The agent, which must be the one that a message is of.
    fn own_agent(&mut self, agent_id: Option<&str>) -> Result<&mut Agent, Complaint> {
        let agent = self.agent.as_deref_mut();
        let agent =
            agent.ok_or_else(|| Complaint::plain(ErrorCode::Forbidden, "only agents send this"))?;
        if agent_id.is_some_and(|id| id != agent.id) {
            return Err(Complaint {
                code: ErrorCode::Forbidden,
                message: format!("field `agentId`: this connection is agent `{}`", agent.id),
                field: Some("agentId".to_owned()),
            });
        }
        Ok(agent)
    }

    /// The agent goes, and says so.
    pub(super) fn disconnect_agent(&mut self, agent_id: &str) -> Result<(), Complaint> {
        self.own_agent(Some(agent_id))?.is_leaving = true;
        self.outbound
            .close_after_flush(CloseCode::NORMAL, "goodbye");
        Ok(())
    }

    pub(super) fn agent_status(&mut self, status: AgentStatus) -> Result<(), Complaint> {
        let agent = self.own_agent(Some(&status.agent_id))?;
        let metrics = status.metrics.map(serde_json::Value::Object);
        agent.hold(Report::Condition(AgentCondition {
            status: match status.status {
                "busy" => Status::Busy,
                "error" => Status::Error,
                "offline" => Status::Offline,
                _ => Status::Online,
            } as i32,
            metrics: metrics.map_or_else(String::new, |metrics| metrics.to_string()),
        }));
        Ok(())
    }

    pub(super) fn agent_clear(&mut self, agent_id: String) -> Result<(), Complaint> {
        let agent = self.own_agent(Some(&agent_id))?;
        agent.hold(Report::Clear(ClearTerminal { agent_id }));
        Ok(())
    }

    pub(super) fn agent_stopped(&mut self, stop_id: String) -> Result<(), Complaint> {
        let agent = self.own_agent(None)?;
        agent.hold(Report::Stopped(EmergencyConfirmed { stop_id }));
        Ok(())
    }

    pub(super) fn command_status(
        &mut self,
        report: CommandReport,
        request_id: Option<&str>,
    ) -> Result<(), Complaint> {
        let agent = self.own_agent(report.agent_id.as_deref())?;
        let state = state_of(&report);
        let exit_code = report.exit_code.and_then(|code| i32::try_from(code).ok());
        if FleetShard::of_command(&report.command_id) != Some(agent.shard) {
            self.no_command(&report.command_id, request_id);
            return Ok(());
        }
        agent.hold(Report::Status(CommandStatus {
            command_id: report.command_id,
            state: state.unwrap_or(CommandState::Running) as i32,
            exit_code,
            signal: report.signal.unwrap_or_default(),
            duration_ms: report.duration,
        }));
        Ok(())
    }

    pub(super) fn command_complete(
        &mut self,
        report: CommandReport,
        request_id: Option<&str>,
    ) -> Result<(), Complaint> {
        let agent = self.own_agent(report.agent_id.as_deref())?;
        if FleetShard::of_command(&report.command_id) != Some(agent.shard) {
            self.no_command(&report.command_id, request_id);
            return Ok(());
        }
        let state = state_of(&report);
        let exit_code = report.exit_code.and_then(|code| i32::try_from(code).ok());
        if matches!(
            state,
            Some(CommandState::Failed | CommandState::Interrupted)
        ) {
            // The outcome goes ahead: the report of the end has no word for it.
            agent.hold(Report::Status(CommandStatus {
                command_id: report.command_id.clone(),
                state: state.unwrap_or(CommandState::Failed) as i32,
                exit_code,
                signal: report.signal.clone().unwrap_or_default(),
                duration_ms: report.duration,
            }));
        }
        agent.hold(Report::Complete(CommandComplete {
            command_id: report.command_id,
            exit_code,
            signal: report.signal.unwrap_or_default(),
            duration_ms: report.duration,
            sums: Vec::new(),
            incomplete: report.incomplete,
            reason: report.reason.unwrap_or_default(),
        }));
        Ok(())
    }

    pub(super) fn agent_output(
        &mut self,
        output: TerminalOutput,
        request_id: Option<&str>,
    ) -> Result<(), Complaint> {
        let agent = self.own_agent(Some(&output.agent_id))?;
        if FleetShard::of_command(&output.command_id) != Some(agent.shard) {
            self.no_command(&output.command_id, request_id);
            return Ok(());
        }
        let data = bytes(output.content, output.raw, "output.raw")?;
        let stream = stream_of(output.stream) as i32;
        let place = (output.command_id.clone(), stream);
        let offset = match output.offset {
            Some(offset) => offset,
            None => agent.counted.get(&place).copied().unwrap_or(0),
        };
        agent.counted.insert(place, offset + data.len() as u64);
        let time = output.timestamp.as_deref().and_then(Timestamp::parse);
        agent.hold(Report::Output(ReportedOutput {
            command_id: output.command_id,
            chunks: vec![OutputChunk {
                stream,
                offset,
                data: data.into(),
                time: time.unwrap_or_else(now).to_string(),
                after_loss: !agent.acknowledges,
            }],
        }));
        Ok(())
    }

    fn no_command(&self, command_id: &str, request_id: Option<&str>) {
        send_urgent(
            &self.outbound,
            &ServerFrame::CommandError {
                error: "there is no such command of this agent, or it has ended",
                code: ErrorCode::CommandNotFound,
                agent_id: None,
                command_id: Some(command_id),
                request_id,
                timestamp: now(),
            },
        );
    }

    /// Sends the next report if none is on its way.
    pub(super) fn send_report(&mut self) {
        let Some(agent) = self.agent.as_deref_mut() else {
            return;
        };
        if self.flight.is_some() {
            return;
        }
        let Some(report) = agent.next() else {
            return;
        };
        let message = AgentReport {
            agent_id: agent.id.clone(),
            gateway_id: self.shard.shared.fleet.agents().gateway().to_owned(),
            connection_id: agent.connection.clone(),
            report: Some(report.clone()),
        };
        agent.sent = Some(report);
        let pause = std::mem::take(&mut agent.pause);
        let relays = self.shard.shared.fleet.relays().clone();
        let shard = agent.shard;
        self.flight = Some(Box::pin(async move {
            if !pause.is_zero() {
                sleep(pause).await;
            }
            relays.report(shard, &message).await
        }));
    }

    /// Takes in what the relay says of the report that was on its way.
    pub(super) fn take_reply(&mut self, reply: Option<AgentReply>) {
        self.flight = None;
        let Some(agent) = self.agent.as_deref_mut() else {
            return;
        };
        let Some(report) = agent.sent.take() else {
            return;
        };
        match reply.and_then(|reply| reply.outcome) {
            Some(Outcome::Opened(opened)) => self.opened(opened),
            Some(Outcome::Output(taken)) => self.output_taken(report, &taken),
            Some(Outcome::Taken(_) | Outcome::Heard(_)) => {
                if let Report::Complete(complete) = &report {
                    agent.executed.remove(&complete.command_id);
                    let id = &complete.command_id;
                    agent.counted.retain(|(command, _), _| command != id);
                }
            }
            Some(Outcome::Stale(stale)) if stale.unknown => {
                agent.hold_first(report);
                self.announce();
            }
            Some(Outcome::Stale(_)) => self.replaced(),
            Some(Outcome::LaterMs(ms)) => {
                agent.pause = Duration::from_millis(ms.into());
                agent.hold_first(report);
            }
            Some(Outcome::Refusal(refusal)) => match command_of(&report) {
                Some(command_id) => {
                    debug!(session = %self.name, command_id, refusal = refusal.message, "report refused");
                    let command_id = command_id.to_owned();
                    self.no_command(&command_id, None);
                }
                None => {
                    warn!(session = %self.name, refusal = refusal.message, "agent refused");
                    let frame = last(ErrorCode::Forbidden, &refusal.message, None);
                    let code = CloseCode::POLICY_VIOLATION;
                    self.outbound.close_with(frame, code, &refusal.message);
                }
            },
            None => {
                agent.pause = PAUSE;
                agent.hold_first(report);
            }
        }
    }

    /// The relay has taken the connection as the agent's.
    fn opened(&mut self, opened: SessionOpened) {
        let Some(agent) = self.agent.as_deref_mut() else {
            return;
        };
        agent.is_open = true;
        let interval = Duration::from_millis(opened.beat_interval_ms.into());
        self.shard.shared.fleet.agents().beat_every(interval);
        for offset in &opened.offsets {
            let place = (offset.command_id.clone(), offset.stream);
            agent.counted.entry(place).or_insert(offset.offset);
        }
        if std::mem::replace(&mut agent.is_greeted, true) {
            return;
        }
        let heartbeat = self.shard.shared.options.fleet.heartbeat;
        let offsets = opened.offsets.iter().map(|offset| StoredOutput {
            command_id: &offset.command_id,
            stream: stream_name(offset.stream()),
            offset: offset.offset,
        });
        send(
            &self.outbound,
            &ServerFrame::AgentConnected {
                agent_id: &agent.id,
                heartbeat_interval: u64::try_from(heartbeat.as_millis()).unwrap_or(u64::MAX),
                offsets: offsets.collect(),
                abandoned: &opened.abandoned,
                request_id: agent.request_id.as_deref(),
                timestamp: now(),
            },
        );
    }

    /// Announces the connection anew.
    fn announce(&mut self) {
        if let Some(agent) = self.agent.as_deref_mut() {
            let is_held = matches!(agent.held.front(), Some(Report::Connected(_)))
                || matches!(agent.sent, Some(Report::Connected(_)));
            if !is_held {
                agent.hold_first(Report::Connected(agent.announcement.clone()));
            }
        }
    }

    /// Acknowledges what is stored, and holds the rest again.
    fn output_taken(&mut self, report: Report, taken: &OutputTaken) {
        let Some(agent) = self.agent.as_deref_mut() else {
            return;
        };
        let Report::Output(output) = report else {
            // The end of a command, of which output is missing: the agent sends
            // that and the end again.
            return;
        };
        let stored = |stream: i32| {
            let mut offsets = taken.offsets.iter();
            let found = offsets.find(|offset| offset.stream == stream);
            found.map_or(0, |offset| offset.offset)
        };
        if agent.acknowledges {
            for offset in &taken.offsets {
                send(
                    &self.outbound,
                    &ServerFrame::TerminalAck {
                        command_id: &output.command_id,
                        stream: stream_name(offset.stream()),
                        offset: offset.offset,
                        timestamp: now(),
                    },
                );
            }
        }
        let mut left = Vec::new();
        let mut progress = false;
        for mut chunk in output.chunks {
            let stored = stored(chunk.stream);
            let end = chunk.offset + chunk.data.len() as u64;
            if stored >= end {
                progress = true;
                continue;
            }
            if stored > chunk.offset {
                progress = true;
                let known = usize::try_from(stored - chunk.offset).unwrap_or(usize::MAX);
                chunk.data = chunk.data.split_off(known);
                chunk.offset = stored;
            } else if stored < chunk.offset && agent.acknowledges && left.is_empty() {
                // Something is missing in front, which the agent sends again
                // together with this.
                continue;
            }
            left.push(chunk);
        }
        if !left.is_empty() {
            if !progress {
                agent.pause = PAUSE;
            }
            agent.hold_first(Report::Output(ReportedOutput {
                command_id: output.command_id,
                chunks: left,
            }));
        }
    }

    /// Another connection is the agent's now.
    fn replaced(&mut self) {
        info!(target: AUDIT, session = %self.name, "replaced");
        if let Some(agent) = self.agent.as_deref_mut() {
            agent.held.clear();
            agent.held_bytes = 0;
            // The relay knows that it is gone.
            agent.is_greeted = false;
        }
        self.outbound.close(CloseCode::POLICY_VIOLATION, "replaced");
    }

    /// Does what the session is told from outside.
    pub(super) fn take_note(&mut self, note: Note) {
        match note {
            Note::Delivery(delivery, done) => {
                let outcome = self.deliver(delivery);
                done.send(outcome).ok();
            }
            Note::Unknown => self.announce(),
            Note::Replaced => self.replaced(),
        }
    }

    fn deliver(&mut self, delivery: AgentDelivery) -> DeliveryOutcome {
        let Some(agent) = self.agent.as_deref_mut() else {
            return DeliveryOutcome::Gone;
        };
        if self.outbound.is_closed() {
            return DeliveryOutcome::Gone;
        }
        let place = (delivery.term, delivery.number);
        if delivery.term < agent.delivered.0 {
            return DeliveryOutcome::Stale;
        }
        if place <= agent.delivered {
            return DeliveryOutcome::Delivered;
        }
        agent.delivered = place;
        let timestamp = now();
        match delivery.delivery {
            Some(Delivery::Execute(execute)) => {
                let attempt = agent
                    .executed
                    .entry(execute.command_id.clone())
                    .or_default();
                if execute.attempt > *attempt {
                    *attempt = execute.attempt;
                    send(
                        &self.outbound,
                        &ServerFrame::CommandExecute {
                            command_id: &execute.command_id,
                            command: &execute.command,
                            args: &execute.args,
                            attempt: execute.attempt,
                            timestamp,
                        },
                    );
                }
            }
            Some(Delivery::Interrupt(interrupt)) => send_urgent(
                &self.outbound,
                &ServerFrame::CommandInterrupt {
                    command_id: &interrupt.command_id,
                    by: (!interrupt.by.is_empty()).then_some(&interrupt.by),
                    timestamp,
                },
            ),
            Some(Delivery::Input(input)) => {
                let content = String::from_utf8_lossy(&input.data);
                let is_text = std::str::from_utf8(&input.data).is_ok();
                let raw = (!is_text).then(|| STANDARD.encode(&input.data));
                send(
                    &self.outbound,
                    &ServerFrame::TerminalInput {
                        command_id: &input.command_id,
                        content: &content,
                        raw: raw.as_deref(),
                        timestamp,
                    },
                );
            }
            Some(Delivery::Resize(resize)) => send(
                &self.outbound,
                &ServerFrame::TerminalResize {
                    command_id: &resize.command_id,
                    columns: resize.columns,
                    rows: resize.rows,
                    timestamp,
                },
            ),
            Some(Delivery::Emergency(state)) => send_urgent(
                &self.outbound,
                &if state.active {
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
                },
            ),
            Some(Delivery::Replaced(_)) => self.replaced(),
            None => {}
        }
        DeliveryOutcome::Delivered
    }

    /// Has the relay take what is held, and know that the agent is gone.
    pub(super) async fn depart(&mut self) {
        self.notes = None;
        let Some(agent) = self.agent.as_deref_mut() else {
            return;
        };
        if !agent.is_greeted {
            // It never was there, or another connection is the agent's now.
            return;
        }
        let graceful = agent.is_leaving;
        agent.hold(Report::Disconnected(AgentDisconnected { graceful }));
        let deadline = Instant::now() + FLUSH_PATIENCE;
        loop {
            self.send_report();
            let Some(flight) = self.flight.as_mut() else {
                return;
            };
            let Ok(reply) = timeout_at(deadline, flight).await else {
                warn!(session = %self.name, "what the agent said last was not taken");
                return;
            };
            self.take_reply(reply);
        }
    }
}

/// The state that an agent names.
fn state_of(report: &CommandReport) -> Option<CommandState> {
    match report.status? {
        "running" => Some(CommandState::Running),
        "completed" => Some(CommandState::Completed),
        "failed" => Some(CommandState::Failed),
        "interrupted" => Some(CommandState::Interrupted),
        _ => None,
    }
}
