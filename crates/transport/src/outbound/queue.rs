//! Frames that a socket would not take yet, in the order in which they go out: the one in progress,
//! control frames, urgent data frames, data frames.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    task::Waker,
};

use tokio::time::Instant;

use super::{OutboundLimits, WRITE_FRAMES};
use crate::{Frame, Socket, socket::would_block};

/// The unwritten frames of one connection; exists only while there are some.
#[derive(Default)]
pub(super) struct Queue {
    /// The frame that is partly written; finished before anything else.
    partial: Option<Frame>,
    /// Bytes of `partial` that are written.
    offset: usize,
    /// Control frames, which overtake data frames.
    control: VecDeque<Frame>,
    /// Data frames that overtake other data frames.
    urgent: VecDeque<Frame>,
    /// Data frames, and behind them the farewell and the Close frame of a closing connection.
    data: VecDeque<Frame>,
    /// Unwritten bytes of all of them.
    bytes: usize,
    /// When the socket would first take no more.
    pub(super) since: Option<Instant>,
    /// Those who wait for the queue to end.
    pub(super) waiters: Vec<Waker>,
}

/// What one attempt to write a queue achieved.
pub(super) struct Progress {
    /// Bytes that the socket took.
    pub(super) bytes: usize,
    /// Frames of which it took the last byte.
    pub(super) frames: usize,
    /// Whether the queue is empty now; otherwise the socket would block.
    pub(super) done: bool,
}

impl Queue {
    /// A queue whose first frame is written up to `offset`.
    pub(super) fn begun(partial: Frame, offset: usize) -> Self {
        Self {
            bytes: partial.len() - offset,
            partial: Some(partial),
            offset,
            ..Self::default()
        }
    }

    /// Appends a frame to its kind, or refuses it when the queue would go over its bounds. An empty
    /// queue takes any frame.
    pub(super) fn push(&mut self, frame: &Frame, limits: &OutboundLimits) -> bool {
        self.push_in(frame, limits, false)
    }

    /// As [`push`](Self::push), ahead of data frames that are not urgent, if it is.
    pub(super) fn push_in(&mut self, frame: &Frame, limits: &OutboundLimits, urgent: bool) -> bool {
        if self.bytes > 0
            && (self.frames() >= limits.queue_frames
                || self.bytes + frame.len() > limits.queue_bytes)
        {
            return false;
        }
        self.bytes += frame.len();
        if frame.is_control() {
            &mut self.control
        } else if urgent {
            &mut self.urgent
        } else {
            &mut self.data
        }
        .push_back(frame.clone());
        true
    }

    /// Appends a frame behind all others, without regard to the bounds.
    pub(super) fn push_last(&mut self, frame: Frame) {
        self.bytes += frame.len();
        self.data.push_back(frame);
    }

    /// Whether a frame is partly written.
    pub(super) fn is_torn(&self) -> bool {
        self.partial.is_some()
    }

    /// Puts another queue behind this one, without regard to the bounds. It must not be torn.
    pub(super) fn append(&mut self, mut other: Self) {
        debug_assert!(!other.is_torn(), "a frame cannot go on on another socket");
        self.control.append(&mut other.control);
        self.urgent.append(&mut other.urgent);
        self.data.append(&mut other.data);
        self.bytes += other.bytes;
        self.waiters.append(&mut other.waiters);
    }

    /// Takes the data frames out, for another connection to send. The queue is not to be written
    /// any more.
    pub(super) fn take_data(&mut self) -> Vec<Frame> {
        std::mem::take(&mut self.data).into()
    }

    /// Forgets everything but the frame in progress.
    pub(super) fn drop_unstarted(&mut self) {
        self.control = VecDeque::new();
        self.urgent = VecDeque::new();
        self.data = VecDeque::new();
        self.bytes = self
            .partial
            .as_ref()
            .map_or(0, |partial| partial.len() - self.offset);
    }

    /// Unwritten bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Writes until the queue is empty or the socket would block; also says what was written before
    /// an error.
    pub(super) fn write_to(&mut self, socket: &dyn Socket) -> (Progress, io::Result<()>) {
        let mut progress = Progress {
            bytes: 0,
            frames: 0,
            done: false,
        };
        while self.bytes > 0 {
            match self.write_some(socket) {
                Ok(0) => return (progress, Err(io::ErrorKind::WriteZero.into())),
                Ok(written) => {
                    progress.bytes += written;
                    progress.frames += self.advance(written);
                }
                Err(error) if would_block(&error) => return (progress, Ok(())),
                Err(error) => return (progress, Err(error)),
            }
        }
        progress.done = true;
        (progress, Ok(()))
    }

    fn write_some(&self, socket: &dyn Socket) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); WRITE_FRAMES];
        let started = self
            .partial
            .iter()
            .map(|frame| &frame.as_bytes()[self.offset..]);
        let waiting = self.control.iter().chain(&self.urgent).chain(&self.data);
        let waiting = waiting.map(Frame::as_bytes);
        let mut count = 0;
        for (slice, bytes) in slices.iter_mut().zip(started.chain(waiting)) {
            *slice = IoSlice::new(bytes);
            count += 1;
        }
        socket.try_write_vectored(&slices[..count])
    }

    /// Forgets the first `written` bytes and returns how many frames ended within them.
    fn advance(&mut self, mut written: usize) -> usize {
        self.bytes -= written;
        let mut frames = 0;
        while written > 0 {
            let next = self
                .partial
                .take()
                .or_else(|| self.control.pop_front())
                .or_else(|| self.urgent.pop_front())
                .or_else(|| self.data.pop_front());
            let frame = next.expect("a socket takes no more than it was given");
            let left = frame.len() - self.offset;
            if written < left {
                self.offset += written;
                self.partial = Some(frame);
                break;
            }
            written -= left;
            self.offset = 0;
            frames += 1;
        }
        frames
    }

    fn frames(&self) -> usize {
        usize::from(self.partial.is_some())
            + self.control.len()
            + self.urgent.len()
            + self.data.len()
    }
}
