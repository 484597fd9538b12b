//! T7: deciding on response actions, once each, heard by all.

use serde_json::{Value, json};
use signalbox_bus::server::User;
use signalbox_testkit::{DEADLINE, Platform, Service, WsClient};

use crate::events::send;

async fn follow(gateway: &Service, token: &str) -> WsClient {
    let mut client = WsClient::connect(&gateway.threat_url(), &[]).await;
    client.authenticate(token).await;
    client
        .subscribe(json!({"channel": "response_actions"}))
        .await;
    client
}

fn decision(action: &str, decision: &str) -> Value {
    json!({"type": "action_decision", "action_id": action, "decision": decision, "reason": "checked"})
}

/// A platform with two gateways and an action that waits for a decision.
async fn platform_with(action: &str) -> Platform {
    let platform = Platform::start(2).await;
    let bus = platform.bus(User::Producer).await;
    let mut client = follow(&platform.gateways[0], &platform.api_key("viewer")).await;
    let data = json!({"action_id": action, "action_type": "isolate_instance", "status": "PENDING"});
    send(&bus, "action_update", "pending", &data).await;
    client.expect("action_update").await;
    platform
}

#[tokio::test]
async fn the_first_decision_counts_and_all_hear_of_it() {
    let platform = platform_with("action-1").await;
    let mut first = follow(&platform.gateways[0], &platform.api_key("analyst")).await;
    let mut second = follow(&platform.gateways[1], &platform.api_key("operator")).await;

    first.send_json(&decision("action-1", "approve")).await;
    // The event may come before the answer.
    let mut frames = [
        first.next_json(DEADLINE).await,
        first.next_json(DEADLINE).await,
    ];
    frames.sort_by_key(|frame| frame["type"].to_string());
    let [heard, recorded] = frames;
    assert_eq!(
        recorded,
        json!({"type": "action_decision_recorded", "action_id": "action-1", "decision": "approve"})
    );
    for event in [heard, second.expect("action_decided").await] {
        assert_eq!(event["channel"], "response_actions");
        let expected = json!({
            "action_id": "action-1", "action_type": "isolate_instance", "decision": "approve",
            "reason": "checked", "decided_by": "analyst@local",
        });
        assert_eq!(event["data"], expected);
    }

    // Twice as many as bad messages would be allowed: being second is none.
    for _ in 0..20 {
        second.send_json(&decision("action-1", "reject")).await;
        let error = second.expect("error").await;
        assert_eq!(error["code"], "ALREADY_DECIDED");
        assert_eq!(error["decided_by"], "analyst@local");
        assert_eq!(error["decision"], "approve");
    }
    // To make sure of one's own decision is no second one.
    first.send_json(&decision("action-1", "approve")).await;
    first.expect("action_decision_recorded").await;
    second.send_json(&json!({"type": "ping"})).await;
    second.expect("pong").await;
}

#[tokio::test]
async fn only_those_who_may_decide_on_actions_that_exist() {
    let platform = platform_with("action-1").await;
    let mut viewer = follow(&platform.gateways[0], &platform.api_key("viewer")).await;
    viewer.send_json(&decision("action-1", "approve")).await;
    assert_eq!(viewer.expect("error").await["code"], "FORBIDDEN");

    let mut analyst = follow(&platform.gateways[0], &platform.api_key("analyst")).await;
    analyst.send_json(&decision("action-2", "approve")).await;
    let error = analyst.expect("error").await;
    assert_eq!(
        (&error["code"], &error["field"]),
        (&json!("NOT_FOUND"), &json!("action_id"))
    );

    let mut stranger = WsClient::connect(&platform.gateways[0].threat_url(), &[]).await;
    stranger.send_json(&decision("action-1", "approve")).await;
    assert_eq!(stranger.expect("error").await["code"], "FORBIDDEN");

    // None of it has decided anything. The event may come before the answer.
    analyst.send_json(&decision("action-1", "reject")).await;
    let mut frames = [
        analyst.next_json(DEADLINE).await,
        analyst.next_json(DEADLINE).await,
    ];
    frames.sort_by_key(|frame| frame["type"].to_string());
    assert_eq!(frames[0]["type"], "action_decided");
    assert_eq!(frames[1]["type"], "action_decision_recorded");
}

#[tokio::test]
async fn what_a_killed_gateway_left_unpublished_its_successor_publishes() {
    let mut platform = platform_with("action-1").await;
    let record = json!({
        "action_id": "action-1", "action_type": "isolate_instance", "decision": "approve",
        "decided_by": "analyst@local", "at": "2024-12-19T21:30:00Z", "published": false,
    });
    // Gateways run already, so only a new one looks.
    let bucket = platform
        .bus(User::Gateway)
        .await
        .bucket(signalbox_bus::key::DECISIONS)
        .await
        .unwrap();
    let key = signalbox_bus::key::decision("action-1");
    bucket.create(key, record.to_string().into()).await.unwrap();
    let mut client = follow(&platform.gateways[1], &platform.api_key("viewer")).await;
    platform.gateways[0].process.kill9();
    let successor = platform.start_gateway(&[]).await;
    platform.gateways.push(successor);
    let event = client.expect("action_decided").await;
    assert_eq!(event["id"], "decision-action-1");
    assert_eq!(event["timestamp"], "2024-12-19T21:30:00Z");
}
