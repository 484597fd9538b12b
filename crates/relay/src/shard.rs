//! The holder of one shard: reads what is stored of its agents, has each held by
//! a task, hands requests and reports to them, and keeps what dashboards see.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::{Message, Subscriber};
use futures_util::StreamExt as _;
use prost::Message as _;
use signalbox_bus::assignment::{Hold, Left, Parts, Work};
use signalbox_bus::lease::Tenure;
use signalbox_bus::trace::TraceContext;
use signalbox_bus::{BusError, document, key, subject};
use signalbox_protocol::fleet::Shard;
use signalbox_protocol::wire::{
    AgentReport, AgentStatus, BeatHeard, CommandError, CommandRefusal, CommandRequest,
    FleetSnapshot, GatewayBeat, agent_reply, agent_report, command_request, fleet_update,
};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::{debug, error, info, warn};

use crate::agent::Document;
use crate::answer::Answer;
use crate::fleet::Fleet;
use crate::holder::{Change, Ended, Holder, INPUT_CAPACITY, Input, Shared, claim};
use crate::publisher::Publisher;

/// Changes that are not shown yet; holders wait then.
const CHANGE_CAPACITY: usize = 1_024;
/// How often the shard says where it is.
const TIP: Duration = Duration::from_secs(1);
/// Documents that are made this relay's at once.
const CLAIMS: usize = 32;
/// The pause before a shard that could not be read is tried again.
const PAUSE: Duration = Duration::from_millis(200);
/// The longest id of an agent.
const MOST_ID_BYTES: usize = 128;

/// The shards, one relay for each.
pub(crate) fn shards() -> Parts<Shard> {
    Parts {
        service: "relay",
        all: Shard::all().collect(),
        lease: key::relay_lease,
        member: key::relay_member,
        is_member: key::is_relay_member,
    }
}

/// Holds shards; what all of them need.
#[derive(Clone)]
pub(crate) struct Post(pub(crate) Shared);

impl Work<Shard> for Post {
    /// Whatever is under way when the shard is given away is the next holder's.
    async fn hold(&self, hold: Hold<Shard>) -> Left {
        let term = hold.generation.to_string();
        let holding = Holding::new(hold.part, self.0.clone(), hold.tenure, term);
        tokio::select! {
            () = hold.stop.wait() => Left::Done,
            left = holding.run() => left,
        }
    }
}

/// A shard that this relay holds.
pub(crate) struct Holding {
    shard: Shard,
    shared: Shared,
    tenure: Tenure,
    fleet: Fleet,
    holders: HashMap<String, mpsc::Sender<Input>>,
    tasks: JoinSet<(String, Ended)>,
    changes: (mpsc::Sender<Change>, mpsc::Receiver<Change>),
    publisher: Publisher,
}

impl Holding {
    /// Holds the shard, for as long as `tenure` lasts, as its holder `term`.
    pub(crate) fn new(shard: Shard, shared: Shared, tenure: Tenure, term: String) -> Self {
        Self {
            fleet: Fleet::new(shard, term),
            publisher: Publisher::new(shared.bus.clone()),
            shard,
            shared,
            tenure,
            holders: HashMap::new(),
            tasks: JoinSet::new(),
            changes: mpsc::channel(CHANGE_CAPACITY),
        }
    }

    /// Serves the shard until it is another's. Cancelling ends everything that
    /// belongs to it.
    pub(crate) async fn run(mut self) -> Left {
        self.shared.metrics.of(self.shard).held.set(1);
        while let Err(cause) = self.take_over().await {
            debug!(shard = %self.shard, %cause, "shard not taken over yet");
            sleep(PAUSE).await;
        }
        let mut subscriptions = loop {
            match self.subscribe().await {
                Ok(subscriptions) => break subscriptions,
                Err(cause) => {
                    debug!(shard = %self.shard, %cause, "shard not served yet");
                    sleep(PAUSE).await;
                }
            }
        };
        info!(shard = %self.shard, agents = self.holders.len(), "shard served");
        let mut tips = interval(TIP);
        tips.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut lock = self.shared.lock.clone();
        let mut link = self.shared.bus.link();
        let [commands, agents, snapshots] = &mut subscriptions;
        loop {
            tokio::select! {
                // What has changed comes first: whoever asks next may have been
                // told of it.
                biased;
                Some(change) = self.changes.1.recv() => self.show(change).await,
                Some((agent_id, number)) = self.publisher.published() => {
                    if let Some(holder) = self.holders.get(&agent_id) {
                        holder.try_send(Input::Published(number)).ok();
                    }
                }
                Some(ended) = self.tasks.join_next() => {
                    if self.note_end(ended).await {
                        return Left::Superseded;
                    }
                }
                Ok(()) = lock.changed() => {
                    let state = lock.borrow_and_update().clone();
                    self.fleet.set_emergency(&state);
                    self.publish(fleet_update::Change::Emergency(state)).await;
                }
                Ok(()) = link.changed() => {
                    link.borrow_and_update();
                    for holder in self.holders.values() {
                        holder.try_send(Input::Relinked).ok();
                    }
                }
                _ = tips.tick() => self.tell_tip().await,
                message = snapshots.next() => match message {
                    Some(message) => self.snapshot(message).await,
                    None => return Left::Broken,
                },
                message = agents.next() => match message {
                    Some(message) => self.hear(message).await,
                    None => return Left::Broken,
                },
                message = commands.next() => match message {
                    Some(message) => self.command(message).await,
                    None => return Left::Broken,
                },
            }
            if self.tenure.is_over() {
                return Left::Superseded;
            }
        }
    }

    /// Reads the shard's agents and makes them this relay's.
    async fn take_over(&mut self) -> Result<(), BusError> {
        let bus = self.shared.bus.clone();
        let filter = key::agents_of(self.shard);
        let found = document::read_all(&bus, key::AGENTS_STREAM, &filter).await?;
        let claims = found.into_iter().filter_map(|found| {
            match serde_json::from_slice::<Document>(&found.payload) {
                Ok(known) => Some(claim(&bus, known, found.sequence)),
                Err(cause) => {
                    error!(subject = %found.subject, %cause, "unreadable agent, left alone");
                    None
                }
            }
        });
        let claimed: Vec<_> = futures_util::stream::iter(claims)
            .buffer_unordered(CLAIMS)
            .collect()
            .await;
        for claim in claimed {
            match claim {
                Ok((known, stored)) => {
                    self.hold(known, stored);
                }
                Err(cause) => error!(shard = %self.shard, %cause, "agent not taken over"),
            }
        }
        let state = self.shared.lock.borrow().clone();
        self.fleet.set_emergency(&state);
        Ok(())
    }

    fn hold(&mut self, known: Document, stored: document::Document) -> mpsc::Sender<Input> {
        let (inputs, receiver) = mpsc::channel(INPUT_CAPACITY);
        let agent_id = known.agent_id.clone();
        let changes = self.changes.0.clone();
        let holder = Holder::new(self.shared.clone(), known, stored, changes, receiver);
        self.holders.insert(agent_id.clone(), inputs.clone());
        self.tasks
            .spawn(async move { (agent_id, holder.run().await) });
        inputs
    }

    async fn subscribe(&self) -> Result<[Subscriber; 3], BusError> {
        let client = self.shared.bus.client();
        let serve = async |subject: String| {
            let subscribed = client.subscribe(subject.clone()).await;
            subscribed.map_err(|error| BusError::Api {
                action: format!("serve {subject}"),
                cause: error.to_string(),
            })
        };
        Ok([
            serve(subject::relay_commands(self.shard)).await?,
            serve(subject::relay_agents(self.shard)).await?,
            serve(subject::relay_snapshot(self.shard)).await?,
        ])
    }

    /// Takes note that an agent is not held any more; gives whether the shard is
    /// another's.
    async fn note_end(&mut self, ended: Result<(String, Ended), JoinError>) -> bool {
        match ended {
            Ok((agent_id, Ended::Forgotten)) => {
                info!(agent = %agent_id, "agent forgotten");
                self.holders.remove(&agent_id);
                self.fleet.forget(&agent_id);
                self.publish(fleet_update::Change::ForgottenAgentId(agent_id))
                    .await;
                false
            }
            Ok((_, Ended::Superseded | Ended::Unstored)) => true,
            // Whoever takes the shard next finds everything as it was.
            Err(cause) => {
                error!(shard = %self.shard, %cause, "holder of an agent ended");
                true
            }
        }
    }

    async fn command(&mut self, message: Message) {
        let answer = Answer::new(self.shared.bus.clone(), message.reply);
        let Ok(request) = CommandRequest::decode(message.payload) else {
            warn!(shard = %self.shard, "unreadable request");
            return;
        };
        let by_command = |id: &str| self.fleet.agent_of(id).map(str::to_owned);
        let agent_id = match &request.verb {
            Some(command_request::Verb::Run(run)) => Some(run.agent_id.clone()),
            Some(command_request::Verb::Clear(clear)) => Some(clear.agent_id.clone()),
            Some(command_request::Verb::Interrupt(verb)) => by_command(&verb.command_id),
            Some(command_request::Verb::Input(verb)) => by_command(&verb.command_id),
            Some(command_request::Verb::Resize(verb)) => by_command(&verb.command_id),
            None => None,
        };
        let Some(agent_id) = agent_id else {
            let words = "no such command runs or waits";
            return answer
                .refuse(CommandError::CommandNotFound, words, "")
                .await;
        };
        let Some(holder) = self.holders.get(&agent_id) else {
            let words = "no such agent is known";
            return answer
                .refuse(CommandError::AgentNotFound, words, &agent_id)
                .await;
        };
        let trace = TraceContext::of(message.headers.as_ref());
        // Without room it is not answered, and comes again.
        holder.try_send(Input::Command(request, answer, trace)).ok();
    }

    async fn hear(&mut self, message: Message) {
        let answer = Answer::new(self.shared.bus.clone(), message.reply);
        let Ok(report) = AgentReport::decode(message.payload) else {
            warn!(shard = %self.shard, "unreadable report");
            return;
        };
        if let Some(agent_report::Report::Beat(beat)) = &report.report {
            return self.beat(beat, answer).await;
        }
        let is_connected = matches!(report.report, Some(agent_report::Report::Connected(_)));
        let holder = match self.holders.get(&report.agent_id) {
            Some(holder) => holder.clone(),
            // Ids cost nothing to those who may make tokens for agents.
            None if is_connected && self.holders.len() >= self.shared.agents_per_shard => {
                warn!(shard = %self.shard, agent = %report.agent_id, "too many agents are known");
                return answer
                    .report(agent_reply::Outcome::Refusal(CommandRefusal {
                        code: CommandError::Invalid.into(),
                        message: "too many agents are known".to_owned(),
                        agent_id: report.agent_id,
                    }))
                    .await;
            }
            None if is_connected => match self.admit(&report.agent_id).await {
                Some(holder) => holder,
                None => return,
            },
            None => return answer.stale(true).await,
        };
        if let Err(full) = holder.try_send(Input::Report(report, answer))
            && let Input::Report(_, answer) = full.into_inner()
        {
            answer.later().await;
        }
    }

    /// Begins to hold an agent that was not known.
    async fn admit(&mut self, agent_id: &str) -> Option<mpsc::Sender<Input>> {
        if agent_id.is_empty()
            || agent_id.len() > MOST_ID_BYTES
            || Shard::of_agent(agent_id) != self.shard
        {
            warn!(shard = %self.shard, "agent of another shard, or without a proper id");
            return None;
        }
        let known = Document::new(agent_id, self.shared.clock.now_ms());
        match claim(&self.shared.bus, known, 0).await {
            Ok((known, stored)) => Some(self.hold(known, stored)),
            Err(cause) => {
                error!(agent = agent_id, %cause, "agent not admitted");
                None
            }
        }
    }

    async fn beat(&self, beat: &GatewayBeat, answer: Answer) {
        let mut heard = BeatHeard::default();
        for one in &beat.connections {
            match self.fleet.connection_of(&one.agent_id) {
                Some(connection) if *connection == *one.connection_id => {
                    if let Some(holder) = self.holders.get(&one.agent_id) {
                        let beat = Input::Beat(one.connection_id.clone());
                        holder.try_send(beat).ok();
                    }
                }
                Some(_) => heard.replaced.push(one.connection_id.clone()),
                None => heard.unknown.push(one.connection_id.clone()),
            }
        }
        answer.report(agent_reply::Outcome::Heard(heard)).await;
    }

    async fn snapshot(&self, message: Message) {
        let answer = Answer::new(self.shared.bus.clone(), message.reply);
        let snapshot: FleetSnapshot = self.fleet.snapshot();
        answer.send(&snapshot).await;
    }

    async fn show(&mut self, change: Change) {
        match change {
            Change::Agent { state, connection } => {
                self.fleet.set_agent(&state, connection);
                self.publish(fleet_update::Change::Agent(state)).await;
            }
            Change::Queue(queue) => {
                self.fleet.set_queue(&queue);
                self.publish(fleet_update::Change::Queue(queue)).await;
            }
            Change::Cleared { agent_id, by } => {
                let cleared = self.fleet.cleared(agent_id, by, &self.shared.clock);
                self.publish(fleet_update::Change::Cleared(cleared)).await;
            }
            Change::Event {
                agent_id,
                id,
                announcement,
                version,
            } => {
                let clock = &self.shared.clock;
                self.publisher
                    .publish(agent_id, id, announcement, version, clock);
            }
        }
    }

    async fn publish(&mut self, change: fleet_update::Change) {
        let update = self.fleet.update(change);
        let subject = subject::fleet(self.shard);
        let body = update.encode_to_vec().into();
        if let Err(error) = self.shared.bus.client().publish(subject, body).await {
            debug!(%error, shard = %self.shard, "change not told");
        }
    }

    async fn tell_tip(&mut self) {
        let update = self.fleet.tip();
        let subject = subject::fleet(self.shard);
        let body = update.encode_to_vec().into();
        if let Err(error) = self.shared.bus.client().publish(subject, body).await {
            debug!(%error, shard = %self.shard, "tip not told");
        }
        let counts = self.shared.metrics.of(self.shard);
        let totals = self.fleet.totals(AgentStatus::Offline);
        counts.agents.set(totals.connected);
        counts.waiting.set(totals.waiting);
        counts.running.set(totals.running);
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        let counts = self.shared.metrics.of(self.shard);
        for count in [
            &counts.held,
            &counts.agents,
            &counts.waiting,
            &counts.running,
        ] {
            count.set(0);
        }
    }
}
