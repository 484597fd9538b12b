//! The other sides of the relay, scripted: gateways, agents that keep a journal,
//! users, and whoever reads the logs. They speak the contract and nothing else,
//! and account for what agents were made to do. One file, since the parts play
//! to each other.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use signalbox_bus::subject::{self, LogKind};
use signalbox_bus::{Bus, header, history};
use signalbox_protocol::fleet::Shard;
use signalbox_protocol::wire::{
    AgentConnected, AgentConnection, AgentDelivery, AgentDisconnected, AgentReply, AgentReport,
    CommandAccepted, CommandComplete, CommandPriority, CommandRefusal, CommandReply,
    CommandRequest, CommandState, CommandStatus, DeliveryOutcome, DeliveryReply,
    EmergencyConfirmed, EmergencyReply, EmergencyRequest, EmergencyState, FleetRequest,
    FleetSnapshot, GatewayBeat, InterruptCommand, KnownCommand, OutputChunk, OutputStream,
    RunCommand, StreamSum, TermEnded, TermRecord, TerminalOutput, agent_delivery::Delivery,
    agent_reply, agent_report, command_reply, command_request, emergency_reply, emergency_request,
    term_record::Record,
};
use signalbox_testkit::{DEADLINE, eventually, settle};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout};

/// How long an answer is waited for before the request is sent again.
const PATIENCE: Duration = Duration::from_millis(500);
/// The pause before a request is sent again.
const PAUSE: Duration = Duration::from_millis(20);
/// How often scripted gateways say what they have.
const BEAT: Duration = Duration::from_millis(200);
/// Bytes of a piece of output.
const PIECE: usize = 7_000;

/// Asks until there is an answer.
pub(crate) async fn ask<Rep: prost::Message + Default>(
    bus: &Bus,
    subject: &str,
    request: &impl prost::Message,
) -> Rep {
    let body = Bytes::from(request.encode_to_vec());
    let deadline = Instant::now() + DEADLINE;
    loop {
        let request = bus.client().request(subject.to_owned(), body.clone());
        if let Ok(Ok(answer)) = timeout(PATIENCE, request).await {
            return Rep::decode(answer.payload).unwrap();
        }
        assert!(Instant::now() < deadline, "no answer on {subject}");
        sleep(PAUSE).await;
    }
}

/// An agent: what it does outlives its connections.
#[derive(Clone)]
pub(crate) struct Agent {
    pub(crate) id: String,
    pub(crate) concurrency: u32,
    /// Whether it keeps no journal, lists nothing, and says nothing but output
    /// and ends: as a client that knows the documented messages and no more.
    pub(crate) is_plain: bool,
    state: Arc<Mutex<Runs>>,
    /// Lets commands that hold go on.
    released: watch::Sender<u64>,
}

#[derive(Default)]
struct Runs {
    /// Every command that was begun, in order.
    journal: Vec<String>,
    running: BTreeMap<String, Run>,
    /// Ends that no relay has confirmed.
    ended: BTreeMap<String, CommandComplete>,
    stopped: Vec<String>,
    typed: Vec<u8>,
}

struct Run {
    output: Bytes,
    interrupted: watch::Sender<bool>,
}

impl Agent {
    pub(crate) fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            concurrency: 1,
            is_plain: false,
            state: Arc::default(),
            released: watch::Sender::new(0),
        }
    }

    /// Every command that was begun, in order.
    pub(crate) fn journal(&self) -> Vec<String> {
        self.state.lock().journal.clone()
    }

    /// The emergency stops that it was told of.
    pub(crate) fn stops(&self) -> Vec<String> {
        self.state.lock().stopped.clone()
    }

    /// What was typed into its terminals.
    pub(crate) fn typed(&self) -> Vec<u8> {
        self.state.lock().typed.clone()
    }

    /// Lets one more command that holds end.
    pub(crate) fn release(&self) {
        self.released.send_modify(|released| *released += 1);
    }

    /// Forgets everything, as after a crash of its own.
    pub(crate) fn crash(&self) {
        let mut state = self.state.lock();
        state.running.clear();
        state.ended.clear();
    }

    fn connected(&self) -> AgentConnected {
        let state = self.state.lock();
        let known = |command_id: &String, ended| KnownCommand {
            command_id: command_id.clone(),
            ended,
        };
        let running = state.running.keys().map(|id| known(id, false));
        let ended = state.ended.keys().map(|id| known(id, true));
        AgentConnected {
            agent_type: "scripted".to_owned(),
            version: "1".to_owned(),
            concurrency: self.concurrency,
            commands: match self.is_plain {
                true => Vec::new(),
                false => running.chain(ended).collect(),
            },
            lists_commands: !self.is_plain,
            keeps_journal: !self.is_plain,
            connected_at: "2026-01-01T00:00:00Z".to_owned(),
            ..AgentConnected::default()
        }
    }
}

/// What a command that is asked to `flow N` writes.
pub(crate) fn flow(id: &str, bytes: usize) -> Bytes {
    let seed = Sha256::digest(id);
    (0..bytes)
        .map(|at| seed[at % 32].wrapping_add((at / 32) as u8))
        .collect()
}

/// A connection of an agent through a scripted gateway.
pub(crate) struct Connection {
    pub(crate) id: String,
    _tasks: JoinSet<()>,
}

/// A scripted gateway. Dropped, it is gone as after kill -9.
pub(crate) struct Gateway {
    pub(crate) bus: Bus,
    pub(crate) id: String,
    links: Arc<Mutex<HashMap<String, Link>>>,
    /// While true, deliveries are not answered, and nothing is written.
    pub(crate) is_deaf: Arc<Mutex<bool>>,
    _tasks: JoinSet<()>,
}

struct Link {
    agent_id: String,
    /// Whether the relay has taken it: beats do not name it before.
    is_open: bool,
    highest: (u64, u64),
    deliveries: mpsc::Sender<Delivery>,
}

impl Gateway {
    pub(crate) async fn start(bus: Bus) -> Self {
        let id = format!("{:016x}", uuid::Uuid::new_v4().as_u128() as u64);
        let links: Arc<Mutex<HashMap<String, Link>>> = Arc::default();
        let is_deaf = Arc::new(Mutex::new(false));
        let mut tasks = JoinSet::new();
        let subject = subject::gateway_agent(&id);
        let mut deliveries = bus.client().subscribe(subject).await.unwrap();
        settle(bus.client()).await;
        let (its_bus, its_links, deaf) = (bus.clone(), Arc::clone(&links), Arc::clone(&is_deaf));
        tasks.spawn(async move {
            while let Some(message) = deliveries.next().await {
                if *deaf.lock() {
                    continue;
                }
                let delivery = AgentDelivery::decode(message.payload).unwrap();
                let outcome = carry_out(&its_links, delivery).into();
                let body = DeliveryReply { outcome }.encode_to_vec().into();
                let reply = message.reply.unwrap();
                its_bus.client().publish(reply, body).await.unwrap();
            }
        });
        tasks.spawn(beat(bus.clone(), id.clone(), Arc::clone(&links)));
        Self {
            bus,
            id,
            links,
            is_deaf,
            _tasks: tasks,
        }
    }

    /// Connects an agent, and has it do what it is told.
    pub(crate) async fn connect(&self, agent: &Agent) -> Connection {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let (sender, mut deliveries) = mpsc::channel(1_024);
        let link = Link {
            agent_id: agent.id.clone(),
            is_open: false,
            highest: (0, 0),
            deliveries: sender,
        };
        // Before it is announced: the first command may come at once.
        self.links.lock().insert(id.clone(), link);
        let mut line = Line {
            bus: self.bus.clone(),
            gateway: self.id.clone(),
            connection: id.clone(),
            agent: agent.clone(),
        };
        let opened = line.announce().await;
        if let Some(link) = self.links.lock().get_mut(&id) {
            link.is_open = true;
        }
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut work = JoinSet::new();
            for offset in opened {
                work.spawn(line.clone().go_on(offset.0, offset.1));
            }
            while let Some(delivery) = deliveries.recv().await {
                line.take(delivery, &mut work);
            }
        });
        Connection { id, _tasks: tasks }
    }

    /// Ends a connection in order.
    pub(crate) async fn disconnect(&self, agent: &Agent, connection: Connection) {
        self.links.lock().remove(&connection.id);
        let line = Line {
            bus: self.bus.clone(),
            gateway: self.id.clone(),
            connection: connection.id.clone(),
            agent: agent.clone(),
        };
        let report = AgentDisconnected { graceful: true };
        line.report(agent_report::Report::Disconnected(report))
            .await;
    }
}

fn carry_out(links: &Mutex<HashMap<String, Link>>, delivery: AgentDelivery) -> DeliveryOutcome {
    let mut links = links.lock();
    let Some(link) = links.get_mut(&delivery.connection_id) else {
        return DeliveryOutcome::Gone;
    };
    assert_eq!(link.agent_id, delivery.agent_id);
    if delivery.term < link.highest.0 {
        return DeliveryOutcome::Stale;
    }
    if (delivery.term, delivery.number) > link.highest {
        link.highest = (delivery.term, delivery.number);
        link.deliveries.try_send(delivery.delivery.unwrap()).ok();
    }
    DeliveryOutcome::Delivered
}

async fn beat(bus: Bus, gateway: String, links: Arc<Mutex<HashMap<String, Link>>>) {
    let mut beats = interval(BEAT);
    loop {
        beats.tick().await;
        let mut shards: BTreeMap<Shard, Vec<AgentConnection>> = BTreeMap::new();
        for (connection, link) in links.lock().iter().filter(|(_, link)| link.is_open) {
            let shard = Shard::of_agent(&link.agent_id);
            shards.entry(shard).or_default().push(AgentConnection {
                agent_id: link.agent_id.clone(),
                connection_id: connection.clone(),
            });
        }
        for (shard, connections) in shards {
            let report = AgentReport {
                gateway_id: gateway.clone(),
                report: Some(agent_report::Report::Beat(GatewayBeat { connections })),
                ..AgentReport::default()
            };
            let body = report.encode_to_vec().into();
            let request = bus.client().request(subject::relay_agents(shard), body);
            let Ok(Ok(answer)) = timeout(PATIENCE, request).await else {
                continue;
            };
            let answer = AgentReply::decode(answer.payload).unwrap();
            if let Some(agent_reply::Outcome::Heard(heard)) = answer.outcome {
                let mut links = links.lock();
                for replaced in heard.replaced {
                    links.remove(&replaced);
                }
            }
        }
    }
}

/// An agent's side of one connection.
#[derive(Clone)]
struct Line {
    bus: Bus,
    gateway: String,
    connection: String,
    agent: Agent,
}

impl Line {
    /// Reports until it is taken; `None` when the connection is another's.
    async fn report(&self, report: agent_report::Report) -> Option<agent_reply::Outcome> {
        let subject = subject::relay_agents(Shard::of_agent(&self.agent.id));
        let report = AgentReport {
            agent_id: self.agent.id.clone(),
            gateway_id: self.gateway.clone(),
            connection_id: self.connection.clone(),
            report: Some(report),
        };
        loop {
            let answer: AgentReply = ask(&self.bus, &subject, &report).await;
            match answer.outcome.unwrap() {
                agent_reply::Outcome::LaterMs(pause) => {
                    sleep(Duration::from_millis(pause.into())).await;
                }
                agent_reply::Outcome::Stale(stale) if stale.unknown => {
                    let connected = agent_report::Report::Connected(self.agent.connected());
                    let announce = AgentReport {
                        report: Some(connected),
                        ..report.clone()
                    };
                    let _: AgentReply = ask(&self.bus, &subject, &announce).await;
                }
                agent_reply::Outcome::Stale(_) => return None,
                outcome => return Some(outcome),
            }
        }
    }

    /// Announces the connection; gives the commands to go on with and the
    /// offsets from which on.
    async fn announce(&mut self) -> Vec<(String, u64)> {
        let connected = agent_report::Report::Connected(self.agent.connected());
        let Some(agent_reply::Outcome::Opened(opened)) = self.report(connected).await else {
            panic!("the connection is not taken");
        };
        let mut state = self.agent.state.lock();
        for id in opened.abandoned {
            state.running.remove(&id);
            state.ended.remove(&id);
        }
        let offset = |id: &String| {
            let known = opened.offsets.iter().find(|known| known.command_id == *id);
            known.map_or(0, |known| known.offset)
        };
        let ids = state.running.keys().chain(state.ended.keys());
        ids.map(|id| (id.clone(), offset(id))).collect()
    }

    fn take(&self, delivery: Delivery, work: &mut JoinSet<()>) {
        match delivery {
            Delivery::Execute(execute) => {
                let mut state = self.agent.state.lock();
                let id = execute.command_id;
                if self.agent.is_plain || !state.journal.contains(&id) {
                    state.journal.push(id.clone());
                    let output = match execute.command.strip_prefix("flow ") {
                        Some(bytes) => flow(&id, bytes.parse().unwrap()),
                        None => Bytes::from(format!("{} says hello\n", execute.command)),
                    };
                    let run = Run {
                        output,
                        interrupted: watch::Sender::new(false),
                    };
                    state.running.insert(id.clone(), run);
                }
                drop(state);
                // Listened to before it is said to run: whoever releases it waits
                // for that.
                let released = self.agent.released.subscribe();
                let released = (execute.command == "hold").then_some(released);
                work.spawn(self.clone().begin(id, released));
            }
            Delivery::Interrupt(interrupt) => {
                let state = self.agent.state.lock();
                if let Some(run) = state.running.get(&interrupt.command_id) {
                    run.interrupted.send_replace(true);
                }
            }
            Delivery::Emergency(stop) if stop.active => {
                self.agent.state.lock().stopped.push(stop.stop_id.clone());
                let line = self.clone();
                work.spawn(async move {
                    let confirmed = EmergencyConfirmed {
                        stop_id: stop.stop_id,
                    };
                    let report = agent_report::Report::Stopped(confirmed);
                    line.report(report).await;
                });
            }
            Delivery::Input(input) => self.agent.state.lock().typed.extend(input.data),
            Delivery::Emergency(_) | Delivery::Resize(_) => {}
            Delivery::Replaced(_) => work.abort_all(),
        }
    }

    async fn begin(self, id: String, released: Option<watch::Receiver<u64>>) {
        let status = CommandStatus {
            command_id: id.clone(),
            state: CommandState::Running.into(),
            ..CommandStatus::default()
        };
        if !self.agent.is_plain {
            self.report(agent_report::Report::Status(status)).await;
        }
        if let Some(mut released) = released {
            let interrupted = {
                let state = self.agent.state.lock();
                let run = state.running.get(&id);
                run.map(|run| run.interrupted.subscribe())
            };
            let Some(mut interrupted) = interrupted else {
                return;
            };
            tokio::select! {
                _ = released.changed() => {}
                _ = interrupted.wait_for(|interrupted| *interrupted) => {}
            }
        }
        self.go_on(id, 0).await;
    }

    /// Sends what is left of a command's output, then its end.
    async fn go_on(self, id: String, mut offset: u64) {
        let run = {
            let state = self.agent.state.lock();
            let run = state.running.get(&id);
            run.map(|run| (run.output.clone(), run.interrupted.subscribe()))
        };
        if let Some((output, interrupted)) = run {
            while (offset as usize) < output.len() && !*interrupted.borrow() {
                let at = offset as usize;
                let data = output.slice(at..output.len().min(at + PIECE));
                let chunk = OutputChunk {
                    stream: OutputStream::Stdout.into(),
                    offset,
                    data,
                    ..OutputChunk::default()
                };
                let report = agent_report::Report::Output(TerminalOutput {
                    command_id: id.clone(),
                    chunks: vec![chunk],
                });
                match self.report(report).await {
                    Some(agent_reply::Outcome::Output(taken)) => offset = taken.offsets[0].offset,
                    // Given up there.
                    _ => return,
                }
            }
            let was_interrupted = *interrupted.borrow();
            let complete = CommandComplete {
                command_id: id.clone(),
                exit_code: Some(if was_interrupted { 130 } else { 0 }),
                sums: vec![StreamSum {
                    bytes: offset,
                    ..StreamSum::default()
                }],
                ..CommandComplete::default()
            };
            let mut state = self.agent.state.lock();
            if state.running.remove(&id).is_some() {
                state.ended.insert(id.clone(), complete);
            }
        }
        let complete = self.agent.state.lock().ended.get(&id).cloned();
        if let Some(complete) = complete
            && let Some(agent_reply::Outcome::Taken(_)) =
                self.report(agent_report::Report::Complete(complete)).await
        {
            self.agent.state.lock().ended.remove(&id);
        }
    }
}

/// A user, through any gateway.
pub(crate) struct User {
    pub(crate) bus: Bus,
}

/// A request for a command.
pub(crate) fn run(agent: &str, command: &str, priority: CommandPriority) -> RunCommand {
    RunCommand {
        agent_id: agent.to_owned(),
        command: command.to_owned(),
        priority: priority.into(),
        nonce: uuid::Uuid::new_v4().simple().to_string(),
        ..RunCommand::default()
    }
}

impl User {
    pub(crate) async fn request(
        &self,
        shard: Shard,
        verb: command_request::Verb,
    ) -> command_reply::Outcome {
        let request = CommandRequest {
            by: "user".to_owned(),
            verb: Some(verb),
        };
        let reply: CommandReply = ask(&self.bus, &subject::relay_commands(shard), &request).await;
        reply.outcome.unwrap()
    }

    /// Asks for a command, again where the bus does not answer the relay.
    pub(crate) async fn run(&self, run: RunCommand) -> Result<CommandAccepted, CommandRefusal> {
        let shard = Shard::of_agent(&run.agent_id);
        match self.request(shard, command_request::Verb::Run(run)).await {
            command_reply::Outcome::Accepted(accepted) => Ok(accepted),
            command_reply::Outcome::Refusal(refusal) => Err(refusal),
            command_reply::Outcome::Done(_) => panic!("a command is accepted or refused"),
        }
    }

    pub(crate) async fn interrupt(&self, command_id: &str) -> Result<(), CommandRefusal> {
        let verb = InterruptCommand {
            command_id: command_id.to_owned(),
        };
        let shard = Shard::of_command(command_id).unwrap();
        match self
            .request(shard, command_request::Verb::Interrupt(verb))
            .await
        {
            command_reply::Outcome::Refusal(refusal) => Err(refusal),
            _ => Ok(()),
        }
    }

    pub(crate) async fn emergency(&self, verb: emergency_request::Verb) -> EmergencyState {
        let request = EmergencyRequest {
            by: "user".to_owned(),
            verb: Some(verb),
        };
        let reply: EmergencyReply = ask(&self.bus, subject::EMERGENCY, &request).await;
        match reply.outcome.unwrap() {
            emergency_reply::Outcome::State(state) => state,
            emergency_reply::Outcome::Refusal(refusal) => panic!("{refusal:?}"),
        }
    }

    pub(crate) async fn snapshot(&self, agent: &str) -> FleetSnapshot {
        let subject = subject::relay_snapshot(Shard::of_agent(agent));
        ask(&self.bus, &subject, &FleetRequest {}).await
    }

    /// Waits until the agent's command is over; gives its log.
    pub(crate) async fn log_of(&self, id: &str) -> Log {
        eventually(&format!("the end of {id}"), DEADLINE, async || {
            let log = self.read_log(id).await?;
            log.ended.is_some().then_some(log)
        })
        .await
    }

    /// Reads a log as it is, and checks its numbers.
    pub(crate) async fn read_log(&self, id: &str) -> Option<Log> {
        let filter = subject::log(LogKind::Term, id);
        let (mut log, mut from, mut number) = (Log::default(), 1, 0);
        loop {
            let stream = LogKind::Term.stream();
            let page = history::page(&self.bus, stream, &filter, from, 64)
                .await
                .ok()?;
            for message in page.messages {
                from = message.sequence + 1;
                number += 1;
                let headers = message.headers.unwrap();
                let its = header::value(&headers, header::LOG_NUMBER).unwrap();
                assert_eq!(its, number.to_string(), "numbers of {id}");
                log.add(TermRecord::decode(message.payload).unwrap());
            }
            if page.is_last {
                return Some(log);
            }
        }
    }
}

/// What a log says.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) queued: usize,
    pub(crate) started: usize,
    pub(crate) gaps: Vec<(u64, u64)>,
    pub(crate) cleared: usize,
    pub(crate) output: Vec<u8>,
    pub(crate) ended: Option<TermEnded>,
}

impl Log {
    pub(crate) fn add(&mut self, record: TermRecord) {
        assert!(self.ended.is_none(), "nothing follows the end");
        match record.record.unwrap() {
            Record::Queued(_) => self.queued += 1,
            Record::Started(_) => self.started += 1,
            Record::Output(output) => {
                for chunk in output.chunks {
                    if self.gaps.is_empty() {
                        assert_eq!(chunk.offset, self.output.len() as u64, "offsets follow");
                    }
                    self.output.extend(&chunk.data);
                }
            }
            Record::Gap(gap) => self.gaps.push((gap.from, gap.to)),
            Record::Cleared(_) => self.cleared += 1,
            Record::Ended(ended) => self.ended = Some(ended),
            Record::Taken(_) => {}
        }
    }

    pub(crate) fn end(&self) -> (CommandState, String) {
        let ended = self.ended.as_ref().unwrap();
        (ended.state(), ended.reason.clone())
    }

    /// Checks that it is that of a command that has written this and ended well.
    pub(crate) fn assert_whole(&self, output: &[u8]) {
        assert_eq!(self.queued, 1);
        assert_eq!(self.end(), (CommandState::Completed, String::new()));
        assert!(self.gaps.is_empty());
        assert!(self.output == output, "output is another");
        let sum = &self.ended.as_ref().unwrap().sums[0];
        assert_eq!(
            (sum.bytes, sum.recorded),
            (output.len() as u64, output.len() as u64)
        );
        assert_eq!(sum.sha256.to_vec(), Sha256::digest(output).to_vec());
    }
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    eventually(what, DEADLINE, async || holds().await.then_some(())).await;
}
