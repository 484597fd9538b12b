//! Replays: subscriptions on their way to the live edge, at the pace of their
//! connection.

use std::rc::Rc;
use std::time::Duration;

use signalbox_bus::BusError;
use signalbox_protocol::cursor::Cursor;
use signalbox_transport::Outbound;
use tokio::task::yield_now;
use tokio::time::sleep;
use tracing::debug;

use crate::history::{Chapter, Walk};
use crate::hub::{Backlog, Progress, SubscriptionId};
use crate::shard::Shard;

/// The pause before history that did not answer is read again.
const HISTORY_PAUSE: Duration = Duration::from_millis(250);

/// How a replay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// All there was has been handed to the connection, and what comes from now
    /// on goes there live.
    Live,
    /// There is nobody left to replay for: the subscriptions are over, or the
    /// connection is closed.
    Over,
}

/// Takes one subscription to the live edge, while others of its connection are
/// live.
pub(crate) async fn replay(shard: Rc<Shard>, outbound: Outbound, id: SubscriptionId) {
    let _end = run(&shard, &outbound, Party::One(id)).await;
}

/// Takes subscriptions of one connection to the live edge, as one walk in
/// stream order; see `Hub::catch_up_together`. Nothing is awaited between the
/// step in which they turn live and the caller's next one.
pub(crate) async fn replay_together(
    shard: &Shard,
    outbound: &Outbound,
    ids: &[SubscriptionId],
) -> End {
    run(shard, outbound, Party::All(ids)).await
}

/// Whether everything behind `since` can still be delivered.
///
/// # Errors
/// When the bus, which has to be asked, is out of reach.
pub(crate) async fn is_within_reach(shard: &Shard, since: Cursor) -> Result<bool, OutOfReach> {
    if !*shard.shared.bus_present.borrow() {
        return Err(OutOfReach);
    }
    {
        let hub = shard.hub.borrow();
        let here = hub.cursor();
        if since.epoch == here.epoch
            && since.sequence <= here.sequence
            && hub.remembers(since.sequence)
        {
            return Ok(true);
        }
    }
    shard.shared.history.reaches(since).await.map_err(|error| {
        debug!(%error, "history out of reach");
        OutOfReach
    })
}

/// Nobody can tell now what history there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("history is out of reach")]
pub(crate) struct OutOfReach;

/// Who takes part.
#[derive(Clone, Copy)]
enum Party<'a> {
    One(SubscriptionId),
    All(&'a [SubscriptionId]),
}

impl Party<'_> {
    fn catch_up(self, shard: &Shard) -> Progress {
        let mut hub = shard.hub.borrow_mut();
        match self {
            Self::One(id) => hub.catch_up(id),
            Self::All(ids) => hub.catch_up_together(ids),
        }
    }

    /// Hands a chapter over, as the connection takes it.
    async fn take(self, shard: &Shard, outbound: &Outbound, chapter: &Chapter) {
        let mut rest = chapter.events.as_slice();
        let (epoch, covered) = (chapter.epoch, chapter.covered);
        loop {
            let taken = {
                let mut hub = shard.hub.borrow_mut();
                match self {
                    Self::One(id) => hub.replay(id, epoch, rest, covered),
                    Self::All(ids) => hub.replay_together(ids, epoch, rest, covered),
                }
            };
            rest = &rest[taken..];
            if rest.is_empty() {
                return;
            }
            outbound.drained().await;
        }
    }
}

async fn run(shard: &Shard, outbound: &Outbound, party: Party<'_>) -> End {
    let moved = shard.hub.borrow().moved();
    let mut bus_present = shard.shared.bus_present.clone();
    let mut walk = Walk::default();
    loop {
        // Without the bus nothing is delivered from memory.
        if bus_present.wait_for(|present| *present).await.is_err() {
            return End::Over;
        }
        // Nor before what was revoked is known.
        shard.shared.authority.revocations().current().await;
        let changed = moved.notified();
        match party.catch_up(shard) {
            Progress::Live => return End::Live,
            Progress::Gone => return End::Over,
            Progress::Ahead => changed.await,
            Progress::More => yield_now().await,
            Progress::Backlog(backlogs) => match read(shard, &mut walk, &backlogs).await {
                Ok(chapter) => {
                    party.take(shard, outbound, &chapter).await;
                    if chapter.is_stuck {
                        // A server that lags has nothing new yet.
                        sleep(HISTORY_PAUSE).await;
                    }
                }
                Err(error) => {
                    debug!(%error, "history not read, trying again");
                    sleep(HISTORY_PAUSE).await;
                }
            },
        }
        outbound.drained().await;
        if outbound.is_closed() {
            return End::Over;
        }
    }
}

/// Reads on in backlogs. The link to the bus may have been cut meanwhile: what
/// was revoked then is applied before anything that came behind it.
async fn read(shard: &Shard, walk: &mut Walk, backlogs: &[Backlog]) -> Result<Chapter, BusError> {
    let link = shard.shared.link.clone();
    let before = *link.borrow();
    let chapter = walk.read(&*shard.shared.history, backlogs).await?;
    if *link.borrow() != before {
        shard.shared.authority.revocations().settled().await;
    }
    Ok(chapter)
}
