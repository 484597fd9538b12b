//! Events that come in over HTTP: bounds on what is under way, and the
//! publish of a request's events, one after the other.

mod form;
mod gate;

use std::time::Duration;

use serde::Serialize;
use signalbox_bus::Bus;
use signalbox_bus::publish::{PublishError, publish};
use signalbox_protocol::ErrorCode;
use signalbox_protocol::frame::fields::Complaint;
use tokio::time::Instant;
use tracing::{debug, error, warn};
use utoipa::ToSchema;

pub(crate) use self::form::{Posted, Ready, read};
pub(crate) use self::gate::Gate;

/// The most events that one request may bring.
pub(crate) const MAX_BATCH_EVENTS: usize = 1_000;

/// An event that the bus has stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Acknowledged {
    /// The event's id: the producer's, or the one that it was given.
    pub(crate) id: String,
    /// Present when the bus knew the event already and stored nothing.
    #[serde(skip_serializing_if = "is_false")]
    #[schema(required = false)]
    pub(crate) duplicate: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

/// A request of which not every event was stored.
#[derive(Debug)]
pub(crate) struct Interrupted {
    /// Those that were, in order.
    pub(crate) acknowledged: Vec<Acknowledged>,
    /// Why the next one was not.
    pub(crate) complaint: Complaint,
}

/// Takes events in. Shared by all shards.
pub(crate) struct Ingest {
    bus: Bus,
    /// How long the events of one request may take to be acknowledged.
    patience: Duration,
    pub(crate) gate: Gate,
}

impl Ingest {
    pub(crate) fn new(bus: Bus, patience: Duration) -> Self {
        Self {
            bus,
            patience,
            gate: Gate::default(),
        }
    }

    /// Publishes events in order. Each is acknowledged before the next one is
    /// sent: with more under way, one that has to be repeated would come
    /// behind its successors.
    ///
    /// # Errors
    /// [`Interrupted`] at the first event that is not stored.
    pub(crate) async fn store(&self, events: Vec<Ready>) -> Result<Vec<Acknowledged>, Interrupted> {
        let deadline = Instant::now() + self.patience;
        let mut acknowledged = Vec::with_capacity(events.len());
        for event in events {
            let left = deadline.saturating_duration_since(Instant::now());
            match publish(&self.bus, &event.message, left).await {
                Ok(stored) => {
                    let trace_id = event.trace.trace_id();
                    debug!(%trace_id, id = %event.id, sequence = stored.sequence, "published");
                    acknowledged.push(Acknowledged {
                        id: event.id,
                        duplicate: stored.duplicate,
                    });
                }
                Err(error) => {
                    let complaint = explain(&error, &event.message.subject);
                    return Err(Interrupted {
                        acknowledged,
                        complaint,
                    });
                }
            }
        }
        Ok(acknowledged)
    }
}

/// A fixed sentence for the producer; the cause goes to the log.
fn explain(error: &PublishError, subject: &str) -> Complaint {
    let (code, message) = match error {
        PublishError::Unacknowledged(_) => {
            warn!(subject, %error, "event not stored");
            (
                ErrorCode::Unavailable,
                "the bus did not acknowledge the event in time, send it again under the same id",
            )
        }
        // The server has no code of its own for this.
        PublishError::Refused(cause) if cause.contains("maximum") => {
            warn!(subject, %error, "event not stored");
            (
                ErrorCode::Unavailable,
                "as many events wait to be routed as there is room for, send it again later",
            )
        }
        PublishError::Refused(_) | PublishError::NoStream(_) => {
            error!(subject, %error, "event not stored");
            (
                ErrorCode::Unavailable,
                "the bus does not take the event now, send it again later",
            )
        }
        PublishError::TooLarge => (
            ErrorCode::TooLarge,
            "the event is larger than the bus takes",
        ),
        PublishError::Forbidden(_) | PublishError::Fenced => {
            error!(subject, %error, "event not stored");
            (ErrorCode::Internal, "the event could not be published")
        }
    };
    Complaint::plain(code, message)
}
