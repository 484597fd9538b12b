//! The agents that are connected to this gateway: where deliveries of relays
//! go, and the beats that say who is there.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use signalbox_bus::relays::Relays;
use signalbox_bus::{Bus, BusError, rpc, subject};
use signalbox_protocol::fleet::Shard;
use signalbox_protocol::wire::agent_report::Report;
use signalbox_protocol::wire::{
    AgentConnection, AgentDelivery, AgentReport, DeliveryOutcome, DeliveryReply, GatewayBeat,
    agent_reply,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::warn;

/// Deliveries that wait for one connection; relays send one at a time, so that
/// this is full only for an agent that reads nothing, which is not answered.
const DELIVERIES_CAPACITY: usize = 16;
/// How long a session may take to carry out a delivery; the relay sends it
/// again.
const DELIVERY_PATIENCE: Duration = Duration::from_secs(2);
/// Deliveries of all agents that are worked on at once.
const CONCURRENCY: usize = 1_024;
/// How often relays hear who is there, until they say how often.
const FIRST_BEAT: Duration = Duration::from_secs(1);
/// The pause before a lost subscription is made anew.
const PAUSE: Duration = Duration::from_millis(500);

/// What a session is told from outside.
pub(super) enum Note {
    /// By a relay, which waits for the outcome.
    Delivery(AgentDelivery, oneshot::Sender<DeliveryOutcome>),
    /// The relay does not know the connection: announce it.
    Unknown,
    /// Another connection is the agent's now.
    Replaced,
}

/// One agent's connection.
struct Seat {
    agent_id: String,
    notes: mpsc::Sender<Note>,
    /// Whether the relay has taken it: beats name no other, or the relay, which
    /// still knows the former one, would say that this was replaced.
    is_open: bool,
}

/// See the module. Shared by all shards.
pub(super) struct Agents {
    /// What relays call this gateway.
    gateway: String,
    seats: Mutex<HashMap<String, Seat>>,
    beat: watch::Sender<Duration>,
}

/// Keeps an agent's connection on the list.
pub(super) struct Seated {
    agents: Arc<Agents>,
    connection: String,
}

impl Drop for Seated {
    fn drop(&mut self) {
        self.agents.seats.lock().remove(&self.connection);
    }
}

impl Agents {
    pub(super) fn new(gateway: String) -> Self {
        Self {
            gateway,
            seats: Mutex::default(),
            beat: watch::Sender::new(FIRST_BEAT),
        }
    }

    /// What relays call this gateway.
    pub(super) fn gateway(&self) -> &str {
        &self.gateway
    }

    /// Puts a connection on the list.
    pub(super) fn seat(
        self: &Arc<Self>,
        agent_id: &str,
        connection: &str,
    ) -> (Seated, mpsc::Receiver<Note>) {
        let (notes, received) = mpsc::channel(DELIVERIES_CAPACITY);
        let seat = Seat {
            agent_id: agent_id.to_owned(),
            notes,
            is_open: false,
        };
        self.seats.lock().insert(connection.to_owned(), seat);
        let seated = Seated {
            agents: Arc::clone(self),
            connection: connection.to_owned(),
        };
        (seated, received)
    }

    /// The relay has taken a connection.
    pub(super) fn opened(&self, connection: &str) {
        if let Some(seat) = self.seats.lock().get_mut(connection) {
            seat.is_open = true;
        }
    }

    /// Says how often relays want to hear who is there.
    pub(super) fn beat_every(&self, interval: Duration) {
        if !interval.is_zero() {
            self.beat.send_if_modified(|known| {
                let is_new = *known != interval;
                *known = interval;
                is_new
            });
        }
    }

    fn notes_of(&self, connection: &str) -> Option<mpsc::Sender<Note>> {
        let seats = self.seats.lock();
        seats.get(connection).map(|seat| seat.notes.clone())
    }

    /// Hands deliveries to sessions for as long as it is polled.
    pub(super) async fn deliver(self: Arc<Self>, bus: Bus) {
        loop {
            if let Err(error) = self.serve(&bus).await {
                warn!(%error, "deliveries to agents not received");
            }
            sleep(PAUSE).await;
        }
    }

    async fn serve(self: &Arc<Self>, bus: &Bus) -> Result<(), BusError> {
        let subject = subject::gateway_agent(&self.gateway);
        rpc::attend(bus, subject, CONCURRENCY, |delivery: AgentDelivery| {
            let agents = Arc::clone(self);
            async move {
                let outcome = agents.carry_out(delivery).await?;
                Some(DeliveryReply {
                    outcome: outcome as i32,
                })
            }
        })
        .await
    }

    /// Has a session carry out a delivery; `None` where there is no answer.
    async fn carry_out(&self, delivery: AgentDelivery) -> Option<DeliveryOutcome> {
        let Some(notes) = self.notes_of(&delivery.connection_id) else {
            return Some(DeliveryOutcome::Gone);
        };
        let (done, outcome) = oneshot::channel();
        let told = async {
            notes.send(Note::Delivery(delivery, done)).await.ok()?;
            outcome.await.ok()
        };
        match timeout(DELIVERY_PATIENCE, told).await {
            Ok(Some(outcome)) => Some(outcome),
            // The session has ended.
            Ok(None) => Some(DeliveryOutcome::Gone),
            Err(_) => None,
        }
    }

    /// Tells relays who is there for as long as it is polled.
    pub(super) async fn beat(self: Arc<Self>, relays: Relays) {
        let mut changes = self.beat.subscribe();
        loop {
            let interval = *changes.borrow_and_update();
            tokio::select! {
                () = sleep(interval) => {}
                Ok(()) = changes.changed() => continue,
            }
            let mut beats = JoinSet::new();
            for (shard, connections) in self.by_shard() {
                let (agents, relays) = (Arc::clone(&self), relays.clone());
                beats.spawn(async move { agents.beat_once(&relays, shard, connections).await });
            }
            // A shard that nobody serves must not hold up the others' next beat.
            let all = async { while beats.join_next().await.is_some() {} };
            timeout(interval, all).await.ok();
        }
    }

    fn by_shard(&self) -> BTreeMap<Shard, Vec<AgentConnection>> {
        let mut shards: BTreeMap<Shard, Vec<AgentConnection>> = BTreeMap::new();
        let seats = self.seats.lock();
        for (connection, seat) in seats.iter().filter(|(_, seat)| seat.is_open) {
            let shard = Shard::of_agent(&seat.agent_id);
            shards.entry(shard).or_default().push(AgentConnection {
                agent_id: seat.agent_id.clone(),
                connection_id: connection.clone(),
            });
        }
        shards
    }

    async fn beat_once(&self, relays: &Relays, shard: Shard, connections: Vec<AgentConnection>) {
        let report = AgentReport {
            agent_id: String::new(),
            gateway_id: self.gateway.clone(),
            connection_id: String::new(),
            report: Some(Report::Beat(GatewayBeat { connections })),
        };
        let Some(reply) = relays.report(shard, &report).await else {
            return;
        };
        if let Some(agent_reply::Outcome::Heard(heard)) = reply.outcome {
            for connection in heard.unknown {
                self.note(&connection, Note::Unknown);
            }
            for connection in heard.replaced {
                self.note(&connection, Note::Replaced);
            }
        }
    }

    /// Tells a session something that comes again if it has no room for it.
    fn note(&self, connection: &str, note: Note) {
        if let Some(notes) = self.notes_of(connection) {
            notes.try_send(note).ok();
        }
    }
}
