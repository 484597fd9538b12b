//! TLS as a client: whom all our clients trust, and by which cryptography.

use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// What the system trusts; `SSL_CERT_FILE` names other roots. A machine without
/// any trusts nobody, and can still talk to others without TLS.
#[must_use]
pub fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

/// A client that trusts these roots and shows no certificate of its own.
///
/// # Panics
/// Never: the versions of TLS are those of the cryptography that is built in.
#[must_use]
pub fn client_config(roots: RootCertStore) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// As [`client_config`], ready to open connections.
#[must_use]
pub fn connector(roots: RootCertStore) -> TlsConnector {
    TlsConnector::from(Arc::new(client_config(roots)))
}
