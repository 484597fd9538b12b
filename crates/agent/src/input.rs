//! What waits to be typed into a command: bounded, and written only as far as
//! the process takes it, so that it never holds up what the process writes.

use std::collections::VecDeque;
use std::os::fd::AsFd;

use rustix::io::{Errno, write};

use crate::executor::NotTaken;

/// Input of one command.
#[derive(Debug)]
pub(crate) struct Input {
    waiting: VecDeque<u8>,
    capacity: usize,
    /// Whether nothing more is taken.
    closed: bool,
}

/// What is to be done with the descriptor that input goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Wait until it can be written to.
    Write,
    /// Nothing.
    Rest,
    /// Close it.
    Close,
}

impl Input {
    /// Takes at most so many bytes ahead of the process.
    pub(crate) const fn new(capacity: usize) -> Self {
        Self {
            waiting: VecDeque::new(),
            capacity,
            closed: false,
        }
    }

    /// Takes all of the bytes or none.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), NotTaken> {
        if self.closed {
            return Err(NotTaken::Closed);
        }
        if self.waiting.len() + bytes.len() > self.capacity {
            return Err(NotTaken::Full);
        }
        self.waiting.extend(bytes);
        Ok(())
    }

    /// Takes nothing more; what waits is still written.
    pub(crate) const fn close(&mut self) {
        self.closed = true;
    }

    /// What to do next.
    pub(crate) fn next(&self) -> Next {
        match (self.waiting.is_empty(), self.closed) {
            (false, _) => Next::Write,
            (true, true) => Next::Close,
            (true, false) => Next::Rest,
        }
    }

    /// Writes what a descriptor that never blocks takes now.
    pub(crate) fn write_to(&mut self, descriptor: impl AsFd) {
        while !self.waiting.is_empty() {
            match write(&descriptor, self.waiting.as_slices().0) {
                Ok(written) => drop(self.waiting.drain(..written)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                // Nobody reads it any more.
                Err(_) => {
                    self.waiting.clear();
                    self.closed = true;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::read;
    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;

    #[test]
    fn a_process_that_does_not_read_stops_nothing() {
        let (reader, writer) = pipe_with(PipeFlags::NONBLOCK).unwrap();
        let mut input = Input::new(200_000);
        input.push(&[b'x'; 150_000]).unwrap();
        assert_eq!(input.push(&[b'y'; 60_000]), Err(NotTaken::Full));
        input.write_to(&writer);
        assert_eq!(input.next(), Next::Write);
        let mut taken = 0;
        let mut buffer = vec![0; 65_536];
        while taken < 150_000 {
            taken += read(&reader, &mut buffer[..]).unwrap();
            input.write_to(&writer);
        }
        assert_eq!(input.next(), Next::Rest);
        input.close();
        assert_eq!(
            (input.next(), input.push(b"z")),
            (Next::Close, Err(NotTaken::Closed))
        );
    }

    #[test]
    fn a_closed_reader_closes_the_input() {
        let (reader, writer) = pipe_with(PipeFlags::NONBLOCK).unwrap();
        drop(reader);
        let mut input = Input::new(10);
        input.push(b"x").unwrap();
        input.write_to(&writer);
        assert_eq!(input.next(), Next::Close);
    }
}
