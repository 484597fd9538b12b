//! The way bytes travel between a gateway and its clients: shards, HTTP up to the upgrade, and
//! WebSocket connections that cost next to nothing while idle. Knows no dialect and no bus.
//!
//! # Who calls what
//!
//! ```text
//! listener ─▶ serve_http ─▶ upgrade::accept ─▶ PendingUpgrade ─▶ WebSocket ─┬─ next()
//!             hyper         101 or a refusal   the TcpStream,               │  a session reads
//!                                              out of hyper                 └─ outbound()
//!                                                  everyone who has frames writes: Outbound::send
//! ```
//!
//! 1. [`Shards::start`] gives every shard a thread with a single-threaded runtime. A connection
//!    lives and dies on one shard.
//! 2. [`serve_http`] answers HTTP on an accepted socket; a handler turns an upgrade request into a
//!    response with [`upgrade::accept`] and hands the [`PendingUpgrade`] to a new local task.
//! 3. That task takes the bare [`TcpStream`](tokio::net::TcpStream) out of hyper, wraps it with
//!    [`WebSocket::new`], gives the [`Outbound`] to whoever writes, and calls [`WebSocket::next`]
//!    until it says [`Incoming::Closed`].
//! 4. A fan-out builds each [`Frame`] once and calls [`Outbound::send`] with the frames of a batch
//!    for every subscriber.
//!
//! # Invariants
//!
//! - Every outgoing byte passes the connection's one [`Outbound`], as whole frames, in order;
//!   control frames overtake queued data frames, urgent data frames overtake other ones, neither part
//!   of one; nothing follows a Close frame.
//! - An idle connection owns no buffer and no task but the session's own. A queue exists only while
//!   its socket would block, a decoder only while part of a message has arrived.
//! - Nothing grows without a bound: the queue has a frame and a byte limit, messages a size limit,
//!   every wait a deadline.
//! - After the upgrade nothing is shared between threads: handles are `Rc`, states are cells, there
//!   are no locks.

mod closure;
mod frame;
mod http1;
mod http_stream;
mod outbound;
mod shard;
mod socket;
pub mod upgrade;
mod websocket;

pub use closure::{ClosedBy, Closure};
pub use frame::{CloseCode, Frame, FrameKind, MAX_CLOSE_REASON_BYTES, MAX_CONTROL_PAYLOAD_BYTES};
pub use http1::{HttpLimits, serve_http};
pub use outbound::{Outbound, OutboundLimits, READER_TOO_SLOW, Sent};
pub use shard::{ShardIndex, ShardPanicked, Shards, shard_count_for};
pub use socket::{SEND_BUFFER_BYTES, Socket, set_send_buffer};
pub use upgrade::{PendingUpgrade, UpgradeRejection};
pub use websocket::{Incoming, MAX_MESSAGE_BYTES, SILENCE, Utf8Bytes, WebSocket, WebSocketOptions};
