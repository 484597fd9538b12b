//! Every way in which a connection ends, with the close code, and that nothing follows a Close
//! frame.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::{Duration, Instant};

use common::{CLOSE, PING, TEXT, connect, frame, session, soon, summary};
use signalbox_transport::{
    CloseCode, ClosedBy, Frame, Incoming, OutboundLimits, Sent, WebSocketOptions,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const GRACE: Duration = Duration::from_millis(300);

fn short_grace() -> WebSocketOptions {
    let outbound = OutboundLimits {
        close_grace: GRACE,
        ..OutboundLimits::default()
    };
    WebSocketOptions {
        max_message_bytes: 1000,
        outbound,
        ..WebSocketOptions::default()
    }
}

#[tokio::test(flavor = "local")]
async fn violations_are_closed_with_their_code() {
    let unmasked = vec![0x81, 2, b'h', b'i'];
    let announced = [
        &[0x81, 0x80 | 127][..],
        &(1_u64 << 40).to_be_bytes(),
        &[0; 4],
    ]
    .concat();
    let fragments = [frame(0x01, &[b'x'; 600]), frame(0x80, &[b'x'; 600])].concat();
    let cases: [(&str, Vec<u8>, u16); 14] = [
        ("unmasked", unmasked, 1002),
        ("reserved bit", frame(0xc1, b"hi"), 1002),
        ("unknown data opcode", frame(0x83, b"hi"), 1002),
        ("unknown control opcode", frame(0x8b, b"hi"), 1002),
        ("continuation of nothing", frame(0x80, b"hi"), 1002),
        (
            "new message within a fragmented one",
            [frame(0x01, b"a"), frame(0x81, b"b")].concat(),
            1002,
        ),
        ("fragmented ping", frame(0x09, b"hi"), 1002),
        ("long ping", frame(PING, &[b'x'; 126]), 1002),
        ("close with half a code", frame(CLOSE, &[3]), 1002),
        ("text that is not UTF-8", frame(TEXT, &[0xff, 0xfe]), 1007),
        (
            "text that ends within a character",
            frame(TEXT, &"ß".as_bytes()[..1]),
            1007,
        ),
        (
            "fragment that is not UTF-8",
            [frame(0x01, b"a"), frame(0x80, &[0xc0])].concat(),
            1007,
        ),
        ("length only announced", announced, 1009),
        ("fragments too long together", fragments, 1009),
    ];
    for (name, bytes, code) in cases {
        // The default grace: a peer in the wrong is not kept waiting for it.
        let options = WebSocketOptions {
            outbound: OutboundLimits::default(),
            ..short_grace()
        };
        let (socket, mut client) = connect(&options).await;
        let start = Instant::now();
        let (outbound, session) = session(socket);
        client.raw(&bytes).await;
        assert_eq!(client.close_code().await, code, "{name}");
        assert_eq!(outbound.send_frame(&Frame::text("late")), Sent::Closed);
        assert_eq!(client.receive().await, None, "{name}: nothing more comes");
        assert!(start.elapsed() < options.outbound.close_grace);
        // Perhaps an answer, perhaps still the payload of the message refused.
        client.close(1000, "").await;
        assert!(!session.is_finished());
        drop(client);
        let (messages, closure) = soon(session).await.unwrap();
        assert_eq!(messages, [], "{name}");
        assert_eq!(
            summary(&closure),
            (ClosedBy::Us, Some(code), false),
            "{name}"
        );
        assert!(!closure.reason.is_empty());
    }
}

#[tokio::test(flavor = "local")]
async fn length_one_over_the_limit_is_refused_and_the_limit_is_not() {
    let (mut socket, mut client) = connect(&short_grace()).await;
    client.send(TEXT, &[b'x'; 1000]).await;
    client.send(TEXT, &[b'x'; 1001]).await;
    let Incoming::Text(text) = soon(socket.next()).await else {
        panic!("text")
    };
    assert_eq!(text.len(), 1000);
    let (_outbound, _session) = session(socket);
    assert_eq!(client.close_code().await, 1009);
}

#[tokio::test(flavor = "local")]
async fn close_of_the_peer_is_echoed_and_ends_the_connection() {
    let (socket, mut client) = connect(&WebSocketOptions::default()).await;
    let (outbound, session) = session(socket);
    client.close(1000, "done").await;
    assert_eq!(client.close_code().await, 1000);
    assert_eq!(client.receive().await, None, "the server closes the stream");
    let (_, closure) = soon(session).await.unwrap();
    assert_eq!(summary(&closure), (ClosedBy::Peer, Some(1000), true));
    assert_eq!(closure.reason, "done");
    assert_eq!(outbound.send_frame(&Frame::text("late")), Sent::Closed);
}

#[tokio::test(flavor = "local")]
async fn close_without_a_code_and_with_a_forbidden_one() {
    let (socket, mut client) = connect(&WebSocketOptions::default()).await;
    let (_, ended) = session(socket);
    client.send(CLOSE, b"").await;
    assert_eq!(client.receive().await, Some((CLOSE, Vec::new())));
    assert_eq!(
        summary(&soon(ended).await.unwrap().1),
        (ClosedBy::Peer, None, true)
    );

    let (socket, mut client) = connect(&WebSocketOptions::default()).await;
    let (_, _session) = session(socket);
    client.close(1005, "").await;
    assert_eq!(client.close_code().await, 1002);
}

#[tokio::test(flavor = "local")]
async fn own_close_is_complete_when_the_peer_answers() {
    let (socket, mut client) = connect(&WebSocketOptions::default()).await;
    let (outbound, session) = session(socket);
    let _ = outbound.send_frame(&Frame::text("last"));
    outbound.close_after_flush(CloseCode::GOING_AWAY, "restart");
    assert_eq!(client.text().await, "last");
    assert_eq!(client.close_code().await, 1001);
    client.send(TEXT, b"not heard any more").await;
    client.send(PING, b"not answered any more").await;
    client.close(1001, "").await;
    assert_eq!(client.receive().await, None);
    let (messages, closure) = soon(session).await.unwrap();
    assert_eq!(messages, []);
    assert_eq!(summary(&closure), (ClosedBy::Us, Some(1001), true));
    assert_eq!(closure.reason, "restart");
}

#[tokio::test(flavor = "local")]
async fn peer_that_does_not_answer_a_close_is_reset_after_the_grace() {
    let (socket, mut client) = connect(&short_grace()).await;
    let (outbound, session) = session(socket);
    let start = Instant::now();
    outbound.close(CloseCode::POLICY_VIOLATION, "rule");
    assert_eq!(client.close_code().await, 1008);
    let (_, closure) = soon(session).await.unwrap();
    assert_eq!(summary(&closure), (ClosedBy::Us, Some(1008), false));
    assert!(start.elapsed() >= GRACE);
    let end = soon(client.0.read(&mut [0; 16])).await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test(flavor = "local")]
async fn peer_that_babbles_instead_of_answering_is_reset_too() {
    let (mut socket, mut client) = connect(&short_grace()).await;
    let writer = tokio::task::spawn_local(async move {
        client.raw(&frame(0x80, b"continuation of nothing")).await;
        let babble = [b'x'; 4096];
        while client.0.write_all(&babble).await.is_ok() {}
    });
    let closure = soon(socket.closed()).await;
    assert_eq!(summary(&closure), (ClosedBy::Us, Some(1002), false));
    soon(writer).await.unwrap();
}

#[tokio::test(flavor = "local")]
async fn peer_that_leaves_without_a_close_is_a_network_end() {
    let (mut socket, client) = connect(&WebSocketOptions::default()).await;
    drop(client);
    let closure = soon(socket.closed()).await;
    assert_eq!(summary(&closure), (ClosedBy::Network, None, false));
    assert_eq!(
        soon(socket.next()).await,
        Incoming::Closed(closure),
        "and it stays ended"
    );

    let (mut socket, client) = connect(&WebSocketOptions::default()).await;
    socket2::SockRef::from(&client.0)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(client);
    let closure = soon(socket.closed()).await;
    assert_eq!(
        (closure.by, &*closure.reason),
        (ClosedBy::Network, "reset by the peer")
    );
}

#[tokio::test(flavor = "local")]
async fn end_found_by_a_write_wakes_the_reader() {
    let (socket, client) = connect(&WebSocketOptions::default()).await;
    let (outbound, session) = session(socket);
    tokio::task::yield_now().await;
    outbound.close(CloseCode::NORMAL, "");
    drop(client);
    assert_eq!(soon(session).await.unwrap().1.by, ClosedBy::Us);
}

#[tokio::test(flavor = "local")]
async fn dropped_websocket_ends_the_connection_under_remaining_handles() {
    let (socket, mut client) = connect(&WebSocketOptions::default()).await;
    let outbound = socket.outbound();
    drop(socket);
    assert_eq!(client.receive().await, None);
    assert!(outbound.is_closed());
    assert_eq!(outbound.send_frame(&Frame::text("late")), Sent::Closed);
}
