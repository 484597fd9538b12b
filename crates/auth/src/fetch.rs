//! Fetches one small document over HTTPS: no redirects, no proxies, bounded.

use http::{Request, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use signalbox_service::tls;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use url::{Host, Url};

/// The longest document, in bytes.
const MAX_BYTES: usize = 256 * 1024;

/// Where a document is.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    host: String,
    port: u16,
    tls: bool,
    path: String,
}

impl Source {
    /// Reads an address: https, or http on this machine, for tests.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}`: expected an https address");
        let url = Url::parse(text).map_err(|_| wrong())?;
        let local = match url.host() {
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            _ => false,
        };
        let tls = match url.scheme() {
            "https" => true,
            "http" if local => false,
            _ => return Err(wrong()),
        };
        let host = url.host_str().ok_or_else(wrong)?;
        Ok(Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: url.port_or_known_default().ok_or_else(wrong)?,
            tls,
            path: url[url::Position::BeforePath..url::Position::AfterQuery].to_owned(),
        })
    }
}

/// Fetches documents.
pub(crate) struct Fetcher {
    tls: TlsConnector,
}

impl Fetcher {
    /// Trusts what the system trusts.
    pub(crate) fn new() -> Self {
        Self {
            tls: tls::connector(tls::system_roots()),
        }
    }

    /// Fetches a document; the caller bounds the time.
    ///
    /// # Errors
    /// Says what went wrong.
    pub(crate) async fn get(&self, source: &Source) -> Result<Bytes, String> {
        let stream = TcpStream::connect((source.host.as_str(), source.port));
        let stream = stream.await.map_err(|error| error.to_string())?;
        if !source.tls {
            return exchange(source, stream).await;
        }
        let name = ServerName::try_from(source.host.clone()).map_err(|error| error.to_string())?;
        let stream = self.tls.connect(name, stream);
        exchange(source, stream.await.map_err(|error| error.to_string())?).await
    }
}

async fn exchange<S>(source: &Source, stream: S) -> Result<Bytes, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let told = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(told)?;
    let request = Request::get(&source.path)
        .header(header::HOST, format!("{}:{}", source.host, source.port))
        .header(header::ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(told)?;
        if response.status() != http::StatusCode::OK {
            return Err(format!("status {}", response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_BYTES);
        let body = body.collect().await.map_err(|error| error.to_string())?;
        Ok(body.to_bytes())
    };
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        // The end of the connection may come with the end of the answer.
        ended = connection => match ended {
            Ok(()) => answer.await,
            Err(error) => Err(error.to_string()),
        },
    }
}
