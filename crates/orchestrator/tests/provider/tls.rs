//! Models over TLS: only servers with a certificate that is trusted get the
//! key.

use std::net::SocketAddr;
use std::sync::Arc;

use signalbox_identity::Secret;
use signalbox_orchestrator::provider::http::{BaseUrl, Client, Timeouts};
use signalbox_orchestrator::provider::openai::OpenAi;
use signalbox_orchestrator::provider::{FailureKind, Provider as _};
use signalbox_testkit::{FakeModel, Reply};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use crate::setting::{KEY, Outcome, asking};

/// For `localhost`, signed by itself, known to nobody else.
const CERTIFICATE: &[u8] = include_bytes!("tls/certificate.pem");
const CERTIFICATE_KEY: &[u8] = include_bytes!("tls/key.pem");

fn certificate() -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(CERTIFICATE).unwrap()
}

/// Serves TLS in front of a plain server.
async fn serve_tls(target: SocketAddr) -> SocketAddr {
    let key = PrivateKeyDer::from_pem_slice(CERTIFICATE_KEY).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let mut plain = TcpStream::connect(target).await.unwrap();
                copy_bidirectional(&mut stream, &mut plain).await.ok();
            }
        }
    });
    addr
}

async fn ask(roots: RootCertStore, host: &str, addr: SocketAddr) -> Outcome {
    let provider = OpenAi {
        client: Client::trusting(roots),
        base: BaseUrl::parse(&format!("https://{host}:{}/v1", addr.port()), false).unwrap(),
        key: Some(Arc::new(Secret::new(KEY))),
        timeouts: Timeouts::default(),
        token_limit: None,
    };
    Outcome::of(provider.answer(asking("?").into())).await
}

#[tokio::test]
async fn a_trusted_server_answers_and_others_get_nothing() {
    let model = FakeModel::start().await;
    let addr = serve_tls(model.addr()).await;
    let mut roots = RootCertStore::empty();
    roots.add(certificate()).unwrap();
    let strangers = ask(RootCertStore::empty(), "localhost", addr).await;
    assert_eq!(strangers.failed().kind, FailureKind::Unreachable);
    let misnamed = ask(roots.clone(), "127.0.0.1", addr).await;
    assert_eq!(misnamed.failed().kind, FailureKind::Unreachable);
    assert_eq!(model.requests().len(), 0);
    model.reply(Reply::saying("Hello over TLS.").split(3));
    let outcome = ask(roots, "localhost", addr).await;
    assert_eq!(outcome.text, "Hello over TLS.");
    outcome.ended();
    assert_eq!(
        model.received(1).await.header("host"),
        Some(&*format!("localhost:{}", addr.port()))
    );
}
