//! A `nats-server` for one test, with the users and rights of the real one.

use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use async_nats::{Client, ConnectOptions};
use nix::sys::signal::Signal;
use parking_lot::Mutex;
use signalbox_bus::server::{ServerConfig, ServerFiles, User, locate};
use tempfile::TempDir;

use crate::{DEADLINE, child::GuardedChild};

const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A server of its own data, on a free port; dropping it ends it and removes
/// the data.
#[derive(Debug)]
pub struct NatsServer {
    program: PathBuf,
    config: ServerConfig,
    files: ServerFiles,
    port: u16,
    child: Mutex<GuardedChild>,
    /// Removed last, when nobody writes to it any more.
    dir: TempDir,
}

impl NatsServer {
    /// Starts a server and waits until it accepts clients.
    ///
    /// # Panics
    /// When no `nats-server` is installed, or it does not start.
    pub async fn start() -> Self {
        Self::start_with(ServerConfig::default()).await
    }

    /// Starts a server with a configuration of the test's own.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub async fn start_with(config: ServerConfig) -> Self {
        let program = locate().unwrap_or_else(|err| panic!("{err}"));
        let dir = tempfile::tempdir().expect("a temporary directory can be created");
        let files = config
            .write(dir.path())
            .expect("the configuration can be written");
        let (child, port) = launch(&program, &files, config.port).await;
        Self {
            program,
            config,
            files,
            port,
            child: Mutex::new(child),
            dir,
        }
    }

    /// The URL with which `user` connects, password included.
    #[must_use]
    pub fn url(&self, user: User) -> String {
        self.config.users.url(user, self.port)
    }

    /// As [`url`](Self::url), through another port of this machine.
    #[must_use]
    pub fn url_through(&self, user: User, port: u16) -> String {
        self.config.users.url(user, port)
    }

    /// As [`url`](Self::url), by the name of the user.
    ///
    /// # Panics
    /// When there is no such user.
    #[must_use]
    pub fn url_for(&self, user: &str) -> String {
        let known = User::ALL.into_iter().find(|known| known.name() == user);
        self.url(known.unwrap_or_else(|| panic!("there is no user {user}")))
    }

    /// A plain client of the library, without anything of ours around it.
    ///
    /// # Panics
    /// When the server does not let it in.
    pub async fn connect(&self, user: User) -> Client {
        self.connect_with(user, ConnectOptions::new()).await
    }

    /// As [`connect`](Self::connect), with options of the test's own.
    ///
    /// # Panics
    /// When the server does not let it in.
    pub async fn connect_with(&self, user: User, options: ConnectOptions) -> Client {
        // The library does not take credentials from a URL.
        options
            .user_and_password(
                user.name().to_owned(),
                self.config.users.password(user).to_owned(),
            )
            .custom_inbox_prefix(user.inbox_prefix())
            .connect(format!("127.0.0.1:{}", self.port))
            .await
            .unwrap_or_else(|err| panic!("{user} cannot connect: {err}"))
    }

    /// The port on 127.0.0.1, which a restart keeps.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process that is the server at the moment.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.lock().pid()
    }

    /// The directory below which everything of the server lies.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Kills the server; returns once it has ended.
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

    /// Starts the server again, killing it first if it runs: same port, same data.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn restart(&self) {
        self.kill9();
        let (child, _) = launch(&self.program, &self.files, Some(self.port)).await;
        *self.child.lock() = child;
    }
}

/// Starts a server and waits for its port. One that ends at once is started
/// again: the port of the previous one may be in use for a moment.
async fn launch(program: &Path, files: &ServerFiles, port: Option<u16>) -> (GuardedChild, u16) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        files.forget_ports().expect("old port files can be removed");
        let stderr = files
            .open_stderr()
            .expect("the server's files can be written");
        let mut command = Command::new(program);
        // The name is part of the name of the file with the port.
        command.arg0("nats-server").args(files.arguments(port));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr);
        let (child, _) = GuardedChild::spawn(&mut command).expect("nats-server can be run");
        while child.exit_status().is_none() {
            if let Some(port) = files.port(child.pid()) {
                return (child, port);
            }
            let words = files.last_words(child.pid());
            assert!(
                Instant::now() < deadline,
                "nats-server is not ready: {words:?}"
            );
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        let words = files.last_words(child.pid());
        assert!(
            Instant::now() < deadline,
            "nats-server does not start: {words:?}"
        );
    }
}

/// Waits until the server has taken in all that a client has sent, such as a
/// subscription: `flush` waits until it was written, no more. The client's user must
/// be allowed to ask JetStream about the account.
///
/// # Panics
/// When the server does not answer.
pub async fn settle(client: &Client) {
    let asked = client.request("$JS.API.INFO", "".into()).await;
    asked.unwrap_or_else(|err| panic!("the server does not answer: {err}"));
}
