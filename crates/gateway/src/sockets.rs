//! Dialects `pipeline` and `workspace`, which share a namespace of Socket.IO:
//! the sockets of one shard. What is said to clients, and what they may say, is
//! in `dialect` and in the frames of `protocol`.
//!
//! ```text
//! routes ─▶ Call ─▶ serve ─▶ Engine ─▶ Sockets ─┬─ enter, recovery   who is let in, as what
//!                                               ├─ commands          what clients say, in turn
//!                                               ├─ rooms, feeds      what they get, from the hub
//!                                               └─ keeping           what they come back to
//! ```
//!
//! - What a client is told that it has joined or left is in the ledger before.
//! - A client is let in with all its subscriptions standing: nothing that is
//!   stored after the answer to its CONNECT is missed.
//! - A client that has to leave for good is told why and sent out of the
//!   namespace, since the stock libraries return after the close of a
//!   transport, and only then.

mod clock;
mod commands;
mod enter;
mod feeds;
mod hello;
mod holder;
mod identity;
mod keeping;
mod moving;
mod occupancy;
mod offences;
mod opening;
mod recovery;
mod rooms;
mod seat;
mod tasks;

use std::cell::RefCell;
use std::collections::HashSet;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode};
use http_body_util::Full;
use signalbox_socketio::{
    Ack, Answer, Connecting, DisconnectReason, EndReason, EngineOptions, Event, Handler, Link,
    SessionRequest, Socket, SocketIo, SocketIoOptions, UpgradeElsewhere, Verdict,
};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::{debug, info};

use self::clock::Clock;
pub use self::hello::RefuseBy;
pub(crate) use self::occupancy::{Occupancy, Occupants};
pub(crate) use self::offences::Offences;
pub(crate) use self::opening::{Guest, Opening};
pub(crate) use self::seat::Seated;
use self::tasks::Tasks;
use crate::config::Options;
use crate::counts::End;
use crate::ledger::Ledger;
use crate::neighbours::{Neighbourhood, Order, obey};
use crate::shard::Shard;

/// Log target of the lines about who came, went and was refused.
const AUDIT: &str = "audit";
/// Requests that wait for the shard; when full, further ones are answered 503.
pub(crate) const CALLS_CAPACITY: usize = 4_096;
/// The longest message of a client that has not said who it is, in bytes.
const MAX_STRANGERS_BYTES: usize = 64 * 1024;
/// How long a session may be in no namespace.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Clients sent away at once when draining.
const FAREWELL_BATCH: usize = 64;

/// The engine of a shard.
pub(crate) type Engine = signalbox_socketio::Engine<SocketIo<Sockets>>;

/// A request of the Engine.IO path, on its way to a shard.
pub(crate) struct Call {
    pub(crate) request: Request,
    pub(crate) peer: IpAddr,
    /// Where the answer goes; closed when the client has given up.
    pub(crate) answer: oneshot::Sender<Response<Full<Bytes>>>,
}

/// The sockets of one shard.
pub(crate) struct Sockets {
    shard: Rc<Shard>,
    ledger: Rc<Ledger>,
    clock: Rc<Clock>,
    tasks: Tasks,
    /// Where sessions are that are not here.
    neighbours: Neighbourhood,
    /// Sessions whose client has said who it is.
    trusted: RefCell<HashSet<Rc<str>>>,
}

/// The engine of a shard, with its sockets.
pub(crate) fn engine(
    shard: &Rc<Shard>,
    ledger: Rc<Ledger>,
    neighbours: Neighbourhood,
) -> Rc<Engine> {
    let options = &shard.shared.options;
    let sockets = Rc::new(Sockets {
        shard: Rc::clone(shard),
        ledger,
        clock: Rc::default(),
        tasks: Tasks::default(),
        neighbours,
        trusted: RefCell::default(),
    });
    let layer = SocketIoOptions {
        connect_timeout: options.authentication.unwrap_or(CONNECT_TIMEOUT),
        ..SocketIoOptions::default()
    };
    Engine::new(SocketIo::new(sockets, layer), engine_options(options))
}

/// The settings of every shard's engine.
pub(crate) fn engine_options(options: &Options) -> EngineOptions {
    let unlimited = |limit: u32| match limit {
        0 => usize::MAX,
        limit => limit as usize,
    };
    EngineOptions {
        max_payload: options.websocket.max_message_bytes,
        max_sessions: options.admission.max_connections,
        max_unsettled_per_address: unlimited(options.admission.max_unauthenticated),
        send_buffer_bytes: options.websocket.send_buffer_bytes,
        outbound: options.websocket.outbound,
        body_timeout: options.http.header_read_timeout,
        ..EngineOptions::default()
    }
}

/// Answers requests and runs everything that the sockets of a shard need; ends
/// when it is dropped.
pub(crate) async fn serve(
    engine: &Rc<Engine>,
    mut calls: mpsc::Receiver<Call>,
    orders: mpsc::Receiver<Order>,
) {
    let sockets = Rc::clone(engine.layer().handler());
    let answering = async {
        let mut answering = JoinSet::new();
        loop {
            tokio::select! {
                Some(call) = calls.recv() => answer(engine, &sockets, call, &mut answering),
                Some(_) = answering.join_next() => {}
                else => std::future::pending().await,
            }
        }
    };
    let ringing = async {
        loop {
            let seat = sockets.clock.next().await;
            sockets.call_on(&seat);
        }
    };
    tokio::select! {
        () = engine.run() => {}
        () = answering => {}
        () = ringing => {}
        () = sockets.ledger.keep() => {}
        () = obey(Rc::clone(engine), orders, sockets.neighbours.claim_patience()) => {}
        () = sockets.hear_of_losses() => {}
    }
}

/// Has the engine answer a request, for as long as its client waits.
fn answer(engine: &Rc<Engine>, sockets: &Sockets, call: Call, answering: &mut JoinSet<()>) {
    let Call {
        request,
        peer,
        mut answer,
    } = call;
    // Polling takes many connections for one session; none of them is a
    // stranger's once that is known.
    let query = request.uri().query().unwrap_or_default();
    let guest = request.extensions().get::<Guest>();
    let mut stranger = guest.map(|guest| Arc::clone(&guest.visitor.ticket));
    if sockets.knows(query) {
        stranger.take().inspect(|ticket| ticket.authenticated());
    } else {
        // Who it is, another gateway knows: it has an answer for no one else.
        stranger = stranger.filter(|_| sockets.neighbours.are_asked(query));
    }
    let answered = engine.handle(request, peer);
    answering.spawn_local(async move {
        let response = tokio::select! {
            response = answered => response,
            () = answer.closed() => return,
        };
        if let Some(ticket) = stranger
            && response.status() == StatusCode::OK
        {
            ticket.authenticated();
        }
        answer.send(response).ok();
    });
}

/// Sends every client away over `window`: those of the stock libraries return,
/// to another gateway.
pub(crate) async fn drain(engine: &Rc<Engine>, window: Duration) {
    engine.drain();
    let links = engine.links();
    info!(
        sessions = links.len(),
        "telling socket.io clients to return elsewhere"
    );
    let batches = links.len().div_ceil(FAREWELL_BATCH).max(1);
    let pause = window / u32::try_from(batches).unwrap_or(u32::MAX);
    for batch in links.chunks(FAREWELL_BATCH) {
        for link in batch {
            link.close();
        }
        sleep(pause).await;
    }
}

impl Sockets {
    /// Whether a query names a session whose client has said who it is.
    fn knows(&self, query: &str) -> bool {
        let trusted = self.trusted.borrow();
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.any(|(name, value)| name == "sid" && trusted.contains(value))
    }
}

impl Handler for Sockets {
    type Opening = Opening;
    type Data = Seated;

    fn session_id(&self) -> String {
        self.neighbours.session_id()
    }

    async fn elsewhere(&self, request: SessionRequest) -> Option<Answer> {
        self.neighbours.elsewhere(request).await
    }

    fn upgrade_elsewhere(&self, sid: &str) -> Option<UpgradeElsewhere> {
        self.neighbours.upgrade_elsewhere(sid)
    }

    fn open(&self, request: &Parts, _peer: IpAddr) -> Result<Opening, Answer> {
        if !*self.shard.shared.bus_present.borrow() {
            let sentence = "the bus is out of reach, try again";
            return Err(Answer::denied(StatusCode::SERVICE_UNAVAILABLE, sentence));
        }
        Opening::read(request)
            .ok_or_else(|| Answer::denied(StatusCode::INTERNAL_SERVER_ERROR, "internal error"))
    }

    fn opened(&self, link: &Rc<Link>, _opening: &Rc<Opening>) {
        let limit = self.shard.shared.options.websocket.max_message_bytes;
        link.set_max_payload(limit.min(MAX_STRANGERS_BYTES));
    }

    async fn connect(self: Rc<Self>, connecting: Connecting<Self>) -> Verdict<Seated> {
        self.enter(connecting).await
    }

    fn connected(&self, _socket: &Socket, data: &Rc<Seated>) {
        if let Some(desk) = data.seat.desk.upgrade() {
            desk.greet(&data.seat);
        }
    }

    fn event(&self, _socket: &Socket, data: &Rc<Seated>, event: Event<'_>, ack: Option<Ack>) {
        if let Some(desk) = data.seat.desk.upgrade() {
            desk.hear(&data.seat, &event, ack);
        }
    }

    fn is_busy(&self, _socket: &Socket, data: &Rc<Seated>) -> bool {
        self.is_at_work(&data.seat)
    }

    fn freeze(&self, _socket: &Socket, data: &Rc<Seated>) -> Option<Vec<u8>> {
        self.state_of(&data.seat)
    }

    fn freeze_opening(&self, opening: &Opening) -> Option<Vec<u8>> {
        Some(opening.state())
    }

    fn thaw_opening(&self, here: Opening, opening: &[u8]) -> Option<Opening> {
        Opening::of_state(here, opening)
    }

    async fn thaw(
        self: Rc<Self>,
        socket: Socket,
        opening: Rc<Opening>,
        data: Vec<u8>,
    ) -> Option<Seated> {
        self.move_in(socket, opening, &data).await
    }

    fn thawed(&self, _socket: &Socket, data: &Rc<Seated>) {
        self.tell_of_losses(&data.seat);
    }

    fn disconnect(&self, socket: &Socket, data: &Rc<Seated>, reason: DisconnectReason) {
        let seat = &data.seat;
        seat.withdraw(&self.clock);
        if reason == DisconnectReason::ClientLeft {
            seat.forgotten.set(true);
        }
        if let Some(desk) = seat.desk.upgrade() {
            desk.let_go(seat);
        }
        if reason == DisconnectReason::Ended(EndReason::TooLarge)
            && let Some(principal) = seat.principal()
        {
            self.shard.shared.offences.note(&principal.subject);
        }
        if let Some(end) = end_of(reason) {
            self.shard.counts.note(end);
        }
        info!(
            target: AUDIT,
            session = %seat.name,
            reason = %reason,
            bytes = socket.outbound().bytes_sent(),
            duration = ?seat.began.elapsed(),
            "disconnected"
        );
        debug!(session = %seat.name, transport = ?socket.link().transport(), "left");
    }
}

/// How metrics count an end; a client that has moved goes on.
fn end_of(reason: DisconnectReason) -> Option<End> {
    Some(match reason {
        DisconnectReason::Moved => return None,
        DisconnectReason::ClientLeft | DisconnectReason::Ended(EndReason::ClientClosed) => {
            End::Peer
        }
        DisconnectReason::Ended(EndReason::TransportError) => End::Network,
        DisconnectReason::Ended(EndReason::PingTimeout) => End::Silent,
        DisconnectReason::Ended(EndReason::SlowReader) => End::Slow,
        DisconnectReason::ServerLeft
        | DisconnectReason::Ended(
            EndReason::ServerClosed
            | EndReason::Malformed
            | EndReason::TooLarge
            | EndReason::Unsettled,
        ) => End::Gateway,
    })
}
