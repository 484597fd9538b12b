//! The router: takes events from EVENTS, checks them against the catalogue
//! and stores each once on TOPICS, or on DLQ with the reason.
//!
//! | direction | subject |
//! |---|---|
//! | in | `events.<domain>.<type>`, through one consumer per domain and holder of its lease |
//! | out | `topics.<channel>.<object>.<user>`, `dlq.<domain>.<type>` |
//! | both | `$KV.leases.router.<domain>`: who works on a domain |
//! | both | `$KV.leases.member.<id>`: which routers are alive |
//!
//! Routers share the domains: each works on at most `ceil(domains / routers)`
//! of them. It takes what nobody holds, gives its surplus away when another
//! joins, and gives everything away when it is stopped: it finishes what is in
//! flight, then releases the lease, and the successor starts at once. The
//! domains of one that is gone are free when its leases expire.
//!
//! Invariants:
//! - A domain's events come to one router at a time, through a consumer that
//!   only the holder of the latest generation of its lease can make, in the
//!   place of the former one. It delivers without gaps from the first event
//!   that nobody has acknowledged.
//! - An event is acknowledged to EVENTS after the bus acknowledged its copy on
//!   TOPICS or DLQ, never before.
//! - An event of a type that must be signed is stored on TOPICS only when its
//!   signature is that of its payload by one of the type's keys.
//! - On one TOPICS subject events lie in the order of EVENTS: one publish is in
//!   flight per subject, and each is fenced by the subject's last sequence.
//! - Nothing is published for an event that is already stored, whoever stored
//!   it.
//! - A router that lost a lease takes nothing more. One that was stopped for
//!   longer than its lease and goes on does no harm before it notices: its
//!   consumer is gone, and with it whatever it could take or acknowledge; what
//!   it took before, it took in order, and the fence refuses what others have
//!   stored.
//! - The lease decides who tries, never what is stored.

mod config;
mod error;
mod fence;
mod metrics;
mod post;
mod routing;
mod signatures;
mod worker;

use std::time::Duration;

use signalbox_bus::assignment::Assignment;
use signalbox_bus::connection::follow_link;
use signalbox_bus::lease::{self, Leases};
use signalbox_bus::{Bus, stream};
use signalbox_service::{Condition, Health, Shutdown, Tasks};
use tracing::info;

pub use crate::config::{Options, RouterArgs, RoutingArgs};
pub use crate::error::Error;
use crate::metrics::Metrics;
use crate::post::Post;
use crate::routing::Routing;
pub use crate::signatures::{InvalidRequirement, Requirement, Signatures, UnusableKeyFile};

/// How long the leases may take to be released once nothing is in flight.
const RELEASE: Duration = Duration::from_secs(5);

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
    lease::verify(&bus).await?;
    let metrics = Metrics::new();
    metrics.observe_bus(&bus);
    let tasks = Tasks::new(shutdown.clone());
    let id = format!("{:016x}", rand::random::<u64>());
    let leases = Leases::new(bus.clone(), &id, options.lease_ttl);
    let post = Post {
        bus: bus.clone(),
        routing: Routing::new(options.redact_fields, options.signatures),
        metrics,
        drain: options.drain,
    };
    let assignment = Assignment::new(bus.clone(), leases, post::domains(), post);
    let stop = shutdown.clone();
    tasks.spawn_critical("router assignment", async move {
        if let Err(cause) = assignment.run(stop.wait()).await {
            stop.fail(cause);
        }
    });
    // With or without a share: a router in reserve is as ready as the others.
    ready.set_ready();
    let following = follow_link(bus.link(), BUS_ABSENCE, move |up| {
        ready.set_ready_if(up, "the bus has been out of reach for 5 s");
    });
    tasks.spawn_until_shutdown("readiness", following);
    info!(router = %id, "routing");
    shutdown.wait().await;
    tasks.drain(options.drain + RELEASE).await;
    bus.drain().await;
    Ok(())
}
