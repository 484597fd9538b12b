//! One HTTP request to a model: a connection of its own, TLS by rustls, no
//! redirects, no proxies, no compression. The connection is driven by whoever
//! reads the body, so giving the body up ends both.

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use signalbox_identity::Secret;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use url::{Host, Url};

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
/// The longest refusal that is kept for the log, in characters.
const MAX_DETAIL_CHARS: usize = 300;

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

/// Where a provider is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl {
    host: String,
    port: u16,
    tls: bool,
    path: String,
}

impl BaseUrl {
    /// Reads an address: https, or http on this machine; http elsewhere only
    /// when it is explicitly allowed.
    ///
    /// # Errors
    /// Says what is expected.
    pub fn parse(text: &str, allow_http: bool) -> Result<Self, String> {
        let wrong = || "expected a URL such as https://models.example/v1".to_owned();
        let url = Url::parse(text).map_err(|_| wrong())?;
        let host = url.host().ok_or_else(wrong)?;
        let loopback = match &host {
            Host::Ipv4(address) => address.is_loopback(),
            Host::Ipv6(address) => address.is_loopback(),
            Host::Domain(name) => *name == "localhost",
        };
        let tls = match url.scheme() {
            "https" => true,
            "http" if loopback || allow_http => false,
            "http" => {
                return Err(
                    "expected https: http is for this machine, or with allow_http = true"
                        .to_owned(),
                );
            }
            _ => return Err(wrong()),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err("expected no user or password: keys go into api_key_env".to_owned());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("expected no query and no fragment".to_owned());
        }
        Ok(Self {
            host: host.to_string().trim_matches(['[', ']']).to_owned(),
            port: url.port_or_known_default().ok_or_else(wrong)?,
            tls,
            path: url.path().trim_end_matches('/').to_owned(),
        })
    }

    /// Whether requests go to this host.
    pub(super) fn is_host(&self, host: &str) -> bool {
        self.host == host
    }

    fn authority(&self) -> String {
        let standard = if self.tls { 443 } else { 80 };
        let host = match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V6(address)) => format!("[{address}]"),
            _ => self.host.clone(),
        };
        if self.port == standard {
            host
        } else {
            format!("{host}:{}", self.port)
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
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has the default versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            tls: TlsConnector::from(Arc::new(config)),
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
        let connecting = timeout(timeouts.connect, self.connect(base));
        let stream = connecting
            .await
            .map_err(|_| unreachable(&"the connection takes too long"))??;
        let body = exchange(stream, request, timeouts.read).await?;
        if body.status.is_success() {
            body.expect_events(key).await
        } else {
            Err(body.refusal(key).await)
        }
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
pub(super) struct Body {
    status: StatusCode,
    headers: HeaderMap,
    incoming: Incoming,
    driver: Option<Driver>,
    read: Duration,
    taken: usize,
}

impl Body {
    /// The next bytes; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
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
        let status = self.status;
        let text = self.start(key).await;
        let mut failure = Failure::new(kind_of(status, &text), format!("status {status}: {text}"));
        // Providers repeat parts of a key that they refuse.
        if failure.kind == FailureKind::Auth {
            failure.detail = format!("status {status}");
        }
        failure.retry_after = retry_after(&self.headers);
        failure.advice = match self
            .headers
            .get("x-should-retry")
            .map(HeaderValue::as_bytes)
        {
            Some(b"true") => Some(true),
            Some(b"false") => Some(false),
            _ => None,
        };
        failure
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

/// One line for the log: no key, no control characters, bounded.
pub(super) fn clean(text: &str, key: Option<&Secret>) -> String {
    let text = match key.map(Secret::expose) {
        Some(key) if !key.is_empty() => text.replace(key, "[redacted]"),
        _ => text.to_owned(),
    };
    text.chars()
        .map(|char| if char.is_control() { ' ' } else { char })
        .take(MAX_DETAIL_CHARS)
        .collect()
}

fn kind_of(status: StatusCode, body: &str) -> FailureKind {
    match status.as_u16() {
        401..=403 => FailureKind::Auth,
        408 | 409 | 425 => FailureKind::ServerError,
        // Money that has run out does not come back by waiting.
        429 if body.contains("insufficient_quota") => FailureKind::Auth,
        429 => FailureKind::RateLimited,
        503 | 529 => FailureKind::Overloaded,
        500.. => FailureKind::ServerError,
        _ if is_too_long(body) => FailureKind::ContextExceeded,
        _ => FailureKind::BadRequest,
    }
}

/// Whether a refusal says that the conversation does not fit the model.
fn is_too_long(body: &str) -> bool {
    [
        "context_length_exceeded",
        "prompt is too long",
        "maximum context length",
    ]
    .iter()
    .any(|sign| body.contains(sign))
}

/// When the provider wants to be asked again: seconds, or milliseconds in the
/// header that OpenAI adds. Dates are not sent by any of them.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let number = |name: &str| -> Option<f64> {
        let value = headers.get(name)?.to_str().ok()?.trim();
        value.parse().ok()
    };
    let seconds = number("retry-after-ms")
        .map(|millis| millis / 1000.0)
        .or_else(|| number("retry-after"))?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_is_for_this_machine() {
        for fine in [
            "https://models.example/v1/",
            "http://127.0.0.1:11434/v1",
            "http://[::1]:1",
            "http://localhost:8000",
        ] {
            BaseUrl::parse(fine, false).unwrap();
        }
        for wrong in [
            "http://models.example/v1",
            "http://10.0.0.1/v1",
            "ftp://127.0.0.1",
            "models.example",
            "https://user:key@models.example",
            "https://models.example/?key=1",
        ] {
            BaseUrl::parse(wrong, false).unwrap_err();
        }
        BaseUrl::parse("http://10.0.0.1/v1", true).unwrap();
    }

    #[test]
    fn the_host_header_has_what_the_address_has() {
        let authority = |text| BaseUrl::parse(text, false).unwrap().authority();
        assert_eq!(authority("https://models.example/v1"), "models.example");
        assert_eq!(
            authority("https://models.example:8443"),
            "models.example:8443"
        );
        assert_eq!(authority("http://[::1]:9/v1"), "[::1]:9");
    }

    #[test]
    fn waits_are_read_in_seconds_and_milliseconds() {
        let headers = |name: &'static str, value: &'static str| {
            HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())])
        };
        let wait = |name, value| retry_after(&headers(name, value));
        assert_eq!(wait("retry-after", "2"), Some(Duration::from_secs(2)));
        assert_eq!(wait("retry-after", "0.5"), Some(Duration::from_millis(500)));
        assert_eq!(
            wait("retry-after-ms", "70"),
            Some(Duration::from_millis(70))
        );
        assert_eq!(wait("retry-after", "-1"), None);
        assert_eq!(wait("retry-after", "Wed, 21 Oct 2026 07:28:00 GMT"), None);
    }

    #[test]
    fn a_key_is_in_no_detail() {
        let key = Secret::new("sk-1234");
        let cleaned = clean("wrong key\nsk-1234 given", Some(&key));
        assert_eq!(cleaned, "wrong key [redacted] given");
        assert_eq!(clean(&"x".repeat(9999), None).len(), MAX_DETAIL_CHARS);
    }
}
