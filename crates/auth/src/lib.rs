//! The auth service: tells whom an API key belongs to, and exchanges keys for
//! access tokens that gateways verify by themselves.
//!
//! | direction | subject |
//! |---|---|
//! | in, answered | `svc.auth.verify_key`, `svc.auth.issue_token`, shared by the replicas |
//! | read | bucket `api_keys`: the records of API keys, looked up per request |
//! | written | bucket `signing_keys`: public halves of the keys that sign |
//!
//! Invariants:
//! - Private keys and the secrets of API keys never reach the bus's storage, a
//!   log or an answer.
//! - Whoever presents a bad key learns nothing from the answer or the time it
//!   takes: an unknown id, a wrong secret and a revoked key are alike.
//! - That a key could not be looked up is never answered as if it were bad.
//! - A key signs only once gateways have had time to learn its public half.

mod api_keys;
pub mod bootstrap;
mod config;
mod error;
mod grant;
mod handler;
mod key_dir;
mod keyring;
mod metrics;
mod publication;
mod rejection;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use signalbox_bus::{Bus, BusError, rpc, subject};
use signalbox_protocol::wire;
use signalbox_service::{Condition, Health, Shutdown};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::api_keys::ApiKeys;
pub use crate::config::{AuthArgs, LifetimeArgs, Options, TokenArgs};
pub use crate::error::Error;
use crate::grant::Terms;
use crate::handler::Handler;
use crate::keyring::Keyring;

/// How often a service that is up makes sure that it can still do its work.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);
/// How long the subscriptions may take to end after a stop was asked for.
const DRAIN: Duration = Duration::from_secs(1);

/// Runs the auth service until `shutdown`.
///
/// # Errors
/// When there is no usable signing key, when the bus is out of reach at start
/// or not as needed, or when the connection to it ends for good.
pub async fn run(options: Options, health: &Health, shutdown: Shutdown) -> Result<(), Error> {
    let ready = health.condition("auth");
    let keys = key_dir::read(&options.signing_keys)?;
    if keys.is_empty() {
        return Err(Error::NoSigningKey(options.signing_keys));
    }
    let bus = Bus::connect(&options.bus, "signalbox-auth").await?;
    metrics::observe_bus(&bus);
    let published = publication::publish(&bus, keys).await?;
    let handler = Arc::new(Handler::new(
        ApiKeys::open(&bus).await?,
        Keyring::new(published, options.key_propagation),
        Terms::from(&options),
    ));
    let mut serving = pin!(serve(&bus, &handler));
    tokio::select! {
        // Subscribing comes first, so that readiness is not announced before.
        biased;
        ended = &mut serving => return Err(ended),
        () = report(&bus, &handler, &ready) => {}
        () = shutdown.wait() => {}
    }
    bus.drain().await;
    if timeout(DRAIN, serving).await.is_err() {
        warn!(grace = ?DRAIN, "the bus did not end the subscriptions in time");
    }
    Ok(())
}

/// Answers requests until the connection ends, and says why it did.
async fn serve(bus: &Bus, handler: &Arc<Handler>) -> Error {
    let verify = |request: wire::VerifyKeyRequest| {
        let handler = Arc::clone(handler);
        async move { handler.handle_verify_key(&request).await }
    };
    let issue = |request: wire::IssueTokenRequest| {
        let handler = Arc::clone(handler);
        async move { handler.handle_issue_token(request).await }
    };
    let served = tokio::try_join!(
        rpc::serve(
            bus.clone(),
            subject::VERIFY_KEY,
            subject::AUTH_GROUP,
            verify
        ),
        rpc::serve(
            bus.clone(),
            subject::ISSUE_TOKEN,
            subject::AUTH_GROUP,
            issue
        ),
    );
    Error::Bus(served.err().unwrap_or_else(|| BusError::Api {
        action: "answer requests".to_owned(),
        cause: "the connection has ended".to_owned(),
    }))
}

/// Says for as long as it is polled whether requests can be answered.
async fn report(bus: &Bus, handler: &Handler, ready: &Condition) {
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
