//! What the log says of tokens and keys: who got or was refused which, in the
//! audit log, and no secret at any level of ours.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use signalbox_identity::{ApiKey, Role};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;

use crate::common::{Service, World, request_for};

/// Everything that the program logs.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_log_tells_what_happened_and_no_secret() {
    let log = Log::default();
    let writer = log.clone();
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(move || writer.clone());
    // At its lowest level the library shows every message that it moves.
    let levels = Targets::new()
        .with_default(LevelFilter::TRACE)
        .with_target("async_nats", LevelFilter::DEBUG);
    let subscriber = tracing_subscriber::registry().with(levels).with(lines);
    // All threads of the program share it, so this is its only test.
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (good, bad, token) = runtime.block_on(async {
        let world = World::new().await;
        let auth = Service::start(world.options()).await;
        let good = world.add_api_key(Role::Viewer, |_| ()).await;
        let bad = ApiKey::generate();
        let issued = world.issue(request_for(&good)).await.unwrap();
        world.issue(request_for(&bad)).await.unwrap_err();
        world.verify(bad.expose().expose()).await.unwrap_err();
        auth.stop().await;
        (good, bad, issued.access_token)
    });
    let bytes = log.0.lock().clone();
    let text = String::from_utf8_lossy(&bytes);
    let audited = |what: &str, key: &ApiKey| {
        let id = format!("key={}", key.id());
        let mut lines = text.lines().filter(|line| line.contains(" audit: "));
        lines.any(|line| line.contains(what) && line.contains(&id))
    };
    assert!(audited("token issued", &good), "{text}");
    assert!(audited("token refused", &bad), "{text}");
    assert!(audited("API key refused", &bad), "{text}");
    for key in [&good, &bad] {
        let key = key.expose();
        let secret = key.expose().rsplit('_').next().unwrap();
        assert!(!text.contains(secret), "the secret of a key is logged");
    }
    assert!(!text.contains(&token), "a token is logged");
    let signature = token.rsplit('.').next().unwrap();
    assert!(!text.contains(signature), "the signature is logged");
}
