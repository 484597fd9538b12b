//! What this router does with a domain that it holds.

use std::time::Duration;

use signalbox_bus::assignment::{Hold, Left, Parts, Work};
use signalbox_bus::{Bus, key};
use signalbox_protocol::domain::Domain;
use tokio::time::sleep;

use crate::metrics::Metrics;
use crate::routing::Routing;
use crate::worker::{Ended, Worker};

/// The domains, one router for each.
pub(crate) fn domains() -> Parts<Domain> {
    Parts {
        service: "router",
        all: Domain::ALL.to_vec(),
        lease: key::router_lease,
        member: key::member,
        is_member: key::is_member,
    }
}

/// Works on domains; what all of them need.
#[derive(Clone)]
pub(crate) struct Post {
    pub(crate) bus: Bus,
    pub(crate) routing: Routing,
    pub(crate) metrics: Metrics,
    /// How long what is in flight may take to be finished.
    pub(crate) drain: Duration,
}

/// Says that a domain is held, for as long as it is.
struct Assigned {
    metrics: Metrics,
    domain: Domain,
}

impl Assigned {
    fn new(metrics: Metrics, domain: Domain) -> Self {
        metrics.of(domain).assigned.set(1);
        Self { metrics, domain }
    }
}

impl Drop for Assigned {
    fn drop(&mut self) {
        let counts = self.metrics.of(self.domain);
        counts.assigned.set(0);
        counts.held.set(0);
    }
}

impl Work<Domain> for Post {
    /// Finishes what is in flight when asked to leave; what takes longer than the
    /// drain comes again to the next holder.
    async fn hold(&self, hold: Hold<Domain>) -> Left {
        let _assigned = Assigned::new(self.metrics.clone(), hold.part);
        let stop = hold.stop.clone();
        let parts = (self.routing.clone(), self.metrics.clone());
        let worker = Worker::new(self.bus.clone(), hold, parts);
        let ended = tokio::select! {
            ended = worker.run() => ended,
            () = async {
                stop.wait().await;
                sleep(self.drain).await;
            } => Ended::Finished,
        };
        match ended {
            Ended::Finished => Left::Done,
            Ended::Lapsed | Ended::Superseded => Left::Superseded,
        }
    }
}
