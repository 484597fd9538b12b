//! One stream of a running command: read, redacted, counted and spooled.

use std::mem;
use std::os::fd::BorrowedFd;
use std::time::SystemTime;

use rustix::io::{Errno, read};
use sha2::{Digest as _, Sha256};
use tracing::warn;

use crate::output::{Stream, StreamSum};
use crate::redact::{Redaction, Redactor};
use crate::spool::Spool;

/// Read at once, if there is as much.
pub(super) const READ_BYTES: usize = 256 * 1024;

/// One stream.
pub(super) struct Capture {
    stream: Stream,
    redactor: Option<Redactor>,
    /// Of all bytes that are through the redaction.
    hash: Sha256,
    bytes: u64,
    lost: u64,
    /// Those that the spool has no room for.
    waiting: Vec<u8>,
    /// Whether bytes before those were dropped, and no gap tells so yet.
    gap: bool,
    /// Whether there may be more.
    pub(super) open: bool,
}

impl Capture {
    pub(super) fn new(stream: Stream, redaction: &Redaction) -> Self {
        Self {
            stream,
            redactor: redaction.redactor(),
            hash: Sha256::new(),
            bytes: 0,
            lost: 0,
            waiting: Vec::new(),
            gap: false,
            open: true,
        }
    }

    /// Reads what there is, up to a buffer full.
    pub(super) fn read(&mut self, descriptor: BorrowedFd<'_>, buffer: &mut [u8], spool: &Spool) {
        let mut filled = 0;
        while filled < buffer.len() {
            match read(descriptor, &mut buffer[filled..]) {
                Ok(0) => {
                    self.open = false;
                    break;
                }
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                // What a terminal answers when nobody has it open, which we do
                // until the main process has exited.
                Err(Errno::IO) => {
                    self.open = false;
                    break;
                }
                Err(error) => {
                    warn!(stream = self.stream.name(), %error, "output cannot be read");
                    self.open = false;
                    break;
                }
            }
        }
        self.take(&buffer[..filled], spool);
    }

    /// Reads no more, whatever may come.
    pub(super) fn close(&mut self, spool: &Spool) {
        if mem::replace(&mut self.open, false) {
            self.take(&[], spool);
        }
    }

    fn take(&mut self, bytes: &[u8], spool: &Spool) {
        let Some(redactor) = &mut self.redactor else {
            self.store(bytes, spool);
            return;
        };
        let mut clean = Vec::with_capacity(bytes.len());
        redactor.push(bytes, &mut clean);
        if !self.open {
            redactor.finish(&mut clean);
        }
        self.store(&clean, spool);
    }

    fn store(&mut self, bytes: &[u8], spool: &Spool) {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        if !self.waiting.is_empty() {
            self.waiting.extend_from_slice(bytes);
            return;
        }
        let stored = self.append(bytes, spool);
        self.waiting.extend_from_slice(&bytes[stored..]);
    }

    /// Tries again to store what had no room. Whether all of it is stored.
    pub(super) fn retry(&mut self, spool: &Spool) -> bool {
        let waiting = mem::take(&mut self.waiting);
        let stored = self.append(&waiting, spool);
        self.waiting = waiting;
        self.waiting.drain(..stored);
        self.waiting.is_empty()
    }

    /// Appends the last of the bytes that were counted, as far as there is room;
    /// returns how many.
    fn append(&mut self, bytes: &[u8], spool: &Spool) -> usize {
        if bytes.is_empty() {
            return 0;
        }
        let at = SystemTime::now();
        if self.gap {
            // Only if something follows: or there would be a gap for each try.
            let first = bytes.len().min(spool.max_record_bytes());
            let to = self.bytes - bytes.len() as u64;
            if !spool.has_room(first) || !spool.gap(self.stream, to, at, false) {
                return 0;
            }
            self.gap = false;
        }
        let mut stored = 0;
        for record in bytes.chunks(spool.max_record_bytes()) {
            if !spool.append(self.stream, record, at) {
                break;
            }
            stored += record.len();
        }
        stored
    }

    /// Whether something has no room.
    pub(super) const fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Gives up what has no room.
    pub(super) fn drop_waiting(&mut self) {
        if !self.waiting.is_empty() {
            self.lost += self.waiting.len() as u64;
            self.gap = true;
            self.waiting.clear();
        }
    }

    /// What the stream amounts to. Nothing of it may wait.
    pub(super) fn finish(&mut self, spool: &Spool) -> StreamSum {
        if mem::take(&mut self.gap) {
            spool.gap(self.stream, self.bytes, SystemTime::now(), true);
        }
        StreamSum::new(
            self.stream,
            self.bytes,
            self.lost,
            mem::take(&mut self.hash),
        )
    }
}
