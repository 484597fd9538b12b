//! Gateways of some shards each around a real bus, with a handler that does
//! what its clients ask.

mod faults;
mod requests;
mod stock;

#[path = "../../../socketio/tests/common/mod.rs"]
mod desk;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use signalbox_bus::BusOptions;
use signalbox_bus::server::User;
use signalbox_socketio::engine::LocalFuture;
use signalbox_socketio::{Answer, EngineOptions, SessionRequest, UpgradeElsewhere};
use signalbox_testkit::{DEADLINE, NatsServer};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_local};

use self::desk::neighbours::Elsewhere;
use self::desk::{TestServer, quick};
use super::{Neighbourhood, Neighbours, Patience, obey};

impl Elsewhere for Neighbourhood {
    fn session_id(&self) -> Option<String> {
        Some(Self::session_id(self))
    }

    fn request(&self, request: SessionRequest) -> LocalFuture<Option<Answer>> {
        let neighbours = self.clone();
        Box::pin(async move { neighbours.elsewhere(request).await })
    }

    fn upgrade(&self, sid: &str) -> Option<UpgradeElsewhere> {
        self.upgrade_elsewhere(sid)
    }
}

/// One process of several shards.
struct Gateway {
    /// A server for each shard.
    shards: Vec<TestServer>,
    neighbours: Arc<Neighbours>,
    /// How many requests of others are being answered.
    answering: Box<dyn Fn() -> usize>,
    desk: JoinHandle<()>,
    _stop: oneshot::Sender<()>,
}

fn options(nats: &NatsServer, user: User) -> BusOptions {
    BusOptions {
        url: nats.url(user),
        wait: DEADLINE,
    }
}

/// As in production, but for signs of life.
fn patience() -> Patience {
    Patience {
        alive: Duration::from_millis(100),
        ..Patience::of(&EngineOptions::default())
    }
}

impl Gateway {
    async fn start(nats: &NatsServer, count: usize) -> Self {
        Self::with(nats, count, patience()).await
    }

    async fn with(nats: &NatsServer, count: usize, patience: Patience) -> Self {
        let options = options(nats, User::Gateway);
        let (neighbours, orders, desk) = Neighbours::open(&options, count, patience).await.unwrap();
        let mut shards = Vec::new();
        for (index, orders) in orders.into_iter().enumerate() {
            let (engine, layer) = quick();
            let server = TestServer::with(engine, layer).await;
            let neighbourhood = neighbours.of_shard(index);
            let obeying = obey(
                Rc::clone(&server.engine),
                orders,
                neighbourhood.claim_patience(),
            );
            spawn_local(obeying);
            *server.desk.elsewhere.borrow_mut() = Some(Rc::new(neighbourhood));
            shards.push(server);
        }
        let (stop, stopped) = oneshot::channel();
        let answering = Box::new(desk.gauge());
        let desk = tokio::spawn(desk.run(async move {
            stopped.await.ok();
        }));
        Self {
            shards,
            neighbours,
            answering,
            desk,
            _stop: stop,
        }
    }

    fn sessions(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.engine.session_count())
            .sum()
    }
}
