//! Who works on what, among the replicas of a service: each part of the work is
//! held by one of them at a time, by a lease, and each takes as many of the parts
//! that nobody holds as are its share.
//!
//! What holding a part means is the service's: it implements [`Work`]. The lease
//! alone is no fence, since its holder may be stopped for longer than it lasts;
//! what is written must be fenced by itself.

mod share;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::sleep;
use tracing::{debug, info, warn};

use self::share::Standing;
use crate::connection::Bus;
use crate::lease::{Generation, Lease, LeaseError, LeaseWatch, Leaseholders, Leases, Tenure};

/// The pause after a lease that was not acquired; meanwhile the watch may tell
/// who was faster.
const PAUSE: Duration = Duration::from_millis(100);

/// The parts of a service's work, and the leases that go with them.
#[derive(Clone, Debug)]
pub struct Parts<P> {
    /// What the replicas are, in the log: `relay`.
    pub service: &'static str,
    /// Every part there is, in the order in which free ones are taken.
    pub all: Vec<P>,
    /// The lease of a part's holder.
    pub lease: fn(P) -> String,
    /// The lease by which a replica says that it is alive.
    pub member: fn(&str) -> String,
    /// Whether a lease is a replica's sign of life.
    pub is_member: fn(&str) -> bool,
}

/// A part, as it is held for a while.
#[derive(Clone, Debug)]
pub struct Hold<P> {
    /// What is held.
    pub part: P,
    /// Which of the part's holders this is.
    pub generation: Generation,
    /// Tells whether the lease still lasts.
    pub tenure: Tenure,
    /// Asks to leave the part.
    pub stop: Stop,
}

/// Why a part was left while its lease still lasted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// It was to be given away, and is done.
    Done,
    /// Another has begun to work on it.
    Superseded,
    /// It cannot be worked on now.
    Broken,
}

/// What a service does with a part that it holds.
pub trait Work<P>: Clone + Send + Sync + 'static {
    /// Works on a part until [`Hold::stop`]. The future is dropped as soon as the
    /// lease is lost, and must leave everything to the next holder then.
    fn hold(&self, hold: Hold<P>) -> impl Future<Output = Left> + Send;
}

/// A wish that something end. Clones share it.
#[derive(Clone, Debug)]
pub struct Stop(watch::Sender<bool>);

impl Default for Stop {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Stop {
    /// Utters the wish.
    pub fn trigger(&self) {
        self.0.send_replace(true);
    }

    /// Whether it was uttered.
    #[must_use]
    pub fn is_triggered(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it is.
    pub async fn wait(&self) {
        let mut told = self.0.subscribe();
        // The sender lives as long as this.
        told.wait_for(|stop| *stop).await.ok();
    }
}

/// A part that this replica has taken up.
struct Engagement {
    standing: Standing,
    stop: Stop,
}

/// A replica's place among the replicas of its service.
pub struct Assignment<P, W> {
    bus: Bus,
    leases: Leases,
    parts: Parts<P>,
    work: W,
    engagements: BTreeMap<P, Engagement>,
    /// The work on each of them; ends with the part.
    running: JoinSet<P>,
    holders: Leaseholders,
}

impl<P, W> Assignment<P, W>
where
    P: Copy + Ord + fmt::Display + Send + Sync + 'static,
    W: Work<P>,
{
    /// A replica that holds nothing yet.
    #[must_use]
    pub fn new(bus: Bus, leases: Leases, parts: Parts<P>, work: W) -> Self {
        Self {
            bus,
            leases,
            parts,
            work,
            engagements: BTreeMap::new(),
            running: JoinSet::new(),
            holders: Leaseholders::new(),
        }
    }

    /// Takes and gives parts until `shutdown`, then gives all of them away.
    ///
    /// # Errors
    /// Says that the work on a part has panicked; the caller is to end the
    /// process, since nobody knows in which state the rest is.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<(), String> {
        let mut watch = LeaseWatch::new(self.bus.clone());
        let leaving = Stop::default();
        let mut present = pin!(be_present(
            self.leases.clone(),
            self.parts.clone(),
            leaving.clone()
        ));
        let mut is_present = true;
        let mut stopping = pin!(shutdown);
        let mut outcome = Ok(());
        loop {
            tokio::select! {
                () = &mut stopping => break,
                () = &mut present, if is_present => is_present = false,
                holders = watch.changed() => self.holders.clone_from(holders),
                Some(ended) = self.running.join_next() => {
                    outcome = self.note_end(ended);
                    if outcome.is_err() {
                        break;
                    }
                }
            }
            self.rebalance();
        }
        // No member any more before the first lease is released: the others take
        // no more than a share of what is counted among the living.
        leaving.trigger();
        if is_present {
            present.await;
        }
        for engagement in self.engagements.values() {
            engagement.stop.trigger();
        }
        while let Some(ended) = self.running.join_next().await {
            outcome = outcome.and(self.note_end(ended));
        }
        outcome
    }

    fn note_end(&mut self, ended: Result<P, JoinError>) -> Result<(), String> {
        match ended {
            Ok(part) => {
                self.engagements.remove(&part);
                Ok(())
            }
            Err(error) => Err(format!("{} at work: {error}", self.parts.service)),
        }
    }

    fn rebalance(&mut self) {
        let own = self
            .engagements
            .iter()
            .map(|(part, engagement)| (*part, engagement.standing))
            .collect();
        let plan = share::plan(&self.parts, self.leases.holder(), &self.holders, &own);
        for part in plan.give {
            if let Some(engagement) = self.engagements.get_mut(&part) {
                debug!(service = self.parts.service, %part, "above the share");
                engagement.standing = Standing::Leaving;
                engagement.stop.trigger();
            }
        }
        for part in plan.take {
            let stop = Stop::default();
            let engagement = Engagement {
                standing: Standing::Holding,
                stop: stop.clone(),
            };
            self.engagements.insert(part, engagement);
            let (leases, work) = (self.leases.clone(), self.work.clone());
            let (service, key) = (self.parts.service, (self.parts.lease)(part));
            self.running.spawn(async move {
                work_on(service, part, &key, leases, work, stop).await;
                part
            });
        }
    }
}

/// Is counted among the living until `stop`.
async fn be_present<P>(leases: Leases, parts: Parts<P>, stop: Stop) {
    let key = (parts.member)(leases.holder());
    let service = parts.service;
    while !stop.is_triggered() {
        let acquired = tokio::select! {
            acquired = leases.acquire(&key) => acquired,
            () = passed(&stop, PAUSE) => return,
        };
        let mut lease = match acquired {
            Ok(lease) => lease,
            Err(cause) => {
                info!(service, %cause, "not announced");
                sleep(PAUSE).await;
                continue;
            }
        };
        tokio::select! {
            () = lease.keep() => warn!(service, "no longer counted among the replicas, joining again"),
            () = stop.wait() => lease.release().await,
        }
    }
}

/// Acquires a part's lease and has the part worked on for as long as it lasts, or
/// until `stop`; then the lease is released.
async fn work_on<P>(
    service: &'static str,
    part: P,
    key: &str,
    leases: Leases,
    work: impl Work<P>,
    stop: Stop,
) where
    P: Copy + fmt::Display + Send + 'static,
{
    let acquired = tokio::select! {
        acquired = leases.acquire(key) => acquired,
        () = passed(&stop, PAUSE) => return,
    };
    let mut lease = match acquired {
        Ok(lease) => lease,
        Err(cause) => {
            match cause {
                LeaseError::Taken(holder) => debug!(service, %part, %holder, "part is taken"),
                LeaseError::Bus(cause) => info!(service, %part, %cause, "part not acquired"),
            }
            sleep(PAUSE).await;
            return;
        }
    };
    info!(service, %part, generation = %lease.generation(), "part taken over");
    let hold = hold_of(part, &lease, stop);
    let left = tokio::select! {
        // The lease first: once it is lost, nothing more is done.
        biased;
        () = lease.keep() => {
            warn!(service, %part, "lease lost, part left");
            return;
        }
        left = work.hold(hold) => left,
    };
    if left != Left::Done {
        warn!(service, %part, ?left, "part left");
        sleep(PAUSE).await;
    }
    lease.release().await;
    info!(service, %part, "part released");
}

fn hold_of<P>(part: P, lease: &Lease, stop: Stop) -> Hold<P> {
    Hold {
        part,
        generation: lease.generation(),
        tenure: lease.tenure(),
        stop,
    }
}

/// Waits until a while after `stop`.
async fn passed(stop: &Stop, a_while: Duration) {
    stop.wait().await;
    sleep(a_while).await;
}
