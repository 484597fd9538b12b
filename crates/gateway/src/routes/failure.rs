//! Answers that say what went wrong: one form for every endpoint, with the
//! status that the code's table gives.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use signalbox_protocol::ErrorCode;
use signalbox_protocol::frame::fields::Complaint;
use utoipa::ToSchema;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};

use crate::auth_service::Declined;
use crate::ingest::Acknowledged;

/// When to try again what cannot be served now, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// An answer to a request that was not served.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Failure {
    error: Problem,
    /// The events that the bus acknowledged before the request failed, in
    /// order. Sending everything again under the same ids stores none twice.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    acknowledged: Vec<Acknowledged>,
    /// When to try again, where that is known; else a second is as good as any.
    #[serde(skip)]
    retry_after: Option<Duration>,
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
struct Problem {
    #[schema(schema_with = codes)]
    code: ErrorCode,
    /// A sentence for people.
    message: String,
    /// The field or header at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "events[3].data.severity")]
    field: Option<String>,
}

fn codes() -> Schema {
    let words = ErrorCode::ALL.into_iter().map(ErrorCode::as_str);
    ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(words))
        .into()
}

impl Failure {
    pub(super) fn new(complaint: Complaint) -> Self {
        Self::after(complaint, Vec::new())
    }

    pub(super) fn plain(code: ErrorCode, message: &str) -> Self {
        Self::new(Complaint::plain(code, message))
    }

    /// A request that failed after some of its events were stored.
    pub(super) fn after(complaint: Complaint, acknowledged: Vec<Acknowledged>) -> Self {
        Self {
            error: Problem {
                code: complaint.code,
                message: complaint.message,
                field: complaint.field,
            },
            acknowledged,
            retry_after: None,
        }
    }
}

impl From<Complaint> for Failure {
    fn from(complaint: Complaint) -> Self {
        Self::new(complaint)
    }
}

impl From<Declined> for Failure {
    fn from(declined: Declined) -> Self {
        Self {
            retry_after: declined.retry_after,
            ..Self::new(declined.complaint)
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.error.code.http_status())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retry_after = self.retry_after.map(in_seconds);
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        match status {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                headers.insert(header::RETRY_AFTER, retry_after.unwrap_or(RETRY_AFTER));
            }
            StatusCode::UNAUTHORIZED => {
                let scheme = HeaderValue::from_static("Bearer");
                headers.insert(header::WWW_AUTHENTICATE, scheme);
            }
            _ => {}
        }
        response
    }
}

/// A time as a header says it: in seconds, rounded up.
fn in_seconds(time: Duration) -> HeaderValue {
    let seconds = time.as_millis().div_ceil(1_000).max(1);
    HeaderValue::from(u64::try_from(seconds).unwrap_or(u64::MAX))
}

/// A path that is served, but not to this method; axum adds `Allow`.
pub(super) async fn method_not_allowed(method: Method) -> Failure {
    let message = format!("{method} is not served at this path, see the Allow header");
    Failure::plain(ErrorCode::MethodNotAllowed, &message)
}
