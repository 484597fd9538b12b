//! Refresh tokens:
//! - each is good once, and its successor carries on what the first was
//! - a lost answer is repeated, by any replica, and nothing forks
//! - a consumed one that comes again ends the line and all its access tokens
//! - made-up ones end nothing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use signalbox_auth::Options;
use signalbox_bus::key;
use signalbox_identity::{Role, Verdict};
use signalbox_protocol::wire::{self, revoke_request::Held};

use crate::common::{PASSWORD, Service, World, request_for};

/// Settings without a grace for lost answers.
fn without_grace(world: &World) -> Options {
    Options {
        refresh_grace: Duration::ZERO,
        ..world.options()
    }
}

#[tokio::test]
async fn a_line_carries_on_what_it_began_as() {
    let world = World::new().await;
    let _auth = Service::start(world.options()).await;
    let key = world.add_api_key(Role::Agent, |_| ()).await;
    let request = wire::IssueTokenRequest {
        ttl_seconds: 77,
        projects: vec!["gemini".to_owned()],
        agent_id: "agent-7".to_owned(),
        ..request_for(&key)
    };
    let mut issued = world.issue(request).await.unwrap();
    let mut seen = BTreeSet::new();
    let first = world.claims(&issued.access_token, "signalbox").await;
    for _ in 0..3 {
        assert!(seen.insert(issued.refresh_token.clone()));
        issued = world.refresh(&issued.refresh_token).await.unwrap();
        let claims = world.claims(&issued.access_token, "signalbox").await;
        assert_eq!(issued.expires_in, 77);
        assert_eq!((&claims.sid, &claims.key_id), (&first.sid, &first.key_id));
        assert_ne!(claims.jti, first.jti);
        assert_eq!(claims.projects, ["gemini"]);
        assert_eq!(claims.agent_id.unwrap().as_str(), "agent-7");
    }
    assert!(first.sid.is_some());
    assert_eq!(first.key_id.as_ref(), Some(key.id()));
}

#[tokio::test]
async fn a_consumed_token_ends_its_line_and_no_other() {
    let world = World::new().await;
    let _auth = Service::start(without_grace(&world)).await;
    world.add_user("ada", "analyst").await;
    let stolen = world.login("ada", PASSWORD, "").await.unwrap();
    let other = world.login("ada", PASSWORD, "").await.unwrap();
    let fresh = world.refresh(&stolen.refresh_token).await.unwrap();
    assert_eq!(world.judge(&fresh.access_token).await, Verdict::Untouched);

    let refusal = world.refresh(&stolen.refresh_token).await.unwrap_err();
    assert_eq!(refusal.code, "AUTH_FAILED");
    let refusal = world.refresh(&fresh.refresh_token).await.unwrap_err();
    assert_eq!(refusal.code, "AUTH_FAILED");
    for ended in [&stolen, &fresh] {
        assert_eq!(world.judge(&ended.access_token).await, Verdict::Ended);
    }
    assert_eq!(world.judge(&other.access_token).await, Verdict::Untouched);
    world.refresh(&other.refresh_token).await.unwrap();
}

#[tokio::test]
async fn a_lost_answer_is_repeated() {
    let world = World::new().await;
    let _auth = Service::start(world.options()).await;
    world.add_user("ada", "analyst").await;
    let first = world.login("ada", PASSWORD, "").await.unwrap();
    let one = world.refresh(&first.refresh_token).await.unwrap();
    let two = world.refresh(&first.refresh_token).await.unwrap();
    assert_eq!(one.refresh_token, two.refresh_token);
    world.refresh(&two.refresh_token).await.unwrap();
}

#[tokio::test]
async fn the_same_connection_gets_its_successor_again() {
    let world = World::new().await;
    let _auth = Service::start(without_grace(&world)).await;
    world.add_user("ada", "analyst").await;
    let first = world.login("ada", PASSWORD, "").await.unwrap();
    let one = world.refresh_on("c1", &first.refresh_token).await.unwrap();
    let two = world.refresh_on("c1", &first.refresh_token).await.unwrap();
    assert_eq!(one.refresh_token, two.refresh_token);
    world
        .refresh_on("c2", &first.refresh_token)
        .await
        .unwrap_err();
    world.refresh(&one.refresh_token).await.unwrap_err();
}

#[tokio::test]
async fn replicas_that_refresh_at_once_come_to_the_same() {
    let world = World::new().await;
    let _one = Service::start(world.options()).await;
    let _two = Service::start(world.options()).await;
    let key = world.add_api_key(Role::Viewer, |_| ()).await;
    let mut issued = world.issue(request_for(&key)).await.unwrap();
    for _ in 0..5 {
        let answers =
            futures_util::future::join_all((0..16).map(|_| world.refresh(&issued.refresh_token)));
        let answers: Vec<_> = answers.await.into_iter().map(Result::unwrap).collect();
        let successors: BTreeSet<_> = answers.iter().map(|one| &one.refresh_token).collect();
        assert_eq!(successors.len(), 1, "the family forked");
        issued = answers[0].clone();
    }
}

#[tokio::test]
async fn made_up_tokens_end_nothing() {
    let world = World::new().await;
    let _auth = Service::start(without_grace(&world)).await;
    let key = world.add_api_key(Role::Viewer, |_| ()).await;
    let first = world.issue(request_for(&key)).await.unwrap();
    let second = world.refresh(&first.refresh_token).await.unwrap();
    let (line, secret) = second
        .refresh_token
        .split_at(second.refresh_token.len() - 43);
    let made_up: String = secret.chars().rev().collect();
    for bad in [
        String::new(),
        "sbr_x".to_owned(),
        format!("{line}{made_up}"),
        format!("{}{secret}", line.replace("_1_", "_0_")),
        format!("{}{secret}", line.replace("_1_", "_9_")),
    ] {
        let refusal = world.refresh(&bad).await.unwrap_err();
        assert_eq!(refusal.code, "AUTH_FAILED", "{bad}");
    }
    world.refresh(&second.refresh_token).await.unwrap();
}

#[tokio::test]
async fn a_line_ends_with_its_time() {
    let world = World::new().await;
    let options = Options {
        refresh_ttl: Duration::from_secs(1),
        ..world.options()
    };
    let _auth = Service::start(options).await;
    let key = world.add_api_key(Role::Viewer, |_| ()).await;
    let issued = world.issue(request_for(&key)).await.unwrap();
    assert_eq!(issued.refresh_expires_in, 1);
    let bucket = world.bucket(key::REFRESH_FAMILIES).await;
    let family = world.claims(&issued.access_token, "signalbox").await.sid;
    let family = family.unwrap().to_string();
    signalbox_testkit::eventually("the end", signalbox_testkit::DEADLINE, async || {
        bucket.get(&family).await.unwrap().is_none().then_some(())
    })
    .await;
    world.refresh(&issued.refresh_token).await.unwrap_err();
}

#[tokio::test]
async fn the_bearer_revokes_what_it_holds() {
    let world = World::new().await;
    let _auth = Service::start(world.options()).await;
    world.add_user("ada", "analyst").await;
    let login = async || world.login("ada", PASSWORD, "").await.unwrap();
    let (one, two, three) = (login().await, login().await, login().await);
    let held = Held::RefreshToken(one.refresh_token.clone());
    world.revoke(held.clone()).await.unwrap();
    world.revoke(held).await.unwrap();
    world
        .revoke(Held::AccessToken(two.access_token.clone()))
        .await
        .unwrap();
    for gone in [&one, &two] {
        assert_eq!(world.judge(&gone.access_token).await, Verdict::Ended);
        world.refresh(&gone.refresh_token).await.unwrap_err();
    }
    assert_eq!(world.judge(&three.access_token).await, Verdict::Untouched);
    // What is revoked revokes nothing.
    let held = Held::EverythingOf(two.access_token.clone());
    assert_eq!(world.revoke(held).await.unwrap_err().code, "AUTH_FAILED");

    let held = Held::EverythingOf(three.access_token.clone());
    world.revoke(held).await.unwrap();
    assert_eq!(world.judge(&three.access_token).await, Verdict::Ended);
    world.refresh(&three.refresh_token).await.unwrap_err();
    let again = login().await;
    assert_eq!(world.judge(&again.access_token).await, Verdict::Untouched);
    world.refresh(&again.refresh_token).await.unwrap();
}
