//! The router: takes events from EVENTS, checks them against the catalogue
//! and stores each once on TOPICS, or on DLQ with the reason.
//!
//! | direction | subject |
//! |---|---|
//! | in | `events.<domain>.<type>`, through one durable consumer per domain |
//! | out | `topics.<channel>.<object>.<user>`, `dlq.<domain>.<type>` |
//!
//! Invariants:
//! - An event is acknowledged to EVENTS after the bus acknowledged its copy on
//!   TOPICS or DLQ, never before.
//! - On one TOPICS subject events lie in the order of EVENTS: one publish is in
//!   flight per subject, and each is fenced by the subject's last sequence.
//! - Nothing is published for an event that is already stored, whoever stored
//!   it.

mod config;
mod error;
mod fence;
mod routing;
mod worker;

use std::time::Duration;

use signalbox_bus::connection::follow_link;
use signalbox_bus::{Bus, stream};
use signalbox_protocol::domain::Domain;
use signalbox_service::{Condition, Health, Shutdown, Tasks};
use tracing::info;

pub use crate::config::{Options, RouterArgs, RoutingArgs};
pub use crate::error::Error;
use crate::routing::Routing;
use crate::worker::Worker;

/// How long the router may be without the bus before it is not ready.
const BUS_ABSENCE: Duration = Duration::from_secs(5);

/// Runs the router until `shutdown`.
///
/// # Errors
/// When the bus is out of reach at start, or its streams are not as needed.
pub async fn run(options: Options, health: &Health, shutdown: Shutdown) -> Result<(), Error> {
    let ready: Condition = health.condition("router");
    let bus = Bus::connect(&options.bus, "signalbox-router").await?;
    for name in [stream::EVENTS, stream::TOPICS, stream::DLQ] {
        stream::verify(&bus, name).await?;
    }
    let tasks = Tasks::new(shutdown.clone());
    let routing = Routing::new(options.redact_fields);
    for domain in Domain::ALL {
        let worker = Worker::new(bus.clone(), domain, routing.clone(), shutdown.clone());
        tasks.spawn_critical("router worker", worker.run());
    }
    ready.set_ready();
    tasks.spawn(
        "readiness",
        follow_link(bus.link(), BUS_ABSENCE, move |up| match up {
            true => ready.set_ready(),
            false => ready.set_not_ready("the bus has been out of reach for 5 s"),
        }),
    );
    info!("routing");
    shutdown.wait().await;
    tasks.drain(options.drain).await;
    bus.drain().await;
    Ok(())
}
