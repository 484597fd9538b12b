//! One HTTP request to a model: a connection of its own, TLS by rustls, no
//! redirects, no proxies, no compression. The connection is driven by whoever
//! reads the body, so giving the body up ends both.

mod base_url;
mod refusal;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use signalbox_identity::Secret;
use signalbox_service::tls;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::ServerName;

pub use self::base_url::BaseUrl;
pub(super) use self::refusal::clean;
use super::failure::{Failure, FailureKind};

/// How long name, connection and TLS handshake may take together.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a provider may send no byte at all. The agent's clocks, which count
/// pieces of the answer, are meant to run out first.
pub const READ_TIMEOUT: Duration = Duration::from_secs(600);
/// The most bytes of one answer, framing included. More ends it: [`FailureKind::TooLarge`].
pub const MAX_ANSWER_BYTES: usize = 32 * 1024 * 1024;
/// How much of the body of a refusal is read, in bytes; the rest is left.
const MAX_REFUSAL_BYTES: usize = 16 * 1024;

/// How long a request may wait for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For the connection, TLS included.
    pub connect: Duration,
    /// From one byte to the next.
    pub read: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: CONNECT_TIMEOUT,
            read: READ_TIMEOUT,
        }
    }
}

/// Sends requests.
#[derive(Clone)]
pub struct Client {
    tls: TlsConnector,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

impl Client {
    /// Trusts what the system trusts; `SSL_CERT_FILE` names other roots.
    #[must_use]
    pub fn new() -> Self {
        Self::trusting(tls::system_roots())
    }

    /// Trusts these certificates alone.
    #[must_use]
    pub fn trusting(roots: RootCertStore) -> Self {
        Self {
            tls: tls::connector(roots),
        }
    }

    /// Posts JSON below an address and waits for the head of a successful
    /// answer.
    ///
    /// # Errors
    /// No connection, no answer, or a refusal; `key` is in no error.
    pub(super) async fn post(
        &self,
        base: &BaseUrl,
        path: &str,
        headers: HeaderMap,
        body: Vec<u8>,
        timeouts: Timeouts,
        key: Option<&Secret>,
    ) -> Result<Body, Failure> {
        let mut request = Request::post(format!("{}{path}", base.path))
            .header(header::HOST, base.authority())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "text/event-stream")
            .header(
                header::USER_AGENT,
                concat!("signalbox/", env!("CARGO_PKG_VERSION")),
            )
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| Failure::new(FailureKind::BadRequest, error.to_string()))?;
        request.headers_mut().extend(headers);
        let connection = self.open(base, timeouts.connect).await?;
        let body = connection.send(request, timeouts.read).await?;
        if body.status.is_success() {
            body.expect_events(key).await
        } else {
            Err(body.refusal(key).await)
        }
    }

    /// Opens a connection for one request.
    ///
    /// # Errors
    /// There is none in time; nothing was sent.
    pub(crate) async fn open(
        &self,
        base: &BaseUrl,
        patience: Duration,
    ) -> Result<Connection, Failure> {
        let connecting = timeout(patience, self.connect(base));
        let stream = connecting
            .await
            .map_err(|_| unreachable(&"the connection takes too long"))??;
        Ok(Connection(stream))
    }

    async fn connect(&self, base: &BaseUrl) -> Result<Stream, Failure> {
        let stream = TcpStream::connect((base.host.as_str(), base.port))
            .await
            .map_err(|error| unreachable(&error))?;
        stream.set_nodelay(true).ok();
        if !base.tls {
            return Ok(Box::new(stream));
        }
        let name = ServerName::try_from(base.host.clone()).map_err(|error| unreachable(&error))?;
        let stream = self.tls.connect(name, stream).await;
        Ok(Box::new(stream.map_err(|error| unreachable(&error))?))
    }
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

fn unreachable(error: &dyn fmt::Display) -> Failure {
    Failure::new(FailureKind::Unreachable, error.to_string())
}

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}
type Stream = Box<dyn Duplex>;

/// An open connection that has not been used.
pub(crate) struct Connection(Stream);

impl Connection {
    /// Sends a request and waits for the head of the answer, whatever that is.
    /// `read` is how long the server may be silent, here and in the body.
    ///
    /// # Errors
    /// No answer; the server may have the request all the same.
    pub(crate) async fn send(
        self,
        request: Request<Full<Bytes>>,
        read: Duration,
    ) -> Result<Body, Failure> {
        exchange(self.0, request, read).await
    }
}

/// What drives a connection; its outcome shows in the body.
type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

async fn exchange(
    stream: Stream,
    request: Request<Full<Bytes>>,
    read: Duration,
) -> Result<Body, Failure> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| unreachable(&error))?;
    let mut driver: Driver = Box::pin(async move {
        // A broken connection is told by the request or the body as well.
        connection.await.ok();
    });
    let head = async {
        let mut sending = std::pin::pin!(sender.send_request(request));
        tokio::select! {
            biased;
            response = &mut sending => response,
            () = &mut driver => sending.await,
        }
    };
    let response = timeout(read, head)
        .await
        .map_err(|_| silent(read))?
        .map_err(|error| unreachable(&error))?;
    let (parts, incoming) = response.into_parts();
    Ok(Body {
        status: parts.status,
        headers: parts.headers,
        incoming,
        driver: Some(driver),
        read,
        taken: 0,
    })
}

fn silent(read: Duration) -> Failure {
    Failure::new(FailureKind::Silent, format!("no byte for {read:?}"))
}

/// An answer whose head has come.
pub(crate) struct Body {
    status: StatusCode,
    headers: HeaderMap,
    incoming: Incoming,
    driver: Option<Driver>,
    read: Duration,
    taken: usize,
}

impl Body {
    /// The status of the answer.
    pub(crate) const fn status(&self) -> StatusCode {
        self.status
    }

    /// The headers of the answer.
    pub(crate) const fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The next bytes; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        let read = self.read;
        let bytes = timeout(read, self.next_data())
            .await
            .map_err(|_| silent(read))??;
        self.taken += bytes.as_ref().map_or(0, Bytes::len);
        if self.taken > MAX_ANSWER_BYTES {
            return Err(Failure::new(
                FailureKind::TooLarge,
                format!("the answer is longer than {MAX_ANSWER_BYTES} bytes"),
            ));
        }
        Ok(bytes)
    }

    async fn next_data(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let frame = match &mut self.driver {
                Some(driver) => tokio::select! {
                    biased;
                    frame = self.incoming.frame() => frame,
                    () = driver => {
                        self.driver = None;
                        continue;
                    }
                },
                None => self.incoming.frame().await,
            };
            match frame {
                None => return Ok(None),
                Some(Err(error)) => {
                    return Err(Failure::new(FailureKind::Cut, error.to_string()));
                }
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// Itself, if it is a stream of events: a page of some proxy is none.
    async fn expect_events(mut self, key: Option<&Secret>) -> Result<Self, Failure> {
        let kind = self.headers.get(header::CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !kind.starts_with("application/json") && !kind.starts_with("text/html") {
            return Ok(self);
        }
        let kind = kind.to_owned();
        let start = self.start(key).await;
        let detail = format!("expected a stream of events, got {kind}: {start}");
        Err(Failure::new(FailureKind::Garbled, detail))
    }

    async fn refusal(mut self, key: Option<&Secret>) -> Failure {
        let text = self.start(key).await;
        refusal::failure(self.status, &self.headers, &text)
    }

    /// The start of the body as one line without the key.
    async fn start(&mut self, key: Option<&Secret>) -> String {
        let mut bytes = Vec::new();
        while bytes.len() < MAX_REFUSAL_BYTES
            && let Ok(Some(more)) = self.next().await
        {
            bytes.extend_from_slice(&more);
        }
        bytes.truncate(MAX_REFUSAL_BYTES);
        clean(&String::from_utf8_lossy(&bytes), key)
    }
}
