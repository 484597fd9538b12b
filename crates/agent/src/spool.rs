//! Output on disk until it is acknowledged.

use std::time::Duration;

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes on disk for one command, headers included.
    pub command_bytes: u64,
    /// Bytes on disk for all commands.
    pub total_bytes: u64,
    /// How long a process waits in a full spool while nothing is acknowledged;
    /// then its output is dropped, and a gap recorded, until there is room.
    pub patience: Duration,
}
