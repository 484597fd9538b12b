//! Socket.IO sessions that are elsewhere, on another shard or another gateway:
//! where a session is, and how requests, upgrades and whole sessions get from
//! one to the other. Knows no dialect: what a session says is for its engine.
//!
//! ```text
//!          another shard: orders, by channel
//!        ┌──────────────────────────────────▶ obey ──▶ Engine
//! Engine ┤
//!        └─ Calls ── svc.gateway.<id>.ask ──▶ Desk ──▶ orders
//!          another gateway: the bus
//! ```
//! - A poll or body is answered where the session is. Who gives up, gives up
//!   there too.
//! - A WebSocket connection goes to the session where they share a process.
//!   Otherwise the session comes to the connection.
//! - A request that nobody answers is answered like one for a session that has
//!   ended: the client opens a new one, and recovers.

mod calls;
mod desk;
mod moving;
mod orders;
mod place;
mod state;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use signalbox_bus::subject::GatewayId;
use signalbox_bus::{Bus, BusError, BusOptions};
use signalbox_protocol::wire::neighbour_request::What;
use signalbox_protocol::wire::{self, neighbour_reply::Outcome};
use signalbox_socketio::engine::{TakeUpgrade, Verb};
use signalbox_socketio::{Answer, EngineOptions, SessionRequest, UpgradeElsewhere};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use self::calls::Calls;
use self::desk::Desk;
use self::moving::RemoteOwner;
pub(crate) use self::orders::{Order, obey};
use self::place::Place;

/// Orders that wait for a shard; when full, requests are answered 503 and
/// upgrades refused.
const ORDERS_CAPACITY: usize = 1_024;
/// What a gateway may take longer than its client, which gives up by then.
const STALL_MARGIN: Duration = Duration::from_secs(5);
/// How long a body may take to be handled elsewhere.
const PUSH_PATIENCE: Duration = Duration::from_secs(10);
/// What a session may take longer to move than it may be busy.
const MOVE_MARGIN: Duration = Duration::from_secs(2);
/// How often gateways with unanswered requests are asked for a sign of life.
const ALIVE_INTERVAL: Duration = Duration::from_secs(1);

/// How long is waited for others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// For the answer to a poll. A gateway that is gone is noticed sooner; this
    /// bounds the wait for one that has stalled.
    pub(crate) poll: Duration,
    /// For the answer to a body.
    pub(crate) push: Duration,
    /// For each step of a move.
    pub(crate) moving: Duration,
    /// For whoever may take a session over to do so. Until then nobody else may.
    pub(crate) claim: Duration,
    /// Between two looks at whether others are alive.
    pub(crate) alive: Duration,
}

impl Patience {
    /// What suits sessions with these settings.
    pub(crate) fn of(engine: &EngineOptions) -> Self {
        Self {
            poll: engine.ping_interval + engine.ping_timeout + STALL_MARGIN,
            push: PUSH_PATIENCE,
            moving: engine.move_patience + MOVE_MARGIN,
            claim: engine.upgrade_timeout + MOVE_MARGIN,
            alive: ALIVE_INTERVAL,
        }
    }
}

/// The way to sessions elsewhere. Shared by all shards.
pub(crate) struct Neighbours {
    id: GatewayId,
    shards: Vec<mpsc::Sender<Order>>,
    calls: Arc<Calls>,
    claim_patience: Duration,
}

impl Neighbours {
    /// Connects to the bus for a process of so many shards. Gives each shard's
    /// orders, and the side that others ask.
    ///
    /// # Errors
    /// When the bus is out of reach or refuses what this needs.
    pub(crate) async fn open(
        options: &BusOptions,
        shards: usize,
        patience: Patience,
    ) -> Result<(Arc<Self>, Vec<mpsc::Receiver<Order>>, Desk), BusError> {
        let id = GatewayId::new(rand::random());
        // Of its own, so that bodies do not stand in the way of revocations.
        let bus = Bus::connect(options, "signalbox-gateway-neighbours").await?;
        let (shards, orders): (Vec<_>, Vec<_>) =
            (0..shards).map(|_| mpsc::channel(ORDERS_CAPACITY)).unzip();
        let (calls, given_up) = Calls::new(bus.clone(), id, patience);
        let calls = Arc::new(calls);
        let desk = Desk::open(bus, id, shards.clone(), Arc::clone(&calls), given_up).await?;
        let neighbours = Arc::new(Self {
            id,
            shards,
            calls,
            claim_patience: patience.claim,
        });
        Ok((neighbours, orders, desk))
    }

    /// The neighbours as one shard sees them.
    pub(crate) fn of_shard(self: &Arc<Self>, shard: usize) -> Neighbourhood {
        Neighbourhood {
            all: Arc::clone(self),
            shard,
        }
    }
}

/// The neighbours of one shard: what a [`Handler`](signalbox_socketio::Handler)
/// there says of sessions.
#[derive(Clone)]
pub(crate) struct Neighbourhood {
    all: Arc<Neighbours>,
    shard: usize,
}

impl Neighbourhood {
    /// How long whoever may take a session of this shard over may wait.
    pub(crate) fn claim_patience(&self) -> Duration {
        self.all.claim_patience
    }

    /// The id of a new session of this shard.
    pub(crate) fn session_id(&self) -> String {
        Place {
            gateway: self.all.id,
            shard: self.shard,
        }
        .session_id()
    }

    /// Whether a query names a session of another shard or gateway.
    pub(crate) fn are_asked(&self, query: &str) -> bool {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let place = pairs.find_map(|(name, value)| (name == "sid").then(|| Place::of(value)));
        place
            .flatten()
            .is_some_and(|place| place.gateway != self.all.id || place.shard != self.shard)
    }

    /// Answers a request to a session that is not on this shard; `None` if it is
    /// nowhere.
    pub(crate) async fn elsewhere(&self, request: SessionRequest) -> Option<Answer> {
        let place = Place::of(&request.sid)?;
        if place.gateway != self.all.id {
            return self.ask_gateway(place.gateway, request).await;
        }
        let (answer, answered) = oneshot::channel();
        let order = Order::Request { request, answer };
        match self.another_shard(place.shard)?.try_send(order) {
            Ok(()) => answered.await.ok(),
            Err(TrySendError::Full(_)) => Some(busy()),
            Err(TrySendError::Closed(_)) => None,
        }
    }

    async fn ask_gateway(&self, gateway: GatewayId, request: SessionRequest) -> Option<Answer> {
        let patience = self.all.calls.patience();
        let (what, patience) = match request.verb {
            Verb::Poll => (What::Poll(wire::Nothing {}), patience.poll),
            Verb::Push(body) => (What::Push(body), patience.push),
            Verb::TooLarge => (What::TooLarge(wire::Nothing {}), patience.push),
        };
        match self
            .all
            .calls
            .ask(gateway, request.sid, what, patience)
            .await
        {
            Ok((_, Outcome::Answer(answer))) => Some(Answer {
                status: StatusCode::from_u16(u16::try_from(answer.status).ok()?).ok()?,
                body: answer.body,
            }),
            Ok((_, Outcome::Busy(_))) | Err(calls::Unanswered::Busy) => Some(busy()),
            Ok(_) | Err(calls::Unanswered::Gone) => None,
        }
    }

    /// What becomes of an upgrade of a session that is not on this shard.
    pub(crate) fn upgrade_elsewhere(&self, sid: &str) -> Option<UpgradeElsewhere> {
        let place = Place::of(sid)?;
        let sid = sid.to_owned();
        if place.gateway != self.all.id {
            let owner = RemoteOwner {
                calls: Arc::clone(&self.all.calls),
                gateway: place.gateway,
                sid,
            };
            return Some(UpgradeElsewhere::Fetch(Box::new(owner)));
        }
        let door = self.another_shard(place.shard)?.clone();
        // A place first: once the upgrade is agreed to there is no way back.
        let permit = door.try_reserve_owned().ok()?;
        let take: TakeUpgrade = Box::new(move |connection| {
            permit.send(Order::Upgrade { sid, connection });
        });
        Some(UpgradeElsewhere::HandOn(take))
    }

    fn another_shard(&self, shard: usize) -> Option<&mpsc::Sender<Order>> {
        (shard != self.shard)
            .then(|| self.all.shards.get(shard))
            .flatten()
    }
}

/// The answer where there is no room for a request; the client returns.
fn busy() -> Answer {
    Answer::denied(StatusCode::SERVICE_UNAVAILABLE, "Too many requests at once")
}
