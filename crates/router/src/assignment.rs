//! Which domains this router works on: as many of those that nobody holds as
//! are its share, each for as long as it holds the domain's lease.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use signalbox_bus::lease::{LeaseError, LeaseWatch, Leaseholders, Leases};
use signalbox_bus::{Bus, key};
use signalbox_protocol::domain::Domain;
use signalbox_service::Shutdown;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::metrics::Metrics;
use crate::routing::Routing;
use crate::share::{self, Standing};
use crate::worker::{Ended, Worker};

/// The pause after a lease that was not acquired; meanwhile the watch may tell
/// who was faster.
const PAUSE: Duration = Duration::from_millis(100);
/// How long the release of a lease may take; one that is not released expires.
const RELEASE_PATIENCE: Duration = Duration::from_secs(2);

/// A domain that this router has taken up.
struct Engagement {
    standing: Standing,
    /// Asks its worker to finish.
    stop: Shutdown,
}

/// The router's part among routers.
pub(crate) struct Assignment {
    bus: Bus,
    leases: Leases,
    routing: Routing,
    metrics: Metrics,
    drain: Duration,
    shutdown: Shutdown,
    engagements: BTreeMap<Domain, Engagement>,
    /// The work on each of them; ends with the domain.
    work: JoinSet<Domain>,
    holders: Leaseholders,
}

impl Assignment {
    pub(crate) fn new(
        bus: Bus,
        leases: Leases,
        routing: Routing,
        metrics: Metrics,
        drain: Duration,
        shutdown: Shutdown,
    ) -> Self {
        Self {
            bus,
            leases,
            routing,
            metrics,
            drain,
            shutdown,
            engagements: BTreeMap::new(),
            work: JoinSet::new(),
            holders: Leaseholders::new(),
        }
    }

    /// Takes and gives domains until shutdown, then gives all of them away.
    pub(crate) async fn run(mut self) {
        let mut watch = LeaseWatch::new(self.bus.clone());
        let shutdown = self.shutdown.clone();
        let mut present = pin!(be_present(self.leases.clone(), shutdown.clone()));
        let mut is_present = true;
        let mut stopping = pin!(shutdown.wait());
        loop {
            tokio::select! {
                () = &mut stopping => break,
                () = &mut present, if is_present => is_present = false,
                holders = watch.changed() => self.holders.clone_from(holders),
                Some(ended) = self.work.join_next() => self.note_end(ended),
            }
            self.rebalance();
        }
        // No member any more before the first lease is released: the others
        // take no more than a share of what is counted among the living.
        if is_present {
            present.await;
        }
        for engagement in self.engagements.values() {
            engagement.stop.trigger();
        }
        while self.work.join_next().await.is_some() {}
    }

    fn note_end(&mut self, ended: Result<Domain, tokio::task::JoinError>) {
        match ended {
            Ok(domain) => {
                self.engagements.remove(&domain);
            }
            Err(error) => self.shutdown.fail(format!("router worker: {error}")),
        }
    }

    fn rebalance(&mut self) {
        let own = self
            .engagements
            .iter()
            .map(|(domain, engagement)| (*domain, engagement.standing))
            .collect();
        let plan = share::plan(self.leases.holder(), &self.holders, &own);
        for domain in plan.give {
            if let Some(engagement) = self.engagements.get_mut(&domain) {
                debug!(%domain, "above the share");
                engagement.standing = Standing::Leaving;
                engagement.stop.trigger();
            }
        }
        for domain in plan.take {
            let stop = Shutdown::new();
            let engagement = Engagement {
                standing: Standing::Working,
                stop: stop.clone(),
            };
            self.engagements.insert(domain, engagement);
            self.work.spawn(work_on(
                domain,
                self.bus.clone(),
                self.leases.clone(),
                (self.routing.clone(), self.metrics.clone()),
                stop,
                self.drain,
            ));
        }
    }
}

/// Is counted among the living until shutdown.
async fn be_present(leases: Leases, shutdown: Shutdown) {
    let key = key::member(leases.holder());
    while !shutdown.is_triggered() {
        let acquired = tokio::select! {
            acquired = leases.acquire(&key) => acquired,
            () = passed(&shutdown, PAUSE) => return,
        };
        let mut lease = match acquired {
            Ok(lease) => lease,
            Err(cause) => {
                info!(%cause, "not announced");
                sleep(PAUSE).await;
                continue;
            }
        };
        tokio::select! {
            () = lease.keep() => warn!("no longer counted among the routers, joining again"),
            () = shutdown.wait() => lease.release().await,
        }
    }
}

/// Acquires a domain's lease and works for as long as it lasts, or until
/// `stop`; then what is in flight is finished, and the lease released.
async fn work_on(
    domain: Domain,
    bus: Bus,
    leases: Leases,
    (routing, metrics): (Routing, Metrics),
    stop: Shutdown,
    drain: Duration,
) -> Domain {
    let key = key::router_lease(domain);
    let acquired = tokio::select! {
        acquired = leases.acquire(&key) => acquired,
        () = passed(&stop, PAUSE) => return domain,
    };
    let mut lease = match acquired {
        Ok(lease) => lease,
        Err(cause) => {
            match cause {
                LeaseError::Taken(holder) => debug!(%domain, %holder, "domain is taken"),
                LeaseError::Bus(cause) => info!(%domain, %cause, "domain not acquired"),
            }
            sleep(PAUSE).await;
            return domain;
        }
    };
    info!(%domain, generation = %lease.generation(), "domain taken over");
    metrics.of(domain).assigned.set(1);
    let parts = (routing, metrics.clone());
    let worker = Worker::new(bus, domain, parts, &lease, stop.clone());
    let ended = tokio::select! {
        // The lease first: once it is lost, nothing more is done.
        biased;
        () = lease.keep() => Ended::Lapsed,
        ended = worker.run() => ended,
        // What is left behind comes again to the next holder.
        () = passed(&stop, drain) => Ended::Finished,
    };
    metrics.of(domain).assigned.set(0);
    metrics.of(domain).held.set(0);
    match ended {
        Ended::Finished => {
            if timeout(RELEASE_PATIENCE, lease.release()).await.is_ok() {
                info!(%domain, "domain released");
            } else {
                warn!(%domain, "domain not released in time, its lease will expire");
            }
        }
        Ended::Lapsed => warn!(%domain, "lease lost, domain left"),
        Ended::Superseded => {
            warn!(%domain, "superseded, domain left");
            sleep(PAUSE).await;
        }
    }
    domain
}

/// Waits until a while after `stop`.
async fn passed(stop: &Shutdown, a_while: Duration) {
    stop.wait().await;
    sleep(a_while).await;
}
