//! The clients for tests, tried on a stand-in server: they show what came and
//! how it ended, and fail where something else came than was expected.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use signalbox_testkit::{Closed, DEADLINE, NodeClient, WsClient};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_tungstenite::{
    accept_async,
    tungstenite::{Message, protocol::CloseFrame},
};

/// A listener on a free port, and the URL that leads there.
async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("ws://{}/v1/ws", listener.local_addr().unwrap());
    (listener, url)
}

/// Accepts one client, answers every frame by `answer`, and closes with 1013
/// once there is none.
async fn serve(listener: TcpListener, answer: fn(&Value) -> Vec<Value>) {
    let (stream, _) = listener.accept().await.unwrap();
    let mut socket = accept_async(stream).await.unwrap();
    socket.send(Message::Ping("alive".into())).await.unwrap();
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(text) = message else {
            continue;
        };
        let answers = answer(&serde_json::from_str(&text).unwrap());
        if answers.is_empty() {
            let frame = CloseFrame {
                code: 1013.into(),
                reason: "too slow".into(),
            };
            socket.close(Some(frame)).await.unwrap();
        }
        for frame in answers {
            socket.send(Message::text(frame.to_string())).await.unwrap();
        }
    }
}

fn echo(frame: &Value) -> Vec<Value> {
    if frame["type"] == "leave" {
        return Vec::new();
    }
    vec![frame.clone()]
}

#[tokio::test]
async fn frames_and_close_are_shown_as_they_came() {
    let (listener, url) = listener().await;
    let server = tokio::spawn(serve(listener, echo));
    let mut client = WsClient::connect(&url, &[("origin", "http://localhost")]).await;
    client.send_json(&json!({ "type": "ping", "n": 1 })).await;
    assert_eq!(client.expect("ping").await["n"], 1);
    client.send_json(&json!({ "type": "ping", "n": 2 })).await;
    client.send_json(&json!({ "type": "leave" })).await;
    let (frames, closed) = client.drain(DEADLINE).await;
    assert_eq!(frames, [json!({ "type": "ping", "n": 2 })]);
    let expected = Closed {
        code: Some(1013),
        reason: "too slow".to_owned(),
    };
    assert_eq!(closed, expected);
    server.await.unwrap();
}

#[tokio::test]
#[should_panic(expected = "\"type\":\"other\"")]
async fn frame_of_another_type_is_not_skipped() {
    let (listener, url) = listener().await;
    let _server = tokio::spawn(serve(listener, echo));
    let mut client = WsClient::connect(&url, &[]).await;
    client.send_json(&json!({ "type": "other" })).await;
    client.send_json(&json!({ "type": "wanted" })).await;
    client.expect("wanted").await;
}

#[tokio::test]
#[should_panic(expected = "no frame within 1ms")]
async fn frame_that_does_not_come_fails_at_the_deadline() {
    let (listener, url) = listener().await;
    let _server = tokio::spawn(serve(listener, echo));
    let mut client = WsClient::connect(&url, &[]).await;
    client.next_json(Duration::from_millis(1)).await;
}

#[tokio::test]
async fn end_without_a_close_frame_has_no_code() {
    let (listener, url) = listener().await;
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        drop(accept_async(stream).await.unwrap());
    });
    let mut client = WsClient::connect(&url, &[]).await;
    server.await.unwrap();
    assert_eq!(client.expect_close(DEADLINE).await.code, None);
}

#[tokio::test]
async fn refused_upgrade_tells_status_and_body() {
    let (listener, url) = listener().await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let answer = "HTTP/1.1 403 Forbidden\r\ncontent-length: 6\r\n\r\norigin";
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(head).unwrap()
    });
    let refused = WsClient::try_connect(&url, &[("Origin", "http://elsewhere")])
        .await
        .unwrap_err();
    assert_eq!((refused.status, refused.body.as_str()), (403, "origin"));
    assert!(
        server
            .await
            .unwrap()
            .to_lowercase()
            .contains("origin: http://elsewhere")
    );
}

/// What a gateway says to the dashboards in `crates/e2e/clients`.
fn gateway(frame: &Value) -> Vec<Value> {
    match frame["type"].as_str() {
        Some("authenticate") => vec![json!({ "type": "auth_success", "token_was": frame["token"] })],
        Some("subscribe") => [1, 2]
            .map(|n| json!({ "type": "threat_alert", "channel": frame["channel"], "data": { "incident_id": n } }))
            .to_vec(),
        _ => Vec::new(),
    }
}

#[tokio::test]
async fn plain_dashboard_prints_what_it_receives() {
    let (listener, url) = listener().await;
    let server = tokio::spawn(serve(listener, gateway));
    let arguments = json!({ "url": url, "token": "t", "exit_after": { "threat_alert": 2 } });
    let client = NodeClient::start("threat-plain.mjs", &arguments);
    client.expect_event("open").await;
    assert_eq!(client.expect_frame("auth_success").await["token_was"], "t");
    assert_eq!(
        client.expect_frame("threat_alert").await["channel"],
        "threat_alerts"
    );
    assert_eq!(
        client.expect_frame("threat_alert").await["data"]["incident_id"],
        2
    );
    assert_eq!(client.expect_event("close").await["code"], 1000);
    assert!(client.wait(DEADLINE).await.success());
    server.await.unwrap();
}

#[tokio::test]
async fn react_dashboard_shows_the_newest_threat_first() {
    let (listener, url) = listener().await;
    let server = tokio::spawn(serve(listener, gateway));
    let arguments = json!({ "url": url, "token": "t", "exit_after": { "threat_alert": 2 } });
    let client = NodeClient::start("threat-react.mjs", &arguments);
    let mut states = Vec::new();
    loop {
        let value = client.next(DEADLINE).await;
        if value["event"] == "close" {
            break;
        }
        states.push(value["state"].clone());
    }
    assert_eq!(states.first().unwrap()["connected"], false);
    let threats = &states.last().unwrap()["threats"];
    assert_eq!(
        threats,
        &json!([{ "incident_id": 2 }, { "incident_id": 1 }])
    );
    assert!(client.wait(DEADLINE).await.success());
    server.await.unwrap();
}
