//! The reading side of a WebSocket connection: messages for the session, everything else (pings,
//! closing, violations, silence) settled by itself. Does not write; its answers go through
//! [`Outbound`].

mod decoder;

use std::{
    future, io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    net::TcpStream,
    task::coop::poll_proceed,
    time::{Instant, Sleep, sleep_until},
};
pub use tokio_tungstenite::tungstenite::Utf8Bytes;

use self::decoder::{Decoded, Decoder};
use crate::{
    CloseCode, Closure, Frame, Outbound, OutboundLimits, SEND_BUFFER_BYTES, Socket,
    outbound::{LONGEST_WAIT, Phase},
    set_send_buffer,
    socket::would_block,
};

/// Default of [`WebSocketOptions::max_message_bytes`].
pub const MAX_MESSAGE_BYTES: usize = 1_048_576;
/// Default of [`WebSocketOptions::silence`].
pub const SILENCE: Duration = Duration::from_secs(60);

/// What a closing connection reads at a time, to throw it away.
const DISCARD_BYTES: usize = 4096;

/// Limits of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WebSocketOptions {
    /// Payload bytes of the longest message accepted, whole or in fragments; default 1,048,576. A
    /// longer one is refused with 1009 as soon as a header announces it.
    pub max_message_bytes: usize,
    /// How long a peer may send nothing; default 60 s. After half of it a ping asks for a sign of
    /// life. Any byte is one.
    pub silence: Duration,
    /// Bound of the kernel's send buffer in bytes; default 256 KiB.
    pub send_buffer_bytes: usize,
    /// Bounds of the outgoing queue and of the closing.
    pub outbound: OutboundLimits,
}

impl Default for WebSocketOptions {
    fn default() -> Self {
        Self {
            max_message_bytes: MAX_MESSAGE_BYTES,
            silence: SILENCE,
            send_buffer_bytes: SEND_BUFFER_BYTES,
            outbound: OutboundLimits::default(),
        }
    }
}

/// What a session hears from its connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A text message. It shares the read buffer: copy what is kept for long.
    Text(Utf8Bytes),
    /// A binary message. It shares the read buffer: copy what is kept for long.
    Binary(Bytes),
    /// The connection is gone; every later call of `next` says so again.
    Closed(Closure),
}

/// A WebSocket connection after its upgrade. Dropping it ends the connection, whatever handles of
/// [`Outbound`] remain.
pub struct WebSocket {
    outbound: Outbound,
    /// Present only from the first byte of a message to its last, so that an idle connection has no
    /// buffer.
    decoder: Option<Box<Decoder>>,
    max_message_bytes: usize,
    silence: Duration,
    /// When the peer last sent anything.
    last_seen: Instant,
    /// Fires when the silence has to be looked at. Not moved when something arrives: most firings
    /// find it too early and set it anew, once in half a silence instead of once per message.
    timer: Pin<Box<Sleep>>,
    /// Whether a ping has gone out since `last_seen`.
    pinged: bool,
    /// Whether the socket has to become readable before the next read.
    blocked: bool,
}

impl WebSocket {
    /// A connection over an upgraded TCP stream. `read_ahead` is what arrived behind the upgrade
    /// request.
    ///
    /// The stream must be registered with the current runtime, which must be able to run local
    /// tasks: see [`Outbound`].
    ///
    /// # Errors
    /// When the socket's options cannot be set, as on one that the peer has reset already.
    pub fn new(
        stream: TcpStream,
        read_ahead: Bytes,
        options: &WebSocketOptions,
    ) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        set_send_buffer(&stream, options.send_buffer_bytes)?;
        Ok(Self::over(stream, read_ahead, options))
    }

    /// A connection over any other [`Socket`]; `send_buffer_bytes` does not apply.
    pub fn over(
        socket: impl Socket + 'static,
        read_ahead: Bytes,
        options: &WebSocketOptions,
    ) -> Self {
        let silence = options.silence.min(LONGEST_WAIT);
        let now = Instant::now();
        Self {
            outbound: Outbound::new(socket, options.outbound),
            blocked: read_ahead.is_empty(),
            decoder: (!read_ahead.is_empty())
                .then(|| Box::new(Decoder::new(options.max_message_bytes, read_ahead))),
            max_message_bytes: options.max_message_bytes,
            silence,
            last_seen: now,
            timer: Box::pin(sleep_until(now + silence / 2)),
            pinged: false,
        }
    }

    /// A handle to the writing side.
    pub fn outbound(&self) -> Outbound {
        self.outbound.clone()
    }

    /// Goes on behind `outbound` in place of the own one: its socket is dropped, and what it has
    /// queued goes out here, so that whoever holds it notices nothing. For a protocol that begins on
    /// another transport and moves to a WebSocket.
    ///
    /// False, and nothing has changed, when either is closing or that socket has taken part of a
    /// frame.
    pub fn adopt(&mut self, outbound: &Outbound) -> bool {
        let adopted = outbound.connection().adopt(self.outbound.connection());
        if adopted {
            self.outbound = outbound.clone();
        }
        adopted
    }

    /// Changes the longest message accepted, from the next frame header on; for a session that
    /// trusts its peer with more than at first.
    pub fn set_max_message_bytes(&mut self, max_message_bytes: usize) {
        self.max_message_bytes = max_message_bytes;
        if let Some(decoder) = &mut self.decoder {
            decoder.set_max_message_bytes(max_message_bytes);
        }
    }

    /// Waits for the next message, or the end of the connection.
    ///
    /// Keep calling it, also after closing through [`Outbound`]: pings, closing and the silence
    /// limit are looked after here.
    ///
    /// Cancel-safe: everything that has arrived is kept in `self`, so the future may be dropped at
    /// any time, as the losing branch of a `select!` is, and no message is lost or torn. It yields
    /// to other tasks by itself under a flood.
    pub async fn next(&mut self) -> Incoming {
        future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Waits for the end of the connection and ignores the messages until then; for a session that
    /// has closed it.
    pub async fn closed(&mut self) -> Closure {
        loop {
            if let Incoming::Closed(closure) = self.next().await {
                return closure;
            }
        }
    }

    /// [`next`](Self::next) for hand-written futures.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        loop {
            // Pings and fragments yield no message, so that a flood of them would never return
            // without a budget.
            let coop = ready!(poll_proceed(cx));
            let connection = self.outbound.connection();
            if let Some(closure) = connection.ended() {
                coop.made_progress();
                return Poll::Ready(Incoming::Closed(closure));
            }
            if connection.phase() == Phase::Answering {
                connection.set_reader(cx);
                return Poll::Pending;
            }
            if self.blocked {
                if connection.poll_readable(cx).is_pending() {
                    ready!(self.poll_silence(cx));
                }
                self.blocked = false;
                continue;
            }
            coop.made_progress();
            if let Some(incoming) = self.receive() {
                return Poll::Ready(incoming);
            }
        }
    }

    /// Reads once and deals with what came; returns only what the session should hear.
    fn receive(&mut self) -> Option<Incoming> {
        let connection = self.outbound.connection();
        if connection.phase() == Phase::Failing {
            self.discard();
            return None;
        }
        let closing = connection.phase() >= Phase::Asking;
        let decoder = self
            .decoder
            .get_or_insert_with(|| Box::new(Decoder::new(self.max_message_bytes, Bytes::new())));
        let (decoded, heard) = decoder.decode(&self.outbound);
        if heard {
            self.last_seen = Instant::now();
            self.pinged = false;
        }
        match decoded {
            Decoded::Text(_) | Decoded::Binary(_) if closing => {}
            Decoded::Text(text) => return Some(Incoming::Text(text)),
            Decoded::Binary(bytes) => return Some(Incoming::Binary(bytes)),
            Decoded::Control => {}
            Decoded::Blocked => {
                self.blocked = true;
                if decoder.is_empty() {
                    self.decoder = None;
                }
            }
            Decoded::Close { .. } if closing => connection.answered(),
            Decoded::Close {
                code,
                reason,
                answer,
            } => {
                connection.begin_close(
                    Closure::by_peer(code, reason),
                    Phase::Answering,
                    false,
                    answer,
                );
            }
            Decoded::Violation { code, reason } => {
                connection.give_up(code, reason);
                self.decoder = None;
            }
            Decoded::Broken(error) => connection.fail(&error),
        }
        None
    }

    /// Reads what a peer still sends that broke the framing. Closing with it unread would reset the
    /// connection, and the peer might never see the Close frame that says why.
    fn discard(&mut self) {
        let connection = self.outbound.connection();
        match connection.try_read(&mut [0; DISCARD_BYTES]) {
            Ok(0) => connection.end(),
            Ok(_) => {}
            Err(error) if would_block(&error) => self.blocked = true,
            Err(error) => connection.fail(&error),
        }
    }

    /// Pings a silent peer and ends one that stays silent; ready when it has ended it.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // A closing connection has a deadline of its own.
        while !self.outbound.is_closed() {
            ready!(self.timer.as_mut().poll(cx));
            let connection = self.outbound.connection();
            let now = Instant::now();
            if connection.take_progress() {
                // A peer that takes what is queued for it is slow, but not silent.
                self.last_seen = now;
                self.pinged = false;
            }
            let silent = now - self.last_seen;
            let next = if silent >= self.silence {
                connection.time_out(CloseCode::GOING_AWAY, "no answer to ping");
                return Poll::Ready(());
            } else if silent >= self.silence / 2 {
                if !self.pinged {
                    self.pinged = true;
                    let _ = self.outbound.send_control(Frame::ping(&[]));
                }
                self.silence
            } else {
                self.silence / 2
            };
            self.timer.as_mut().reset(self.last_seen + next);
        }
        Poll::Pending
    }
}

impl Drop for WebSocket {
    fn drop(&mut self) {
        self.outbound.connection().end();
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt, net::TcpListener, time::timeout};

    use super::*;

    /// Reads for as long as something arrives, and says whether a decoder is held afterwards.
    async fn held(socket: &mut WebSocket, client: &mut TcpStream, bytes: &[u8]) -> bool {
        client.write_all(bytes).await.unwrap();
        // The bytes are in the socket by now; the time is for the runtime to learn of it.
        while timeout(Duration::from_millis(20), socket.next())
            .await
            .is_ok()
        {}
        socket.decoder.is_some()
    }

    #[tokio::test(flavor = "local")]
    async fn decoder_lasts_from_the_first_byte_of_a_message_to_its_last() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let options = WebSocketOptions::default();
        let mut socket = WebSocket::new(stream, Bytes::new(), &options).unwrap();
        let text = [0x81, 0x82, 0, 0, 0, 0, b'h', b'i'];
        let pong = [0x8a, 0x80, 0, 0, 0, 0];

        assert!(!held(&mut socket, &mut client, b"").await, "never heard of");
        assert!(
            held(&mut socket, &mut client, &text[..3]).await,
            "part of a frame"
        );
        assert!(
            !held(&mut socket, &mut client, &text[3..]).await,
            "the rest"
        );
        assert!(
            !held(
                &mut socket,
                &mut client,
                &[&text[..], &pong, &text].concat()
            )
            .await
        );
        let first_fragment = [0x01, 0x80, 0, 0, 0, 0];
        assert!(
            held(&mut socket, &mut client, &first_fragment).await,
            "part of a message"
        );
        assert!(held(&mut socket, &mut client, &pong).await, "and still");
    }
}
