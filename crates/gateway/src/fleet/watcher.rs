//! The gateway's one look at the fleet, for as long as it has dashboards: what
//! relays tell of agents and queues, and the logs of all commands in the order
//! in which they were stored. Each thing is written once, for all shards.
//! How dashboards come in is in [`arrivals`].
//! One file, since what relays tell and what logs tell must be in one order.

mod arrivals;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use signalbox_bus::reader::{Delivery, OrderedReader, Reading};
use signalbox_bus::relays::Relays;
use signalbox_bus::rpc::Listener;
use signalbox_bus::stream::{self, TERM};
use signalbox_bus::{Bus, BusError, subject};
use signalbox_protocol::cursor::{Epoch, FleetCursor};
use signalbox_protocol::fleet::Shard;
use signalbox_protocol::frame::fleet::server::{ServerFrame, Waiting};
use signalbox_protocol::timestamp::Timestamp;
use signalbox_protocol::wire::{FleetSnapshot, FleetUpdate, QueueState};
use signalbox_transport::Frame;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

use self::arrivals::{Firsts, Inquiry};
use super::frames::{now, write};
use super::logs::{self, read};
use super::stage::{Line, Scene};
use super::transcript::Transcript;
use super::view::{Change, View};
use crate::authority::Authority;

/// Dashboards that wait to be let in; when full, further ones wait for it.
pub(super) const ASKS_CAPACITY: usize = 1_024;
/// Records that are told at once.
const BATCH: usize = 256;
/// How long dashboards wait for shards that nobody serves.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(5);
/// The pause before a shard is asked again.
const PAUSE: Duration = Duration::from_millis(250);
/// The shortest time between two changes of an agent's metrics.
const METRICS_INTERVAL: Duration = Duration::from_millis(200);
/// The shortest time between two messages of how far an emergency stop is
/// obeyed: each lists all agents, and all of them confirm it at once.
const OBEDIENCE_INTERVAL: Duration = Duration::from_millis(100);
/// How long it goes on without dashboards.
const IDLE: Duration = Duration::from_secs(30);

/// What shards ask of the watcher.
#[derive(Debug)]
pub(super) enum Ask {
    /// Let a dashboard in.
    Join(Join),
    /// A dashboard has left.
    Leave,
}

/// A dashboard that wants to come in.
#[derive(Debug)]
pub(super) struct Join {
    pub(super) shard: usize,
    pub(super) member: usize,
    pub(super) serial: u64,
    pub(super) resume: Option<FleetCursor>,
    pub(super) request_id: Option<String>,
}

impl Join {
    /// Whether it has seen this life of the stream before.
    fn returns(&self, epoch: Epoch) -> bool {
        self.resume.is_some_and(|resume| resume.epoch == epoch)
    }
}

/// See the module.
pub(super) struct Watcher {
    bus: Bus,
    relays: Relays,
    authority: Arc<Authority>,
    scenes: Vec<mpsc::Sender<Scene>>,
    asks: mpsc::Receiver<Ask>,
    dashboards: usize,
    waiting: Vec<Join>,
}

/// What is known while it watches.
struct Watch {
    view: View,
    epoch: Epoch,
    position: u64,
    transcript: Transcript,
    /// When each agent was last told of.
    told: HashMap<String, Instant>,
    /// Agents with metrics that are still to be told.
    pending: BTreeSet<String>,
    /// The last known places of commands that wait, by agent.
    places: HashMap<String, HashMap<String, u32>>,
    /// When it was last told how far the emergency stop is obeyed.
    obedience: Option<Instant>,
    /// Whether that has changed since.
    disobeyed: bool,
    /// Shards that are being asked for a snapshot.
    asked: BTreeSet<Shard>,
    snapshots: JoinSet<(Shard, Option<FleetSnapshot>)>,
    /// Where the logs begin that were read.
    firsts: Firsts,
    /// What is asked for those who wait; one thing at a time.
    inquiry: JoinSet<Inquiry>,
}

impl Watch {
    const fn seq(&self) -> FleetCursor {
        FleetCursor {
            epoch: self.epoch,
            events: 0,
            logs: self.position,
            part: 0,
        }
    }

    fn ask(&mut self, relays: &Relays, shard: Shard, pause: Duration) {
        if self.asked.insert(shard) {
            let relays = relays.clone();
            self.snapshots.spawn(async move {
                sleep(pause).await;
                (shard, relays.snapshot(shard).await)
            });
        }
    }

    /// When the metrics that wait may be told.
    fn due(&self) -> Option<Instant> {
        let last = |id: &String| self.told.get(id).copied();
        let times = self.pending.iter().filter_map(last);
        times.min().map(|last| last + METRICS_INTERVAL)
    }

    /// When it may be told how far the emergency stop is obeyed, if that waits.
    fn obedience_due(&self) -> Option<Instant> {
        let last = self.obedience.filter(|_| self.disobeyed)?;
        Some(last + OBEDIENCE_INTERVAL)
    }
}

impl Watcher {
    pub(super) fn new(
        bus: Bus,
        relays: Relays,
        authority: Arc<Authority>,
        scenes: Vec<mpsc::Sender<Scene>>,
        asks: mpsc::Receiver<Ask>,
    ) -> Self {
        Self {
            bus,
            relays,
            authority,
            scenes,
            asks,
            dashboards: 0,
            waiting: Vec::new(),
        }
    }

    /// Watches whenever there are dashboards, until a shard is gone.
    pub(super) async fn run(mut self) {
        loop {
            while self.dashboards == 0 {
                let Some(ask) = self.asks.recv().await else {
                    return;
                };
                self.note(ask);
            }
            let (listener, reader) = match self.open().await {
                Ok(opened) => opened,
                Err(error) => {
                    warn!(%error, "the fleet is not watched, trying again");
                    sleep(PAUSE).await;
                    continue;
                }
            };
            info!("watching the fleet");
            if self.watch(listener, reader).await.is_none() {
                return;
            }
            info!("no dashboards, not watching the fleet");
        }
    }

    fn note(&mut self, ask: Ask) {
        match ask {
            Ask::Join(join) => {
                self.dashboards += 1;
                self.waiting.push(join);
            }
            Ask::Leave => self.dashboards = self.dashboards.saturating_sub(1),
        }
    }

    async fn open(&self) -> Result<(Listener, OrderedReader), BusError> {
        // Listening comes before snapshots, or what changes between them is
        // lost.
        let listener = Listener::open(&self.bus, format!("{}.*", subject::FLEET_PREFIX)).await?;
        let state = stream::state(&self.bus, TERM).await?;
        let reader = OrderedReader::from_tip(self.bus.clone(), TERM, state);
        Ok((listener, reader))
    }

    async fn tell(&self, scene: Scene) -> Option<()> {
        for shard in &self.scenes {
            shard.send(scene.clone()).await.ok()?;
        }
        Some(())
    }

    /// Tells what says the present position.
    async fn aside(&self, frame: Frame, watch: &Watch) -> Option<()> {
        let seq = watch.seq();
        self.tell(Scene::Aside { frame, seq }).await
    }

    /// Watches until there have been no dashboards for a while; `None` when a
    /// shard is gone.
    async fn watch(&mut self, mut listener: Listener, reader: OrderedReader) -> Option<()> {
        let mut watch = Watch {
            view: View::default(),
            epoch: reader.epoch(),
            position: reader.position(),
            transcript: Transcript::new(reader.epoch()),
            told: HashMap::new(),
            pending: BTreeSet::new(),
            places: HashMap::new(),
            obedience: None,
            disobeyed: false,
            asked: BTreeSet::new(),
            snapshots: JoinSet::new(),
            firsts: Firsts::default(),
            inquiry: JoinSet::new(),
        };
        self.tell(Scene::Start {
            epoch: watch.epoch,
            position: watch.position,
        })
        .await?;
        for shard in Shard::all() {
            watch.ask(&self.relays, shard, Duration::ZERO);
        }
        let patience = Instant::now() + SNAPSHOT_PATIENCE;
        let mut idle_since = None;
        let mut settled = reader.starts();
        // Not begun anew each time that something else happens: to start
        // reading takes more than one step.
        let mut reading = Box::pin(read_on(reader));
        loop {
            let is_known = Shard::all().all(|shard| watch.view.knows(shard));
            if is_known || Instant::now() >= patience {
                self.let_in(&mut watch).await?;
            }
            idle_since = match self.dashboards {
                0 => idle_since.or_else(|| Some(Instant::now())),
                _ => None,
            };
            let (due, obedience_due) = (watch.due(), watch.obedience_due());
            tokio::select! {
                ask = self.asks.recv() => self.note(ask?),
                update = listener.next() => match update {
                    Some(update) => self.update(&mut watch, update).await?,
                    None => listener = self.listen_again(&mut watch).await,
                },
                Some(done) = watch.snapshots.join_next() => {
                    if let Ok((shard, snapshot)) = done {
                        watch.asked.remove(&shard);
                        match snapshot {
                            Some(snapshot) => {
                                let changes = watch.view.replace(snapshot);
                                self.changed(&mut watch, changes).await?;
                            }
                            None => watch.ask(&self.relays, shard, PAUSE),
                        }
                    }
                }
                Some(done) = watch.inquiry.join_next() => {
                    if let Ok(answered) = done {
                        self.answered(&mut watch, answered).await?;
                    }
                }
                (mut reader, news) = &mut reading => {
                    match news {
                        Reading::Batch(batch) => {
                            // What was revoked while the reader was cut off
                            // comes before what was written meanwhile.
                            if reader.starts() != settled {
                                self.authority.revocations().settled().await;
                                settled = reader.starts();
                            }
                            self.log(&mut watch, &batch).await?;
                        }
                        Reading::Recreated(state) => {
                            warn!("the stream of logs is another");
                            reader.skip_handed_on();
                            watch.epoch = state.epoch;
                            watch.position = reader.position();
                            watch.transcript = Transcript::new(state.epoch);
                            watch.firsts = Firsts::default();
                            self.tell(Scene::Start {
                                epoch: watch.epoch,
                                position: watch.position,
                            })
                            .await?;
                        }
                        Reading::Interrupted(cause) => debug!(%cause, "logs not read"),
                        Reading::Resumed => debug!("logs read on"),
                    }
                    reading.set(read_on(reader));
                }
                () = until(due) => {
                    let pending = std::mem::take(&mut watch.pending);
                    for id in pending {
                        self.status(&mut watch, &id).await?;
                    }
                }
                () = until(obedience_due) => self.obedience(&mut watch).await?,
                () = until((!is_known).then_some(patience)), if !self.waiting.is_empty() => {}
                () = until(idle_since.map(|since| since + IDLE)) => return Some(()),
            }
        }
    }

    async fn listen_again(&self, watch: &mut Watch) -> Listener {
        loop {
            sleep(PAUSE).await;
            let subject = format!("{}.*", subject::FLEET_PREFIX);
            match Listener::open(&self.bus, subject).await {
                Ok(listener) => {
                    for shard in Shard::all() {
                        watch.ask(&self.relays, shard, Duration::ZERO);
                    }
                    return listener;
                }
                Err(error) => debug!(%error, "the fleet is not heard"),
            }
        }
    }

    async fn update(&self, watch: &mut Watch, update: FleetUpdate) -> Option<()> {
        let shard = Shard::all().find(|shard| u32::from(shard.number()) == update.shard);
        match (watch.view.update(update), shard) {
            (Ok(changes), _) => self.changed(watch, changes).await,
            (Err(_), Some(shard)) => {
                watch.ask(&self.relays, shard, Duration::ZERO);
                Some(())
            }
            (Err(_), None) => Some(()),
        }
    }

    async fn changed(&self, watch: &mut Watch, changes: Vec<Change>) -> Option<()> {
        let mut obedience = false;
        for change in changes {
            match change {
                Change::Agent { id, pressing } => {
                    let recent = watch.told.get(&id);
                    let waits = recent.is_some_and(|last| last.elapsed() < METRICS_INTERVAL);
                    if pressing || !waits {
                        self.status(watch, &id).await?;
                    } else {
                        watch.pending.insert(id);
                    }
                }
                Change::Queue(queue) => self.queue(watch, &queue).await?,
                Change::Emergency => {
                    if let Some(frame) = watch.view.emergency() {
                        self.tell(Scene::Urgent(frame)).await?;
                    }
                }
                Change::Obedience => obedience = true,
                Change::Cleared(cleared) => {
                    let frame = write(&ServerFrame::TerminalClear {
                        agent_id: &cleared.agent_id,
                        by: (!cleared.by.is_empty()).then_some(&cleared.by),
                        seq: watch.seq(),
                        timestamp: Timestamp::parse(&cleared.at).unwrap_or_else(now),
                    });
                    self.aside(frame, watch).await?;
                }
                Change::Forgotten(id) => {
                    watch.told.remove(&id);
                    watch.pending.remove(&id);
                    watch.places.remove(&id);
                }
            }
        }
        if obedience {
            watch.disobeyed = true;
            let is_due = |due: Instant| due <= Instant::now();
            if watch.obedience_due().is_none_or(is_due) {
                self.obedience(watch).await?;
            }
        }
        Some(())
    }

    /// Tells how far the emergency stop is obeyed, if one is in force.
    async fn obedience(&self, watch: &mut Watch) -> Option<()> {
        watch.disobeyed = false;
        match watch.view.obedience() {
            Some(frame) => {
                watch.obedience = Some(Instant::now());
                self.tell(Scene::Urgent(frame)).await
            }
            None => Some(()),
        }
    }

    async fn status(&self, watch: &mut Watch, id: &str) -> Option<()> {
        watch.pending.remove(id);
        watch.told.insert(id.to_owned(), Instant::now());
        match watch.view.status(id, watch.seq()) {
            Some(frame) => self.aside(frame, watch).await,
            None => {
                watch.told.remove(id);
                Some(())
            }
        }
    }

    /// Tells those who wait that they have moved. The first place of each is in
    /// its log.
    async fn queue(&self, watch: &mut Watch, queue: &QueueState) -> Option<()> {
        let mut places = HashMap::new();
        let before = watch.places.remove(&queue.agent_id).unwrap_or_default();
        for command in &queue.commands {
            places.insert(command.command_id.clone(), command.position);
            let before = before.get(&command.command_id);
            if before.is_none_or(|before| *before == command.position) {
                continue;
            }
            let frame = write(&ServerFrame::CommandStatus {
                command_id: &command.command_id,
                agent_id: &queue.agent_id,
                status: "queued",
                waiting: Some(Waiting {
                    position: command.position,
                    estimated_wait: command.estimated_wait_ms,
                }),
                request: None,
                end: None,
                replay: None,
                seq: watch.seq(),
                timestamp: now(),
            });
            self.aside(frame, watch).await?;
        }
        if !places.is_empty() {
            watch.places.insert(queue.agent_id.clone(), places);
        }
        Some(())
    }

    /// Tells what the logs have.
    async fn log(&self, watch: &mut Watch, batch: &[Delivery]) -> Option<()> {
        let mut lines = Vec::with_capacity(batch.len());
        for delivery in batch {
            let mut frames = Vec::new();
            if let Some(entry) = read(delivery) {
                watch.firsts.note(&entry);
                let (id, record) = (&entry.command_id, &entry.record);
                if watch.transcript.needs_priming(id, record) {
                    logs::prime(&self.bus, &mut watch.transcript, &entry).await;
                }
                frames = watch.transcript.tell(entry.sequence, id, record, false);
            }
            lines.push(Line {
                sequence: delivery.sequence,
                frames,
            });
        }
        watch.position = batch.last().map_or(watch.position, |last| last.sequence);
        self.tell(Scene::Logs(lines.into())).await
    }
}

/// The next news of a reader, and the reader.
async fn read_on(mut reader: OrderedReader) -> (OrderedReader, Reading) {
    let news = reader.next(BATCH).await;
    (reader, news)
}

/// Ends at this time, if there is one.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
