//! The path of Engine.IO, which Socket.IO clients use whatever namespace they
//! are after: long-polling, WebSocket, and the upgrade from one to the other.

use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse as _, Response};
use signalbox_protocol::{Dialect, ErrorCode};
use tokio::sync::oneshot;

use super::failure::Failure;
use super::upgrade::unserved;
use super::{Doors, Visitor};
use crate::sockets::{Call, Guest};

/// Dialects `pipeline` and `workspace`: what the server has to say
///
/// Socket.IO 4 in namespace `/ws`, over long-polling or WebSocket. Opens a
/// session, waits for its next packets, or makes it a WebSocket.
#[utoipa::path(
    get,
    path = "/socket.io/",
    tag = "websocket",
    params(
        ("EIO" = String, Query, description = "The protocol's version", example = "4"),
        ("transport" = String, Query, description = "`polling` or `websocket`", example = "polling"),
        ("sid" = Option<String>, Query, description = "The session; without it a new one begins"),
        ("token" = Option<String>, Query, description = "An access token for dialect `workspace`, where the client sends none with its CONNECT"),
        ("dialect" = Option<String>, Query, description = "`pipeline` or `workspace`, where the presence of a token does not tell"),
    ),
    security(()),
    responses(
        (status = 101, description = "The connection is a WebSocket now"),
        (status = 200, description = "Engine.IO packets", body = String, content_type = "text/plain"),
        (status = 400, description = "Not Engine.IO 4, or no such session"),
        (status = 403, description = "A page of a foreign origin", body = Failure),
        (status = 404, description = "The dialects are not served on this port", body = Failure),
        (status = 429, description = "Too many connections from this address"),
        (status = 503, description = "Too many connections, or the gateway is going away"),
    )
)]
pub(super) async fn receive(
    State(doors): State<Doors>,
    Extension(visitor): Extension<Visitor>,
    request: Request,
) -> Response {
    call(&doors, visitor, request).await
}

/// Dialects `pipeline` and `workspace`: what the client has to say
///
/// The packets of a session that polls.
#[utoipa::path(
    post,
    path = "/socket.io/",
    tag = "websocket",
    params(
        ("EIO" = String, Query, description = "The protocol's version", example = "4"),
        ("transport" = String, Query, description = "`polling`", example = "polling"),
        ("sid" = String, Query, description = "The session"),
    ),
    security(()),
    request_body(content = String, content_type = "text/plain", description = "Engine.IO packets"),
    responses(
        (status = 200, description = "They were taken", body = String, content_type = "text/plain"),
        (status = 400, description = "Not Engine.IO 4, or no such session"),
        (status = 403, description = "A page of a foreign origin", body = Failure),
        (status = 404, description = "The dialects are not served on this port", body = Failure),
        (status = 413, description = "More than may be sent at once"),
    )
)]
pub(super) async fn send(
    State(doors): State<Doors>,
    Extension(visitor): Extension<Visitor>,
    request: Request,
) -> Response {
    call(&doors, visitor, request).await
}

/// Has the shard's engine answer. The request ends with its client: whoever
/// drops this drops the receiver, which the shard notices.
async fn call(doors: &Doors, visitor: Visitor, mut request: Request) -> Response {
    let served = |dialect| doors.dialects.contains(&dialect);
    let (pipeline, workspace) = (served(Dialect::Pipeline), served(Dialect::Workspace));
    if !pipeline && !workspace {
        return unserved(request.uri().path(), &doors.dialects).into_response();
    }
    let peer = visitor.peer.ip();
    request.extensions_mut().insert(Guest {
        visitor,
        pipeline,
        workspace,
    });
    let (answer, answered) = oneshot::channel();
    let call = Call {
        request,
        peer,
        answer,
    };
    let busy = || {
        let sentence = "too many requests are arriving, try again";
        Failure::plain(ErrorCode::ConnectionFailed, sentence).into_response()
    };
    if doors.calls.try_send(call).is_err() {
        return busy();
    }
    match answered.await {
        Ok(response) => response.map(Body::new),
        Err(_) => busy(),
    }
}
