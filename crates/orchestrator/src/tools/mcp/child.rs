//! A tool server that is a program: started behind its guard with a clean
//! environment, ended as the protocol asks: its input closed, then TERM, then
//! KILL.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signalbox_identity::Secret;
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::guard;

/// What a program inherits of our environment, if we have it.
const INHERITED: [&str; 3] = ["PATH", "HOME", "LANG"];
/// Starts that wait for the thread that makes them; more wait before it.
const STARTS_CAPACITY: usize = 16;
/// How long a guard may take to end beyond what it was told to give its server.
const GUARD_GRACE: Duration = Duration::from_secs(2);

/// A program to run.
#[derive(Clone, Debug)]
pub struct Program {
    /// What to run: a path, or a name to look for on PATH.
    pub command: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its variables beside PATH, HOME and LANG.
    pub env: BTreeMap<String, Secret>,
    /// Where it runs.
    pub directory: PathBuf,
}

/// A program that runs. Dropping it has it ended.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    grace: Duration,
}

/// Our ends of its pipes.
#[derive(Debug)]
pub(super) struct Pipes {
    pub(super) stdin: ChildStdin,
    pub(super) stdout: ChildStdout,
    pub(super) stderr: ChildStderr,
}

impl Process {
    /// Starts a program, which is given `grace` to end when it is to.
    /// `launcher` is the program that has the guard, by default our own.
    pub(super) async fn start(
        program: &Program,
        launcher: Option<&Path>,
        grace: Duration,
    ) -> io::Result<(Self, Pipes)> {
        let launcher = match launcher {
            Some(path) => path.as_os_str().to_owned(),
            None => guard::own_program()?,
        };
        let command = command(program, launcher, grace);
        let mut process = spawn(command, grace).await?;
        let child = &mut process.child;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(io::Error::other("the process has no pipes"));
        };
        let pipes = Pipes {
            stdin,
            stdout,
            stderr,
        };
        Ok((process, pipes))
    }

    /// Ends it, whose input is closed already, and waits until nothing of it is
    /// left.
    pub(super) async fn end(mut self) -> io::Result<ExitStatus> {
        if let Ok(ended) = timeout(self.grace, self.child.wait()).await {
            return ended;
        }
        self.signal(Signal::SIGTERM);
        let patience = self.grace + GUARD_GRACE;
        if let Ok(ended) = timeout(patience, self.child.wait()).await {
            return ended;
        }
        // The guard hangs; its server is killed with it.
        self.child.kill().await?;
        self.child.wait().await
    }

    fn signal(&self, signal: Signal) {
        // There is no number once it was reaped.
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = pid {
            kill(Pid::from_raw(pid), signal).ok();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The guard does the rest; the runtime reaps it.
        self.signal(Signal::SIGTERM);
    }
}

/// Whether a guard ended because its program could not be started.
pub(super) fn was_not_started(status: ExitStatus) -> bool {
    status.code() == Some(i32::from(guard::NOT_STARTED))
}

fn command(program: &Program, launcher: OsString, grace: Duration) -> Command {
    let mut command = Command::new(launcher);
    command
        .args(guard::arguments(grace, program.command.as_os_str()))
        .args(&program.args)
        .env_clear()
        .current_dir(&program.directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A Ctrl-C in the terminal is for the orchestrator, which ends the server.
        .process_group(0);
    for name in INHERITED {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    for (name, value) in &program.env {
        command.env(name, value.expose());
    }
    command
}

/// A start that the thread is to make.
struct Start {
    command: Command,
    grace: Duration,
    runtime: Handle,
    reply: oneshot::Sender<io::Result<Process>>,
}

/// Starts a guard from a thread that lives as long as this process: the system
/// tells guards of the end of that thread, and those of a runtime may end.
async fn spawn(command: Command, grace: Duration) -> io::Result<Process> {
    static STARTS: OnceLock<mpsc::Sender<Start>> = OnceLock::new();
    let gone = || io::Error::other("the thread that starts tool servers has ended");
    let starts = STARTS.get_or_init(|| {
        let (starts, mut wanted) = mpsc::channel::<Start>(STARTS_CAPACITY);
        let body = move || {
            while let Some(start) = wanted.blocking_recv() {
                make(start);
            }
        };
        // Without the thread the receiver is gone, and every start fails.
        let named = thread::Builder::new().name("tool-servers".to_owned());
        named.spawn(body).ok();
        starts
    });
    let (reply, started) = oneshot::channel();
    let start = Start {
        command,
        grace,
        runtime: Handle::current(),
        reply,
    };
    starts.send(start).await.map_err(|_| gone())?;
    started.await.map_err(|_| gone())?
}

fn make(mut start: Start) {
    let _inside = start.runtime.enter();
    let grace = start.grace;
    let process = start.command.spawn().map(|child| Process { child, grace });
    // Nobody waits any more: dropping it ends it.
    start.reply.send(process).ok();
}
