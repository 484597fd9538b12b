//! Settings of the orchestrator.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, value_parser};
use signalbox_bus::{BusArgs, BusOptions};

use crate::agents::Agents;
use crate::investigation::{InvestigationArgs, InvestigationOptions};

/// How long an orchestrator's lease of a shard lasts without renewal.
const LEASE_TTL: Duration = Duration::from_secs(5);
/// The longest that it may be set to last, in seconds.
const LONGEST_LEASE_TTL: u64 = 3_600;

/// Command line and environment of the orchestrator.
#[derive(Args, Clone, Debug)]
pub struct OrchestratorArgs {
    /// The bus
    #[command(flatten)]
    pub bus: BusArgs,
    /// Settings that `up` shares
    #[command(flatten)]
    pub chat: ChatArgs,
    /// Seconds after which another orchestrator takes over from one that is gone
    #[arg(long, env = "SIGNALBOX_LEASE_TTL", default_value_t = LEASE_TTL.as_secs(),
        value_name = "SECONDS", value_parser = value_parser!(u64).range(1..=LONGEST_LEASE_TTL))]
    pub lease_ttl: u64,
}

/// How chats are treated.
#[derive(Args, Clone, Debug)]
pub struct ChatArgs {
    /// File with agents, beside those that are built in
    #[arg(long, env = "SIGNALBOX_AGENTS", value_name = "FILE")]
    pub agents: Option<PathBuf>,
    /// Answers that are written at once; further messages are told to come again
    #[arg(long, env = "SIGNALBOX_CHAT_ANSWERS", default_value_t = 256, value_name = "COUNT",
        value_parser = value_parser!(u32).range(1..))]
    pub chat_answers: u32,
    /// Answers that are written at once for one user
    #[arg(long, env = "SIGNALBOX_CHAT_ANSWERS_PER_USER", default_value_t = 8,
        value_name = "COUNT", value_parser = value_parser!(u32).range(1..))]
    pub chat_answers_per_user: u32,
    /// Chats that wait at once for people to approve what an agent wants to do; further
    /// calls are refused
    #[arg(long, env = "SIGNALBOX_CHATS_WAITING", default_value_t = 256, value_name = "COUNT",
        value_parser = value_parser!(u32).range(1..))]
    pub chats_waiting: u32,
    /// Those of them that may be one user's
    #[arg(long, env = "SIGNALBOX_CHATS_WAITING_PER_USER", default_value_t = 32,
        value_name = "COUNT", value_parser = value_parser!(u32).range(1..))]
    pub chats_waiting_per_user: u32,
    /// Chats that are in memory at once; a chat that nobody uses leaves it after a minute
    #[arg(long, env = "SIGNALBOX_CHATS", default_value_t = 10_000, value_name = "COUNT",
        value_parser = value_parser!(u32).range(1..))]
    pub chats: u32,
    /// Milliseconds from one piece of an answer to the next, at least
    #[arg(
        long,
        env = "SIGNALBOX_CHUNK_INTERVAL",
        default_value_t = 5,
        value_name = "MS"
    )]
    pub chunk_interval: u32,
    /// Seconds that answers may take to be finished before they are left to another orchestrator
    #[arg(
        long,
        env = "SIGNALBOX_CHAT_DRAIN",
        default_value_t = 8,
        value_name = "SECONDS"
    )]
    pub chat_drain: u64,
    /// How investigations are treated
    #[command(flatten)]
    pub investigation: InvestigationArgs,
}

/// Settings of the orchestrator, validated.
#[derive(Clone, Debug)]
pub struct Options {
    /// The bus.
    pub bus: BusOptions,
    /// The agents there are.
    pub agents: Agents,
    /// How long the lease of a shard lasts without renewal, in whole seconds.
    pub lease_ttl: Duration,
    /// Answers at once.
    pub answers: usize,
    /// Answers at once for one user.
    pub answers_per_user: usize,
    /// Chats that wait for people at once.
    pub waiting: usize,
    /// Chats of one user that wait for people at once.
    pub waiting_per_user: usize,
    /// Chats in memory.
    pub chats: usize,
    /// The least time from one chunk to the next.
    pub interval: Duration,
    /// How long answers may take to be finished when a shard is given away.
    pub drain: Duration,
    /// How investigations are treated.
    pub investigation: InvestigationOptions,
}

impl Options {
    /// The settings with this bus.
    ///
    /// # Errors
    /// Says what is wrong with the file of agents.
    pub fn new(bus: BusOptions, chat: &ChatArgs) -> Result<Self, String> {
        Ok(Self {
            bus,
            agents: match &chat.agents {
                Some(path) => Agents::load(path)?,
                None => Agents::shipped(),
            },
            lease_ttl: LEASE_TTL,
            answers: count(chat.chat_answers),
            answers_per_user: count(chat.chat_answers_per_user),
            waiting: count(chat.chats_waiting),
            waiting_per_user: count(chat.chats_waiting_per_user),
            chats: count(chat.chats),
            interval: Duration::from_millis(u64::from(chat.chunk_interval)),
            drain: Duration::from_secs(chat.chat_drain),
            investigation: chat.investigation.options(),
        })
    }
}

impl TryFrom<OrchestratorArgs> for Options {
    type Error = String;

    fn try_from(args: OrchestratorArgs) -> Result<Self, String> {
        Ok(Self {
            lease_ttl: Duration::from_secs(args.lease_ttl),
            ..Self::new(args.bus.into(), &args.chat)?
        })
    }
}

fn count(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
