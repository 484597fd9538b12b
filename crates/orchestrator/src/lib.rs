//! The orchestrator: holds people's chats with agents, has providers write the
//! answers, and keeps each chat as a log that outlives any process.
//!
//! | direction | subject |
//! |---|---|
//! | in | `svc.orchestrator.<shard>.chat`: start, message, cancel, join |
//! | out | `log.chat.<user>.<session>`: the chat's log, which the server repeats on `live.log.chat.<user>.<session>` |
//! | out | `svc.relay.<shard>.command`: commands that tools run on agents, and their ends |
//! | in | `log.term.<command>`: what becomes of those |
//! | out | `tools.<name>`: calls of tools that other programs answer |
//! | both | `$KV.chats.<shard>.<user>.<session>`: that an answer is being written |
//! | out | `events.threat.action_update`, `events.threat.action_decided`: calls of tools that people decide on |
//! | both | `$KV.decisions.<action>`: what was decided on them |
//! | out | `events.threat.investigation_update`: how far an agent is in an investigation |
//! | both | `$KV.investigations.…`, and events: see `investigation` |
//! | both | `$KV.leases.orchestrator.…`: who holds a shard, and which orchestrators live |
//!
//! The messages are those of `proto/signalbox/v1/chat.proto`; what sessions are
//! called and which shard a user is in is in [`signalbox_protocol::chat`].
//!
//! # Who says what, and when
//!
//! **A user starts a chat.** The gateway checks the permission and the limits,
//! draws a nonce, and sends `StartChat` to the shard of the user; without an
//! answer, or on `UNAVAILABLE`, it sends the same again until its patience ends,
//! because nobody serves a shard while it changes hands. The answer `ChatStarted`
//! comes after the log's first record, `ChatOpened`, is stored.
//!
//! **A message.** The gateway sends `ChatMessage`, with the client's message id or
//! one of its own, until it is answered. The answer `ChatAccepted` comes after
//! `ChatAsked` is stored. Everything later is in the log, and gateways show what
//! is in the log and nothing else: `ChatChunk`s, then exactly one of
//! `ChatAnswered`, `ChatFailed` and `ChatStopped`. A session answers one message
//! at a time; another one is refused with `AGENT_BUSY` and nothing is queued. A
//! repeated message id is the same message and gets the same answer number.
//!
//! **Numbers.** The answers of a session are numbered from 1, and the chunks of
//! each answer from 1. Whoever shows an answer shows both numbers, and a client
//! that comes back names both; without an answer's number the last answer is
//! meant. What is retried before anything was visible keeps the answer's number.
//!
//! **Joining.** `JoinChat` says where in CHAT the answer begins. The gateway
//! follows the user's logs **first**, then asks, then reads the log from there to
//! the tip that it was told, and goes on live: records carry numbers, so that
//! nothing is lost or doubled where the two meet.
//!
//! **Cancelling.** `CancelChat` is answered when `ChatStopped` is stored. Nothing
//! else ends an answer: not a closed connection, nor a gateway's end. Tools that
//! run are told to end and have 2 s for it; actions that people are asked about are
//! given up.
//!
//! **Tools.** An answer is a row of rounds, one provider call each. When a model
//! ends its words by asking for tools, its calls are planned, all of them, and the
//! round is settled behind that; then they run side by side, and each has an end
//! before the model is called again with what they gave:
//!
//! ```text
//! ChatCallStarted ChatChunk… ChatToolPlanned… ChatCallSettled
//!   per call: [ChatToolHeld ChatToolDecided] ChatToolStarted [ChatToolNoted…] ChatToolEnded
//!   or, where it never runs: [ChatToolHeld ChatToolDecided] ChatToolEnded
//! ```
//!
//! A call never runs that names a tool which the agent does not have, or the user
//! may not use; whose arguments were cut off, are no JSON, do not fit or are too
//! large; or that is one too many. The reason is its result. Where people decide, the
//! answer gives its place to others and waits, for as long as they may take; the chat
//! is busy meanwhile. That time is not the answer's; the time of tools is.
//!
//! # Take-over
//!
//! A shard's next holder finds what was being written in the bucket `chats`,
//! notes `ChatTaken` and settles the call that was under way, as an estimate. The
//! request is made anew from the rounds that are over: their words, their calls and
//! what these gave. Where no chunk of the round that is not over was stored, the
//! provider is asked again; where some were, a provider that writes the same for the
//! same request goes on behind them, and any other answer ends as `ChatFailed` with
//! AGENT_UNAVAILABLE, keeping what there is. That happens a few times per answer at
//! most, within the answer's budgets and its total time, which count from
//! `ChatAsked`.
//!
//! Of the calls of tools, those that were planned and not started are started, with
//! the arguments in the log and what people have decided on these; those that people
//! are asked about are waited for, and to take over only that is no recovery. One
//! that was started and has no end is never run again: its runner may find out what
//! became of it ([`tools::Runner::adopt`]), or its outcome is unknown, which the
//! model is told. A round whose calls were not all planned yet has those that were:
//! its words were complete, and the model may ask again. Tools of servers that have
//! not said yet what they have are waited for, some seconds at most.
//!
//! A holder that was halted may accept a message after another has taken over,
//! before it finds out. Holders therefore look at the bucket every few seconds,
//! and go on with what nobody writes.
//!
//! # Bounds
//!
//! Chats in memory, answers at once, and answers at once of one user are bounded
//! by options; beyond them a request is refused with AGENT_UNAVAILABLE and may
//! come again. Chats that wait for people are bounded too, of all users and of one, by
//! other options; beyond them a call that needs a decision is refused. A provider is given the latest whole
//! exchanges that fit into 96 KiB, 40 at most. A chunk has at most 16 KiB, an answer
//! 128 KiB. The ids of a chat's last 32 messages are known. A chat goes on for as
//! long as CHAT keeps its first record.
//!
//! An answer has at most 16 rounds, the calls of the last of which are refused, and
//! as many calls of tools as its budget says (32); 8 of a round run at once. A call
//! has arguments of 64 KiB at most, and the time and the bytes that its tool has; the
//! results of an answer have 1 MiB together. What tools give is stored, shown and
//! given to models without anything that terminals obey or that hides words from
//! readers ([`tools::contain`]); to models it is data, between tags that it cannot
//! close.
//!
//! # Invariants
//!
//! - One orchestrator at a time holds a shard, by a lease. Beyond the lease each
//!   log is fenced by its last sequence: one that was stopped for longer can
//!   append nothing any more, whatever it believes.
//! - Nothing is shown or answered before it is stored.
//! - The chunks of an answer, joined, are `full_response` or `partial_response`.
//! - An answer has one end; each `ChatCallStarted` has one `ChatCallSettled`, before
//!   that end; the end's usage is their sum.
//! - Each `ChatToolPlanned` has one `ChatToolEnded`, before the next `ChatCallStarted`
//!   and before the answer's end. All calls of a round are planned before one starts.
//! - A tool runs behind its `ChatToolStarted`, of which there is one at most; where
//!   there is a `ChatToolHeld`, behind a `ChatToolDecided` that approves.
//! - That an answer is being written is in `chats` before `ChatAsked` is in the
//!   log, until its end is.
//!
//! # Modules
//!
//! | module | holds |
//! |---|---|
//! | `shard` | a shard while this orchestrator holds it: requests in, recovery |
//! | `keeper` | one chat: requests about it, and at most one answer at a time |
//! | `session`, `answer` | what a chat's log says |
//! | `chat_log`, `open_turn` | the log and the bucket on the bus |
//! | `turn` | one answer from its question to its end, its tools included |
//! | `coalesce`, `budget`, `usage`, `conversation` | what a turn goes by |
//! | `evidence_log` | events that bear on a question |
//! | [`approval`] | calls of tools that wait for people |
//! | `investigation` | people who work together: who is there, and what they noted |
//! | [`provider`] | the trait of providers, and those that there are |
//! | [`agents`] | `agents.toml` |
//! | [`tools`] | what agents can have looked up and done |
//! | [`analysis`] | the final structured result, its schema and its evidence |
//! | `progress` | what those who follow an investigation are told |

pub mod agents;
pub mod analysis;
mod answer;
pub mod approval;
mod budget;
mod chat_log;
mod coalesce;
mod config;
mod conversation;
mod error;
pub mod evidence;
mod evidence_log;
mod investigation;
mod keeper;
mod metrics;
mod moment;
mod open_turn;
mod progress;
pub mod provider;
mod reply;
mod session;
mod shard;
pub mod tools;
mod turn;
mod usage;

use std::sync::Arc;
use std::time::Duration;

use signalbox_bus::assignment::Assignment;
use signalbox_bus::connection::follow_link;
use signalbox_bus::lease::{self, Leases};
use signalbox_bus::{Bus, key, stream};
use signalbox_service::{Condition, Health, Shutdown, Tasks};
use tokio::sync::Semaphore;
use tracing::info;

use crate::approval::Approvals;
pub use crate::config::{ChatArgs, Options, OrchestratorArgs};
pub use crate::error::Error;
use crate::evidence_log::EvidenceLog;
use crate::investigation::Attendance;
pub use crate::investigation::{InvestigationArgs, InvestigationOptions};
use crate::metrics::Metrics;
use crate::shard::Shared;
use crate::tools::mcp::{Servers, Timing};
use crate::tools::registry::{self, Supplies};
use crate::turn::Means;

/// How long the leases may take to be released once no answer is written.
const RELEASE: Duration = Duration::from_secs(5);
/// How long the orchestrator may be without the bus before it is not ready.
const BUS_ABSENCE: Duration = Duration::from_secs(5);

/// Runs the orchestrator until `shutdown`.
///
/// # Errors
/// When the bus is out of reach at start, or its streams are not as needed.
pub async fn run(options: Options, health: &Health, shutdown: Shutdown) -> Result<(), Error> {
    let ready: Condition = health.condition("orchestrator");
    let bus = Bus::connect(&options.bus, "signalbox-orchestrator").await?;
    stream::verify(&bus, stream::CHAT).await?;
    for name in [
        stream::TOPICS,
        key::CHATS_STREAM,
        key::INVESTIGATIONS_STREAM,
        key::PRESENCE_STREAM,
    ] {
        stream::state(&bus, name).await?;
    }
    lease::verify(&bus).await?;
    let metrics = Metrics::new();
    Metrics::observe_bus(&bus);
    let tasks = Tasks::new(shutdown.clone());
    // In the background: an orchestrator does not wait for servers of others.
    // They end when nobody calls tools any more.
    let over = Shutdown::new();
    let servers = options.agents.servers();
    let servers = Servers::start(servers, Timing::default(), None, &tasks, &over);
    let id = format!("{:016x}", rand::random::<u64>());
    let leases = Leases::new(bus.clone(), &id, options.lease_ttl);
    let approvals = Approvals::open(bus.clone()).await?;
    let watching = approvals.clone();
    tasks.spawn_until_shutdown("decisions", async move { watching.watch().await });
    let supplies = Supplies { bus: bus.clone() };
    let toolbox = registry::toolbox(&options.agents, &supplies).with(Arc::new(servers));
    let (progress, teller) = progress::new();
    // It ends when no turn is left.
    tasks.spawn("progress", teller.run(bus.clone()));
    let shared = Shared {
        bus: bus.clone(),
        agents: Arc::new(options.agents),
        means: Means {
            metrics,
            evidence: EvidenceLog::new(bus.clone()),
            progress,
            toolbox: Arc::new(toolbox),
            approvals,
            waiting: Arc::new(Semaphore::new(options.waiting)),
            interval: options.interval,
        },
        answers: Arc::new(Semaphore::new(options.answers)),
        answers_per_user: options.answers_per_user,
        waiting_per_user: options.waiting_per_user,
        chats: Arc::new(Semaphore::new(options.chats)),
        drain: options.drain,
    };
    let attendance = Arc::new(Attendance::new());
    let (following, followed) = (Arc::clone(&attendance), bus.clone());
    tasks.spawn_until_shutdown("who is in investigations", async move {
        following.follow(followed).await;
    });
    let investigations = investigation::Shared {
        bus: bus.clone(),
        attendance,
        options: options.investigation,
    };
    let parts = investigation::shards();
    let investigations = Assignment::new(bus.clone(), leases.clone(), parts, investigations);
    let stop = shutdown.clone();
    tasks.spawn_critical("investigations assignment", async move {
        if let Err(cause) = investigations.run(stop.wait()).await {
            stop.fail(cause);
        }
    });
    let assignment = Assignment::new(bus.clone(), leases, shard::shards(), shared);
    let stop = shutdown.clone();
    tasks.spawn_critical("orchestrator assignment", async move {
        let outcome = assignment.run(stop.wait()).await;
        over.trigger();
        if let Err(cause) = outcome {
            stop.fail(cause);
        }
    });
    // With or without a share: an orchestrator in reserve is as ready as the others.
    ready.set_ready();
    let following = follow_link(bus.link(), BUS_ABSENCE, move |up| {
        ready.set_ready_if(up, "the bus has been out of reach for 5 s");
    });
    tasks.spawn_until_shutdown("readiness", following);
    info!(orchestrator = %id, "holding chats");
    shutdown.wait().await;
    tasks.drain(options.drain + RELEASE).await;
    bus.drain().await;
    Ok(())
}
