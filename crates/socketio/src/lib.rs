//! Engine.IO 4 and Socket.IO 5, the server's side, on the shards and the write path of
//! `signalbox-transport`. Knows no dialect and no bus.
//!
//! # Who calls what
//!
//! ```text
//! HTTP layer ─▶ Engine::handle ─▶ polling, WebSocket, upgrade, heartbeat ─▶ SocketIo ─▶ Handler
//! (CORS, TLS)   one per shard     Layer: messages of a session             namespaces   the user
//!
//! whoever has events ─▶ Socket::emit(&Packet), or Socket::outbound().send(frames) ─▶ Outbound
//! ```
//!
//! 1. Each shard has one [`Engine`] over a [`SocketIo`] with the user's [`Handler`], and polls
//!    [`Engine::run`].
//! 2. The HTTP layer hands every request of the Engine.IO path to [`Engine::handle`]. Requests for
//!    sessions of other shards or gateways leave by [`Layer::elsewhere`] and come in by
//!    [`Engine::request`], as values. A WebSocket connection that arrives elsewhere goes to its
//!    session or has it come, see [`UpgradeElsewhere`] and [`Handler::freeze`].
//! 3. [`Handler::connect`] decides on each CONNECT, as slowly as it must, and joins its rooms;
//!    nothing comes between its verdict and the answer, so that no event is lost.
//! 4. Events are built once as a [`Packet`] and sent to any number of sockets.
//!
//! # Invariants
//!
//! - A session is in one engine at a time, and there one `Outbound` from its beginning to its end.
//!   Polling is a `Socket` below it that blocks while no GET waits, and an upgrade replaces that
//!   socket: whoever sends need not know.
//! - What is emitted goes out in order, once, whatever the transport. A response that is lost on
//!   its way is not repeated: that is what connection state recovery is for.
//! - Nothing grows without a bound and nothing waits without a deadline; [`EngineOptions`] and
//!   [`SocketIoOptions`] have them all. A session has no task and no timer of its own, apart from
//!   the task that reads its WebSocket connection.
//! - A client that breaks the protocol loses its transport. One that is refused a namespace keeps
//!   it. While draining nobody is refused, since clients take a refusal for good.

pub mod codec;
pub mod engine;
mod namespace;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

pub use self::{
    codec::{Malformed, Packet, PacketBuilder},
    engine::{
        Answer, EndReason, Engine, EngineOptions, Layer, Link, SessionRequest, SessionState,
        Transport, UpgradeElsewhere,
    },
    namespace::{
        Ack, AckError, Acknowledgement, Connecting, DisconnectReason, Event, Handler, Recovery,
        Refusal, Socket, SocketIo, SocketIoOptions, Verdict,
    },
};

/// Random bytes of an id: 144 bits cannot be guessed, and make 24 characters.
const ID_BYTES: usize = 18;

/// A new id that nobody can guess, of letters, digits, `-` and `_`.
pub fn random_id() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; ID_BYTES]>())
}
