//! The auth service: tells whom an API key belongs to, exchanges keys and
//! passwords for access tokens that gateways verify by themselves, and says when
//! those no longer hold.
//!
//! | direction | subject |
//! |---|---|
//! | in, answered | `svc.auth.*`, `svc.admin.manage`, shared by the replicas |
//! | own | buckets `api_keys`, `users`: looked up per request, changed by compare-and-set |
//! | own | bucket `refresh_families`: lines of refresh tokens |
//! | written | bucket `revocations`: what gateways apply to open connections |
//! | written | bucket `signing_keys`: public halves of the keys that sign, external issuers |
//! | out | HTTPS: the keys of external issuers |
//! | in, answered | gRPC: `signalbox.api.v1`, for other systems |
//! | out | `events.>`: their events, on a connection with the rights of a producer |
//!
//! Invariants:
//! - Private keys and the secrets of API keys never reach the bus's storage, a
//!   log or an answer.
//! - Whoever presents a bad credential learns nothing from the answer or the time
//!   it takes: an unknown id, a wrong secret and a revoked key are alike, and so
//!   are an unknown user, a wrong password and a disabled user.
//! - That a key could not be looked up is never answered as if it were bad.
//! - No password, and nothing from which a refresh token could be made, is kept.
//! - Records change before their entry in `revocations` is written, and the entry
//!   is made from the record; a failed request can be repeated.
//! - A key signs only once gateways have had time to learn its public half.

mod api_keys;
mod back_off;
pub mod bootstrap;
mod config;
mod error;
mod family;
mod fetch;
mod grant;
mod grpc;
mod handler;
mod identify;
mod issuers;
mod key_dir;
mod keyring;
mod keys;
mod manage;
mod metrics;
mod password;
mod publication;
mod rejection;
mod revoker;
mod sessions;
mod table;
mod users;

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Future, pending};
use signalbox_bus::{Bus, BusError, rpc, subject};
use signalbox_service::{Condition, Health, Shutdown};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::api_keys::ApiKeys;
pub use crate::back_off::BackOff;
use crate::back_off::Failures;
pub use crate::config::{
    AuthArgs, BackOffArgs, GrpcAddress, GrpcArgs, GrpcOptions, InvalidGrpcAddress, LifetimeArgs,
    Options, TokenArgs,
};
pub use crate::error::Error;
use crate::grpc::Grpc;
use crate::handler::Handler;
use crate::issuers::Issuers;
pub use crate::issuers::{FetchTimes, IssuerSettings};
use crate::keys::Keys;
use crate::manage::Manager;
use crate::metrics::Metrics;
pub use crate::password::PasswordCost;
use crate::password::Passwords;
use crate::revoker::Revoker;
use crate::sessions::Sessions;
use crate::users::Users;

/// The gRPC services for other systems, and clients of them: generated from
/// `proto/` by `cargo run -p signalbox-auth --example generate_api`.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]
pub mod api {
    include!("gen/signalbox.api.v1.rs");

    /// What the services are described by, for reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("gen/signalbox.api.v1.bin");
}

/// The log target of what security officers read.
const AUDIT: &str = "audit";

/// How often a service that is up makes sure that it can still do its work.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);
/// How long the subscriptions may take to end after a stop was asked for.
const DRAIN: Duration = Duration::from_secs(1);

/// How long gRPC calls that are under way may take to end after a stop was asked
/// for; later they are cut.
const GRPC_DRAIN: Duration = Duration::from_secs(8);

/// Runs the auth service until `shutdown`; `bound` is told where it serves gRPC,
/// if it does.
///
/// # Errors
/// When there is no usable signing key, when the bus is out of reach at start
/// or not as needed, when the gRPC address is taken, or when the connection to
/// the bus ends for good.
pub async fn run(
    options: Options,
    health: &Health,
    bound: oneshot::Sender<Option<SocketAddr>>,
    shutdown: Shutdown,
) -> Result<(), Error> {
    let ready = health.condition("auth");
    // Before the bus is waited for: a bad directory is told at once.
    if key_dir::read(&options.signing_keys)?.is_empty() {
        return Err(Error::NoSigningKey(options.signing_keys));
    }
    let bus = Bus::connect(&options.bus, "signalbox-auth").await?;
    metrics::observe_bus(&bus, "auth");
    let keys = Arc::new(Keys::open(&bus, &options).await?);
    let handler = Arc::new(assemble(&bus, &options, Arc::clone(&keys)).await?);
    let (told, answering) = watch::channel(false);
    let (addr, grpc) = open_grpc(&options, &bus, &handler, answering, &shutdown).await?;
    // Nobody may be interested.
    bound.send(addr).ok();
    let mut grpc = pin!(grpc);
    let mut serving = pin!(serve(&bus, &handler));
    let mut grpc_serves = addr.is_some();
    tokio::select! {
        // Subscribing comes first, so that readiness is not announced before.
        biased;
        ended = &mut serving => return Err(ended),
        () = shutdown.wait() => {}
        ended = &mut grpc => {
            ended?;
            grpc_serves = false;
        }
        () = report(&bus, &handler, &ready, &told) => {}
        () = keys.follow(options.key_poll) => {}
        () = handler.issuers.follow() => {}
    }
    if grpc_serves {
        tokio::select! {
            ended = &mut serving => return Err(ended),
            ended = timeout(GRPC_DRAIN, grpc) => match ended {
                Ok(ended) => ended?,
                Err(_) => warn!(grace = ?GRPC_DRAIN, "gRPC calls did not end in time"),
            },
        }
    }
    bus.drain().await;
    if timeout(DRAIN, serving).await.is_err() {
        warn!(grace = ?DRAIN, "the bus did not end the subscriptions in time");
    }
    Ok(())
}

/// A gRPC listener that ends when it has served.
type Serving = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// Binds the gRPC listener, and says where; without one the rest never ends.
async fn open_grpc(
    options: &Options,
    bus: &Bus,
    handler: &Arc<Handler>,
    ready: watch::Receiver<bool>,
    shutdown: &Shutdown,
) -> Result<(Option<SocketAddr>, Serving), Error> {
    let Some(grpc) = &options.grpc else {
        return Ok((None, Box::pin(pending())));
    };
    let events = match &grpc.events_bus {
        Some(options) => {
            let bus = Bus::connect(options, "signalbox-auth-events").await?;
            metrics::observe_bus(&bus, "auth events");
            bus
        }
        None => bus.clone(),
    };
    let grpc = Grpc::bind(grpc, events, handler, shutdown.clone()).await?;
    let addr = grpc.addr();
    Ok((Some(addr), Box::pin(grpc.serve(ready, shutdown.clone()))))
}

async fn assemble(bus: &Bus, options: &Options, keys: Arc<Keys>) -> Result<Handler, Error> {
    let api_keys = Arc::new(ApiKeys::open(bus).await?);
    let passwords = Passwords::new(options.password_cost);
    let users = Arc::new(Users::open(bus, passwords).await?);
    let revoker = Arc::new(
        Revoker::open(
            bus,
            Arc::clone(&api_keys),
            Arc::clone(&users),
            options.max_token_ttl,
        )
        .await?,
    );
    let sessions = Arc::new(
        Sessions::open(
            bus,
            options,
            Arc::clone(&api_keys),
            Arc::clone(&users),
            Arc::clone(&revoker),
            keys,
        )
        .await?,
    );
    let manager = Manager::new(
        Arc::clone(&api_keys),
        users,
        Arc::clone(&revoker),
        Arc::clone(&sessions),
    );
    let issuers = Issuers::open(bus, options.issuers.clone(), options.fetch_times).await?;
    Ok(Handler {
        issuers,
        api_keys,
        revoker,
        sessions,
        manager,
        failures: Failures::new(options.back_off),
        metrics: Metrics::new(),
    })
}

/// Answers requests until the connection ends, and says why it did.
async fn serve(bus: &Bus, handler: &Arc<Handler>) -> Error {
    macro_rules! answer {
        ($subject:ident, $handle:ident) => {
            rpc::serve(
                bus.clone(),
                subject::$subject,
                subject::AUTH_GROUP,
                |request| {
                    let handler = Arc::clone(handler);
                    async move { handler.$handle(request).await }
                },
            )
        };
    }
    let served = tokio::try_join!(
        answer!(VERIFY_KEY, handle_verify_key),
        answer!(ISSUE_TOKEN, handle_issue_token),
        answer!(REFRESH_TOKEN, handle_refresh_token),
        answer!(REVOKE, handle_revoke),
        answer!(MANAGE, handle_manage),
        answer!(REFRESH_ISSUER, handle_refresh_issuer),
        answer!(ADMIN_MANAGE, handle_admin_manage),
    );
    Error::Bus(served.err().unwrap_or_else(|| BusError::Api {
        action: "answer requests".to_owned(),
        cause: "the connection has ended".to_owned(),
    }))
}

/// Says for as long as it is polled whether requests can be answered.
async fn report(bus: &Bus, handler: &Handler, ready: &Condition, told: &watch::Sender<bool>) {
    let mut link = bus.link();
    let mut announced = false;
    loop {
        let up = link.borrow_and_update().up;
        // The server's answer also proves that it knows the subscriptions,
        // which went out on the same connection before.
        let answer = if up {
            handler.probe().await
        } else {
            Err("the bus is out of reach")
        };
        told.send_replace(answer.is_ok());
        match answer {
            Ok(()) => {
                ready.set_ready();
                if !announced {
                    info!("answering requests");
                    announced = true;
                }
            }
            Err(reason) => ready.set_not_ready(reason),
        }
        timeout(PROBE_INTERVAL, link.changed()).await.ok();
    }
}
