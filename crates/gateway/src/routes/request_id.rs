//! The ids of requests about credentials: the same in the answer, in the audit
//! log of the auth service and, if it sends one, at the client. Their answers
//! are kept by no cache.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use uuid::Uuid;

/// Where the id stands.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest id that is taken over, in bytes.
const MAX_BYTES: usize = 128;
/// The paths of requests about credentials.
const PATHS: [&str; 2] = ["/api/v1/auth/", "/api/v1/admin/"];

/// The id of a request.
#[derive(Clone)]
pub(super) struct RequestId(String);

impl RequestId {
    /// The id that came with a request, or else a new one.
    fn of(headers: &HeaderMap) -> Self {
        let found = headers.get(X_REQUEST_ID).map(HeaderValue::as_bytes);
        let sane = found
            .filter(|id| (1..=MAX_BYTES).contains(&id.len()) && id.iter().all(is_sane))
            .and_then(|id| std::str::from_utf8(id).ok());
        Self(sane.map_or_else(|| Uuid::now_v7().to_string(), str::to_owned))
    }

    pub(super) fn into_text(self) -> String {
        self.0
    }
}

/// Whether a byte may stand in an id: nothing that means something in a log
/// line, a header or a shell.
const fn is_sane(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':' | b'/' | b'+' | b'=')
}

/// Gives each request about credentials its id.
pub(super) async fn tag(mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if !PATHS.iter().any(|prefix| path.starts_with(prefix)) {
        return next.run(request).await;
    }
    let id = RequestId::of(request.headers());
    request.extensions_mut().insert(id.clone());
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::try_from(id.0) {
        headers.insert(X_REQUEST_ID, id);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sane_ids_are_taken_over_and_others_replaced() {
        let of = |value: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(X_REQUEST_ID, HeaderValue::from_bytes(value).unwrap());
            RequestId::of(&headers).into_text()
        };
        for sane in ["a", "01a1f919-3cdc", "Root=1-67:x/y", &"x".repeat(128)] {
            assert_eq!(of(sane.as_bytes()), sane);
        }
        let long = "x".repeat(129);
        for odd in ["", "a b", "a\tb", "a=\"b\"", "a;b", "\u{fc}", &long] {
            let id = of(odd.as_bytes());
            assert!(id != odd && id.len() == 36, "{id}");
        }
        assert_eq!(RequestId::of(&HeaderMap::new()).into_text().len(), 36);
    }
}
