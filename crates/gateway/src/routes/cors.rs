//! Cross-origin requests: pages of foreign origins are refused whatever they
//! ask for, pages of allowed ones get the headers that their browser wants.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use signalbox_protocol::ErrorCode;
use tracing::debug;

use super::failure::Failure;
use crate::origin::Origins;

/// What pages may send. Each request is checked by itself, so the list need
/// not depend on the path.
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE");
/// The headers that pages may send.
const HEADERS: HeaderValue = HeaderValue::from_static(
    "authorization, content-type, x-api-key, idempotency-key, x-request-id, traceparent, \
     tracestate, \
     ce-specversion, ce-type, ce-id, ce-source, ce-time, ce-priority, ce-subject, \
     ce-datacontenttype",
);
/// The headers of answers that pages may read, beside those they always may.
const EXPOSED: HeaderValue = HeaderValue::from_static("retry-after, x-request-id, location");
/// How long a browser may remember a permission, in seconds; a list that was
/// made shorter takes effect after as long.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// Lets requests through whose origin may use the listener.
pub(super) async fn guard(
    State(origins): State<Origins>,
    request: Request,
    next: Next,
) -> Response {
    let origin = match origins.check(request.headers()) {
        Ok(origin) => origin,
        Err(foreign) => {
            debug!(path = request.uri().path(), "foreign origin refused");
            let mut response =
                Failure::plain(ErrorCode::Forbidden, &foreign.to_string()).into_response();
            vary(response.headers_mut());
            return response;
        }
    };
    let mut response = if origin.is_some() && is_preflight(&request) {
        preflight()
    } else {
        next.run(request).await
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return response;
    }
    let headers = response.headers_mut();
    vary(headers);
    // Written by us from its parts, so nothing of the request's own bytes
    // gets into the answer.
    let origin = origin.and_then(|origin| HeaderValue::try_from(origin.to_string()).ok());
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }
    response
}

fn is_preflight(request: &Request) -> bool {
    request.method() == Method::OPTIONS
        && request
            .headers()
            .contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

fn preflight() -> Response {
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, METHODS),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS),
        (header::ACCESS_CONTROL_MAX_AGE, MAX_AGE),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

fn vary(headers: &mut HeaderMap) {
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
}
