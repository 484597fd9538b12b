//! Connections to a gateway, encrypted where its address says so.

use std::path::Path;
use std::time::Duration;

use signalbox_service::tls;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};

use crate::address::Address;

/// How long a connection may take to be made.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection, encrypted or not.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// Connects.
#[derive(Clone)]
pub(crate) struct Dialer {
    address: Address,
    tls: TlsConnector,
}

impl Dialer {
    /// Trusts what the system trusts, and the certificates in `authorities`.
    ///
    /// # Errors
    /// Says what is wrong with that file.
    pub(crate) fn new(address: Address, authorities: Option<&Path>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        if address.is_encrypted() {
            roots = tls::system_roots();
            if let Some(path) = authorities {
                let wrong = |cause: String| format!("--ca-file {}: {cause}", path.display());
                let certificates = CertificateDer::pem_file_iter(path)
                    .map_err(|error| wrong(error.to_string()))?
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(|error| wrong(error.to_string()))?;
                if certificates.is_empty() {
                    return Err(wrong("expected a certificate in PEM".to_owned()));
                }
                for certificate in certificates {
                    roots
                        .add(certificate)
                        .map_err(|error| wrong(error.to_string()))?;
                }
            }
        }
        Ok(Self {
            address,
            tls: tls::connector(roots),
        })
    }

    pub(crate) const fn address(&self) -> &Address {
        &self.address
    }

    /// Connects to the gateway.
    ///
    /// # Errors
    /// Says what went wrong.
    pub(crate) async fn connect(&self) -> Result<Box<dyn Io>, String> {
        match timeout(PATIENCE, self.try_connect()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no connection within {PATIENCE:?}")),
        }
    }

    async fn try_connect(&self) -> Result<Box<dyn Io>, String> {
        let address = &self.address;
        let stream = TcpStream::connect((address.host(), address.port()))
            .await
            .map_err(|error| error.to_string())?;
        // What is typed must not wait for company.
        stream
            .set_nodelay(true)
            .map_err(|error| error.to_string())?;
        if !address.is_encrypted() {
            return Ok(Box::new(stream));
        }
        let name =
            ServerName::try_from(address.host().to_owned()).map_err(|error| error.to_string())?;
        let stream = self.tls.connect(name, stream).await;
        Ok(Box::new(stream.map_err(|error| error.to_string())?))
    }
}
