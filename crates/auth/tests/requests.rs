//! What other services hear from auth:
//! - whom an API key stands for, and one and the same refusal for all bad keys
//! - tokens that gateways accept, never for longer than allowed
//! - that a key cannot be looked up now, told apart from that it is bad.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use signalbox_bus::key;
use signalbox_identity::{AgentId, ApiKey, Limits, Permission, Role};
use signalbox_protocol::wire;

use crate::common::{Service, World, record, request_for};

#[tokio::test]
async fn a_good_key_is_told_whom_it_stands_for() {
    let world = World::new().await;
    let _auth = Service::start(world.options()).await;
    let key = ApiKey::generate();
    let mut record = record(&key, Role::Agent);
    record.agent_id = Some(AgentId::new("agent-7").unwrap());
    record.limits = Limits {
        messages_per_minute: 5,
        agent_chats_per_hour: 6,
    };
    world.put_record(&record).await;
    let principal = world.verify(key.expose().expose()).await.unwrap();
    assert_eq!(principal, record.principal());
}

#[tokio::test]
async fn bad_keys_are_refused_alike() {
    let world = World::new().await;
    let _auth = Service::start(world.options()).await;
    let good = world.add_api_key(Role::Admin, |_| ()).await;
    let revoked = world
        .add_api_key(Role::Admin, |record| record.revoked = true)
        .await;
    let unknown = ApiKey::generate();
    let secret_of = |key: &ApiKey| key.expose().expose()["sbk_".len() + 13..].to_owned();
    let wrong_secret = format!("sbk_{}_{}", good.id(), secret_of(&unknown));

    let mut refusals = Vec::new();
    for text in [
        wrong_secret.as_str(),
        unknown.expose().expose(),
        revoked.expose().expose(),
        "sbk_nonsense",
        "",
    ] {
        refusals.push(world.verify(text).await.unwrap_err());
        let request = wire::IssueTokenRequest {
            api_key: text.to_owned(),
            ..wire::IssueTokenRequest::default()
        };
        refusals.push(world.issue(request).await.unwrap_err());
    }
    let expected = wire::Refusal {
        code: "AUTH_FAILED".to_owned(),
        message: "the API key is not valid".to_owned(),
        ..wire::Refusal::default()
    };
    assert_eq!(refusals, vec![expected; 10]);
    // The one that is good was so all the time.
    world.verify(good.expose().expose()).await.unwrap();
}

#[tokio::test]
async fn a_key_stops_working_when_it_is_revoked() {
    let world = World::new().await;
    let _auth = Service::start(world.options()).await;
    let key = ApiKey::generate();
    let mut record = record(&key, Role::Viewer);
    world.put_record(&record).await;
    world.verify(key.expose().expose()).await.unwrap();
    record.revoked = true;
    world.put_record(&record).await;
    let refusal = world.verify(key.expose().expose()).await.unwrap_err();
    assert_eq!(refusal.code, "AUTH_FAILED");
}

#[tokio::test]
async fn a_key_that_cannot_be_looked_up_is_not_called_bad() {
    let world = World::new().await;
    let auth = Service::start(world.options()).await;
    let key = world.add_api_key(Role::Viewer, |_| ()).await;
    let jetstream = world.admin.jetstream();
    jetstream.delete_key_value(key::API_KEYS).await.unwrap();

    let refusal = world.verify(key.expose().expose()).await.unwrap_err();
    assert_eq!(refusal.code, "UNAVAILABLE");
    let refusal = world.issue(request_for(&key)).await.unwrap_err();
    assert_eq!(refusal.code, "UNAVAILABLE");
    auth.readiness(false).await;

    // Without a restart the service goes on when the records are back.
    world.init().await;
    auth.readiness(true).await;
    let refusal = world.verify(key.expose().expose()).await.unwrap_err();
    assert_eq!(refusal.code, "AUTH_FAILED");
}

#[tokio::test]
async fn the_service_outlives_an_outage_of_the_bus() {
    let world = World::new().await;
    let auth = Service::start(world.options()).await;
    let key = world.add_api_key(Role::Viewer, |_| ()).await;
    world.server.kill9();
    auth.readiness(false).await;
    world.server.restart().await;
    auth.readiness(true).await;
    world.verify(key.expose().expose()).await.unwrap();
}

#[tokio::test]
async fn an_unreadable_record_is_not_called_bad() {
    let world = World::new().await;
    let _auth = Service::start(world.options()).await;
    let key = ApiKey::generate();
    let bucket = world.bucket(key::API_KEYS).await;
    bucket.put(key.id().as_str(), "{}".into()).await.unwrap();
    let refusal = world.verify(key.expose().expose()).await.unwrap_err();
    assert_eq!(refusal.code, "UNAVAILABLE");
}

#[tokio::test]
async fn gateways_accept_an_issued_token() {
    let world = World::new().await;
    let _auth = Service::start(world.options()).await;
    let key = world.add_api_key(Role::Analyst, |_| ()).await;
    let issued = world.issue(request_for(&key)).await.unwrap();
    assert_eq!(issued.expires_in, 900);

    let principal = world
        .claims(&issued.access_token, "signalbox")
        .await
        .principal();
    assert_eq!(principal.subject.as_str(), "user-7");
    assert_eq!(principal.name, "Night shift");
    assert_eq!(principal.role, Some(Role::Analyst));
    assert!(principal.permissions.contains(Permission::ChatAgents));
    assert_eq!(principal.projects, ["apollo", "gemini"]);
    assert_ne!(principal.credential.as_str(), key.id().as_str());
}

#[tokio::test]
async fn a_token_lasts_as_long_as_asked_within_the_limit() {
    let world = World::new().await;
    let _auth = Service::start(world.options()).await;
    let key = world.add_api_key(Role::Viewer, |_| ()).await;
    for (asked, given) in [(60, 60), (1_000_000, 3_600)] {
        let request = wire::IssueTokenRequest {
            ttl_seconds: asked,
            ..request_for(&key)
        };
        let issued = world.issue(request).await.unwrap();
        assert_eq!(issued.expires_in, given);
        let claims = world.claims(&issued.access_token, "signalbox").await;
        let lifetime = claims.exp - claims.iat;
        assert_eq!(lifetime.whole_seconds(), i64::from(given));
    }
}

#[tokio::test]
async fn a_token_narrows_what_the_key_grants() {
    let world = World::new().await;
    let _auth = Service::start(world.options()).await;
    let key = world.add_api_key(Role::Agent, |_| ()).await;
    let narrowed = |project: &str, agent: &str| wire::IssueTokenRequest {
        projects: vec![project.to_owned()],
        agent_id: agent.to_owned(),
        ..request_for(&key)
    };
    let issued = world.issue(narrowed("gemini", "agent-7")).await.unwrap();
    let claims = world.claims(&issued.access_token, "signalbox").await;
    assert_eq!(claims.projects, ["gemini"]);
    assert_eq!(claims.agent_id, AgentId::new("agent-7").ok());

    let refusal = world.issue(narrowed("vostok", "agent-7")).await;
    let refusal = refusal.unwrap_err();
    assert_eq!(refusal.code, "FORBIDDEN");
    assert!(refusal.message.contains("vostok"), "{}", refusal.message);

    let viewer = world.add_api_key(Role::Viewer, |_| ()).await;
    let request = wire::IssueTokenRequest {
        agent_id: "agent-7".to_owned(),
        ..request_for(&viewer)
    };
    assert_eq!(world.issue(request).await.unwrap_err().code, "FORBIDDEN");
}
