//! The holder of one agent: brings requests, reports and time to the agent's
//! state, stores what has changed, and then does what that demands.
//!
//! Its order is its promise: document first, then logs and deliveries, then what
//! dashboards see, then answers.

mod requests;
mod telling;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use signalbox_bus::document::Document as Stored;
use signalbox_bus::fenced::FenceError;
use signalbox_bus::trace::{Span, TraceContext};
use signalbox_bus::{Bus, key};
use signalbox_protocol::wire::{
    AgentReport, AgentState, CommandReply, CommandRequest, EmergencyState, QueueState, agent_reply,
    command_reply,
};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

use crate::agent::{Agent, Announcement, Bounds, Document, Effect, Phase};
use crate::answer::Answer;
use crate::clock::Clock;
use crate::courier::{self, Courier, Numbers, Parcel, Purpose, Told};
use crate::metrics::Metrics;
use crate::recorder::{self, Entry, Recorded, Recorder};

/// Things that wait for one agent; beyond it requests are dropped, and come again.
pub(crate) const INPUT_CAPACITY: usize = 1_024;
/// Things that are taken in before the document is stored.
const BATCH: usize = 32;
/// How long an agent's metrics wait for the next ones at most.
const METRICS_PAUSE: Duration = Duration::from_millis(200);
/// Connections that want to take another's place and have said so once; beyond it
/// the oldest has to begin again.
const CANDIDATE_CAPACITY: usize = 8;
/// How long nothing may happen before it is looked whether time demands something.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// What recorders and couriers have told and is not taken in; they wait then. More
/// than an agent can have commands, or a recorder that waits might be waited for.
const TOLD_CAPACITY: usize = 4_096;

/// What all holders share.
#[derive(Clone)]
pub(crate) struct Shared {
    /// The bus.
    pub(crate) bus: Bus,
    /// What is counted.
    pub(crate) metrics: Metrics,
    /// The time.
    pub(crate) clock: Clock,
    /// What bounds an agent.
    pub(crate) bounds: Bounds,
    /// How often gateways are to say that agents are there.
    pub(crate) beat: Duration,
    /// Bytes of output that one log takes.
    pub(crate) output_bytes: u64,
    /// Agents that may be known in one shard.
    pub(crate) agents_per_shard: usize,
    /// Memory for output, in KiB.
    pub(crate) memory: Arc<Semaphore>,
    /// Turns to read a log again.
    pub(crate) rereads: Arc<Semaphore>,
    /// The emergency stop.
    pub(crate) lock: watch::Receiver<EmergencyState>,
}

/// What an agent's holder is to see to.
pub(crate) enum Input {
    /// A user's request.
    Command(CommandRequest, Answer, Option<TraceContext>),
    /// An agent's report.
    Report(AgentReport, Answer),
    /// Its gateway has said that this connection is there.
    Beat(String),
    /// Its events up to this one are published.
    Published(u64),
    /// Nothing could be heard for a while.
    Relinked,
}

/// What a holder tells its shard.
pub(crate) enum Change {
    /// The agent is another than before.
    Agent {
        /// What dashboards see.
        state: AgentState,
        /// The connection that is the agent's.
        connection: Option<String>,
    },
    /// Other commands wait than before, or in another order.
    Queue(QueueState),
    /// Its terminal was cleared while nothing ran.
    Cleared {
        /// Which agent.
        agent_id: String,
        /// By whom; empty = the agent.
        by: String,
    },
    /// Something is to be published as an event.
    Event {
        /// Of which agent.
        agent_id: String,
        /// What tells its events apart from those of all others.
        id: String,
        /// What it tells.
        announcement: Announcement,
        /// What else it tells.
        version: String,
    },
}

/// Why a holder has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Another holds the agent.
    Superseded,
    /// The bus does not take the agent's document: the next holder goes on with
    /// what is stored.
    Unstored,
    /// The agent is forgotten.
    Forgotten,
}

/// An answer that is sent once what it says is stored.
enum Reply {
    /// To a user, with the step of the trace that ends with it.
    Command(Answer, command_reply::Outcome, Option<Span>),
    Report(Answer, agent_reply::Outcome),
}

/// Both ends of what tasks tell their holder.
type Channel<T> = (mpsc::Sender<T>, mpsc::Receiver<T>);

/// An agent that this relay holds.
pub(crate) struct Holder {
    shared: Shared,
    agent: Agent,
    agent_id: String,
    document: Stored,
    numbers: Numbers,
    changes: mpsc::Sender<Change>,
    inputs: mpsc::Receiver<Input>,
    recorders: HashMap<String, Recorder>,
    courier: Option<(String, Courier)>,
    tasks: JoinSet<()>,
    recorded: Channel<Recorded>,
    told: Channel<(String, Told)>,
    replies: Vec<Reply>,
    shown: Option<AgentState>,
    shown_connection: Option<String>,
    shown_queue: Option<QueueState>,
    /// When metrics alone may be shown next.
    metrics_at: Instant,
    /// Connections that want to take another's place, and since when.
    candidates: VecDeque<(String, u64)>,
    /// When it was warned last of a request that came too late.
    late: Option<Instant>,
    /// Events that are not in the document.
    passing: u64,
    published: u64,
}

impl Holder {
    /// The holder of the agent in a document of its, which it has made its own:
    /// the revision of that is its term.
    pub(crate) fn new(
        shared: Shared,
        document: Document,
        stored: Stored,
        changes: mpsc::Sender<Change>,
        inputs: mpsc::Receiver<Input>,
    ) -> Self {
        let now = shared.clock.now_ms();
        let agent_id = document.agent_id.clone();
        Self {
            agent: Agent::new(document, shared.bounds, now),
            agent_id,
            numbers: Numbers::new(stored.revision()),
            document: stored,
            shared,
            changes,
            inputs,
            recorders: HashMap::new(),
            courier: None,
            tasks: JoinSet::new(),
            recorded: mpsc::channel(TOLD_CAPACITY),
            told: mpsc::channel(TOLD_CAPACITY),
            replies: Vec::new(),
            shown: None,
            shown_connection: None,
            shown_queue: None,
            metrics_at: Instant::now(),
            candidates: VecDeque::new(),
            late: None,
            passing: 0,
            published: 0,
        }
    }

    /// Holds the agent until another does, or nothing is left to hold. Cancelling
    /// leaves everything to the next holder.
    pub(crate) async fn run(mut self) -> Ended {
        let now = self.now();
        self.agent.recover(now);
        let mut lock = self.shared.lock.clone();
        let state = lock.borrow_and_update().clone();
        self.agent.emergency(&state, now);
        loop {
            let now = self.now();
            self.agent.tick(now);
            match self.settle().await {
                Ok(()) => {}
                Err(FenceError::Overtaken(_)) => {
                    self.shared.metrics.fenced.add(1);
                    info!(agent = %self.agent_id, "another holds the agent");
                    return Ended::Superseded;
                }
                Err(FenceError::Refused(cause)) => {
                    // Bounded far below what the bus takes.
                    error!(agent = %self.agent_id, %cause, "document not stored");
                    return Ended::Unstored;
                }
            }
            if self.agent.is_forgettable(self.now()) && self.recorders.is_empty() {
                return match self.document.remove().await {
                    Ok(_) => Ended::Forgotten,
                    Err(_) => Ended::Superseded,
                };
            }
            let wake = self.next_wake();
            tokio::select! {
                Some(input) = self.inputs.recv() => {
                    self.take(input).await;
                    for _ in 1..BATCH {
                        let Ok(input) = self.inputs.try_recv() else { break };
                        self.take(input).await;
                    }
                }
                Some(recorded) = self.recorded.1.recv() => match recorded {
                    Recorded::Ended(id) => {
                        self.shared.metrics.ended.add(1);
                        self.agent.recorded(&id);
                        // Its task goes on for as long as the tip is told.
                        self.recorders.remove(&id);
                    }
                    Recorded::Superseded => return Ended::Superseded,
                },
                Some((connection, told)) = self.told.1.recv() => {
                    if self.take_told(&connection, told) {
                        return Ended::Superseded;
                    }
                }
                Ok(()) = lock.changed() => {
                    let state = lock.borrow_and_update().clone();
                    self.agent.emergency(&state, self.shared.clock.now_ms());
                }
                Some(ended) = self.tasks.join_next() => {
                    if let Err(cause) = ended && cause.is_panic() {
                        error!(agent = %self.agent_id, "a task of the agent panicked");
                        return Ended::Superseded;
                    }
                }
                () = sleep_until(wake) => {}
            }
        }
    }

    fn now(&self) -> u64 {
        self.shared.clock.now_ms()
    }

    fn next_wake(&self) -> Instant {
        let now = self.now();
        let tick = self
            .agent
            .next_tick_ms(now)
            .map(|at| self.shared.clock.at(at.max(now + 1)));
        let longest = Instant::now() + LONGEST_SLEEP;
        let mut wake = tick.map_or(longest, |tick| tick.min(longest));
        if self.has_metrics_to_show() {
            wake = wake.min(self.metrics_at);
        }
        wake
    }

    /// Takes what a courier has told; gives whether another holds the agent.
    fn take_told(&mut self, connection: &str, told: Told) -> bool {
        let now = self.now();
        match told {
            Told::Executed(id, delivered) => self.agent.executed(&id, connection, delivered, now),
            Told::Stopped(stop_id) => self.agent.emergency_told(&stop_id),
            Told::Gone => self.agent.lose(connection, now),
            Told::Superseded => {
                warn!(agent = %self.agent_id, "another holder speaks to the agent");
                return true;
            }
        }
        false
    }

    /// Stores what has changed, then does what it demands, shows it, and answers;
    /// nothing of that where it is not stored.
    async fn settle(&mut self) -> Result<(), FenceError> {
        if self.agent.take_change() {
            let body = serde_json::to_vec(self.agent.document())
                .expect("a document has nothing that JSON cannot express");
            self.document.write(body.into()).await?;
        }
        for effect in self.agent.take_effects() {
            self.carry_out(effect).await;
        }
        self.show().await;
        for reply in std::mem::take(&mut self.replies) {
            match reply {
                Reply::Command(answer, outcome, span) => {
                    let outcome = Some(outcome);
                    answer.send(&CommandReply { outcome }).await;
                    drop(span);
                }
                Reply::Report(answer, outcome) => answer.report(outcome).await,
            }
        }
        Ok(())
    }

    async fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Execute(id) => self.execute(&id),
            Effect::Interrupt(id) => self.tell_interrupt(id),
            Effect::Emergency => self.tell_emergency(),
            Effect::Replace(session) => {
                let (bus, agent_id) = (self.shared.bus.clone(), self.agent_id.clone());
                let told = courier::tell_replaced(bus, agent_id, session, self.numbers.clone());
                self.tasks.spawn(told);
            }
            Effect::Record(id) => self.record(&id).await,
            Effect::Clear { by } => self.record_clear(by).await,
            Effect::Announce => self.publish_announcements().await,
        }
    }

    /// The recorder of a command's log, begun if need be.
    fn recorder(&mut self, id: &str) -> Recorder {
        if let Some(recorder) = self.recorders.get(id) {
            return recorder.clone();
        }
        let (recorder, task) = recorder::recorder(
            self.shared.bus.clone(),
            self.shared.metrics.clone(),
            (&self.agent_id, id),
            self.numbers.term,
            self.shared.output_bytes,
            Arc::clone(&self.shared.rereads),
            self.recorded.0.clone(),
        );
        self.tasks.spawn(task.run());
        self.recorders.insert(id.to_owned(), recorder.clone());
        recorder
    }

    async fn record(&mut self, id: &str) {
        let Some(command) = self.agent.command(id).cloned() else {
            return;
        };
        let recorder = self.recorder(id);
        recorder.insist(Entry::State(Box::new(command))).await;
    }

    /// The courier of the agent's connection, begun if need be; none without a
    /// connection.
    fn courier(&mut self) -> Option<&Courier> {
        let session = self.agent.document().session.clone()?;
        let is_current = |known: &(String, Courier)| known.0 == session.connection;
        if !self.courier.as_ref().is_some_and(is_current) {
            let connection = session.connection.clone();
            let (courier, task) = courier::courier(
                self.shared.bus.clone(),
                self.shared.metrics.clone(),
                &self.agent_id,
                session,
                self.numbers.clone(),
                self.told.0.clone(),
            );
            // The former one ends with what it was given, or at its next parcel.
            self.tasks.spawn(task.run());
            self.courier = Some((connection, courier));
        }
        self.courier.as_ref().map(|(_, courier)| courier)
    }

    /// Has the connection told something that must not be left out.
    fn tell(&mut self, parcel: Parcel) {
        let Some(courier) = self.courier() else {
            return;
        };
        if courier.send(parcel).is_err() {
            // So much waits only for a gateway that does not answer.
            let now = self.now();
            if let Some(session) = self.agent.document().session.clone() {
                warn!(agent = %self.agent_id, "the agent's gateway takes nothing, agent lost");
                self.agent.lose(&session.connection, now);
            }
        }
    }

    fn execute(&mut self, id: &str) {
        let session = self.agent.document().session.as_ref();
        let Some(connection) = session.map(|session| session.connection.clone()) else {
            return;
        };
        let Some(command) = self.agent.command(id) else {
            return;
        };
        let is_ours = |phase: &Phase| matches!(phase, Phase::Starting { connection: on } if *on == connection);
        if is_ours(&command.phase) {
            let parcel = Parcel {
                delivery: telling::execute(command),
                purpose: Purpose::Execute(id.to_owned()),
                trace: command.trace.clone(),
            };
            self.tell(parcel);
        }
    }

    fn tell_interrupt(&mut self, id: String) {
        let interrupt = self
            .agent
            .command(&id)
            .and_then(|one| one.interrupt.clone());
        let delivery = telling::interrupt(id, interrupt.map(|one| one.by).unwrap_or_default());
        let purpose = Purpose::Interrupt;
        self.tell(Parcel::new(delivery, purpose));
    }

    fn tell_emergency(&mut self) {
        let state = self.shared.lock.borrow().clone();
        let under = self.agent.document().stop.as_ref();
        let purpose = Purpose::Emergency(under.map_or_else(String::new, |stop| stop.id.clone()));
        let delivery = telling::emergency(state);
        self.tell(Parcel::new(delivery, purpose));
    }
}

/// Makes an agent's document this relay's; gives what is in it then.
///
/// # Errors
/// When the bus refuses it.
pub(crate) async fn claim(
    bus: &Bus,
    mut document: Document,
    mut revision: u64,
) -> Result<(Document, Stored), FenceError> {
    loop {
        let subject = key::agent(&document.agent_id);
        let mut stored = Stored::new(bus.clone(), key::AGENTS_STREAM, subject, revision);
        let body =
            serde_json::to_vec(&document).expect("a document has nothing that JSON cannot express");
        match stored.write(body.into()).await {
            Ok(_) => return Ok((document, stored)),
            // The former holder was faster once more.
            Err(FenceError::Overtaken(Some(tip))) => {
                revision = tip.sequence;
                if let Ok(newer) = serde_json::from_slice(&tip.payload) {
                    document = newer;
                }
            }
            Err(refused) => return Err(refused),
        }
    }
}
