//! The gateway: one core that delivers events, with the dialects around it.
//!
//! | direction | what |
//! |---|---|
//! | in | everything on `topics.>`, through one ordered reader |
//! | in | the buckets `signing_keys` and `revocations` |
//! | in | frames of clients, over WebSocket and Socket.IO |
//! | in | the logs of users' chats, on `live.log.chat.<user>.*`, and CHAT |
//! | in | agents and queues on `live.fleet.*`, commands' logs in TERM |
//! | in | what agents are told, on `svc.agents.<gateway>` |
//! | in | events of producers, over HTTP |
//! | in | logins, refreshes, revocations and administration, over HTTP |
//! | out | who is in which investigation, in the bucket `presence` |
//! | in | what is kept of investigations, in the bucket `investigations` |
//! | in, out | polls, bodies and whole sessions of Socket.IO, on `svc.gateway.<id>.>` |
//! | in, out | who is connected, on `svc.gateway.stats`; sessions to come back to, in the bucket `sessions` |
//! | out | frames to clients; requests on `svc.auth.>`, `svc.relay.>` and `svc.orchestrator.>`; events on `events.>` |
//!
//! Invariants:
//! - `hub` knows no dialect, `dialect` knows no socket and no bus.
//! - A connection belongs to one shard, a single thread; only that thread
//!   touches its state and writes to its socket.
//! - What was revoked is applied before anyone is admitted, and after an
//!   interruption before events are delivered on.
//! - A subscription gets each of its events once, in stream order, from its
//!   start on.

mod accept;
mod access;
mod admission;
mod auth_service;
mod authority;
mod back_off;
mod chat;
mod config;
mod counts;
mod descriptors;
mod dialect;
mod error;
mod feed;
mod fleet;
mod history;
mod hub;
mod ingest;
mod investigation;
mod ledger;
mod listener;
mod metrics;
mod neighbours;
mod origin;
mod replay;
mod revocation;
mod routes;
mod session;
mod shard;
mod sockets;
mod spans;
mod statistics;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use signalbox_bus::Bus;
use signalbox_bus::decision::Decisions;
use signalbox_bus::reader::OrderedReader;
use signalbox_bus::session_store::SessionStore;
use signalbox_bus::stream::{self, StreamState, TOPICS};
use signalbox_service::{Health, Shutdown, Tasks};
use signalbox_transport::{Shards, shard_count_for};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::sleep;
use tracing::{debug, info, warn};
use uuid::Uuid;

use crate::admission::Admission;
pub use crate::admission::AdmissionLimits;
use crate::auth_service::AuthService;
use crate::authority::Authority;
use crate::back_off::BackOff;
use crate::chat::{Chats, Telling};
pub use crate::config::{
    ChatArgs, ChatOptions, ConnectionArgs, EdgeArgs, FleetArgs, FleetOptions, GatewayArgs,
    InvalidSetting, Options, PresenceArgs, PresenceOptions, Rates,
};
pub use crate::error::Error;
use crate::feed::{FEED_CAPACITY, News, Presence};
use crate::fleet::{Fleet, SCENES_CAPACITY, Scene};
use crate::history::{History, Recent};
use crate::ingest::Ingest;
use crate::investigation::Investigations;
use crate::listener::Listener;
pub use crate::listener::{InvalidListenSpec, ListenSpec};
use crate::metrics::Metrics;
use crate::neighbours::{Neighbours, Order, Patience};
pub use crate::origin::{InvalidOrigin, ListedOrigin, Origin};
use crate::revocation::{Follower, WITHDRAWALS_CAPACITY, Withdrawal};
use crate::shard::{Shared, Start};
pub use crate::sockets::RefuseBy;
use crate::statistics::Statistics;

/// How long background tasks may take to end after a stop.
const TASK_GRACE: Duration = Duration::from_secs(1);
/// The pause before another attempt to publish decisions that others left.
const COMPLETION_PAUSE: Duration = Duration::from_secs(5);

/// Runs the gateway until `shutdown`. The addresses that were bound are sent
/// to `bound`, in the order of [`Options::listen`] without those given up.
///
/// # Errors
/// When the bus is out of reach at start or not as needed, or when a required
/// listener cannot be bound.
pub async fn run(
    options: Options,
    health: &Health,
    bound: oneshot::Sender<Vec<SocketAddr>>,
    shutdown: Shutdown,
) -> Result<(), Error> {
    let ready = health.condition("gateway");
    let bus = Bus::connect(&options.bus, "signalbox-gateway").await?;
    let state = stream::verify(&bus, TOPICS).await?;
    let authority = Arc::new(Authority::new(bus.clone(), options.expectations.clone()).await?);
    let revocations = Follower::open(bus.clone(), Arc::clone(&authority)).await?;
    let count = shard_count(options.shards);
    let metrics = Metrics::new(count.get());
    Metrics::observe_bus(&bus, "gateway");
    Metrics::observe_authority(&authority);
    let tasks = Tasks::new(shutdown.clone());
    let (keys, stop) = (Arc::clone(&authority), shutdown.clone());
    tasks.spawn("signing keys", async move {
        tokio::select! {
            () = keys.follow_keys() => {}
            () = stop.wait() => {}
        }
    });

    let admission = Arc::new(Admission::new(AdmissionLimits {
        max_connections: descriptors::connections(options.admission.max_connections),
        ..options.admission
    }));
    let (refusing, stop) = (Arc::clone(&admission), shutdown.clone());
    let counting = Arc::clone(&metrics);
    tasks.spawn("refusals", async move {
        tokio::select! {
            () = accept::report_refusals(&refusing, &counting.refusals) => {}
            () = stop.wait() => {}
        }
    });

    let decisions = Arc::new(Decisions::open(bus.clone()).await?);
    let (unfinished, stop) = (Arc::clone(&decisions), shutdown.clone());
    tasks.spawn("unpublished decisions", async move {
        tokio::select! {
            () = complete_decisions(&unfinished) => {}
            () = stop.wait() => {}
        }
    });
    let limits = Arc::new(options.limits.open()?);

    let occupancy = Arc::default();
    let statistics = Arc::new(Statistics::new(bus.clone(), Arc::clone(&occupancy)));
    let (telling, stop) = (Arc::clone(&statistics), shutdown.clone());
    tasks.spawn("statistics", async move {
        tokio::select! {
            () = telling.answer() => {}
            () = stop.wait() => {}
        }
    });

    let listeners = bind(&options)?;
    let addresses: Vec<SocketAddr> = listeners
        .iter()
        .filter_map(|listener| listener.addr().ok())
        .collect();
    let (present, bus_present) = watch::channel(true);
    let ingest = Ingest::new(bus.clone(), options.ingest_patience);
    let patience = Patience::of(&sockets::engine_options(&options));
    let (neighbours, orders, desk) = Neighbours::open(&options.bus, count.get(), patience).await?;
    // Clients may still reach their sessions through others while they leave.
    let (neighbourly, unneighbourly) = oneshot::channel::<()>();
    tasks.spawn_critical(
        "neighbours",
        desk.run(async move {
            unneighbourly.await.ok();
        }),
    );
    let (fleet, asks) = Fleet::new(bus.clone());
    let (chats, tellings) = Chats::new(bus.clone(), Arc::clone(&authority), count.get());
    Metrics::observe_chats(&chats);
    let name: Arc<str> = Uuid::new_v4().simple().to_string().into();
    let investigations = Arc::new(Investigations::new(bus.clone(), &name));
    // Those who leave last are to be taken out as well.
    let (attended, unattended) = oneshot::channel::<()>();
    let declaring = investigations.declare(options.investigation.ttl, async move {
        unattended.await.ok();
    });
    tasks.spawn("who is in investigations", declaring);
    let shared = Shared {
        chats,
        fleet: Arc::clone(&fleet),
        bus_present,
        link: bus.link(),
        back_off: Arc::new(BackOff::new(options.longest_refusal_delay)),
        options: Arc::new(options),
        authority: Arc::clone(&authority),
        auth_service: Arc::new(AuthService::new(bus.clone())),
        admission,
        refusals: Arc::new(Semaphore::new(accept::REFUSALS_CAPACITY)),
        history: Arc::new(History::new(bus.clone())),
        sessions: SessionStore::open(bus.clone()).await?,
        statistics: Arc::clone(&statistics),
        offences: Arc::default(),
        occupancy,
        name,
        investigations,
        decisions,
        limits,
        ingest: Arc::new(ingest),
        neighbours,
        shutdown: shutdown.clone(),
    };
    let most = shared.options.recent_events;
    let recent = shared.history.recent(state, most).await;
    debug!(events = recent.events.len(), "recent events read");
    let asked = Asked { orders, tellings };
    let (senders, starts) = prepare(&listeners, &metrics, state, Arc::new(recent), asked)?;
    drop(listeners);
    let stop = shutdown.clone();
    let watching = Arc::clone(&fleet).watch(asks, Arc::clone(&authority), senders.scenes);
    tasks.spawn("the fleet", async move {
        tokio::select! {
            () = watching => {}
            () = Arc::clone(&fleet).deliver() => {}
            () = Arc::clone(&fleet).beat() => {}
            () = stop.wait() => {}
        }
    });
    let stop = shutdown.clone();
    tasks.spawn_critical("revocations", async move {
        tokio::select! {
            () = revocations.follow(senders.withdrawals) => {}
            () = stop.wait() => {}
        }
    });
    let reader = Reader {
        state,
        senders: senders.news,
        presence: Presence { ready, present },
        authority,
        metrics,
        shutdown: shutdown.clone(),
    };
    let shards = if count.get() == 1 {
        // On one shard the bus is read by the thread that writes the sockets,
        // which saves a wake-up per batch.
        start_shards(count, &shared, starts, Some(reader))?
    } else {
        tasks.spawn_critical("event feed", reader.run_on(bus.clone()));
        start_shards(count, &shared, starts, None)?
    };
    info!(shards = count, "serving");
    bound.send(addresses).ok();
    let ended = shards.join().await;
    drop((neighbourly, attended));
    tasks.drain(TASK_GRACE).await;
    bus.drain().await;
    Ok(ended?)
}

/// Publishes what gateways that failed have decided but not published.
async fn complete_decisions(decisions: &Decisions) {
    while let Err(error) = decisions.complete().await {
        warn!(%error, "decisions not completed, trying again");
        sleep(COMPLETION_PAUSE).await;
    }
}

/// The feed before it runs.
struct Reader {
    state: StreamState,
    senders: Vec<mpsc::Sender<News>>,
    presence: Presence,
    authority: Arc<Authority>,
    metrics: Arc<Metrics>,
    shutdown: Shutdown,
}

impl Reader {
    /// Reads with this connection to the bus.
    async fn run_on(self, bus: Bus) {
        let reader = OrderedReader::from_tip(bus, TOPICS, self.state);
        // Ready once the first consumer stands: clients confirmed before it
        // would only wait for their events.
        self.presence.found();
        feed::run(
            reader,
            self.senders,
            self.presence,
            &self.authority,
            &self.metrics.feed,
            self.shutdown,
        )
        .await;
    }
}

fn bind(options: &Options) -> Result<Vec<Listener>, Error> {
    let mut listeners = Vec::new();
    for spec in &options.listen {
        let bound = Listener::bind(spec).map_err(|cause| Error::Bind {
            addr: spec.addr,
            cause,
        })?;
        listeners.extend(bound);
    }
    Ok(listeners)
}

fn shard_count(asked: usize) -> NonZeroUsize {
    NonZeroUsize::new(asked).unwrap_or_else(|| {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        shard_count_for(cores)
    })
}

/// Where the shards are told things.
#[derive(Default)]
struct Senders {
    news: Vec<mpsc::Sender<News>>,
    withdrawals: Vec<mpsc::Sender<Withdrawal>>,
    scenes: Vec<mpsc::Sender<Scene>>,
}

/// What comes to the shards by ways that were opened before, one of each for
/// each shard.
struct Asked {
    orders: Vec<mpsc::Receiver<Order>>,
    tellings: Vec<mpsc::Receiver<Telling>>,
}

/// What each shard starts with, and where its news go in.
fn prepare(
    listeners: &[Listener],
    metrics: &Metrics,
    state: StreamState,
    recent: Arc<Recent>,
    asked: Asked,
) -> Result<(Senders, Vec<Start>), Error> {
    let mut senders = Senders::default();
    let mut starts = Vec::new();
    let asked = asked.orders.into_iter().zip(asked.tellings);
    for (index, (counts, (orders, tellings))) in metrics.shards.iter().zip(asked).enumerate() {
        let (sender, news) = mpsc::channel(FEED_CAPACITY);
        let (withdrawer, withdrawals) = mpsc::channel(WITHDRAWALS_CAPACITY);
        let listeners = listeners
            .iter()
            .map(Listener::try_clone)
            .collect::<Result<_, _>>()
            .map_err(Error::Shards)?;
        senders.news.push(sender);
        senders.withdrawals.push(withdrawer);
        let (stage, scenes) = mpsc::channel(SCENES_CAPACITY);
        senders.scenes.push(stage);
        starts.push(Start {
            listeners,
            news,
            withdrawals,
            orders,
            scenes,
            tellings,
            index,
            counts: Arc::clone(counts),
            epoch: state.epoch,
            position: state.last,
            recent: Arc::clone(&recent),
        });
    }
    Ok((senders, starts))
}

/// Starts the shards; the first one also reads the bus, if `reader` is given.
fn start_shards(
    count: NonZeroUsize,
    shared: &Shared,
    starts: Vec<Start>,
    reader: Option<Reader>,
) -> Result<Shards, Error> {
    // Each thread takes its own part out; what a shard owns cannot be cloned.
    let starts: Arc<Vec<Mutex<Option<Start>>>> = Arc::new(
        starts
            .into_iter()
            .map(|start| Mutex::new(Some(start)))
            .collect(),
    );
    let reader = Arc::new(Mutex::new(reader));
    let shared = shared.clone();
    Shards::start(count, "shard", move |index| {
        let start = starts
            .get(index.as_usize())
            .and_then(|start| start.lock().take());
        let (shared, reader) = (shared.clone(), reader.lock().take());
        async move {
            let Some(start) = start else { return };
            let reading = async {
                match reader {
                    Some(reader) => read_here(reader, shared.clone()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shard::run(shared.clone(), start) => {}
                () = reading => {}
            }
        }
    })
    .map_err(Error::Shards)
}

/// Reads the bus on the calling shard, with a connection of its own: its
/// socket is then served by the same thread.
async fn read_here(reader: Reader, shared: Shared) {
    match Bus::connect(&shared.options.bus, "signalbox-gateway-feed").await {
        Ok(bus) => {
            Metrics::observe_bus(&bus, "gateway feed");
            reader.run_on(bus).await;
        }
        Err(error) => {
            shared.shutdown.fail(format!("event feed: {error}"));
        }
    }
    // The shard drains on, without news.
    std::future::pending::<()>().await;
}
