//! The one way out of a connection: whole frames, in order, straight to the socket, and a bounded
//! queue only while the socket would block. Does not read.

mod connection;
mod queue;

use std::{cell::Ref, future, io::IoSlice, iter, rc::Rc, task::Poll, time::Duration};

pub use self::connection::READER_TOO_SLOW;
pub(crate) use self::connection::{Connection, Phase};
use crate::{CloseCode, ClosedBy, Closure, Frame, Socket};

/// Default of [`OutboundLimits::queue_frames`].
const QUEUE_FRAMES: usize = 1024;
/// Default of [`OutboundLimits::queue_bytes`].
const QUEUE_BYTES: usize = 1024 * 1024;
/// Default of [`OutboundLimits::close_grace`].
const CLOSE_GRACE: Duration = Duration::from_secs(5);

/// Longer waits than this are taken as this, so that deadlines stay within the clock's range.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(365 * 24 * 3600);

/// Frames that one vectored write takes; a longer batch takes several writes.
const WRITE_FRAMES: usize = 64;

/// A connection's socket while it has one.
type SocketRef<'a> = Ref<'a, dyn Socket>;

/// Bounds of what a connection may leave unwritten, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboundLimits {
    /// Frames that may be queued; one more and the peer counts as too slow. Default 1024.
    pub queue_frames: usize,
    /// Unwritten bytes that may be queued, headers included; default 1 MiB. A frame that finds the
    /// queue empty is taken whatever its size.
    pub queue_bytes: usize,
    /// From our Close to the reset of a connection whose peer neither takes nor answers it; default
    /// 5 s.
    pub close_grace: Duration,
}

impl Default for OutboundLimits {
    fn default() -> Self {
        Self {
            queue_frames: QUEUE_FRAMES,
            queue_bytes: QUEUE_BYTES,
            close_grace: CLOSE_GRACE,
        }
    }
}

/// What became of the frames given to [`Outbound::send`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Sent {
    /// The socket took all of them.
    Written,
    /// Some wait for the socket; [`Outbound::drained`] tells when they are written.
    Queued,
    /// The queue went over its bounds: queued frames were dropped and the connection is being
    /// closed with 1013.
    Overflow,
    /// The connection is closed or closing; nothing was taken.
    Closed,
}

/// The writing half of a connection; a clone is another handle to the same connection.
///
/// Must be used inside a [`tokio::task::LocalSet`] or a local runtime, such as a shard's: when the
/// socket would block, a local task takes over, and panics if there is no place to run it. The task
/// ends with the queue or the connection.
#[derive(Clone)]
pub struct Outbound(Rc<Connection>);

impl Outbound {
    /// The writing half of a connection over `socket`.
    pub fn new(socket: impl Socket + 'static, limits: OutboundLimits) -> Self {
        Self(Connection::new(Box::new(socket), limits))
    }

    /// Sends data frames: those of one batch in one vectored write, if nothing is queued.
    ///
    /// Nothing is allocated and no frame is cloned unless the socket leaves a remainder. A batch
    /// longer than [`OutboundLimits::queue_frames`] can overflow even an idle connection; those who
    /// replay history send less at a time and wait for [`drained`](Self::drained).
    #[inline]
    pub fn send<'a>(&self, mut frames: impl Iterator<Item = &'a Frame> + Clone) -> Sent {
        if self.0.phase() == Phase::Clear {
            self.write_through(frames)
        } else {
            self.0.enqueue(&mut frames)
        }
    }

    /// Sends one data frame.
    #[inline]
    pub fn send_frame(&self, frame: &Frame) -> Sent {
        self.send(iter::once(frame))
    }

    /// Sends one data frame ahead of all queued ones that were sent without urgency, but never
    /// within one that is partly written. Urgent frames keep their order, and the queue's bounds
    /// hold for all frames together.
    pub fn send_urgent(&self, frame: &Frame) -> Sent {
        if self.0.phase() == Phase::Clear {
            self.send_frame(frame)
        } else {
            self.0.enqueue_urgent(frame)
        }
    }

    /// Sends a control frame ahead of all queued data frames, but never within one that is partly
    /// written. A Close frame closes the connection as [`close`](Self::close) does.
    pub fn send_control(&self, frame: Frame) -> Sent {
        debug_assert!(frame.is_control(), "a data frame must not overtake others");
        if frame.is_close() {
            if self.is_closed() {
                return Sent::Closed;
            }
            self.0
                .begin_close(closure_of(&frame), Phase::Asking, false, [frame]);
            return Sent::Queued;
        }
        self.send(iter::once(&frame))
    }

    /// Closes the connection now: frames that still wait are dropped, the one in progress is
    /// finished.
    ///
    /// The peer has [`OutboundLimits::close_grace`] from this call to take and answer the Close
    /// frame. Whoever owns the `WebSocket` keeps calling `next` until it returns `Closed`; dropping
    /// it cuts that short. Closing twice does nothing.
    pub fn close(&self, code: CloseCode, reason: &str) {
        self.0.begin_close(
            Closure::ours(code, reason.to_owned()),
            Phase::Asking,
            false,
            [Frame::close(code, reason)],
        );
    }

    /// Closes as [`close`](Self::close) does, with a last data frame ahead of the Close frame.
    pub fn close_with(&self, farewell: Frame, code: CloseCode, reason: &str) {
        let last = [farewell, Frame::close(code, reason)];
        self.0.begin_close(
            Closure::ours(code, reason.to_owned()),
            Phase::Asking,
            false,
            last,
        );
    }

    /// Closes the connection after everything that is queued; the grace counts from this call all
    /// the same. A farewell is just the last frame sent before.
    pub fn close_after_flush(&self, code: CloseCode, reason: &str) {
        self.0.begin_close(
            Closure::ours(code, reason.to_owned()),
            Phase::Asking,
            true,
            [Frame::close(code, reason)],
        );
    }

    /// Ends the connection now, without a Close frame; what the socket has taken is still delivered.
    pub fn end(&self) {
        self.0.end();
    }

    /// Ends the connection, without a Close frame, and gives the data frames that the socket has not
    /// taken, for a session that goes on over another connection.
    ///
    /// `None`, and nothing has happened, when the connection is closing or a frame is partly
    /// written.
    pub fn surrender(&self) -> Option<Vec<Frame>> {
        self.0.surrender()
    }

    /// Sets what writes the data frame that goes ahead of the Close 1013 when the queue overflows.
    pub fn set_overload_farewell(&self, farewell: fn() -> Frame) {
        self.0.set_overload_farewell(farewell);
    }

    /// Waits until nothing is queued or the connection accepts no more frames, whichever is first;
    /// for pacing a replay.
    ///
    /// Cancel-safe: it may be dropped and called again.
    pub async fn drained(&self) {
        future::poll_fn(|cx| {
            if self.0.wait_drained(cx) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    /// Whether the connection accepts no more frames, because it is closing or closed.
    #[inline]
    pub fn is_closed(&self) -> bool {
        self.0.phase() >= Phase::Asking
    }

    /// Why the connection closes or has closed; `None` while it is open, and where it ended without
    /// a reason.
    pub fn closure(&self) -> Option<Closure> {
        self.0.closure()
    }

    /// Unwritten bytes in the queue, headers included.
    pub fn queued_bytes(&self) -> usize {
        self.0.queued_bytes()
    }

    /// For how long something has been waiting without a break; `None` when nothing is.
    pub fn queue_age(&self) -> Option<Duration> {
        self.0.queue_age()
    }

    /// Bytes that the socket has taken since the upgrade, headers included.
    pub fn bytes_sent(&self) -> u64 {
        self.0.bytes_sent()
    }

    /// Frames that the socket has taken wholly.
    pub fn frames_sent(&self) -> u64 {
        self.0.frames_sent()
    }

    pub(crate) fn connection(&self) -> &Rc<Connection> {
        &self.0
    }

    /// The path of a delivered message: slices on the stack, one system call, no allocation.
    #[inline]
    fn write_through<'a>(&self, mut frames: impl Iterator<Item = &'a Frame> + Clone) -> Sent {
        let Some(socket) = self.0.socket() else {
            return Sent::Closed;
        };
        loop {
            let unsent = frames.clone();
            let Some(first) = frames.next() else {
                return Sent::Written;
            };
            let mut bytes = first.len();
            let mut count = 1;
            // Most batches are one frame: it goes without the array, whose slices have to be
            // initialised.
            let outcome = if let Some(second) = frames.next() {
                let mut slices = [IoSlice::new(&[]); WRITE_FRAMES];
                slices[0] = IoSlice::new(first.as_bytes());
                slices[1] = IoSlice::new(second.as_bytes());
                bytes += second.len();
                count = 2;
                for (slice, frame) in slices[2..].iter_mut().zip(frames.by_ref()) {
                    *slice = IoSlice::new(frame.as_bytes());
                    bytes += frame.len();
                    count += 1;
                }
                socket.try_write_all(&slices[..count])
            } else {
                socket.try_write(first.as_bytes())
            };
            match outcome {
                Ok(written) if written == bytes => {
                    self.0.count(written, count);
                    if count < WRITE_FRAMES {
                        return Sent::Written;
                    }
                }
                outcome => {
                    drop(socket);
                    return self.0.fall_back(&mut { unsent }, outcome);
                }
            }
        }
    }
}

/// What a Close frame of ours says, for the record.
fn closure_of(close: &Frame) -> Closure {
    let payload = &close.as_bytes()[2..];
    let code = payload
        .first_chunk::<2>()
        .map(|code| CloseCode::received(u16::from_be_bytes(*code)));
    let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default()).into_owned();
    Closure {
        by: ClosedBy::Us,
        code,
        reason: reason.into(),
        clean: false,
    }
}

#[cfg(test)]
mod tests;
