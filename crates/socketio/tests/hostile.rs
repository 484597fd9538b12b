//! Peers that stall, flood, abandon and guess: each is gone within its time with everything that it
//! held, and nobody else notices.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{env, time::Duration};

use common::{TestServer, polling, quick, soon, until};
use signalbox_socketio::{DisconnectReason, EndReason, Packet};
use tokio::{io::AsyncWriteExt, task::yield_now};

/// `SIGNALBOX_TEST_SCALE=10` makes 1,000 clients.
fn scale() -> usize {
    env::var("SIGNALBOX_TEST_SCALE").map_or(1, |scale| scale.parse().unwrap())
}

#[tokio::test(flavor = "local")]
async fn a_reader_that_stalls_over_websocket_is_gone_and_the_others_get_everything() {
    let server = TestServer::start().await;
    let mut healthy = server.joined("/").await;
    let mut stalled = server.narrow("EIO=4&transport=websocket").await;
    assert!(stalled.text().await.starts_with('0'));
    stalled.send("40").await;
    assert!(stalled.text().await.starts_with("40"));
    let text = "x".repeat(10_000);
    let mut sent = 0;
    while server.desk.members.borrow().len() == 2 {
        let packet = Packet::event("/", "n").value(&text.as_str().into()).build();
        server.desk.broadcast("/", &packet);
        sent += 1;
        yield_now().await;
        assert!(healthy.text().await.starts_with("42[\"n\""));
        assert!(sent < 10_000, "it was never too slow");
    }
    let left = server.desk.left.borrow()[0].1;
    assert_eq!(left, DisconnectReason::Ended(EndReason::SlowReader));
    until("it was reset", || stalled.0.take_error().unwrap().is_some()).await;
    server
        .desk
        .broadcast("/", &Packet::event("/", "after").build());
    assert_eq!(healthy.text().await, "42[\"after\"]");
}

/// The kernel may take a whole answer; what is left of it then is the kernel's.
#[tokio::test(flavor = "local")]
async fn a_poll_whose_answer_is_not_taken_is_gone() {
    let (mut engine, layer) = quick();
    engine.ping_interval = Duration::from_millis(300);
    engine.ping_timeout = Duration::from_millis(300);
    // More than the kernel buffers for one connection.
    engine.max_payload = 64 << 20;
    engine.outbound.queue_bytes = 64 << 20;
    let server = TestServer::with(engine, layer).await;
    let sid = server.join("/").await;
    let text = "x".repeat(32 << 20);
    let packet = Packet::event("/", "n").value(&text.as_str().into()).build();
    server.desk.broadcast("/", &packet);
    let mut stalled = server.http().await;
    stalled.begin_get(&polling(&sid)).await;
    until("the session ended", || server.engine.session_count() == 0).await;
    drop(packet);
    until("it was reset", || stalled.0.take_error().unwrap().is_some()).await;
}

#[tokio::test(flavor = "local")]
async fn a_client_that_does_not_poll_is_told_that_it_is_too_slow() {
    let server = TestServer::start().await;
    let sid = server.join("/").await;
    let text = "x".repeat(1000);
    let packet = Packet::event("/", "n").value(&text.as_str().into()).build();
    for _ in 0..1000 {
        server.desk.broadcast("/", &packet);
    }
    assert!(server.desk.left.borrow().is_empty(), "that much is granted");
    for _ in 0..100 {
        server.desk.broadcast("/", &packet);
    }
    assert_eq!(server.poll(&sid).await, (200, "1".to_owned()));
    until("the handler knows", || {
        !server.desk.left.borrow().is_empty()
    })
    .await;
    let left = server.desk.left.borrow()[0].1;
    assert_eq!(left, DisconnectReason::Ended(EndReason::SlowReader));
    assert_eq!(server.engine.session_count(), 0);
}

#[tokio::test(flavor = "local")]
async fn floods_of_bodies_hold_up_nobody() {
    let server = TestServer::start().await;
    let mut healthy = server.joined("/").await;
    let sid = server.join("/").await;
    let body = ["42[\"\"]"; 10_000].join("\u{1e}");
    let mut flood = server.http().await;
    for _ in 0..20 {
        flood.begin_post(&sid, body.len()).await;
        let ((), ()) = tokio::join!(
            async { flood.0.write_all(body.as_bytes()).await.unwrap() },
            async {
                healthy.send("421[\"echo\"]").await;
                assert_eq!(healthy.text().await, "431[]");
            }
        );
        assert_eq!(flood.answer().await.0, 200);
    }
    assert_eq!(server.desk.events.borrow().len(), 20 * 10_001);
}

#[tokio::test(flavor = "local")]
async fn guesses_find_nothing_and_leave_nothing() {
    let server = TestServer::start().await;
    let sid = server.join("/").await;
    for at in 0..sid.len() {
        let mut guess = sid.clone().into_bytes();
        guess[at] = if guess[at] == b'A' { b'B' } else { b'A' };
        let guess = String::from_utf8(guess).unwrap();
        assert_eq!(server.poll(&guess).await.0, 400);
        assert_eq!(server.post(&guess, "1").await.0, 400);
    }
    assert_eq!(server.post(&sid, "421[\"echo\"]").await.0, 200);
    assert_eq!(server.poll(&sid).await, (200, "431[]".to_owned()));
}

#[tokio::test(flavor = "local")]
async fn a_burst_of_broadcasts_reaches_every_healthy_client() {
    const CLIENTS: usize = 100;
    const EVENTS: usize = 500;
    let server = TestServer::start().await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS * scale() {
        clients.push(server.joined("/").await);
    }
    let sid = server.join("/").await;
    for at in 0..EVENTS {
        let text = format!("{at:0>240}");
        let packet = Packet::event("/", "n").value(&text.into()).build();
        server.desk.broadcast("/", &packet);
    }
    for client in &mut clients {
        for at in 0..EVENTS {
            assert_eq!(
                soon(client.text()).await,
                format!("42[\"n\",\"{at:0>240}\"]")
            );
        }
    }
    let (_, polled) = server.poll(&sid).await;
    assert_eq!(polled.split('\u{1e}').count(), EVENTS);
    assert!(server.desk.left.borrow().is_empty());
}
