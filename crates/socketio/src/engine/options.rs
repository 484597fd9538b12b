//! Settings of the Engine.IO layer. Every one has a default that suits a public listener.

use std::time::Duration;

use signalbox_transport::{OutboundLimits, SEND_BUFFER_BYTES};

/// Settings of an [`Engine`](super::Engine).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// From the opening of a session to the first ping, and from ping to ping; default 25 s.
    pub ping_interval: Duration,
    /// From a ping to the end of a session that has not answered it; default 20 s.
    pub ping_timeout: Duration,
    /// Bytes of the longest WebSocket message and of the longest polling body accepted, and of the
    /// longest polling response that is not a single packet; default 1,048,576. A longer one ends
    /// the session.
    pub max_payload: usize,
    /// Packets in one polling body; default 10,000. More end the session.
    pub max_packets: usize,
    /// How long the body of a POST may take to arrive; default 30 s. Then the session ends.
    pub body_timeout: Duration,
    /// From the upgrade request to the end of the upgrade; default 10 s. Then the WebSocket
    /// connection is closed and the session goes on by polling.
    pub upgrade_timeout: Duration,
    /// How long something of a session may be in progress that is to move to another engine;
    /// default 2 s. Then it does not move.
    pub move_patience: Duration,
    /// Bytes that a session may take along to another engine, as packets that were not fetched;
    /// default 3 MiB. One with more does not move, and its client returns as after a break.
    pub max_move_bytes: usize,
    /// Sessions at once; default 100,000. The next is answered 503.
    pub max_sessions: usize,
    /// Sessions at once from one address (or IPv6 /64) that the layer above has not settled;
    /// default 1,000. The next is answered 429.
    pub max_unsettled_per_address: usize,
    /// Bound of the kernel's send buffer of a WebSocket connection in bytes; default 256 KiB.
    pub send_buffer_bytes: usize,
    /// Bounds of what a session may have unwritten, on either transport, and of the closing. A
    /// session over them is closed with 1013, or the close packet. At least 1,000 frames and 1 MiB
    /// are granted.
    pub outbound: OutboundLimits,
}

/// The least queue that healthy clients need in bursts.
const LEAST_QUEUE_FRAMES: usize = 1000;
const LEAST_QUEUE_BYTES: usize = 1024 * 1024;

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            ping_interval: Duration::from_secs(25),
            ping_timeout: Duration::from_secs(20),
            max_payload: 1_048_576,
            max_packets: 10_000,
            body_timeout: Duration::from_secs(30),
            upgrade_timeout: Duration::from_secs(10),
            move_patience: Duration::from_secs(2),
            max_move_bytes: 3 * 1024 * 1024,
            max_sessions: 100_000,
            max_unsettled_per_address: 1_000,
            send_buffer_bytes: SEND_BUFFER_BYTES,
            outbound: OutboundLimits::default(),
        }
    }
}

impl EngineOptions {
    pub(super) fn queue(&self) -> OutboundLimits {
        OutboundLimits {
            queue_frames: self.outbound.queue_frames.max(LEAST_QUEUE_FRAMES),
            queue_bytes: self.outbound.queue_bytes.max(LEAST_QUEUE_BYTES),
            ..self.outbound
        }
    }
}
