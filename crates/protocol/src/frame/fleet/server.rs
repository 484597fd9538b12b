//! What dashboards and agents are sent. One file, since it is one enum: a
//! message for each of its variants, with every field explained.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::cursor::FleetCursor;
use crate::error_code::ErrorCode;
use crate::timestamp::Timestamp;

/// What a client is sent.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all_fields = "camelCase")]
pub enum ServerFrame<'a> {
    /// A connection, or what it asked for, is refused.
    #[serde(rename = "connection:error")]
    ConnectionError {
        /// Why, for people.
        error: &'a str,
        /// Why, for programs.
        code: ErrorCode,
        /// When to try again, in seconds.
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_after: Option<u64>,
        /// With RATE_LIMIT: what was used of which limits.
        #[serde(skip_serializing_if = "Option::is_none")]
        limits: Option<Limits>,
        /// That of the message in question.
        #[serde(skip_serializing_if = "Option::is_none")]
        request_id: Option<&'a str>,
        /// When.
        timestamp: Timestamp,
    },
    /// A message is not as it must be.
    #[serde(rename = "validation:error")]
    ValidationError {
        /// What is wrong, for people.
        error: &'a str,
        /// The field at fault.
        #[serde(skip_serializing_if = "Option::is_none")]
        field: Option<&'a str>,
        /// What is wrong, for programs.
        code: ErrorCode,
        /// That of the message in question.
        #[serde(skip_serializing_if = "Option::is_none")]
        request_id: Option<&'a str>,
        /// When.
        timestamp: Timestamp,
    },
    /// Who is connected.
    #[serde(rename = "agent:list")]
    AgentList {
        /// The agents.
        agents: Vec<ListedAgent<'a>>,
        /// Whether all that came after `resumeFrom` follows.
        #[serde(skip_serializing_if = "Option::is_none")]
        recovered: Option<bool>,
        /// The position: everything behind it comes.
        seq: FleetCursor,
        /// That of `dashboard:connect`.
        #[serde(skip_serializing_if = "Option::is_none")]
        request_id: Option<&'a str>,
        /// When.
        timestamp: Timestamp,
    },
    /// The connection is the agent's.
    #[serde(rename = "agent:connected")]
    AgentConnected {
        /// The agent.
        agent_id: &'a str,
        /// How often a sign of life is expected, in milliseconds.
        heartbeat_interval: u64,
        /// How much of the output of its commands is stored.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        offsets: Vec<StoredOutput<'a>>,
        /// Commands that were given up: to be ended, and not reported.
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        abandoned: &'a [String],
        /// That of `agent:connect`.
        #[serde(skip_serializing_if = "Option::is_none")]
        request_id: Option<&'a str>,
        /// When.
        timestamp: Timestamp,
    },
    /// How an agent is.
    #[serde(rename = "agent:status")]
    AgentStatus {
        /// The agent.
        agent_id: &'a str,
        /// Online, busy, error or offline.
        status: &'a str,
        /// Whatever it measures.
        #[serde(skip_serializing_if = "Option::is_none")]
        metrics: Option<&'a RawValue>,
        /// What kind of agent it is.
        agent_type: &'a str,
        /// Since when it is connected.
        #[serde(skip_serializing_if = "Option::is_none")]
        connected_at: Option<Timestamp>,
        /// The position.
        seq: FleetCursor,
        /// When.
        timestamp: Timestamp,
    },
    /// The command was accepted.
    #[serde(rename = "command:queued")]
    CommandQueued {
        /// The command.
        command_id: &'a str,
        /// The agent.
        agent_id: &'a str,
        /// Its place among those that wait, from 1; 0 = it does not wait.
        position: u32,
        /// How long it is going to wait, in milliseconds.
        estimated_wait: u64,
        /// That of `command:request`.
        #[serde(skip_serializing_if = "Option::is_none")]
        request_id: Option<&'a str>,
        /// When.
        timestamp: Timestamp,
    },
    /// What was asked of agents or commands is not done.
    #[serde(rename = "command:error")]
    CommandError {
        /// Why, for people.
        error: &'a str,
        /// Why, for programs.
        code: ErrorCode,
        /// The agent.
        #[serde(skip_serializing_if = "Option::is_none")]
        agent_id: Option<&'a str>,
        /// The command.
        #[serde(skip_serializing_if = "Option::is_none")]
        command_id: Option<&'a str>,
        /// That of the message in question.
        #[serde(skip_serializing_if = "Option::is_none")]
        request_id: Option<&'a str>,
        /// When.
        timestamp: Timestamp,
    },
    /// The agent is to run a command.
    #[serde(rename = "command:execute")]
    CommandExecute {
        /// The command.
        command_id: &'a str,
        /// What to run.
        command: &'a str,
        /// What is appended to it.
        args: &'a [String],
        /// From 1; greater where no earlier attempt reached the agent.
        attempt: u32,
        /// When.
        timestamp: Timestamp,
    },
    /// How a command is.
    #[serde(rename = "command:status")]
    CommandStatus {
        /// The command.
        command_id: &'a str,
        /// The agent.
        agent_id: &'a str,
        /// Queued, running, completed, failed or interrupted.
        status: &'a str,
        /// While it waits.
        #[serde(flatten)]
        waiting: Option<Waiting>,
        /// What it is, when it is queued first.
        #[serde(flatten)]
        request: Option<Requested<'a>>,
        /// How it ended.
        #[serde(flatten)]
        end: Option<End<'a>>,
        /// Whether it happened before the dashboard came.
        #[serde(skip_serializing_if = "Option::is_none")]
        replay: Option<bool>,
        /// The position.
        seq: FleetCursor,
        /// When.
        timestamp: Timestamp,
    },
    /// The agent is to end a command.
    #[serde(rename = "command:interrupt")]
    CommandInterrupt {
        /// The command.
        command_id: &'a str,
        /// Who asked; absent at an emergency stop.
        #[serde(skip_serializing_if = "Option::is_none")]
        by: Option<&'a str>,
        /// When.
        timestamp: Timestamp,
    },
    /// The command has ended, and all of its output came before.
    #[serde(rename = "command:complete")]
    CommandComplete {
        /// The command.
        command_id: &'a str,
        /// The agent.
        agent_id: &'a str,
        /// Completed, failed or interrupted.
        status: &'a str,
        /// How.
        #[serde(flatten)]
        end: End<'a>,
        /// What it has written, and how much of that is recorded.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        streams: Vec<RecordedStream<'a>>,
        /// What it took of its machine.
        #[serde(skip_serializing_if = "Option::is_none")]
        usage: Option<Usage>,
        /// Whether it happened before the dashboard came.
        #[serde(skip_serializing_if = "Option::is_none")]
        replay: Option<bool>,
        /// The position.
        seq: FleetCursor,
        /// When.
        timestamp: Timestamp,
    },
    /// What a command has written.
    #[serde(rename = "terminal:output")]
    TerminalOutput {
        /// The agent.
        agent_id: &'a str,
        /// The command.
        command_id: &'a str,
        /// What.
        output: Output<'a>,
        /// Where the command wrote it to.
        stream: &'a str,
        /// Of its first byte, in that stream.
        offset: u64,
        /// Whether it was written before the dashboard came.
        #[serde(skip_serializing_if = "Option::is_none")]
        replay: Option<bool>,
        /// The position.
        seq: FleetCursor,
        /// When.
        timestamp: Timestamp,
    },
    /// Output that is missing for good.
    #[serde(rename = "terminal:gap")]
    TerminalGap {
        /// The agent.
        agent_id: &'a str,
        /// The command.
        command_id: &'a str,
        /// The stream.
        stream: &'a str,
        /// The offset of its first byte.
        from: u64,
        /// The offset behind its last byte; absent where all that follows is missing.
        #[serde(skip_serializing_if = "Option::is_none")]
        to: Option<u64>,
        /// Lost or capped.
        reason: &'a str,
        /// Whether it happened before the dashboard came.
        #[serde(skip_serializing_if = "Option::is_none")]
        replay: Option<bool>,
        /// The position.
        seq: FleetCursor,
        /// When.
        timestamp: Timestamp,
    },
    /// The agent's terminal was cleared.
    #[serde(rename = "terminal:clear")]
    TerminalClear {
        /// The agent.
        agent_id: &'a str,
        /// Who cleared it; absent where the agent itself did.
        #[serde(skip_serializing_if = "Option::is_none")]
        by: Option<&'a str>,
        /// The position.
        seq: FleetCursor,
        /// When.
        timestamp: Timestamp,
    },
    /// So much of a command's output is stored.
    #[serde(rename = "terminal:ack")]
    TerminalAck {
        /// The command.
        command_id: &'a str,
        /// The stream.
        stream: &'a str,
        /// The offset up to which everything is stored.
        offset: u64,
        /// When.
        timestamp: Timestamp,
    },
    /// What somebody types.
    #[serde(rename = "terminal:input")]
    TerminalInput {
        /// The command.
        command_id: &'a str,
        /// The text.
        content: &'a str,
        /// The exact bytes in base64, where they are no text.
        #[serde(skip_serializing_if = "Option::is_none")]
        raw: Option<&'a str>,
        /// When.
        timestamp: Timestamp,
    },
    /// The terminal has another size.
    #[serde(rename = "terminal:resize")]
    TerminalResize {
        /// The command.
        command_id: &'a str,
        /// Its width.
        columns: u32,
        /// Its height.
        rows: u32,
        /// When.
        timestamp: Timestamp,
    },
    /// Asks for a sign of life.
    #[serde(rename = "heartbeat:ping")]
    HeartbeatPing {
        /// When.
        timestamp: Timestamp,
    },
    /// Answers a `heartbeat:ping`.
    #[serde(rename = "heartbeat:pong")]
    HeartbeatPong {
        /// That of `heartbeat:ping`.
        #[serde(skip_serializing_if = "Option::is_none")]
        request_id: Option<&'a str>,
        /// When.
        timestamp: Timestamp,
    },
    /// All agents stop.
    #[serde(rename = "system:emergency-stop")]
    EmergencyStop {
        /// Why.
        reason: &'a str,
        /// Who stopped them.
        by: &'a str,
        /// Names the stop.
        stop_id: &'a str,
        /// When.
        timestamp: Timestamp,
    },
    /// All agents go on.
    #[serde(rename = "system:resume")]
    Resume {
        /// Who lets them.
        by: &'a str,
        /// Names the stop that ends.
        stop_id: &'a str,
        /// When.
        timestamp: Timestamp,
    },
    /// How far the stop is obeyed.
    #[serde(rename = "system:emergency-status")]
    EmergencyStatus {
        /// The agents.
        agents: Vec<StoppedAgent<'a>>,
        /// Why.
        reason: &'a str,
        /// Who stopped them.
        by: &'a str,
        /// Names the stop.
        stop_id: &'a str,
        /// When.
        timestamp: Timestamp,
    },
    /// The token is about to expire.
    #[serde(rename = "auth:refresh-needed")]
    RefreshNeeded {
        /// When.
        expires_at: Timestamp,
        /// When this was sent.
        timestamp: Timestamp,
    },
    /// The connection goes on with the fresh token.
    #[serde(rename = "auth:refresh-success")]
    RefreshSuccess {
        /// The access token that was issued.
        #[serde(skip_serializing_if = "Option::is_none")]
        token: Option<&'a str>,
        /// The refresh token that was issued.
        #[serde(skip_serializing_if = "Option::is_none")]
        refresh_token: Option<&'a str>,
        /// When the connection's token expires.
        #[serde(skip_serializing_if = "Option::is_none")]
        expires_at: Option<Timestamp>,
        /// That of `auth:refresh-token`.
        #[serde(skip_serializing_if = "Option::is_none")]
        request_id: Option<&'a str>,
        /// When.
        timestamp: Timestamp,
    },
    /// The connection stays with the token that it has.
    #[serde(rename = "auth:refresh-failed")]
    RefreshFailed {
        /// Why.
        error: &'a str,
        /// That of `auth:refresh-token`.
        #[serde(skip_serializing_if = "Option::is_none")]
        request_id: Option<&'a str>,
        /// When.
        timestamp: Timestamp,
    },
    /// What was asked is done.
    #[serde(rename = "request:done")]
    RequestDone {
        /// That of the message in question.
        request_id: &'a str,
        /// When.
        timestamp: Timestamp,
    },
    /// Several messages.
    #[serde(rename = "batch")]
    Batch {
        /// The messages.
        messages: &'a [&'a RawValue],
        /// How many there are.
        count: usize,
        /// When.
        timestamp: Timestamp,
    },
    /// A message, or a batch of them, compressed.
    #[serde(rename = "compressed")]
    Compressed {
        /// How.
        algorithm: &'a str,
        /// The type of what is compressed.
        original_type: &'a str,
        /// Its size in bytes.
        original_size: usize,
        /// The size of the compressed bytes.
        compressed_size: usize,
        /// The compressed bytes in base64.
        data: &'a str,
        /// When.
        timestamp: Timestamp,
    },
}

/// What was used of the limits of a connection or message type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// In the running minute.
    pub per_minute: Used,
    /// In the running hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_hour: Option<Used>,
}

/// What was used of one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Used {
    /// Messages, refused ones included.
    pub used: u64,
    /// How many are served.
    pub limit: u32,
}

/// A connected agent.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListedAgent<'a> {
    /// The agent.
    pub agent_id: &'a str,
    /// What kind of agent it is.
    pub agent_type: &'a str,
    /// Online, busy, error or offline.
    pub status: &'a str,
    /// Since when it is connected.
    pub connected_at: Timestamp,
    /// Its own version.
    pub version: &'a str,
    /// The commands that it runs.
    pub running: &'a [String],
    /// Whatever it measures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<&'a RawValue>,
}

/// How much of a command's output is stored.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredOutput<'a> {
    /// The command.
    pub command_id: &'a str,
    /// The stream.
    pub stream: &'a str,
    /// The offset up to which everything is stored.
    pub offset: u64,
}

/// An agent during an emergency stop.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoppedAgent<'a> {
    /// The agent.
    pub agent_id: &'a str,
    /// Confirmed or unreachable.
    pub state: &'a str,
}

/// A part of what a command has written.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Output<'a> {
    /// Stdout, stderr, system or command.
    #[serde(rename = "type")]
    pub kind: &'a str,
    /// The text.
    pub content: &'a str,
    /// When it was written.
    pub timestamp: Timestamp,
    /// The exact bytes in base64, where they are no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raw: Option<&'a str>,
}

/// The place of a command that waits.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// From 1.
    pub position: u32,
    /// How long it is going to wait, in milliseconds.
    pub estimated_wait: u64,
}

/// What a command is.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Requested<'a> {
    /// What is run.
    pub command: &'a str,
    /// What is appended to it.
    pub args: &'a [String],
    /// High, normal or low.
    pub priority: &'a str,
    /// Who asked for it.
    pub by: &'a str,
}

/// What a command has written to a stream, and how much of it is recorded.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordedStream<'a> {
    /// The stream.
    pub stream: &'a str,
    /// Bytes that the command has written, as far as is known.
    pub bytes: u64,
    /// Those of them that are recorded.
    pub recorded: u64,
    /// The SHA-256 of what is recorded, in hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The SHA-256 of what the command has written, as its agent says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub written_sha256: Option<String>,
}

/// What a command took of its machine, as its agent says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// For how many milliseconds processors were busy with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_time: Option<u64>,
    /// The most memory that it had at a time, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_memory: Option<u64>,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct End<'a> {
    /// What it returned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// For how many milliseconds it ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<u64>,
    /// The signal that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<&'a str>,
    /// Why it failed, where exit code and signal do not say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
    /// Whether output may be missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incomplete: Option<bool>,
}
