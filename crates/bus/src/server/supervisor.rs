//! Starts the managed server and keeps it running, from the main thread of the
//! process that needs it.

use std::{
    io,
    path::PathBuf,
    process::{Child, ExitStatus},
    sync::mpsc::{Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tracing::{error, info, warn};

use super::{
    child,
    config::{ServerConfig, ServerFiles},
    credentials::Credentials,
    data_dir::DataDir,
    locate::{LocateError, locate},
    permission::User,
};

/// How long a start may take; recovering a full store from a slow disk takes
/// most of it.
const READY_DEADLINE: Duration = Duration::from_secs(120);
const READY_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// How often the supervisor looks whether the server still runs.
const WATCH_INTERVAL: Duration = Duration::from_millis(50);

/// The pause before a restart: doubled each time, and begun anew once the
/// server has run for [`STABLE_AFTER`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const STABLE_AFTER: Duration = Duration::from_secs(30);

/// How long the server may take to stop before it is killed.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// A `nats-server` child of this process. Dropping it stops the server.
///
/// The process keeps its main thread for it: [`start`](Self::start) and then
/// [`supervise`](Self::supervise) run there, the services in other threads.
#[derive(Debug)]
pub struct ManagedServer {
    program: PathBuf,
    files: ServerFiles,
    users: Credentials,
    port: u16,
    child: Child,
    dir: DataDir,
}

/// Why the managed server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no usable program.
    #[error(transparent)]
    Locate(#[from] LocateError),
    /// Another thread than the main one asked. The system would end the server
    /// together with that thread.
    #[error("nats-server can only be started by the main thread")]
    NotMainThread,
    /// A file or the process could not be created.
    #[error("nats-server could not be started: {0}")]
    Io(#[from] io::Error),
    /// The server ended before it was ready.
    #[error("nats-server ended with {status} before it was ready: {reason}")]
    Ended {
        /// How it ended.
        status: ExitStatus,
        /// What it said last.
        reason: String,
    },
    /// The server was not ready within two minutes.
    #[error("nats-server was not ready after {} s, see {}", READY_DEADLINE.as_secs(), log.display())]
    NotReady {
        /// The server's log.
        log: PathBuf,
    },
}

impl ManagedServer {
    /// Starts a server that keeps its data in `dir`, and waits until it accepts
    /// clients. The directory's lock passes to the server too: it is free again
    /// only when both have ended.
    ///
    /// # Errors
    /// When called by another thread than the main one, when no usable program
    /// is found, or when the server does not become ready.
    pub fn start(config: ServerConfig, dir: DataDir) -> Result<Self, StartError> {
        if !on_main_thread() {
            return Err(StartError::NotMainThread);
        }
        let program = locate()?;
        let files = config.write(dir.path())?;
        let child = child::spawn(&program, &files, config.port, dir.share_lock()?)?;
        let mut server = Self {
            program,
            files,
            users: config.users,
            port: 0,
            child,
            dir,
        };
        server.port = server.wait_until_ready()?;
        info!(port = server.port, pid = server.child.id(), program = %server.program.display(), "nats-server is ready");
        Ok(server)
    }

    /// The port on 127.0.0.1; a restarted server has the same one.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process that is the server at the moment.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The URL with which `user` connects, password included.
    #[must_use]
    pub fn url(&self, user: User) -> String {
        self.users.url(user, self.port)
    }

    /// Restarts the server on the same port whenever it ends, until a message
    /// arrives on `stop` or its last sender is gone; then stops it. Blocks, and
    /// must be called by the thread that started the server.
    ///
    /// Whoever holds the sender should be done with the server before letting
    /// go of it.
    pub fn supervise(mut self, stop: &Receiver<()>) {
        let mut pause = FIRST_PAUSE;
        let mut started = Instant::now();
        let mut announced = true;
        while !told_within(WATCH_INTERVAL, stop) {
            let Some(status) = self.ended() else {
                if !announced && self.files.port(self.pid()).is_some() {
                    info!(
                        port = self.port,
                        pid = self.pid(),
                        "nats-server is ready again"
                    );
                    announced = true;
                }
                continue;
            };
            if started.elapsed() >= STABLE_AFTER {
                pause = FIRST_PAUSE;
            }
            let reason = self.files.last_words(self.pid());
            error!(%status, ?reason, ?pause, "nats-server ended and will be restarted");
            if told_within(pause, stop) {
                break;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
            started = Instant::now();
            announced = false;
            if let Err(err) = self.respawn() {
                error!(%err, "nats-server could not be restarted");
            }
        }
        // Dropped here: the server is stopped.
    }

    /// Waits until the server has written its port.
    fn wait_until_ready(&mut self) -> Result<u16, StartError> {
        let deadline = Instant::now() + READY_DEADLINE;
        while Instant::now() < deadline {
            if let Some(port) = self.files.port(self.pid()) {
                return Ok(port);
            }
            if let Some(status) = self.ended() {
                let reason = self
                    .files
                    .last_words(self.pid())
                    .unwrap_or_else(|| "it gave no reason".to_owned());
                return Err(StartError::Ended { status, reason });
            }
            thread::sleep(READY_POLL_INTERVAL);
        }
        Err(StartError::NotReady {
            log: self.files.log.clone(),
        })
    }

    fn respawn(&mut self) -> io::Result<()> {
        self.files.forget_ports()?;
        self.child = child::spawn(
            &self.program,
            &self.files,
            Some(self.port),
            self.dir.share_lock()?,
        )?;
        Ok(())
    }

    /// How the server ended; `None` while it runs. One that has ended keeps its answer.
    fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Asks the server to stop, and kills it when it takes too long.
    fn stop(&mut self) {
        if self.ended().is_some() {
            return;
        }
        signal(&self.child, Signal::SIGTERM);
        let deadline = Instant::now() + STOP_DEADLINE;
        while Instant::now() < deadline {
            if self.ended().is_some() {
                return;
            }
            thread::sleep(READY_POLL_INTERVAL);
        }
        warn!(pid = self.pid(), "nats-server did not stop and is killed");
        signal(&self.child, Signal::SIGKILL);
        self.child.wait().ok();
    }
}

impl Drop for ManagedServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Waits for the word to stop; a sender that is gone gives it too, so that the
/// panic of a service ends the process rather than leaving half of it.
fn told_within(time: Duration, stop: &Receiver<()>) -> bool {
    !matches!(stop.recv_timeout(time), Err(RecvTimeoutError::Timeout))
}

/// Sends a signal to a child that has not been waited for, whose id is its own therefore.
fn signal(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id()).expect("process ids are positive 32-bit numbers");
    kill(Pid::from_raw(pid), signal).ok();
}

#[cfg(target_os = "linux")]
fn on_main_thread() -> bool {
    nix::unistd::gettid() == nix::unistd::getpid()
}

/// Other systems do not tie a child to the thread that started it.
#[cfg(not(target_os = "linux"))]
fn on_main_thread() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_from_another_thread_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let dir = DataDir::lock(parent.path()).unwrap();
        // The test harness runs every test in a thread of its own.
        let error = ManagedServer::start(ServerConfig::default(), dir).unwrap_err();
        assert!(matches!(error, StartError::NotMainThread), "{error}");
    }

    #[test]
    fn sender_that_is_gone_tells_to_stop() {
        let (sender, receiver) = std::sync::mpsc::channel();
        assert!(!told_within(Duration::ZERO, &receiver));
        drop(sender);
        assert!(told_within(Duration::from_secs(30), &receiver));
    }
}
