//! `POST /api/v1/events`: events from producers that speak HTTP. Answered once
//! the bus has acknowledged every one of them.

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use serde::Serialize;
use signalbox_bus::intake::Ready;
use signalbox_identity::{Permission, Permissions, Principal};
use signalbox_protocol::envelope::MAX_PAYLOAD_BYTES;
use signalbox_protocol::frame::fields::Complaint;
use signalbox_protocol::timestamp::Timestamp;
use signalbox_protocol::{ErrorCode, catalogue};
use time::OffsetDateTime;
use tokio::task::spawn_blocking;
use tracing::error;
use utoipa::ToSchema;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};

use super::failure::Failure;
use super::{Doors, Visitor, body, caller};
use crate::ingest::{self, Acknowledged, Interrupted, Posted};

/// The longest body that is read, in bytes.
const MAX_BODY_BYTES: usize = MAX_PAYLOAD_BYTES;
/// From this size on, a body is read on a thread of its own, in bytes: the
/// shard has sockets to write in the meantime.
const LARGE_BYTES: usize = 16 * 1024;

/// An event (CloudEvents 1.0).
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what the ingest reads")]
struct CloudEvent {
    #[schema(example = "1.0")]
    specversion: String,
    #[schema(schema_with = types)]
    r#type: String,
    /// What happened; the fields depend on the type.
    #[schema(value_type = Object)]
    data: serde_json::Value,
    /// Unique within domain and source; given one where it is absent.
    id: Option<String>,
    /// The producing service; absent, as the type has it.
    source: Option<String>,
    /// RFC 3339; absent, when the event was stored.
    #[schema(format = DateTime)]
    time: Option<String>,
    /// HIGH, MEDIUM or LOW; absent, as the type has it.
    priority: Option<String>,
    /// The event's place in a trace (W3C Trace Context).
    traceparent: Option<String>,
}

fn types() -> Schema {
    let names = catalogue::all().map(|kind| format!("{}.{}", kind.domain, kind.name));
    ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some("`<domain>.<type>`"))
        .enum_values(Some(names))
        .into()
}

/// The events of a request, all stored.
#[derive(Serialize, ToSchema)]
pub(super) struct Accepted {
    /// In the order of the request.
    events: Vec<Acknowledged>,
}

/// Publish events
///
/// A CloudEvent in structured or binary mode, a batch of them, or the data
/// alone with `?type=`. Either all events of a batch are valid, or none is
/// published. A repeated event is recognised by domain, source and id and is
/// stored once, so any request may be sent again.
#[utoipa::path(
    post,
    path = "/api/v1/events",
    tag = "events",
    security(("bearer" = []), ("api_key" = [])),
    params(
        ("type" = Option<String>, Query, description = "`<domain>.<type>`, where the body is data alone"),
        ("id" = Option<String>, Query, description = "The event's id, where the body is data alone"),
        ("source" = Option<String>, Query, description = "The producing service, where the body is data alone"),
        ("Idempotency-Key" = Option<String>, Header, description = "The id of an event that brings none; in a batch with its index behind it"),
        ("traceparent" = Option<String>, Header, description = "The trace that the events belong to"),
    ),
    request_body(content(
        (CloudEvent = "application/cloudevents+json"),
        (Vec<CloudEvent> = "application/cloudevents-batch+json"),
        (Object = "application/json"),
    )),
    responses(
        (status = 202, description = "The bus has stored every event", body = Accepted),
        (status = 400, description = "An event is not valid; nothing was published", body = Failure),
        (status = 401, description = "The credential is missing or not valid", body = Failure),
        (status = 403, description = "A permission is missing, or a page of a foreign origin", body = Failure),
        (status = 413, description = "Body or event are too large", body = Failure),
        (status = 415, description = "The media type is not read", body = Failure),
        (status = 429, description = "Too many requests of this credential or connections from this address", body = Failure),
        (status = 500, description = "Our fault", body = Failure),
        (status = 503, description = "The bus is away or full; says which events it acknowledged before", body = Failure),
    )
)]
pub(super) async fn publish_events(
    State(doors): State<Doors>,
    Extension(visitor): Extension<Visitor>,
    request: Request,
) -> Result<(StatusCode, Json<Accepted>), Failure> {
    let (head, body) = request.into_parts();
    let producer = producer(&doors, &visitor, &head.headers).await?;
    let bytes = announced_bytes(&head.headers).min(MAX_BODY_BYTES);
    let _pass = doors.ingest.gate.enter(&producer.credential, bytes)?;
    let body = body::read(body, MAX_BODY_BYTES, doors.body_timeout).await?;
    let query = head.uri.query().unwrap_or_default().to_owned();
    let events = read(head.headers, query, body, producer.permissions).await?;
    let stored = doors.ingest.store(events).await;
    match stored {
        Ok(events) => Ok((StatusCode::ACCEPTED, Json(Accepted { events }))),
        Err(Interrupted {
            acknowledged,
            complaint,
        }) => Err(Failure::after(complaint, acknowledged)),
    }
}

/// Who sends events, if it may send any.
async fn producer(
    doors: &Doors,
    visitor: &Visitor,
    headers: &HeaderMap,
) -> Result<Principal, Complaint> {
    let credential = caller::credential(headers)?;
    let producer = caller::authenticate(doors, visitor, &credential).await?;
    let may_publish = producer.permissions.intersection(Permissions::PUBLISH);
    if may_publish.is_empty() {
        let any = Permission::Publish(signalbox_protocol::Domain::Threat);
        return Err(Complaint::plain(
            ErrorCode::Forbidden,
            format!("a permission such as {any} is needed"),
        ));
    }
    Ok(producer)
}

/// How long the body is going to be; the most it may be, if it does not say.
fn announced_bytes(headers: &HeaderMap) -> usize {
    headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .unwrap_or(MAX_BODY_BYTES)
}

async fn read(
    headers: HeaderMap,
    query: String,
    body: Bytes,
    permissions: Permissions,
) -> Result<Vec<Ready>, Complaint> {
    let large = body.len() > LARGE_BYTES;
    let read = move || {
        ingest::read(&Posted {
            headers: &headers,
            query: &query,
            body: &body,
            permissions,
            now: Timestamp::from(OffsetDateTime::now_utc()),
        })
    };
    if !large {
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
