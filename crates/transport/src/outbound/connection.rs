//! The state that the handles of one connection share: its socket, its queue, the task that empties
//! the queue, and the way to its end. Every transition of [`Phase`] is in this file.

use std::{
    cell::{Cell, Ref, RefCell},
    future, io,
    rc::{Rc, Weak},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use tokio::{
    task::{AbortHandle, spawn_local},
    time::{Instant, sleep_until, timeout_at},
};
use tracing::debug;

use super::{LONGEST_WAIT, OutboundLimits, Sent, SocketRef, queue::Queue};
use crate::{CloseCode, ClosedBy, Closure, Frame, Socket, socket::would_block};

/// The reason of a connection that was closed because its peer reads too slowly.
pub const READER_TOO_SLOW: &str = "reader too slow";

/// Where a connection stands; only ever moves down this list, but for `Clear` and `Backlogged`,
/// which alternate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Open, nothing queued: frames go straight to the socket.
    Clear,
    /// Open, and the flush task writes a queue.
    Backlogged,
    /// Our Close is queued or written, the peer's is awaited.
    Asking,
    /// Our Close is queued or written, and an answer would not be understood: the peer broke the
    /// framing.
    Failing,
    /// The peer's Close has come; the connection ends with what is queued.
    Answering,
    /// The socket is gone.
    Ended,
}

/// One connection.
///
/// What a send touches stands first, in this order: a fan-out visits thousands of connections that
/// are not in the cache, and so waits for one line of each instead of two.
#[repr(C)]
pub(crate) struct Connection {
    /// Taken at the end, so that forgotten handles keep no descriptor open.
    socket: RefCell<Option<Box<dyn Socket>>>,
    bytes_sent: Cell<u64>,
    frames_sent: Cell<u64>,
    phase: Cell<Phase>,
    /// Whether the socket has taken queued bytes since this was last asked.
    progress: Cell<bool>,
    /// Present only while the socket would block.
    queue: RefCell<Option<Box<Queue>>>,
    limits: OutboundLimits,
    /// Goes ahead of Close 1013 at an overflow.
    farewell: Cell<Option<fn() -> Frame>>,
    /// The task that writes the queue, or waits for the end of a closing connection. It holds a
    /// weak reference, and is aborted when it is no longer needed.
    task: Cell<Option<AbortHandle>>,
    /// Whoever waits in `WebSocket::next`, woken at the end: a socket that goes wakes no one by
    /// itself.
    reader: Cell<Option<Waker>>,
    /// Why the connection closes, set when that begins.
    closure: RefCell<Option<Box<Closure>>>,
}

impl Connection {
    pub(super) fn new(socket: Box<dyn Socket>, limits: OutboundLimits) -> Rc<Self> {
        Rc::new(Self {
            socket: RefCell::new(Some(socket)),
            bytes_sent: Cell::default(),
            frames_sent: Cell::default(),
            phase: Cell::new(Phase::Clear),
            progress: Cell::default(),
            queue: RefCell::default(),
            limits,
            farewell: Cell::default(),
            task: Cell::default(),
            reader: Cell::default(),
            closure: RefCell::default(),
        })
    }

    #[inline]
    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// The socket, unless the connection has ended. Must be released before anything that can end
    /// the connection.
    #[inline]
    pub(super) fn socket(&self) -> Option<SocketRef<'_>> {
        Ref::filter_map(self.socket.borrow(), Option::as_deref).ok()
    }

    #[inline]
    pub(super) fn count(&self, bytes: usize, frames: usize) {
        self.bytes_sent.set(self.bytes_sent.get() + bytes as u64);
        self.frames_sent.set(self.frames_sent.get() + frames as u64);
    }

    pub(super) fn bytes_sent(&self) -> u64 {
        self.bytes_sent.get()
    }

    pub(super) fn frames_sent(&self) -> u64 {
        self.frames_sent.get()
    }

    pub(super) fn queued_bytes(&self) -> usize {
        self.queue
            .borrow()
            .as_ref()
            .map_or(0, |queue| queue.bytes())
    }

    pub(super) fn queue_age(&self) -> Option<Duration> {
        let queue = self.queue.borrow();
        Some(queue.as_ref()?.since?.elapsed())
    }

    pub(super) fn set_overload_farewell(&self, farewell: fn() -> Frame) {
        self.farewell.set(Some(farewell));
    }

    /// Takes over a batch of which the socket took `outcome`: queues the rest, or ends a broken
    /// connection.
    #[cold]
    pub(super) fn fall_back(
        self: &Rc<Self>,
        batch: &mut dyn Iterator<Item = &Frame>,
        outcome: io::Result<usize>,
    ) -> Sent {
        let mut written = match outcome {
            Ok(written) => written,
            Err(error) if would_block(&error) => 0,
            Err(error) => {
                self.fail(&error);
                return Sent::Closed;
            }
        };
        let bytes = written;
        let mut whole = 0;
        let mut queue = Box::<Queue>::default();
        let since = Some(Instant::now());
        let mut fits = true;
        for frame in batch {
            if written >= frame.len() {
                written -= frame.len();
                whole += 1;
            } else if written > 0 {
                *queue = Queue::begun(frame.clone(), written);
                written = 0;
            } else if !queue.push(frame, &self.limits) {
                fits = false;
                break;
            }
        }
        self.count(bytes, whole);
        queue.since = since;
        *self.queue.borrow_mut() = Some(queue);
        self.phase.set(Phase::Backlogged);
        if fits {
            self.run(flush(Rc::downgrade(self)));
            Sent::Queued
        } else {
            self.overflow()
        }
    }

    /// Appends to the queue of a connection whose socket would block.
    #[cold]
    pub(super) fn enqueue(self: &Rc<Self>, frames: &mut dyn Iterator<Item = &Frame>) -> Sent {
        if self.phase() >= Phase::Asking {
            return Sent::Closed;
        }
        let mut slot = self.queue.borrow_mut();
        let queue = slot.as_mut().expect("a backlogged connection has a queue");
        for frame in frames {
            if !queue.push(frame, &self.limits) {
                drop(slot);
                return self.overflow();
            }
        }
        Sent::Queued
    }

    /// As [`enqueue`](Self::enqueue), ahead of data frames that are not urgent.
    #[cold]
    pub(super) fn enqueue_urgent(self: &Rc<Self>, frame: &Frame) -> Sent {
        if self.phase() >= Phase::Asking {
            return Sent::Closed;
        }
        let mut slot = self.queue.borrow_mut();
        let queue = slot.as_mut().expect("a backlogged connection has a queue");
        if queue.push_in(frame, &self.limits, true) {
            return Sent::Queued;
        }
        drop(slot);
        self.overflow()
    }

    fn overflow(self: &Rc<Self>) -> Sent {
        let code = CloseCode::TRY_AGAIN_LATER;
        let farewell = self.farewell.get().map(|farewell| farewell());
        let last = farewell
            .into_iter()
            .chain([Frame::close(code, READER_TOO_SLOW)]);
        self.begin_close(
            Closure::ours(code, READER_TOO_SLOW),
            Phase::Asking,
            false,
            last,
        );
        Sent::Overflow
    }

    /// Queues the last frames of the connection and sees to its end: in `Asking` after the peer's
    /// answer, in `Answering` as soon as they are written, in any case after the grace. Does
    /// nothing on a connection that is closing.
    pub(crate) fn begin_close(
        self: &Rc<Self>,
        closure: Closure,
        phase: Phase,
        keep_queue: bool,
        last: impl IntoIterator<Item = Frame>,
    ) {
        if self.phase() >= Phase::Asking {
            return;
        }
        *self.closure.borrow_mut() = Some(Box::new(closure));
        self.phase.set(phase);
        let waiters = {
            let mut slot = self.queue.borrow_mut();
            let queue = slot.get_or_insert_default();
            if !keep_queue {
                queue.drop_unstarted();
            }
            last.into_iter().for_each(|frame| queue.push_last(frame));
            std::mem::take(&mut queue.waiters)
        };
        waiters.into_iter().for_each(Waker::wake);
        // At once, and not at the task's first turn: the caller may be about to drop the
        // connection.
        self.write_queue();
        if self.phase() != Phase::Ended {
            let deadline = Instant::now() + self.limits.close_grace.min(LONGEST_WAIT);
            self.run(finish(Rc::downgrade(self), deadline));
        }
    }

    /// Takes over the socket of `other`, which ends, and what it has queued; the own socket is
    /// dropped, the own queue goes out behind. False, and nothing has happened, when either is
    /// closing or the own socket has taken part of a frame.
    pub(crate) fn adopt(self: &Rc<Self>, other: &Self) -> bool {
        let torn = self.queue.borrow().as_ref().is_some_and(|q| q.is_torn());
        if torn || self.phase() >= Phase::Asking || other.phase() >= Phase::Asking {
            return false;
        }
        let socket = other.socket.take();
        let mut queue = other.queue.take();
        other.end();
        match (&mut queue, self.queue.take()) {
            (Some(first), Some(second)) => first.append(*second),
            (first, second) => *first = first.take().or(second),
        }
        if let Some(task) = self.task.take() {
            task.abort();
        }
        let backlogged = queue.is_some();
        *self.queue.borrow_mut() = queue;
        let before = self.socket.replace(socket);
        if backlogged {
            self.phase.set(Phase::Backlogged);
            self.run(flush(Rc::downgrade(self)));
        } else {
            self.phase.set(Phase::Clear);
        }
        // Last, since it may have something to say about it.
        drop(before);
        true
    }

    /// Ends the connection and gives the data frames that it has queued. `None`, and nothing has
    /// happened, when it is closing or its socket has taken part of a frame.
    pub(super) fn surrender(&self) -> Option<Vec<Frame>> {
        let torn = self.queue.borrow().as_ref().is_some_and(|q| q.is_torn());
        if torn || self.phase() >= Phase::Asking {
            return None;
        }
        let queued = self.queue.borrow_mut().as_mut().map(|q| q.take_data());
        self.end();
        Some(queued.unwrap_or_default())
    }

    /// Closes a connection whose peer broke the framing. The writing side is shut behind the Close
    /// frame, since the peer's answer cannot be told from noise and it should not have to wait for
    /// the grace to pass.
    pub(crate) fn give_up(self: &Rc<Self>, code: CloseCode, reason: &'static str) {
        if self.phase() == Phase::Asking {
            self.phase.set(Phase::Failing);
            if self.queue.borrow().is_none() {
                self.shutdown_write();
            }
        }
        self.begin_close(
            Closure::ours(code, reason),
            Phase::Failing,
            false,
            [Frame::close(code, reason)],
        );
    }

    /// The peer's Close has come after ours: ends the connection, once ours is written.
    pub(crate) fn answered(&self) {
        if let Some(closure) = self.closure.borrow_mut().as_mut() {
            closure.clean = true;
        }
        if self.queue.borrow().is_some() {
            self.phase.set(Phase::Answering);
        } else {
            self.end();
        }
    }

    /// Ends the connection of a silent peer now. The Close frame goes out only if the socket takes
    /// it at once.
    pub(crate) fn time_out(self: &Rc<Self>, code: CloseCode, reason: &'static str) {
        if self.phase() == Phase::Clear {
            let closure = Closure {
                by: ClosedBy::Timeout,
                ..Closure::ours(code, reason)
            };
            // As an answer it ends with its last byte; what does not fit is not waited for.
            self.begin_close(
                closure,
                Phase::Answering,
                false,
                [Frame::close(code, reason)],
            );
        } else if self.phase() == Phase::Backlogged {
            let closure = Closure {
                by: ClosedBy::Timeout,
                code: None,
                ..Closure::ours(code, reason)
            };
            *self.closure.borrow_mut() = Some(Box::new(closure));
        }
        self.reset();
    }

    /// Ends a broken connection.
    pub(crate) fn fail(&self, error: &io::Error) {
        debug!(?error, "connection broke");
        let reason = match error.kind() {
            io::ErrorKind::UnexpectedEof => "left without a closing handshake",
            io::ErrorKind::ConnectionReset => "reset by the peer",
            io::ErrorKind::BrokenPipe => "closed by the peer",
            io::ErrorKind::TimedOut => "timed out in the network",
            _ => "connection broke",
        };
        self.closure
            .borrow_mut()
            .get_or_insert_with(|| Box::new(Closure::network(reason)));
        self.end();
    }

    /// Ends the connection and lets the system deliver what it has taken.
    pub(crate) fn end(&self) {
        self.phase.set(Phase::Ended);
        drop(self.socket.take());
        let queue = self.queue.take();
        if let Some(task) = self.task.take() {
            task.abort();
        }
        queue
            .into_iter()
            .flat_map(|queue| queue.waiters)
            .for_each(Waker::wake);
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// Ends the connection and throws away what the peer has not taken.
    fn reset(&self) {
        if let Some(socket) = self.socket.take() {
            socket.reset();
        }
        self.end();
    }

    /// How the connection ended, if it has.
    pub(crate) fn ended(&self) -> Option<Closure> {
        (self.phase() == Phase::Ended).then(|| match self.closure.borrow().as_deref() {
            Some(closure) => closure.clone(),
            None => Closure::network("connection dropped"),
        })
    }

    /// Why the connection closes, once that has begun.
    pub(super) fn closure(&self) -> Option<Closure> {
        self.closure.borrow().as_deref().cloned()
    }

    /// Reads from the socket; an ended connection reads as one whose peer sends no more.
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket()
            .map_or(Ok(0), |socket| socket.try_read(buffer))
    }

    /// Becomes ready when there is something to read or the connection has ended.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.set_reader(cx);
        let readable = match self.socket() {
            Some(socket) => ready!(socket.poll_readable(cx)),
            None => Ok(()),
        };
        if let Err(error) = readable {
            self.fail(&error);
        }
        Poll::Ready(())
    }

    /// Remembers the reader, to wake it at the end of the connection.
    pub(crate) fn set_reader(&self, cx: &Context<'_>) {
        let reader = self
            .reader
            .take()
            .filter(|reader| reader.will_wake(cx.waker()));
        self.reader
            .set(Some(reader.unwrap_or_else(|| cx.waker().clone())));
    }

    /// Whether the socket has taken queued bytes since the last call.
    pub(crate) fn take_progress(&self) -> bool {
        self.progress.take()
    }

    /// Whether nothing is queued or accepted any more; otherwise registers the task for when that
    /// is so.
    pub(super) fn wait_drained(&self, cx: &Context<'_>) -> bool {
        if self.phase() != Phase::Backlogged {
            return true;
        }
        if let Some(queue) = self.queue.borrow_mut().as_mut()
            && !queue
                .waiters
                .iter()
                .any(|waiter| waiter.will_wake(cx.waker()))
        {
            queue.waiters.push(cx.waker().clone());
        }
        false
    }

    /// Writes what the socket takes. True when nothing is left to write, or the connection has
    /// ended.
    fn write_queue(&self) -> bool {
        let (progress, result) = {
            let (Some(socket), mut queue) = (self.socket(), self.queue.borrow_mut()) else {
                return true;
            };
            let Some(queue) = queue.as_mut() else {
                return true;
            };
            queue.write_to(&*socket)
        };
        self.count(progress.bytes, progress.frames);
        if progress.bytes > 0 {
            self.progress.set(true);
        }
        if let Err(error) = result {
            self.fail(&error);
            return true;
        }
        if !progress.done {
            return false;
        }
        match self.phase() {
            Phase::Answering => {
                if let Some(closure) = self.closure.borrow_mut().as_mut() {
                    closure.clean = closure.by != ClosedBy::Timeout;
                }
                self.end();
            }
            phase => {
                match phase {
                    Phase::Backlogged => self.phase.set(Phase::Clear),
                    Phase::Failing => self.shutdown_write(),
                    _ => {}
                }
                let queue = self.queue.take();
                queue
                    .into_iter()
                    .flat_map(|queue| queue.waiters)
                    .for_each(Waker::wake);
            }
        }
        true
    }

    fn shutdown_write(&self) {
        if let Some(socket) = self.socket() {
            socket.shutdown_write();
        }
    }

    fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.write_queue() {
                return Poll::Ready(());
            }
            let writable = match self.socket() {
                Some(socket) => ready!(socket.poll_writable(cx)),
                None => return Poll::Ready(()),
            };
            if let Err(error) = writable {
                self.fail(&error);
            }
        }
    }

    /// Makes `task` the connection's task, in place of the one before.
    fn run(&self, task: impl Future<Output = ()> + 'static) {
        if let Some(before) = self.task.replace(Some(spawn_local(task).abort_handle())) {
            before.abort();
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

/// Writes the queue to its end.
async fn flush(connection: Weak<Connection>) {
    // The reference is taken anew at every poll: a task that held one would keep an abandoned
    // connection alive.
    future::poll_fn(|cx| match connection.upgrade() {
        Some(connection) => connection.poll_flush(cx),
        None => Poll::Ready(()),
    })
    .await;
}

/// Writes the queue of a closing connection and resets it at the deadline, unless the reader has
/// ended it before.
async fn finish(connection: Weak<Connection>, deadline: Instant) {
    if timeout_at(deadline, flush(Weak::clone(&connection)))
        .await
        .is_ok()
    {
        sleep_until(deadline).await;
    }
    if let Some(connection) = connection.upgrade() {
        connection.reset();
    }
}
