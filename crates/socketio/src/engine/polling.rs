//! Long-polling as a [`Socket`]: frames go into the response of the GET that waits; without one
//! the socket would block, so that [`Outbound`](signalbox_transport::Outbound) queues and bounds
//! them as it does for any slow peer.

use std::{
    cell::{Cell, RefCell},
    io::{self, IoSlice},
    rc::Rc,
    task::{self, Context, Waker},
};

use bytes::Bytes;
use signalbox_transport::{Frame, FrameKind, Socket};

use super::core::{Chore, Core, Key};
use crate::codec;

const CLOSE: &[u8] = b"1";
const NOOP: &[u8] = b"6";

/// The polling state of a session, shared between its socket and its requests.
#[derive(Default)]
pub(crate) struct Polling {
    /// Whether a GET waits. Frames are taken only then.
    waiting: Cell<bool>,
    /// The response so far.
    payload: RefCell<Vec<u8>>,
    /// The GET.
    reader: Cell<Option<Waker>>,
    /// Whoever writes the queue.
    writer: Cell<Option<Waker>>,
    /// Whether nothing more will come.
    finished: Cell<bool>,
    /// Whether it was the client that closed: it is told so by an empty answer.
    pub(crate) client_left: Cell<bool>,
    /// Whether a POST is being read.
    pub(crate) pushing: Cell<bool>,
}

impl Polling {
    /// Begins a GET; `None` while there is one.
    pub(crate) fn begin(self: &Rc<Self>) -> Option<Waiting> {
        if self.waiting.replace(true) {
            return None;
        }
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
        Some(Waiting(Rc::clone(self)))
    }

    /// Whether a GET waits with nothing to answer yet.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.get() && self.payload.borrow().is_empty()
    }

    /// Answers the GET that waits, if any, with nothing.
    pub(crate) fn answer_noop(&self) {
        if self.is_idle() {
            codec::append_text(&mut self.payload.borrow_mut(), NOOP);
            self.wake_reader();
        }
    }

    fn wake_reader(&self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// Whether a frame is the close packet, which has a response of its own: the stock client
    /// hands events of a response over only after it has looked at the whole of it. Those ahead of
    /// a close would find it closed, be kept, and come once more when the session is recovered.
    fn is_parting(&self, frame: &[u8]) -> bool {
        !self.client_left.get() && matches!(Frame::dissect(frame), Some((FrameKind::Close, _)))
    }

    fn append(&self, frame: &[u8]) {
        let payload = &mut *self.payload.borrow_mut();
        match Frame::dissect(frame) {
            Some((FrameKind::Text, packet)) => codec::append_text(payload, packet),
            Some((FrameKind::Binary, bytes)) => codec::append_binary(payload, bytes),
            Some((FrameKind::Close, _)) => {
                self.finished.set(true);
                if !self.client_left.get() {
                    codec::append_text(payload, CLOSE);
                } else if payload.is_empty() {
                    codec::append_text(payload, NOOP);
                }
            }
            // A client that polls has no use for these.
            Some((FrameKind::Ping | FrameKind::Pong, _)) | None => {}
        }
    }
}

/// A GET that waits. Dropped unanswered, as when its client gave up, it lets the next one in.
pub(crate) struct Waiting(Rc<Polling>);

impl Waiting {
    /// Becomes ready with what the GET is to be answered; empty if the session is gone.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> task::Poll<Bytes> {
        let payload = self.0.payload.take();
        if payload.is_empty() && !self.0.finished.get() {
            self.0.reader.set(Some(cx.waker().clone()));
            return task::Poll::Pending;
        }
        self.0.waiting.set(false);
        task::Poll::Ready(payload.into())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.set(false);
        self.0.reader.take();
    }
}

/// The writing side.
pub(crate) struct PollingSocket {
    polling: Rc<Polling>,
    core: Rc<Core>,
    key: Key,
    /// Bytes from which on a response takes no further packet.
    max_bytes: usize,
}

impl PollingSocket {
    pub(crate) fn new(polling: Rc<Polling>, core: Rc<Core>, key: Key, max_bytes: usize) -> Self {
        Self {
            polling,
            core,
            key,
            max_bytes,
        }
    }
}

impl Socket for PollingSocket {
    /// Every slice is one whole frame, since frames are taken whole.
    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let polling = &self.polling;
        let mut taken = 0;
        if polling.waiting.get() {
            for slice in slices {
                let len = polling.payload.borrow().len();
                if len > 0 && (len + slice.len() > self.max_bytes || polling.is_parting(slice)) {
                    break;
                }
                polling.append(slice);
                taken += slice.len();
            }
        }
        if taken == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        polling.wake_reader();
        Ok(taken)
    }

    fn try_read(&self, _buffer: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn poll_readable(&self, _cx: &mut Context<'_>) -> task::Poll<io::Result<()>> {
        task::Poll::Pending
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> task::Poll<io::Result<()>> {
        if self.polling.is_idle() {
            return task::Poll::Ready(Ok(()));
        }
        self.polling.writer.set(Some(cx.waker().clone()));
        task::Poll::Pending
    }

    fn shutdown_write(&self) {}

    fn reset(self: Box<Self>) {}
}

impl Drop for PollingSocket {
    fn drop(&mut self) {
        self.polling.finished.set(true);
        self.polling.wake_reader();
        self.core.add_chore(Chore::PollingGone(self.key));
    }
}
