//! Loopback connections with a client that speaks raw frames, so that a test controls every byte.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::{future::Future, time::Duration};

use bytes::Bytes;
use signalbox_transport::{
    CloseCode, ClosedBy, Closure, Incoming, Outbound, WebSocket, WebSocketOptions,
};
use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, spawn_local},
    time::timeout,
};

pub(crate) const TEXT: u8 = 0x81;
pub(crate) const BINARY: u8 = 0x82;
pub(crate) const CLOSE: u8 = 0x88;
pub(crate) const PING: u8 = 0x89;
pub(crate) const PONG: u8 = 0x8a;

/// Longer than anything here takes on a busy machine, and shorter than half of the default silence:
/// a task that should have been woken must not be saved by that timer.
const DEADLINE: Duration = Duration::from_secs(20);

/// Fails the test if it takes too long.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(DEADLINE, future).await.expect("in time")
}

/// The client's end of a connection.
pub(crate) struct Client(pub(crate) TcpStream);

impl Client {
    /// Sends one masked frame whose first header byte is `first`.
    pub(crate) async fn send(&mut self, first: u8, payload: &[u8]) {
        self.raw(&frame(first, payload)).await;
    }

    pub(crate) async fn raw(&mut self, bytes: &[u8]) {
        soon(self.0.write_all(bytes)).await.unwrap();
    }

    /// The next frame: first header byte and payload. `None` at the end of the stream.
    pub(crate) async fn receive(&mut self) -> Option<(u8, Vec<u8>)> {
        soon(async {
            let mut head = [0; 2];
            if self.0.read(&mut head[..1]).await.unwrap() == 0 {
                return None;
            }
            self.0.read_exact(&mut head[1..]).await.unwrap();
            let len = match head[1] {
                126 => usize::from(self.0.read_u16().await.unwrap()),
                127 => usize::try_from(self.0.read_u64().await.unwrap()).unwrap(),
                len => usize::from(len),
            };
            let mut payload = vec![0; len];
            self.0.read_exact(&mut payload).await.unwrap();
            Some((head[0], payload))
        })
        .await
    }

    /// The next frame, as text.
    pub(crate) async fn text(&mut self) -> String {
        let (first, payload) = self.receive().await.expect("a frame");
        assert_eq!(first, TEXT);
        String::from_utf8(payload).unwrap()
    }

    /// Expects a Close frame and returns its code.
    pub(crate) async fn close_code(&mut self) -> u16 {
        let (first, payload) = self.receive().await.expect("a frame");
        assert_eq!(first, CLOSE, "a Close frame");
        u16::from_be_bytes([payload[0], payload[1]])
    }

    /// Sends a Close frame.
    pub(crate) async fn close(&mut self, code: u16, reason: &str) {
        self.send(
            CLOSE,
            &[&code.to_be_bytes()[..], reason.as_bytes()].concat(),
        )
        .await;
    }
}

/// One masked client frame.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x11, 0x22, 0x33, 0x44];
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..=125 => frame.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend((len as u16).to_be_bytes());
        }
        len => {
            frame.push(0x80 | 127);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    frame
}

/// A connection and the stream of its client.
pub(crate) async fn connect(options: &WebSocketOptions) -> (WebSocket, Client) {
    connect_buffered(options, None).await
}

/// A connection whose client's kernel holds about `receive_buffer` bytes.
pub(crate) async fn connect_buffered(
    options: &WebSocketOptions,
    receive_buffer: Option<usize>,
) -> (WebSocket, Client) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    if let Some(bytes) = receive_buffer {
        client.set_recv_buffer_size(bytes).unwrap();
    }
    client
        .connect(&listener.local_addr().unwrap().into())
        .unwrap();
    client.set_nonblocking(true).unwrap();
    let client = TcpStream::from_std(client.into()).unwrap();
    client.set_nodelay(true).unwrap();
    let (server, _) = soon(listener.accept()).await.unwrap();
    (
        WebSocket::new(server, Bytes::new(), options).unwrap(),
        Client(client),
    )
}

/// Runs a session that collects its messages until the connection ends. It has no timer of its own,
/// which would poll it anew and so hide a wake-up that is missing.
pub(crate) fn session(mut socket: WebSocket) -> (Outbound, JoinHandle<(Vec<Incoming>, Closure)>) {
    let outbound = socket.outbound();
    let task = spawn_local(async move {
        let mut messages = Vec::new();
        loop {
            match socket.next().await {
                Incoming::Closed(closure) => return (messages, closure),
                message => messages.push(message),
            }
        }
    });
    (outbound, task)
}

/// Who closed, with which code, and whether cleanly.
pub(crate) fn summary(closure: &Closure) -> (ClosedBy, Option<u16>, bool) {
    (
        closure.by,
        closure.code.map(CloseCode::as_u16),
        closure.clean,
    )
}
