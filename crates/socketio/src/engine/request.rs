//! The HTTP side as values: what a request asks for, and what it is answered.

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Full;
use url::form_urlencoded;

/// When clients that are refused for now may return.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// A request to a polling session, as a value that can be handed to another shard or gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRequest {
    /// The session.
    pub sid: String,
    /// What is asked of it.
    pub verb: Verb,
}

/// What a request asks of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// The next packets: a GET, answered when there are some.
    Poll,
    /// Takes packets: a POST with its body.
    Push(Bytes),
    /// A POST whose body is larger than any session takes, and was not read: ends the session.
    TooLarge,
}

/// An HTTP answer, as a value that can be handed to another shard or gateway. Knows no CORS: that
/// is for whoever serves HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// `text/plain` below 400, JSON `{code, message}` from there on.
    pub body: Bytes,
}

impl Answer {
    pub(super) fn ok(body: impl Into<Bytes>) -> Self {
        Self {
            status: StatusCode::OK,
            body: body.into(),
        }
    }

    /// A refusal of the layer above, with a sentence for the client.
    pub fn denied(status: StatusCode, message: &str) -> Self {
        Self::error(status, 4, message)
    }

    /// As the protocol's own server words it, with its codes.
    fn error(status: StatusCode, code: u8, message: &str) -> Self {
        let body = serde_json::json!({"code": code, "message": message}).to_string();
        Self {
            status,
            body: body.into(),
        }
    }

    /// The answer as an HTTP response.
    pub fn into_response(self) -> Response<Full<Bytes>> {
        let content_type = if self.status.is_client_error() || self.status.is_server_error() {
            "application/json"
        } else {
            "text/plain; charset=UTF-8"
        };
        let retry = matches!(
            self.status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        );
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if retry {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        response
    }
}

/// Why a request is refused, in the words and codes of the protocol's own server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// No transport, or one that is not served.
    Transport,
    /// No such session (any more).
    Sid,
    /// Sessions are opened with GET.
    Method,
    /// The request does not fit the session.
    Bad,
    /// Another version than 4.
    Version,
    /// More bytes than are accepted.
    TooLarge,
    /// The body did not come in time.
    Slow,
    /// Too many sessions of this address that go no further.
    Unsettled,
    /// Too many sessions.
    Full,
    /// Going away.
    Draining,
}

impl Refused {
    pub(super) fn answer(self) -> Answer {
        let (status, code, message) = match self {
            Self::Transport => (StatusCode::BAD_REQUEST, 0, "Transport unknown"),
            Self::Sid => (StatusCode::BAD_REQUEST, 1, "Session ID unknown"),
            Self::Method => (StatusCode::BAD_REQUEST, 2, "Bad handshake method"),
            Self::Bad => (StatusCode::BAD_REQUEST, 3, "Bad request"),
            Self::Version => (StatusCode::BAD_REQUEST, 5, "Unsupported protocol version"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, 3, "Payload too large"),
            Self::Slow => (StatusCode::REQUEST_TIMEOUT, 3, "Body came too slowly"),
            Self::Unsettled => (
                StatusCode::TOO_MANY_REQUESTS,
                4,
                "Too many sessions of this address are not connected",
            ),
            Self::Full => (StatusCode::SERVICE_UNAVAILABLE, 4, "Too many sessions"),
            Self::Draining => (StatusCode::SERVICE_UNAVAILABLE, 4, "Going away"),
        };
        Answer::error(status, code, message)
    }
}

/// What the query of a request says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Query {
    pub(super) websocket: bool,
    pub(super) sid: Option<String>,
}

impl Query {
    /// Reads a query; of repeated keys the first counts.
    pub(super) fn parse(query: &str) -> Result<Self, Refused> {
        let (mut version, mut transport, mut sid) = (None, None, None);
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            let slot = match key.as_ref() {
                "EIO" => &mut version,
                "transport" => &mut transport,
                "sid" => &mut sid,
                _ => continue,
            };
            slot.get_or_insert(value);
        }
        let websocket = match transport.as_deref() {
            Some("polling") => false,
            Some("websocket") => true,
            _ => return Err(Refused::Transport),
        };
        if version.as_deref() != Some("4") {
            return Err(Refused::Version);
        }
        Ok(Self {
            websocket,
            sid: sid.map(Into::into),
        })
    }
}

/// What a method asks of a polling session; the body is still to be read.
pub(super) fn is_push(method: &Method) -> Result<bool, Refused> {
    match *method {
        Method::GET => Ok(false),
        Method::POST => Ok(true),
        _ => Err(Refused::Bad),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_say_transport_version_and_session() {
        let parsed = |websocket, sid: Option<&str>| {
            Ok(Query {
                websocket,
                sid: sid.map(str::to_owned),
            })
        };
        for (query, expected) in [
            ("EIO=4&transport=polling", parsed(false, None)),
            ("transport=websocket&t=x&EIO=4", parsed(true, None)),
            (
                "EIO=4&transport=polling&sid=a%2Fb",
                parsed(false, Some("a/b")),
            ),
            ("EIO=4&transport=polling&sid=", parsed(false, Some(""))),
            (
                "EIO=4&transport=polling&EIO=3&sid=a&sid=b",
                parsed(false, Some("a")),
            ),
            ("", Err(Refused::Transport)),
            ("EIO=4", Err(Refused::Transport)),
            ("EIO=4&transport=webtransport", Err(Refused::Transport)),
            ("EIO=4&transport=Polling", Err(Refused::Transport)),
            ("transport=polling", Err(Refused::Version)),
            ("EIO=3&transport=polling", Err(Refused::Version)),
            ("EIO=04&transport=polling", Err(Refused::Version)),
            ("EIO=abc&transport=websocket", Err(Refused::Version)),
        ] {
            assert_eq!(Query::parse(query), expected, "{query}");
        }
    }

    #[test]
    fn answers_say_when_to_return() {
        for (refused, status, retry) in [
            (Refused::Sid, 400, false),
            (Refused::TooLarge, 413, false),
            (Refused::Slow, 408, false),
            (Refused::Unsettled, 429, true),
            (Refused::Full, 503, true),
            (Refused::Draining, 503, true),
        ] {
            let response = refused.answer().into_response();
            assert_eq!(response.status(), status);
            assert_eq!(response.headers().contains_key(header::RETRY_AFTER), retry);
            assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
        }
        let ok = Answer::ok("ok").into_response();
        assert_eq!(
            ok.headers()[header::CONTENT_TYPE],
            "text/plain; charset=UTF-8"
        );
    }
}
