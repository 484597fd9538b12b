//! Why the gateway cannot run.

use std::io;

use signalbox_bus::BusError;
use signalbox_limits::InvalidRedisUrl;
use signalbox_protocol::ErrorCode;
use signalbox_transport::ShardPanicked;

/// A failure that ends the gateway.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bus is out of reach or not as needed.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// Limits cannot be counted where they should be.
    #[error("--redis-url: {0}")]
    Limits(#[from] InvalidRedisUrl),
    /// A listener cannot be bound.
    #[error("cannot listen on {addr}: {cause}")]
    Bind {
        /// Where.
        addr: std::net::SocketAddr,
        /// Why not.
        cause: io::Error,
    },
    /// The threads that serve connections cannot be started.
    #[error("cannot start shards: {0}")]
    Shards(#[source] io::Error),
    /// A thread that serves connections panicked.
    #[error(transparent)]
    Panicked(#[from] ShardPanicked),
}

impl Error {
    /// The code that a peer would see.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Bus(_) => ErrorCode::Unavailable,
            Self::Limits(_) | Self::Bind { .. } | Self::Shards(_) | Self::Panicked(_) => {
                ErrorCode::Internal
            }
        }
    }
}
