//! HTTP/1.1 on an accepted connection, up to an upgrade: hyper with the limits that a public
//! listener needs. Routes nothing.

use std::{error::Error, future::Future, pin::pin, time::Duration};

use http::{Request, Response};
use hyper::{
    body::{Body, Incoming},
    server::conn::http1,
    service::Service,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use crate::http_stream::HttpStream;

/// The smallest buffer that hyper works with.
const LEAST_BUFFER_BYTES: usize = 8 * 1024;

/// Limits of an HTTP connection before its upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpLimits {
    /// From the first moment of a connection, or the end of the previous response, to the last byte
    /// of a request's head; default 10 s. Bounds clients that trickle their headers and those that
    /// keep an idle connection.
    pub header_read_timeout: Duration,
    /// Bytes of a request's head; default 16 KiB, at least 8 KiB are granted. More is answered with
    /// 431.
    pub max_head_bytes: usize,
    /// Header lines of a request; default 64. More is answered with 431.
    pub max_headers: usize,
    /// Whether a connection serves more than one request; default true.
    pub keep_alive: bool,
    /// How long a response may wait for a peer that takes nothing of it; default 10 s. Then the
    /// connection is reset.
    pub write_timeout: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            header_read_timeout: Duration::from_secs(10),
            max_head_bytes: 16 * 1024,
            max_headers: 64,
            keep_alive: true,
            write_timeout: Duration::from_secs(10),
        }
    }
}

/// Serves requests on `stream` until it closes or a response upgrades it. Neither the service nor
/// its futures need be `Send`.
///
/// After `shutdown` the request in progress is answered, and no other.
///
/// # Errors
/// What hyper reports of this connection: a malformed or overlong request, a head that came too
/// slowly, a peer that left or takes no answers, an error of the service.
pub async fn serve_http<S, B>(
    stream: TcpStream,
    service: S,
    limits: &HttpLimits,
    shutdown: impl Future<Output = ()>,
) -> Result<(), hyper::Error>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let max_head_bytes = limits.max_head_bytes.max(LEAST_BUFFER_BYTES);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read_timeout)
        .max_buf_size(max_head_bytes)
        .max_header_size(max_head_bytes)
        .max_headers(limits.max_headers)
        .keep_alive(limits.keep_alive)
        .serve_connection(
            TokioIo::new(HttpStream::new(stream, limits.write_timeout)),
            service,
        )
        .with_upgrades();
    let mut connection = pin!(connection);
    tokio::select! {
        // The connection first: a request that is complete by then is still answered.
        biased;
        result = connection.as_mut() => return result,
        () = shutdown => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}
