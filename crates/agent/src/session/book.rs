//! Commands whose end the gateway has not confirmed, and how far each is told.
//! It outlives connections: each begins with what the gateway says is stored.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::say::Part;
use crate::executor::{Command, Ending, Executor, Progress, Request, State, Urgency};
use crate::link::Stored;
use crate::output::{Offsets, Piece, Stream};

/// Pieces of one read that are told one by one while there is room; beyond that
/// they are gathered by stream.
const MANY_PARTS: usize = 8;
/// How long the confirmation of an end is waited for; doubled each time.
const END_PATIENCE: Duration = Duration::from_secs(15);
/// How often an end is told on one connection; then the next one tells it.
const END_ATTEMPTS: u32 = 4;

/// See the module.
pub(crate) struct Book {
    executor: Executor,
    jobs: BTreeMap<String, Job>,
    /// Something was written, or has ended.
    news: Arc<Notify>,
    watchers: JoinSet<()>,
}

/// A command, and how far it is told.
pub(super) struct Job {
    command: Command,
    progress: watch::Receiver<Progress>,
    /// Behind what was sent on this connection, gaps included.
    sent: Offsets,
    /// Behind the last byte that was sent of each stream.
    told: Offsets,
    /// Up to where everything is stored.
    stored: Offsets,
    /// What was read and is to be sent next.
    parts: VecDeque<Part>,
    /// Whether a gap was read in front of what comes next.
    lossy: [bool; 2],
    /// When output was sent last.
    pub(super) last: Option<Instant>,
    /// Whether nothing is left to be read.
    drained: bool,
    /// Whether the spool cannot be read: what is left of the output is lost.
    broken: bool,
    /// Whether the gateway was told that it runs.
    pub(super) announced: bool,
    /// When the end was told last, and how often.
    end_told: Option<(Instant, u32)>,
    /// Whether it was given up by the relay: nothing of it is told any more.
    abandoned: bool,
}

impl Book {
    /// With what the executor knows from before.
    pub(crate) fn new(executor: Executor) -> Self {
        let mut book = Self {
            executor,
            jobs: BTreeMap::new(),
            news: Arc::default(),
            watchers: JoinSet::new(),
        };
        for command in book.executor.commands() {
            book.add(command);
        }
        book
    }

    /// Told when something was written or has ended.
    pub(super) fn news(&self) -> Arc<Notify> {
        Arc::clone(&self.news)
    }

    /// How many commands run.
    pub(crate) fn running(&self) -> usize {
        self.executor.running()
    }

    /// How many ends nobody has confirmed.
    pub(crate) fn unconfirmed(&self) -> usize {
        self.jobs.len()
    }

    pub(super) fn jobs(&self) -> impl Iterator<Item = (&String, &Job)> {
        self.jobs.iter()
    }

    pub(super) fn jobs_mut(&mut self) -> impl Iterator<Item = &mut Job> {
        self.jobs.values_mut()
    }

    pub(super) fn job(&mut self, id: &str) -> Option<&mut Job> {
        self.jobs.get_mut(id)
    }

    fn add(&mut self, command: Command) {
        while self.watchers.try_join_next().is_some() {}
        let progress = command.progress();
        self.watchers
            .spawn(watch_over(progress.clone(), Arc::clone(&self.news)));
        let job = Job {
            progress,
            sent: Offsets::default(),
            told: Offsets::default(),
            stored: Offsets::default(),
            parts: VecDeque::new(),
            lossy: [false; 2],
            last: None,
            drained: false,
            broken: false,
            announced: false,
            end_told: None,
            abandoned: false,
            command,
        };
        self.jobs.insert(job.command.id().to_owned(), job);
    }

    /// Executes a command, or takes note that its end is to be told again.
    pub(super) fn execute(&mut self, request: Request) {
        if let Some(job) = self.jobs.get_mut(&request.id) {
            job.announced = false;
            job.end_told = None;
            return;
        }
        info!(command = request.id, "command begins");
        let command = self.executor.execute(request);
        self.add(command);
        self.news.notify_one();
    }

    /// Asks a command to end.
    pub(super) fn interrupt(&self, id: &str) {
        if let Some(job) = self.jobs.get(id) {
            job.command.end(Urgency::Interrupt);
        }
    }

    /// Asks all commands to end.
    pub(super) fn interrupt_all(&self) {
        for job in self.jobs.values() {
            job.command.end(Urgency::Interrupt);
        }
    }

    /// Types into a command.
    pub(super) fn input(&self, id: &str, bytes: &[u8]) {
        let taken = self.jobs.get(id).map(|job| job.command.input(bytes));
        match taken {
            Some(Ok(())) => {}
            Some(Err(cause)) => warn!(command = id, bytes = bytes.len(), %cause, "input not taken"),
            None => warn!(command = id, "input for a command that is over"),
        }
    }

    /// Changes the size of a command's terminal.
    pub(super) fn resize(&self, id: &str, columns: u32, rows: u32) {
        let cells = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
        if let Some(job) = self.jobs.get(id)
            && let Err(cause) = job.command.resize(cells(columns), cells(rows))
        {
            warn!(command = id, %cause, "size not taken");
        }
    }

    /// A connection begins: what is stored, and what was given up.
    pub(super) fn begin(&mut self, stored: &[Stored], abandoned: &[String]) {
        for id in abandoned {
            self.abandon(id);
        }
        for (id, job) in &mut self.jobs {
            let mut offsets = Offsets::default();
            for known in stored.iter().filter(|known| known.command_id == *id) {
                if let Some(stream) = stream_of(&known.stream) {
                    *at(&mut offsets, stream) = known.offset;
                }
            }
            job.restart(offsets);
        }
        self.sweep();
    }

    /// Everything from what is stored on is to be sent again.
    pub(super) fn rewind(&mut self) {
        for job in self.jobs.values_mut() {
            let stored = job.stored;
            job.restart(stored);
        }
    }

    /// So much is stored; gives whether that is more than before.
    pub(super) fn stored(&mut self, stored: &Stored) -> bool {
        let (Some(job), Some(stream)) = (
            self.jobs.get_mut(&stored.command_id),
            stream_of(&stored.stream),
        ) else {
            return false;
        };
        let known = at(&mut job.stored, stream);
        if stored.offset <= *known {
            return false;
        }
        *known = stored.offset;
        job.command.acknowledge(stream, stored.offset);
        let sent = at(&mut job.sent, stream);
        *sent = (*sent).max(stored.offset);
        let told = at(&mut job.told, stream);
        *told = (*told).max(stored.offset);
        true
    }

    /// The gateway has stored the end of a command: it is over for good.
    pub(super) fn confirm(&mut self, id: &str) {
        if self.jobs.remove(id).is_some() {
            info!(command = id, "command handed over");
            self.executor.confirm(id);
        }
    }

    /// The relay has given a command up: it is ended, and not told of any more.
    pub(super) fn abandon(&mut self, id: &str) {
        let Some(job) = self.jobs.get_mut(id) else {
            // Its end was confirmed and the answer lost: nothing to do here.
            self.executor.confirm(id);
            return;
        };
        if !job.abandoned {
            job.abandoned = true;
            job.told = job.stored;
            if job.command.state() == State::Running {
                warn!(command = id, "command was given up and is ended");
                job.command.end(Urgency::Interrupt);
            }
        }
    }

    /// Drops commands that were given up and have ended.
    pub(super) fn sweep(&mut self) {
        let over: Vec<String> = self
            .jobs
            .iter()
            .filter(|(_, job)| job.abandoned && job.ending().is_some())
            .map(|(id, _)| id.clone())
            .collect();
        for id in over {
            self.confirm(&id);
        }
    }

    /// Bytes that were sent and are not stored, of all commands.
    pub(super) fn in_flight(&self) -> u64 {
        self.jobs.values().map(Job::in_flight).sum()
    }
}

impl Job {
    pub(super) fn is_told(&self) -> bool {
        !self.abandoned
    }

    /// How it ended, if it has.
    pub(super) fn ending(&self) -> Option<Arc<Ending>> {
        match self.command.state() {
            State::Running => None,
            State::Ended(ending) => Some(ending),
        }
    }

    /// Bytes that are to be sent.
    pub(super) fn pending(&self) -> u64 {
        let read: usize = self.parts.iter().map(|part| part.bytes.len()).sum();
        self.unread() + read as u64
    }

    fn unread(&self) -> u64 {
        if self.broken {
            return 0;
        }
        let written = self.progress.borrow().written;
        written.stdout.saturating_sub(self.sent.stdout)
            + written.stderr.saturating_sub(self.sent.stderr)
    }

    fn in_flight(&self) -> u64 {
        self.told.stdout.saturating_sub(self.stored.stdout)
            + self.told.stderr.saturating_sub(self.stored.stderr)
    }

    fn restart(&mut self, stored: Offsets) {
        let acknowledged = self.command.acknowledged();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let mut stored = stored;
            let mut acknowledged = acknowledged;
            let (offset, first) = (*at(&mut stored, stream), *at(&mut acknowledged, stream));
            if offset > first {
                self.command.acknowledge(stream, offset);
            }
            // What was acknowledged is gone here: if it is gone there, too, it is
            // lost.
            self.lossy[place(stream)] = offset < first;
            *at(&mut self.stored, stream) = offset.max(first);
            *at(&mut self.sent, stream) = offset.max(first);
            *at(&mut self.told, stream) = offset.max(first);
        }
        self.parts.clear();
        self.last = None;
        self.drained = false;
        self.announced = false;
        self.end_told = None;
    }

    /// The next part to be sent, of about `max` bytes at most; `gather` has no
    /// more of them than streams in what is read at a time.
    pub(super) fn next_part(&mut self, max: usize, gather: bool) -> Option<Part> {
        if self.parts.is_empty() {
            self.read(max, gather);
        }
        let part = self.parts.pop_front()?;
        *at(&mut self.told, part.stream) = part.offset + part.bytes.len() as u64;
        Some(part)
    }

    /// Finds out whether a command that has ended has left anything to be read.
    pub(super) fn settle(&mut self, max: usize) {
        let is_open = !self.drained && self.pending() == 0 && !self.abandoned;
        if is_open && self.ending().is_some() {
            self.read(max, true);
        }
    }

    /// Whether the spool could not be read.
    pub(super) const fn is_broken(&self) -> bool {
        self.broken
    }

    fn read(&mut self, max: usize, gather: bool) {
        if self.broken {
            return;
        }
        let has_ended = self.progress.borrow().ended;
        let pieces = match self.command.read(self.sent, max) {
            Ok(pieces) => pieces,
            Err(error) => {
                error!(command = self.command.id(), %error, "the spool cannot be read");
                self.broken = true;
                return;
            }
        };
        if pieces.is_empty() {
            self.drained = has_ended;
            return;
        }
        let mut parts: Vec<Part> = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Gap { stream, from, to } => {
                    warn!(
                        command = self.command.id(),
                        ?stream,
                        from,
                        to,
                        "output lost"
                    );
                    self.lossy[place(stream)] = true;
                    *at(&mut self.sent, stream) = to;
                }
                Piece::Output(chunk) => {
                    let stream = chunk.stream;
                    let end = chunk.offset + chunk.bytes.len() as u64;
                    *at(&mut self.sent, stream) = end;
                    let after_loss = std::mem::take(&mut self.lossy[place(stream)]);
                    match parts.last_mut() {
                        Some(last) if !after_loss && follows(last, stream, chunk.offset) => {
                            last.bytes.extend_from_slice(&chunk.bytes);
                        }
                        _ => parts.push(Part {
                            stream,
                            offset: chunk.offset,
                            bytes: chunk.bytes,
                            at: chunk.at,
                            after_loss,
                        }),
                    }
                }
            }
        }
        if gather || parts.len() > MANY_PARTS {
            parts = gathered(parts);
        }
        self.parts = parts.into();
    }

    /// Whether the end is to be told now: all output is stored, and the last
    /// time is long ago.
    pub(super) fn end_due(&self, now: Instant) -> Option<Instant> {
        let is_read = self.drained || self.broken;
        if self.abandoned || !is_read || self.pending() > 0 || self.in_flight() > 0 {
            return None;
        }
        self.ending()?;
        match self.end_told {
            None => Some(now),
            Some((_, times)) if times >= END_ATTEMPTS => None,
            Some((at, times)) => Some(at + END_PATIENCE * 2_u32.pow(times.saturating_sub(1))),
        }
    }

    pub(super) fn told_end(&mut self, now: Instant) {
        let times = self.end_told.map_or(0, |(_, times)| times);
        self.end_told = Some((now, times + 1));
    }

    /// The gateway lacks output: it comes again, and the end behind it.
    pub(super) fn again(&mut self) {
        let stored = self.stored;
        self.restart(stored);
    }
}

fn follows(last: &Part, stream: Stream, offset: u64) -> bool {
    last.stream == stream && last.offset + last.bytes.len() as u64 == offset
}

/// The same with what belongs together in one part.
fn gathered(parts: Vec<Part>) -> Vec<Part> {
    let mut gathered: Vec<Part> = Vec::new();
    for part in parts {
        let before = gathered
            .iter_mut()
            .rev()
            .find(|known| known.stream == part.stream);
        match before {
            Some(known) if !part.after_loss && follows(known, part.stream, part.offset) => {
                known.bytes.extend_from_slice(&part.bytes);
            }
            _ => gathered.push(part),
        }
    }
    gathered
}

/// Passes on that there is news of a command, until it has ended.
async fn watch_over(mut progress: watch::Receiver<Progress>, news: Arc<Notify>) {
    while progress.changed().await.is_ok() {
        news.notify_one();
        if progress.borrow().ended {
            return;
        }
    }
}

const fn place(stream: Stream) -> usize {
    match stream {
        Stream::Stdout => 0,
        Stream::Stderr => 1,
    }
}

const fn at(offsets: &mut Offsets, stream: Stream) -> &mut u64 {
    match stream {
        Stream::Stdout => &mut offsets.stdout,
        Stream::Stderr => &mut offsets.stderr,
    }
}

fn stream_of(name: &str) -> Option<Stream> {
    match name {
        "stdout" => Some(Stream::Stdout),
        "stderr" => Some(Stream::Stderr),
        _ => None,
    }
}
