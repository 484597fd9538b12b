//! The side that asks: requests to other gateways that wait for their answers,
//! all on one subscription, without a task each.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use prost::Message as _;
use signalbox_bus::Bus;
use signalbox_bus::subject::GatewayId;
use signalbox_protocol::wire::neighbour_reply::Outcome;
use signalbox_protocol::wire::neighbour_request::What;
use signalbox_protocol::wire::{NeighbourReply, NeighbourRequest, Nothing};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::debug;

use super::Patience;

/// Requests to other gateways that may await their answer at once, over all
/// shards: at least as many as polling clients. The next is answered 503.
const IN_FLIGHT_CAPACITY: usize = 65_536;
/// Requests given up of which the others have not been told; when full, they
/// find out by themselves, at the next ping of the session.
const GIVEN_UP_CAPACITY: usize = 4_096;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// The other gateway is gone, or took too long.
    Gone,
    /// Too many wait already.
    Busy,
}

/// A request whose answer is no longer awaited.
pub(super) struct GivenUp {
    gateway: GatewayId,
    number: u64,
}

/// Requests that wait for their answers.
pub(super) struct Calls {
    bus: Bus,
    id: GatewayId,
    patience: Patience,
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, Waiting>>,
    given_up: mpsc::Sender<GivenUp>,
}

struct Waiting {
    gateway: GatewayId,
    /// Dropped unused when the gateway is gone.
    outcome: oneshot::Sender<Outcome>,
}

impl Calls {
    pub(super) fn new(
        bus: Bus,
        id: GatewayId,
        patience: Patience,
    ) -> (Self, mpsc::Receiver<GivenUp>) {
        let (given_up, receiver) = mpsc::channel(GIVEN_UP_CAPACITY);
        let calls = Self {
            bus,
            id,
            patience,
            next: AtomicU64::new(1),
            waiting: Mutex::default(),
            given_up,
        };
        (calls, receiver)
    }

    pub(super) fn patience(&self) -> Patience {
        self.patience
    }

    /// Where this gateway is answered a request.
    pub(super) fn answer_subject(&self, number: u64) -> String {
        self.id.answer(number)
    }

    /// Asks another gateway. Dropped before the answer has come, it tells the
    /// other gateway so. Gives the number of the request with the outcome.
    pub(super) async fn ask(
        &self,
        gateway: GatewayId,
        sid: String,
        what: What,
        patience: Duration,
    ) -> Result<(u64, Outcome), Unanswered> {
        let (mut call, number) = self.enter(gateway)?;
        let request = NeighbourRequest {
            sid,
            what: Some(what),
        };
        let exchange = async {
            self.send(gateway, number, &request).await?;
            (&mut call.outcome).await.map_err(|_| Unanswered::Gone)
        };
        match timeout(patience, exchange).await {
            Ok(outcome) => outcome.map(|outcome| (number, outcome)),
            Err(_) => {
                debug!(%gateway, "a gateway does not answer");
                Err(Unanswered::Gone)
            }
        }
    }

    fn enter(&self, gateway: GatewayId) -> Result<(Call<'_>, u64), Unanswered> {
        let number = self.number();
        let (sender, outcome) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        if waiting.len() >= IN_FLIGHT_CAPACITY {
            return Err(Unanswered::Busy);
        }
        let entry = Waiting {
            gateway,
            outcome: sender,
        };
        waiting.insert(number, entry);
        let call = Call {
            calls: self,
            gateway,
            number,
            outcome,
        };
        Ok((call, number))
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    async fn send(
        &self,
        gateway: GatewayId,
        number: u64,
        request: &NeighbourRequest,
    ) -> Result<(), Unanswered> {
        let body = request.encode_to_vec().into();
        let (subject, reply) = (gateway.ask(), self.id.answer(number));
        let sent = self.bus.client().publish_with_reply(subject, reply, body);
        sent.await.map_err(|error| {
            debug!(%error, "a request to a gateway was not sent");
            Unanswered::Gone
        })
    }

    /// Tells another gateway that the answer to a request is not awaited, and
    /// that a session that was to move stays.
    pub(super) fn give_up(&self, gateway: GatewayId, number: u64) {
        self.given_up.try_send(GivenUp { gateway, number }).ok();
    }

    /// Passes on that a request was given up.
    pub(super) async fn tell(&self, given_up: GivenUp) {
        let GivenUp { gateway, number } = given_up;
        let request = NeighbourRequest {
            sid: String::new(),
            what: Some(What::GiveUp(self.id.answer(number))),
        };
        let body = request.encode_to_vec().into();
        let sent = self.bus.client().publish(gateway.ask(), body).await;
        if let Err(error) = sent {
            debug!(%error, "a gateway was not told");
        }
    }

    /// Takes an answer; `None` says that there is nobody to give one.
    pub(super) fn answered(&self, number: u64, reply: Option<&[u8]>) {
        // One that is not awaited any more.
        let Some(call) = self.waiting.lock().remove(&number) else {
            return;
        };
        let decoded = reply.and_then(|reply| NeighbourReply::decode(reply).ok()?.outcome);
        if let Some(outcome) = decoded {
            call.outcome.send(outcome).ok();
        }
    }

    /// Expects no answers from a gateway that is gone.
    pub(super) fn lost(&self, gateway: GatewayId) {
        let mut waiting = self.waiting.lock();
        let before = waiting.len();
        waiting.retain(|_, call| call.gateway != gateway);
        let lost = before - waiting.len();
        debug!(lost, %gateway, "a neighbour is gone");
    }

    /// Gives up everything, since answers may have been lost.
    pub(super) fn cut_off(&self) {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        if !waiting.is_empty() {
            debug!(lost = waiting.len(), "cut off from the neighbours");
        }
        for (number, call) in waiting {
            self.give_up(call.gateway, number);
        }
    }

    /// Asks every gateway from which an answer is awaited for a sign of life.
    /// Gives the numbers of these questions.
    pub(super) async fn probe(&self) -> HashMap<u64, GatewayId> {
        let gateways: HashSet<GatewayId> = {
            let waiting = self.waiting.lock();
            waiting.values().map(|call| call.gateway).collect()
        };
        let request = NeighbourRequest {
            sid: String::new(),
            what: Some(What::Alive(Nothing {})),
        };
        let mut probes = HashMap::with_capacity(gateways.len());
        for gateway in gateways {
            let number = self.number();
            if self.send(gateway, number, &request).await.is_ok() {
                probes.insert(number, gateway);
            }
        }
        probes
    }

    /// How many requests await their answer.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.waiting.lock().len()
    }
}

/// A request that waits. Dropped, it is given up unless it was answered.
struct Call<'a> {
    calls: &'a Calls,
    gateway: GatewayId,
    number: u64,
    outcome: oneshot::Receiver<Outcome>,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if self.calls.waiting.lock().remove(&self.number).is_some() {
            self.calls.give_up(self.gateway, self.number);
        }
    }
}
