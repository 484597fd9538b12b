//! The thread of one running command: moves what it writes into the spool and
//! what is typed into it, ends it when asked to, and everything of it when its
//! main process has exited. Waits for all of that in one place, so that nothing
//! of it holds up anything else.

mod capture;
mod ladder;
mod waiting;

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustix::io::read;
use rustix::process::Signal;
use tracing::{debug, warn};

use self::capture::{Capture, READ_BYTES};
use self::ladder::Ladder;
use crate::command::{Command, Urgency};
use crate::ending::{Ending, INPUT_LOST, OUTCOME_UNKNOWN, Outcome, Usage};
use crate::executor::Options;
use crate::family::Family;
use crate::input::Next;
use crate::output::{Stream, StreamSum};
use crate::policy::Permit;
use crate::process::{self, Ends, Exit, Process, Start, reap};
use crate::spool::Spool;

/// How often the family is looked at while it lives.
const OBSERVE_EVERY: Duration = Duration::from_secs(1);
/// How often while it is being ended.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// How often a full spool is tried again: room may come from other commands.
const RETRY_EVERY: Duration = Duration::from_millis(50);
/// How long output may take to end when all processes are gone: somebody else
/// has it open.
const FOREIGN: Duration = Duration::from_secs(1);

/// A command that runs.
pub(crate) struct Supervisor<'a> {
    command: &'a Command,
    spool: &'a Spool,
    options: &'a Options,
    family: &'a mut Family,
    process: Process,
    waker: Arc<OwnedFd>,
    started: SystemTime,
    captures: Vec<Capture>,
    ladder: Ladder,
    /// Whether it was asked to end while it ran.
    interrupted: bool,
    /// Whether it wanted input that was not taken.
    input_lost: bool,
    /// For how long its main process ran, once it has exited.
    ran: Option<Duration>,
    /// How long its output may stay open from then on.
    drain: Duration,
    incomplete: bool,
    /// Since when the spool is full and nothing is acknowledged.
    full: Option<Instant>,
    /// Whether output is dropped until there is room.
    dropping: bool,
    /// Processes that are left, when that was asked last.
    alive: Option<usize>,
    /// Since when nobody of the family is left.
    gone: Option<Instant>,
    observed: Instant,
}

impl<'a> Supervisor<'a> {
    /// Starts the main process of a command. `planned` is told who it is.
    pub(crate) fn start(
        command: &'a Command,
        options: &'a Options,
        family: &'a mut Family,
        mark: &str,
        permit: &Permit,
        planned: impl FnOnce(crate::journal::Identity),
    ) -> io::Result<Self> {
        let spool = command.spool().ok_or(io::ErrorKind::InvalidInput)?;
        let waker = command.waker().ok_or(io::ErrorKind::InvalidInput)?;
        let start = Start {
            permit,
            environment: &options.environment,
            mark: (crate::family::MARK, OsStr::new(mark)),
            workdir: &options.workdir,
            mode: options.mode,
        };
        let started = SystemTime::now();
        let (process, identity) = family.found(|| process::start(&start))?;
        planned(identity);
        let streams = match process.ends {
            Ends::Terminal(_) => &Stream::ALL[..1],
            Ends::Pipes { .. } => &Stream::ALL[..],
        };
        let capture = |&stream: &Stream| Capture::new(stream, &options.redaction);
        Ok(Self {
            command,
            spool,
            options,
            family,
            waker,
            started,
            captures: streams.iter().map(capture).collect(),
            ladder: Ladder::new(options.graces),
            interrupted: false,
            input_lost: false,
            ran: None,
            drain: options.graces.drain,
            incomplete: false,
            full: None,
            dropping: false,
            alive: None,
            gone: None,
            observed: process.started,
            process,
        })
    }

    /// Runs until everything of the command has ended.
    pub(crate) fn run(mut self) -> Ending {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let before = Instant::now();
            self.wait(before);
            let now = Instant::now();
            self.obey(now);
            self.capture(&mut buffer, now);
            self.command.publish();
            if self.ran.is_none() && self.process.has_exited() {
                self.ran = Some(now.duration_since(self.process.started));
                self.process.let_go();
                // What ends with it has ended now.
                self.capture(&mut buffer, now);
            }
            if self.ran.is_some() && self.end(now, now.duration_since(before)) {
                return self.finish();
            }
            if self.ran.is_none() {
                self.climb(now);
                if self.ladder.is_exhausted(now) {
                    // Not even SIGKILL ends it: it hangs in the kernel.
                    return self.abandon();
                }
            }
            if now.duration_since(self.observed) >= OBSERVE_EVERY {
                self.observed = now;
                self.family.observe();
            }
        }
    }

    /// Does what was asked from outside.
    fn obey(&mut self, now: Instant) {
        let mut counter = [0; 8];
        // Emptied before the orders are read, so that none is missed.
        read(&*self.waker, &mut counter).ok();
        let mut orders = self.command.orders();
        if self.ran.is_some() {
            orders.input.close();
        }
        let target = match &self.process.ends {
            Ends::Terminal(terminal) => Some(terminal.as_fd()),
            Ends::Pipes { stdin, .. } => stdin.as_ref().map(OwnedFd::as_fd),
        };
        match target {
            Some(descriptor) => orders.input.write_to(descriptor),
            None => orders.input.close(),
        }
        let next = orders.input.next();
        if next == Next::Fail && self.ran.is_none() && !self.input_lost {
            self.input_lost = true;
            orders.urgency = orders.urgency.max(Some(Urgency::Interrupt));
        }
        let (size, urgency) = (orders.size.take(), orders.urgency);
        if std::mem::take(&mut orders.acknowledged) && self.full.is_some() {
            self.full = Some(now);
        }
        drop(orders);
        if next == Next::Close
            && let Ends::Pipes { stdin, .. } = &mut self.process.ends
        {
            *stdin = None;
        }
        if let Some(size) = size
            && let Err(error) = self.process.resize(size)
        {
            debug!(command = self.command.id(), %error, "cannot resize a terminal");
        }
        if let Some(urgency) = urgency {
            self.interrupted |= self.ran.is_none();
            if let Some(step) = self.ladder.ask(urgency, now) {
                self.step(step);
            }
        }
    }

    /// Takes the step that is due.
    fn climb(&mut self, now: Instant) {
        if let Some(step) = self.ladder.due(now) {
            self.step(step);
        } else if self.ladder.is_killing() {
            // Whoever was born since the last look.
            self.step(Urgency::Kill);
        }
    }

    fn step(&mut self, step: Urgency) {
        debug!(command = self.command.id(), ?step, "ending a command");
        match step {
            Urgency::Interrupt => self.process.interrupt(),
            Urgency::Terminate if self.process.is_terminal() => {
                // Shells at a prompt take no SIGTERM, but know when a terminal
                // is gone. Whoever is stopped has to go on to hear it.
                let signals = [Signal::TERM, Signal::HUP, Signal::CONT];
                self.alive = Some(self.family.signal(&signals, false));
            }
            Urgency::Terminate => {
                self.alive = Some(self.family.signal(&[Signal::TERM, Signal::CONT], false));
            }
            Urgency::Kill => self.alive = Some(self.family.signal(&[Signal::KILL], false)),
        }
    }

    /// Reads what there is, if there is room for it.
    fn capture(&mut self, buffer: &mut [u8], now: Instant) {
        if self.full.is_some() {
            self.make_room(now);
        }
        if self.full.is_some() {
            return;
        }
        let (stdout, stderr): (BorrowedFd<'_>, Option<BorrowedFd<'_>>) = match &self.process.ends {
            Ends::Terminal(terminal) => (terminal.as_fd(), None),
            Ends::Pipes { stdout, stderr, .. } => (stdout.as_fd(), Some(stderr.as_fd())),
        };
        let descriptors = std::iter::once(stdout).chain(stderr);
        for (capture, descriptor) in self.captures.iter_mut().zip(descriptors) {
            if capture.open {
                capture.read(descriptor, buffer, self.spool);
            }
        }
        if self.captures.iter().any(Capture::is_waiting) {
            match self.dropping {
                true => self.captures.iter_mut().for_each(Capture::drop_waiting),
                false => self.full = Some(now),
            }
        } else {
            self.dropping = false;
        }
    }

    /// Tries to store what had no room, or gives it up in the end.
    fn make_room(&mut self, now: Instant) {
        let mut all = true;
        for capture in &mut self.captures {
            all &= capture.retry(self.spool);
        }
        let waited = self
            .full
            .map_or(Duration::ZERO, |since| now.duration_since(since));
        if all {
            self.full = None;
        } else if waited >= self.options.spool.patience {
            warn!(
                command = self.command.id(),
                "the spool is full and nobody takes output: dropping it"
            );
            self.captures.iter_mut().for_each(Capture::drop_waiting);
            self.dropping = true;
            self.full = None;
        }
    }

    /// The main process has exited: sees to it that all has ended. Whether it
    /// has.
    fn end(&mut self, now: Instant, passed: Duration) -> bool {
        let open = self.captures.iter().any(|capture| capture.open);
        if open && !self.ladder.is_ending() {
            // A process that we keep waiting is not late.
            if self.full.is_none() {
                self.drain = self.drain.saturating_sub(passed);
            }
            if !self.drain.is_zero() {
                self.climb(now);
                return false;
            }
            self.incomplete = true;
        }
        if !self.ladder.is_ending() {
            self.alive = Some(self.family.signal(&[], true));
            if self.alive != Some(0)
                && let Some(step) = self.ladder.ask(Urgency::Terminate, now)
            {
                self.step(step);
            }
        } else if self.alive != Some(0) {
            match self.ladder.due(now) {
                Some(step) => self.step(step),
                None if self.ladder.is_killing() => self.step(Urgency::Kill),
                None => self.alive = Some(self.family.signal(&[], true)),
            }
        }
        if self.alive != Some(0) && !self.ladder.is_exhausted(now) {
            return false;
        }
        let gone = *self.gone.get_or_insert(now);
        if self.full.is_some() {
            self.gone = Some(now);
            return false;
        }
        if open && now.duration_since(gone) < FOREIGN {
            return false;
        }
        self.incomplete |= open;
        for capture in &mut self.captures {
            capture.close(self.spool);
        }
        // The end of a redaction may have brought something.
        if self.captures.iter().any(Capture::is_waiting) {
            self.full = Some(now);
            return false;
        }
        true
    }

    fn finish(mut self) -> Ending {
        let exit = reap(self.process.pid());
        self.family.reaped();
        let streams = self.sums();
        self.ending(exit, streams)
    }

    /// The main process cannot be ended, so nobody knows how it is going to.
    fn abandon(mut self) -> Ending {
        self.incomplete = true;
        for capture in &mut self.captures {
            capture.close(self.spool);
            capture.drop_waiting();
        }
        let streams = self.sums();
        self.ending(None, streams)
    }

    fn sums(&mut self) -> Vec<StreamSum> {
        let mut sums: Vec<_> = self
            .captures
            .iter_mut()
            .map(|capture| capture.finish(self.spool))
            .collect();
        for &stream in &Stream::ALL[sums.len()..] {
            sums.push(Capture::new(stream, &self.options.redaction).finish(self.spool));
        }
        self.command.publish();
        sums
    }

    fn ending(&self, exit: Option<Exit>, streams: Vec<StreamSum>) -> Ending {
        let ran = self.ran.unwrap_or_else(|| self.process.started.elapsed());
        let left_behind = self.alive.unwrap_or(0);
        let outcome = match &exit {
            _ if self.input_lost => Outcome::Failed,
            _ if self.interrupted => Outcome::Interrupted,
            Some(exit) if exit.code == 0 => Outcome::Completed,
            _ => Outcome::Failed,
        };
        let reason = match &exit {
            None => Some(OUTCOME_UNKNOWN),
            Some(_) => self.input_lost.then_some(INPUT_LOST),
        };
        let orphans = self.family.usage();
        Ending {
            outcome,
            reason: reason.map(str::to_owned),
            exit_code: exit.as_ref().map(|exit| exit.code),
            usage: exit.as_ref().map(|exit| Usage {
                cpu: exit.usage.cpu + orphans.cpu,
                peak_memory: exit.usage.peak_memory.max(orphans.peak_memory),
            }),
            signal: exit.and_then(|exit| exit.signal),
            started: Some(self.started),
            duration: Some(ran),
            output_incomplete: self.incomplete || streams.iter().any(|sum| sum.lost > 0),
            streams,
            left_behind: u32::try_from(left_behind).unwrap_or(u32::MAX),
        }
    }
}
