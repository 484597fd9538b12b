//! Dialect `mesh` over the wire: M1, M3-M5, M7, `authenticate` in place (M6),
//! and rules G3, G4, G6, G8 and G10 for it.

use std::time::Duration;

use serde_json::{Value, json};
use signalbox_bus::publish::{Outgoing, publish};
use signalbox_bus::server::User;
use signalbox_bus::{Bus, HeaderMap};
use signalbox_protocol::envelope::{CE_ID, CE_TIME};
use signalbox_testkit::{DEADLINE, Platform, WsClient, post};

/// How long a publish may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Publishes `<domain>.<type>` under an id.
async fn send(bus: &Bus, subject: &str, id: &str, data: &Value) {
    let mut headers = HeaderMap::new();
    headers.insert(CE_ID, id);
    headers.insert(CE_TIME, "2023-01-01T00:00:00Z");
    let message = Outgoing {
        subject: format!("events.{subject}"),
        message_id: format!("{subject}/{id}"),
        headers,
        payload: data.to_string().into(),
    };
    publish(bus, &message, PATIENCE).await.unwrap();
}

async fn viewer(platform: &Platform, gateway: usize) -> WsClient {
    let token = platform.token("viewer").await;
    WsClient::connect(&platform.gateways[gateway].mesh_url(&token), &[]).await
}

/// Asks for a channel; gives the confirmation's data.
async fn subscribe(client: &mut WsClient, mut asked: Value) -> Value {
    asked["type"] = json!("subscribe");
    client.send_json(&asked).await;
    let confirmed = client.expect("subscribed").await;
    assert!(confirmed["timestamp"].is_string(), "{confirmed}");
    confirmed["data"].clone()
}

/// M1: whoever has no good token is let in to read why it has to leave.
#[tokio::test]
async fn bad_tokens_are_closed_with_a_reason() {
    let platform = Platform::start(1).await;
    let base = format!("ws://{}/api/v1/ws", platform.gateways[0].listener());
    let key = platform.api_key("viewer");
    let request = json!({"api_key": key, "ttl": 1}).to_string();
    let (_, answer) = post(
        platform.gateways[0].listener(),
        "/api/v1/auth/token",
        &request,
    )
    .await;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let short = answer["access_token"].as_str().unwrap().to_owned();
    for (url, reason) in [
        (base.clone(), "required"),
        (format!("{base}?token=nonsense"), "neither"),
        (format!("{base}?token="), "neither"),
        (format!("{base}?token={key}"), "URL"),
    ] {
        let mut client = WsClient::connect(&url, &[]).await;
        let closed = client.expect_close(DEADLINE).await;
        assert_eq!(closed.code, Some(1008), "{url}");
        assert!(closed.reason.contains(reason), "{closed:?}");
    }
    // One that expires on an open connection ends it, too.
    let mut client = WsClient::connect(&format!("{base}?token={short}"), &[]).await;
    for code in ["TOKEN_EXPIRING", "TOKEN_EXPIRED"] {
        assert_eq!(client.expect("error").await["data"]["code"], code);
    }
    assert_eq!(client.expect_close(DEADLINE).await.code, Some(1008));
    for headers in [
        (
            "Authorization",
            format!("Bearer {}", platform.token("viewer").await),
        ),
        ("X-API-Key", key),
    ] {
        let headers = [(headers.0, headers.1.as_str())];
        let mut client = WsClient::connect(&base, &headers).await;
        client.send_json(&json!({"type": "ping"})).await;
        assert_eq!(client.next_json(DEADLINE).await, json!({"type": "pong"}));
    }
}

/// M3, M4, M5, G4, G5: the documented conversation, field by field.
#[tokio::test]
async fn events_come_as_documented() {
    let platform = Platform::start(1).await;
    let bus = platform.bus(User::Producer).await;
    let mut client = viewer(&platform, 0).await;
    let confirmed = subscribe(&mut client, json!({"channel": "network_events"})).await;
    assert_eq!(confirmed["channel"], "network_events");
    assert!(confirmed["seq"].is_string() && confirmed.get("recovered").is_none());
    let data = json!({"node_id": "node_123", "address": "node123.onion", "timestamp": "2023-01-01T00:00:00Z"});
    send(&bus, "security.attack_blocked", "elsewhere", &json!({})).await;
    send(&bus, "network.node_joined", "n-1", &data).await;
    let frame = client.next_json(DEADLINE).await;
    let expected = json!({
        "type": "network_event", "event": "node_joined", "data": data,
        "timestamp": "2023-01-01T00:00:00Z", "id": "n-1", "seq": frame["seq"],
    });
    assert_eq!(frame, expected);
    client
        .send_json(&json!({"type": "unsubscribe", "channel": "network_events"}))
        .await;
    let ended = client.expect("unsubscribed").await;
    assert_eq!(ended["data"], json!({"channel": "network_events"}));
    send(&bus, "network.node_left", "n-2", &json!({})).await;
    let token = platform.token("viewer").await;
    client
        .send_json(&json!({"type": "authenticate", "token": token}))
        .await;
    let renewed = client.expect("authenticated").await;
    assert!(renewed["data"]["expires_at"].is_string(), "{renewed}");
    client.send_json(&json!({"type": "ping"})).await;
    client.expect("pong").await;
}

/// M7, and M3: the later subscription of a channel replaces the earlier.
#[tokio::test]
async fn filters_narrow_and_are_replaced() {
    let platform = Platform::start(1).await;
    let bus = platform.bus(User::Producer).await;
    let mut client = viewer(&platform, 0).await;
    let channel = "security_events";
    let filter =
        json!({"event": "intrusion_detected", "severity": ["high", "critical"], "blocked": true});
    let first = subscribe(&mut client, json!({"channel": channel, "filter": filter})).await;
    let intrusion = |severity: &str, blocked: bool| json!({"attack_type": "ddos", "severity": severity, "blocked": blocked});
    for (id, data) in [
        ("low", intrusion("low", true)),
        ("open", intrusion("high", false)),
        ("wanted", intrusion("high", true)),
    ] {
        send(&bus, "security.intrusion_detected", id, &data).await;
    }
    send(
        &bus,
        "security.attack_blocked",
        "other",
        &intrusion("high", true),
    )
    .await;
    send(
        &bus,
        "security.intrusion_detected",
        "last",
        &intrusion("critical", true),
    )
    .await;
    assert_eq!(client.expect("security_event").await["id"], "wanted");
    assert_eq!(client.expect("security_event").await["id"], "last");
    // From the same place with everything: just what has not come yet.
    let all = json!({"channel": channel, "since": first["seq"]});
    assert_eq!(subscribe(&mut client, all).await["recovered"], true);
    for id in ["low", "open", "other"] {
        assert_eq!(client.expect("security_event").await["id"], id);
    }
    send(&bus, "security.certificate_expired", "live", &json!({})).await;
    assert_eq!(client.expect("security_event").await["id"], "live");
}

/// G3: errors in the standard shape, with the field; the connection stays.
#[tokio::test]
async fn bad_messages_are_answered() {
    let platform = Platform::start(1).await;
    let mut client = viewer(&platform, 0).await;
    let network =
        |filter: Value| json!({"type": "subscribe", "channel": "network_events", "filter": filter});
    for (frame, code, field) in [
        (json!([]), "INVALID_MESSAGE", Value::Null),
        (json!({"type": "connected"}), "UNKNOWN_TYPE", json!("type")),
        (
            json!({"type": "subscribe", "channel": "threat_alerts"}),
            "UNKNOWN_CHANNEL",
            json!("channel"),
        ),
        (
            json!({"type": "unsubscribe", "channel": "network_events"}),
            "NOT_FOUND",
            json!("channel"),
        ),
        (
            network(json!({"event": "alert_raised"})),
            "UNKNOWN_FILTER",
            json!("filter.event"),
        ),
        (
            network(json!({"node_id": {}})),
            "INVALID_MESSAGE",
            json!("filter.node_id"),
        ),
    ] {
        client.send_json(&frame).await;
        let error = client.expect("error").await;
        assert!(error["timestamp"].is_string(), "{error}");
        let data = &error["data"];
        assert_eq!(
            (&data["code"], &data["field"]),
            (&json!(code), &field),
            "{frame}"
        );
    }
    let mut stranger = WsClient::connect(
        &format!("ws://{}/api/v1/ws", platform.gateways[0].listener()),
        &[("X-API-Key", &platform.api_key("producer"))],
    )
    .await;
    stranger.send_json(&network(Value::Null)).await;
    assert_eq!(stranger.expect("error").await["data"]["code"], "FORBIDDEN");
}

/// G8, G10: what a client missed while its gateway was killed comes from
/// another, once and in order.
#[tokio::test]
async fn a_client_of_a_killed_gateway_misses_nothing() {
    let platform = Platform::start(2).await;
    let bus = platform.bus(User::Producer).await;
    let mut client = viewer(&platform, 0).await;
    let mut since =
        subscribe(&mut client, json!({"channel": "monitoring_events"})).await["seq"].clone();
    let update = |number: u32| json!({"metric": "cpu", "value": number});
    for number in 0..20 {
        send(
            &bus,
            "monitoring.metric_update",
            &number.to_string(),
            &update(number),
        )
        .await;
    }
    for number in 0..10 {
        let frame = client.expect("monitoring_event").await;
        assert_eq!(frame["id"], number.to_string());
        since = frame["seq"].clone();
    }
    // Both gateways trust the same keys; the token comes from the first.
    let token = platform.token("viewer").await;
    platform.gateways[0].process.kill9();
    for number in 20..30 {
        send(
            &bus,
            "monitoring.metric_update",
            &number.to_string(),
            &update(number),
        )
        .await;
    }
    let mut client = WsClient::connect(&platform.gateways[1].mesh_url(&token), &[]).await;
    let asked = json!({"channel": "monitoring_events", "since": since});
    assert_eq!(subscribe(&mut client, asked).await["recovered"], true);
    for number in 10..30 {
        let frame = client.expect("monitoring_event").await;
        assert_eq!(frame["id"], number.to_string());
    }
}
