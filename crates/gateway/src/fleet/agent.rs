//! An agent's side of a connection: what it says becomes reports to the relay
//! ([`reports`]), and what the relay delivers goes to the agent ([`delivery`]).

mod delivery;
mod reports;

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use signalbox_identity::Role;
use signalbox_protocol::ErrorCode;
use signalbox_protocol::fleet::Shard as FleetShard;
use signalbox_protocol::frame::fields::{Complaint, MAX_COUNT};
use signalbox_protocol::frame::fleet::server::ServerFrame;
use signalbox_protocol::frame::fleet::{
    AgentConnect, AgentStatus, CommandReport, TerminalOutput, WrittenStream,
};
use signalbox_protocol::timestamp::Timestamp;
use signalbox_protocol::wire::agent_report::Report;
use signalbox_protocol::wire::{
    AgentCondition, AgentConnected, AgentReply, AgentStatus as Status, ClearTerminal,
    CommandComplete, CommandState, CommandStatus, EmergencyConfirmed, KnownCommand, OutputChunk,
    ResourceUsage, StreamSum, TerminalOutput as ReportedOutput,
};
use signalbox_transport::CloseCode;
use tracing::info;
use uuid::Uuid;

use super::agents::Seated;
use super::dashboard::bytes;
use super::frames::{now, send_urgent};
use super::session::Session;
use super::standing::Part;
use super::transcript::stream_of;
use crate::session::AUDIT;

/// A report on its way, and its answer.
pub(super) type Flight = Pin<Box<dyn Future<Output = Option<AgentReply>>>>;

/// Bytes of a SHA-256.
const SHA256_BYTES: usize = 32;

/// A report that the relay has not taken yet.
struct Held {
    report: Report,
    /// That of the message which it was, where its outcome is told.
    request_id: Option<String>,
}

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
    /// Whether its connection is no more.
    is_gone: bool,
    held: VecDeque<Held>,
    held_bytes: usize,
    /// The report on its way.
    sent: Option<Held>,
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
            is_gone: false,
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
        let status = Report::Status(CommandStatus {
            command_id: report.command_id,
            state: state.unwrap_or(CommandState::Running) as i32,
            exit_code,
            signal: report.signal.unwrap_or_default(),
            duration_ms: report.duration,
        });
        agent.hold_for(status, request_id);
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
        let sums = report.streams.iter().map(sum).collect::<Result<_, _>>()?;
        let complete = Report::Complete(CommandComplete {
            state: state_of(&report).unwrap_or(CommandState::Queued) as i32,
            exit_code: report.exit_code.and_then(|code| i32::try_from(code).ok()),
            command_id: report.command_id,
            signal: report.signal.unwrap_or_default(),
            duration_ms: report.duration,
            sums,
            incomplete: report.incomplete,
            reason: report.reason.unwrap_or_default(),
            usage: report.usage.map(|usage| ResourceUsage {
                cpu_time_ms: usage.cpu_time,
                peak_memory_bytes: usage.peak_memory,
            }),
        });
        agent.hold_for(complete, request_id);
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
        // An agent may invent its offsets.
        let end = offset.saturating_add(data.len() as u64);
        if end > MAX_COUNT {
            let expected = format!("output that ends at {MAX_COUNT} or before");
            return Err(Complaint::field("offset", &expected));
        }
        agent.counted.insert(place, end);
        let time = output.timestamp.as_deref().and_then(Timestamp::parse);
        agent.hold(Report::Output(ReportedOutput {
            command_id: output.command_id,
            chunks: vec![OutputChunk {
                stream,
                offset,
                data: data.into(),
                time: time.unwrap_or_else(now).to_string(),
                after_loss: output.after_loss || !agent.acknowledges,
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
}

/// What an agent says that a command has written to a stream.
fn sum(written: &WrittenStream) -> Result<StreamSum, Complaint> {
    let digits = written.sha256.as_deref().unwrap_or_default();
    let hash = match digits {
        "" => Vec::new(),
        digits => from_hex(digits)
            .filter(|hash| hash.len() == SHA256_BYTES)
            .ok_or_else(|| Complaint::field("streams[].sha256", "64 hexadecimal digits"))?,
    };
    Ok(StreamSum {
        stream: stream_of(written.stream) as i32,
        bytes: written.bytes,
        recorded: 0,
        sha256: hash.into(),
    })
}

fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let value = |digit: u8| char::from(digit).to_digit(16);
    digits
        .as_bytes()
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => u8::try_from(value(*high)? * 16 + value(*low)?).ok(),
            _ => None,
        })
        .collect()
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
