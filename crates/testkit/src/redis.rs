//! A `redis-server` for one test.

use std::{
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use parking_lot::Mutex;
use tempfile::TempDir;

use crate::{DEADLINE, child::GuardedChild};

const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A server without a port, on a socket in a directory of its own; dropping it
/// ends it.
#[derive(Debug)]
pub struct RedisServer {
    child: Mutex<GuardedChild>,
    dir: TempDir,
}

impl RedisServer {
    /// Starts a server and waits until it accepts clients.
    ///
    /// # Panics
    /// When no `redis-server` is installed, or it does not start.
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be created");
        let child = launch(&dir).await;
        Self {
            child: Mutex::new(child),
            dir,
        }
    }

    /// The URL with which clients connect.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis+unix://{}", socket(&self.dir).display())
    }

    /// Kills the server; what it counted is lost.
    pub fn kill9(&self) {
        self.child.lock().kill9();
    }

    /// Halts the server: its connections stay open and say nothing.
    pub fn sigstop(&self) {
        self.child.lock().halt();
    }

    /// Lets a halted server go on.
    pub fn sigcont(&self) {
        self.child.lock().signal(Signal::SIGCONT);
    }

    /// Starts the server again, killing it first if it runs.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn restart(&self) {
        self.kill9();
        let child = launch(&self.dir).await;
        *self.child.lock() = child;
    }
}

fn socket(dir: &TempDir) -> PathBuf {
    dir.path().join("redis.sock")
}

async fn launch(dir: &TempDir) -> GuardedChild {
    let socket = socket(dir);
    let mut command = Command::new("redis-server");
    command
        .args(["--port", "0", "--save", "", "--appendonly", "no"])
        .arg("--dir")
        .arg(dir.path())
        .arg("--unixsocket")
        .arg(&socket)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let (child, _) = GuardedChild::spawn(&mut command).unwrap_or_else(|err| {
        panic!("redis-server cannot be run ({err}), run: apt-get install redis-server")
    });
    let deadline = Instant::now() + DEADLINE;
    while UnixStream::connect(&socket).is_err() {
        assert!(child.exit_status().is_none(), "redis-server does not start");
        assert!(Instant::now() < deadline, "redis-server is not ready");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    child
}
