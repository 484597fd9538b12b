//! Keeps the bucket `presence` as the register is, and the gateway's sign of
//! life, without which its declarations do not count.
//!
//! Whatever the bucket may have lost, everyone is declared anew: after a new
//! link, and whenever the sign of life had expired, since the declarations of a
//! gateway that seems gone are cleared away.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use signalbox_bus::lease::Leases;
use signalbox_bus::{Bus, investigation, key};
use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::register::{Place, Register};

/// Declarations that are written at once; further ones wait in the register.
const CONCURRENCY: usize = 32;
/// How long the write of one may take before it is tried again.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause after something failed.
const PAUSE: Duration = Duration::from_millis(200);

/// See the module. The sign of life lasts for `ttl` and is renewed at a third of
/// that.
pub(super) async fn run(
    bus: Bus,
    register: Arc<Register>,
    ttl: Duration,
    left: impl Future<Output = ()>,
) {
    tokio::select! {
        // Not ended before that: what is being taken back must be.
        () = keep_declared(&bus, &register) => {}
        () = live(&bus, &register, ttl, left) => info!("in no investigation any more"),
    }
}

/// Gives signs of life until `left`.
async fn live(bus: &Bus, register: &Register, ttl: Duration, left: impl Future<Output = ()>) {
    let leases = Leases::new(bus.clone(), register.gateway(), ttl);
    let key = key::gateway_life(register.gateway());
    let mut left = pin!(left);
    loop {
        let acquired = tokio::select! {
            () = &mut left => return,
            acquired = leases.acquire(&key) => acquired,
        };
        let mut lease = match acquired {
            Ok(lease) => lease,
            Err(cause) => {
                debug!(%cause, "no sign of life yet");
                sleep(PAUSE).await;
                continue;
            }
        };
        register.doubt();
        tokio::select! {
            () = lease.keep() => warn!("the sign of life has expired, giving it anew"),
            // Without it, whatever is still declared counts no more.
            () = &mut left => return lease.release().await,
        }
    }
}

/// Writes what changes, for as long as it is polled.
async fn keep_declared(bus: &Bus, register: &Register) {
    let mut link = bus.link();
    loop {
        let places = tokio::select! {
            places = register.undeclared() => places,
            // The sender lives as long as the bus.
            Ok(()) = link.changed() => {
                if link.borrow_and_update().up {
                    register.doubt();
                }
                continue;
            }
        };
        let failed: Vec<Place> = stream::iter(places)
            .map(|place| async {
                let written = write(bus, register, &place).await;
                (!written).then_some(place)
            })
            .buffer_unordered(CONCURRENCY)
            .filter_map(std::future::ready)
            .collect()
            .await;
        if !failed.is_empty() {
            debug!(places = failed.len(), "not declared, trying again");
            for place in failed {
                register.put_back(place);
            }
            sleep(PAUSE).await;
        }
    }
}

/// Writes what holds of a place now; tells whether the bus has it.
async fn write(bus: &Bus, register: &Register, place: &Place) -> bool {
    let written = match register.declaration(place) {
        Some(declaration) => investigation::declare(bus, &declaration, PATIENCE).await,
        None => {
            let Place {
                investigation_id,
                user_id,
            } = place;
            let gateway = register.gateway();
            investigation::withdraw(bus, investigation_id, user_id, gateway, PATIENCE).await
        }
    };
    if let Err(error) = &written {
        debug!(%error, "declaration not written");
    }
    written.is_ok()
}
