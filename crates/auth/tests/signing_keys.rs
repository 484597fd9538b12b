//! The keys that sign:
//! - their public halves are on the bus, once, and nothing else of them
//! - a new key waits until gateways know it, unless there is no other
//! - a rotation needs no restart, and the old key goes with its last token.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::time::Duration;

use signalbox_auth::{Error, Options};
use signalbox_bus::key;
use signalbox_identity::{KeySet, PublicKey, Role, SigningKey};
use signalbox_service::{Health, Shutdown};
use signalbox_testkit::{DEADLINE, eventually};

use crate::common::{Service, World, expectations, request_for};

fn signed_by(key: &PublicKey, token: &str) -> bool {
    let keys = KeySet::from_iter([key.clone()]);
    keys.verify(token, &expectations("signalbox")).is_ok()
}

/// A token of the service that runs.
async fn token(world: &World) -> String {
    let key = world.add_api_key(Role::Viewer, |_| ()).await;
    world.issue(request_for(&key)).await.unwrap().access_token
}

#[tokio::test]
async fn public_halves_are_published_once() {
    let world = World::new().await;
    let (one, two) = (
        world.add_signing_key("1.pem"),
        world.add_signing_key("2.pem"),
    );
    Service::start(world.options()).await.stop().await;
    let keys = world.key_set().await;
    assert_eq!(keys.iter().count(), 2);
    for key in [&one, &two] {
        assert_eq!(keys.find(key.kid()), Some(key.public_key()));
    }

    let bucket = world.bucket(key::SIGNING_KEYS).await;
    let entry = bucket.entry(one.kid()).await.unwrap().unwrap();
    let jwk = String::from_utf8(entry.value.to_vec()).unwrap();
    assert!(jwk.contains("\"x\"") && !jwk.contains("\"d\""), "{jwk}");
    Service::start(world.options()).await.stop().await;
    let again = bucket.entry(one.kid()).await.unwrap().unwrap();
    assert_eq!(again.revision, entry.revision);
}

#[tokio::test]
async fn a_published_key_is_known_by_what_it_is_and_not_by_its_text() {
    let world = World::new().await;
    let (same, other) = (
        world.add_signing_key("1.pem"),
        world.add_signing_key("2.pem"),
    );
    let bucket = world.bucket(key::SIGNING_KEYS).await;
    let jwk = serde_json::to_string_pretty(same.public_key()).unwrap();
    let same_revision = bucket.put(same.kid(), jwk.into()).await.unwrap();
    bucket.put(other.kid(), "{}".into()).await.unwrap();

    Service::start(world.options()).await.stop().await;
    let entry = bucket.entry(same.kid()).await.unwrap().unwrap();
    assert_eq!(entry.revision, same_revision);
    let keys = world.key_set().await;
    assert_eq!(keys.find(other.kid()), Some(other.public_key()));
}

#[tokio::test]
async fn the_only_key_signs_at_once_and_a_newer_one_when_it_is_known() {
    let world = World::new().await;
    let old = world.add_signing_key("1.pem");
    Service::start(world.options()).await.stop().await;
    let signs = async |propagation: Duration| {
        let options = Options {
            key_propagation: propagation,
            ..world.options()
        };
        let auth = Service::start(options).await;
        let token = token(&world).await;
        auth.stop().await;
        token
    };
    let hour = Duration::from_secs(3_600);
    assert!(signed_by(old.public_key(), &signs(hour).await));

    // The old key has been known for that long, and the new one is not yet.
    let known_for = age(&world, &old).await;
    let new = world.add_signing_key("2.pem");
    assert!(signed_by(old.public_key(), &signs(known_for).await));
    assert!(signed_by(new.public_key(), &signs(Duration::ZERO).await));
    let keys = world.key_set().await;
    assert!(keys.find(new.kid()).is_some() && keys.find(old.kid()).is_some());
}

/// For how long the public half of a key has been on the bus.
async fn age(world: &World, key: &SigningKey) -> Duration {
    let bucket = world.bucket(key::SIGNING_KEYS).await;
    let entry = bucket.entry(key.kid()).await.unwrap().unwrap();
    (time::OffsetDateTime::now_utc() - entry.created)
        .try_into()
        .unwrap()
}

#[tokio::test]
async fn without_a_usable_key_there_is_no_service() {
    let world = World::new().await;
    let options = world.options();
    for file in fs::read_dir(world.keys_dir()).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    let run = async || {
        let shutdown = Shutdown::new();
        let health = Health::new(shutdown.clone());
        let (bound, _addr) = tokio::sync::oneshot::channel();
        signalbox_auth::run(options.clone(), &health, bound, shutdown).await
    };
    assert!(matches!(run().await, Err(Error::NoSigningKey(_))));
    fs::write(world.keys_dir().join("a.pem"), "no key").unwrap();
    assert!(matches!(run().await, Err(Error::SigningKey { .. })));
}

#[tokio::test]
async fn a_key_that_is_added_while_running_takes_over_and_old_tokens_verify() {
    let world = World::new().await;
    let old = world.add_signing_key("1.pem");
    let options = Options {
        key_propagation: Duration::from_secs(1),
        ..world.options()
    };
    let _one = Service::start(options.clone()).await;
    let _two = Service::start(options).await;
    let early = token(&world).await;
    assert!(signed_by(old.public_key(), &early));
    let new = world.add_signing_key("2.pem");
    eventually("the new key signs", DEADLINE, async || {
        let fresh = token(&world).await;
        // Nobody signs with a key that gateways do not know.
        world.claims(&fresh, "signalbox").await;
        signed_by(new.public_key(), &fresh).then_some(())
    })
    .await;
    world.claims(&early, "signalbox").await;
}

#[tokio::test]
async fn an_unusable_file_leaves_the_keys_as_they_are() {
    let world = World::new().await;
    let old = world.add_signing_key("1.pem");
    let _auth = Service::start(world.options()).await;
    fs::write(world.keys_dir().join("2.pem"), "no key").unwrap();
    for _ in 0..10 {
        assert!(signed_by(old.public_key(), &token(&world).await));
    }
}

#[tokio::test]
async fn a_retired_key_is_withdrawn_when_its_tokens_have_ended() {
    let world = World::new().await;
    let old = world.add_signing_key("1.pem");
    let new = world.add_signing_key("2.pem");
    let options = Options {
        key_propagation: Duration::ZERO,
        max_token_ttl: Duration::ZERO,
        key_afterlife: Duration::ZERO,
        ..world.options()
    };
    let bucket = world.bucket(key::SIGNING_KEYS).await;
    let jwk = serde_json::to_vec(old.public_key()).unwrap();
    bucket.put(old.kid(), jwk.into()).await.unwrap();
    let _auth = Service::start(options).await;
    eventually("the old key goes", DEADLINE, async || {
        world
            .key_set()
            .await
            .find(old.kid())
            .is_none()
            .then_some(())
    })
    .await;
    assert!(world.key_set().await.find(new.kid()).is_some());
    // A file that goes away counts as well.
    fs::remove_file(world.keys_dir().join("2.pem")).unwrap();
    let last = world.add_signing_key("3.pem");
    eventually("the removed key goes", DEADLINE, async || {
        let keys = world.key_set().await;
        (keys.find(new.kid()).is_none() && keys.find(last.kid()).is_some()).then_some(())
    })
    .await;
}
