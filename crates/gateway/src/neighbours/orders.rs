//! What is asked of the sessions of one shard, by other shards and, through the
//! desk, by other gateways.

use std::rc::Rc;
use std::time::Duration;

use signalbox_socketio::{Answer, Engine, Layer, SessionRequest, SessionState};
use signalbox_transport::PendingUpgrade;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::error;

/// Something for a shard to do.
pub(crate) enum Order {
    /// Answers a request. The other end gives up by dropping its half.
    Request {
        request: SessionRequest,
        answer: oneshot::Sender<Answer>,
    },
    /// Upgrades a session to this connection.
    Upgrade {
        sid: String,
        connection: PendingUpgrade,
    },
    /// Prepares a session to move.
    MakeWay {
        sid: String,
        granted: oneshot::Sender<Granted>,
    },
}

/// The right to take a session over: what is sent the way that is given here.
/// Dropped, it lets the session go on where it is.
pub(crate) struct Granted(pub(super) oneshot::Sender<oneshot::Sender<SessionState>>);

/// Does what is asked of an engine's sessions, for as long as anybody can ask.
///
/// Each session has at most one poll, one body and one move under way, so that
/// the tasks are bounded by the sessions.
pub(crate) async fn obey<L: Layer>(
    engine: Rc<Engine<L>>,
    mut orders: mpsc::Receiver<Order>,
    claim_patience: Duration,
) {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            Some(ended) = tasks.join_next() => {
                if let Err(error) = ended {
                    error!(%error, "a request of a neighbour panicked");
                }
            }
            order = orders.recv() => match order {
                Some(Order::Request { request, answer }) => {
                    tasks.spawn_local(reply(Rc::clone(&engine), request, answer));
                }
                Some(Order::Upgrade { sid, connection }) => engine.upgrade(&sid, connection),
                Some(Order::MakeWay { sid, granted }) => {
                    tasks.spawn_local(depart(Rc::clone(&engine), sid, granted, claim_patience));
                }
                None => return,
            }
        }
    }
}

async fn reply<L: Layer>(
    engine: Rc<Engine<L>>,
    request: SessionRequest,
    mut answer: oneshot::Sender<Answer>,
) {
    tokio::select! {
        // The request first: a body that is complete counts, whoever waits.
        biased;
        given = engine.request(request) => {
            // A client that has just left does not hear it.
            answer.send(given).ok();
        }
        () = answer.closed() => {}
    }
}

async fn depart<L: Layer>(
    engine: Rc<Engine<L>>,
    sid: String,
    mut granted: oneshot::Sender<Granted>,
    patience: Duration,
) {
    let departure = tokio::select! {
        biased;
        () = granted.closed() => return,
        departure = engine.make_way(&sid) => departure,
    };
    let Some(departure) = departure else { return };
    let (claim, claimed) = oneshot::channel();
    if granted.send(Granted(claim)).is_err() {
        return;
    }
    let Ok(Ok(mut destination)) = timeout(patience, claimed).await else {
        return;
    };
    tokio::select! {
        biased;
        () = destination.closed() => {}
        state = departure.hand_over() => {
            if let Some(state) = state {
                // Nobody to take it is the end of the session; its client
                // returns.
                destination.send(state).ok();
            }
        }
    }
}
