//! The agent before a scripted gateway: encryption, tokens, and what it makes of
//! the ways in which a gateway ends a connection.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, too"
)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use serde_json::{Value, json};
use signalbox_agent::address::Address;
use signalbox_agent::executor::Executor;
use signalbox_agent::presence::{self, Options};
use signalbox_agent::{Error, KeySource};
use signalbox_identity::ApiKey;
use signalbox_service::Shutdown;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::{WebSocketStream, accept_async};

use crate::common::DEADLINE;

/// A connection, encrypted or not.
trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

type Socket = WebSocketStream<Box<dyn Io>>;

/// A gateway that does what the test says.
struct Gateway {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    /// How many tokens it has issued.
    issued: usize,
}

impl Gateway {
    async fn start(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self {
            listener,
            tls,
            issued: 0,
        }
    }

    fn address(&self, scheme: &str) -> Address {
        let port = self.listener.local_addr().unwrap().port();
        Address::parse(&format!("{scheme}://localhost:{port}/ws")).unwrap()
    }

    async fn accept(&self) -> std::io::Result<Box<dyn Io>> {
        let (stream, _) = timeout(DEADLINE, self.listener.accept()).await.unwrap()?;
        match &self.tls {
            None => Ok(Box::new(stream) as Box<dyn Io>),
            Some(tls) => tls
                .accept(stream)
                .await
                .map(|stream| Box::new(stream) as Box<dyn Io>),
        }
    }

    /// Issues the token that is asked for next.
    async fn issue(&mut self, expires_in: u64) {
        let mut stream = self.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"}") {
            let mut bytes = [0; 4_096];
            let read = stream.read(&mut bytes).await.unwrap();
            assert_ne!(read, 0, "{}", String::from_utf8_lossy(&request));
            request.extend_from_slice(&bytes[..read]);
        }
        let request = String::from_utf8(request).unwrap();
        assert!(request.starts_with("POST /api/v1/auth/token "), "{request}");
        assert!(request.contains(r#""agent_id":"a-1""#), "{request}");
        self.issued += 1;
        let body = json!({
            "access_token": format!("token-{}", self.issued),
            "expires_in": expires_in,
        })
        .to_string();
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body.as_bytes()).await.unwrap();
        stream.shutdown().await.ok();
    }

    /// The next connection of the agent, and how it introduces itself.
    async fn greet(&self) -> (Socket, Value) {
        let mut socket = accept_async(self.accept().await.unwrap()).await.unwrap();
        let introduction = hear(&mut socket, "agent:connect").await;
        let connected = json!({
            "type": "agent:connected",
            "agentId": "a-1",
            "heartbeatInterval": 30_000,
            "timestamp": "2026-01-01T00:00:00Z",
        });
        say(&mut socket, &connected).await;
        (socket, introduction)
    }
}

async fn say(socket: &mut Socket, message: &Value) {
    socket
        .send(Message::text(message.to_string()))
        .await
        .unwrap();
}

async fn hear(socket: &mut Socket, kind: &str) -> Value {
    loop {
        let message = timeout(DEADLINE, socket.next()).await.unwrap();
        if let Message::Text(text) = message.unwrap().unwrap() {
            let message: Value = serde_json::from_str(&text).unwrap();
            if message["type"] == kind {
                return message;
            }
        }
    }
}

async fn close(mut socket: Socket, code: u16, reason: &str) {
    let frame = CloseFrame {
        code: code.into(),
        reason: reason.to_owned().into(),
    };
    socket.close(Some(frame)).await.unwrap();
    while let Some(Ok(_)) = socket.next().await {}
}

/// An agent in a folder of its own.
struct Agent {
    shutdown: Shutdown,
    running: JoinHandle<Result<(), Error>>,
    _dir: TempDir,
}

impl Agent {
    fn start(address: Address, change: impl FnOnce(&mut Options)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let executor = Executor::open(common::options(dir.path())).unwrap();
        let mut options = Options {
            address,
            agent_id: "a-1".to_owned(),
            agent_type: "test".to_owned(),
            key: KeySource::Known(ApiKey::generate()),
            authorities: None,
            token_ttl: None,
            concurrency: 1,
            output_rates: Default::default(),
            message_rates: Default::default(),
            status_interval: Duration::from_secs(60),
            compress: false,
            stop_grace: Duration::from_secs(1),
            hand_over: Duration::from_secs(1),
        };
        change(&mut options);
        let shutdown = Shutdown::new();
        let running = tokio::spawn(presence::run(options, executor, shutdown.clone()));
        Self {
            shutdown,
            running,
            _dir: dir,
        }
    }

    async fn outcome(self) -> Result<(), Error> {
        timeout(DEADLINE, self.running).await.unwrap().unwrap()
    }
}

/// A certificate for `localhost` that nobody vouches for, and who has it.
fn certificate() -> (String, TlsAcceptor) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::from_pem_slice(signing_key.serialize_pem().as_bytes()).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(cert.pem().as_bytes()).unwrap()];
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    (cert.pem(), TlsAcceptor::from(Arc::new(config)))
}

#[tokio::test]
async fn an_encrypted_gateway_needs_a_trusted_authority() {
    let (pem, tls) = certificate();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), pem).unwrap();
    let mut gateway = Gateway::start(Some(tls)).await;
    // Not without: neither the key nor anything else is sent.
    let stranger = Agent::start(gateway.address("wss"), |_| {});
    assert!(gateway.accept().await.is_err());
    stranger.running.abort();
    stranger.running.await.ok();
    let agent = Agent::start(gateway.address("wss"), |options| {
        options.authorities = Some(file.path().to_owned());
    });
    gateway.issue(900).await;
    let (mut socket, introduction) = gateway.greet().await;
    assert_eq!(introduction["capabilities"], json!(["ack", "journal"]));
    agent.shutdown.trigger();
    hear(&mut socket, "agent:disconnect").await;
    close(socket, 1000, "goodbye").await;
    agent.outcome().await.unwrap();
}

#[tokio::test]
async fn a_close_for_the_token_has_another_fetched_and_others_have_not() {
    let mut gateway = Gateway::start(None).await;
    let agent = Agent::start(gateway.address("ws"), |_| {});
    gateway.issue(900).await;
    let (mut socket, _) = gateway.greet().await;
    // Busy, or going away: it is left alone for a while, and the token is good.
    for code in [1013, 1001] {
        let began = Instant::now();
        close(socket, code, "later").await;
        (socket, _) = gateway.greet().await;
        assert!(began.elapsed() >= Duration::from_secs(1), "{code}");
    }
    drop(socket);
    (socket, _) = gateway.greet().await;
    close(socket, 1008, "the credential was revoked").await;
    gateway.issue(900).await;
    (socket, _) = gateway.greet().await;
    close(socket, 1008, "replaced").await;
    let outcome = agent.outcome().await;
    assert!(matches!(outcome, Err(Error::Replaced(id)) if id == "a-1"));
}

#[tokio::test]
async fn a_token_is_replaced_in_time_and_when_the_gateway_says_so() {
    let mut gateway = Gateway::start(None).await;
    let agent = Agent::start(gateway.address("ws"), |_| {});
    gateway.issue(4).await;
    let (mut socket, _) = gateway.greet().await;
    let began = Instant::now();
    gateway.issue(4).await;
    assert_eq!(
        hear(&mut socket, "auth:refresh-token").await["token"],
        "token-2"
    );
    let took = began.elapsed();
    assert!((2..4).contains(&took.as_secs()), "{took:?}");
    // Asked for, sooner, though not at once again.
    let began = Instant::now();
    say(&mut socket, &json!({"type": "auth:refresh-needed"})).await;
    gateway.issue(900).await;
    assert_eq!(
        hear(&mut socket, "auth:refresh-token").await["token"],
        "token-3"
    );
    assert!(began.elapsed() < Duration::from_secs(3));
    agent.running.abort();
}

/// What the gateway lacks at the end is sent again, and then the end.
#[tokio::test]
async fn output_and_end_are_told_until_they_are_taken() {
    let mut gateway = Gateway::start(None).await;
    let agent = Agent::start(gateway.address("ws"), |_| {});
    gateway.issue(900).await;
    let (mut socket, _) = gateway.greet().await;
    let execute = json!({"type": "command:execute", "commandId": "c-1", "command": "echo hello"});
    say(&mut socket, &execute).await;
    let output = hear(&mut socket, "terminal:output").await;
    assert_eq!(
        (&output["output"]["content"], &output["offset"]),
        (&json!("hello\n"), &json!(0))
    );
    // The connection breaks before anything is stored: all comes again.
    drop(socket);
    let (mut socket, introduction) = gateway.greet().await;
    assert_eq!(introduction["ended"], json!(["c-1"]));
    let output = hear(&mut socket, "terminal:output").await;
    assert_eq!(output["output"]["content"], "hello\n");
    let ack = json!({"type": "terminal:ack", "commandId": "c-1", "stream": "stdout", "offset": 6});
    say(&mut socket, &ack).await;
    let end = hear(&mut socket, "command:complete").await;
    assert_eq!(
        (&end["exitCode"], &end["status"]),
        (&json!(0), &json!("completed"))
    );
    // Executed again, it is the same command: its end comes again, at once.
    say(&mut socket, &execute).await;
    let end = hear(&mut socket, "command:complete").await;
    say(
        &mut socket,
        &json!({"type": "request:done", "requestId": end["requestId"]}),
    )
    .await;
    agent.shutdown.trigger();
    hear(&mut socket, "agent:disconnect").await;
    close(socket, 1000, "goodbye").await;
    agent.outcome().await.unwrap();
}
