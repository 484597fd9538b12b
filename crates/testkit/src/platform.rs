//! A whole Signalbox of separate processes around a NATS server of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::Value;
use signalbox_bus::server::User;
use signalbox_bus::{Bus, BusOptions};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::{DEADLINE, NatsServer, Process, eventually, signalbox};

/// What tests see of the services' work: single events in logs.
const LOG_FILTER: &str = "debug,async_nats=info,hyper=info";

/// How soon a killed router's successor takes over, in seconds, unless a test
/// chooses otherwise.
const LEASE_TTL: &str = "2";

/// Further arguments for the parts of a platform.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arguments<'a> {
    /// Of `init`.
    pub init: &'a [&'a str],
    /// Of the router.
    pub router: &'a [&'a str],
    /// Of the gateways.
    pub gateway: &'a [&'a str],
    /// Variables in the environment of all services.
    pub environment: &'a [(&'a str, &'a str)],
}

/// Auth, a router and gateways, each a process. Dropping it ends them.
#[derive(Debug)]
pub struct Platform {
    /// The gateways, in the order in which they were started.
    pub gateways: Vec<Service>,
    /// The router.
    pub router: Service,
    /// The auth service.
    pub auth: Service,
    /// The bus.
    pub nats: NatsServer,
    environment: Vec<(String, String)>,
    pub(crate) dir: TempDir,
}

/// A running service.
#[derive(Debug)]
pub struct Service {
    /// Its process.
    pub process: Process,
    /// Where it tells how it is.
    pub admin: SocketAddr,
    /// Where clients connect, or other systems; services without either have
    /// none.
    pub listener: Option<SocketAddr>,
}

impl Platform {
    /// Starts everything, with this many gateways, and waits until it is ready.
    ///
    /// # Panics
    /// When a part does not start.
    pub async fn start(gateways: usize) -> Self {
        Self::start_with(gateways, &[]).await
    }

    /// As [`start`](Self::start), with further arguments for the gateways.
    ///
    /// # Panics
    /// When a part does not start.
    pub async fn start_with(gateways: usize, arguments: &[&str]) -> Self {
        let arguments = Arguments {
            gateway: arguments,
            ..Arguments::default()
        };
        Self::start_as(gateways, arguments).await
    }

    /// As [`start`](Self::start), with further arguments for each part.
    ///
    /// # Panics
    /// When a part does not start.
    pub async fn start_as(gateways: usize, arguments: Arguments<'_>) -> Self {
        let nats = NatsServer::start().await;
        let dir = tempfile::tempdir().expect("a temporary directory can be created");
        let mut init = command(&nats, User::Admin, "init");
        init.arg("--credentials")
            .arg(dir.path())
            .args(arguments.init);
        let init = Process::spawn(init);
        let status = init.wait(DEADLINE).await;
        assert!(
            status.success(),
            "init failed\n{}",
            init.stderr().lines().join("\n")
        );
        let mut auth = auth(&nats, dir.path());
        auth.envs(arguments.environment.iter().copied());
        let auth = Service::spawn(auth);
        let mut router = router(&nats, arguments.router);
        router.envs(arguments.environment.iter().copied());
        let router = Service::spawn(router);
        let (auth, router) = (auth.ready().await, router.ready().await);
        let mut platform = Self {
            gateways: Vec::new(),
            router,
            auth,
            nats,
            environment: arguments
                .environment
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            dir,
        };
        for _ in 0..gateways {
            let gateway = platform.start_gateway(arguments.gateway).await;
            platform.gateways.push(gateway);
        }
        platform
    }

    /// Starts one more gateway, which the caller keeps.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_gateway(&self, arguments: &[&str]) -> Service {
        let mut gateway = command(&self.nats, User::Gateway, "gateway");
        gateway
            .args(["--listen", "127.0.0.1:0"])
            .args(arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        Service::spawn(gateway).ready().await
    }

    /// Starts one more gateway that listens on `listen` and reaches the bus on
    /// another port, of a [`Proxy`](crate::Proxy) for instance. The caller
    /// keeps it.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_gateway_at(&self, listen: SocketAddr, bus_port: u16) -> Service {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let mut gateway = command(&self.nats, User::Gateway, "gateway");
            gateway
                .env("NATS_URL", self.nats.url_through(User::Gateway, bus_port))
                .args(["--listen", &listen.to_string()]);
            match Service::spawn(gateway).settle().await {
                Ok(service) => return service,
                // The system may have lent the port to a passing connection.
                Err(words) if words.contains("in use") && Instant::now() < deadline => {}
                Err(words) => panic!("the gateway does not start\n{words}"),
            }
        }
    }

    /// As [`start_gateway`](Self::start_gateway), for one that reaches the bus on
    /// another port, of a [`Proxy`](crate::Proxy) for instance.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_gateway_through(&self, bus_port: u16, arguments: &[&str]) -> Service {
        let mut gateway = command(&self.nats, User::Gateway, "gateway");
        gateway
            .env("NATS_URL", self.nats.url_through(User::Gateway, bus_port))
            .args(["--listen", "127.0.0.1:0"])
            .args(arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        Service::spawn(gateway).ready().await
    }

    /// Starts one more auth service, which the caller keeps.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_auth(&self) -> Service {
        Service::spawn(auth(&self.nats, self.dir.path()))
            .ready()
            .await
    }

    /// Starts a relay, with a short lease and these arguments; the caller keeps
    /// it.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_relay(&self, arguments: &[&str]) -> Service {
        let mut relay = command(&self.nats, User::Relay, "relay");
        relay
            .env("SIGNALBOX_LEASE_TTL", "1")
            .env("SIGNALBOX_AGENT_BEAT", "200")
            .args(arguments);
        Service::spawn(relay).ready().await
    }

    /// Starts one more router, which the caller keeps.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_router(&self) -> Service {
        self.start_router_with(&[]).await
    }

    /// As [`start_router`](Self::start_router), with further arguments.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_router_with(&self, arguments: &[&str]) -> Service {
        Service::spawn(router(&self.nats, arguments)).ready().await
    }

    /// The API key that was made for a role.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn api_key(&self, role: &str) -> String {
        api_key(&self.dir.path().join("credentials.json"), role)
    }

    /// An access token for a role, from the first gateway.
    ///
    /// # Panics
    /// When it is not issued.
    pub async fn token(&self, role: &str) -> String {
        let body = serde_json::json!({"api_key": self.api_key(role)}).to_string();
        let (status, answer) = post(self.gateways[0].listener(), "/api/v1/auth/token", &body).await;
        assert_eq!(status, 200, "{answer}");
        let answer: Value = serde_json::from_str(&answer).expect("the answer is JSON");
        answer["access_token"]
            .as_str()
            .expect("the answer has a token")
            .to_owned()
    }

    /// A connection to the bus as `user`, as services have it.
    ///
    /// # Panics
    /// When the bus does not let it in.
    pub async fn bus(&self, user: User) -> Bus {
        let options = BusOptions {
            url: self.nats.url(user),
            wait: DEADLINE,
        };
        Bus::connect(&options, "test")
            .await
            .expect("the bus is there")
    }
}

/// The API key for a role in a credentials file.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn api_key(credentials: &Path, role: &str) -> String {
    let text = std::fs::read_to_string(PathBuf::from(credentials)).expect("there are credentials");
    let credentials: Value = serde_json::from_str(&text).expect("credentials are JSON");
    credentials["keys"][role]
        .as_str()
        .expect("each role has a key")
        .to_owned()
}

impl Service {
    /// Starts a service whose command takes `--admin`.
    fn spawn(mut command: Command) -> Starting {
        command.args(["--admin", "127.0.0.1:0"]);
        Starting(Process::spawn(command))
    }

    /// Where clients connect.
    ///
    /// # Panics
    /// When it serves none.
    #[must_use]
    pub fn listener(&self) -> SocketAddr {
        self.listener.expect("the service has a listener")
    }

    /// The URL of dialect `threat` there.
    #[must_use]
    pub fn threat_url(&self) -> String {
        format!("ws://{}/v1/ws", self.listener())
    }
}

impl Service {
    /// The URL of dialect `fleet` there.
    #[must_use]
    pub fn fleet_url(&self) -> String {
        format!("ws://{}/ws", self.listener())
    }

    /// The URL of dialect `mesh` there, with a token.
    #[must_use]
    pub fn mesh_url(&self, token: &str) -> String {
        format!("ws://{}/api/v1/ws?token={token}", self.listener())
    }
}

/// A service that is not ready yet.
struct Starting(Process);

impl Starting {
    async fn ready(self) -> Service {
        match self.settle().await {
            Ok(service) => service,
            Err(words) => panic!("the service ended\n{words}"),
        }
    }

    /// The service once it is ready, or what it said before it ended.
    async fn settle(self) -> Result<Service, String> {
        let line = self.0.wait_for_line("admin=", DEADLINE).await;
        let admin = address(&line, "admin=").expect("the line names the admin address");
        let ready = eventually("readiness", DEADLINE, async || {
            if self.0.exit_status().is_some() {
                return Some(false);
            }
            let (status, _) = try_get(admin, "/ready").await?;
            (status == 200).then_some(true)
        });
        let ready = ready.await;
        let lines = self.0.stderr().lines();
        if !ready {
            return Err(lines.join("\n"));
        }
        let listener = lines
            .iter()
            .find(|line| line.contains("listening"))
            .and_then(|line| address(line, "addr="));
        Ok(Service {
            process: self.0,
            admin,
            listener,
        })
    }
}

/// The address behind `key` in a log line.
fn address(line: &str, key: &str) -> Option<SocketAddr> {
    line.split_once(key)?
        .1
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

/// An auth service with the signing keys in `dir`.
fn auth(nats: &NatsServer, dir: &Path) -> Command {
    let mut auth = command(nats, User::Auth, "auth");
    auth.arg("--signing-keys")
        .arg(dir.join("signing-keys"))
        .args(["--grpc", "127.0.0.1:0"])
        .env("SIGNALBOX_GRPC_NATS_URL", nats.url(User::Producer));
    auth
}

/// A router, whose lease is short unless an argument says otherwise.
fn router(nats: &NatsServer, arguments: &[&str]) -> Command {
    let mut router = command(nats, User::Router, "router");
    router.env("SIGNALBOX_LEASE_TTL", LEASE_TTL).args(arguments);
    router
}

/// Starts a service whose command takes `--admin`, and waits until it is ready.
pub(crate) async fn spawn(command: Command) -> Service {
    Service::spawn(command).ready().await
}

pub(crate) fn command(nats: &NatsServer, user: User, subcommand: &str) -> Command {
    let mut command = signalbox();
    command
        .arg(subcommand)
        .env("NATS_URL", nats.url(user))
        .env("SIGNALBOX_LOG", LOG_FILTER);
    command
}

/// Asks for a page; gives status and body.
///
/// # Panics
/// When there is no answer within [`DEADLINE`].
pub async fn get(addr: SocketAddr, path: &str) -> (u16, String) {
    try_get(addr, path).await.expect("there is a listener")
}

/// As [`get`]; `None` when nobody listens there.
async fn try_get(addr: SocketAddr, path: &str) -> Option<(u16, String)> {
    let stream = TcpStream::connect(addr).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    Some(exchange(stream, addr, &request).await)
}

/// Posts JSON; gives status and body.
///
/// # Panics
/// When there is no answer within [`DEADLINE`].
pub async fn post(addr: SocketAddr, path: &str, body: &str) -> (u16, String) {
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {addr}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    let stream = TcpStream::connect(addr).await.expect("there is a listener");
    exchange(stream, addr, &format!("{head}{body}")).await
}

async fn exchange(mut stream: TcpStream, addr: SocketAddr, request: &str) -> (u16, String) {
    let answer = timeout(DEADLINE, async {
        stream
            .write_all(request.as_bytes())
            .await
            .expect("the request can be sent");
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .await
            .expect("the answer is text");
        answer
    });
    let answer = answer
        .await
        .unwrap_or_else(|_| panic!("{addr} does not answer"));
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .expect("an HTTP answer has a head");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    (
        status.expect("an HTTP answer has a status"),
        body.to_owned(),
    )
}
