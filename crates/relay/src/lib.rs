//! The relay: takes commands for agents, keeps them in queues until an agent
//! can run them, and writes what becomes of each into a log of its own.
//!
//! | direction | subject |
//! |---|---|
//! | in | `svc.relay.<shard>.command`: run, interrupt, clear, input, resize |
//! | in | `svc.relay.<shard>.agent`: what agents report, through their gateways |
//! | in | `svc.relay.<shard>.snapshot`, `svc.relay.emergency` |
//! | out | `svc.agents.<gateway>`: what agents are told |
//! | out | `log.term.<command>`: the command's log, which the server repeats on `live.log.term.<command>` |
//! | out | `live.fleet.<shard>`: agents and queues as they change |
//! | out | `events.agent.connected`, `.disconnected`, `.status_changed` |
//! | both | `$KV.agents.<shard>.<agent>`: all that must last about an agent |
//! | both | `$KV.fleet.stop`: the emergency stop |
//! | both | `$KV.leases.relay.…`: who holds a shard, and which relays live |
//!
//! The messages are those of `proto/signalbox/v1/relay.proto`; ids and shards
//! are in [`signalbox_protocol::fleet`].
//!
//! # Who says what, and when
//!
//! **A user asks for a command.** The gateway checks the permission, draws a
//! nonce, and sends `RunCommand` to the shard of the agent; without an answer
//! it sends the same again until its patience ends (5 s), because nobody serves
//! a shard while it changes hands. The answer `CommandAccepted` comes after the
//! command is stored. Everything later is in the command's log: `TermQueued`
//! first, `TermStarted`, output, and `TermEnded` last. Positions and waiting
//! times that change later are in `QueueState` on `live.fleet.<shard>`. Other
//! verbs go to the shard that the command's id names, or to that of the agent.
//! An orchestrator asks likewise, for a tool of a chat; its key is the call's name.
//! On a time-out the gateway also sends `InterruptCommand` for the id that the
//! nonce makes: the command may have been accepted, and only the answer lost.
//!
//! **An agent connects.** The gateway draws a connection id and sends
//! `AgentConnected` until it is answered. From `SessionOpened` on the connection
//! is the agent's; a former one is told `ReplacedConnection`. Then the gateway
//! sends `GatewayBeat` to each shard that it has agents of, at the interval that
//! the answer names. A beat is also how a relay that has just taken over learns
//! whom it has: a connection that it does not know comes back as `unknown`, and
//! the gateway announces it anew.
//!
//! **A command runs.** The relay stores that it is about to, then sends
//! `ExecuteCommand` to the agent's gateway until that answers. The command
//! counts as running when the agent says so (`CommandStatus`, output, or its
//! end), or when the frame is delivered to an agent that keeps no journal. An
//! agent without a journal gets a command once; what became of it is asked of
//! nobody when the connection breaks, so that nothing runs twice.
//!
//! **Output** goes in `TerminalOutput`, with byte offsets per command and
//! stream; `OutputTaken` says up to where all is stored on the bus, and the
//! gateway passes that on to agents that take `terminal:ack`. The gateway bounds
//! what is under way for a connection (1 MiB is ample) and stops to read from
//! the agent when that is full: so a bus or relay that is slow slows the agent,
//! and fills no memory. On `later_ms`, on no answer, and on an answer that lies
//! before what was sent, it sends again from the acknowledged offset.
//! `CommandComplete` follows the last acknowledgement.
//!
//! **An agent is lost**: the gateway says so, or its beats stop. The agent is
//! offline at once. What it runs goes on there; when it is back within the grace
//! it lists its commands and goes on with them, else they are `failed` with the
//! reason `agent_lost`. One that it had started and no longer knows is `failed`,
//! `outcome_unknown`; one that it has never got is sent again. An agent that
//! does not list commands is believed to run them still, unless it says nothing
//! of them for as long as the grace.
//!
//! **Emergency stop.** The lock is stored first, then answered. Relays watch it:
//! they end what waits (`interrupted`, reason `emergency_stop`), tell every
//! agent, interrupt what runs, and refuse new commands until the lock is lifted.
//! `AgentState.stop` says for each agent whether it is confirmed.
//!
//! # Following the fleet
//!
//! A gateway with dashboards subscribes to `live.fleet.*` and
//! `live.log.term.*` **first**, then asks each shard for its snapshot, applies
//! updates with a higher number, and reads the logs of the running commands from
//! their beginning (or the last `TermCleared`). An update whose number does not
//! follow, or another term, means: ask that shard again. An update says all
//! about its subject, so that nothing is lost by applying it twice. Logs are read
//! with `signalbox_bus::log`, which finds their gaps itself.
//!
//! # Invariants
//!
//! - One relay at a time holds a shard, by a lease. What an agent's holder may
//!   write is fenced beyond it: the agent's document by its revision, each log by
//!   its last sequence, what is told to agents by the holder's term.
//! - Nothing is answered, told or written into a log before the agent's document
//!   that implies it is stored; whoever takes over does what the document implies
//!   and is not done.
//! - A command is in its agent's document until its end is in its log.

mod agent;
mod answer;
mod clock;
mod config;
mod courier;
mod emergency;
mod error;
mod fleet;
mod holder;
mod metrics;
mod output;
mod publisher;
mod queue;
mod recorder;
mod reread;
mod shard;

use std::sync::Arc;
use std::time::Duration;

use signalbox_bus::assignment::Assignment;
use signalbox_bus::connection::follow_link;
use signalbox_bus::lease::{self, Leases};
use signalbox_bus::{Bus, key, stream};
use signalbox_service::{Condition, Health, Shutdown, Tasks};
use tokio::sync::{Semaphore, watch};
use tracing::info;

use crate::clock::Clock;
pub use crate::config::{FleetArgs, Options, RelayArgs};
pub use crate::error::Error;
use crate::holder::Shared;
use crate::metrics::Metrics;
use crate::reread::REREADS;
use crate::shard::Post;

/// How long the leases may take to be released.
const RELEASE: Duration = Duration::from_secs(5);
/// How long the relay may be without the bus before it is not ready.
const BUS_ABSENCE: Duration = Duration::from_secs(5);
const KIB: u64 = 1024;

/// Runs the relay until `shutdown`.
///
/// # Errors
/// When the bus is out of reach at start, or its streams are not as needed.
pub async fn run(options: Options, health: &Health, shutdown: Shutdown) -> Result<(), Error> {
    let ready: Condition = health.condition("relay");
    let bus = Bus::connect(&options.bus, "signalbox-relay").await?;
    stream::verify(&bus, stream::TERM).await?;
    for name in [key::AGENTS_STREAM, key::FLEET_STREAM] {
        stream::state(&bus, name).await?;
    }
    lease::verify(&bus).await?;
    let metrics = Metrics::new();
    Metrics::observe_bus(&bus);
    let tasks = Tasks::new(shutdown.clone());
    let id = format!("{:016x}", rand::random::<u64>());
    // Known before anything starts: an emergency stop outlives all relays.
    let (lock_sender, lock) = watch::channel(emergency::read(&bus).await?);
    let memory = usize::try_from(options.output_memory / KIB).unwrap_or(usize::MAX);
    let shared = Shared {
        bus: bus.clone(),
        metrics,
        clock: Clock::start(),
        bounds: options.bounds,
        beat: options.beat,
        output_bytes: options.output_bytes,
        agents_per_shard: options.agents_per_shard,
        memory: Arc::new(Semaphore::new(memory.min(Semaphore::MAX_PERMITS))),
        rereads: Arc::new(Semaphore::new(REREADS)),
        lock,
    };
    let (of_stop, stop) = (bus.clone(), shutdown.clone());
    tasks.spawn("emergency stop", async move {
        tokio::select! {
            () = emergency::follow(of_stop.clone(), lock_sender) => {}
            () = emergency::serve(of_stop) => {}
            () = stop.wait() => {}
        }
    });
    let leases = Leases::new(bus.clone(), &id, options.lease_ttl);
    let assignment = Assignment::new(bus.clone(), leases, shard::shards(), Post(shared));
    let stop = shutdown.clone();
    tasks.spawn_critical("relay assignment", async move {
        if let Err(cause) = assignment.run(stop.wait()).await {
            stop.fail(cause);
        }
    });
    // With or without a share: a relay in reserve is as ready as the others.
    ready.set_ready();
    let following = follow_link(bus.link(), BUS_ABSENCE, move |up| {
        ready.set_ready_if(up, "the bus has been out of reach for 5 s");
    });
    tasks.spawn_until_shutdown("readiness", following);
    info!(relay = %id, "relaying");
    shutdown.wait().await;
    tasks.drain(RELEASE).await;
    bus.drain().await;
    Ok(())
}
