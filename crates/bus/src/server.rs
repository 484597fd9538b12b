//! The `nats-server` of a single machine: found, configured, started and kept
//! running by the process that needs it.
//!
//! The server listens on loopback only, keeps its data below a directory that
//! one process at a time may use ([`DataDir`]), gives every service a user
//! with no more rights than it needs ([`User`]), and ends with its parent, even
//! when that is killed ([`ManagedServer`]). Nothing here speaks NATS: streams
//! and connections are the business of the rest of the crate. Where a server
//! is given by `NATS_URL`, nothing of this is used.

mod child;
mod config;
mod credentials;
mod data_dir;
mod locate;
mod permission;
mod supervisor;

pub use self::{
    child::{CHILD_SUBCOMMAND, child_main},
    config::{
        ANSWER_WITHIN, DEFAULT_MAX_PAYLOAD_BYTES, DEFAULT_SYNC_INTERVAL, ServerConfig, ServerFiles,
    },
    credentials::Credentials,
    data_dir::{DataDir, LockError, free_bytes},
    locate::{LocateError, MINIMUM_VERSION, Version, locate},
    permission::{Permissions, User},
    supervisor::{ManagedServer, StartError},
};
