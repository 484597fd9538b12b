//! What the thread of a command waits for, and how long at most.

use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tracing::warn;

use super::{LOOK_EVERY, OBSERVE_EVERY, RETRY_EVERY, Supervisor};
use crate::input::Next;
use crate::process::Ends;

impl Supervisor<'_> {
    /// Waits for whatever comes first.
    pub(super) fn wait(&self, now: Instant) {
        let orders = self.command.orders();
        let input = orders.input.next();
        drop(orders);
        let mut descriptors = vec![PollFd::new(&*self.waker, PollFlags::IN)];
        if self.ran.is_none() {
            descriptors.push(PollFd::new(&self.process.exited, PollFlags::IN));
        }
        let reads = self.full.is_none();
        let writes = input == Next::Write;
        match &self.process.ends {
            Ends::Terminal(terminal) => {
                let mut flags = PollFlags::empty();
                flags.set(PollFlags::IN, reads);
                flags.set(PollFlags::OUT, writes);
                // One that is closed would wake us for ever.
                if self.captures[0].open && !flags.is_empty() {
                    descriptors.push(PollFd::new(terminal, flags));
                }
            }
            Ends::Pipes {
                stdin,
                stdout,
                stderr,
            } => {
                for (capture, pipe) in self.captures.iter().zip([stdout, stderr]) {
                    if capture.open && reads {
                        descriptors.push(PollFd::new(pipe, PollFlags::IN));
                    }
                }
                if let Some(stdin) = stdin.as_ref().filter(|_| writes) {
                    descriptors.push(PollFd::new(stdin, PollFlags::OUT));
                }
            }
        }
        let timeout = self.timeout(now);
        let timeout = Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        match poll(&mut descriptors, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => {
                warn!(command = self.command.id(), %error, "cannot wait for a command");
                thread::sleep(LOOK_EVERY);
            }
        }
    }

    /// When something is due that no descriptor tells of.
    fn timeout(&self, now: Instant) -> Duration {
        let mut timeout = OBSERVE_EVERY;
        if let Some(deadline) = self.ladder.deadline() {
            timeout = timeout.min(deadline.saturating_duration_since(now));
        }
        if self.ladder.is_killing() || (self.ran.is_some() && self.ladder.is_ending()) {
            timeout = timeout.min(LOOK_EVERY);
        }
        if self.full.is_some() {
            timeout = timeout.min(RETRY_EVERY);
        } else if self.ran.is_some() {
            timeout = timeout.min(self.drain.max(Duration::from_millis(1)));
        }
        if self.gone.is_some() {
            timeout = timeout.min(LOOK_EVERY);
        }
        timeout
    }
}
