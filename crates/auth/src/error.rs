//! Why the auth service cannot run, or a first start cannot be prepared.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use signalbox_bus::BusError;
use signalbox_identity::SigningError;
use signalbox_protocol::ErrorCode;

/// A failure that ends the auth service.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bus is out of reach or not as needed.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// A file or directory cannot be read or written.
    #[error("{}: {cause}", path.display())]
    File {
        /// Where.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// The gRPC listener cannot be opened, or has failed.
    #[error("gRPC on {addr}: {cause}")]
    Grpc {
        /// Where.
        addr: SocketAddr,
        /// Why not.
        cause: io::Error,
    },
    /// The directory holds no signing key.
    #[error("no signing key in {}: expected at least one file *.pem", .0.display())]
    NoSigningKey(PathBuf),
    /// A file of the directory is not a signing key.
    #[error("{}: {cause}", path.display())]
    SigningKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: SigningError,
    },
    /// No new signing key could be made.
    #[error("cannot make a signing key: {0}")]
    Generate(#[source] SigningError),
    /// The file of external issuers cannot be used.
    #[error("{}: {problem}", path.display())]
    Issuers {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The file with the first API keys cannot be used.
    #[error("{}: {problem}", path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, without what it holds.
        problem: String,
    },
}

impl Error {
    /// The code that a peer would see.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Bus(_) => ErrorCode::Unavailable,
            Self::File { .. }
            | Self::Grpc { .. }
            | Self::NoSigningKey(_)
            | Self::SigningKey { .. }
            | Self::Generate(_)
            | Self::Issuers { .. }
            | Self::Credentials { .. } => ErrorCode::Internal,
        }
    }
}
