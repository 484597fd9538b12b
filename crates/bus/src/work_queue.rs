//! A router's view of one domain's events: each in order, with gaps found and
//! closed.
//!
//! The server numbers its deliveries to a consumer. A number out of turn means
//! that a delivery was lost on the way; the queue then resets its consumer to
//! the acknowledgement floor, so that everything unacknowledged comes again in
//! order. Without that, the lost event would return behind newer ones, which
//! the fence would take for "already stored".
//!
//! For the same reason two routers must never share a consumer, not even while
//! one of them is stopped and has requests standing. Each holder of a domain's
//! lease therefore takes events through a consumer of its own, named after its
//! lease's generation, and removes those of earlier generations first: a work
//! queue has no room for two. What a consumer has delivered to its owner is
//! without gaps, whenever the owner gets round to it.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, Consumer, ReplayPolicy, pull};
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{AckKind, Message as NatsMessage};
use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use futures_util::StreamExt as _;
use signalbox_protocol::domain::Domain;
use signalbox_protocol::timestamp::Timestamp;
use tokio::sync::watch;
use tracing::debug;

use crate::connection::{Bus, BusError, Link};
use crate::lease::Generation;
use crate::stream::EVENTS;
use crate::subject;

/// How long a router may hold an event before the bus offers it again.
pub const ACK_WAIT: Duration = Duration::from_secs(30);
/// Events that a router may hold of one domain.
pub const MAX_HELD: usize = 1_024;
/// The prefix of the names of all consumers through which routers take events.
const CONSUMER_PREFIX: &str = "router-";
/// How often the server speaks while nothing is waiting.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long one request for events stands.
const REQUEST: Duration = Duration::from_secs(30);
/// Events asked for at once.
const REQUEST_EVENTS: usize = 512;

/// An event as it lies in EVENTS.
pub struct Work {
    /// Its sequence in EVENTS.
    pub sequence: u64,
    /// Where the producer published it.
    pub subject: Subject,
    /// Its headers.
    pub headers: Option<HeaderMap>,
    /// Its body.
    pub payload: Bytes,
    /// When the bus stored it.
    pub stored_at: Timestamp,
    /// Settles it with the bus.
    pub receipt: Receipt,
}

/// The right to settle one delivery.
#[derive(Clone)]
pub struct Receipt {
    reply: Subject,
    bus: Bus,
}

impl Receipt {
    /// Tells the bus that the event is stored or refused for good. A lost
    /// acknowledgement makes the event come again, which does no harm.
    pub async fn acknowledge(&self) {
        self.send(AckKind::Ack).await;
    }

    /// Asks the bus for more time.
    pub async fn in_progress(&self) {
        self.send(AckKind::Progress).await;
    }

    async fn send(&self, kind: AckKind) {
        if let Err(error) = self
            .bus
            .client()
            .publish(self.reply.clone(), kind.into())
            .await
        {
            debug!(%error, "acknowledgement not sent");
        }
    }
}

/// What the queue has to tell.
pub enum Taken {
    /// The next event.
    Work(Work),
    /// Deliveries were lost, or the link is new: call [`WorkQueue::reset`].
    Interrupted(&'static str),
}

/// Why a queue could not start.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// A later holder of the domain's lease has its consumer already.
    #[error("a later holder of the lease takes the domain's events")]
    Superseded,
    /// The bus refuses or does not answer.
    #[error(transparent)]
    Bus(#[from] BusError),
}

/// The consumer of one domain's events by one holder of its lease.
pub struct WorkQueue {
    bus: Bus,
    domain: Domain,
    generation: Generation,
    name: String,
    messages: Option<pull::Stream>,
    /// The number of the last delivery.
    delivered: u64,
    link: watch::Receiver<Link>,
}

impl WorkQueue {
    /// A queue that has taken nothing yet; [`WorkQueue::reset`] starts it.
    #[must_use]
    pub fn new(bus: Bus, domain: Domain, generation: Generation) -> Self {
        let link = bus.link();
        Self {
            bus,
            domain,
            generation,
            name: consumer_name(domain, generation),
            messages: None,
            delivered: 0,
            link,
        }
    }

    /// Starts over at the acknowledgement floor: everything unacknowledged
    /// comes again, in order. Where its consumer is not there, the queue puts
    /// it in the place of those of earlier holders.
    ///
    /// # Errors
    /// [`QueueError::Superseded`] when a later holder was first. When the bus
    /// refuses or does not answer, the queue stays stopped.
    pub async fn reset(&mut self) -> Result<(), QueueError> {
        self.messages = None;
        self.link.borrow_and_update();
        let stream = self
            .bus
            .jetstream()
            .get_stream_no_info(EVENTS)
            .await
            .map_err(|error| self.failed("reset", &error))?;
        // Each time: it may be gone, and then nobody would answer.
        self.claim(&stream).await?;
        let reset = stream
            .reset_consumer(&self.name, None)
            .await
            .map_err(|error| self.failed("reset", &error))?;
        let consumer: Consumer<pull::Config> = stream
            .get_consumer(&self.name)
            .await
            .map_err(|error| self.failed("look up", &error))?;
        let messages = consumer
            .stream()
            .max_messages_per_batch(REQUEST_EVENTS)
            .heartbeat(HEARTBEAT)
            .expires(REQUEST)
            .messages()
            .await
            .map_err(|error| self.failed("pull from", &error))?;
        self.delivered = reset.info.delivered.consumer_sequence;
        self.messages = Some(messages);
        Ok(())
    }

    /// Makes the consumer, unless it is there, in the place of earlier ones.
    async fn claim(&self, stream: &Stream<()>) -> Result<(), QueueError> {
        let mut names = stream.consumer_names();
        let mut is_there = false;
        while let Some(name) = names.next().await {
            let name = name.map_err(|error| self.failed("look for", &error))?;
            match whose(&name, self.domain) {
                Owner::Other => {}
                Owner::Generation(other) if other > self.generation => {
                    return Err(QueueError::Superseded);
                }
                Owner::Generation(other) if other == self.generation => is_there = true,
                Owner::Generation(_) | Owner::Unnumbered => {
                    debug!(consumer = %name, "former consumer removed");
                    // Another may have been faster.
                    if let Err(error) = stream.delete_consumer(&name).await {
                        debug!(consumer = %name, %error, "former consumer not removed");
                    }
                }
            }
        }
        if is_there {
            return Ok(());
        }
        let config = pull::Config {
            durable_name: Some(self.name.clone()),
            filter_subject: subject::events_of(self.domain),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_ack_pending: MAX_HELD as i64,
            max_deliver: -1,
            replay_policy: ReplayPolicy::Instant,
            ..pull::Config::default()
        };
        stream
            .create_consumer_strict(config)
            .await
            .map_err(|error| self.failed("make", &error))?;
        Ok(())
    }

    fn failed(&self, action: &str, error: &dyn std::fmt::Display) -> BusError {
        BusError::api(format!("{action} consumer {}", self.name), error)
    }

    /// Waits for the next event. Cancelling loses nothing.
    pub async fn next(&mut self) -> Taken {
        let Some(messages) = &mut self.messages else {
            return Taken::Interrupted("not started");
        };
        let message = tokio::select! {
            message = messages.next() => message,
            Ok(()) = self.link.changed() => return Taken::Interrupted("the link is new"),
        };
        match message {
            Some(Ok(message)) => self.take(message),
            Some(Err(error)) => {
                debug!(consumer = %self.name, %error, "deliveries stopped");
                Taken::Interrupted("deliveries stopped")
            }
            None => Taken::Interrupted("deliveries ended"),
        }
    }

    fn take(&mut self, message: NatsMessage) -> Taken {
        let Ok(info) = message.info() else {
            return Taken::Interrupted("a delivery without position");
        };
        if info.consumer_sequence != self.delivered + 1 {
            return Taken::Interrupted("a delivery was lost");
        }
        let (sequence, stored_at) = (info.stream_sequence, Timestamp::from(info.published));
        self.delivered += 1;
        let message = message.message;
        let Some(reply) = message.reply else {
            return Taken::Interrupted("a delivery without reply subject");
        };
        Taken::Work(Work {
            sequence,
            subject: message.subject,
            headers: message.headers,
            payload: message.payload,
            stored_at,
            receipt: Receipt {
                reply,
                bus: self.bus.clone(),
            },
        })
    }
}

/// To whom a consumer belongs.
#[derive(Debug, PartialEq, Eq)]
enum Owner {
    /// Not to a router of this domain.
    Other,
    /// To a router of this domain without lease.
    Unnumbered,
    /// To this holder of the domain's lease.
    Generation(Generation),
}

fn consumer_name(domain: Domain, generation: Generation) -> String {
    format!("{CONSUMER_PREFIX}{domain}-{generation}")
}

fn whose(name: &str, domain: Domain) -> Owner {
    let rest = name
        .strip_prefix(CONSUMER_PREFIX)
        .and_then(|rest| rest.strip_prefix(domain.token()));
    match rest {
        Some("") => Owner::Unnumbered,
        Some(rest) => rest
            .strip_prefix('-')
            .and_then(|text| text.parse().ok())
            .map_or(Owner::Other, Owner::Generation),
        None => Owner::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consumers_are_told_apart_by_domain_and_generation() {
        let generation: Generation = "5f-7".parse().unwrap();
        let name = consumer_name(Domain::Pr, generation);
        assert_eq!(name, "router-pr-5f-7");
        assert_eq!(whose(&name, Domain::Pr), Owner::Generation(generation));
        assert_eq!(whose("router-pr", Domain::Pr), Owner::Unnumbered);
        for other in [name.as_str(), "router-pr", "router-project-5f-7", "tap"] {
            assert_eq!(
                whose(other, Domain::Project) == Owner::Other,
                !other.contains("project")
            );
        }
        assert_eq!(whose("router-project-5f-7", Domain::Pr), Owner::Other);
    }
}
