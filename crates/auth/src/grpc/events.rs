//! `EventService`: events of other systems, answered once the bus has stored
//! them.

use std::time::Duration;

use serde_json::{Map, Value};
use signalbox_bus::Bus;
use signalbox_bus::intake::{self, Draft, MAX_BATCH_EVENTS, Place, Ready, Terms};
use signalbox_bus::publish::publish_event;
use signalbox_bus::trace::{self, TraceContext};
use signalbox_identity::Permission;
use signalbox_protocol::ErrorCode;
use signalbox_protocol::envelope::MAX_PAYLOAD_BYTES;
use signalbox_protocol::frame::fields::Complaint;
use signalbox_protocol::timestamp::Timestamp;
use signalbox_protocol::trace::TraceParent;
use time::OffsetDateTime;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tonic::{Request, Response, Status};
use tracing::{debug, error};
use uuid::Uuid;

use super::caller::Caller;
use super::status;
use crate::api;
use crate::api::event_service_server::EventService;

/// The largest request, in bytes: the largest event, and room for what is
/// around the events of a batch.
pub(super) const MAX_MESSAGE_BYTES: usize = MAX_PAYLOAD_BYTES + 64 * 1024;
/// From this size on, events are read on a thread of its own, in bytes: other
/// calls should not wait for it.
const LARGE_BYTES: usize = 16 * 1024;

/// The service.
pub(super) struct Events {
    bus: Bus,
    /// How long the events of one call may take to be acknowledged.
    patience: Duration,
}

/// A call of which not every event was stored.
struct Interrupted {
    acknowledged: usize,
    complaint: Complaint,
}

impl Events {
    pub(super) const fn new(bus: Bus, patience: Duration) -> Self {
        Self { bus, patience }
    }

    /// Checks and publishes events; one after the other, since with more under
    /// way one that has to be repeated would come behind its successors.
    async fn take(
        &self,
        caller: &Caller,
        events: Vec<api::Event>,
        batch: bool,
    ) -> Result<Vec<api::Acknowledgement>, Interrupted> {
        let refused = |complaint| Interrupted {
            acknowledged: 0,
            complaint,
        };
        let ready = read(caller, events, batch).await.map_err(refused)?;
        if !self.bus.link().borrow().up {
            let sentence = "the bus is out of reach, try again";
            return Err(refused(Complaint::plain(ErrorCode::Unavailable, sentence)));
        }
        let deadline = Instant::now() + self.patience;
        let mut acknowledged = Vec::with_capacity(ready.len());
        for mut event in ready {
            let left = deadline.saturating_duration_since(Instant::now());
            match publish_event(&self.bus, &mut event.message, false, left).await {
                Ok((stored, trace)) => {
                    let trace_id = trace.parent().trace_id();
                    debug!(%trace_id, id = %event.id, sequence = stored.sequence, "published");
                    acknowledged.push(api::Acknowledgement {
                        id: event.id,
                        duplicate: stored.duplicate,
                    });
                }
                Err(error) => {
                    return Err(Interrupted {
                        acknowledged: acknowledged.len(),
                        complaint: intake::explain(&error, &event.message.subject),
                    });
                }
            }
        }
        Ok(acknowledged)
    }
}

#[tonic::async_trait]
impl EventService for Events {
    async fn publish(
        &self,
        request: Request<api::PublishRequest>,
    ) -> Result<Response<api::PublishReply>, Status> {
        let (caller, _pass, request) = Caller::of(request)?;
        let event = request.event.unwrap_or_default();
        let taken = self.take(&caller, vec![event], false).await;
        let acknowledgement = taken
            .map_err(|interrupted| status::of(&interrupted.complaint))?
            .pop();
        Ok(Response::new(api::PublishReply { acknowledgement }))
    }

    async fn publish_batch(
        &self,
        request: Request<api::PublishBatchRequest>,
    ) -> Result<Response<api::PublishBatchReply>, Status> {
        let (caller, _pass, request) = Caller::of(request)?;
        if request.events.len() > MAX_BATCH_EVENTS {
            let expected = format!("at most {MAX_BATCH_EVENTS} events");
            return Err(status::of(&Complaint::field("events", &expected)));
        }
        let taken = self.take(&caller, request.events, true).await;
        let acknowledgements = taken.map_err(|interrupted| {
            status::after(&interrupted.complaint, interrupted.acknowledged)
        })?;
        Ok(Response::new(api::PublishBatchReply { acknowledgements }))
    }
}

async fn read(
    caller: &Caller,
    events: Vec<api::Event>,
    batch: bool,
) -> Result<Vec<Ready>, Complaint> {
    let size: usize = events.iter().map(|event| event.data.len()).sum();
    let permissions = caller.principal.permissions;
    // A span of ours, or else what the call came with.
    let of_call = trace::current().or_else(|| caller.trace.clone());
    let read = move || {
        let place = |index| Place(batch.then_some(index));
        let drafts = events.into_iter().enumerate();
        let drafts: Result<Vec<Draft>, Complaint> = drafts
            .map(|(index, event)| draft(event, place(index)))
            .collect();
        let own = |text: &str| text.parse::<TraceParent>().ok().map(TraceContext::from);
        intake::prepare(
            drafts?,
            &Terms {
                batch,
                fallback_id: &|_| Uuid::now_v7().to_string(),
                may_publish: &|domain| permissions.contains(Permission::Publish(domain)),
                trace: &|text| text.and_then(own).or_else(|| of_call.clone()),
                now: Timestamp::from(OffsetDateTime::now_utc()),
            },
        )
    };
    if size <= LARGE_BYTES {
        return read();
    }
    spawn_blocking(read).await.unwrap_or_else(|error| {
        error!(%error, "reading events failed");
        Err(Complaint::plain(
            ErrorCode::Internal,
            "the events could not be read",
        ))
    })
}

fn draft(event: api::Event, place: Place) -> Result<Draft, Complaint> {
    let given = |text: String| (!text.is_empty()).then_some(text);
    let data: Map<String, Value> =
        serde_json::from_str(&event.data).map_err(|_| place.wrong("data", "a JSON object"))?;
    Ok(Draft {
        kind: given(event.r#type),
        id: given(event.id),
        source: given(event.source),
        time: given(event.time),
        priority: given(event.priority),
        traceparent: given(event.traceparent),
        data,
    })
}
