//! Events that come in over HTTP: bounds on what is under way, and the
//! publish of a request's events, one after the other.

mod form;

use std::time::Duration;

use serde::Serialize;
use signalbox_bus::intake::{self, Bounds, Gate, Ready};
use signalbox_bus::publish::publish;
use signalbox_bus::{Bus, header};
use signalbox_identity::CredentialId;
use signalbox_protocol::frame::fields::Complaint;
use tokio::time::Instant;
use tracing::debug;
use utoipa::ToSchema;

pub(crate) use self::form::{Posted, read};

/// How much may be under way at once. What is made of a body while it is
/// checked can take some twenty times its size.
const BOUNDS: Bounds = Bounds {
    requests_per_credential: 8,
    bytes: 16 * 1024 * 1024,
};

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
    pub(crate) gate: Gate<CredentialId>,
}

impl Ingest {
    pub(crate) fn new(bus: Bus, patience: Duration) -> Self {
        Self {
            bus,
            patience,
            gate: Gate::new(BOUNDS),
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
                    let trace = header::trace(Some(&event.message.headers));
                    let trace_id = trace.map(|trace| trace.trace_id());
                    debug!(trace_id = trace_id.map(tracing::field::display), id = %event.id, sequence = stored.sequence, "published");
                    acknowledged.push(Acknowledged {
                        id: event.id,
                        duplicate: stored.duplicate,
                    });
                }
                Err(error) => {
                    let complaint = intake::explain(&error, &event.message.subject);
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
