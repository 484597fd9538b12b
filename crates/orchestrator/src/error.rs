//! Why the orchestrator cannot run.

use signalbox_bus::BusError;
use signalbox_protocol::ErrorCode;

/// A failure that ends the orchestrator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bus is out of reach or not as needed.
    #[error(transparent)]
    Bus(#[from] BusError),
}

impl Error {
    /// The code that a peer would see.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Bus(_) => ErrorCode::Unavailable,
        }
    }
}
