//! `signalbox up`: everything in one process, and a NATS server as its child.
//!
//! The main thread keeps the server, which ends with that thread; the services
//! run in another.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use signalbox_auth::{GrpcOptions, bootstrap};
use signalbox_bus::server::{DataDir, ManagedServer, ServerConfig, User, free_bytes};
use signalbox_bus::stream::{self, StreamSettings};
use signalbox_bus::{Bus, BusOptions, lease};
use signalbox_service::metrics::Registry;
use signalbox_service::{ExitError, Health, Shutdown, Tasks, run as run_service};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};
use tracing::info;

use crate::cli::{self, UpArgs};
use crate::output;
use crate::runtime::{Published, Runtime};
use crate::services::{CREDENTIALS, SIGNING_KEYS, start_admin};

/// How long the services wait for the bus.
const BUS_WAIT: Duration = Duration::from_secs(30);
/// How long the services may take to become ready.
const READY_DEADLINE: Duration = Duration::from_secs(60);
/// How often readiness is looked at while starting.
const READY_POLL: Duration = Duration::from_millis(5);
/// How long services may take to end after the first of them has.
const SERVICE_GRACE: Duration = Duration::from_secs(10);

/// The bus as each part of the process reaches it.
struct BusUrls {
    admin: String,
    auth: String,
    router: String,
    relay: String,
    orchestrator: String,
    gateway: String,
    producer: String,
    observer: String,
    operator: String,
    registrar: String,
    responder: String,
}

impl BusUrls {
    fn of(server: &ManagedServer) -> Self {
        Self {
            admin: server.url(User::Admin),
            auth: server.url(User::Auth),
            router: server.url(User::Router),
            relay: server.url(User::Relay),
            orchestrator: server.url(User::Orchestrator),
            gateway: server.url(User::Gateway),
            producer: server.url(User::Producer),
            observer: server.url(User::Observer),
            operator: server.url(User::Operator),
            registrar: server.url(User::Registrar),
            responder: server.url(User::Responder),
        }
    }

    /// One user for everything, as with a server that is not ours.
    fn same(url: &str) -> Self {
        let url = url.to_owned();
        Self {
            admin: url.clone(),
            auth: url.clone(),
            router: url.clone(),
            relay: url.clone(),
            orchestrator: url.clone(),
            gateway: url.clone(),
            producer: url.clone(),
            observer: url.clone(),
            operator: url.clone(),
            registrar: url.clone(),
            responder: url,
        }
    }
}

/// Runs everything until a signal.
pub(crate) fn run(args: UpArgs, metrics: Registry) -> Result<(), ExitError> {
    let dir = DataDir::lock(&args.data.data_dir).map_err(ExitError::config)?;
    if let Some(url) = &args.nats_url {
        let urls = BusUrls::same(url);
        return serve(&args, &urls, metrics);
    }
    let server = ManagedServer::start(ServerConfig::default(), dir).map_err(ExitError::runtime)?;
    let urls = BusUrls::of(&server);
    let (alive, stop): (SyncSender<()>, Receiver<()>) = sync_channel(1);
    let services = thread::Builder::new()
        .name("services".to_owned())
        .spawn(move || {
            let outcome = serve(&args, &urls, metrics);
            // The server goes when nobody needs it any more.
            drop(alive);
            outcome
        })
        .map_err(ExitError::runtime)?;
    server.supervise(&stop);
    services
        .join()
        .unwrap_or_else(|_| Err(ExitError::runtime("the services panicked")))
}

fn serve(args: &UpArgs, urls: &BusUrls, metrics: Registry) -> Result<(), ExitError> {
    let grace = Duration::from_secs(args.admin.shutdown_grace);
    run_service("up", grace, async |shutdown| {
        let health = Health::new(shutdown.clone());
        let admin = start_admin(&args.admin, &health, metrics)?;
        let data_dir = args.data.data_dir.as_path();
        let keys = prepare(urls, data_dir, args.nats_url.is_none()).await?;
        let (bound, addresses) = oneshot::channel();
        let (grpc_bound, grpc) = oneshot::channel();
        let listeners = Listeners {
            gateway: bound,
            grpc: grpc_bound,
        };
        let tasks = start(args, urls, keys, &health, listeners, &shutdown)?;
        let _published = tokio::select! {
            ready = announce(args, urls, &health, admin.addr(), addresses, grpc) => Some(ready?),
            () = shutdown.wait() => None,
        };
        shutdown.wait().await;
        tasks.drain(SERVICE_GRACE).await;
        Ok::<_, anyhow::Error>(())
    })
}

/// Makes streams, keys and credentials; returns where the signing keys are.
async fn prepare(urls: &BusUrls, data_dir: &Path, own_bus: bool) -> anyhow::Result<PathBuf> {
    let bus = Bus::connect(&options(&urls.admin), "signalbox-init").await?;
    let mut settings = StreamSettings::default();
    if let Ok(free) = free_bytes(data_dir) {
        settings = settings.fitted_to(free);
    }
    stream::init(&bus, &settings).await?;
    if own_bus {
        // Whoever held a lease ended with the former server; waiting for the
        // leases of a killed process to expire would delay its successor.
        lease::clear(&bus).await?;
    }
    let keys = data_dir.join(SIGNING_KEYS);
    bootstrap::ensure_signing_key(&keys).context("signing key")?;
    bootstrap::ensure_api_keys(&bus, &data_dir.join(CREDENTIALS))
        .await
        .context("API keys")?;
    bus.drain().await;
    Ok(keys)
}

/// Who is told where the services listen.
struct Listeners {
    gateway: oneshot::Sender<Vec<SocketAddr>>,
    grpc: oneshot::Sender<Option<SocketAddr>>,
}

/// Starts the services as tasks; one that fails ends the process.
fn start(
    args: &UpArgs,
    urls: &BusUrls,
    signing_keys: PathBuf,
    health: &Health,
    bound: Listeners,
    shutdown: &Shutdown,
) -> anyhow::Result<Tasks> {
    let mut auth =
        signalbox_auth::Options::new(options(&urls.auth), cli::token_args(args, signing_keys))?;
    auth.grpc = GrpcOptions::new(args.grpc, Some(options(&urls.producer)), true);
    let router = signalbox_router::Options::new(options(&urls.router), args.routing.clone())
        .map_err(ExitError::config)?;
    let relay = signalbox_relay::Options::new(options(&urls.relay), &args.fleet);
    let orchestrator =
        signalbox_orchestrator::Options::new(options(&urls.orchestrator), &args.chat)
            .map_err(ExitError::config)?;
    let mut gateway = signalbox_gateway::Options::new(options(&urls.gateway), args.edge.clone())?;
    // What people develop in front of `up` comes from a server of its own.
    gateway.local_origins = true;
    let tasks = Tasks::new(shutdown.clone());
    let service = |name: &'static str, outcome: Result<(), String>, shutdown: &Shutdown| {
        if let Err(cause) = outcome {
            shutdown.fail(format!("{name}: {cause}"));
        }
    };
    let (its_health, stop) = (health.clone(), shutdown.clone());
    tasks.spawn_critical("auth", async move {
        let outcome = signalbox_auth::run(auth, &its_health, bound.grpc, stop.clone()).await;
        service("auth", outcome.map_err(|error| error.to_string()), &stop);
    });
    let (its_health, stop) = (health.clone(), shutdown.clone());
    tasks.spawn_critical("router", async move {
        let outcome = signalbox_router::run(router, &its_health, stop.clone()).await;
        service("router", outcome.map_err(|error| error.to_string()), &stop);
    });
    let (its_health, stop) = (health.clone(), shutdown.clone());
    tasks.spawn_critical("relay", async move {
        let outcome = signalbox_relay::run(relay, &its_health, stop.clone()).await;
        service("relay", outcome.map_err(|error| error.to_string()), &stop);
    });
    let (its_health, stop) = (health.clone(), shutdown.clone());
    tasks.spawn_critical("orchestrator", async move {
        let outcome = signalbox_orchestrator::run(orchestrator, &its_health, stop.clone()).await;
        service(
            "orchestrator",
            outcome.map_err(|error| error.to_string()),
            &stop,
        );
    });
    let (its_health, stop) = (health.clone(), shutdown.clone());
    tasks.spawn_critical("gateway", async move {
        let outcome =
            signalbox_gateway::run(gateway, &its_health, bound.gateway, stop.clone()).await;
        service("gateway", outcome.map_err(|error| error.to_string()), &stop);
    });
    Ok(tasks)
}

/// Waits until everything is ready, writes `runtime.json` and tells the user
/// what to try.
async fn announce(
    args: &UpArgs,
    urls: &BusUrls,
    health: &Health,
    admin: SocketAddr,
    addresses: oneshot::Receiver<Vec<SocketAddr>>,
    grpc: oneshot::Receiver<Option<SocketAddr>>,
) -> anyhow::Result<Published> {
    // Without an answer a service has failed, and the process is ending.
    let (Ok(listeners), Ok(grpc)) = (addresses.await, grpc.await) else {
        return std::future::pending().await;
    };
    let deadline = Instant::now() + READY_DEADLINE;
    while !health.is_ready() {
        anyhow::ensure!(
            Instant::now() < deadline,
            "not ready within {READY_DEADLINE:?}"
        );
        sleep(READY_POLL).await;
    }
    let runtime = Runtime {
        pid: std::process::id(),
        nats_url: urls.producer.clone(),
        observer_url: urls.observer.clone(),
        operator_url: urls.operator.clone(),
        registrar_url: urls.registrar.clone(),
        responder_url: urls.responder.clone(),
        listeners,
        grpc,
        admin,
    };
    let published = runtime
        .publish(&args.data.data_dir)
        .context("runtime.json")?;
    info!("ready");
    output::line(greeting(&runtime, &args.data.data_dir))?;
    Ok(published)
}

/// What the user sees once everything is ready.
fn greeting(runtime: &Runtime, data_dir: &Path) -> String {
    let addresses: BTreeSet<String> = runtime.listeners.iter().map(ToString::to_string).collect();
    let first = runtime
        .listeners
        .first()
        .map(ToString::to_string)
        .unwrap_or_default();
    let program = std::env::args()
        .next()
        .unwrap_or_else(|| "signalbox".to_owned());
    let dir = if data_dir == Path::new(".signalbox") {
        String::new()
    } else {
        format!(" --data-dir {}", data_dir.display())
    };
    format!(
        "\n  Signalbox is ready\n\n  \
         threat clients   ws://{first}/v1/ws\n  \
         listening on     {}\n  \
         gRPC             {}\n  \
         health           http://{}/ready, /metrics\n  \
         API keys         {}\n\n  \
         a token          {program} token --as analyst{dir}\n  \
         watch events     {program} tail{dir}\n  \
         publish one      {program} publish{dir} threat.threat_alert '{{\"incident_id\":\"t-1\",\"threat_type\":\"port_scanning\",\"severity\":\"HIGH\"}}'\n",
        addresses.into_iter().collect::<Vec<_>>().join(", "),
        runtime
            .grpc
            .map_or_else(|| "off".to_owned(), |addr| addr.to_string()),
        runtime.admin,
        data_dir.join(CREDENTIALS).display(),
    )
}

fn options(url: &str) -> BusOptions {
    BusOptions {
        url: url.to_owned(),
        wait: BUS_WAIT,
    }
}
