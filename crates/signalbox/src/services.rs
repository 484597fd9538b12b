//! One service per process.

use std::net::SocketAddr;
use std::time::Duration;

use signalbox_auth::bootstrap;
use signalbox_bus::stream::{self, StreamSettings};
use signalbox_bus::{Bus, BusOptions};
use signalbox_service::metrics::{self, Registry};
use signalbox_service::{AdminError, AdminFallback, AdminServer, ExitError, Health, Shutdown, run};
use tokio::sync::oneshot;
use tracing::{info, warn};

use crate::cli::{
    AdminArgs, AuthCommand, GatewayCommand, InitArgs, OrchestratorCommand, RelayCommand,
    RouterCommand,
};
use crate::output;

/// The largest number of hours that retention may be set to: ten years.
const MAX_RETENTION_HOURS: u64 = 87_600;
/// The largest number of seconds that the duplicate window may be set to: a
/// day, since the bus holds every id of the window in memory.
const MAX_DUPLICATE_WINDOW: u64 = 86_400;

pub(crate) fn gateway(command: GatewayCommand, metrics: Registry) -> Result<(), ExitError> {
    let options =
        signalbox_gateway::Options::try_from(command.gateway).map_err(ExitError::config)?;
    serve(
        "gateway",
        &command.admin,
        metrics,
        async |health, shutdown| {
            if options.limits.redis_url.is_none() {
                warn!(
                    "limits of users hold for this gateway alone, set REDIS_URL where there are several"
                );
            }
            let (bound, _addresses): (oneshot::Sender<Vec<SocketAddr>>, _) = oneshot::channel();
            signalbox_gateway::run(options, health, bound, shutdown)
                .await
                .map_err(anyhow::Error::from)
        },
    )
}

pub(crate) fn router(command: RouterCommand, metrics: Registry) -> Result<(), ExitError> {
    let options = signalbox_router::Options::try_from(command.router).map_err(ExitError::config)?;
    serve(
        "router",
        &command.admin,
        metrics,
        async |health, shutdown| {
            signalbox_router::run(options, health, shutdown)
                .await
                .map_err(anyhow::Error::from)
        },
    )
}

pub(crate) fn relay(command: RelayCommand, metrics: Registry) -> Result<(), ExitError> {
    let options = signalbox_relay::Options::from(command.relay);
    serve(
        "relay",
        &command.admin,
        metrics,
        async |health, shutdown| {
            signalbox_relay::run(options, health, shutdown)
                .await
                .map_err(anyhow::Error::from)
        },
    )
}

pub(crate) fn orchestrator(
    command: OrchestratorCommand,
    metrics: Registry,
) -> Result<(), ExitError> {
    let options = signalbox_orchestrator::Options::try_from(command.orchestrator)
        .map_err(ExitError::config)?;
    serve(
        "orchestrator",
        &command.admin,
        metrics,
        async |health, shutdown| {
            signalbox_orchestrator::run(options, health, shutdown)
                .await
                .map_err(anyhow::Error::from)
        },
    )
}

pub(crate) fn auth(command: AuthCommand, metrics: Registry) -> Result<(), ExitError> {
    let options = signalbox_auth::Options::try_from(command.auth).map_err(ExitError::config)?;
    serve("auth", &command.admin, metrics, async |health, shutdown| {
        let (bound, _addr) = oneshot::channel();
        signalbox_auth::run(options, health, bound, shutdown)
            .await
            .map_err(anyhow::Error::from)
    })
}

/// Makes the streams, and with `--credentials` what auth needs to begin.
pub(crate) fn init(args: InitArgs) -> Result<(), ExitError> {
    if !(1..=MAX_RETENTION_HOURS).contains(&args.retention_hours) {
        return Err(ExitError::config("--retention-hours: expected 1 to 87600"));
    }
    if !(1..=MAX_DUPLICATE_WINDOW).contains(&args.duplicate_window) {
        return Err(ExitError::config("--duplicate-window: expected 1 to 86400"));
    }
    let settings = StreamSettings {
        replicas: args.replicas,
        duplicate_window: Duration::from_secs(args.duplicate_window),
        topics_age: Duration::from_secs(args.retention_hours * 3_600),
        ..StreamSettings::default()
    };
    let options = BusOptions::from(args.bus);
    run("init", Duration::ZERO, async |_shutdown| {
        let bus = Bus::connect(&options, "signalbox-init").await?;
        stream::init(&bus, &settings).await?;
        if let Some(dir) = &args.credentials {
            bootstrap::ensure_signing_key(&dir.join(SIGNING_KEYS))?;
            bootstrap::ensure_api_keys(&bus, &dir.join(CREDENTIALS)).await?;
        }
        bus.drain().await;
        output::line("streams and buckets are ready").ok();
        Ok::<_, anyhow::Error>(())
    })
}

/// Directory of the keys that sign access tokens, below the data directory.
pub(crate) const SIGNING_KEYS: &str = "signing-keys";
/// File with the API keys that were made at the first start.
pub(crate) const CREDENTIALS: &str = "credentials.json";

/// Runs a service beside its admin listener.
fn serve(
    name: &'static str,
    admin: &AdminArgs,
    metrics: Registry,
    service: impl AsyncFnOnce(&Health, Shutdown) -> anyhow::Result<()>,
) -> Result<(), ExitError> {
    let grace = Duration::from_secs(admin.shutdown_grace);
    run(name, grace, async |shutdown| {
        let health = Health::new(shutdown.clone());
        let listener = start_admin(admin, &health, metrics)?;
        info!(service = name, admin = %listener.addr(), "starting");
        service(&health, shutdown).await
    })
}

/// Starts the admin listener.
pub(crate) fn start_admin(
    admin: &AdminArgs,
    health: &Health,
    metrics: Registry,
) -> Result<AdminServer, AdminError> {
    metrics::observe_health(health);
    AdminServer::builder(health.clone())
        .fallback(AdminFallback::FreePort)
        .merge(metrics::routes(metrics))
        .start(admin.admin)
}
