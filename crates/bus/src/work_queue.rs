//! A router's view of one domain's events: each in order, with gaps found and
//! closed.
//!
//! The server numbers its deliveries to the domain's consumer. A number out of
//! turn means that a delivery was lost on the way; the queue then resets the
//! consumer to its acknowledgement floor, so that everything unacknowledged
//! comes again in order. Without that, the lost event would return behind
//! newer ones, which the fence would take for "already stored".

use std::time::Duration;

use async_nats::jetstream::consumer::{Consumer, pull};
use async_nats::jetstream::{AckKind, Message as NatsMessage};
use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use futures_util::StreamExt as _;
use signalbox_protocol::domain::Domain;
use signalbox_protocol::timestamp::Timestamp;
use tokio::sync::watch;
use tracing::debug;

use crate::connection::{Bus, BusError, Link};
use crate::stream::{EVENTS, router_consumer};

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
#[expect(
    clippy::large_enum_variant,
    reason = "moved once per event; a box would cost more"
)]
pub enum Taken {
    /// The next event.
    Work(Work),
    /// Deliveries were lost, or the link is new: call [`WorkQueue::reset`].
    Interrupted(&'static str),
}

/// The consumer of one domain's events.
pub struct WorkQueue {
    bus: Bus,
    name: String,
    messages: Option<pull::Stream>,
    /// The number of the last delivery.
    delivered: u64,
    link: watch::Receiver<Link>,
}

impl WorkQueue {
    /// A queue that has taken nothing yet; [`WorkQueue::reset`] starts it.
    #[must_use]
    pub fn new(bus: Bus, domain: Domain) -> Self {
        let link = bus.link();
        Self {
            bus,
            name: router_consumer(domain),
            messages: None,
            delivered: 0,
            link,
        }
    }

    /// Starts over at the acknowledgement floor: everything unacknowledged
    /// comes again, in order.
    ///
    /// # Errors
    /// When the bus refuses or does not answer; the queue then stays stopped.
    pub async fn reset(&mut self) -> Result<(), BusError> {
        self.messages = None;
        self.link.borrow_and_update();
        let failed = |error: &dyn std::fmt::Display| {
            BusError::api(format!("reset consumer {}", self.name), error)
        };
        let stream = self
            .bus
            .jetstream()
            .get_stream_no_info(EVENTS)
            .await
            .map_err(|error| failed(&error))?;
        let reset = stream
            .reset_consumer(&self.name, None)
            .await
            .map_err(|error| failed(&error))?;
        let consumer: Consumer<pull::Config> = stream
            .get_consumer(&self.name)
            .await
            .map_err(|error| failed(&error))?;
        let messages = consumer
            .stream()
            .max_messages_per_batch(REQUEST_EVENTS)
            .heartbeat(HEARTBEAT)
            .expires(REQUEST)
            .messages()
            .await
            .map_err(|error| failed(&error))?;
        self.delivered = reset.info.delivered.consumer_sequence;
        self.messages = Some(messages);
        Ok(())
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
