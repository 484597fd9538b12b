//! Replays: subscriptions on their way to the live edge.

use std::rc::Rc;
use std::time::Duration;

use signalbox_bus::BusError;
use signalbox_transport::Outbound;
use tokio::task::yield_now;
use tokio::time::sleep;
use tracing::debug;

use crate::history::Chapter;
use crate::hub::{Backlog, Progress, SubscriptionId};
use crate::shard::Shard;

/// The pause before history that did not answer is read again.
const HISTORY_PAUSE: Duration = Duration::from_millis(250);

/// Takes a subscription to the live edge, at the pace of its connection.
pub(super) async fn replay(shard: Rc<Shard>, outbound: Outbound, id: SubscriptionId) {
    let moved = shard.hub.borrow().moved();
    let mut bus_present = shard.shared.bus_present.clone();
    loop {
        // Without the bus nothing is delivered from memory.
        if bus_present.wait_for(|present| *present).await.is_err() {
            return;
        }
        // Nor before what was revoked is known.
        shard.shared.authority.revocations().current().await;
        let changed = moved.notified();
        let progress = shard.hub.borrow_mut().catch_up(id);
        match progress {
            Progress::Live | Progress::Gone => return,
            Progress::Ahead => changed.await,
            Progress::More => yield_now().await,
            Progress::Backlog(backlog) => match read(&shard, &backlog).await {
                Ok(chapter) => {
                    let mut rest = chapter.events.as_slice();
                    loop {
                        let taken =
                            shard
                                .hub
                                .borrow_mut()
                                .replay(id, backlog.epoch, rest, chapter.covered);
                        rest = &rest[taken..];
                        if rest.is_empty() {
                            break;
                        }
                        outbound.drained().await;
                    }
                    if chapter.covered == backlog.after {
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
            return;
        }
    }
}

/// Reads on in a backlog. The link to the bus may have been cut meanwhile: what
/// was revoked then is applied before anything that came behind it.
async fn read(shard: &Shard, backlog: &Backlog) -> Result<Chapter, BusError> {
    let link = shard.shared.link.clone();
    let before = *link.borrow();
    let chapter = shard.shared.history.read(backlog).await?;
    if *link.borrow() != before {
        shard.shared.authority.revocations().settled().await;
    }
    Ok(chapter)
}
