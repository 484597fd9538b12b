//! T14 and G12: how often a client may speak, over all connections and
//! gateways of its user.

use serde_json::{Value, json};
use signalbox_bus::server::User;
use signalbox_testkit::{DEADLINE, Platform, RedisServer, Service, WsClient, eventually};

use crate::events::{alert, send};

/// The default of a credential.
const LIMIT: u64 = 60;

/// A message that is answered in one frame and changes nothing.
fn message() -> Value {
    json!({"type": "unsubscribe", "subscription_id": "none"})
}

async fn connect(gateway: &Service, token: &str) -> WsClient {
    let mut client = WsClient::connect(&gateway.threat_url(), &[]).await;
    client.authenticate(token).await;
    client
}

/// Sends as many messages; gives the number that were refused for the limit.
async fn speak(client: &mut WsClient, messages: u64) -> u64 {
    let mut refused = 0;
    for _ in 0..messages {
        // Keeps those served below ten bad ones in a row.
        client
            .send_json(&json!({"type": "subscribe", "channel": "system_metrics"}))
            .await;
        let answer = client.next_json(DEADLINE).await;
        refused += u64::from(answer["type"] == "rate_limit_exceeded");
    }
    refused
}

#[tokio::test]
async fn the_sixty_first_message_is_refused_and_the_connection_stays() {
    let platform = Platform::start(1).await;
    let bus = platform.bus(User::Producer).await;
    let mut client = connect(&platform.gateways[0], &platform.api_key("analyst")).await;
    client.subscribe(json!({"channel": "threat_alerts"})).await;
    assert_eq!(speak(&mut client, LIMIT - 1).await, 0);

    // Twice as many as bad messages would be allowed: refusals are none.
    for attempt in LIMIT + 1..=LIMIT + 20 {
        client.send_json(&message()).await;
        let refusal = client.expect("rate_limit_exceeded").await;
        assert_eq!(refusal["limit_type"], "messages_per_minute");
        assert_eq!(refusal["current_usage"], format!("{attempt}/{LIMIT}"));
        let reset = refusal["reset_time"].as_str().unwrap();
        assert!(reset.ends_with('Z'), "{reset}");
    }
    // What is no message of a person goes on.
    client.send_json(&json!({"type": "ping"})).await;
    client.expect("pong").await;
    send(&bus, "threat_alert", "1", &alert("HIGH")).await;
    client.expect("threat_alert").await;
}

#[tokio::test]
async fn a_user_is_counted_over_all_connections_and_others_are_not() {
    let platform = Platform::start(1).await;
    let analyst = platform.api_key("analyst");
    let mut first = connect(&platform.gateways[0], &analyst).await;
    let mut second = connect(&platform.gateways[0], &analyst).await;
    assert_eq!(speak(&mut first, LIMIT / 2).await, 0);
    assert_eq!(speak(&mut second, LIMIT / 2 + 5).await, 5);
    assert_eq!(speak(&mut first, 1).await, 1);
    let mut other = connect(&platform.gateways[0], &platform.api_key("viewer")).await;
    assert_eq!(speak(&mut other, LIMIT).await, 0);
}

#[tokio::test]
async fn gateways_with_one_redis_count_together_and_go_on_without_it() {
    let redis = RedisServer::start().await;
    let url = redis.url();
    let platform = Platform::start_with(2, &["--redis-url", &url]).await;
    let analyst = platform.api_key("analyst");
    let mut clients = Vec::new();
    for gateway in &platform.gateways {
        clients.push(connect(gateway, &analyst).await);
    }
    let mut refused = 0;
    for turn in 0..LIMIT + 10 {
        let client = &mut clients[usize::from(turn % 2 == 1)];
        refused += speak(client, 1).await;
    }
    assert_eq!(refused, 10);

    redis.kill9();
    for client in &mut clients {
        // Each counts for itself now, from nothing.
        assert_eq!(speak(client, LIMIT + 3).await, 3);
    }
    for gateway in &platform.gateways {
        gateway
            .process
            .stderr()
            .wait_for_line("limits hold per process", DEADLINE)
            .await;
    }
    redis.restart().await;
    eventually(
        "the gateways to count together again",
        DEADLINE,
        async || {
            // Redis starts from nothing, so whoever counts there is served.
            (speak(&mut clients[0], 1).await == 0).then_some(())
        },
    )
    .await;
}

#[tokio::test]
async fn a_gateway_without_redis_says_what_its_limits_are_worth() {
    let platform = Platform::start(1).await;
    let said = platform.gateways[0].process.stderr();
    said.wait_for_line("limits of users hold for this gateway alone", DEADLINE)
        .await;
}
