//! Following the logs of one user's chats, from when the first connection takes
//! part until the last one no longer does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use signalbox_bus::Bus;
use signalbox_bus::log::feed::{Fed, LogFeed, Record};
use signalbox_bus::subject::LogKind;
use signalbox_protocol::chat;
use signalbox_transport::Frame;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::Followings;
use crate::authority::Authority;
use crate::dialect::threat;

/// Tellings that wait for a shard; when full, those who follow wait, and the
/// logs are read on later.
pub(crate) const TELLINGS_CAPACITY: usize = 256;
/// The pause before logs are followed that could not be.
const PAUSE: Duration = Duration::from_millis(100);

/// What a user's logs have, for one shard.
#[derive(Clone, Debug)]
pub(crate) struct Telling {
    pub(super) user: Arc<str>,
    pub(super) lines: Arc<[Line]>,
}

/// A record of a chat, as it is shown.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) session: Arc<str>,
    /// The record's number in its log.
    pub(super) number: u64,
    /// Nothing where clients are not shown it.
    pub(super) frame: Option<Frame>,
}

/// One user who is followed. Dropping it ends that.
pub(super) struct Following {
    user: Arc<str>,
    task: AbortHandle,
    /// Whether everything that is stored from now on will be told.
    is_set: watch::Receiver<bool>,
    /// Connections that take part, by shard.
    shards: Arc<[AtomicUsize]>,
    followings: Arc<Followings>,
}

impl Following {
    pub(super) fn start(
        runtime: &Handle,
        bus: Bus,
        authority: Arc<Authority>,
        user: Arc<str>,
        senders: Arc<[mpsc::Sender<Telling>]>,
        followings: Arc<Followings>,
    ) -> Arc<Self> {
        let (set, is_set) = watch::channel(false);
        let shards: Arc<[AtomicUsize]> = senders.iter().map(|_| AtomicUsize::new(0)).collect();
        let audience = Audience {
            user: Arc::clone(&user),
            shards: Arc::clone(&shards),
            senders,
        };
        let task = runtime.spawn(follow(bus, authority, audience, set));
        Arc::new(Self {
            user,
            task: task.abort_handle(),
            is_set,
            shards,
            followings,
        })
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.task.abort();
        let mut followings = self.followings.lock();
        // A successor may have its place already.
        let is_own = followings
            .get(&self.user)
            .is_some_and(|known| known.strong_count() == 0);
        if is_own {
            followings.remove(&self.user);
        }
    }
}

/// A connection's share in a [`Following`].
pub(super) struct Interest {
    following: Arc<Following>,
    shard: usize,
}

impl Interest {
    pub(super) fn new(following: Arc<Following>, shard: usize) -> Self {
        following.shards[shard].fetch_add(1, Ordering::SeqCst);
        Self { following, shard }
    }

    /// Resolves once everything that is stored from then on is told, or
    /// `patience` ends; says which.
    pub(super) fn is_set(&self, patience: Duration) -> impl Future<Output = bool> + use<> {
        let mut is_set = self.following.is_set.clone();
        async move {
            let set = timeout(patience, is_set.wait_for(|set| *set)).await;
            matches!(set, Ok(Ok(_)))
        }
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        self.following.shards[self.shard].fetch_sub(1, Ordering::SeqCst);
    }
}

/// Who is told.
struct Audience {
    user: Arc<str>,
    shards: Arc<[AtomicUsize]>,
    senders: Arc<[mpsc::Sender<Telling>]>,
}

impl Audience {
    /// Tells the shards that have connections of the user. One that joins is
    /// counted before it asks for anything, so it misses nothing that it was
    /// promised.
    async fn tell(&self, lines: Arc<[Line]>) {
        for (count, sender) in self.shards.iter().zip(self.senders.iter()) {
            if count.load(Ordering::SeqCst) == 0 {
                continue;
            }
            let telling = Telling {
                user: Arc::clone(&self.user),
                lines: Arc::clone(&lines),
            };
            // A shard that is gone has no connections.
            sender.send(telling).await.ok();
        }
    }
}

async fn follow(bus: Bus, authority: Arc<Authority>, audience: Audience, set: watch::Sender<bool>) {
    let mut link = bus.link();
    let mut feed = loop {
        link.borrow_and_update();
        match LogFeed::group(bus.clone(), LogKind::Chat, &audience.user).await {
            Ok(feed) => break feed,
            Err(error) => debug!(%error, "chats not followed, trying again"),
        }
        sleep(PAUSE).await;
    };
    set.send_replace(true);
    loop {
        let fed = feed.next().await;
        if link.has_changed().unwrap_or(false) {
            // What was revoked while the link was away comes before what was
            // written meanwhile.
            link.borrow_and_update();
            authority.revocations().settled().await;
        }
        let lines: Vec<Line> = fed.into_iter().filter_map(line).collect();
        if !lines.is_empty() {
            audience.tell(lines.into()).await;
        }
    }
}

fn line(fed: Fed) -> Option<Line> {
    match fed {
        Fed::Record(record) => read(&record),
        Fed::Lost { id, from, to } => {
            warn!(
                chat = id,
                from, to, "the stream no longer has these records"
            );
            None
        }
    }
}

fn read(record: &Record) -> Option<Line> {
    let (_, session) = chat::parse_log_id(&record.id)?;
    Some(Line {
        session: session.into(),
        number: record.number,
        frame: threat::chat::frame(session, &record.payload),
    })
}
