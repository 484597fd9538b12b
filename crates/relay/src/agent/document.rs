//! What must last about an agent: its session, its queue, and every command
//! whose end is not in its log yet. One document, written as a whole.

use serde::{Deserialize, Serialize};

use crate::queue::{Claim, Priority};

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
    /// When.
    pub(crate) at_ms: u64,
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
