//! Child processes that end with the value that owns them, and at the latest
//! with the test program, even when that is killed.

use std::{
    io::Write,
    os::unix::process::CommandExt,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use parking_lot::Mutex;

const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Reads the ids of processes that live (`+`) and were ended (`-`), and kills
/// those that are left when its input ends, which the system sees to.
const REAPER: &str = r#"
trap '' HUP INT TERM
live=' '
while read -r change pid; do
    case $change in
    +) live="$live$pid " ;;
    -) live="${live%%" $pid "*} ${live#*" $pid "}" ;;
    esac
done
for pid in $live; do kill -9 "$pid"; done
"#;

/// One per test program; in its own process group, so that a signal to the
/// program's group cannot end it first.
static REAPER_PROCESS: LazyLock<Mutex<Child>> = LazyLock::new(|| {
    let reaper = Command::new("sh")
        .args(["-c", REAPER])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn();
    Mutex::new(reaper.expect("sh can be run"))
});

/// A running child; dropping it kills it.
#[derive(Debug)]
pub(crate) struct GuardedChild {
    pid: u32,
    child: Mutex<Child>,
}

impl GuardedChild {
    /// Starts the command; the caller may take the pipes from the second value.
    pub(crate) fn spawn(command: &mut Command) -> std::io::Result<(Self, Pipes)> {
        // Ready before there is anything to guard.
        LazyLock::force(&REAPER_PROCESS);
        let mut child = command.spawn()?;
        let pid = child.id();
        tell_reaper('+', pid);
        let pipes = Pipes {
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
        };
        let child = Mutex::new(child);
        Ok((Self { pid, child }, pipes))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal, unless the child has ended.
    pub(crate) fn signal(&self, signal: Signal) {
        // Held across both steps: a child that was waited for has given its id back.
        let mut child = self.child.lock();
        if let Ok(None) = child.try_wait() {
            kill(self.as_pid(), signal).expect("the child can be signalled");
        }
    }

    /// Halts the child; returns once all of it stands still, since a signal is
    /// only on its way when it has been sent.
    pub(crate) fn halt(&self) {
        self.signal(Signal::SIGSTOP);
        #[cfg(target_os = "linux")]
        {
            use nix::sys::wait::{Id, WaitPidFlag, waitid};
            let halted = WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
            waitid(Id::Pid(self.as_pid()), halted).expect("the child can be waited for");
        }
    }

    fn as_pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.pid).expect("process ids are positive 32-bit numbers"))
    }

    /// How the child ended; `None` while it runs.
    pub(crate) fn exit_status(&self) -> Option<ExitStatus> {
        self.child
            .lock()
            .try_wait()
            .expect("the child can be waited for")
    }

    /// Waits for the end; `None` at the deadline.
    pub(crate) async fn wait(&self, deadline: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + deadline;
        loop {
            let status = self.exit_status();
            if status.is_some() || Instant::now() >= end {
                return status;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Kills the child and returns once it has ended.
    pub(crate) fn kill9(&self) {
        self.signal(Signal::SIGKILL);
        while self.exit_status().is_none() {
            thread::sleep(POLL_INTERVAL);
        }
    }
}

impl Drop for GuardedChild {
    fn drop(&mut self) {
        self.kill9();
        tell_reaper('-', self.pid);
    }
}

/// The ends of a child's pipes that stay with its parent.
pub(crate) struct Pipes {
    pub(crate) stdin: Option<ChildStdin>,
    pub(crate) stdout: Option<std::process::ChildStdout>,
    pub(crate) stderr: Option<std::process::ChildStderr>,
}

fn tell_reaper(change: char, pid: u32) {
    // One write per line, so that no line is ever torn.
    let line = format!("{change} {pid}\n");
    let mut reaper = REAPER_PROCESS.lock();
    let input = reaper.stdin.as_mut().expect("the input is piped");
    input
        .write_all(line.as_bytes())
        .expect("the reaper lives as long as the test program");
}
