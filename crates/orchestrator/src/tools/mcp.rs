//! Tools of servers of the Model Context Protocol: programs that we run, and
//! addresses that we reach by HTTP.
//!
//! ```text
//! [mcp.files] ──▶ Servers ──tools──▶ Toolbox
//!                    │
//!                    └─ connection, one per server ──▶ stdio | http ──▶ server
//! ```
//!
//! Everything runs beside the orchestrator and never holds it up. A server's
//! tools are there from its first listing on; when it goes away they stay, and
//! their calls fail until it is back. Nothing that a server says is believed: it
//! is bounded where it is read, and contained where it is passed on.
//!
//! The protocol's messages and lifecycle are those of `rmcp`, the official
//! library; both transports are ours, because they are what is exposed to a
//! server: bounds on what is read, the end of a process and all its descendants,
//! one HTTP client in this program, and whether a call that failed may have been
//! executed.

mod call;
mod child;
mod config;
mod connection;
mod content;
mod guard;
mod http;
mod listing;
mod schema;
mod stdio;
mod watched;
mod wire;

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::RwLock;
use signalbox_service::{Shutdown, Tasks};
use tokio::sync::watch;

use self::connection::{Connection, State};
use self::listing::Listing;
use super::{Shelf, Tool};
use crate::provider::http::Client;

pub use self::call::NOT_REACHABLE;
pub use self::child::Program;
pub use self::config::{Needed, Pattern, Place, ServerConfig, Timing};
pub use self::guard::{GUARD_SUBCOMMAND, guard_main};
pub use self::http::Address;
pub use self::listing::{MAX_DESCRIPTION_BYTES, MAX_SCHEMA_BYTES, MAX_TOOLS};
pub use self::wire::MAX_MESSAGE_BYTES;

/// The longest name of a server, in bytes: what it leaves of a tool's name.
pub const MAX_SERVER_NAME_BYTES: usize = 32;

/// All servers, each with what it has listed.
#[derive(Clone, Debug)]
pub struct Servers {
    listings: Vec<Arc<RwLock<Arc<Listing>>>>,
}

impl Servers {
    /// Starts and connects to servers, which are ended with `shutdown`; `tasks`
    /// owns what runs for them. `launcher` is the program that has the guard
    /// ([`GUARD_SUBCOMMAND`]), where it is not the one that runs.
    #[must_use]
    pub fn start(
        configs: &[ServerConfig],
        timing: Timing,
        launcher: Option<PathBuf>,
        tasks: &Tasks,
        shutdown: &Shutdown,
    ) -> Self {
        let client = Client::new();
        let start = |config: &ServerConfig| {
            let listing = Arc::<RwLock<Arc<Listing>>>::default();
            let connection = Connection {
                config: config.clone(),
                timing,
                client: client.clone(),
                launcher: launcher.clone(),
                state: watch::Sender::new(State::Beginning),
                listing: Arc::clone(&listing),
            };
            tasks.spawn("tool server", connection.run(shutdown.clone()));
            listing
        };
        Self {
            listings: configs.iter().map(start).collect(),
        }
    }
}

impl Shelf for Servers {
    fn find(&self, name: &str) -> Option<Arc<Tool>> {
        let mut listings = self.listings.iter();
        listings.find_map(|listing| listing.read().get(name).cloned())
    }

    fn tools(&self) -> Vec<Arc<Tool>> {
        let listings = self.listings.iter().map(|listing| listing.read().clone());
        listings
            .flat_map(|listing| listing.values().cloned().collect::<Vec<_>>())
            .collect()
    }
}
