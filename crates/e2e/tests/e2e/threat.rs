//! Dialect `threat` over the wire: T1-T3, T5 (projection), T6, T7 (reading),
//! T15, and rules G3, G4, G5, G6 and G11 for it. One file, since each test is
//! a short conversation with the same fixture.

use std::time::Duration;

use serde_json::{Value, json};
use signalbox_bus::server::User;
use signalbox_testkit::{DEADLINE, Platform, WsClient, post};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::events::{alert, send};

/// Connects to the first gateway and authenticates as an analyst.
async fn analyst(platform: &Platform) -> WsClient {
    let mut client = WsClient::connect(&platform.gateways[0].threat_url(), &[]).await;
    client.authenticate(&platform.api_key("analyst")).await;
    client
}

/// Sends a frame and gives the error's code, field and message.
async fn complaint(client: &mut WsClient, text: &str) -> (String, Value, String) {
    client.send(Message::text(text)).await;
    let error = client.expect("error").await;
    (
        error["code"].as_str().unwrap().to_owned(),
        error["field"].clone(),
        error["message"].as_str().unwrap().to_owned(),
    )
}

/// T1, T2, T3, G4, G5: the documented conversation, field by field.
#[tokio::test]
async fn an_alert_reaches_those_who_subscribed_to_it() {
    let platform = Platform::start(1).await;
    let bus = platform.bus(User::Producer).await;
    let mut client = WsClient::connect(&platform.gateways[0].threat_url(), &[]).await;
    client
        .send_json(&json!({
            "type": "authenticate", "token": platform.api_key("analyst"),
            "client_info": {"name": "dashboard", "version": "1.0.0", "user_id": "someone-else"},
        }))
        .await;
    let welcome = client.expect("auth_success").await;
    assert!(
        welcome["session_id"]
            .as_str()
            .unwrap()
            .starts_with("ws-session-")
    );
    for permission in ["read_threats", "chat_agents", "execute_actions"] {
        assert!(
            welcome["permissions"]
                .as_array()
                .unwrap()
                .contains(&json!(permission)),
            "{welcome}"
        );
    }
    assert_eq!(
        welcome["rate_limits"],
        json!({"messages_per_minute": 60, "agent_chats_per_hour": 100})
    );

    let confirmed = client
        .subscribe(json!({
            "channel": "threat_alerts",
            "filters": {"severity": ["CRITICAL", "high"], "threat_types": ["port_scanning"], "resources": ["i-1", "i-2"]},
        }))
        .await;
    assert_eq!(confirmed["channel"], "threat_alerts");
    assert_eq!(confirmed.get("recovered"), None);
    let data = json!({
        "incident_id": "threat-1", "threat_type": "port_scanning", "severity": "HIGH", "confidence": 95,
        "source_ip": "192.168.1.100", "affected_resources": ["i-9", "i-2"], "ai_summary": "a scan",
        "recommended_actions": ["isolate_source"], "auto_response_available": true,
    });
    let changed = |field: &str, value: Value| {
        let mut other = data.clone();
        other[field] = value;
        other
    };
    send(
        &bus,
        "threat_alert",
        "low",
        &changed("severity", json!("LOW")),
    )
    .await;
    send(
        &bus,
        "threat_alert",
        "mining",
        &changed("threat_type", json!("crypto_mining")),
    )
    .await;
    send(
        &bus,
        "threat_alert",
        "elsewhere",
        &changed("affected_resources", json!(["i-9"])),
    )
    .await;
    send(
        &bus,
        "action_update",
        "action",
        &json!({"action_id": "a", "action_type": "t", "status": "S"}),
    )
    .await;
    send(&bus, "threat_alert", "wanted", &data).await;
    let frame = client.expect("threat_alert").await;
    assert_eq!(frame["id"], "wanted");
    assert_eq!(frame["channel"], "threat_alerts");
    assert_eq!(frame["data"], data);
    let timestamp = frame["timestamp"].as_str().unwrap();
    assert!(
        timestamp.ends_with('Z') && timestamp.len() <= "2024-12-19T21:30:00.000Z".len(),
        "{timestamp}"
    );
    let (epoch, sequence) = frame["seq"].as_str().unwrap().split_once('-').unwrap();
    assert_eq!(confirmed["seq"], format!("{epoch}-0"));
    assert_eq!(sequence, "5");

    let name = confirmed["subscription_id"].clone();
    client
        .send_json(&json!({"type": "unsubscribe", "subscription_id": name}))
        .await;
    assert_eq!(
        client.expect("unsubscription_confirmed").await["subscription_id"],
        name
    );
    send(&bus, "threat_alert", "too-late", &data).await;
    client.send_json(&json!({"type": "ping"})).await;
    client.expect("pong").await;
}

/// T2: an event that several subscriptions match arrives once. T5: metrics
/// select keys. T6: filters on actions.
#[tokio::test]
async fn channels_have_their_own_selections() {
    let platform = Platform::start(1).await;
    let bus = platform.bus(User::Producer).await;
    let mut client = analyst(&platform).await;
    client.subscribe(json!({"channel": "threat_alerts"})).await;
    client
        .subscribe(json!({"channel": "threat_alerts", "filters": {"severity": ["HIGH"]}}))
        .await;
    client
        .subscribe(json!({"channel": "system_metrics", "metrics": ["threat_count", "nope"]}))
        .await;
    client
        .subscribe(
            json!({"channel": "response_actions", "filters": {"approval_status": ["PENDING"]}}),
        )
        .await;
    client.subscribe(json!({"channel": "investigation_progress", "investigation_id": "inv.1 *".replace(' ', "-")})).await;
    client.expect("investigation_state").await;
    send(&bus, "threat_alert", "1", &alert("HIGH")).await;
    send(&bus, "metrics_update", "2", &json!({"queue": 1})).await;
    send(
        &bus,
        "metrics_update",
        "3",
        &json!({"threat_count": {"active": 12}, "queue": 1}),
    )
    .await;
    send(
        &bus,
        "action_update",
        "4",
        &json!({"action_id": "a", "action_type": "t", "status": "EXECUTING"}),
    )
    .await;
    send(
        &bus,
        "action_update",
        "5",
        &json!({"action_id": "a", "action_type": "t", "status": "PENDING"}),
    )
    .await;
    let progress = |id: &str| json!({"investigation_id": id, "progress": 45, "status": "X"});
    send(&bus, "investigation_update", "6", &progress("inv.2")).await;
    send(&bus, "investigation_update", "7", &progress("inv.1-*")).await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        let frame = client.next_json(DEADLINE).await;
        if frame["type"] == "metrics_update" {
            assert_eq!(frame["data"], json!({"threat_count": {"active": 12}}));
        }
        if frame["type"] == "investigation_update" {
            assert_eq!(frame["investigation_id"], "inv.1-*");
            assert_eq!(frame["data"], json!({"progress": 45, "status": "X"}));
        }
        seen.push(frame["id"].as_str().unwrap().to_owned());
    }
    // Events of different subjects may overtake one another.
    seen.sort();
    assert_eq!(seen, ["1", "3", "5", "7"]);
    client.send_json(&json!({"type": "ping"})).await;
    client.expect("pong").await;
}

/// T1: credentials at the upgrade; API keys never in URLs.
#[tokio::test]
async fn a_credential_may_come_with_the_upgrade() {
    let platform = Platform::start(1).await;
    let url = platform.gateways[0].threat_url();
    let (key, token) = (platform.api_key("viewer"), platform.token("viewer").await);
    for (url, headers) in [
        (format!("{url}?token={token}"), vec![]),
        (
            url.clone(),
            vec![("Authorization", format!("Bearer {token}"))],
        ),
        (url.clone(), vec![("X-API-Key", key.clone())]),
    ] {
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let mut client = WsClient::connect(&url, &headers).await;
        let welcome = client.expect("auth_success").await;
        assert!(
            !welcome["permissions"]
                .as_array()
                .unwrap()
                .contains(&json!("execute_actions"))
        );
    }
    let mut refused = WsClient::connect(&format!("{url}?token={key}"), &[]).await;
    assert_eq!(refused.expect("error").await["code"], "AUTH_FAILED");
    assert_eq!(refused.expect_close(DEADLINE).await.code, Some(1008));
    let logs = platform.gateways[0].process.stderr().lines().join("\n");
    assert!(
        !logs.contains(&token) && !logs.contains(&key),
        "a credential is in the logs"
    );
}

/// T1: a bad credential is AUTH_FAILED and close 1008.
#[tokio::test]
async fn bad_credentials_are_refused() {
    let platform = Platform::start(1).await;
    let token = platform.token("analyst").await;
    let mut tampered = token.clone();
    tampered.replace_range(token.len() - 6..token.len() - 4, "zz");
    let key = platform.api_key("analyst");
    let wrong_secret = format!("{}{}", &key[..key.len() - 4], "0000");
    for bad in [
        "nonsense",
        tampered.as_str(),
        wrong_secret.as_str(),
        "a.b.c",
    ] {
        let mut client = WsClient::connect(&platform.gateways[0].threat_url(), &[]).await;
        client
            .send_json(&json!({"type": "authenticate", "token": bad}))
            .await;
        assert_eq!(client.expect("error").await["code"], "AUTH_FAILED", "{bad}");
        assert_eq!(
            client.expect_close(DEADLINE).await.code,
            Some(1008),
            "{bad}"
        );
    }
    let mut agent = WsClient::connect(&platform.gateways[0].threat_url(), &[]).await;
    agent
        .send_json(&json!({"type": "authenticate", "token": platform.api_key("agent")}))
        .await;
    assert_eq!(agent.expect("error").await["code"], "AUTH_FAILED");
    assert_eq!(agent.expect_close(DEADLINE).await.code, Some(1008));
}

/// G6: nothing before authentication, and not forever.
#[tokio::test]
async fn strangers_get_nothing_and_have_to_leave() {
    let platform = Platform::start_with(1, &["--authentication-timeout", "0.5"]).await;
    let bus = platform.bus(User::Producer).await;
    let mut client = WsClient::connect(&platform.gateways[0].threat_url(), &[]).await;
    client
        .send_json(&json!({"type": "subscribe", "channel": "threat_alerts"}))
        .await;
    assert_eq!(client.expect("error").await["code"], "FORBIDDEN");
    send(&bus, "threat_alert", "1", &alert("HIGH")).await;
    assert_eq!(client.expect("error").await["code"], "AUTH_FAILED");
    assert_eq!(client.expect_close(DEADLINE).await.code, Some(1008));
}

/// T7: the event channels need `read_threats`.
#[tokio::test]
async fn channels_need_a_permission() {
    let platform = Platform::start(1).await;
    let mut client = WsClient::connect(&platform.gateways[0].threat_url(), &[]).await;
    client.authenticate(&platform.api_key("producer")).await;
    client
        .send_json(&json!({"type": "subscribe", "channel": "threat_alerts"}))
        .await;
    let error = client.expect("error").await;
    assert_eq!(error["code"], "FORBIDDEN");
    assert!(
        error["message"].as_str().unwrap().contains("read_threats"),
        "{error}"
    );
}

/// G6: a token that expires ends its connection, unless a fresh one came.
#[tokio::test]
async fn a_connection_ends_with_its_token() {
    let platform = Platform::start(1).await;
    let request =
        |ttl: u32| json!({"api_key": platform.api_key("analyst"), "ttl": ttl}).to_string();
    let listener = platform.gateways[0].listener();
    let token = async |ttl| {
        let (status, body) = post(listener, "/api/v1/auth/token", &request(ttl)).await;
        assert_eq!(status, 200, "{body}");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (&body["token_type"], &body["expires_in"]),
            (&json!("Bearer"), &json!(ttl))
        );
        body["access_token"].as_str().unwrap().to_owned()
    };
    let mut ends = WsClient::connect(&platform.gateways[0].threat_url(), &[]).await;
    let mut stays = WsClient::connect(&platform.gateways[0].threat_url(), &[]).await;
    let short = token(2).await;
    ends.authenticate(&short).await;
    stays.authenticate(&short).await;
    assert_eq!(stays.expect("error").await["code"], "TOKEN_EXPIRING");
    stays.authenticate(&token(600).await).await;
    assert_eq!(ends.expect("error").await["code"], "TOKEN_EXPIRING");
    assert_eq!(ends.expect("error").await["code"], "TOKEN_EXPIRED");
    assert_eq!(ends.expect_close(DEADLINE).await.code, Some(1008));
    stays.send_json(&json!({"type": "ping"})).await;
    stays.expect("pong").await;
    // Another user's credential does not take the connection over.
    stays
        .send_json(&json!({"type": "authenticate", "token": platform.api_key("viewer")}))
        .await;
    assert_eq!(stays.expect("error").await["code"], "AUTH_FAILED");
    assert_eq!(stays.expect_close(DEADLINE).await.code, Some(1008));
}

/// G3: every complaint has its code and names the field; ten in a row close.
#[tokio::test]
async fn bad_messages_are_answered() {
    let platform = Platform::start(1).await;
    let mut client = analyst(&platform).await;
    for (text, code, field) in [
        ("{", "INVALID_JSON", Value::Null),
        ("[]", "INVALID_MESSAGE", Value::Null),
        (r#"{"type":5}"#, "INVALID_MESSAGE", json!("type")),
        (r#"{"type":"nope"}"#, "UNKNOWN_TYPE", json!("type")),
        (
            r#"{"type":"subscribe","channel":"nope"}"#,
            "UNKNOWN_CHANNEL",
            json!("channel"),
        ),
        (
            r#"{"type":"subscribe","channel":"threat_alerts","filters":{"nope":["x"]}}"#,
            "UNKNOWN_FILTER",
            json!("filters.nope"),
        ),
        (
            r#"{"type":"subscribe","channel":"threat_alerts","since":"x"}"#,
            "INVALID_MESSAGE",
            json!("since"),
        ),
        (
            r#"{"type":"unsubscribe","subscription_id":"sub-9"}"#,
            "NOT_FOUND",
            json!("subscription_id"),
        ),
    ] {
        let (found, its_field, message) = complaint(&mut client, text).await;
        assert_eq!(
            (found.as_str(), its_field),
            (code, field),
            "{text}: {message}"
        );
    }
    client.send_json(&json!({"type": "ping"})).await;
    client.expect("pong").await;
    for _ in 0..10 {
        complaint(&mut client, "{").await;
    }
    assert_eq!(client.expect_close(DEADLINE).await.code, Some(1008));
}

/// G3: closes that the protocol itself asks for; the process lives on.
#[tokio::test]
async fn violations_are_closed_with_their_code() {
    let platform = Platform::start(1).await;
    let depth = format!("{{\"type\":\"ping\",\"a\":{}", "[".repeat(10_000));
    let mut client = analyst(&platform).await;
    assert_eq!(complaint(&mut client, &depth).await.0, "INVALID_JSON");
    let long = "x".repeat(1_048_577);
    for (message, code) in [
        (Message::binary(vec![1, 2, 3]), 1003),
        (Message::text(long), 1009),
        (Message::Frame(raw_text(b"\xff\xfe")), 1007),
    ] {
        let mut client = analyst(&platform).await;
        client.send(message).await;
        assert_eq!(client.expect_close(DEADLINE).await.code, Some(code));
    }
    let mut client = analyst(&platform).await;
    client
        .send(Message::Close(Some(
            tokio_tungstenite::tungstenite::protocol::CloseFrame {
                code: CloseCode::Normal,
                reason: "done".into(),
            },
        )))
        .await;
    assert_eq!(client.expect_close(DEADLINE).await.code, Some(1000));
    analyst(&platform).await.close().await;
}

fn raw_text(payload: &'static [u8]) -> tokio_tungstenite::tungstenite::protocol::frame::Frame {
    use tokio_tungstenite::tungstenite::protocol::frame::Frame;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
    Frame::message(payload, OpCode::Data(Data::Text), true)
}

/// T15: pings are answered; who is silent and answers none is closed.
#[tokio::test]
async fn silence_ends_a_connection() {
    let platform = Platform::start_with(1, &["--silence", "1"]).await;
    let mut client = analyst(&platform).await;
    client.send(Message::Ping(b"hello".as_ref().into())).await;
    loop {
        match client.next_message(DEADLINE).await.unwrap() {
            Message::Pong(payload) => {
                assert_eq!(&payload[..], b"hello");
                break;
            }
            Message::Ping(_) => {}
            other => panic!("{other:?}"),
        }
    }
    // A client that reads answers the server's pings by itself and stays.
    let mut pings = 0;
    while pings < 4 {
        pings += usize::from(matches!(
            client.next_message(DEADLINE).await,
            Some(Message::Ping(_))
        ));
    }
    // One that does not read falls silent; the server hangs up on it.
    let silent = analyst(&platform).await;
    let log = platform.gateways[0]
        .process
        .stderr()
        .wait_for_line("by=Timeout", DEADLINE)
        .await;
    assert!(log.contains("disconnected"), "{log}");
    drop(silent);
}

/// G11: an offer of compression is ignored.
#[tokio::test]
async fn compression_is_declined() {
    let platform = Platform::start(1).await;
    let offer = [(
        "Sec-WebSocket-Extensions",
        "permessage-deflate; client_max_window_bits",
    )];
    let mut client = WsClient::connect(&platform.gateways[0].threat_url(), &offer).await;
    client.authenticate(&platform.api_key("analyst")).await;
}

/// A gateway that stops tells its clients first (T1, G3: 1001).
#[tokio::test]
async fn a_stopping_gateway_says_so() {
    let platform = Platform::start(1).await;
    let mut client = analyst(&platform).await;
    platform.gateways[0].process.sigterm();
    let farewell = client.expect("error").await;
    assert_eq!(farewell["code"], "CONNECTION_FAILED");
    assert!(farewell["retry_after"].as_u64().unwrap() > 0);
    assert_eq!(client.expect_close(DEADLINE).await.code, Some(1001));
    assert!(platform.gateways[0].process.wait(DEADLINE).await.success());
}

/// With the auth service away, tokens still work and unknown keys are told to
/// come back.
#[tokio::test]
async fn tokens_work_without_the_auth_service() {
    let platform = Platform::start(1).await;
    let token = platform.token("analyst").await;
    platform.auth.process.kill9();
    let mut client = WsClient::connect(&platform.gateways[0].threat_url(), &[]).await;
    client.authenticate(&token).await;
    let mut client = WsClient::connect(&platform.gateways[0].threat_url(), &[]).await;
    client
        .send_json(&json!({"type": "authenticate", "token": platform.api_key("viewer")}))
        .await;
    let error = client.expect("error").await;
    assert_eq!(error["code"], "CONNECTION_FAILED");
    assert_eq!(
        client.expect_close(Duration::from_secs(30)).await.code,
        Some(1013)
    );
    let body = json!({"api_key": platform.api_key("viewer")}).to_string();
    assert_eq!(
        post(platform.gateways[0].listener(), "/api/v1/auth/token", &body)
            .await
            .0,
        503
    );
}

/// G4: an event's id is its own, else that of its message, else its position.
#[tokio::test]
async fn an_event_without_an_id_gets_one() {
    let platform = Platform::start(1).await;
    let mut client = analyst(&platform).await;
    client.subscribe(json!({"channel": "threat_alerts"})).await;
    let producer = platform.nats.connect(User::Producer).await;
    let subject = "events.threat.threat_alert";
    for message_id in [Some("m-1"), None] {
        let mut headers = async_nats::HeaderMap::new();
        if let Some(message_id) = message_id {
            headers.insert("Nats-Msg-Id", message_id);
        }
        let payload = alert("HIGH").to_string().into();
        producer
            .request_with_headers(subject, headers, payload)
            .await
            .unwrap();
    }
    assert_eq!(client.expect("threat_alert").await["id"], "m-1");
    let id = client.expect("threat_alert").await["id"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(id.starts_with("seq/") && id.ends_with("-2"), "{id}");
}
