//! From the bus to the hubs: the gateway's one reader of TOPICS. Each batch is
//! decoded once and handed to every shard.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use signalbox_bus::reader::{Delivery, OrderedReader, Reading};
use signalbox_bus::stored_event;
use signalbox_bus::trace::TraceContext;
use signalbox_protocol::cursor::Epoch;
use signalbox_service::{Condition, Shutdown};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use crate::authority::Authority;
use crate::counts::FeedCounts;
use crate::hub::{EventTrace, HubEvent, Tally};

/// Messages that one batch has at most.
const BATCH: usize = 256;
/// Batches that wait for a shard; when full, the reader waits and flow control
/// holds the bus back.
pub(crate) const FEED_CAPACITY: usize = 16;
/// How long the gateway may be without the bus before it is not ready.
const BUS_ABSENCE: Duration = Duration::from_secs(5);
/// Payloads from here on are larger than they should be, in bytes: each costs
/// every client that gets it.
const LARGE_BYTES: usize = 100 * 1024;
/// Producers that are remembered for having sent such; of further ones each
/// event is told.
const MAX_KNOWN_PRODUCERS: usize = 1_024;
/// What an event takes in memory beyond its payload, in payloads: parsed JSON
/// is some four times its text.
const PARSED_FACTOR: usize = 4;

/// What a shard is told.
#[derive(Clone, Debug)]
pub(crate) enum News {
    /// Events in stream order, and where in the stream they end.
    Batch {
        /// The events; those of unknown types are left out.
        events: Arc<[Arc<HubEvent>]>,
        /// The stream sequence behind them.
        position: u64,
    },
    /// The stream was made anew, or has lost its tail.
    Restart {
        /// Its life now.
        epoch: Epoch,
        /// Where reading begins.
        position: u64,
    },
}

/// Tells the gateway whether it may rely on what it knows: without the bus it
/// would not hear of new events, nor of credentials that were revoked.
pub(crate) struct Presence {
    /// For the readiness probe.
    pub(crate) ready: Condition,
    /// For the shards.
    pub(crate) present: watch::Sender<bool>,
}

impl Presence {
    fn lost(&self) {
        self.ready
            .set_not_ready("the bus has been out of reach for 5 s");
        self.present.send_replace(false);
        warn!("without the bus: admitting no one until it is back");
    }

    pub(crate) fn found(&self) {
        self.ready.set_ready();
        self.present.send_replace(true);
    }
}

/// Reads until shutdown, or until a shard is gone.
pub(crate) async fn run(
    mut reader: OrderedReader,
    shards: Vec<mpsc::Sender<News>>,
    presence: Presence,
    authority: &Authority,
    counts: &FeedCounts,
    shutdown: Shutdown,
) {
    let revocations = authority.revocations();
    let mut absent_since: Option<Instant> = None;
    // The life of the reader up to which revocations are known to be applied.
    let mut settled = 0;
    let mut known = HashSet::new();
    loop {
        let reading = tokio::select! {
            () = shutdown.wait() => return,
            () = absence(absent_since) => {
                presence.lost();
                absent_since = None;
                continue;
            }
            reading = reader.next(BATCH) => reading,
        };
        let news = match reading {
            Reading::Batch(batch) => {
                let received = SystemTime::now();
                let events: Arc<[_]> = batch
                    .iter()
                    .filter_map(|delivery| {
                        let event = decode_live(delivery, received, shards.len())?;
                        if delivery.payload.len() > LARGE_BYTES {
                            counts.large.add_alone(1);
                            tell_of_large(&event, delivery.payload.len(), &mut known);
                        }
                        Some(event)
                    })
                    .collect();
                counts.received.add_alone(batch.len() as u64);
                let skipped = batch.len() - events.len();
                counts.skipped.add_alone(skipped as u64);
                counts.lag.set(reader.lag());
                News::Batch {
                    events,
                    position: reader.position(),
                }
            }
            Reading::Recreated(state) => {
                reader.skip_handed_on();
                warn!(epoch = %state.epoch, position = reader.position(), "the event stream is another");
                News::Restart {
                    epoch: state.epoch,
                    position: reader.position(),
                }
            }
            Reading::Interrupted(cause) => {
                debug!(%cause, "reading interrupted");
                absent_since.get_or_insert_with(Instant::now);
                continue;
            }
            Reading::Resumed => {
                // Whoever is admitted or served from memory is judged by what
                // was revoked in the meantime.
                let since = absent_since.get_or_insert_with(Instant::now);
                tokio::select! {
                    () = shutdown.wait() => return,
                    () = settle(authority, &presence, *since) => {}
                }
                settled = reader.starts();
                info!(position = reader.position(), "reading on");
                absent_since = None;
                presence.found();
                continue;
            }
        };
        // What was revoked while this reader, or that of the revocations, was
        // cut off is applied before its events go on.
        if reader.starts() != settled || !revocations.is_current() {
            let since = *absent_since.get_or_insert_with(Instant::now);
            tokio::select! {
                () = shutdown.wait() => return,
                () = settle(authority, &presence, since) => {}
            }
            settled = reader.starts();
            absent_since = None;
            presence.found();
        }
        for shard in &shards {
            if shard.send(news.clone()).await.is_err() {
                return;
            }
        }
    }
}

/// Logs a payload that is larger than it should be, once for each producer.
fn tell_of_large(event: &HubEvent, bytes: usize, known: &mut HashSet<String>) {
    let (domain, source) = (event.event.kind.domain, &event.event.source);
    let producer = format!("{domain}/{source}");
    if known.contains(&producer) {
        return;
    }
    warn!(%domain, source, bytes, id = %event.event.id, "a producer sends large payloads");
    if known.len() < MAX_KNOWN_PRODUCERS {
        known.insert(producer);
    }
}

/// Waits until all revocations are with the shards; tells when that takes too
/// long, the bus having been away since `since`.
async fn settle(authority: &Authority, presence: &Presence, since: Instant) {
    let mut since = Some(since);
    loop {
        tokio::select! {
            () = authority.revocations().settled() => return,
            () = absence(since) => {
                presence.lost();
                since = None;
            }
        }
    }
}

/// Ends when the bus has been away for too long.
async fn absence(since: Option<Instant>) {
    match since {
        Some(since) => sleep_until(since + BUS_ABSENCE).await,
        None => std::future::pending().await,
    }
}

/// The event in a message of TOPICS; `None` for what this version does not
/// know.
pub(crate) fn decode(delivery: &Delivery) -> Option<Arc<HubEvent>> {
    parse(delivery).map(Arc::new)
}

/// As [`decode`], for an event that so many shards are about to hand out; it
/// takes the notes for its span along, if that is recorded.
fn decode_live(delivery: &Delivery, received: SystemTime, shards: usize) -> Option<Arc<HubEvent>> {
    let mut event = parse(delivery)?;
    let headers = delivery.headers.as_ref();
    if let Some(trace) = &mut event.trace
        && let Some(context) = TraceContext::recorded(headers, Some(trace.parent))
    {
        trace.tally = Some(Box::new(Tally::new(context, received, shards)));
    }
    Some(Arc::new(event))
}

fn parse(delivery: &Delivery) -> Option<HubEvent> {
    let Some(stored) = stored_event::decode(delivery) else {
        debug!(subject = %delivery.subject, sequence = delivery.sequence, "event skipped");
        return None;
    };
    Some(HubEvent {
        sequence: stored.sequence,
        topic: stored.topic,
        event: stored.event,
        trace: stored.trace.map(EventTrace::from),
        weight: size_of::<HubEvent>() + PARSED_FACTOR * delivery.payload.len(),
    })
}
