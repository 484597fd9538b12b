//! `Outbound` over a socket that takes exactly as many bytes as a test grants it. One file, since that socket and the parser of
//! what it took serve every test.

use std::{
    cell::{Cell, RefCell},
    io,
    task::{Context, Waker},
};

use proptest::prelude::*;
use tokio::{
    runtime::{Builder, Handle, LocalOptions},
    task::{spawn_local, yield_now},
    time::{Instant, timeout},
};

use super::*;

/// The peer's end of a [`GrantedSocket`].
#[derive(Default)]
struct Peer {
    /// Everything the socket took.
    received: RefCell<Vec<u8>>,
    /// Bytes that the socket will take before it would block.
    grant: Cell<usize>,
    /// Calls that wrote something.
    writes: Cell<usize>,
    broken: Cell<bool>,
    reset: Cell<bool>,
    shut: Cell<bool>,
    writer: Cell<Option<Waker>>,
}

impl Peer {
    fn granting(grant: usize) -> Rc<Self> {
        Rc::new(Self {
            grant: Cell::new(grant),
            ..Self::default()
        })
    }

    fn grant(&self, bytes: usize) {
        self.grant.set(self.grant.get().saturating_add(bytes));
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }

    /// Opcode and payload of every frame received; panics on a torn one.
    fn frames(&self) -> Vec<(u8, Vec<u8>)> {
        let received = self.received.borrow();
        let mut rest = &received[..];
        let mut frames = Vec::new();
        while let [first, len, tail @ ..] = rest {
            let (len, tail) = match len {
                126 => (
                    usize::from(u16::from_be_bytes([tail[0], tail[1]])),
                    &tail[2..],
                ),
                127 => panic!("no test sends frames this long"),
                len => (usize::from(*len), tail),
            };
            assert_eq!(first & 0xf0, 0x80, "a frame begins here");
            frames.push((first & 0x0f, tail[..len].to_vec()));
            rest = &tail[len..];
        }
        assert!(rest.is_empty(), "the last frame is whole");
        frames
    }

    /// The frames' payloads as text, a Close frame as its code.
    fn texts(&self) -> Vec<String> {
        let text = |(opcode, payload): (u8, Vec<u8>)| match opcode {
            CLOSE => u16::from_be_bytes([payload[0], payload[1]]).to_string(),
            _ => String::from_utf8(payload).unwrap(),
        };
        self.frames().into_iter().map(text).collect()
    }
}

const CLOSE: u8 = 0x8;
const GRACE: Duration = Duration::from_secs(5);

struct GrantedSocket(Rc<Peer>);

impl Socket for GrantedSocket {
    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let peer = &self.0;
        if peer.broken.get() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let mut taken = 0;
        for slice in slices {
            let fits = slice.len().min(peer.grant.get());
            peer.received.borrow_mut().extend_from_slice(&slice[..fits]);
            peer.grant.set(peer.grant.get() - fits);
            taken += fits;
        }
        if taken == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        peer.writes.set(peer.writes.get() + 1);
        Ok(taken)
    }

    fn try_read(&self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn poll_readable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.0.grant.get() > 0 || self.0.broken.get() {
            return Poll::Ready(Ok(()));
        }
        self.0.writer.set(Some(cx.waker().clone()));
        Poll::Pending
    }

    fn shutdown_write(&self) {
        self.0.shut.set(true);
    }

    fn reset(self: Box<Self>) {
        self.0.reset.set(true);
    }
}

fn outbound(peer: &Rc<Peer>) -> Outbound {
    limited(peer, OutboundLimits::default())
}

fn limited(peer: &Rc<Peer>, limits: OutboundLimits) -> Outbound {
    Outbound::new(GrantedSocket(Rc::clone(peer)), limits)
}

fn texts<const N: usize>(texts: [&str; N]) -> [Frame; N] {
    texts.map(Frame::text)
}

/// Lets the connection's task run until it waits.
async fn settle() {
    for _ in 0..4 {
        yield_now().await;
    }
}

#[tokio::test(flavor = "local")]
async fn batch_is_one_write_and_keeps_no_frame() {
    let peer = Peer::granting(usize::MAX);
    let outbound = outbound(&peer);
    let frames = texts(["a", "b", "c"]);

    assert_eq!(outbound.send(frames.iter()), Sent::Written);

    assert_eq!(peer.writes.get(), 1);
    assert_eq!(peer.texts(), ["a", "b", "c"]);
    assert!(!frames.iter().any(Frame::is_shared), "no frame is kept");
    assert_eq!((outbound.bytes_sent(), outbound.frames_sent()), (9, 3));
    assert_eq!(outbound.queued_bytes(), 0);
}

#[tokio::test(flavor = "local")]
async fn long_batch_takes_a_write_per_64_frames() {
    for (frames, writes) in [
        (0, 0),
        (1, 1),
        (2, 1),
        (63, 1),
        (64, 1),
        (65, 2),
        (128, 2),
        (130, 3),
    ] {
        let peer = Peer::granting(usize::MAX);
        let outbound = outbound(&peer);
        let batch: Vec<Frame> = (0..frames).map(|n| Frame::text(&n.to_string())).collect();
        assert_eq!(outbound.send(batch.iter()), Sent::Written);
        assert_eq!(peer.writes.get(), writes, "{frames} frames");
        assert_eq!(
            peer.texts(),
            (0..frames).map(|n| n.to_string()).collect::<Vec<_>>()
        );
        assert_eq!(outbound.frames_sent(), frames as u64);
    }
}

#[tokio::test(flavor = "local")]
async fn only_the_remainder_is_kept() {
    let peer = Peer::granting(4);
    let outbound = outbound(&peer);
    let frames = texts(["a", "b", "c"]);
    assert_eq!(outbound.send(frames.iter()), Sent::Queued);
    assert_eq!(frames.each_ref().map(Frame::is_shared), [false, true, true]);
}

#[tokio::test(flavor = "local")]
async fn remainder_is_resumed_in_the_second_chunk_of_a_long_batch() {
    let peer = Peer::granting(3 * 64 + 4);
    let outbound = outbound(&peer);
    let batch: Vec<Frame> = (0..80)
        .map(|n| Frame::text(&(n % 10).to_string()))
        .collect();
    assert_eq!(outbound.send(batch.iter()), Sent::Queued);
    assert_eq!(outbound.frames_sent(), 65);
    assert_eq!(outbound.queued_bytes(), 3 * 80 - (3 * 64 + 4));
    peer.grant(usize::MAX);
    outbound.drained().await;
    assert_eq!(
        peer.texts(),
        (0..80).map(|n| (n % 10).to_string()).collect::<Vec<_>>()
    );
    assert_eq!((outbound.bytes_sent(), outbound.frames_sent()), (240, 80));
}

#[tokio::test(flavor = "local")]
async fn control_overtakes_queued_data_but_not_the_frame_in_progress() {
    let peer = Peer::granting(3);
    let outbound = outbound(&peer);

    assert_eq!(
        outbound.send(texts(["first", "second"]).iter()),
        Sent::Queued
    );
    assert_eq!(outbound.send_frame(&Frame::text("third")), Sent::Queued);
    assert_eq!(outbound.send_control(Frame::pong(b"pong")), Sent::Queued);
    peer.grant(1);
    settle().await;
    peer.grant(usize::MAX);
    outbound.drained().await;

    assert_eq!(peer.texts(), ["first", "pong", "second", "third"]);
}

#[tokio::test(flavor = "local")]
async fn urgent_frames_overtake_others_in_their_own_order() {
    let peer = Peer::granting(3);
    let outbound = outbound(&peer);
    for text in texts(["first", "second"]) {
        assert_eq!(outbound.send_frame(&text), Sent::Queued);
    }
    for text in texts(["urgent", "more urgent"]) {
        assert_eq!(outbound.send_urgent(&text), Sent::Queued);
    }
    assert_eq!(outbound.send_frame(&Frame::text("third")), Sent::Queued);
    assert_eq!(outbound.send_control(Frame::pong(b"pong")), Sent::Queued);
    peer.grant(usize::MAX);
    outbound.drained().await;
    let expected = ["first", "pong", "urgent", "more urgent", "second", "third"];
    assert_eq!(peer.texts(), expected);
    assert_eq!(outbound.send_urgent(&Frame::text("at once")), Sent::Written);
}

#[tokio::test(flavor = "local")]
async fn urgent_frames_count_as_others_do() {
    let peer = Peer::granting(0);
    let limits = OutboundLimits {
        queue_frames: 2,
        ..OutboundLimits::default()
    };
    let outbound = limited(&peer, limits);
    assert_eq!(outbound.send_frame(&Frame::text("first")), Sent::Queued);
    assert_eq!(outbound.send_urgent(&Frame::text("second")), Sent::Queued);
    assert_eq!(outbound.send_urgent(&Frame::text("third")), Sent::Overflow);
    peer.grant(usize::MAX);
    settle().await;
    assert_eq!(peer.texts(), ["1013"]);
}

#[tokio::test(flavor = "local")]
async fn queue_ends_with_its_last_byte_and_the_next_batch_is_written_directly() {
    let peer = Peer::granting(0);
    let outbound = outbound(&peer);
    assert_eq!(outbound.send_frame(&Frame::text("queued")), Sent::Queued);
    assert_eq!(outbound.queued_bytes(), 8);
    peer.grant(usize::MAX);
    outbound.drained().await;
    assert_eq!(outbound.queued_bytes(), 0);
    assert_eq!(outbound.send_frame(&Frame::text("direct")), Sent::Written);
    assert_eq!(peer.texts(), ["queued", "direct"]);
}

#[tokio::test(flavor = "local")]
async fn bounds_are_exact_in_frames_and_bytes() {
    let frame = Frame::text("12345678"); // ten bytes
    for limits in [
        OutboundLimits {
            queue_frames: 3,
            ..OutboundLimits::default()
        },
        OutboundLimits {
            queue_bytes: 30,
            ..OutboundLimits::default()
        },
    ] {
        let peer = Peer::granting(0);
        let outbound = limited(&peer, limits);
        for _ in 0..3 {
            assert_eq!(outbound.send_frame(&frame), Sent::Queued);
        }
        assert_eq!(outbound.send_frame(&frame), Sent::Overflow);
        assert_eq!(outbound.send_frame(&frame), Sent::Closed);
    }
}

#[tokio::test(flavor = "local")]
async fn frame_beyond_the_bound_passes_an_empty_queue() {
    for granted in [0, 5] {
        let peer = Peer::granting(granted);
        let limits = OutboundLimits {
            queue_bytes: 10,
            ..OutboundLimits::default()
        };
        let outbound = limited(&peer, limits);
        assert_eq!(
            outbound.send_frame(&Frame::text(&"x".repeat(100))),
            Sent::Queued
        );
        assert_eq!(outbound.send_frame(&Frame::text("x")), Sent::Overflow);
    }
}

#[tokio::test(flavor = "local")]
async fn pongs_that_are_not_read_count_against_the_bounds() {
    let peer = Peer::granting(0);
    let outbound = limited(
        &peer,
        OutboundLimits {
            queue_frames: 2,
            ..OutboundLimits::default()
        },
    );
    assert_eq!(outbound.send_control(Frame::pong(b"")), Sent::Queued);
    assert_eq!(outbound.send_control(Frame::pong(b"")), Sent::Queued);
    assert_eq!(outbound.send_control(Frame::pong(b"")), Sent::Overflow);
}

#[tokio::test(flavor = "local")]
async fn overflow_finishes_the_frame_in_progress_then_farewell_then_1013() {
    let peer = Peer::granting(4);
    let outbound = limited(
        &peer,
        OutboundLimits {
            queue_frames: 2,
            ..OutboundLimits::default()
        },
    );
    thread_local! {
        static WRITTEN: Cell<usize> = const { Cell::new(0) };
    }
    outbound.set_overload_farewell(|| {
        WRITTEN.set(WRITTEN.get() + 1);
        Frame::text("farewell")
    });

    // It tells the time of the overflow, so it is not written before.
    assert_eq!(outbound.send(texts(["one"]).iter()), Sent::Queued);
    assert_eq!(WRITTEN.get(), 0);
    assert_eq!(
        outbound.send(texts(["two", "three", "four"]).iter()),
        Sent::Overflow
    );
    assert_eq!(WRITTEN.get(), 1);
    assert!(outbound.is_closed());
    outbound.drained().await;
    peer.grant(usize::MAX);
    settle().await;

    assert_eq!(peer.texts(), ["one", "farewell", "1013"]);
}

#[tokio::test(flavor = "local")]
async fn nothing_follows_a_close_frame() {
    let peer = Peer::granting(usize::MAX);
    let outbound = outbound(&peer);
    outbound.close_with(Frame::text("farewell"), CloseCode::GOING_AWAY, "bye");

    assert!(outbound.is_closed());
    assert_eq!(outbound.send_frame(&Frame::text("late")), Sent::Closed);
    assert_eq!(outbound.send_control(Frame::ping(b"")), Sent::Closed);
    assert_eq!(
        outbound.send_control(Frame::close(CloseCode::NORMAL, "")),
        Sent::Closed
    );
    outbound.close(CloseCode::NORMAL, "again");
    settle().await;
    assert_eq!(peer.texts(), ["farewell", "1001"]);
}

#[tokio::test(flavor = "local")]
async fn close_drops_what_waits_and_close_after_flush_does_not() {
    for (flush, expected) in [
        (false, &["one", "1000"][..]),
        (true, &["one", "two", "1000"]),
    ] {
        let peer = Peer::granting(1);
        let outbound = outbound(&peer);
        assert_eq!(outbound.send(texts(["one", "two"]).iter()), Sent::Queued);
        if flush {
            outbound.close_after_flush(CloseCode::NORMAL, "");
        } else {
            outbound.close(CloseCode::NORMAL, "");
        }
        assert_eq!(outbound.send_frame(&Frame::text("late")), Sent::Closed);
        peer.grant(usize::MAX);
        settle().await;
        assert_eq!(peer.texts(), expected);
    }
}

#[tokio::test(flavor = "local")]
async fn close_frame_given_as_control_frame_closes() {
    let peer = Peer::granting(usize::MAX);
    let outbound = outbound(&peer);
    let _ = outbound.send_control(Frame::close(CloseCode::POLICY_VIOLATION, "rule"));
    assert_eq!(peer.texts(), ["1008"]);
    outbound.connection().answered();
    let closure = outbound.connection().ended().unwrap();
    assert_eq!(
        (closure.code, &*closure.reason, closure.clean),
        (Some(CloseCode::POLICY_VIOLATION), "rule", true)
    );
}

#[tokio::test(flavor = "local")]
async fn failed_connection_shuts_its_writing_side_behind_the_close() {
    for before in [false, true] {
        let peer = Peer::granting(0);
        let outbound = outbound(&peer);
        if before {
            outbound.close(CloseCode::NORMAL, "");
        }
        outbound
            .connection()
            .give_up(CloseCode::PROTOCOL_ERROR, "rule");
        settle().await;
        assert!(!peer.shut.get(), "the Close frame is not out yet");
        peer.grant(usize::MAX);
        settle().await;
        assert!(peer.shut.get());
        assert_eq!(peer.texts(), [if before { "1000" } else { "1002" }]);
    }
}

#[tokio::test(flavor = "local")]
async fn connection_that_fails_while_it_closes_is_shut_at_once() {
    let peer = Peer::granting(usize::MAX);
    let outbound = outbound(&peer);
    outbound.close(CloseCode::NORMAL, "");
    assert!(!peer.shut.get(), "the answer may be long in coming");
    outbound
        .connection()
        .give_up(CloseCode::PROTOCOL_ERROR, "rule");
    assert!(peer.shut.get());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn peer_that_does_not_take_the_close_is_reset_after_the_grace() {
    let peer = Peer::granting(0);
    let outbound = outbound(&peer);
    let start = Instant::now();
    outbound.close(CloseCode::NORMAL, "");
    while !peer.reset.get() {
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(start.elapsed() < 2 * GRACE, "reset in time");
    }
    assert!(start.elapsed() >= GRACE);
    assert_eq!(
        Rc::strong_count(&peer),
        1,
        "the socket is gone although a handle remains"
    );
    assert!(outbound.is_closed());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn grace_is_not_prolonged_by_a_trickle() {
    let peer = Peer::granting(0);
    let outbound = outbound(&peer);
    assert_eq!(
        outbound.send_frame(&Frame::text(&"x".repeat(100))),
        Sent::Queued
    );
    let start = Instant::now();
    outbound.close_after_flush(CloseCode::NORMAL, "");
    while !peer.reset.get() {
        peer.grant(1);
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(start.elapsed() < 2 * GRACE, "reset in time");
    }
}

#[tokio::test(flavor = "local")]
async fn broken_socket_closes() {
    let peer = Peer::granting(0);
    let direct = outbound(&peer);
    let queued = outbound(&peer);
    assert_eq!(queued.send_frame(&Frame::text("a")), Sent::Queued);
    peer.broken.set(true);
    assert_eq!(direct.send_frame(&Frame::text("a")), Sent::Closed);
    assert!(direct.is_closed());
    peer.grant(1);
    queued.drained().await;
    assert!(queued.is_closed());
    assert_eq!(
        queued.connection().ended().map(|closure| closure.by),
        Some(ClosedBy::Network)
    );
}

#[tokio::test(flavor = "local")]
async fn drained_wakes_every_waiter_and_also_at_a_close() {
    let peer = Peer::granting(0);
    let outbound = outbound(&peer);
    outbound.drained().await; // nothing queued

    for end in [(|outbound| outbound.0.end()) as fn(&Outbound), |outbound| {
        outbound.close(CloseCode::NORMAL, "")
    }] {
        let outbound = self::outbound(&peer);
        assert_eq!(outbound.send_frame(&Frame::text("a")), Sent::Queued);
        let waiters = [outbound.clone(), outbound.clone()]
            .map(|o| spawn_local(async move { o.drained().await }));
        settle().await;
        assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
        end(&outbound);
        for waiter in waiters {
            // Before the grace is over, which would end the wait in any case.
            timeout(GRACE / 2, waiter).await.expect("in time").unwrap();
        }
    }
}

#[tokio::test(flavor = "local")]
async fn idle_or_abandoned_connection_has_no_task() {
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let peer = Peer::granting(0);
    let outbound = outbound(&peer);
    assert_eq!(outbound.send_frame(&Frame::text("a")), Sent::Queued);
    settle().await;
    assert_eq!(tasks(), 1);
    peer.grant(3);
    settle().await;
    assert_eq!(tasks(), 0, "the queue is empty");

    assert_eq!(outbound.send_frame(&Frame::text("a")), Sent::Queued);
    settle().await;
    assert_eq!(tasks(), 1);
    drop(outbound);
    settle().await;
    assert_eq!(tasks(), 0, "the connection is gone");
    assert_eq!(Rc::strong_count(&peer), 1, "and its socket");
}

#[derive(Clone, Debug)]
enum Step {
    Batch(Vec<usize>),
    Control(usize),
    Grant(usize),
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => prop::collection::vec(8..400_usize, 1..6).prop_map(Step::Batch),
        1 => (0..100_usize).prop_map(Step::Control),
        3 => (1..600_usize).prop_map(Step::Grant),
        1 => Just(Step::Settle),
    ]
}

proptest! {
    #[test]
    fn no_split_of_writes_tears_or_reorders_frames(
        steps in prop::collection::vec(step(), 1..60),
        close in any::<bool>(),
    ) {
        split_writes(steps, close)?;
    }
}

fn split_writes(steps: Vec<Step>, close: bool) -> Result<(), TestCaseError> {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .build_local(LocalOptions::default())
        .unwrap();
    runtime.block_on(async {
        let peer = Peer::granting(0);
        let outbound = limited(
            &peer,
            OutboundLimits {
                queue_frames: 1000,
                queue_bytes: 1 << 20,
                close_grace: GRACE,
            },
        );
        let (mut data, mut controls) = (Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Batch(sizes) => {
                    let texts: Vec<String> = sizes
                        .iter()
                        .enumerate()
                        .map(|(at, size)| format!("{:08}{}", data.len() + at, "x".repeat(size - 8)))
                        .collect();
                    let batch: Vec<Frame> = texts.iter().map(|text| Frame::text(text)).collect();
                    prop_assert!(matches!(
                        outbound.send(batch.iter()),
                        Sent::Written | Sent::Queued
                    ));
                    data.extend(texts);
                }
                Step::Control(size) => {
                    let payload = vec![b'p'; size];
                    let _ = outbound.send_control(Frame::ping(&payload));
                    controls.push(payload);
                }
                Step::Grant(bytes) => peer.grant(bytes),
                Step::Settle => settle().await,
            }
        }
        if close {
            outbound.close_after_flush(CloseCode::NORMAL, "");
        }
        peer.grant(usize::MAX);
        outbound.drained().await;
        settle().await;

        let frames = peer.frames();
        let of = |opcode: u8| {
            frames
                .iter()
                .filter(move |frame| frame.0 == opcode)
                .map(|frame| frame.1.clone())
        };
        prop_assert!(of(0x1).eq(data.iter().map(|text| text.as_bytes().to_vec())));
        prop_assert!(of(0x9).eq(controls.iter().cloned()));
        prop_assert_eq!(of(CLOSE).count(), usize::from(close));
        prop_assert!(!close || frames.last().is_some_and(|frame| frame.0 == CLOSE));
        prop_assert_eq!(outbound.frames_sent() as usize, frames.len());
        prop_assert_eq!(outbound.bytes_sent() as usize, peer.received.borrow().len());
        Ok(())
    })
}
