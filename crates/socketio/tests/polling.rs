//! Long-polling: the handshake, polls and bodies, their limits, and every way to end a session.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{TestServer, polling, quick, sid_of, until};
use serde_json::Value;
use signalbox_socketio::{DisconnectReason, EndReason, Packet};
use tokio::io::AsyncWriteExt;

/// The code of an error in the words of the protocol's own server.
fn code(body: &str) -> Value {
    serde_json::from_str::<Value>(body).unwrap()["code"].clone()
}

#[tokio::test(flavor = "local")]
async fn requests_that_open_nothing_are_refused_with_the_protocols_codes() {
    let server = TestServer::start().await;
    for (query, expected) in [
        ("transport=polling", 5),
        ("EIO=3&transport=polling", 5),
        ("EIO=4", 0),
        ("EIO=4&transport=webtransport", 0),
        ("EIO=4&transport=polling&sid=guessed", 1),
        ("EIO=4&transport=polling&sid=", 1),
    ] {
        let (status, body) = server.get(query).await;
        assert_eq!((status, code(&body)), (400, expected.into()), "{query}");
    }
    let (status, body) = server.post("guessed", "4").await;
    assert_eq!((status, code(&body)), (400, 1.into()));
    let (status, body) = server.get("EIO=4&transport=polling&token=bad").await;
    assert_eq!((status, code(&body)), (403, 4.into()));
    for query in [
        "EIO=4&transport=websocket&sid=guessed",
        "transport=websocket",
    ] {
        assert_eq!(server.upgrade(query).await.err(), Some(400), "{query}");
    }
    assert_eq!(server.engine.session_count(), 0);
}

#[tokio::test(flavor = "local")]
async fn the_open_packet_has_the_settings_and_nothing_else() {
    let server = TestServer::start().await;
    let (_, body) = server.get("EIO=4&transport=polling").await;
    let open: Value = serde_json::from_str(&body[1..]).unwrap();
    assert_eq!(open["upgrades"], serde_json::json!(["websocket"]));
    assert_eq!(open["pingInterval"], 25_000);
    assert_eq!(open["pingTimeout"], 20_000);
    assert_eq!(open["maxPayload"], 1_048_576);
    assert_eq!(open.as_object().unwrap().len(), 5);
    assert_ne!(sid_of(&body), server.open().await);
}

#[tokio::test(flavor = "local")]
async fn events_come_in_one_answer_and_in_order() {
    let server = TestServer::start().await;
    let sid = server.join("/").await;
    let body = "42[\"echo\",1]\u{1e}421[\"echo\",\"a\"]\u{1e}451-[\"echo\",{\"_placeholder\":true,\"num\":0}]\u{1e}bAQI=";
    assert_eq!(server.post(&sid, body).await, (200, "ok".to_owned()));
    let answer = "42[\"back\",1]\u{1e}431[\"a\"]\u{1e}451-[\"back\",{\"_placeholder\":true,\"num\":0}]\u{1e}bAQI=";
    assert_eq!(server.poll(&sid).await, (200, answer.to_owned()));
}

#[tokio::test(flavor = "local")]
async fn a_poll_that_waits_is_answered_by_the_first_event() {
    let server = TestServer::start().await;
    let sid = server.join("/").await;
    let mut waiting = server.http().await;
    waiting.begin_get(&polling(&sid)).await;
    // Its answer proves that the poll has come before.
    assert_eq!(server.post(&sid, "42[\"nothing\"]").await.0, 200);
    server.desk.broadcast("/", &Packet::event("/", "a").build());
    server.desk.broadcast("/", &Packet::event("/", "b").build());
    let answer = waiting.answer().await;
    assert_eq!(answer, (200, "42[\"a\"]\u{1e}42[\"b\"]".to_owned()));
}

#[tokio::test(flavor = "local")]
async fn malformed_bodies_end_the_session() {
    let server = TestServer::start().await;
    for body in [
        "",
        "abc",
        "0",
        "2",
        "1x",
        "4",
        "4abc",
        "42{}",
        "42[]",
        "4\u{1e}",
        "bAQI=",
        "b!",
        "42abc[\"a\"]",
        "451-[\"a\"]\u{1e}42[\"a\"]",
        "42[\"disconnect\"]",
        "43[]",
        "40",
        "42/other,[\"a\"]",
    ] {
        let sid = server.join("/").await;
        let before = server.desk.left.borrow().len();
        assert_eq!(server.post(&sid, body).await.0, 400, "{body:?}");
        assert_eq!(server.poll(&sid).await.0, 400, "{body:?}");
        let left = server.desk.left.borrow()[before..].to_vec();
        let reason = DisconnectReason::Ended(EndReason::Malformed);
        assert_eq!(left, [("/".into(), reason)], "{body:?}");
    }
    let sid = server.open().await;
    assert_eq!(server.post(&sid, b"4\xff").await.0, 400);
    let sid = server.open().await;
    assert_eq!(
        server.post(&sid, "42[\"a\"]").await.0,
        400,
        "ahead of a CONNECT"
    );
    assert_eq!(server.engine.session_count(), 0);
}

#[tokio::test(flavor = "local")]
async fn bodies_over_the_limits_end_the_session() {
    let (mut engine, layer) = quick();
    engine.max_payload = 1000;
    engine.max_packets = 3;
    let server = TestServer::with(engine, layer).await;
    let sid = server.join("/").await;
    let packets = ["42[\"a\"]"; 3].join("\u{1e}");
    assert_eq!(
        server.post(&sid, packets).await.0,
        200,
        "as many as are allowed"
    );
    let packets = ["42[\"a\"]"; 4].join("\u{1e}");
    assert_eq!(server.post(&sid, packets).await.0, 400);
    assert_eq!(server.poll(&sid).await.0, 400);

    let sid = server.join("/").await;
    assert_eq!(server.post(&sid, vec![b'4'; 1001]).await.0, 413);
    assert_eq!(server.poll(&sid).await.0, 400);
    let sid = server.join("/").await;
    let mut chunked = server.http().await;
    let head = format!(
        "POST /socket.io/?{} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n",
        polling(&sid)
    );
    chunked.0.write_all(head.as_bytes()).await.unwrap();
    chunked.0.write_all(&[b'4'; 1001]).await.unwrap();
    assert_eq!(chunked.answer().await.0, 413);
    assert_eq!(server.poll(&sid).await.0, 400);
    let reasons: Vec<_> = server
        .desk
        .left
        .borrow()
        .iter()
        .map(|left| left.1)
        .collect();
    let ended = DisconnectReason::Ended;
    assert_eq!(
        reasons,
        [
            ended(EndReason::Malformed),
            ended(EndReason::TooLarge),
            ended(EndReason::TooLarge)
        ]
    );
}

#[tokio::test(flavor = "local")]
async fn a_body_that_does_not_come_ends_the_session() {
    let server = TestServer::start().await;
    let sid = server.join("/").await;
    let mut slow = server.http().await;
    slow.begin_post(&sid, 10).await;
    slow.0.write_all(b"42[").await.unwrap();
    assert_eq!(slow.answer().await.0, 408);
    assert_eq!(server.poll(&sid).await.0, 400);

    let sid = server.join("/").await;
    let mut gone = server.http().await;
    gone.begin_post(&sid, 10).await;
    gone.0.write_all(b"42[").await.unwrap();
    drop(gone);
    until("the session ended", || server.engine.session_count() == 0).await;
}

#[tokio::test(flavor = "local")]
async fn two_bodies_at_once_end_the_session() {
    let server = TestServer::start().await;
    let sid = server.join("/").await;
    let mut first = server.http().await;
    first.begin_post(&sid, 10).await;
    first.0.write_all(b"42[").await.unwrap();
    // The second may overtake the first only until the server has seen that.
    let mut second = 200;
    while second == 200 && server.engine.session_count() > 0 {
        second = server.post(&sid, "42[\"a\"]").await.0;
    }
    assert_eq!(second, 400);
    assert_eq!(server.engine.session_count(), 0);
}

#[tokio::test(flavor = "local")]
async fn two_polls_at_once_end_the_session() {
    let server = TestServer::start().await;
    let sid = server.join("/").await;
    let mut first = server.http().await;
    first.begin_get(&polling(&sid)).await;
    assert_eq!(server.post(&sid, "42[\"nothing\"]").await.0, 200);
    assert_eq!(server.poll(&sid).await.0, 400);
    assert_eq!(first.answer().await, (200, "1".to_owned()));
    assert_eq!(server.poll(&sid).await.0, 400);
}

#[tokio::test(flavor = "local")]
async fn an_aborted_poll_ends_the_session() {
    let server = TestServer::start().await;
    let sid = server.join("/").await;
    let mut poll = server.http().await;
    poll.begin_get(&polling(&sid)).await;
    assert_eq!(server.post(&sid, "42[\"nothing\"]").await.0, 200);
    drop(poll);
    until("the session ended", || server.engine.session_count() == 0).await;
    let reason = DisconnectReason::Ended(EndReason::TransportError);
    assert_eq!(*server.desk.left.borrow(), [("/".into(), reason)]);
}

#[tokio::test(flavor = "local")]
async fn a_client_that_closes_ends_its_poll_with_nothing() {
    let server = TestServer::start().await;
    for poll_first in [true, false] {
        let sid = server.join("/").await;
        let mut poll = server.http().await;
        if poll_first {
            poll.begin_get(&polling(&sid)).await;
            assert_eq!(server.post(&sid, "42[\"nothing\"]").await.0, 200);
        }
        assert_eq!(server.post(&sid, "1").await, (200, "ok".to_owned()));
        if !poll_first {
            poll.begin_get(&polling(&sid)).await;
        }
        assert_eq!(poll.answer().await, (200, "6".to_owned()));
        assert_eq!(server.poll(&sid).await.0, 400);
        let left = server.desk.left.borrow_mut().pop().unwrap();
        assert_eq!(left.1, DisconnectReason::Ended(EndReason::ClientClosed));
    }
    assert_eq!(server.engine.session_count(), 0);
}

#[tokio::test(flavor = "local")]
async fn a_client_that_is_sent_away_gets_what_was_sent_before() {
    let server = TestServer::start().await;
    let sid = server.join("/").await;
    let socket = server.desk.members.borrow()[0].clone();
    let _sent = socket.emit(&Packet::event("/", "last").build());
    socket.close();
    until("the handler knows", || {
        !server.desk.left.borrow().is_empty()
    })
    .await;
    assert_eq!(server.post(&sid, "42[\"a\"]").await.0, 400);
    // The close has a response of its own, or the stock client would keep the
    // event for its next connection.
    assert_eq!(server.poll(&sid).await, (200, "42[\"last\"]".to_owned()));
    assert_eq!(server.poll(&sid).await, (200, "1".to_owned()));
    assert_eq!(server.poll(&sid).await.0, 400);

    server.join("/").await;
    server.desk.members.borrow()[0].close();
    until("nobody has fetched the last answer in time", || {
        server.engine.session_count() == 0
    })
    .await;
}

#[tokio::test(flavor = "local")]
async fn pings_come_by_poll_and_must_be_answered() {
    let (mut engine, layer) = quick();
    engine.ping_interval = Duration::from_millis(60);
    engine.ping_timeout = Duration::from_millis(600);
    let server = TestServer::with(engine, layer).await;
    let sid = server.join("/").await;
    for _ in 0..3 {
        assert_eq!(server.poll(&sid).await, (200, "2".to_owned()));
        assert_eq!(server.post(&sid, "3").await.0, 200);
    }
    assert_eq!(server.poll(&sid).await, (200, "2".to_owned()));
    assert_eq!(server.poll(&sid).await, (200, "1".to_owned()));
    let left = server.desk.left.borrow()[0].1;
    assert_eq!(left, DisconnectReason::Ended(EndReason::PingTimeout));
    assert_eq!(server.engine.session_count(), 0);
}

#[tokio::test(flavor = "local")]
async fn a_session_without_a_namespace_is_closed() {
    let (engine, mut layer) = quick();
    layer.connect_timeout = Duration::from_millis(100);
    let server = TestServer::with(engine, layer).await;
    let sid = server.open().await;
    until("the session ended", || server.engine.session_count() == 0).await;
    assert_eq!(server.poll(&sid).await.0, 400);

    let mut left = server.joined("/").await;
    left.send("41").await;
    assert_eq!(left.close_code().await, 1008);
    let mut refused = server.websocket().await;
    refused.send("40/private,").await;
    assert_eq!(
        refused.text().await,
        "44/private,{\"message\":\"not for you\",\"data\":{\"code\":7}}"
    );
    assert_eq!(refused.close_code().await, 1008);
}

#[tokio::test(flavor = "local")]
async fn strangers_of_one_address_and_sessions_are_bounded() {
    let (mut engine, layer) = quick();
    engine.max_unsettled_per_address = 2;
    engine.max_sessions = 4;
    let server = TestServer::with(engine, layer).await;
    let open = "EIO=4&transport=polling";
    let sid = server.open().await;
    server.open().await;
    assert_eq!(server.get(open).await.0, 429);
    assert_eq!(
        server.upgrade("EIO=4&transport=websocket").await.err(),
        Some(429)
    );
    // One that is in counts no more.
    server.post(&sid, "40").await;
    until("it is in", || !server.desk.members.borrow().is_empty()).await;
    let third = server.open().await;
    server.post(&third, "40").await;
    until("it is in", || server.desk.members.borrow().len() == 2).await;
    server.open().await;
    assert_eq!(server.get(open).await.0, 503);
    server.post(&third, "abc").await;
    assert_eq!(server.get(open).await.0, 429, "there is room again");
}

#[tokio::test(flavor = "local")]
async fn draining_refuses_no_namespace() {
    let server = TestServer::start().await;
    let mut early = server.websocket().await;
    let mut inside = server.joined("/").await;
    server.engine.drain();
    assert_eq!(server.get("EIO=4&transport=polling").await.0, 503);
    early.send("40/nowhere,").await;
    assert_eq!(early.close_code().await, 1001);
    inside.send("421[\"echo\",1]").await;
    assert_eq!(inside.text().await, "431[1]", "who is in is served");
    for link in server.engine.links() {
        link.close();
    }
    assert_eq!(inside.close_code().await, 1001);
    drop((early, inside));
    common::soon(server.engine.emptied()).await;
}
