//! What connection state recovery needs: `pid` in the answer to a CONNECT, offsets behind events,
//! missed events ahead of the answer, and sessions of other shards and gateways.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{TestServer, missed, polling, soon, until};
use http::StatusCode;
use serde_json::Value;
use signalbox_socketio::{Packet, SessionRequest, engine::Verb};

fn answer(text: &str) -> Value {
    serde_json::from_str(
        text.strip_prefix("40/recover,")
            .unwrap_or_else(|| panic!("{text}")),
    )
    .unwrap()
}

#[tokio::test(flavor = "local")]
async fn a_client_that_returns_gets_what_it_missed_ahead_of_the_answer() {
    let server = TestServer::start().await;
    let mut ws = server.websocket().await;
    ws.send("40/recover,").await;
    let first = answer(&ws.text().await);
    let (sid, pid) = (
        first["sid"].as_str().unwrap(),
        first["pid"].as_str().unwrap(),
    );
    for (at, text) in ["a", "b", "c"].into_iter().enumerate() {
        server.desk.history.borrow_mut().push(text.to_owned());
        if at == 0 {
            server.desk.broadcast("/recover", &missed(at, text));
        }
    }
    assert_eq!(ws.text().await, "42/recover,[\"news\",\"a\",\"0\"]");
    drop(ws);
    until("it left", || !server.desk.left.borrow().is_empty()).await;

    let mut ws = server.websocket().await;
    ws.send(&format!(
        "40/recover,{{\"pid\":\"{pid}\",\"offset\":\"0\"}}"
    ))
    .await;
    assert_eq!(ws.text().await, "42/recover,[\"news\",\"b\",\"1\"]");
    assert_eq!(ws.text().await, "42/recover,[\"news\",\"c\",\"2\"]");
    let again = answer(&ws.text().await);
    assert_eq!(
        (again["sid"].as_str(), again["pid"].as_str()),
        (Some(sid), Some(pid))
    );

    let mut stranger = server.websocket().await;
    stranger
        .send("40/recover,{\"pid\":\"guessed\",\"offset\":\"0\"}")
        .await;
    let fresh = answer(&stranger.text().await);
    assert_ne!(fresh["pid"].as_str(), Some(pid));
    assert_ne!(fresh["sid"].as_str(), Some(sid));
}

#[tokio::test(flavor = "local")]
async fn a_string_that_is_no_offset_is_not_taken_for_one() {
    let server = TestServer::start().await;
    let mut recoverable = server.joined("/recover").await;
    let mut plain = server.joined("/").await;
    for (namespace, ws, text) in [
        (
            "/recover",
            &mut recoverable,
            "42/recover,[\"a\",\"text\",null]",
        ),
        ("/", &mut plain, "42[\"a\",\"text\"]"),
    ] {
        let packet = Packet::event(namespace, "a").value(&"text".into()).build();
        server.desk.broadcast(namespace, &packet);
        assert_eq!(ws.text().await, text);
    }
    server.desk.broadcast("/recover", &missed(7, "x"));
    assert_eq!(
        recoverable.text().await,
        "42/recover,[\"news\",\"x\",\"7\"]"
    );
}

/// As a gateway does with requests that another one has forwarded.
#[tokio::test(flavor = "local")]
async fn requests_can_come_as_values() {
    let server = TestServer::start().await;
    let sid = server.join("/").await;
    let request = |sid: &str, verb| SessionRequest {
        sid: sid.to_owned(),
        verb,
    };
    let pushed = server
        .engine
        .request(request(&sid, Verb::Push("42[\"echo\",1]".into())))
        .await;
    assert_eq!(
        (pushed.status, &pushed.body[..]),
        (StatusCode::OK, &b"ok"[..])
    );
    let polled = soon(server.engine.request(request(&sid, Verb::Poll))).await;
    assert_eq!(&polled.body[..], b"42[\"back\",1]");
    let unknown = server.engine.request(request("guessed", Verb::Poll)).await;
    assert_eq!(unknown.status, StatusCode::BAD_REQUEST);
    // Whoever drops a poll ends the session, as a client that gives up does.
    let poll = tokio::time::timeout(
        std::time::Duration::from_millis(20),
        server.engine.request(request(&sid, Verb::Poll)),
    );
    assert!(poll.await.is_err());
    assert_eq!(server.get(&polling(&sid)).await.0, 400);
}
