//! What signals do to a whole process: one drains it, a second ends it at
//! once, also while its runtime hangs; and which exit code and last words each
//! end has.
//!
//! The processes are this test binary again, running one ignored test.

#![expect(clippy::unwrap_used, reason = "the helpers of tests may panic, too")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signalbox_service::{ExitError, Shutdown, Tasks, exit_code, run};

/// Set for the processes that the tests start, to the part that they play.
const ROLE_VARIABLE: &str = "SIGNALBOX_TEST_ROLE";
/// How long anything may take before a test fails.
const DEADLINE: Duration = Duration::from_secs(30);
/// A grace that outlasts every test.
const LONG_GRACE: Duration = Duration::from_secs(600);

/// A process in one of the roles of [`process`]; killed when dropped.
struct Process {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Process {
    fn start(role: &str) -> Self {
        let mut child = command(role).stdout(Stdio::piped()).spawn().unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// Waits for the process to say `word`, past whatever else it says.
    fn expect(&self, word: &str) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // The test harness writes without a line break before the test does.
            if self.lines.recv_timeout(left).unwrap().ends_with(word) {
                return;
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    fn exit(mut self) -> ExitStatus {
        // The pipe closes when the process ends.
        let deadline = Instant::now() + DEADLINE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(_) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return self.child.wait().unwrap(),
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("the process did not end"),
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn command(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "process", "--ignored", "--nocapture"])
        .env(ROLE_VARIABLE, role);
    command
}

fn lines_of(stdout: ChildStdout) -> mpsc::Receiver<String> {
    let (send, receive) = mpsc::sync_channel(64);
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    receive
}

fn say(word: &str) {
    let line = format!("{word}\n");
    std::io::stdout().write_all(line.as_bytes()).unwrap();
}

/// Runs as the process that a test started; does nothing otherwise.
#[test]
#[ignore = "is the body of the processes that the other tests start"]
fn process() {
    let Ok(role) = std::env::var(ROLE_VARIABLE) else {
        return;
    };
    let outcome = match role.as_str() {
        "drains" => run("drains", LONG_GRACE, drains),
        "hangs" => run("hangs", LONG_GRACE, hangs),
        "never-drains" => run("never-drains", Duration::from_millis(50), never_drains),
        "critical" => run("critical", LONG_GRACE, critical),
        "misconfigured" => Err(ExitError::config("no such\nfile")),
        other => panic!("no role {other}"),
    };
    let code = outcome.as_ref().map_or_else(ExitError::code, |()| 0);
    // The exit code itself is lost in a test harness.
    let _ = exit_code("signalbox", outcome);
    std::process::exit(code.into());
}

async fn drains(shutdown: Shutdown) -> Result<(), ExitError> {
    say("ready");
    shutdown.wait().await;
    say("drained");
    Ok(())
}

/// Hangs its thread from the start, and its drain for good.
async fn hangs(shutdown: Shutdown) -> Result<(), ExitError> {
    say("ready");
    while !shutdown.is_triggered() {
        thread::yield_now();
    }
    say("draining");
    loop {
        thread::park();
    }
}

/// Leaves a task and blocking work behind.
async fn never_drains(shutdown: Shutdown) -> Result<(), ExitError> {
    tokio::task::spawn_blocking(|| {
        loop {
            thread::park();
        }
    });
    say("ready");
    shutdown.wait().await;
    std::future::pending().await
}

async fn critical(shutdown: Shutdown) -> Result<(), ExitError> {
    let tasks = Tasks::new(shutdown.clone());
    tasks.spawn_critical("doomed", async { panic!("as planned") });
    shutdown.wait().await;
    Ok(())
}

#[test]
fn one_signal_drains_and_ends_with_success() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let process = Process::start("drains");
        process.expect("ready");
        process.signal(signal);
        process.expect("drained");
        assert_eq!(process.exit().code(), Some(0), "{signal}");
    }
}

#[test]
fn a_second_signal_ends_a_hanging_process_at_once() {
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let process = Process::start("hangs");
        process.expect("ready");
        process.signal(Signal::SIGTERM);
        process.expect("draining");
        process.signal(signal);
        assert_eq!(process.exit().code(), Some(code), "{signal}");
    }
}

#[test]
fn what_does_not_drain_within_the_grace_is_left_behind() {
    let process = Process::start("never-drains");
    process.expect("ready");
    process.signal(Signal::SIGTERM);
    assert_eq!(process.exit().code(), Some(0));
}

#[test]
fn a_panicking_critical_task_ends_the_process_with_failure() {
    assert_eq!(Process::start("critical").exit().code(), Some(1));
}

#[test]
fn bad_configuration_is_one_line_and_64() {
    let output = command("misconfigured").output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "signalbox: no such file\n"
    );
}
