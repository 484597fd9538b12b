//! All commands of the runner: takes requests, hands out [`Command`]s.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::output::{Offsets, Piece, Stream, StreamSum};

/// How commands are executed.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where journal and spool are; one runner at a time uses it.
    pub directory: PathBuf,
    /// What may be run.
    pub policy: crate::policy::Policy,
    /// Where processes start.
    pub workdir: PathBuf,
    /// What they inherit.
    pub environment: crate::environment::Environment,
    /// A terminal, or pipes.
    pub mode: crate::process::Mode,
    /// What is removed from their output.
    pub redaction: crate::redact::Redaction,
    /// How many commands run at once.
    pub concurrency: usize,
    /// What is kept of output that nobody acknowledges.
    pub spool: crate::spool::Bounds,
    /// How many executed ids are remembered.
    pub journal: crate::journal::Bounds,
    /// How long processes are given.
    pub graces: Graces,
    /// How much input may wait for a process, in bytes; more is refused.
    pub input_bytes: usize,
}

/// How long processes are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Graces {
    /// From SIGINT to SIGTERM.
    pub interrupt: Duration,
    /// From SIGTERM to SIGKILL.
    pub terminate: Duration,
    /// From SIGKILL until a process that is still there is left behind.
    pub kill: Duration,
    /// From the end of the main process until what holds its output open is
    /// ended and the output is `incomplete`.
    pub drain: Duration,
}

/// A command to execute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Names it for ever: letters, digits, `-` and `_`, at most 128.
    pub id: String,
    /// What to run.
    pub command: String,
    /// What is appended to it.
    pub args: Vec<String>,
}

/// How a command is.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// Its processes run, or are about to.
    Running,
    /// It has ended; nothing of it changes any more.
    Ended(Arc<Ending>),
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ending {
    /// What became of it.
    pub outcome: Outcome,
    /// What the process returned; 128+n where signal n ended it. Absent where
    /// there was no process, or nobody knows.
    pub exit_code: Option<i32>,
    /// The signal that ended it, such as `SIGKILL`.
    pub signal: Option<String>,
    /// Why it failed where exit code and signal do not say it: `not_allowed`,
    /// `not_found`, `not_started`, `outcome_unknown`, `busy`, each but
    /// `outcome_unknown` with `: ` and a sentence.
    pub reason: Option<String>,
    /// When its process was started.
    pub started: Option<SystemTime>,
    /// For how long its main process ran.
    pub duration: Option<Duration>,
    /// What each stream amounts to; both streams are listed.
    pub streams: Vec<StreamSum>,
    /// Whether output may be missing: something held a stream open for longer
    /// than the drain, the spool has a gap, or the runner crashed.
    pub output_incomplete: bool,
    /// What it used; absent where there was no process, or nobody knows.
    pub usage: Option<Usage>,
    /// Processes that could not be ended.
    pub left_behind: u32,
}

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It ended by itself, with exit code 0.
    Completed,
    /// It ended by itself with another code or a signal, or never ran.
    Failed,
    /// It ended after it was interrupted.
    Interrupted,
}

/// What a command used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Processor time of it and all its descendants that are known, in user and
    /// system mode.
    pub cpu: Duration,
    /// The peak memory of the largest of its processes, in bytes.
    pub peak_memory: u64,
}

/// How far a command is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Behind the last byte of each stream that can be read.
    pub written: Offsets,
    /// Whether it has ended.
    pub ended: bool,
}

/// How a command is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// SIGINT, after a grace SIGTERM, after another SIGKILL.
    Interrupt,
    /// SIGTERM, after a grace SIGKILL.
    Terminate,
    /// SIGKILL.
    Kill,
}

/// How [`Executor::stop`] treats commands that run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// They may end by themselves for so long, then they are interrupted.
    Wait(Duration),
    /// They are interrupted at once.
    Interrupt,
}

/// Why input or a size was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// It has ended, or its standard input is closed.
    #[error("the command takes no input any more")]
    Closed,
    /// It does not read what it was sent.
    #[error("too much input waits for the command")]
    Full,
    /// It has pipes.
    #[error("the command has no terminal")]
    NoTerminal,
}

/// All commands of the runner. Clones are the same executor.
#[derive(Clone, Debug)]
pub struct Executor {}

impl Executor {
    /// Opens journal and spool, ends what a former runner left behind, and
    /// becomes the reaper of all that its commands orphan. Blocks, for up to the
    /// graces where processes are left.
    pub fn open(options: Options) -> Result<Self, Error>;
    /// Executes a command, or finds the one with this id. Never blocks: the
    /// process starts on a thread of its own. An id that was forgotten after
    /// [`confirm`](Self::confirm) but is in the journal gives an ended command
    /// with `outcome_unknown`... or the recorded end.
    pub fn execute(&self, request: Request) -> Command;
    /// The command with this id, if it is not confirmed.
    pub fn command(&self, id: &str) -> Option<Command>;
    /// Commands that run, and those whose end is not confirmed; oldest first.
    pub fn commands(&self) -> Vec<Command>;
    /// How many run.
    pub fn running(&self) -> usize;
    /// The end of a command has been taken by whom it concerns: drops its spool.
    /// Does nothing to one that runs.
    pub fn confirm(&self, id: &str);
    /// Refuses new commands, ends those that run, and returns when all have
    /// ended and their ends are on disk.
    pub async fn stop(&self, how: Stop);
}

/// One command. Clones are the same command.
#[derive(Clone, Debug)]
pub struct Command {}

impl Command {
    pub fn id(&self) -> &str;
    pub fn state(&self) -> State;
    /// Changes with every output and with the end.
    pub fn progress(&self) -> watch::Receiver<Progress>;
    /// Reads what was written at these offsets and behind them, in written
    /// order, until about `max` bytes; empty if there is nothing yet. What is
    /// acknowledged is gone. Reads from the page cache as a rule, fast enough
    /// for an async thread.
    pub fn read(&self, from: Offsets, max: usize) -> std::io::Result<Vec<Piece>>;
    /// All bytes of a stream before `offset` may be forgotten.
    pub fn acknowledge(&self, stream: Stream, offset: u64);
    /// Up to where each stream is acknowledged.
    pub fn acknowledged(&self) -> Offsets;
    /// Ends it. Asking again changes nothing, unless it is more urgent.
    pub fn end(&self, urgency: Urgency);
    /// Types into it. Empty bytes close the standard input of a command with
    /// pipes.
    pub fn input(&self, bytes: &[u8]) -> Result<(), NotTaken>;
    /// Changes the size of its terminal.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<(), NotTaken>;
}
