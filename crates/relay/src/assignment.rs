//! Which shards this relay holds: as many of those that nobody holds as are its
//! share, each for as long as it has the shard's lease.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use signalbox_bus::key;
use signalbox_bus::lease::{LeaseError, LeaseWatch, Leaseholders, Leases};
use signalbox_protocol::fleet::Shard;
use signalbox_service::Shutdown;
use tokio::task::{JoinError, JoinSet};
use tokio::time::sleep;
use tracing::{debug, info, warn};

use crate::holder::Shared;
use crate::shard::{Holding, Left};
use crate::share::{self, Standing};

/// The pause after a lease that was not acquired; meanwhile the watch may tell
/// who was faster.
const PAUSE: Duration = Duration::from_millis(100);

/// A shard that this relay has taken up.
struct Engagement {
    standing: Standing,
    /// Asks its holder to leave it.
    stop: Shutdown,
}

/// The relay's part among relays.
pub(crate) struct Assignment {
    shared: Shared,
    leases: Leases,
    shutdown: Shutdown,
    engagements: BTreeMap<Shard, Engagement>,
    /// The work on each of them; ends with the shard.
    work: JoinSet<Shard>,
    holders: Leaseholders,
}

impl Assignment {
    pub(crate) fn new(shared: Shared, leases: Leases, shutdown: Shutdown) -> Self {
        Self {
            shared,
            leases,
            shutdown,
            engagements: BTreeMap::new(),
            work: JoinSet::new(),
            holders: Leaseholders::new(),
        }
    }

    /// Takes and gives shards until shutdown, then gives all of them away.
    pub(crate) async fn run(mut self) {
        let mut watch = LeaseWatch::new(self.shared.bus.clone());
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
        // No member any more before the first lease is released: the others take
        // no more than a share of what is counted among the living.
        if is_present {
            present.await;
        }
        for engagement in self.engagements.values() {
            engagement.stop.trigger();
        }
        while self.work.join_next().await.is_some() {}
    }

    fn note_end(&mut self, ended: Result<Shard, JoinError>) {
        match ended {
            Ok(shard) => {
                self.engagements.remove(&shard);
            }
            Err(error) => self.shutdown.fail(format!("relay shard: {error}")),
        }
    }

    fn rebalance(&mut self) {
        let own = self
            .engagements
            .iter()
            .map(|(shard, engagement)| (*shard, engagement.standing))
            .collect();
        let plan = share::plan(self.leases.holder(), &self.holders, &own);
        for shard in plan.give {
            if let Some(engagement) = self.engagements.get_mut(&shard) {
                debug!(%shard, "above the share");
                engagement.standing = Standing::Leaving;
                engagement.stop.trigger();
            }
        }
        for shard in plan.take {
            let stop = Shutdown::new();
            let engagement = Engagement {
                standing: Standing::Holding,
                stop: stop.clone(),
            };
            self.engagements.insert(shard, engagement);
            let (shared, leases) = (self.shared.clone(), self.leases.clone());
            self.work.spawn(hold(shard, shared, leases, stop));
        }
    }
}

/// Is counted among the living until shutdown.
async fn be_present(leases: Leases, shutdown: Shutdown) {
    let key = key::relay_member(leases.holder());
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
            () = lease.keep() => warn!("no longer counted among the relays, joining again"),
            () = shutdown.wait() => lease.release().await,
        }
    }
}

/// Acquires a shard's lease and holds the shard for as long as it lasts, or until
/// `stop`. Whatever is under way then is the next holder's.
async fn hold(shard: Shard, shared: Shared, leases: Leases, stop: Shutdown) -> Shard {
    let key = key::relay_lease(shard);
    let acquired = tokio::select! {
        acquired = leases.acquire(&key) => acquired,
        () = passed(&stop, PAUSE) => return shard,
    };
    let mut lease = match acquired {
        Ok(lease) => lease,
        Err(cause) => {
            match cause {
                LeaseError::Taken(holder) => debug!(%shard, %holder, "shard is taken"),
                LeaseError::Bus(cause) => info!(%shard, %cause, "shard not acquired"),
            }
            sleep(PAUSE).await;
            return shard;
        }
    };
    let term = lease.generation().to_string();
    info!(%shard, %term, "shard taken over");
    let holding = Holding::new(shard, shared, lease.tenure(), term);
    let left = tokio::select! {
        // The lease first: once it is lost, nothing more is done.
        biased;
        () = lease.keep() => {
            warn!(%shard, "lease lost, shard left");
            return shard;
        }
        () = stop.wait() => None,
        left = holding.run() => Some(left),
    };
    if let Some(left) = left {
        warn!(%shard, ?left, "shard left");
        if left == Left::Superseded {
            sleep(PAUSE).await;
        }
    }
    lease.release().await;
    info!(%shard, "shard released");
    shard
}

/// Waits until a while after `stop`.
async fn passed(stop: &Shutdown, a_while: Duration) {
    stop.wait().await;
    sleep(a_while).await;
}
