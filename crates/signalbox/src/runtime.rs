//! `DIR/runtime.json`: where a running `up` can be reached, for the tools.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use signalbox_service::{ExitError, private_file};

const FILE: &str = "runtime.json";

/// The addresses of a running `up`. Holds passwords of the bus, so only the
/// owner may read it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Runtime {
    /// The process.
    pub(crate) pid: u32,
    /// The bus, for producers.
    pub(crate) nats_url: String,
    /// The bus, for tools that only look.
    pub(crate) observer_url: String,
    /// The bus, for tools that handle dead letters.
    pub(crate) operator_url: String,
    /// The bus, for tools that manage keys and users.
    pub(crate) registrar_url: String,
    /// The bus, for programs that answer calls of tools.
    pub(crate) responder_url: String,
    /// The gateway's listeners.
    pub(crate) listeners: Vec<SocketAddr>,
    /// Where other systems reach the auth service (gRPC); absent when it is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) grpc: Option<SocketAddr>,
    /// Health.
    pub(crate) admin: SocketAddr,
}

impl Runtime {
    /// Writes the file, for as long as the guard lives.
    pub(crate) fn publish(&self, data_dir: &Path) -> io::Result<Published> {
        let path = data_dir.join(FILE);
        private_file::write(&path, &serde_json::to_string_pretty(self)?)?;
        Ok(Published(path))
    }

    /// Reads the file of a running `up`.
    ///
    /// # Errors
    /// Says how to start one.
    pub(crate) fn read(data_dir: &Path) -> Result<Self, ExitError> {
        let path = data_dir.join(FILE);
        let text = fs::read_to_string(&path).map_err(|_| {
            ExitError::config(format!(
                "nothing runs on {}: start `signalbox up`, or name its directory with --data-dir",
                data_dir.display()
            ))
        })?;
        serde_json::from_str(&text)
            .map_err(|error| ExitError::config(format!("{}: {error}", path.display())))
    }

    /// The first listener, as clients write it.
    pub(crate) fn url(&self) -> Option<String> {
        self.listeners.first().map(|addr| format!("http://{addr}"))
    }
}

/// Removes the file when dropped.
pub(crate) struct Published(PathBuf);

impl Drop for Published {
    fn drop(&mut self) {
        fs::remove_file(&self.0).ok();
    }
}
