//! One shard: a thread with its listeners, its hub and the sessions of the
//! connections that it accepted.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use signalbox_bus::connection::Link;
use signalbox_bus::decision::Decisions;
use signalbox_bus::session_store::SessionStore;
use signalbox_identity::{Principal, Revocations, Verdict};
use signalbox_limits::Limits;
use signalbox_protocol::Dialect;
use signalbox_protocol::cursor::Epoch;
use signalbox_service::Shutdown;
use signalbox_transport::{Outbound, WebSocket};
use slab::Slab;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::{JoinError, JoinSet, yield_now};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{debug, error, field, info, warn};

use crate::accept;
use crate::admission::Admission;
use crate::auth_service::AuthService;
use crate::authority::Authority;
use crate::back_off::BackOff;
use crate::chat::{self, Audience, Chats, Telling};
use crate::config::Options;
use crate::counts::ShardCounts;
use crate::dialect::Encoding;
use crate::dialect::mesh::Mesh;
use crate::dialect::threat::Threat;
use crate::feed::News;
use crate::fleet::{self, Fleet, Scene, Stage};
use crate::history::{History, Recent};
use crate::hub::{FanOut, Hub, RingLimits};
use crate::ingest::Ingest;
use crate::investigation::Investigations;
use crate::ledger::Ledger;
use crate::listener::Listener;
use crate::neighbours::{Neighbours, Order};
use crate::revocation::Withdrawal;
use crate::routes::{Arrival, Doors};
use crate::session::{self, AUDIT};
use crate::sockets::{self, CALLS_CAPACITY, Engine, Occupancy, Offences};
use crate::spans;
use crate::statistics::Statistics;

/// Upgraded connections that wait for the shard; when full, further upgrades
/// are answered 503.
const ARRIVALS_CAPACITY: usize = 1_024;
/// Sockets written between two looks at everything else.
const FLUSH_SOCKETS: usize = 256;
/// How often queues and the like are measured.
const MEASURE_INTERVAL: Duration = Duration::from_secs(1);
/// Connections told to leave at once when draining.
const FAREWELL_BATCH: usize = 64;

/// What all shards share.
#[derive(Clone)]
pub(crate) struct Shared {
    /// False once the bus has been away for too long.
    pub(crate) bus_present: watch::Receiver<bool>,
    /// The link over which history and revocations are read.
    pub(crate) link: watch::Receiver<Link>,
    pub(crate) options: Arc<Options>,
    pub(crate) authority: Arc<Authority>,
    pub(crate) auth_service: Arc<AuthService>,
    /// How late bad credentials are refused.
    pub(crate) back_off: Arc<BackOff>,
    pub(crate) admission: Arc<Admission>,
    /// A permit for each refusal that is being answered.
    pub(crate) refusals: Arc<Semaphore>,
    pub(crate) history: Arc<History>,
    /// Where Socket.IO sessions are kept that clients come back to.
    pub(crate) sessions: SessionStore,
    /// What tells who of dialect `workspace` is where.
    pub(crate) statistics: Arc<Statistics>,
    /// Who of dialect `workspace` is where on this gateway.
    pub(crate) occupancy: Arc<Occupancy>,
    /// Who has sent too much at once over Socket.IO.
    pub(crate) offences: Arc<Offences>,
    /// Tells this gateway from others.
    pub(crate) name: Arc<str>,
    pub(crate) decisions: Arc<Decisions>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) ingest: Arc<Ingest>,
    /// Where Socket.IO sessions of others are.
    pub(crate) neighbours: Arc<Neighbours>,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) chats: Arc<Chats>,
    /// Who works together on what.
    pub(crate) investigations: Arc<Investigations>,
    pub(crate) shutdown: Shutdown,
}

/// What one shard starts with.
pub(crate) struct Start {
    pub(crate) listeners: Vec<Listener>,
    pub(crate) news: mpsc::Receiver<News>,
    pub(crate) withdrawals: mpsc::Receiver<Withdrawal>,
    /// What others ask of the sessions here.
    pub(crate) orders: mpsc::Receiver<Order>,
    /// What dashboards of the fleet are shown.
    pub(crate) scenes: mpsc::Receiver<Scene>,
    /// What is said in chats.
    pub(crate) tellings: mpsc::Receiver<Telling>,
    /// Its place among the shards.
    pub(crate) index: usize,
    pub(crate) counts: Arc<ShardCounts>,
    pub(crate) epoch: Epoch,
    pub(crate) position: u64,
    /// What happened just before that.
    pub(crate) recent: Arc<Recent>,
}

/// The state of one shard.
pub(crate) struct Shard {
    pub(crate) shared: Shared,
    pub(crate) hub: RefCell<Hub<Encoding, Outbound>>,
    /// The dashboards of the fleet.
    pub(crate) stage: Stage,
    /// Those who take part in chats.
    pub(crate) audience: Audience,
    /// Its place among the shards.
    pub(crate) index: usize,
    pub(crate) counts: Arc<ShardCounts>,
    /// Bytes that the connections have sent which are gone.
    bytes_sent: Cell<u64>,
    /// The open connections, to say farewell to.
    connections: RefCell<Slab<Connection>>,
    /// Woken when the last connection has left.
    empty: Notify,
}

/// Whose credentials may be taken back while the connection is open.
pub(crate) trait Holder {
    /// What logs call the connection.
    fn name(&self) -> &str;

    /// Who the connection is, if it has authenticated.
    fn principal(&self) -> Option<Rc<Principal>>;

    /// Goes on with what is left of the credential.
    fn go_on_as(&self, shard: &Shard, principal: Principal);

    /// Ends the connection: its credential is no good any more. What is queued
    /// was meant for someone who had the right to it.
    fn end(&self, shard: &Shard);

    /// Sends the connection away, with a word on how to come back.
    fn send_away(&self, message: &'static str);

    /// Does to the connection what new entries say of its credential.
    fn judge(&self, shard: &Shard, entries: &Revocations) {
        let Some(principal) = self.principal() else {
            return;
        };
        let verdict = entries.judge(&principal);
        let outcome = match &verdict {
            Verdict::Untouched => return,
            Verdict::Narrowed(_) => "narrowed",
            Verdict::Ended => "ended",
        };
        info!(
            target: AUDIT,
            session = %self.name(),
            subject = %principal.subject,
            credential = %principal.credential,
            outcome,
            "revoked"
        );
        match verdict {
            Verdict::Untouched => {}
            Verdict::Narrowed(less) => self.go_on_as(shard, *less),
            Verdict::Ended => self.end(shard),
        }
    }

    /// Sends a connection away whose credential has to be presented again: an API
    /// key. Tokens that were issued for a key have a time of issue.
    fn present_again(&self) {
        let is_key = self.principal().is_some_and(|principal| {
            principal.origin.key.is_some() && principal.origin.issued_at.is_none()
        });
        if is_key {
            info!(target: AUDIT, session = %self.name(), "sent away to present its API key again");
            self.send_away("present the API key again");
        }
    }
}

/// An open connection, as far as the shard needs it.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) outbound: Outbound,
    /// What the client speaks.
    pub(crate) dialect: Dialect,
    /// Tells the client, in its dialect, that the gateway is going away.
    pub(crate) farewell: fn(&Outbound),
    /// Who it is.
    pub(crate) holder: Rc<dyn Holder>,
}

/// Keeps a connection listed for as long as it lives.
pub(crate) struct Presence {
    shard: Rc<Shard>,
    index: usize,
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut connections = self.shard.connections.borrow_mut();
        let gone = connections.remove(self.index);
        self.shard.counts.leave(gone.dialect);
        let bytes_sent = &self.shard.bytes_sent;
        bytes_sent.set(bytes_sent.get() + gone.outbound.bytes_sent());
        if connections.is_empty() {
            self.shard.empty.notify_waiters();
        }
    }
}

impl Shard {
    /// Lists a connection until the guard is dropped.
    pub(crate) fn enter(self: &Rc<Self>, connection: Connection) -> Presence {
        self.counts.enter(connection.dialect);
        let index = self.connections.borrow_mut().insert(connection);
        Presence {
            shard: Rc::clone(self),
            index,
        }
    }

    /// Takes credentials back. A walk over ten thousand connections takes a few
    /// milliseconds, whatever the number of entries.
    fn withdraw(&self, withdrawal: &Withdrawal) {
        for (_, connection) in self.connections.borrow().iter() {
            match withdrawal {
                Withdrawal::Entries(entries) => connection.holder.judge(self, entries),
                Withdrawal::Unseen => connection.holder.present_again(),
            }
        }
    }

    /// Notes how much there is and waits now.
    fn measure(&self) {
        self.hub.borrow().measure();
        let mut sent = self.bytes_sent.get();
        let (mut queued, mut behind, mut oldest) = (0, 0, Duration::ZERO);
        for (_, connection) in self.connections.borrow().iter() {
            sent += connection.outbound.bytes_sent();
            queued += connection.outbound.queued_bytes();
            if let Some(age) = connection.outbound.queue_age() {
                behind += 1;
                oldest = oldest.max(age);
            }
        }
        self.counts.bytes_sent.set(sent);
        self.counts.queued_bytes.set(queued as u64);
        self.counts.behind.set(behind);
        let oldest = u64::try_from(oldest.as_millis()).unwrap_or(u64::MAX);
        self.counts.queue_age_ms.set(oldest);
    }
}

/// Runs a shard until shutdown and drains it.
pub(crate) async fn run(shared: Shared, mut start: Start) {
    let mut hub = Hub::new(start.epoch, start.position, RingLimits::default());
    hub.remember(&start.recent.events, start.recent.floor);
    drop(start.recent);
    let shard = Rc::new(Shard {
        hub: RefCell::new(hub.counted_in(Arc::clone(&start.counts))),
        stage: Stage::default(),
        audience: Audience::default(),
        index: start.index,
        counts: start.counts,
        bytes_sent: Cell::new(0),
        connections: RefCell::default(),
        empty: Notify::new(),
        shared,
    });
    let (arrivals_sender, arrivals) = mpsc::channel(ARRIVALS_CAPACITY);
    let (calls_sender, calls) = mpsc::channel(CALLS_CAPACITY);
    let ledger = Ledger::new(shard.shared.sessions.clone(), &shard.shared.name);
    let neighbours = shard.shared.neighbours.of_shard(start.index);
    let engine = sockets::engine(&shard, ledger, neighbours);
    let mut accepting = JoinSet::new();
    for listener in start.listeners {
        let doors = Doors::new(
            &shard.shared,
            &listener,
            arrivals_sender.clone(),
            calls_sender.clone(),
        );
        match listener.into_tokio() {
            Ok(socket) => {
                accepting.spawn_local(accept::run(socket, doors, shard.shared.clone()));
            }
            Err(error) => warn!(%error, "listener lost"),
        }
    }
    drop((arrivals_sender, calls_sender));
    let mut welcoming = JoinSet::new();
    welcoming.spawn_local(welcome(Rc::clone(&shard), arrivals));
    tokio::select! {
        () = deliver(&shard, &mut start.news, &mut start.withdrawals) => {}
        () = fleet::follow(&shard, &mut start.scenes) => {}
        () = chat::follow(&shard, &mut start.tellings) => {}
        () = drain(&shard, &engine, &mut accepting) => {}
        () = sockets::serve(&engine, calls, start.orders) => {}
        () = keep_measuring(&shard) => {}
    }
}

/// Keeps those numbers up to date that nothing changes one by one. A walk over
/// ten thousand connections takes about a millisecond.
async fn keep_measuring(shard: &Shard) {
    loop {
        shard.measure();
        sleep(MEASURE_INTERVAL).await;
    }
}

/// Hands news to the hub and frames to the sockets.
async fn deliver(
    shard: &Shard,
    news: &mut mpsc::Receiver<News>,
    withdrawals: &mut mpsc::Receiver<Withdrawal>,
) {
    loop {
        let news = tokio::select! {
            // An entry that was sent before a batch is applied before it.
            biased;
            Some(withdrawal) = withdrawals.recv() => {
                shard.withdraw(&withdrawal);
                continue;
            }
            news = news.recv() => news,
        };
        let Some(news) = news else { break };
        match news {
            News::Batch { events, position } => {
                shard.hub.borrow_mut().publish(&events, position);
                let began = SystemTime::now();
                let mut total = FanOut::default();
                loop {
                    let (part, more) = shard.hub.borrow_mut().flush(FLUSH_SOCKETS);
                    total.written += part.written;
                    total.queued += part.queued;
                    total.dropped += part.dropped;
                    if !more {
                        break;
                    }
                    yield_now().await;
                }
                shard.counts.written.add_alone(total.written as u64);
                shard.counts.queued.add_alone(total.queued as u64);
                shard.counts.dropped.add_alone(total.dropped as u64);
                for event in events.iter() {
                    let span_id = spans::handed_out(event, began);
                    if let Some(trace) = &event.trace {
                        debug!(
                            trace_id = %trace.parent.trace_id(),
                            span_id = span_id.map(field::display),
                            id = %event.event.id,
                            sequence = event.sequence,
                            "fanned out"
                        );
                    }
                }
                debug!(
                    events = events.len(),
                    written = total.written,
                    queued = total.queued,
                    dropped = total.dropped,
                    evaluations = shard.hub.borrow().evaluations(),
                    "batch delivered"
                );
            }
            News::Restart { epoch, position } => shard.hub.borrow_mut().restart(epoch, position),
        }
    }
    // Without news the feed is gone, which is its owner's to notice.
    std::future::pending().await
}

/// Waits for shutdown, then stops accepting and tells the clients to return
/// elsewhere, spread over the drain window.
async fn drain(shard: &Rc<Shard>, engine: &Rc<Engine>, accepting: &mut JoinSet<()>) {
    shard.shared.shutdown.wait().await;
    let options = &shard.shared.options;
    let window_end = Instant::now() + options.drain_window;
    let leaving: Vec<Connection> = shard
        .connections
        .borrow()
        .iter()
        .map(|(_, connection)| connection.clone())
        .collect();
    let count = leaving.len();
    info!(connections = count, "telling clients to return elsewhere");
    let batches = count.div_ceil(FAREWELL_BATCH).max(1);
    let pause = options.drain_window / u32::try_from(batches).unwrap_or(u32::MAX);
    let farewell = async {
        for batch in leaving.chunks(FAREWELL_BATCH) {
            for connection in batch {
                (connection.farewell)(&connection.outbound);
            }
            sleep(pause).await;
        }
    };
    tokio::join!(farewell, sockets::drain(engine, options.drain_window));
    // Requests under way, such as events on their way to the bus, may end in
    // the same time.
    let requests = async { while accepting.join_next().await.is_some() {} };
    if timeout_at(window_end, requests).await.is_err() {
        accepting.shutdown().await;
    }
    let empty = async {
        loop {
            let left = shard.empty.notified();
            if shard.connections.borrow().is_empty() {
                return;
            }
            left.await;
        }
    };
    if timeout(options.websocket.outbound.close_grace, empty)
        .await
        .is_err()
    {
        let left = shard.connections.borrow().len();
        warn!(left, "connections left behind");
    }
}

/// Turns upgraded connections into sessions.
async fn welcome(shard: Rc<Shard>, mut arrivals: mpsc::Receiver<Arrival>) {
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            arrival = arrivals.recv() => match arrival {
                Some(arrival) => {
                    sessions.spawn_local(begin(Rc::clone(&shard), arrival));
                }
                // The listeners are closed; the sessions go on.
                None if sessions.is_empty() => return,
                None => {
                    if let Some(ended) = sessions.join_next().await {
                        tell_of_panic(ended);
                    }
                }
            },
            Some(ended) = sessions.join_next() => tell_of_panic(ended),
        }
    }
}

/// A session that panicked takes nothing down but itself; somebody should know.
fn tell_of_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        error!(%error, "a session panicked");
    }
}

async fn begin(shard: Rc<Shard>, arrival: Arrival) {
    let (stream, read_ahead) = match arrival.upgrade.complete().await {
        Ok(upgraded) => upgraded,
        Err(error) => {
            debug!(peer = %arrival.visitor.peer, %error, "upgrade not completed");
            return;
        }
    };
    let mut options = shard.shared.options.websocket;
    if arrival.dialect == Dialect::Fleet {
        options.silence = 3 * shard.shared.options.fleet.heartbeat;
    }
    match WebSocket::new(stream, read_ahead, &options) {
        Ok(socket) => {
            let (visitor, credential) = (arrival.visitor, arrival.credential);
            match arrival.dialect {
                Dialect::Threat => session::run(Threat, shard, socket, visitor, credential).await,
                Dialect::Mesh => session::run(Mesh, shard, socket, visitor, credential).await,
                // A task is as large as the largest of these: the larger state of
                // the few is boxed, so that the many do not hold as much.
                Dialect::Fleet => {
                    Box::pin(fleet::run(shard, socket, visitor, credential)).await;
                }
                Dialect::Pipeline | Dialect::Workspace => {
                    error!(dialect = %arrival.dialect, "no session for this dialect");
                }
            }
        }
        Err(error) => debug!(peer = %arrival.visitor.peer, %error, "connection lost at its start"),
    }
}
