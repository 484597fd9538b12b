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
use self::listing::{Listing, name_for_models};
use super::{Settling, Shelf, Tool};
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
pub struct Servers(Vec<Server>);

#[derive(Clone, Debug)]
struct Server {
    /// What the names of its tools begin with.
    start: String,
    /// What it has, as of the last listing.
    listing: Arc<RwLock<Arc<Listing>>>,
    state: watch::Receiver<State>,
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
            let (state, seen) = watch::channel(State::Beginning);
            let connection = Connection {
                config: config.clone(),
                timing,
                client: client.clone(),
                launcher: launcher.clone(),
                state,
                listing: Arc::clone(&listing),
            };
            tasks.spawn("tool server", connection.run(shutdown.clone()));
            Server {
                start: name_for_models(&config.name, ""),
                listing,
                state: seen,
            }
        };
        Self(configs.iter().map(start).collect())
    }
}

impl Server {
    fn listed(&self) -> Arc<Listing> {
        Arc::clone(&self.listing.read())
    }

    /// Whether it may have a tool of this name, or of this beginning with a `*`.
    fn may_have(&self, name: &str) -> bool {
        let is_wider = |start| self.start.starts_with(start);
        name.starts_with(&self.start) || name.strip_suffix('*').is_some_and(is_wider)
    }
}

impl Shelf for Servers {
    fn find(&self, name: &str) -> Option<Arc<Tool>> {
        let mut listings = self.0.iter().map(Server::listed);
        listings.find_map(|listing| listing.get(name).cloned())
    }

    fn tools(&self) -> Vec<Arc<Tool>> {
        let listings = self.0.iter().map(Server::listed);
        listings
            .flat_map(|listing| listing.values().cloned().collect::<Vec<_>>())
            .collect()
    }

    fn settled(&self, names: &[String]) -> Settling {
        let may_have = |server: &&Server| names.iter().any(|name| server.may_have(name));
        let states = self.0.iter().filter(may_have);
        let states: Vec<_> = states.map(|server| server.state.clone()).collect();
        Box::pin(async move {
            for mut state in states {
                // One whose connection is over has nothing to come.
                let settled = state.wait_for(|state| !matches!(state, State::Beginning));
                settled.await.ok();
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_may_have_what_is_called_like_its_tools() {
        let server = Server {
            start: name_for_models("files", ""),
            listing: Arc::default(),
            state: watch::channel(State::Away).1,
        };
        for name in ["files__read", "files__*", "files__re*", "file*", "*"] {
            assert!(server.may_have(name), "{name}");
        }
        for name in ["files", "other__read", "other__*", "search_events"] {
            assert!(!server.may_have(name), "{name}");
        }
    }
}
