//! Connections under mutated bytes, in memory: whatever is sent, the connection
//! ends, and what it answers is whole frames with nothing behind a Close.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "../../protocol/fuzz/mutate.rs"]
mod mutate;

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    rc::Rc,
    task::{Context, Poll},
};

use common::{BINARY, CLOSE, PING, PONG, TEXT, frame, soon};
use mutate::Mutator;
use signalbox_transport::{Incoming, Socket, WebSocket, WebSocketOptions};

/// Streams that are tried.
const ROUNDS: usize = 20_000;

/// A peer that has sent everything it ever will and takes every answer.
struct Script {
    input: RefCell<Vec<u8>>,
    /// How much a read brings at most.
    chunk: usize,
    output: Rc<RefCell<Vec<u8>>>,
}

impl Socket for Script {
    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut output = self.output.borrow_mut();
        let before = output.len();
        slices.iter().for_each(|slice| output.extend(&**slice));
        Ok(output.len() - before)
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut input = self.input.borrow_mut();
        let len = buffer.len().min(input.len()).min(self.chunk);
        buffer[..len].copy_from_slice(&input[..len]);
        input.drain(..len);
        Ok(len)
    }

    fn poll_readable(&self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_writable(&self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn shutdown_write(&self) {}

    fn reset(self: Box<Self>) {}
}

/// The first header bytes of all frames in `bytes`, which must be whole.
fn frames(mut bytes: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let [kind, len, rest @ ..] = bytes {
        assert!(*len <= 125, "answers are unmasked control frames");
        kinds.push(*kind);
        bytes = rest.get(usize::from(*len)..).expect("a whole frame");
    }
    assert!(bytes.is_empty());
    kinds
}

#[tokio::test(flavor = "local")]
async fn mutated_streams_end_with_whole_answers() {
    let valid = [
        frame(TEXT, br#"{"type":"ping"}"#),
        frame(TEXT, &[b'x'; 300]),
        frame(TEXT & 0x7f, "grü".as_bytes()),
        frame(0x80, "ße".as_bytes()),
        frame(BINARY, &[0, 255]),
        frame(PING, b"ping"),
        frame(PONG, b""),
        frame(CLOSE, b"\x03\xe8bye"),
    ];
    let options = WebSocketOptions {
        max_message_bytes: 256,
        ..WebSocketOptions::default()
    };
    let mut mutator = Mutator::new(11);
    let (mut messages, mut closed) = (0, 0);
    for _ in 0..ROUNDS {
        let mut input: Vec<u8> = (0..=mutator.below(4))
            .flat_map(|_| valid[mutator.below(valid.len())].clone())
            .collect();
        mutator.mutate(&mut input);
        let rest = input.split_off(mutator.below(input.len() + 1));
        let output = Rc::default();
        let script = Script {
            input: RefCell::new(rest),
            chunk: 1 + mutator.below(64),
            output: Rc::clone(&output),
        };
        let mut socket = WebSocket::over(script, input.into(), &options);
        while !matches!(soon(socket.next()).await, Incoming::Closed(_)) {
            messages += 1;
        }
        let kinds = frames(&output.borrow());
        let close = kinds.iter().position(|kind| *kind == CLOSE);
        assert!(close.is_none_or(|at| at + 1 == kinds.len()), "{kinds:?}");
        closed += usize::from(close.is_some());
    }
    assert!(messages > ROUNDS / 10, "{messages} messages");
    assert!(closed > ROUNDS / 10, "{closed} Close frames");
}
