//! Dialect `fleet`: dashboards that run commands on remote agents and watch
//! their output, and the agents. Agents, queues and logs are the relays'; the
//! gateway says what its agents report, delivers what they are told, and shows
//! dashboards what relays make known.
//!
//! | part | does |
//! |---|---|
//! | [`session`] | one connection: roles, limits, bad messages |
//! | [`identity`], [`standing`] | its credential |
//! | [`dashboard`], [`agent`] | what its two roles ask and report |
//! | [`errands`], [`asker`] | what a dashboard wants of relays, beside its conversation |
//! | [`agents`] | the agents that are connected here: deliveries and beats |
//! | [`watcher`] | the gateway's one look at the fleet, written once |
//! | [`stage`] | a shard's dashboards, and what was told of late |
//! | [`view`], [`transcript`] | pure: what is known, and how logs are told |
//! | [`logs`] | reading logs back |

mod agent;
mod agents;
mod asker;
mod dashboard;
mod errands;
mod following;
mod frames;
mod identity;
mod logs;
mod meter;
mod pack;
mod session;
mod stage;
mod standing;
mod transcript;
mod view;
mod watcher;

use std::future::Future;
use std::sync::Arc;

use parking_lot::Mutex;
use signalbox_bus::Bus;
use signalbox_bus::relays::Relays;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::warn;
use uuid::Uuid;

use self::agents::Agents;
pub(crate) use self::session::run;
pub(crate) use self::stage::{SCENES_CAPACITY, Scene, Stage};
use self::watcher::{ASKS_CAPACITY, Ask, Watcher};
use crate::authority::Authority;
use crate::shard::Shard;

/// Commands that are being interrupted since nobody waits for them; beyond it
/// they are left to run.
const AFTERMATH_CAPACITY: usize = 256;

/// What all shards share of the fleet.
pub(crate) struct Fleet {
    bus: Bus,
    relays: Relays,
    agents: Arc<Agents>,
    asks: mpsc::Sender<Ask>,
    aftermath: Mutex<JoinSet<()>>,
}

/// What shards ask, until there is a watcher.
pub(crate) struct Asks(mpsc::Receiver<Ask>);

impl Fleet {
    /// The way to the fleet.
    pub(crate) fn new(bus: Bus) -> (Arc<Self>, Asks) {
        let (asks, asked) = mpsc::channel(ASKS_CAPACITY);
        let fleet = Self {
            relays: Relays::new(bus.clone()),
            agents: Arc::new(Agents::new(format!("gw-{}", Uuid::now_v7().simple()))),
            bus,
            asks,
            aftermath: Mutex::default(),
        };
        (Arc::new(fleet), Asks(asked))
    }

    fn bus(&self) -> &Bus {
        &self.bus
    }

    fn relays(&self) -> &Relays {
        &self.relays
    }

    fn agents(&self) -> &Arc<Agents> {
        &self.agents
    }

    fn asks(&self) -> &mpsc::Sender<Ask> {
        &self.asks
    }

    /// Finishes something that no connection waits for.
    fn aftermath(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut running = self.aftermath.lock();
        while running.try_join_next().is_some() {}
        if running.len() < AFTERMATH_CAPACITY {
            running.spawn(work);
        } else {
            warn!("too many commands are being interrupted");
        }
    }

    /// Hands deliveries to agents for as long as it is polled.
    pub(crate) async fn deliver(self: Arc<Self>) {
        Arc::clone(&self.agents).deliver(self.bus.clone()).await;
    }

    /// Tells relays which agents are here for as long as it is polled.
    pub(crate) async fn beat(self: Arc<Self>) {
        Arc::clone(&self.agents).beat(self.relays.clone()).await;
    }

    /// Shows the fleet to the dashboards of all shards, until one is gone.
    pub(crate) async fn watch(
        self: Arc<Self>,
        asks: Asks,
        authority: Arc<Authority>,
        shards: Vec<mpsc::Sender<Scene>>,
    ) {
        let (bus, relays) = (self.bus.clone(), self.relays.clone());
        Watcher::new(bus, relays, authority, shards, asks.0)
            .run()
            .await;
    }
}

/// Shows a shard's dashboards what the watcher tells.
pub(crate) async fn follow(shard: &Shard, scenes: &mut mpsc::Receiver<Scene>) {
    while let Some(scene) = scenes.recv().await {
        shard.stage.play(scene);
    }
    // Without a watcher the gateway is about to end.
    std::future::pending().await
}
