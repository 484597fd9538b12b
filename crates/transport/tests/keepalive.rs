//! Silent peers: asked once, ended after the limit; any sign of life keeps the connection.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::{Duration, Instant};

use common::{CLOSE, PING, PONG, TEXT, connect, connect_buffered, session, soon, summary};
use signalbox_transport::{ClosedBy, Frame, OutboundLimits, WebSocketOptions};
use tokio::{io::AsyncReadExt, task::yield_now};

const SILENCE: Duration = Duration::from_millis(400);

fn impatient() -> WebSocketOptions {
    WebSocketOptions {
        silence: SILENCE,
        ..WebSocketOptions::default()
    }
}

#[tokio::test(flavor = "local")]
async fn silent_peer_is_pinged_then_ended() {
    let start = Instant::now();
    let (socket, mut client) = connect(&impatient()).await;
    let (_, session) = session(socket);
    assert_eq!(client.receive().await, Some((PING, Vec::new())));
    assert!(start.elapsed() >= SILENCE / 2);
    assert_eq!(
        client.receive().await.map(|frame| frame.0),
        Some(CLOSE),
        "one ping, then the end"
    );
    assert!(start.elapsed() >= SILENCE);
    assert_eq!(client.receive().await, None);
    let closure = soon(session).await.unwrap().1;
    assert_eq!(summary(&closure), (ClosedBy::Timeout, Some(1001), false));
}

#[tokio::test(flavor = "local")]
async fn pong_or_any_frame_keeps_the_connection() {
    for answer in [PONG, TEXT] {
        let (socket, mut client) = connect(&impatient()).await;
        let (outbound, session) = session(socket);
        let start = Instant::now();
        while start.elapsed() < 3 * SILENCE {
            assert_eq!(client.receive().await, Some((PING, Vec::new())));
            client.send(answer, b"").await;
        }
        assert!(!outbound.is_closed() && !session.is_finished());
    }
}

#[tokio::test(flavor = "local")]
async fn silent_peer_that_takes_nothing_is_reset() {
    let options = WebSocketOptions {
        send_buffer_bytes: 1,
        outbound: OutboundLimits {
            queue_bytes: 1 << 30,
            queue_frames: 1 << 20,
            ..OutboundLimits::default()
        },
        ..impatient()
    };
    let (mut socket, mut client) = connect_buffered(&options, Some(1)).await;
    let outbound = socket.outbound();
    while outbound.queued_bytes() == 0 {
        let _ = outbound.send_frame(&Frame::text(&"x".repeat(10_000)));
        yield_now().await;
    }
    let closure = soon(socket.closed()).await;
    assert_eq!(summary(&closure), (ClosedBy::Timeout, None, false));
    let end = soon(client.0.read_to_end(&mut Vec::new())).await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test(flavor = "local")]
async fn slow_reader_that_takes_its_queue_is_not_silent() {
    let options = WebSocketOptions {
        send_buffer_bytes: 1,
        outbound: OutboundLimits {
            queue_bytes: 1 << 30,
            queue_frames: 1 << 20,
            ..OutboundLimits::default()
        },
        ..impatient()
    };
    let (socket, mut client) = connect_buffered(&options, Some(1)).await;
    let (outbound, session) = session(socket);
    let event = Frame::text(&"x".repeat(10_000));
    for _ in 0..400 {
        let _ = outbound.send_frame(&event);
    }
    // It reads steadily and says nothing, for longer than the silence allowed.
    let start = Instant::now();
    let mut ticks = tokio::time::interval(SILENCE / 80);
    while start.elapsed() < 3 * SILENCE && outbound.queued_bytes() > 0 {
        ticks.tick().await;
        client.receive().await;
    }
    assert!(
        start.elapsed() >= 3 * SILENCE,
        "the queue lasted long enough to tell"
    );
    assert!(!outbound.is_closed() && !session.is_finished());
}
