//! Dialect `mesh` with the clients that people use for it: Python's
//! websocket-client and JavaScript's `ws` (M1, M3-M5).

use serde_json::{Value, json};
use signalbox_bus::publish::{Outgoing, publish};
use signalbox_bus::server::User;
use signalbox_bus::{Bus, HeaderMap};
use signalbox_testkit::{DEADLINE, NodeClient, Platform, PythonClient};

/// Where the dialect is; the clients add the token.
fn url(platform: &Platform) -> String {
    format!("ws://{}/api/v1/ws", platform.gateways[0].listener())
}

async fn send(bus: &Bus, domain: &str, name: &str, data: &Value) {
    let message = Outgoing {
        subject: format!("events.{domain}.{name}"),
        message_id: format!("{domain}/test/{name}"),
        headers: HeaderMap::new(),
        payload: data.to_string().into(),
    };
    publish(bus, &message, DEADLINE).await.unwrap();
}

#[tokio::test]
async fn a_python_dashboard_follows_two_channels() {
    let platform = Platform::start(1).await;
    let bus = platform.bus(User::Producer).await;
    let client = PythonClient::start(
        "mesh_client.py",
        &json!({
            "url": url(&platform), "token": platform.token("viewer").await,
            "channels": ["network_events", "consensus_events"],
            "events": ["network_event", "consensus_event"],
        }),
    );
    assert_eq!(client.next(DEADLINE).await["event"], "open");
    let mut answers = Vec::new();
    for _ in 0..4 {
        let answer = client.next(DEADLINE).await["frame"].take();
        answers.push(answer["type"].as_str().unwrap().to_owned());
    }
    answers.sort();
    assert_eq!(answers, ["pong", "pong", "subscribed", "subscribed"]);
    let node = json!({"node_id": "node_123", "address": "node123.onion"});
    send(&bus, "network", "node_joined", &node).await;
    let frame = client.next(DEADLINE).await["frame"].take();
    assert_eq!(
        (&frame["type"], &frame["event"], &frame["data"]),
        (&json!("network_event"), &json!("node_joined"), &node)
    );
    let change = json!({"view": 7});
    send(&bus, "consensus", "view_change", &change).await;
    let frame = client.next(DEADLINE).await["frame"].take();
    assert_eq!(
        (&frame["type"], &frame["event"], &frame["data"]),
        (&json!("consensus_event"), &json!("view_change"), &change)
    );
}

#[tokio::test]
async fn a_python_dashboard_with_a_bad_token_reads_why() {
    let platform = Platform::start(1).await;
    let client = PythonClient::start(
        "mesh_client.py",
        &json!({
            "url": url(&platform), "token": "no.such.token",
            "channels": [], "events": [],
        }),
    );
    assert_eq!(client.next(DEADLINE).await["event"], "open");
    let closed = client.next(DEADLINE).await;
    assert_eq!(
        closed,
        json!({"event": "close", "code": 1008, "reason": "the token is not valid"})
    );
}

#[tokio::test]
async fn a_javascript_dashboard_follows_a_channel() {
    let platform = Platform::start(1).await;
    let bus = platform.bus(User::Producer).await;
    let client = NodeClient::start(
        "mesh-plain.mjs",
        &json!({
            "url": url(&platform), "token": platform.token("viewer").await,
            "channel": "network_events", "exit_after": {"network_event": 1},
        }),
    );
    client.expect_event("connected").await;
    client.expect_frame("subscribed").await;
    let node = json!({"node_id": "node_123", "address": "node123.onion"});
    send(&bus, "network", "node_joined", &node).await;
    assert_eq!(client.expect_frame("network_event").await["data"], node);
    let closed = client.expect_event("disconnected").await;
    assert_eq!(closed["code"], 1000);
    assert!(client.wait(DEADLINE).await.success());
}
