//! Leases against a real server: one holder at a time, free when released or
//! expired, and everyone is told.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use signalbox_bus::lease::{self, LeaseError, LeaseWatch, Leases};
use signalbox_bus::server::User;
use signalbox_bus::stream::{self, StreamSettings};
use signalbox_bus::{Bus, BusOptions};
use signalbox_testkit::{DEADLINE, NatsServer, eventually};
use tokio::time::timeout;

const KEY: &str = "router.threat";
/// A time to live that does not pass within a test.
const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_secs(1);

async fn server() -> NatsServer {
    let server = NatsServer::start().await;
    let admin = bus(&server, User::Admin).await;
    stream::init(&admin, &StreamSettings::default())
        .await
        .unwrap();
    server
}

async fn bus(server: &NatsServer, user: User) -> Bus {
    let options = BusOptions {
        url: server.url(user),
        wait: DEADLINE,
    };
    Bus::connect(&options, "test").await.unwrap()
}

async fn leases(server: &NatsServer, holder: &str, ttl: Duration) -> Leases {
    Leases::new(bus(server, User::Router).await, holder, ttl)
}

/// Waits until the watch shows this holder, or none.
async fn shows(watch: &mut LeaseWatch, holder: Option<&str>) {
    let shown = async { while watch.changed().await.get(KEY).map(String::as_str) != holder {} };
    timeout(DEADLINE, shown)
        .await
        .unwrap_or_else(|_| panic!("{holder:?} is not shown"));
}

#[tokio::test]
async fn a_lease_has_one_holder_until_it_is_released() {
    let server = server().await;
    let (a, b) = (
        leases(&server, "a", LONG).await,
        leases(&server, "b", LONG).await,
    );
    let mut watch = LeaseWatch::new(bus(&server, User::Router).await);
    let held = a.acquire(KEY).await.unwrap();
    shows(&mut watch, Some("a")).await;
    match b.acquire(KEY).await {
        Err(LeaseError::Taken(holder)) => assert_eq!(holder, "a"),
        _ => panic!("a second holder"),
    }
    let generation = held.generation();
    held.release().await;
    shows(&mut watch, None).await;
    let held = b.acquire(KEY).await.unwrap();
    assert!(held.generation() > generation);
    shows(&mut watch, Some("b")).await;
    held.release().await;
    shows(&mut watch, None).await;
}

#[tokio::test]
async fn a_lease_that_nobody_renews_expires() {
    let server = server().await;
    let (a, b) = (
        leases(&server, "a", SHORT).await,
        leases(&server, "b", SHORT).await,
    );
    let mut watch = LeaseWatch::new(bus(&server, User::Router).await);
    let held = a.acquire(KEY).await.unwrap();
    let tenure = held.tenure();
    shows(&mut watch, Some("a")).await;
    shows(&mut watch, None).await;
    assert!(tenure.is_over(), "the bus forgot a lease that still held");
    // Also behind the marker of the expiry the new lease has a time to live.
    b.acquire(KEY).await.unwrap();
    shows(&mut watch, Some("b")).await;
    shows(&mut watch, None).await;
}

#[tokio::test]
async fn a_lease_lasts_for_as_long_as_it_is_kept() {
    let server = server().await;
    let (a, b) = (
        leases(&server, "a", SHORT).await,
        leases(&server, "b", SHORT).await,
    );
    let mut held = a.acquire(KEY).await.unwrap();
    let kept = timeout(SHORT * 4, held.keep()).await;
    assert!(kept.is_err(), "the lease was lost");
    assert!(!held.tenure().is_over());
    assert!(matches!(b.acquire(KEY).await, Err(LeaseError::Taken(_))));
    // What an administrator ends is over for its holder at the next renewal.
    lease::clear(&bus(&server, User::Admin).await)
        .await
        .unwrap();
    let other = b.acquire(KEY).await.unwrap();
    timeout(DEADLINE, held.keep()).await.unwrap();
    assert!(held.tenure().is_over() && !other.tenure().is_over());
}

/// The bus is gone: the holder knows when its time is over.
#[tokio::test]
async fn a_lease_that_cannot_be_renewed_is_over_in_time() {
    let server = server().await;
    let a = leases(&server, "a", SHORT).await;
    let mut held = a.acquire(KEY).await.unwrap();
    server.kill9();
    timeout(DEADLINE, held.keep()).await.unwrap();
    assert!(held.tenure().is_over());
    server.restart().await;
    eventually("the lease again", DEADLINE, async || {
        a.acquire(KEY).await.ok()
    })
    .await;
}

/// What a watch missed while it was away, it does not take for unchanged.
#[tokio::test]
async fn a_watch_survives_a_restart_of_the_bus() {
    let server = server().await;
    let a = leases(&server, "a", LONG).await;
    let mut watch = LeaseWatch::new(bus(&server, User::Router).await);
    let held = a.acquire(KEY).await.unwrap();
    shows(&mut watch, Some("a")).await;
    server.kill9();
    server.restart().await;
    shows(&mut watch, Some("a")).await;
    held.release().await;
    shows(&mut watch, None).await;
}
