//! Readers that are slower than their events: frames stay whole, a queue stays bounded, and a
//! reader that is too slow is told so and ended.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use common::{CLOSE, Client, PING, TEXT, connect_buffered, session, soon, summary};
use proptest::prelude::*;
use signalbox_transport::{ClosedBy, Frame, OutboundLimits, Sent, WebSocketOptions};
use tokio::{
    io::AsyncReadExt,
    runtime::{Builder, LocalOptions},
    task::{spawn_local, yield_now},
};

const GRACE: Duration = Duration::from_millis(300);

/// As little as the kernel allows, so that a few frames fill it.
fn narrow(outbound: OutboundLimits) -> (WebSocketOptions, Option<usize>) {
    (
        WebSocketOptions {
            send_buffer_bytes: 1,
            outbound,
            ..WebSocketOptions::default()
        },
        Some(1),
    )
}

fn small_queue() -> OutboundLimits {
    OutboundLimits {
        queue_frames: 20,
        queue_bytes: 1 << 20,
        close_grace: GRACE,
    }
}

#[tokio::test(flavor = "local")]
async fn reader_that_never_reads_is_reset_after_the_grace() {
    let (options, receive_buffer) = narrow(small_queue());
    let (socket, mut client) = connect_buffered(&options, receive_buffer).await;
    let (outbound, session) = session(socket);
    let event = Frame::text(&"x".repeat(1000));
    let start = loop {
        if outbound.send_frame(&event) == Sent::Overflow {
            break Instant::now();
        }
        yield_now().await;
    };
    assert!(
        outbound.queued_bytes() < 2 * event.len(),
        "what waited was dropped"
    );

    let (_, closure) = soon(session).await.unwrap();
    assert!(start.elapsed() >= GRACE);
    assert_eq!(summary(&closure), (ClosedBy::Us, Some(1013), false));

    let mut received = Vec::new();
    let end = soon(client.0.read_to_end(&mut received)).await;
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test(flavor = "local")]
async fn reader_that_resumes_sees_whole_frames_then_why_it_is_closed() {
    let (options, receive_buffer) = narrow(OutboundLimits {
        close_grace: Duration::from_secs(20),
        ..small_queue()
    });
    let (socket, mut client) = connect_buffered(&options, receive_buffer).await;
    let (outbound, session) = session(socket);
    outbound.set_overload_farewell(|| Frame::text("farewell"));
    let mut sent = 0;
    loop {
        match outbound.send_frame(&Frame::text(&format!("{sent:0>1000}"))) {
            Sent::Overflow => break,
            Sent::Closed => panic!("closed early"),
            _ => sent += 1,
        }
        yield_now().await;
    }
    assert_eq!(outbound.send_frame(&Frame::text("late")), Sent::Closed);

    let mut received = 0;
    loop {
        let text = client.text().await;
        if text == "farewell" {
            break;
        }
        assert_eq!(text, format!("{received:0>1000}"), "in order and whole");
        received += 1;
    }
    assert!(received < sent, "queued frames were dropped");
    assert_eq!(client.close_code().await, 1013);
    client.close(1013, "").await;
    assert_eq!(client.receive().await, None, "nothing follows");
    assert_eq!(
        summary(&soon(session).await.unwrap().1),
        (ClosedBy::Us, Some(1013), true)
    );
}

#[tokio::test(flavor = "local")]
async fn drained_paces_a_replay_within_the_bounds() {
    let (options, receive_buffer) = narrow(small_queue());
    let (socket, mut client) = connect_buffered(&options, receive_buffer).await;
    let (outbound, _session) = session(socket);
    let reader = spawn_local(async move {
        for n in 0..500 {
            assert_eq!(client.text().await, format!("{n:0>1000}"));
        }
        client
    });
    let history: Vec<Frame> = (0..500)
        .map(|n| Frame::text(&format!("{n:0>1000}")))
        .collect();
    let mut waited = 0;
    for page in history.chunks(20) {
        if outbound.send(page.iter()) == Sent::Queued {
            waited += 1;
            soon(outbound.drained()).await;
        }
        assert_eq!(outbound.queued_bytes(), 0);
    }
    assert!(waited > 0, "the reader was slower");
    soon(reader).await.unwrap();
}

/// Data frames of one batch, or a ping.
#[derive(Clone, Debug)]
enum Sending {
    Batch(Vec<usize>),
    Ping(usize),
}

fn sending() -> impl Strategy<Value = Sending> {
    prop_oneof![
        4 => prop::collection::vec(8..9000_usize, 1..8).prop_map(Sending::Batch),
        1 => (0..=125_usize).prop_map(Sending::Ping),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn real_sockets_never_tear_a_frame(sendings in prop::collection::vec(sending(), 10..60)) {
        send_over_narrow_sockets(sendings)?;
    }
}

fn send_over_narrow_sockets(sendings: Vec<Sending>) -> Result<(), TestCaseError> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .unwrap();
    runtime.block_on(soon(async {
        let limits = OutboundLimits {
            queue_frames: 10_000,
            queue_bytes: 1 << 30,
            ..OutboundLimits::default()
        };
        let (options, receive_buffer) = narrow(limits);
        let (socket, client) = connect_buffered(&options, receive_buffer).await;
        let (outbound, _session) = session(socket);
        let reader = spawn_local(read_all(client));
        let (mut data, mut pings, mut queued) = (Vec::new(), 0, false);
        for sending in sendings {
            match sending {
                Sending::Batch(sizes) => {
                    let texts: Vec<String> = sizes
                        .iter()
                        .enumerate()
                        .map(|(at, size)| format!("{:0>size$}", data.len() + at))
                        .collect();
                    let batch: Vec<Frame> = texts.iter().map(|text| Frame::text(text)).collect();
                    queued |= outbound.send(batch.iter()) == Sent::Queued;
                    data.extend(texts);
                }
                Sending::Ping(size) => {
                    queued |= outbound.send_control(Frame::ping(&vec![b'p'; size])) == Sent::Queued;
                    pings += 1;
                }
            }
            yield_now().await;
        }
        outbound.close_after_flush(signalbox_transport::CloseCode::NORMAL, "");
        let (texts, seen_pings) = reader.await.unwrap();
        prop_assert_eq!(texts, data);
        prop_assert_eq!(seen_pings, pings);
        prop_assert!(
            queued || outbound.bytes_sent() < 100_000,
            "the socket was too wide for this test"
        );
        Ok(())
    }))
}

/// Reads to the Close frame; a torn frame would show as an unknown opcode or a wrong payload.
async fn read_all(mut client: Client) -> (Vec<String>, usize) {
    let (mut texts, mut pings) = (Vec::new(), 0);
    loop {
        match client
            .receive()
            .await
            .expect("a Close frame before the end")
        {
            (TEXT, payload) => texts.push(String::from_utf8(payload).unwrap()),
            (PING, payload) => {
                assert!(payload.iter().all(|&byte| byte == b'p'));
                pings += 1;
            }
            (CLOSE, _) => return (texts, pings),
            (first, _) => panic!("torn frame: {first:#x}"),
        }
    }
}
