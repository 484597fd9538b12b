//! The side that is asked: requests of other gateways to the sessions of this
//! process, and the answers to this one's own.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use prost::Message as _;
use signalbox_bus::connection::Link;
use signalbox_bus::subject::{self, GatewayId};
use signalbox_bus::{Bus, BusError};
use signalbox_protocol::wire::neighbour_reply::Outcome;
use signalbox_protocol::wire::neighbour_request::What;
use signalbox_protocol::wire::{HttpAnswer, NeighbourReply, NeighbourRequest, Nothing};
use signalbox_socketio::SessionRequest;
use signalbox_socketio::engine::Verb;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{debug, error, warn};

use super::calls::{Calls, GivenUp};
use super::orders::{Granted, Order};
use super::place::Place;
use super::state;

/// Requests of other gateways at once; further ones are answered `busy`.
const SERVED_CAPACITY: usize = 65_536;
/// What an answer has beside the body or session in it.
const OVERHEAD_BYTES: usize = 1_024;
/// The number of no request, with which a gateway asks itself at its start.
const SELF_TEST: u64 = 0;
/// How long that may take.
const SELF_TEST_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// Who asked, and with which number.
type Asker = (GatewayId, u64);

/// Answers other gateways, and hears their answers.
pub(crate) struct Desk {
    bus: Bus,
    id: GatewayId,
    calls: Arc<Calls>,
    given_up: mpsc::Receiver<GivenUp>,
    messages: async_nats::Subscriber,
    served: Arc<Served>,
    tasks: JoinSet<()>,
}

/// What is being answered.
struct Served {
    bus: Bus,
    id: GatewayId,
    shards: Vec<mpsc::Sender<Order>>,
    running: Mutex<HashMap<Asker, Running>>,
}

struct Running {
    task: AbortHandle,
    /// Where whoever may take a session over says so.
    claim: Option<oneshot::Sender<Asker>>,
}

impl Desk {
    /// Listens for what others ask.
    ///
    /// # Errors
    /// When the bus refuses this user the subjects, or does not answer.
    pub(super) async fn open(
        bus: Bus,
        id: GatewayId,
        shards: Vec<mpsc::Sender<Order>>,
        calls: Arc<Calls>,
        given_up: mpsc::Receiver<GivenUp>,
    ) -> Result<Self, BusError> {
        let failed = |cause: &dyn std::fmt::Display| BusError::Api {
            action: format!("listen on {}", id.all()),
            cause: cause.to_string(),
        };
        let subject = id.all();
        let subscribing = async {
            let client = bus.client();
            let mut messages = client
                .subscribe(subject.clone())
                .await
                .map_err(|error| failed(&error))?;
            // Nobody is told the id before it can be reached.
            client
                .publish(id.answer(SELF_TEST), Bytes::new())
                .await
                .map_err(|error| failed(&error))?;
            match timeout(SELF_TEST_PATIENCE, messages.next()).await {
                Ok(Some(_)) => Ok(messages),
                Ok(None) => Err(failed(&"the connection ended")),
                Err(_) => Err(failed(&"nothing is heard")),
            }
        };
        let messages = bus.unless_refused(&subject, subscribing);
        let messages = bus
            .unless_refused(&id.answer(SELF_TEST), messages)
            .await???;
        let served = Served {
            bus: bus.clone(),
            id,
            shards,
            running: Mutex::default(),
        };
        Ok(Self {
            bus,
            id,
            calls,
            given_up,
            messages,
            served: Arc::new(served),
            tasks: JoinSet::new(),
        })
    }

    /// Answers until `stop`, which comes when no session is left.
    pub(crate) async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut link = self.bus.link();
        let mut generation = link.borrow_and_update().generation;
        let mut look = interval(self.calls.patience().alive);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut probes = HashMap::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => return,
                message = self.messages.next() => match message {
                    Some(message) => self.take(message, &mut probes),
                    None => return,
                },
                Some(given_up) = self.given_up.recv() => self.calls.tell(given_up).await,
                Some(ended) = self.tasks.join_next() => {
                    if let Err(error) = ended && error.is_panic() {
                        error!(%error, "an answer to a neighbour panicked");
                    }
                }
                _ = look.tick() => probes = self.calls.probe().await,
                true = broken(&mut link, &mut generation) => {
                    self.calls.cut_off();
                    let served = Arc::clone(&self.served);
                    self.tasks.spawn(async move { served.cut_off().await });
                }
            }
        }
    }

    fn take(&mut self, message: async_nats::Message, probes: &mut HashMap<u64, GatewayId>) {
        if let Some(number) = self.id.parse_answer(&message.subject) {
            let gone = message.status == Some(async_nats::StatusCode::NO_RESPONDERS);
            match probes.remove(&number) {
                Some(gateway) if gone => self.calls.lost(gateway),
                Some(_) => {}
                None => {
                    let reply = (!gone).then_some(&message.payload[..]);
                    self.calls.answered(number, reply);
                }
            }
            return;
        }
        let Ok(NeighbourRequest { sid, what }) = NeighbourRequest::decode(message.payload) else {
            warn!("unreadable request of a neighbour");
            return;
        };
        let asker = message
            .reply
            .as_deref()
            .and_then(subject::parse_gateway_answer);
        match (what, asker) {
            (Some(What::GiveUp(subject)), _) => {
                if let Some(asker) = subject::parse_gateway_answer(&subject) {
                    self.served.forget(asker);
                }
            }
            (Some(What::HandOver(subject)), Some(asker)) => {
                let claim = subject::parse_gateway_answer(&subject)
                    .and_then(|claimed| self.served.claim(claimed));
                if claim.is_none_or(|claim| claim.send(asker).is_err()) {
                    let refused = Outcome::Refused(Nothing {});
                    self.spawn(asker, |served| async move {
                        served.answer(asker, refused).await;
                    });
                }
            }
            (Some(what), Some(asker)) if self.served.has_room() => {
                self.spawn(asker, move |served| async move {
                    served.serve(asker, sid, what).await;
                });
            }
            (Some(_), Some(asker)) => {
                self.tasks.spawn({
                    let served = Arc::clone(&self.served);
                    async move { served.answer(asker, Outcome::Busy(Nothing {})).await }
                });
            }
            // Asked by a newer version, or by nobody.
            (None, _) | (_, None) => debug!("a request of a neighbour is not understood"),
        }
    }

    fn spawn<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        asker: Asker,
        serve: impl FnOnce(Arc<Served>) -> F,
    ) {
        let entry = Entry {
            served: Arc::clone(&self.served),
            asker,
        };
        let serving = serve(Arc::clone(&self.served));
        // Held until the entry is there, or a quick end could come before it.
        let mut running = self.served.running.lock();
        let task = self.tasks.spawn(async move {
            let _entry = entry;
            serving.await;
        });
        running.insert(asker, Running { task, claim: None });
    }
}

/// Takes a request off the list when its task ends, however it does.
struct Entry {
    served: Arc<Served>,
    asker: Asker,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.served.running.lock().remove(&self.asker);
    }
}

impl Served {
    fn has_room(&self) -> bool {
        self.running.lock().len() < SERVED_CAPACITY
    }

    /// Ends the answering of a request that was given up.
    fn forget(&self, asker: Asker) {
        let running = self.running.lock().remove(&asker);
        if let Some(running) = running {
            running.task.abort();
        }
    }

    /// Ends the answering of everything: whoever asked may have been told to
    /// give up, and that was lost, or may wait for an answer that was.
    async fn cut_off(&self) {
        let running = std::mem::take(&mut *self.running.lock());
        for (asker, running) in running {
            running.task.abort();
            self.answer(asker, Outcome::Refused(Nothing {})).await;
        }
    }

    /// The right to take over the session that was prepared for a request.
    fn claim(&self, asker: Asker) -> Option<oneshot::Sender<Asker>> {
        self.running.lock().get_mut(&asker)?.claim.take()
    }

    async fn serve(&self, asker: Asker, sid: String, what: What) {
        match what {
            What::Poll(_) => self.request(asker, sid, Verb::Poll).await,
            What::Push(body) => self.request(asker, sid, Verb::Push(body)).await,
            What::TooLarge(_) => self.request(asker, sid, Verb::TooLarge).await,
            What::MakeWay(_) => self.make_way(asker, sid).await,
            What::Alive(_) => self.answer(asker, Outcome::Alive(Nothing {})).await,
            What::HandOver(_) | What::GiveUp(_) => {}
        }
    }

    async fn request(&self, asker: Asker, sid: String, verb: Verb) {
        let Some(shard) = self.shard_of(&sid) else {
            return self.answer(asker, Outcome::Refused(Nothing {})).await;
        };
        let (answer, answered) = oneshot::channel();
        let request = SessionRequest { sid, verb };
        let outcome = match shard.try_send(Order::Request { request, answer }) {
            Ok(()) => match answered.await {
                Ok(answer) => Outcome::Answer(HttpAnswer {
                    status: answer.status.as_u16().into(),
                    body: answer.body,
                }),
                Err(_) => Outcome::Refused(Nothing {}),
            },
            Err(mpsc::error::TrySendError::Full(_)) => Outcome::Busy(Nothing {}),
            Err(mpsc::error::TrySendError::Closed(_)) => Outcome::Refused(Nothing {}),
        };
        self.answer(asker, outcome).await;
    }

    /// Prepares a session to move, and moves it if that is asked for in time.
    async fn make_way(&self, asker: Asker, sid: String) {
        let Some(Granted(claim)) = self.granted(sid).await else {
            return self.answer(asker, Outcome::Refused(Nothing {})).await;
        };
        let (sender, claimed) = oneshot::channel();
        if let Some(running) = self.running.lock().get_mut(&asker) {
            running.claim = Some(sender);
        }
        self.answer(asker, Outcome::Granted(Nothing {})).await;
        let mut claim = claim;
        let destination = tokio::select! {
            destination = claimed => destination,
            // It took too long.
            () = claim.closed() => return,
        };
        let Ok(destination) = destination else { return };
        let (state, moved) = oneshot::channel();
        let sent = claim.send(state).is_ok();
        let outcome = match moved.await {
            Ok(state) if sent => Outcome::Session(state::to_wire(state)),
            _ => Outcome::Refused(Nothing {}),
        };
        self.answer(destination, outcome).await;
    }

    async fn granted(&self, sid: String) -> Option<Granted> {
        let shard = self.shard_of(&sid)?;
        let (granted, answer) = oneshot::channel();
        shard.try_send(Order::MakeWay { sid, granted }).ok()?;
        answer.await.ok()
    }

    /// The shard of a session of this process.
    fn shard_of(&self, sid: &str) -> Option<&mpsc::Sender<Order>> {
        let place = Place::of(sid).filter(|place| place.gateway == self.id)?;
        self.shards.get(place.shard)
    }

    async fn answer(&self, (gateway, number): Asker, outcome: Outcome) {
        let most = self.bus.client().server_info().max_payload - OVERHEAD_BYTES;
        let reply = |outcome| {
            NeighbourReply {
                outcome: Some(outcome),
            }
            .encode_to_vec()
        };
        let mut body = reply(outcome);
        if body.len() > most {
            // What was taken from the session is lost, so that it must not
            // seem to go on.
            warn!(bytes = body.len(), "an answer is too large for the bus");
            body = reply(Outcome::Refused(Nothing {}));
        }
        let sent = self
            .bus
            .client()
            .publish(gateway.answer(number), body.into());
        if let Err(error) = sent.await {
            debug!(%error, "an answer to a neighbour was not sent");
        }
    }

    /// How many requests are being answered.
    #[cfg(test)]
    fn running(&self) -> usize {
        self.running.lock().len()
    }
}

#[cfg(test)]
impl Desk {
    /// Tells how many requests are being answered.
    pub(super) fn gauge(&self) -> impl Fn() -> usize + Send + use<> {
        let served = Arc::clone(&self.served);
        move || served.running()
    }
}

/// Tells of each time that the link to the bus was cut: answers may have been
/// lost. Never tells anything else.
async fn broken(link: &mut watch::Receiver<Link>, generation: &mut u64) -> bool {
    loop {
        if link.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        let now = *link.borrow_and_update();
        if !now.up || now.generation != *generation {
            *generation = now.generation;
            return true;
        }
    }
}
