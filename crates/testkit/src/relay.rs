//! Relays around a NATS server of their own, without anything else.

use signalbox_bus::server::User;
use signalbox_bus::{Bus, BusOptions};

use crate::platform::{command, spawn};
use crate::{DEADLINE, NatsServer, Process, Service};

/// A bus that `init` has prepared for relays.
#[derive(Debug)]
pub struct RelayBus {
    /// The bus.
    pub nats: NatsServer,
}

impl RelayBus {
    /// Starts the bus.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start() -> Self {
        let nats = NatsServer::start().await;
        let init = Process::spawn(command(&nats, User::Admin, "init"));
        let status = init.wait(DEADLINE).await;
        assert!(
            status.success(),
            "init failed\n{}",
            init.stderr().lines().join("\n")
        );
        Self { nats }
    }

    /// Starts a relay, with a short lease and these arguments; the caller keeps
    /// it.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn relay(&self, arguments: &[&str]) -> Service {
        let mut relay = command(&self.nats, User::Relay, "relay");
        relay
            .env("SIGNALBOX_LEASE_TTL", "1")
            .env("SIGNALBOX_AGENT_BEAT", "200")
            .args(arguments);
        spawn(relay).await
    }

    /// A connection to the bus as `user`, as services have it.
    ///
    /// # Panics
    /// When the bus does not let it in.
    pub async fn bus(&self, user: User) -> Bus {
        let options = BusOptions {
            url: self.nats.url(user),
            wait: DEADLINE,
        };
        Bus::connect(&options, "test")
            .await
            .expect("the bus is there")
    }
}
