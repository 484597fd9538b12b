//! What an executor is told, and why it cannot be one.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::environment::Environment;
use crate::journal;
use crate::policy::Policy;
use crate::process::Mode;
use crate::redact::Redaction;
use crate::spool;

/// How commands are executed.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where journal and spool are; one runner at a time uses it.
    pub directory: PathBuf,
    /// What may be run.
    pub policy: Policy,
    /// Where processes start.
    pub workdir: PathBuf,
    /// What they inherit.
    pub environment: Environment,
    /// A terminal, or pipes.
    pub mode: Mode,
    /// What is removed from their output.
    pub redaction: Redaction,
    /// How many commands run at once; another is refused.
    pub concurrency: usize,
    /// What is kept of output that nobody acknowledges.
    pub spool: spool::Bounds,
    /// How many executed ids are remembered.
    pub journal: journal::Bounds,
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
    /// From SIGTERM to SIGKILL, also for what is left of a command whose main
    /// process has exited.
    pub terminate: Duration,
    /// From SIGKILL until a process that is still there is left behind.
    pub kill: Duration,
    /// From the exit of the main process until what holds its output open is
    /// ended and the output is `incomplete`.
    pub drain: Duration,
}

impl Default for Graces {
    fn default() -> Self {
        Self {
            interrupt: Duration::from_secs(7),
            terminate: Duration::from_secs(3),
            kill: Duration::from_secs(5),
            drain: Duration::from_secs(3),
        }
    }
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

/// How [`Executor::stop`](super::Executor::stop) treats commands that run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// They may end by themselves for so long, then they are interrupted.
    Wait(Duration),
    /// They are interrupted at once.
    Interrupt,
}

/// Why commands cannot be executed at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another runner uses the folder.
    #[error("another runner uses {0}")]
    InUse(PathBuf),
    /// Processes could not start there.
    #[error("the commands' folder {0} is none")]
    Workdir(PathBuf),
    /// Journal or spool cannot be opened.
    #[error("cannot open {path}: {source}")]
    Open {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The system does not let us find what commands leave.
    #[error("cannot become the reaper of orphaned processes: {0}")]
    Reaper(io::Error),
}
