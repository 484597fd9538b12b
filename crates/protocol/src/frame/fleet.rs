//! Frames of dialect `fleet`: what dashboards and agents send. What they are
//! sent is in [`server`], and how messages are packed together in [`pack`].

pub mod pack;
pub mod server;
pub mod shape;

use serde_json::{Map, Value};

use self::pack::{Batch, Compressed};
use super::fields::{Complaint, Fields, MAX_TOKEN_BYTES};
use crate::cursor::FleetCursor;
use crate::error_code::ErrorCode;
use crate::name::MAX_NAME_BYTES;

/// The longest name of a type, in bytes.
const MAX_WORD_BYTES: usize = MAX_NAME_BYTES;
/// The longest command, in bytes.
const MAX_COMMAND_BYTES: usize = 64 * 1024;
/// The longest text that says why, in bytes.
const MAX_REASON_BYTES: usize = 1_024;
/// Commands that an agent may run at once.
const MAX_CONCURRENCY: u32 = 1_024;
/// The most columns or rows of a terminal.
const MAX_CELLS: u32 = 65_535;
/// The largest exit code.
const MAX_EXIT_CODE: u32 = i32::MAX as u32;

/// What an agent may say of itself.
pub const AGENT_STATUSES: &[&str] = &["online", "busy", "error", "offline"];
/// The states of a command.
pub const COMMAND_STATUSES: &[&str] = &["queued", "running", "completed", "failed", "interrupted"];
/// What an agent may say of a command.
pub const REPORTED_STATUSES: &[&str] = &["running", "completed", "failed", "interrupted"];
/// The urgencies of a command.
pub const PRIORITIES: &[&str] = &["high", "normal", "low"];
/// What a command writes to.
pub const STREAMS: &[&str] = &["stdout", "stderr", "system", "command"];
/// The ways in which messages are compressed.
pub const ALGORITHMS: &[&str] = &["gzip"];

/// The types of client messages, in the order of documentation.
const TYPES: &[&str] = &[
    "dashboard:connect",
    "dashboard:disconnect",
    "agent:connect",
    "agent:disconnect",
    "agent:status",
    "command:request",
    "command:interrupt",
    "command:status",
    "command:complete",
    "terminal:output",
    "terminal:clear",
    "terminal:input",
    "terminal:resize",
    "heartbeat:ping",
    "heartbeat:pong",
    "system:emergency-stop",
    "system:resume",
    "system:emergency-confirmed",
    "auth:refresh-token",
    "batch",
    "compressed",
];

/// A message as it came, with the id to be echoed in its answer whether or not
/// the rest of it is right.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientMessage {
    /// Names the message in its answer.
    pub request_id: Option<String>,
    /// Its type, where it has one that is known.
    pub kind: Option<&'static str>,
    /// What it says, or what is wrong with it.
    pub body: Result<ClientFrame, Complaint>,
}

/// What a client sends.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientFrame {
    /// The connection is a dashboard's.
    DashboardConnect(DashboardConnect),
    /// The dashboard leaves.
    DashboardDisconnect,
    /// The connection is an agent's.
    AgentConnect(AgentConnect),
    /// The agent leaves.
    AgentDisconnect {
        /// The agent.
        agent_id: String,
    },
    /// How the agent is.
    AgentStatus(AgentStatus),
    /// Asks an agent to run a command.
    CommandRequest(CommandRequest),
    /// Asks that a command ends.
    CommandInterrupt {
        /// The command.
        command_id: String,
    },
    /// How a command is, by its agent.
    CommandStatus(CommandReport),
    /// How a command ended, by its agent.
    CommandComplete(CommandReport),
    /// What a command has written.
    TerminalOutput(TerminalOutput),
    /// Clears an agent's terminal.
    TerminalClear {
        /// The agent.
        agent_id: String,
    },
    /// Types into a command's terminal.
    TerminalInput {
        /// The command.
        command_id: String,
        /// The text.
        content: String,
        /// The exact bytes in base64, in place of the text.
        raw: Option<String>,
    },
    /// Changes the size of a command's terminal.
    TerminalResize {
        /// The command.
        command_id: String,
        /// Its width.
        columns: u32,
        /// Its height.
        rows: u32,
    },
    /// Asks for a `heartbeat:pong`.
    HeartbeatPing,
    /// Answers a `heartbeat:ping`.
    HeartbeatPong,
    /// Stops all agents.
    EmergencyStop {
        /// Why.
        reason: Option<String>,
    },
    /// Lets all agents go on.
    Resume,
    /// The agent has stopped what it ran.
    EmergencyConfirmed {
        /// The stop that it obeyed.
        stop_id: String,
    },
    /// Goes on with fresh tokens of the same user.
    RefreshToken {
        /// An access token.
        token: Option<String>,
        /// What the next pair is issued for.
        refresh_token: Option<String>,
    },
    /// Several messages.
    Batch(Batch),
    /// A message, or a batch of them, compressed.
    Compressed(Compressed),
}

/// The first message of a dashboard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DashboardConnect {
    /// A label.
    pub dashboard_id: String,
    /// What it understands beyond the plain messages.
    pub capabilities: Vec<String>,
    /// The `seq` after which to go on.
    pub resume_from: Option<FleetCursor>,
}

/// The first message of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentConnect {
    /// The agent.
    pub agent_id: String,
    /// What kind of agent it is.
    pub agent_type: String,
    /// Its own version.
    pub version: String,
    /// What it understands beyond the plain messages.
    pub capabilities: Vec<String>,
    /// How many commands it runs at once.
    pub concurrency: u32,
    /// The commands that it runs.
    pub running: Vec<String>,
    /// The commands whose end it has not got confirmed.
    pub ended: Vec<String>,
}

/// How an agent is.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentStatus {
    /// The agent.
    pub agent_id: String,
    /// One of [`AGENT_STATUSES`].
    pub status: &'static str,
    /// Whatever it measures.
    pub metrics: Option<Map<String, Value>>,
}

/// A request to run a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandRequest {
    /// The agent that is to run it.
    pub agent_id: String,
    /// The command.
    pub command: String,
    /// What is appended to it.
    pub args: Vec<String>,
    /// One of [`PRIORITIES`]; `None` is normal.
    pub priority: Option<&'static str>,
    /// The same key is the same command.
    pub idempotency_key: Option<String>,
    /// Whether it may wait for an agent that is not connected.
    pub queue_if_offline: bool,
}

/// How a command is, or how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandReport {
    /// The command.
    pub command_id: String,
    /// The agent that says so, if it says who it is.
    pub agent_id: Option<String>,
    /// One of [`REPORTED_STATUSES`]; `None` where the exit code says it.
    pub status: Option<&'static str>,
    /// What it returned.
    pub exit_code: Option<u32>,
    /// The signal that ended it.
    pub signal: Option<String>,
    /// For how many milliseconds it ran.
    pub duration: Option<u64>,
    /// Why it failed, where exit code and signal do not say it.
    pub reason: Option<String>,
    /// Whether output may be missing.
    pub incomplete: bool,
    /// What it has written in all, at its end; empty where nobody counted.
    pub streams: Vec<WrittenStream>,
    /// What it took, at its end.
    pub usage: Option<Usage>,
}

/// What a command has written to a stream in all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenStream {
    /// One of [`STREAMS`].
    pub stream: &'static str,
    /// How many bytes.
    pub bytes: u64,
    /// Their SHA-256 in hexadecimal digits.
    pub sha256: Option<String>,
}

/// What a command took of its machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// For how many milliseconds processors were busy with it.
    pub cpu_time: Option<u64>,
    /// The most memory that it had at a time, in bytes.
    pub peak_memory: Option<u64>,
}

/// What a command has written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TerminalOutput {
    /// The agent.
    pub agent_id: String,
    /// The command.
    pub command_id: String,
    /// One of [`STREAMS`].
    pub stream: &'static str,
    /// The text.
    pub content: String,
    /// The exact bytes in base64, in place of the text.
    pub raw: Option<String>,
    /// When it was written.
    pub timestamp: Option<String>,
    /// Of its first byte, in its stream.
    pub offset: Option<u64>,
    /// Whether what is missing in front of it is lost for good.
    pub after_loss: bool,
}

impl ClientMessage {
    /// Reads a text frame.
    #[must_use]
    pub fn read(text: &str) -> Self {
        match Fields::parse(text) {
            Ok(fields) => Self::of(fields),
            Err(complaint) => Self {
                request_id: None,
                kind: None,
                body: Err(complaint),
            },
        }
    }

    /// Reads a message that was part of another.
    #[must_use]
    pub fn inner(map: Map<String, Value>) -> Self {
        Self::of(Fields::of(map))
    }

    fn of(mut fields: Fields) -> Self {
        let kind = fields.text("type", MAX_WORD_BYTES);
        let request_id = fields.optional_id("requestId");
        let known = kind
            .as_ref()
            .ok()
            .and_then(|kind| TYPES.iter().copied().find(|known| known == kind));
        let body = match (kind, known, &request_id) {
            (Err(complaint), ..) => Err(complaint),
            (Ok(kind), None, _) => Err(unknown(&kind)),
            (Ok(_), Some(_), Err(complaint)) => Err(complaint.clone()),
            (Ok(_), Some(kind), Ok(_)) => ClientFrame::read(kind, fields),
        };
        Self {
            request_id: request_id.ok().flatten(),
            kind: known,
            body,
        }
    }
}

fn unknown(kind: &str) -> Complaint {
    let (last, others) = TYPES.split_last().expect("there are types");
    Complaint {
        code: ErrorCode::UnknownType,
        message: format!(
            "unknown type `{kind}`: expected {} or {last}",
            others.join(", ")
        ),
        field: Some("type".to_owned()),
    }
}

impl ClientFrame {
    /// Reads a text frame.
    ///
    /// # Errors
    /// INVALID_JSON, INVALID_MESSAGE with the field's name, or UNKNOWN_TYPE.
    pub fn decode(text: &str) -> Result<Self, Complaint> {
        ClientMessage::read(text).body
    }

    /// Reads the fields of a message of a known type.
    fn read(kind: &'static str, mut fields: Fields) -> Result<Self, Complaint> {
        Ok(match kind {
            "dashboard:connect" => Self::DashboardConnect(DashboardConnect {
                dashboard_id: fields.id("dashboardId")?,
                capabilities: fields
                    .optional_any_texts("capabilities")?
                    .unwrap_or_default(),
                resume_from: fields.optional_fleet_cursor("resumeFrom")?,
            }),
            "dashboard:disconnect" => {
                fields.optional_id("dashboardId")?;
                Self::DashboardDisconnect
            }
            "agent:connect" => Self::AgentConnect(agent_connect(fields)?),
            "agent:disconnect" => Self::AgentDisconnect {
                agent_id: fields.id("agentId")?,
            },
            "agent:status" => Self::AgentStatus(AgentStatus {
                agent_id: fields.id("agentId")?,
                status: fields.word("status", AGENT_STATUSES)?,
                metrics: fields.optional_object("metrics")?.map(Fields::into_rest),
            }),
            "command:request" => Self::CommandRequest(CommandRequest {
                agent_id: fields.id("agentId")?,
                command: fields.text("command", MAX_COMMAND_BYTES)?,
                args: fields.optional_any_texts("args")?.unwrap_or_default(),
                priority: fields.optional_word("priority", PRIORITIES)?,
                idempotency_key: fields.optional_id("idempotencyKey")?,
                queue_if_offline: fields.optional_flag("queueIfOffline")?.unwrap_or(false),
            }),
            "command:interrupt" => Self::CommandInterrupt {
                command_id: fields.id("commandId")?,
            },
            "command:status" => {
                let status = fields.word("status", REPORTED_STATUSES)?;
                Self::CommandStatus(report(fields, Some(status))?)
            }
            "command:complete" => {
                let status = fields.optional_word("status", REPORTED_STATUSES)?;
                Self::CommandComplete(complete(fields, status)?)
            }
            "terminal:output" => Self::TerminalOutput(output(fields)?),
            "terminal:clear" => Self::TerminalClear {
                agent_id: fields.id("agentId")?,
            },
            "terminal:input" => Self::TerminalInput {
                command_id: fields.id("commandId")?,
                content: fields.any_text("content")?,
                raw: fields.optional_any_text("raw")?,
            },
            "terminal:resize" => Self::TerminalResize {
                command_id: fields.id("commandId")?,
                columns: fields.integer("columns", 1..=MAX_CELLS)?,
                rows: fields.integer("rows", 1..=MAX_CELLS)?,
            },
            "heartbeat:ping" => Self::HeartbeatPing,
            "heartbeat:pong" => Self::HeartbeatPong,
            "system:emergency-stop" => Self::EmergencyStop {
                reason: fields.optional_text("reason", MAX_REASON_BYTES)?,
            },
            "system:resume" => Self::Resume,
            "system:emergency-confirmed" => Self::EmergencyConfirmed {
                stop_id: fields.id("stopId")?,
            },
            "auth:refresh-token" => Self::RefreshToken {
                token: fields.optional_text("token", MAX_TOKEN_BYTES)?,
                refresh_token: fields.optional_text("refreshToken", MAX_TOKEN_BYTES)?,
            },
            "batch" => Self::Batch(Batch {
                messages: fields.messages("messages")?,
                count: fields.count("count")?,
            }),
            "compressed" => Self::Compressed(Compressed {
                algorithm: fields.word("algorithm", ALGORITHMS)?,
                original_type: fields.text("originalType", MAX_WORD_BYTES)?,
                original_size: fields.count("originalSize")?,
                compressed_size: fields.count("compressedSize")?,
                data: fields.any_text("data")?,
            }),
            other => return Err(unknown(other)),
        })
    }
}

fn agent_connect(mut fields: Fields) -> Result<AgentConnect, Complaint> {
    Ok(AgentConnect {
        agent_id: fields.id("agentId")?,
        agent_type: fields.text("agentType", MAX_NAME_BYTES)?,
        version: fields.text("version", MAX_NAME_BYTES)?,
        capabilities: fields
            .optional_any_texts("capabilities")?
            .unwrap_or_default(),
        concurrency: fields
            .optional_integer("concurrency", 1..=MAX_CONCURRENCY)?
            .unwrap_or(1),
        running: fields.optional_any_texts("running")?.unwrap_or_default(),
        ended: fields.optional_any_texts("ended")?.unwrap_or_default(),
    })
}

/// The end of a command, with what only the end can say.
fn complete(mut fields: Fields, status: Option<&'static str>) -> Result<CommandReport, Complaint> {
    let streams = fields.optional_objects("streams")?.unwrap_or_default();
    let streams = streams.into_iter().map(|mut stream| {
        Ok(WrittenStream {
            stream: stream.word("stream", STREAMS)?,
            bytes: stream.count("bytes")?,
            sha256: stream.optional_any_text("sha256")?,
        })
    });
    let streams = streams.collect::<Result<_, Complaint>>()?;
    let usage = match fields.optional_object("usage")? {
        None => None,
        Some(mut usage) => Some(Usage {
            cpu_time: usage.optional_count("cpuTime")?,
            peak_memory: usage.optional_count("peakMemory")?,
        }),
    };
    Ok(CommandReport {
        streams,
        usage,
        ..report(fields, status)?
    })
}

fn report(mut fields: Fields, status: Option<&'static str>) -> Result<CommandReport, Complaint> {
    Ok(CommandReport {
        command_id: fields.id("commandId")?,
        agent_id: fields.optional_id("agentId")?,
        status,
        exit_code: fields.optional_integer("exitCode", 0..=MAX_EXIT_CODE)?,
        signal: fields.optional_id("signal")?,
        duration: fields.optional_count("duration")?,
        reason: fields.optional_text("reason", MAX_REASON_BYTES)?,
        incomplete: fields.optional_flag("incomplete")?.unwrap_or(false),
        streams: Vec::new(),
        usage: None,
    })
}

fn output(mut fields: Fields) -> Result<TerminalOutput, Complaint> {
    let mut output = fields.object("output")?;
    Ok(TerminalOutput {
        stream: output.word("type", STREAMS)?,
        content: output.any_text("content")?,
        raw: output.optional_any_text("raw")?,
        timestamp: output.optional_any_text("timestamp")?,
        agent_id: fields.id("agentId")?,
        command_id: fields.id("commandId")?,
        offset: fields.optional_count("offset")?,
        after_loss: fields.optional_flag("afterLoss")?.unwrap_or(false),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_id_survives_what_is_wrong_with_the_rest() {
        let read = ClientMessage::read(r#"{"type":"terminal:clear","requestId":"r-1"}"#);
        assert_eq!(read.request_id.as_deref(), Some("r-1"));
        assert_eq!(read.kind, Some("terminal:clear"));
        assert_eq!(read.body.unwrap_err().field.as_deref(), Some("agentId"));
        let read = ClientMessage::read(r#"{"type":"nope","requestId":"r-2"}"#);
        assert_eq!(read.request_id.as_deref(), Some("r-2"));
        assert_eq!(read.body.unwrap_err().code, ErrorCode::UnknownType);
        let read = ClientMessage::read(r#"{"type":"heartbeat:ping","requestId":7}"#);
        assert_eq!(read.body.unwrap_err().field.as_deref(), Some("requestId"));
    }
}
