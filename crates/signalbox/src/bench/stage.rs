//! What is measured: a Signalbox of separate processes in a directory of its
//! own, or one that runs elsewhere.

use std::ffi::OsString;
use std::fs;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use signalbox_auth::bootstrap::Credentials;
use signalbox_bus::server::{ServerConfig, User, locate};
use signalbox_identity::Role;
use signalbox_service::{Shutdown, Tasks};
use tempfile::TempDir;

use super::child::{Child, get};
use super::options::{Credential, TargetArgs};
use super::procfs::hard_file_limit;
use crate::services::{CREDENTIALS, SIGNING_KEYS};
use crate::token;

/// Descriptors that a process needs beside its connections.
const DESCRIPTOR_MARGIN: u64 = 640;
/// How long the access token of a run is valid, in seconds.
const TOKEN_SECONDS: u32 = 12 * 3_600;
/// How a gateway is set up for a load that comes from few addresses.
const NO_ADMISSION_LIMITS: [&str; 4] = [
    "--connect-rate",
    "0",
    "--max-unauthenticated-per-address",
    "0",
];

/// Everything that a run talks to.
#[derive(Debug)]
pub(super) struct Stage {
    /// Where clients connect.
    pub(super) gateway: SocketAddr,
    /// What they say they are.
    pub(super) token: String,
    /// The bus, with a producer's rights; empty when it was not given.
    pub(super) bus_url: String,
    /// The processes to measure.
    pub(super) parts: Parts,
    /// What was started here; `None` when it runs elsewhere.
    own: Option<Own>,
}

/// Process numbers by role.
#[derive(Clone, Debug, Default)]
pub(super) struct Parts {
    /// The gateways, or whatever was named on the command line.
    pub(super) gateways: Vec<u32>,
    pub(super) router: Option<u32>,
    pub(super) nats: Option<u32>,
    pub(super) auth: Option<u32>,
    pub(super) relay: Option<u32>,
}

/// Processes of this run. Fields are dropped in order: services before the
/// bus, and the directory last.
#[derive(Debug)]
struct Own {
    gateways: Vec<Child>,
    orchestrator: Option<Child>,
    _router: Child,
    _auth: Child,
    others: Vec<Child>,
    _nats: Child,
    /// Where the NATS server tells its counters.
    monitor: SocketAddr,
    gateway_url: String,
    orchestrator_url: String,
    gateway_arguments: Vec<OsString>,
    bus: ServerConfig,
    port: u16,
    credentials: Credentials,
    dir: TempDir,
}

/// What the NATS server has sent and taken in so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(super) struct BusTraffic {
    /// Messages to clients.
    pub(super) out_messages: u64,
    /// Their bytes.
    pub(super) out_bytes: u64,
    /// Messages from clients.
    pub(super) in_messages: u64,
    /// Their bytes.
    pub(super) in_bytes: u64,
}

impl BusTraffic {
    /// What was added since `before`.
    pub(super) fn since(&self, before: &Self) -> Self {
        Self {
            out_messages: self.out_messages.saturating_sub(before.out_messages),
            out_bytes: self.out_bytes.saturating_sub(before.out_bytes),
            in_messages: self.in_messages.saturating_sub(before.in_messages),
            in_bytes: self.in_bytes.saturating_sub(before.in_bytes),
        }
    }
}

impl Stage {
    /// Starts everything, or finds what the arguments name.
    pub(super) async fn set(
        target: &TargetArgs,
        needs_token: bool,
        shutdown: &Shutdown,
    ) -> anyhow::Result<Self> {
        let mut stage = match &target.url {
            Some(url) => Self::elsewhere(url, target)?,
            None => Self::start(target).await?,
        };
        let exchanges =
            needs_token || (stage.own.is_some() && target.credential == Credential::Jwt);
        if stage.token.starts_with("sbk_") && exchanges {
            let body = json!({"api_key": stage.token, "ttl": TOKEN_SECONDS}).to_string();
            let tasks = Tasks::new(shutdown.clone());
            let url = format!("http://{}", stage.gateway);
            stage.token = token::exchange(&url, body, &tasks).await?;
        }
        Ok(stage)
    }

    fn elsewhere(url: &str, target: &TargetArgs) -> anyhow::Result<Self> {
        let authority = url
            .split_once("://")
            .map_or(url, |(_, rest)| rest)
            .split('/')
            .next()
            .unwrap_or_default();
        let gateway = authority
            .to_socket_addrs()
            .with_context(|| format!("--url {url}: expected ws://host:port"))?
            .next()
            .with_context(|| format!("--url {url}: no such host"))?;
        let token = match (&target.token, &target.key_file) {
            (Some(token), _) => token.clone(),
            (None, Some(path)) => fs::read_to_string(path)
                .with_context(|| format!("--key-file {}", path.display()))?
                .trim()
                .to_owned(),
            (None, None) => bail!("--url needs a credential: --token or --key-file"),
        };
        let parts = Parts {
            gateways: target.pid.clone(),
            ..Parts::default()
        };
        let bus_url = target.nats_url.clone().unwrap_or_default();
        Ok(Self {
            gateway,
            token,
            bus_url,
            parts,
            own: None,
        })
    }

    async fn start(target: &TargetArgs) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("signalbox-bench-")
            .tempdir()?;
        let path = dir.path();
        let bus = ServerConfig::default();
        let (nats, port, monitor) = start_nats(&bus, path).await?;
        let url = |user| vec![("NATS_URL", bus.users.url(user, port))];
        let service = |name, user, arguments: &[OsString]| {
            Child::spawn(name, None, arguments, &url(user), path)
        };
        let words = |text: &[&str]| text.iter().map(OsString::from).collect::<Vec<_>>();
        let mut init = words(&["init", "--credentials"]);
        init.push(path.into());
        service("init", User::Admin, &init)?.finish().await?;
        let mut arguments = words(&["auth", "--admin", "127.0.0.1:0"]);
        // Nobody asks for it here, and its address is fixed by default.
        arguments.extend(words(&["--grpc", "off", "--signing-keys"]));
        arguments.push(path.join(SIGNING_KEYS).into());
        let mut auth = service("auth", User::Auth, &arguments)?;
        let mut router = service(
            "router",
            User::Router,
            &words(&["router", "--admin", "127.0.0.1:0"]),
        )?;
        auth.ready().await?;
        router.ready().await?;
        let credentials = Credentials::read(&path.join(CREDENTIALS))?;
        let key = credentials
            .key(Role::Admin)
            .context("credentials without a key")?;
        // All clients are one user here, which would soon have said enough.
        let unlimited = u32::MAX.to_string();
        let id = key.id().as_str();
        let lift = words(&["key", "set", id, "--messages-per-minute", &unlimited]);
        service("key", User::Registrar, &lift)?.finish().await?;
        let mut gateway_arguments = words(&["gateway", "--admin", "127.0.0.1:0"]);
        gateway_arguments.extend(words(&NO_ADMISSION_LIMITS));
        gateway_arguments.extend(target.gateway_arg.iter().map(OsString::from));
        let mut own = Own {
            gateways: Vec::new(),
            monitor,
            gateway_url: bus.users.url(User::Gateway, port),
            orchestrator_url: bus.users.url(User::Orchestrator, port),
            orchestrator: None,
            gateway_arguments,
            _router: router,
            _auth: auth,
            others: Vec::new(),
            _nats: nats,
            bus: bus.clone(),
            port,
            credentials: credentials.clone(),
            dir,
        };
        let gateway = own.start_gateway("127.0.0.1:0").await?;
        let parts = Parts {
            gateways: own.gateways.iter().map(Child::pid).collect(),
            router: Some(own._router.pid()),
            nats: Some(own._nats.pid()),
            auth: Some(own._auth.pid()),
            relay: None,
        };
        Ok(Self {
            gateway,
            token: key.expose().expose().to_owned(),
            bus_url: bus.users.url(User::Producer, port),
            parts,
            own: Some(own),
        })
    }

    /// Whether this run started what it measures.
    pub(super) fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// Refuses more connections than the processes may have.
    pub(super) fn fits(&self, connections: usize) -> anyhow::Result<()> {
        let wanted = connections as u64 + DESCRIPTOR_MARGIN;
        let fits = |whose: &str, limit: u64| {
            ensure!(
                wanted <= limit,
                "{connections} connections need {wanted} descriptors, and {whose} may have {limit}: \
                 raise the hard limit on open files (ulimit -Hn) or ask for fewer"
            );
            Ok(())
        };
        fits("this process", hard_file_limit(std::process::id())?)?;
        for pid in &self.parts.gateways {
            fits("the gateway", hard_file_limit(*pid)?)?;
        }
        Ok(())
    }

    /// Starts a service that not every workload needs, with the rights of this
    /// user of the bus; gives its process number.
    pub(super) async fn add_service(
        &mut self,
        name: &'static str,
        user: User,
        arguments: &[&str],
    ) -> anyhow::Result<u32> {
        let own = self.own.as_mut();
        let own = own.context("only a run of its own starts services")?;
        let mut words: Vec<OsString> = [name, "--admin", "127.0.0.1:0"].map(Into::into).into();
        words.extend(arguments.iter().map(OsString::from));
        let environment = [("NATS_URL", own.bus.users.url(user, own.port))];
        let mut child = Child::spawn(name, None, &words, &environment, own.dir.path())?;
        child.ready().await?;
        let pid = child.pid();
        own.others.push(child);
        Ok(pid)
    }

    /// The API key of a role, where everything was started here.
    pub(super) fn key(&self, role: Role) -> Option<String> {
        let key = self.own.as_ref()?.credentials.key(role)?;
        Some(key.expose().expose().to_owned())
    }

    /// Starts one more gateway and sends clients there from now on.
    pub(super) async fn add_gateway(&mut self) -> anyhow::Result<()> {
        let own = self
            .own
            .as_mut()
            .context("only a gateway of this run can be joined by another")?;
        self.gateway = own.start_gateway("127.0.0.1:0").await?;
        self.parts.gateways = own.gateways.iter().map(Child::pid).collect();
        Ok(())
    }

    /// Kills the first gateway, at once.
    pub(super) fn kill_gateway(&mut self) -> anyhow::Result<()> {
        let own = self
            .own
            .as_mut()
            .context("only a gateway of this run is killed")?;
        own.gateways.remove(0).kill();
        self.parts.gateways = own.gateways.iter().map(Child::pid).collect();
        Ok(())
    }

    /// Starts a gateway at the address of one that was killed.
    pub(super) async fn restart_gateway(&mut self) -> anyhow::Result<()> {
        let own = self
            .own
            .as_mut()
            .context("only a gateway of this run is restarted")?;
        self.gateway = own.start_gateway(&self.gateway.to_string()).await?;
        self.parts.gateways = own.gateways.iter().map(Child::pid).collect();
        Ok(())
    }

    /// The directory of what was started here.
    pub(super) fn directory(&self) -> anyhow::Result<&Path> {
        let own = self.own.as_ref().context("it runs elsewhere")?;
        Ok(own.dir.path())
    }

    /// Starts an orchestrator; gives its process.
    pub(super) async fn start_orchestrator(
        &mut self,
        arguments: &[OsString],
    ) -> anyhow::Result<u32> {
        let own = self.own.as_mut().context("it runs elsewhere")?;
        let mut all: Vec<OsString> = ["orchestrator", "--admin", "127.0.0.1:0"]
            .map(OsString::from)
            .to_vec();
        all.extend_from_slice(arguments);
        let environment = [("NATS_URL", own.orchestrator_url.clone())];
        let mut child = Child::spawn("orchestrator", None, &all, &environment, own.dir.path())?;
        child.ready().await?;
        let pid = child.pid();
        own.orchestrator = Some(child);
        Ok(pid)
    }

    /// What the bus has sent so far; `None` where it cannot be asked.
    pub(super) async fn traffic(&self) -> Option<BusTraffic> {
        let own = self.own.as_ref()?;
        let (_, body) = get(own.monitor, "/varz").await.ok()?;
        let counters: Value = serde_json::from_str(&body).ok()?;
        let counter = |name: &str| counters[name].as_u64();
        Some(BusTraffic {
            out_messages: counter("out_msgs")?,
            out_bytes: counter("out_bytes")?,
            in_messages: counter("in_msgs")?,
            in_bytes: counter("in_bytes")?,
        })
    }
}

impl Own {
    async fn start_gateway(&mut self, listen: &str) -> anyhow::Result<SocketAddr> {
        let mut arguments = self.gateway_arguments.clone();
        arguments.extend(["--listen".into(), listen.into()]);
        let environment = [("NATS_URL", self.gateway_url.clone())];
        // Logs are appended to, so each gateway gets a directory of its own.
        let logs = self
            .dir
            .path()
            .join(format!("gateway-{}", fresh(self.dir.path())));
        fs::create_dir_all(&logs)?;
        let mut child = Child::spawn("gateway", None, &arguments, &environment, &logs)?;
        child.ready().await?;
        let address = child
            .logged("addr=")
            .context("the gateway does not say where it listens")?;
        self.gateways.push(child);
        Ok(address)
    }
}

/// A number that no directory of a gateway has yet.
fn fresh(dir: &Path) -> usize {
    (0..)
        .find(|number| !dir.join(format!("gateway-{number}")).exists())
        .unwrap_or_default()
}

/// Starts a NATS server as `up` would have it, and with counters to ask for.
async fn start_nats(bus: &ServerConfig, dir: &Path) -> anyhow::Result<(Child, u16, SocketAddr)> {
    let program = locate()?;
    let files = bus.write(dir)?;
    let mut arguments = files.arguments(None);
    arguments.extend(["-m".into(), "-1".into()]);
    let mut nats = Child::spawn("nats-server", Some(&program), &arguments, &[], dir)?;
    let port = nats.wait_for(|nats| files.port(nats.pid())).await?;
    let ports: PathBuf = dir.join(format!("nats/ports/nats-server_{}.ports", nats.pid()));
    let ports: Value = serde_json::from_str(&fs::read_to_string(ports)?)?;
    let monitor = ports["monitoring"][0]
        .as_str()
        .and_then(|url| url.rsplit(':').next())
        .and_then(|port| port.trim_end_matches('/').parse::<u16>().ok())
        .context("the NATS server does not say where its counters are")?;
    Ok((nats, port, ([127, 0, 0, 1], monitor).into()))
}

/// How long to wait for the system to take note of what was just done.
pub(super) const SETTLING: Duration = Duration::from_millis(500);
