//! The HTTP side of a listener: upgrades to WebSocket and the token endpoint.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, post};
use serde::Serialize;
use serde_json::json;
use signalbox_protocol::frame::fields::{Complaint, Fields, MAX_TOKEN_BYTES};
use signalbox_protocol::{Dialect, ErrorCode, wire};
use signalbox_transport::PendingUpgrade;
use signalbox_transport::upgrade;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::admission::Ticket;
use crate::authority::Authority;
use crate::shard::Shared;

/// The longest body that the token endpoint reads, in bytes.
const MAX_BODY_BYTES: usize = 16 * 1024;
/// When to try again what cannot be served now, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");
/// The longest lifetime that may be asked for, in seconds.
const MAX_TTL_SECONDS: u32 = 31_536_000;

/// The other end of an HTTP connection.
#[derive(Clone)]
pub(crate) struct Visitor {
    pub(crate) peer: SocketAddr,
    /// What it was admitted with.
    pub(crate) ticket: Arc<Ticket>,
}

/// A connection that asked to become a WebSocket.
pub(crate) struct Arrival {
    pub(crate) upgrade: PendingUpgrade,
    pub(crate) visitor: Visitor,
    /// What came with the request.
    pub(crate) credential: Option<String>,
}

/// What the routes of one listener lead to.
#[derive(Clone)]
pub(crate) struct Doors {
    authority: Arc<Authority>,
    dialects: BTreeSet<Dialect>,
    arrivals: mpsc::Sender<Arrival>,
    /// How long a body may take to arrive.
    body_timeout: Duration,
}

impl Doors {
    pub(crate) fn new(
        shared: &Shared,
        dialects: BTreeSet<Dialect>,
        arrivals: mpsc::Sender<Arrival>,
    ) -> Self {
        Self {
            authority: Arc::clone(&shared.authority),
            dialects,
            arrivals,
            body_timeout: shared.options.http.header_read_timeout,
        }
    }
}

/// The routes of one listener.
pub(crate) fn router(doors: Doors) -> Router {
    Router::new()
        .route("/v1/ws", any(threat))
        .route("/api/v1/auth/token", post(token))
        .fallback(nowhere)
        .with_state(doors)
}

/// `GET /v1/ws`: dialect `threat`.
async fn threat(
    State(doors): State<Doors>,
    Extension(visitor): Extension<Visitor>,
    mut request: Request,
) -> Response {
    if !doors.dialects.contains(&Dialect::Threat) {
        return failure(
            ErrorCode::NotFound,
            "dialect threat is not served on this port",
        );
    }
    let credential = match credential(request.headers(), request.uri()) {
        Ok(credential) => credential,
        Err(complaint) => return refusal(&complaint),
    };
    let (response, pending) = match upgrade::accept(&mut request) {
        Ok(accepted) => accepted,
        Err(rejection) => return rejection.response().map(Body::new),
    };
    match doors.arrivals.try_send(Arrival {
        upgrade: pending,
        visitor,
        credential,
    }) {
        Ok(()) => response.map(Body::new),
        Err(_) => failure(
            ErrorCode::ConnectionFailed,
            "too many connections are arriving, try again",
        ),
    }
}

/// The credential that came with an upgrade request: `Authorization: Bearer`,
/// `X-API-Key`, or `?token=` for tokens.
fn credential(headers: &HeaderMap, uri: &Uri) -> Result<Option<String>, Complaint> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(value) = text(header::AUTHORIZATION.as_str()) {
        return match value.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
                Ok(Some(token.trim().to_owned()))
            }
            _ => Err(Complaint::plain(
                ErrorCode::AuthFailed,
                "expected Authorization: Bearer",
            )),
        };
    }
    if let Some(value) = text("x-api-key") {
        return Ok(Some(value.to_owned()));
    }
    let query = uri.query().unwrap_or_default();
    let token = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "token");
    match token {
        // URLs end up in logs and histories; a key would live on there.
        Some((_, token)) if token.starts_with(signalbox_identity::API_KEY_PREFIX) => {
            Err(Complaint::plain(
                ErrorCode::AuthFailed,
                "API keys are not accepted in URLs, exchange them for a token",
            ))
        }
        Some((_, token)) => Ok(Some(token.into_owned())),
        None => Ok(None),
    }
}

/// The answer of `POST /api/v1/auth/token`.
#[derive(Serialize)]
struct Tokens<'a> {
    access_token: &'a str,
    token_type: &'static str,
    /// Seconds from now.
    expires_in: u32,
}

/// `POST /api/v1/auth/token {api_key, ttl?, projects?, agent_id?}`: an access token for an API key.
async fn token(State(doors): State<Doors>, body: Body) -> Response {
    let body = axum::body::to_bytes(body, MAX_BODY_BYTES);
    let body: Bytes = match timeout(doors.body_timeout, body).await {
        Ok(Ok(body)) => body,
        Err(_) => {
            return failure(
                ErrorCode::InvalidMessage,
                "the body took too long to arrive",
            );
        }
        Ok(Err(_)) => {
            return failure(
                ErrorCode::InvalidMessage,
                "expected a body of at most 16384 bytes",
            );
        }
    };
    let asked = std::str::from_utf8(&body)
        .map_err(|_| Complaint::plain(ErrorCode::InvalidJson, "expected a JSON object"))
        .and_then(Fields::parse)
        .and_then(|mut fields| {
            Ok(wire::IssueTokenRequest {
                api_key: fields.text("api_key", MAX_TOKEN_BYTES)?,
                ttl_seconds: fields
                    .optional_integer("ttl", 1..=MAX_TTL_SECONDS)?
                    .unwrap_or(0),
                projects: fields.optional_texts("projects")?.unwrap_or_default(),
                agent_id: fields.optional_id("agent_id")?.unwrap_or_default(),
                ..wire::IssueTokenRequest::default()
            })
        });
    let request = match asked {
        Ok(asked) => asked,
        Err(complaint) => return refusal(&complaint),
    };
    match doors.authority.issue_token(&request).await {
        Ok(issued) => {
            let tokens = Tokens {
                access_token: &issued.access_token,
                token_type: "Bearer",
                expires_in: issued.expires_in,
            };
            let headers = [(header::CACHE_CONTROL, "no-store")];
            (headers, axum::Json(json!(tokens))).into_response()
        }
        Err(complaint) => refusal(&complaint),
    }
}

/// Everything else.
async fn nowhere(uri: Uri) -> Response {
    let dialect = match uri.path() {
        "/api/v1/ws" => Some(Dialect::Mesh),
        "/ws" => Some(Dialect::Fleet),
        path if path.starts_with("/socket.io") => Some(Dialect::Pipeline),
        _ => None,
    };
    match dialect {
        Some(dialect) => failure(
            ErrorCode::NotFound,
            &format!("dialect {dialect} is not served on this port"),
        ),
        None => failure(ErrorCode::NotFound, "nothing is served at this path"),
    }
}

fn failure(code: ErrorCode, message: &str) -> Response {
    refusal(&Complaint::plain(code, message))
}

fn refusal(complaint: &Complaint) -> Response {
    let status = StatusCode::from_u16(complaint.code.http_status())
        .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut error = json!({"code": complaint.code, "message": complaint.message});
    if let Some(field) = &complaint.field {
        error["field"] = json!(field);
    }
    let mut response = (status, axum::Json(json!({"error": error}))).into_response();
    if status == StatusCode::SERVICE_UNAVAILABLE || status == StatusCode::TOO_MANY_REQUESTS {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, RETRY_AFTER);
    }
    response
}
