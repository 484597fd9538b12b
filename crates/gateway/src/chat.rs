//! Chats with agents. What is said in them is in logs, which orchestrators
//! write; the gateway passes requests on, and shows each connection what the
//! logs of its user's chats have.
//!
//! | part | does |
//! |---|---|
//! | [`orchestrators`] | requests, sent again until they are answered |
//! | [`following`] | follows the logs of those users who take part here |
//! | [`audience`] | a shard's connections that take part, and what each is shown |
//! | [`walk`] | reads a log back, up to where it is followed |
//!
//! A user's logs are followed while at least one connection takes part, and a
//! record is written as a frame once, whoever gets it. Records have numbers
//! without gaps, so that reading back and following meet without a seam.

mod audience;
mod following;
mod orchestrators;
mod walk;

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use signalbox_bus::Bus;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tracing::warn;

pub(crate) use self::audience::{Audience, Reading, Seat};
use self::following::{Following, Interest};
pub(crate) use self::following::{TELLINGS_CAPACITY, Telling};
pub(crate) use self::orchestrators::Orchestrators;
pub(crate) use self::walk::{Passage, walk};
use crate::authority::Authority;
use crate::shard::Shard;

/// Users whose chats are followed; beyond it further users cannot take part in
/// theirs on this gateway.
const FOLLOWINGS_CAPACITY: usize = 16_384;

/// What all shards share of chats.
pub(crate) struct Chats {
    bus: Bus,
    authority: Arc<Authority>,
    orchestrators: Orchestrators,
    shards: Arc<[mpsc::Sender<Telling>]>,
    /// Where logs are followed: not on the shards, which have sockets to write.
    runtime: Handle,
    followings: Arc<Followings>,
}

/// The users who are followed.
type Followings = Mutex<HashMap<Arc<str>, Weak<Following>>>;

impl Chats {
    /// Nobody is followed yet. Gives where each of `count` shards is told what
    /// the logs have. Must be called within the runtime that follows them.
    pub(crate) fn new(
        bus: Bus,
        authority: Arc<Authority>,
        count: usize,
    ) -> (Arc<Self>, Vec<mpsc::Receiver<Telling>>) {
        let (shards, tellings): (Vec<_>, Vec<_>) =
            (0..count).map(|_| mpsc::channel(TELLINGS_CAPACITY)).unzip();
        let chats = Self {
            orchestrators: Orchestrators::new(bus.clone()),
            bus,
            authority,
            shards: shards.into(),
            runtime: Handle::current(),
            followings: Arc::default(),
        };
        (Arc::new(chats), tellings)
    }

    /// The way to the orchestrators.
    pub(crate) const fn orchestrators(&self) -> &Orchestrators {
        &self.orchestrators
    }

    pub(crate) const fn bus(&self) -> &Bus {
        &self.bus
    }

    /// How many users are followed.
    pub(crate) fn followed(&self) -> usize {
        self.followings.lock().len()
    }

    /// Has a user's chats followed for a shard for as long as the interest
    /// lives; `None` when there are too many users.
    fn follow(&self, user: &Arc<str>, shard: usize) -> Option<Interest> {
        let mut followings = self.followings.lock();
        let known = followings.get(user).and_then(Weak::upgrade);
        let following = match known {
            Some(following) => following,
            None if followings.len() >= FOLLOWINGS_CAPACITY => {
                warn!(
                    users = followings.len(),
                    "too many users take part in chats"
                );
                return None;
            }
            None => {
                let following = Following::start(
                    &self.runtime,
                    self.bus.clone(),
                    Arc::clone(&self.authority),
                    Arc::clone(user),
                    Arc::clone(&self.shards),
                    Arc::clone(&self.followings),
                );
                followings.insert(Arc::clone(user), Arc::downgrade(&following));
                following
            }
        };
        Some(Interest::new(following, shard))
    }
}

/// Shows a shard's connections what the logs have.
pub(crate) async fn follow(shard: &Shard, tellings: &mut mpsc::Receiver<Telling>) {
    while let Some(telling) = tellings.recv().await {
        shard.audience.play(&telling);
    }
    // The senders live as long as the gateway.
    std::future::pending().await
}
