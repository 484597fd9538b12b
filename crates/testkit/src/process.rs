//! The real binary as a process, to be watched, halted and killed.

use std::{
    env,
    io::Write,
    process::{ChildStdin, Command, ExitStatus, Stdio},
    time::Duration,
};

use nix::sys::signal::Signal;
use parking_lot::Mutex;
use tokio::time::timeout;

use crate::{child::GuardedChild, output::Output};

/// How long the outputs of a process that has ended are waited for.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// A running program whose outputs are captured; dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: GuardedChild,
    stdin: Mutex<Option<ChildStdin>>,
    stdout: Output,
    stderr: Output,
}

/// The `signalbox` binary of this build, with none of the settings that the
/// environment of the tests may hold. The caller adds subcommand and arguments.
///
/// # Panics
/// When it has not been built.
#[must_use]
pub fn signalbox() -> Command {
    let test = env::current_exe().expect("the test program knows its path");
    // target/<profile>/deps/<test> or, for examples and binaries, one level up.
    let program = test
        .ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join("signalbox"))
        .find(|path| path.is_file())
        .unwrap_or_else(|| {
            panic!(
                "there is no signalbox beside {}, run: cargo build --workspace",
                test.display()
            )
        });
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        let settings = ["SIGNALBOX_", "OTEL_"];
        let text = name.to_string_lossy();
        if settings.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    for name in ["NATS_URL", "REDIS_URL", "CORS_ORIGINS", "RUST_LOG"] {
        command.env_remove(name);
    }
    command
}

impl Process {
    /// Starts a command with all its standard streams captured.
    ///
    /// # Panics
    /// When the program cannot be run.
    #[must_use]
    pub fn spawn(mut command: Command) -> Self {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let (child, pipes) = GuardedChild::spawn(&mut command).unwrap_or_else(|err| {
            panic!("{} cannot be run: {err}", command.get_program().display())
        });
        Self {
            child,
            stdin: Mutex::new(pipes.stdin),
            stdout: Output::capture(pipes.stdout.expect("the output is piped")),
            stderr: Output::capture(pipes.stderr.expect("the output is piped")),
        }
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// What the process prints to its standard output.
    #[must_use]
    pub fn stdout(&self) -> &Output {
        &self.stdout
    }

    /// What the process prints to its standard error, where services log.
    #[must_use]
    pub fn stderr(&self) -> &Output {
        &self.stderr
    }

    /// The first line of either output that contains `pattern`.
    ///
    /// # Panics
    /// When there is none within `deadline`, or the process ends without it.
    pub async fn wait_for_line(&self, pattern: &str, deadline: Duration) -> String {
        let either = async {
            tokio::select! {
                Some(line) = self.stdout.find(pattern) => Some(line),
                Some(line) = self.stderr.find(pattern) => Some(line),
                else => None,
            }
        };
        match timeout(deadline, either).await {
            Ok(Some(line)) => line,
            Ok(None) => panic!(
                "the process ended without {pattern:?}\n{}",
                self.transcript()
            ),
            Err(_) => panic!("no {pattern:?} within {deadline:?}\n{}", self.transcript()),
        }
    }

    /// Writes a line to the process's standard input.
    ///
    /// # Panics
    /// When the input was closed by either side.
    pub fn write_line(&self, line: &str) {
        let mut stdin = self.stdin.lock();
        let stdin = stdin.as_mut().expect("the input is open");
        writeln!(stdin, "{line}").expect("the process reads its input");
    }

    /// Ends the process's standard input.
    pub fn close_stdin(&self) {
        *self.stdin.lock() = None;
    }

    /// Kills the process; returns once it has ended.
    pub fn kill9(&self) {
        self.child.kill9();
    }

    /// Asks the process to stop.
    pub fn sigterm(&self) {
        self.child.signal(Signal::SIGTERM);
    }

    /// Halts the process: its connections stay open and say nothing.
    pub fn sigstop(&self) {
        self.child.halt();
    }

    /// Lets a halted process go on.
    pub fn sigcont(&self) {
        self.child.signal(Signal::SIGCONT);
    }

    /// How the process ended; `None` while it runs.
    #[must_use]
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.child.exit_status()
    }

    /// Waits for the process to end; what it printed is there then.
    ///
    /// # Panics
    /// When it still runs after `deadline`.
    pub async fn wait(&self, deadline: Duration) -> ExitStatus {
        let status = self.child.wait(deadline).await.unwrap_or_else(|| {
            panic!(
                "the process still runs after {deadline:?}\n{}",
                self.transcript()
            )
        });
        self.stdout.ended(LAST_WORDS).await;
        self.stderr.ended(LAST_WORDS).await;
        status
    }

    fn transcript(&self) -> String {
        format!(
            "stdout:\n{}\nstderr:\n{}",
            self.stdout.lines().join("\n"),
            self.stderr.lines().join("\n")
        )
    }
}
