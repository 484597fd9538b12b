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
    /// Whether something is missing behind what waits.
    broken: bool,
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
    /// The process has all that there was in front of what was not taken, and
    /// may want that: it cannot go on, nor be told that this was the end.
    Fail,
}

impl Input {
    /// Takes at most so many bytes ahead of the process.
    pub(crate) const fn new(capacity: usize) -> Self {
        Self {
            waiting: VecDeque::new(),
            capacity,
            closed: false,
            broken: false,
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

    /// Takes nothing more, since something was not taken.
    pub(crate) const fn break_off(&mut self) {
        self.closed = true;
        self.broken = true;
    }

    /// What to do next.
    pub(crate) fn next(&self) -> Next {
        match (self.waiting.is_empty(), self.closed) {
            (false, _) => Next::Write,
            (true, true) if self.broken => Next::Fail,
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
                    self.broken = false;
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
        for is_broken in [false, true] {
            let (reader, writer) = pipe_with(PipeFlags::NONBLOCK).unwrap();
            drop(reader);
            let mut input = Input::new(10);
            input.push(b"x").unwrap();
            if is_broken {
                input.break_off();
            }
            input.write_to(&writer);
            assert_eq!(input.next(), Next::Close);
        }
    }

    #[test]
    fn broken_input_fails_whoever_reads_up_to_there() {
        let (_reader, writer) = pipe_with(PipeFlags::NONBLOCK).unwrap();
        let mut input = Input::new(10);
        input.push(b"x").unwrap();
        input.break_off();
        assert_eq!(
            (input.next(), input.push(b"y")),
            (Next::Write, Err(NotTaken::Closed))
        );
        input.write_to(&writer);
        assert_eq!(input.next(), Next::Fail);
    }
}
