//! Settings of the relay.

use std::time::Duration;

use clap::{Args, value_parser};
use signalbox_bus::{BusArgs, BusOptions};
use signalbox_protocol::fleet::Shard;

use crate::agent::Bounds;
use crate::clock::millis;

/// How long a relay's lease of a shard lasts without renewal.
const LEASE_TTL: Duration = Duration::from_secs(5);
/// The longest that it may be set to last, in seconds.
const LONGEST_LEASE_TTL: u64 = 3_600;
/// Bytes that one agent's commands may take of its document, which is far below
/// what the bus takes as one message then.
const COMMAND_BYTES: usize = 1024 * 1024;
const MIB: u64 = 1024 * 1024;

/// Command line and environment of the relay.
#[derive(Args, Clone, Debug)]
pub struct RelayArgs {
    /// The bus
    #[command(flatten)]
    pub bus: BusArgs,
    /// Settings that `up` shares
    #[command(flatten)]
    pub fleet: FleetArgs,
    /// Seconds after which another relay takes over from one that is gone
    #[arg(long, env = "SIGNALBOX_LEASE_TTL", default_value_t = LEASE_TTL.as_secs(),
        value_name = "SECONDS", value_parser = value_parser!(u64).range(1..=LONGEST_LEASE_TTL))]
    pub lease_ttl: u64,
}

/// How agents and their commands are treated.
#[derive(Args, Clone, Debug)]
pub struct FleetArgs {
    /// Seconds that a lost agent may take to return before its commands are given up
    #[arg(
        long = "agent-grace",
        env = "SIGNALBOX_AGENT_GRACE",
        default_value_t = 120,
        value_name = "SECONDS"
    )]
    pub grace: u64,
    /// Milliseconds between the signs of life that a gateway gives of its agents; one that is silent for three of them has lost its agents
    #[arg(long, env = "SIGNALBOX_AGENT_BEAT", default_value_t = 2_000, value_name = "MS",
        value_parser = value_parser!(u32).range(50..))]
    pub agent_beat: u32,
    /// Milliseconds after which a waiting command goes next, whatever its priority
    #[arg(
        long,
        env = "SIGNALBOX_LOW_PRIORITY_BOUND",
        default_value_t = 300_000,
        value_name = "MS"
    )]
    pub low_priority_bound: u64,
    /// Commands that may wait for one agent; further ones are refused
    #[arg(
        long,
        env = "SIGNALBOX_COMMAND_QUEUE",
        default_value_t = 100,
        value_name = "COUNT"
    )]
    pub command_queue: usize,
    /// MiB of output that are kept of one command; what goes beyond is counted and left out
    #[arg(long, env = "SIGNALBOX_OUTPUT_MIB", default_value_t = 64, value_name = "MIB",
        value_parser = value_parser!(u64).range(1..=65_536))]
    pub output_mib: u64,
    /// MiB of memory for output that is not stored yet; agents are slowed down beyond it
    #[arg(long, env = "SIGNALBOX_OUTPUT_MEMORY_MIB", default_value_t = 256, value_name = "MIB",
        value_parser = value_parser!(u64).range(16..=65_536))]
    pub output_memory_mib: u64,
    /// Seconds that an agent may take to confirm an emergency stop
    #[arg(
        long,
        env = "SIGNALBOX_CONFIRM_WITHIN",
        default_value_t = 10,
        value_name = "SECONDS"
    )]
    pub confirm_within: u64,
    /// Agents that are known at most, a sixteenth of them in each shard; further ones are refused
    #[arg(long, env = "SIGNALBOX_MOST_AGENTS", default_value_t = 65_536, value_name = "COUNT",
        value_parser = value_parser!(u32).range(16..))]
    pub most_agents: u32,
    /// Days that an agent is known after it was seen last
    #[arg(
        long,
        env = "SIGNALBOX_AGENT_MEMORY_DAYS",
        default_value_t = 7,
        value_name = "DAYS"
    )]
    pub agent_memory_days: u64,
}

/// Settings of the relay, validated.
#[derive(Clone, Debug)]
pub struct Options {
    /// The bus.
    pub bus: BusOptions,
    /// How long the lease of a shard lasts without renewal, in whole seconds.
    pub lease_ttl: Duration,
    /// How often gateways give signs of life of their agents.
    pub beat: Duration,
    /// Bytes of output that are kept of one command.
    pub output_bytes: u64,
    /// Bytes of output that may be in memory.
    pub output_memory: u64,
    /// Agents that may be known in one shard.
    pub agents_per_shard: usize,
    pub(crate) bounds: Bounds,
}

/// Missed beats after which a session is over.
const BEATS: u32 = 3;

impl Options {
    /// The settings with this bus.
    #[must_use]
    pub fn new(bus: BusOptions, fleet: &FleetArgs) -> Self {
        let beat = Duration::from_millis(u64::from(fleet.agent_beat));
        Self {
            bus,
            lease_ttl: LEASE_TTL,
            beat,
            output_bytes: fleet.output_mib * MIB,
            output_memory: fleet.output_memory_mib * MIB,
            agents_per_shard: fleet.most_agents as usize / Shard::COUNT,
            bounds: Bounds {
                queue: fleet.command_queue,
                bytes: COMMAND_BYTES,
                due_ms: fleet.low_priority_bound,
                grace_ms: fleet.grace.saturating_mul(1_000),
                silence_ms: millis(beat * BEATS),
                confirm_ms: fleet.confirm_within.saturating_mul(1_000),
                memory_ms: fleet.agent_memory_days.saturating_mul(86_400_000),
            },
        }
    }
}

impl From<RelayArgs> for Options {
    fn from(args: RelayArgs) -> Self {
        Self {
            lease_ttl: Duration::from_secs(args.lease_ttl),
            ..Self::new(args.bus.into(), &args.fleet)
        }
    }
}
