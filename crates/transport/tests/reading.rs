//! What a session hears: text and binary, however the bytes arrive; pings answered; nothing lost by
//! a dropped `next`; other tasks alive under a flood.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{cell::Cell, future::poll_fn, pin::pin, rc::Rc, task::Poll};

use bytes::Bytes;
use common::{BINARY, PING, PONG, TEXT, connect, frame, session, soon};
use signalbox_transport::{Frame, Incoming, MAX_MESSAGE_BYTES, WebSocket, WebSocketOptions};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{spawn_local, yield_now},
};

fn text(text: &str) -> Incoming {
    Incoming::Text(text.into())
}

#[tokio::test(flavor = "local")]
async fn text_and_binary_arrive_as_sent() {
    let (mut socket, mut client) = connect(&WebSocketOptions::default()).await;
    client.send(TEXT, "grüße".as_bytes()).await;
    client.send(BINARY, &[0, 255, 254]).await;
    client.send(TEXT, b"").await;
    assert_eq!(soon(socket.next()).await, text("grüße"));
    assert_eq!(
        soon(socket.next()).await,
        Incoming::Binary(Bytes::from_static(&[0, 255, 254]))
    );
    assert_eq!(soon(socket.next()).await, text(""));
}

#[tokio::test(flavor = "local")]
async fn message_survives_byte_by_byte_arrival() {
    let (mut socket, mut client) = connect(&WebSocketOptions::default()).await;
    let mut bytes = frame(TEXT & 0x7f, "grü".as_bytes());
    bytes.extend(frame(PING, b"between fragments"));
    bytes.extend(frame(0x00, &"ß".as_bytes()[..1])); // a character torn over two fragments
    bytes.extend(frame(0x80, &"ße".as_bytes()[1..]));
    bytes.extend(frame(TEXT, &[b'x'; 300]));
    let writer = spawn_local(async move {
        for byte in bytes {
            client.raw(&[byte]).await;
            yield_now().await;
        }
        assert_eq!(
            client.receive().await,
            Some((PONG, b"between fragments".to_vec()))
        );
        client
    });
    assert_eq!(soon(socket.next()).await, text("grüße"));
    assert_eq!(soon(socket.next()).await, text(&"x".repeat(300)));
    let (_outbound, _session) = session(socket);
    soon(writer).await.unwrap();
}

#[tokio::test(flavor = "local")]
async fn many_messages_in_one_segment_come_one_by_one() {
    let (mut socket, mut client) = connect(&WebSocketOptions::default()).await;
    let bytes: Vec<u8> = (0..1000)
        .flat_map(|n: u32| frame(TEXT, n.to_string().as_bytes()))
        .collect();
    client.raw(&bytes).await;
    for n in 0..1000 {
        assert_eq!(soon(socket.next()).await, text(&n.to_string()));
    }
}

#[tokio::test(flavor = "local")]
async fn longest_message_is_accepted_whole_and_in_fragments() {
    let (mut socket, mut client) = connect(&WebSocketOptions::default()).await;
    let payload = vec![b'x'; MAX_MESSAGE_BYTES];
    let writer = spawn_local(async move {
        client.send(TEXT, &payload).await;
        client.send(0x02, &payload[..500_000]).await;
        client.send(0x80, &payload[500_000..]).await;
        client
    });
    let Incoming::Text(whole) = soon(socket.next()).await else {
        panic!("text")
    };
    assert_eq!(whole.len(), MAX_MESSAGE_BYTES);
    let Incoming::Binary(joined) = soon(socket.next()).await else {
        panic!("binary")
    };
    assert_eq!(joined.len(), MAX_MESSAGE_BYTES);
    soon(writer).await.unwrap();
}

#[tokio::test(flavor = "local")]
async fn read_ahead_comes_first() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = common::Client(
        TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap(),
    );
    let (server, _) = listener.accept().await.unwrap();
    let mut bytes = frame(TEXT, b"first");
    bytes.extend(frame(TEXT, b"second"));
    let rest = bytes.split_off(15);
    let mut socket = WebSocket::new(server, bytes.into(), &WebSocketOptions::default()).unwrap();
    assert_eq!(soon(socket.next()).await, text("first"));
    client.raw(&rest).await;
    assert_eq!(soon(socket.next()).await, text("second"));
}

#[tokio::test(flavor = "local")]
async fn ping_is_answered_with_its_payload_ahead_of_queued_data() {
    let options = WebSocketOptions {
        send_buffer_bytes: 1,
        ..WebSocketOptions::default()
    };
    let (socket, mut client) = connect(&options).await;
    let (outbound, _session) = session(socket);
    let data = Frame::text(&"x".repeat(60_000));
    let mut sent = 0;
    while outbound.queued_bytes() < 2 * data.len() {
        let _ = outbound.send_frame(&data);
        sent += 1;
        yield_now().await;
    }
    client.send(PING, b"are you there").await;
    // The pong must be queued before the data is read, or there would be nothing to overtake.
    while outbound.queued_bytes() % data.len() == 0 && outbound.frames_sent() < sent {
        yield_now().await;
    }
    let mut order = Vec::new();
    for _ in 0..=sent {
        order.push(client.receive().await.unwrap().0);
    }
    let pong = order
        .iter()
        .position(|&first| first == PONG)
        .expect("a pong");
    assert!(
        pong < order.len() - 1,
        "the pong overtook at least one frame"
    );
}

#[tokio::test(flavor = "local")]
async fn dropped_next_loses_nothing() {
    let (mut socket, mut client) = connect(&WebSocketOptions::default()).await;
    let expected: Vec<String> = (0..50).map(|n| format!("message {n}")).collect();
    let bytes: Vec<u8> = expected
        .iter()
        .flat_map(|text| frame(TEXT, text.as_bytes()))
        .collect();
    let writer = spawn_local(async move {
        for chunk in bytes.chunks(3) {
            client.raw(chunk).await;
            yield_now().await;
        }
        client
    });
    let mut received = Vec::new();
    while received.len() < expected.len() {
        // Every future is polled once and dropped, whatever it was in the middle of.
        let mut next = pin!(socket.next());
        let polled = soon(poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx)))).await;
        match polled {
            Poll::Ready(Incoming::Text(text)) => received.push(text.to_string()),
            Poll::Ready(other) => panic!("unexpected {other:?}"),
            Poll::Pending => yield_now().await,
        }
    }
    assert_eq!(received, expected);
    soon(writer).await.unwrap();
}

#[tokio::test(flavor = "local")]
async fn flood_leaves_room_for_other_tasks() {
    let (mut socket, mut client) = connect(&WebSocketOptions::default()).await;
    let pings: Vec<u8> = (0..2000).flat_map(|_| frame(0x8a, b"")).collect();
    client.raw(&pings).await;
    client.send(TEXT, b"end").await;
    let turns = Rc::new(Cell::new(0));
    let counter = Rc::clone(&turns);
    let other = spawn_local(async move {
        loop {
            counter.set(counter.get() + 1);
            yield_now().await;
        }
    });
    assert_eq!(soon(socket.next()).await, text("end"));
    assert!(turns.get() > 5, "the other task ran {} times", turns.get());
    other.abort();
}

#[tokio::test(flavor = "local")]
async fn message_limit_moves_between_two_messages() {
    let (mut socket, mut client) = connect(&WebSocketOptions::default()).await;
    socket.set_max_message_bytes(4);
    client
        .raw(&[frame(TEXT, b"four"), frame(TEXT, b"longer")].concat())
        .await;
    assert_eq!(soon(socket.next()).await, text("four"));
    socket.set_max_message_bytes(6);
    assert_eq!(soon(socket.next()).await, text("longer"));
    client.send(TEXT, b"too long").await;
    let (_outbound, _session) = session(socket);
    assert_eq!(client.close_code().await, 1009);
}
