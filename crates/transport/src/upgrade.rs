//! The WebSocket opening handshake (RFC 6455 section 4.2): checks an HTTP request, makes the
//! response, and takes the TCP stream out of hyper afterwards. Offers of extensions are ignored, so
//! none is ever in use.

use std::io;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header,
};
use http_body_util::{Empty, Full};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::{
    net::TcpStream,
    runtime::{self, Handle},
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::http_stream::HttpStream;

/// The only protocol version there is.
const VERSION: HeaderValue = HeaderValue::from_static("13");
const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
const UPGRADE: HeaderValue = HeaderValue::from_static("Upgrade");

/// Length of a key: sixteen bytes in base64.
const KEY_LEN: usize = 24;

/// Why a request does not become a WebSocket connection. Its text is the sentence for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum UpgradeRejection {
    /// Not a GET request.
    #[error("a WebSocket handshake is a GET request")]
    Method,
    /// HTTP/1.0, which has no upgrades, or a version that has another handshake.
    #[error("a WebSocket handshake needs HTTP/1.1")]
    HttpVersion,
    /// A plain request, without `Connection: Upgrade` and `Upgrade: websocket`.
    #[error("this address speaks WebSocket only")]
    NotUpgrade,
    /// Another version of the protocol than 13, or none.
    #[error("only version 13 of the WebSocket protocol is supported")]
    WebSocketVersion,
    /// `Sec-WebSocket-Key` is missing, repeated, or not sixteen bytes in base64.
    #[error("Sec-WebSocket-Key must hold sixteen bytes in base64")]
    Key,
}

impl UpgradeRejection {
    /// The HTTP status to answer with.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::HttpVersion | Self::Key => StatusCode::BAD_REQUEST,
            Self::NotUpgrade | Self::WebSocketVersion => StatusCode::UPGRADE_REQUIRED,
        }
    }

    /// The whole answer: status, the headers that the status demands, and the sentence.
    pub fn response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::from(self.to_string()));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        match self {
            Self::Method => {
                headers.insert(header::ALLOW, HeaderValue::from_static("GET"));
            }
            Self::NotUpgrade | Self::WebSocketVersion => {
                headers.insert(header::CONNECTION, UPGRADE);
                headers.insert(header::UPGRADE, WEBSOCKET);
                headers.insert(header::SEC_WEBSOCKET_VERSION, VERSION);
            }
            Self::HttpVersion | Self::Key => {}
        }
        response
    }
}

/// An upgrade that was agreed to and happens once hyper has written the response.
#[derive(Debug)]
pub struct PendingUpgrade {
    upgrade: OnUpgrade,
    /// The runtime that serves the HTTP connection, and so polls its socket.
    runtime: Option<runtime::Id>,
}

impl PendingUpgrade {
    /// Waits for the upgrade and takes the stream out of hyper, of which nothing remains. The bytes
    /// are what the client sent right behind its request.
    ///
    /// Called on another runtime than the one that served the request, as on a shard, the stream
    /// moves to that runtime.
    ///
    /// # Errors
    /// When the connection broke first, or was not served by [`serve_http`](crate::serve_http).
    pub async fn complete(self) -> io::Result<(TcpStream, Bytes)> {
        let upgraded = self.upgrade.await.map_err(io::Error::other)?;
        let parts = upgraded
            .downcast::<TokioIo<HttpStream>>()
            .map_err(|_| io::Error::other("the connection was not served by serve_http"))?;
        let mut stream = parts.io.into_inner().into_tcp();
        if self.runtime != current_runtime() {
            stream = TcpStream::from_std(stream.into_std()?)?;
        }
        Ok((stream, parts.read_buf))
    }
}

/// Agrees to an upgrade, without a subprotocol.
///
/// # Errors
/// The first rule of the handshake that the request breaks.
pub fn accept<B>(
    request: &mut Request<B>,
) -> Result<(Response<Empty<Bytes>>, PendingUpgrade), UpgradeRejection> {
    accept_subprotocol(request, &[])
}

/// Agrees to an upgrade with the first of the `supported` subprotocols that the client offers, or
/// without one if it offers none of them. The response's `Sec-WebSocket-Protocol` header says
/// which.
///
/// # Errors
/// The first rule of the handshake that the request breaks.
pub fn accept_subprotocol<B>(
    request: &mut Request<B>,
    supported: &[&'static str],
) -> Result<(Response<Empty<Bytes>>, PendingUpgrade), UpgradeRejection> {
    let accept_key = check(request)?;
    let chosen = supported
        .iter()
        .find(|protocol| offers(request.headers(), header::SEC_WEBSOCKET_PROTOCOL, protocol));

    let mut response = Response::new(Empty::new());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, UPGRADE);
    headers.insert(header::UPGRADE, WEBSOCKET);
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept_key);
    if let Some(protocol) = chosen {
        headers.insert(
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(protocol),
        );
    }
    let pending = PendingUpgrade {
        upgrade: hyper::upgrade::on(request),
        runtime: current_runtime(),
    };
    Ok((response, pending))
}

/// Checks the request and returns the value of `Sec-WebSocket-Accept`.
fn check<B>(request: &Request<B>) -> Result<HeaderValue, UpgradeRejection> {
    let headers = request.headers();
    if request.method() != Method::GET {
        return Err(UpgradeRejection::Method);
    }
    if !has_token(headers, header::CONNECTION, "upgrade")
        || !has_token(headers, header::UPGRADE, "websocket")
    {
        return Err(UpgradeRejection::NotUpgrade);
    }
    if request.version() != Version::HTTP_11 {
        return Err(UpgradeRejection::HttpVersion);
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION) != Some(&VERSION) {
        return Err(UpgradeRejection::WebSocketVersion);
    }
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
    match (keys.next().map(HeaderValue::as_bytes), keys.next()) {
        (Some(key), None) if is_key(key) => {
            Ok(HeaderValue::try_from(derive_accept_key(key))
                .expect("base64 is a valid header value"))
        }
        _ => Err(UpgradeRejection::Key),
    }
}

/// Whether a comma-separated header lists the token; case does not matter.
fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|listed| listed.eq_ignore_ascii_case(token))
}

/// Whether a comma-separated header lists exactly this value.
fn offers(headers: &HeaderMap, name: HeaderName, value: &str) -> bool {
    tokens(headers, name).any(|listed| listed == value)
}

fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

fn is_key(key: &[u8]) -> bool {
    let alphabet = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    key.len() == KEY_LEN && key.ends_with(b"==") && key[..KEY_LEN - 2].iter().all(alphabet)
}

fn current_runtime() -> Option<runtime::Id> {
    Handle::try_current().ok().map(|handle| handle.id())
}

#[cfg(test)]
mod tests;
