//! What must last about an agent: its session, its queue, and every command
//! whose end is not in its log yet. One document, written as a whole.

use serde::{Deserialize, Serialize};
use signalbox_protocol::wire::{OutputStream, ResourceUsage, StreamSum};

use crate::queue::{Claim, Priority};

/// Bytes of a SHA-256.
const SHA256_BYTES: usize = 32;
/// How long a command is taken to last before any has ended.
const FIRST_AVERAGE_MS: u64 = 5_000;

/// An agent as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Document {
    /// Its id.
    pub(crate) agent_id: String,
    /// What it is, in its own words.
    #[serde(default)]
    pub(crate) agent_type: String,
    /// Its own version.
    #[serde(default)]
    pub(crate) version: String,
    /// Commands that it runs at once, at least 1.
    pub(crate) concurrency: u32,
    /// Whether it never runs a command again that it has recorded.
    #[serde(default)]
    pub(crate) keeps_journal: bool,
    /// What it says of itself.
    #[serde(default)]
    pub(crate) condition: Condition,
    /// Its connection.
    #[serde(default)]
    pub(crate) session: Option<Session>,
    /// Since when it has had none, in Unix milliseconds.
    #[serde(default)]
    pub(crate) offline_since_ms: u64,
    /// The connection that was its last, be it lost; empty = none was.
    #[serde(default)]
    pub(crate) last_connection: String,
    /// Connections whose place others have taken, the latest last.
    #[serde(default)]
    pub(crate) superseded: Vec<String>,
    /// Its commands, in the order of their acceptance.
    #[serde(default)]
    pub(crate) commands: Vec<Command>,
    /// How many were accepted.
    #[serde(default)]
    pub(crate) accepted: u64,
    /// How long its commands last, more or less.
    #[serde(default = "first_average")]
    pub(crate) average_ms: u64,
    /// The emergency stop that it is under.
    #[serde(default)]
    pub(crate) stop: Option<Stop>,
    /// What is to be published of it, the oldest first.
    #[serde(default)]
    pub(crate) announcements: Vec<Announcement>,
    /// How many there were.
    #[serde(default)]
    pub(crate) announced: u64,
}

const fn first_average() -> u64 {
    FIRST_AVERAGE_MS
}

/// What an agent says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Condition {
    /// Nothing: it is busy when no place is free.
    #[default]
    Unsaid,
    /// It can work.
    Online,
    /// It is at work.
    Busy,
    /// Something is wrong with it.
    Error,
}

/// An agent's connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Session {
    /// The gateway that has it.
    pub(crate) gateway: String,
    /// Its id, unique for ever.
    pub(crate) connection: String,
    /// When it was made; RFC 3339.
    pub(crate) connected_at: String,
}

/// An emergency stop, as far as it has come with one agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stop {
    /// Which one.
    pub(crate) id: String,
    /// Since when the agent has been expected to confirm it.
    pub(crate) since_ms: u64,
    /// Whether the agent's connection has got it.
    pub(crate) told: bool,
    /// Whether the agent has said that it has stopped.
    pub(crate) confirmed: bool,
}

/// A command that is not over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Command {
    /// Its id.
    pub(crate) id: String,
    /// Its claim to run.
    pub(crate) order: u64,
    /// Its text.
    pub(crate) command: String,
    /// Its arguments.
    pub(crate) args: Vec<String>,
    /// How urgent it is.
    pub(crate) priority: Priority,
    /// Who asked for it.
    pub(crate) by: String,
    /// When it was accepted.
    pub(crate) accepted_ms: u64,
    /// Its place in the queue then, from 1.
    pub(crate) position: u32,
    /// How long it was thought to wait then.
    pub(crate) estimated_ms: u64,
    /// How often it was begun to be sent.
    #[serde(default)]
    pub(crate) attempt: u32,
    /// How far it is.
    pub(crate) phase: Phase,
    /// Whether it is to end early.
    #[serde(default)]
    pub(crate) interrupt: Option<Interrupt>,
    /// Since when it is not known whether the agent still has it.
    #[serde(default)]
    pub(crate) doubt_since_ms: Option<u64>,
    /// The trace that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) trace: Option<String>,
}

/// How far a command is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// In the queue.
    Waiting,
    /// On its way to the agent.
    Starting {
        /// By this connection.
        connection: String,
    },
    /// Begun, as far as is known.
    Running {
        /// Since when.
        since_ms: u64,
    },
    /// Over, but not in the log yet.
    Ended(Outcome),
}

/// That a command is to end early.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Interrupt {
    /// Who wants it; empty = an emergency stop.
    pub(crate) by: String,
}

/// How a command has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// In which way.
    pub(crate) end: End,
    /// What it returned.
    #[serde(default)]
    pub(crate) exit_code: Option<i32>,
    /// What killed it; empty = nothing.
    #[serde(default)]
    pub(crate) signal: String,
    /// How long it ran, as the agent says.
    #[serde(default)]
    pub(crate) duration_ms: Option<u64>,
    /// Why, where that is more than exit code and signal say.
    #[serde(default)]
    pub(crate) reason: String,
    /// Whether output may be missing.
    #[serde(default)]
    pub(crate) incomplete: bool,
    /// Who interrupted it.
    #[serde(default)]
    pub(crate) by: String,
    /// What it has written, as the agent says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) written: Vec<Written>,
    /// What it took of its machine, as the agent says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) usage: Option<Usage>,
    /// When.
    pub(crate) at_ms: u64,
}

/// What a command has written to one of its streams.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Written {
    /// The number of the stream.
    pub(crate) stream: i32,
    /// How many bytes.
    pub(crate) bytes: u64,
    /// Their SHA-256; empty = not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) sha256: Vec<u8>,
}

/// What a command took of its machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// For how long processors were busy with it.
    #[serde(default)]
    pub(crate) cpu_time_ms: Option<u64>,
    /// The most memory that it had at a time.
    #[serde(default)]
    pub(crate) peak_memory_bytes: Option<u64>,
}

/// The ways in which a command ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum End {
    /// As it should.
    Completed,
    /// Not as it should.
    #[default]
    Failed,
    /// Because somebody wanted it to.
    Interrupted,
}

/// An event of an agent that is to be published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Announcement {
    /// Which one of the agent's, from 1.
    pub(crate) number: u64,
    /// The event's name.
    pub(crate) name: String,
    /// The agent's status, as workspaces call it.
    pub(crate) status: String,
    /// Its free places among all.
    pub(crate) free: (u32, u32),
    /// What the agent measures of itself: one JSON object, or nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) metrics: String,
    /// When.
    pub(crate) at_ms: u64,
}

impl Written {
    /// What an agent says, each stream once.
    pub(crate) fn of(sums: &[StreamSum]) -> Vec<Self> {
        let mut written: Vec<Self> = Vec::new();
        for sum in sums {
            let is_stream = OutputStream::try_from(sum.stream).is_ok();
            let is_known = written.iter().any(|known| known.stream == sum.stream);
            if is_stream && !is_known {
                let mut sha256 = sum.sha256.to_vec();
                if sha256.len() != SHA256_BYTES {
                    sha256.clear();
                }
                written.push(Self {
                    stream: sum.stream,
                    bytes: sum.bytes,
                    sha256,
                });
            }
        }
        written
    }

    /// The same as a log has it.
    pub(crate) fn sum(&self) -> StreamSum {
        StreamSum {
            stream: self.stream,
            bytes: self.bytes,
            recorded: 0,
            sha256: self.sha256.clone().into(),
        }
    }

    /// Whether this is what the log has; what lies behind a gap is not compared.
    pub(crate) fn agrees(&self, recorded: &[StreamSum]) -> bool {
        let found = recorded.iter().find(|sum| sum.stream == self.stream);
        let Some(sum) = found else {
            return self.bytes == 0;
        };
        let is_whole = sum.recorded == sum.bytes;
        let are_hashed = !self.sha256.is_empty() && !sum.sha256.is_empty();
        let is_other = is_whole && are_hashed && self.sha256 != sum.sha256;
        self.bytes == sum.bytes && !is_other
    }
}

impl From<ResourceUsage> for Usage {
    fn from(usage: ResourceUsage) -> Self {
        Self {
            cpu_time_ms: usage.cpu_time_ms,
            peak_memory_bytes: usage.peak_memory_bytes,
        }
    }
}

impl From<Usage> for ResourceUsage {
    fn from(usage: Usage) -> Self {
        Self {
            cpu_time_ms: usage.cpu_time_ms,
            peak_memory_bytes: usage.peak_memory_bytes,
        }
    }
}

impl Document {
    /// An agent that nothing was known of until now.
    pub(crate) fn new(agent_id: &str, now_ms: u64) -> Self {
        Self {
            agent_id: agent_id.to_owned(),
            agent_type: String::new(),
            version: String::new(),
            concurrency: 1,
            keeps_journal: false,
            condition: Condition::Unsaid,
            session: None,
            offline_since_ms: now_ms,
            last_connection: String::new(),
            superseded: Vec::new(),
            commands: Vec::new(),
            accepted: 0,
            average_ms: FIRST_AVERAGE_MS,
            stop: None,
            announcements: Vec::new(),
            announced: 0,
        }
    }
}

impl Command {
    /// Its claim to run.
    pub(crate) const fn claim(&self) -> Claim {
        Claim {
            order: self.order,
            priority: self.priority,
            accepted_ms: self.accepted_ms,
        }
    }

    /// Whether it takes one of the agent's places.
    pub(crate) const fn is_busy(&self) -> bool {
        matches!(self.phase, Phase::Starting { .. } | Phase::Running { .. })
    }

    /// Whether it is in the queue.
    pub(crate) const fn is_waiting(&self) -> bool {
        matches!(self.phase, Phase::Waiting)
    }

    /// Whether it is over.
    pub(crate) const fn is_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended(_))
    }
}
