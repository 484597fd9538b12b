//! Processes that a run starts from its own binary. They end with it, however
//! it ends: each goes through a step that asks the system for that and then
//! becomes the program.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::os::unix::process::{CommandExt as _, parent_id};
use std::path::{Path, PathBuf};
use std::process::{self, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use signalbox_service::ExitError;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

/// How long a process may take to become ready.
const READY_DEADLINE: Duration = Duration::from_secs(60);
/// How often a process that starts is looked at.
const READY_POLL: Duration = Duration::from_millis(5);
/// How long one probe may take.
const PROBE: Duration = Duration::from_secs(2);
/// Settings of the caller that are not for what it measures.
const SETTINGS: [&str; 5] = [
    "SIGNALBOX_",
    "OTEL_",
    "NATS_URL",
    "REDIS_URL",
    "CORS_ORIGINS",
];

/// The first argument of the step between a run and a process of its own;
/// [`become_program`] takes what follows. Settings are not looked for in it,
/// since the program's arguments are not ours.
pub(crate) const CHILD_SUBCOMMAND: &str = "__bench-child";

/// Becomes the program that the arguments name: the process to end with, the
/// name to run under, the program and its arguments. Returns only when that
/// fails.
pub(crate) fn become_program(arguments: impl IntoIterator<Item = OsString>) -> ExitError {
    let mut arguments = arguments.into_iter();
    let (Some(parent), Some(name), Some(program)) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        return ExitError::config("this subcommand is for internal use");
    };
    if let Err(error) = set_pdeathsig(Signal::SIGKILL) {
        return ExitError::runtime(io::Error::from(error));
    }
    // Asked for too late if the parent ended before: then nobody would tell.
    if parent.to_str() != Some(&parent_id().to_string()) {
        return ExitError::runtime("the run that wanted this process has ended");
    }
    ExitError::runtime(Command::new(program).arg0(name).args(arguments).exec())
}

/// A process of this run; dropping it kills it.
#[derive(Debug)]
pub(super) struct Child {
    name: &'static str,
    process: process::Child,
    log: PathBuf,
}

impl Child {
    /// Starts `program`, by default our own, with its standard error going to
    /// a file below `dir`. The calling thread must live as long as the run:
    /// the system counts it as the parent.
    pub(super) fn spawn(
        name: &'static str,
        program: Option<&Path>,
        arguments: &[OsString],
        environment: &[(&str, String)],
        dir: &Path,
    ) -> anyhow::Result<Self> {
        let own = env::current_exe().context("our own program")?;
        let log = dir.join(format!("{name}.log"));
        let mut command = Command::new(&own);
        command
            .arg(CHILD_SUBCOMMAND)
            .arg(process::id().to_string())
            .arg(name)
            .arg(program.unwrap_or(&own))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::options().create(true).append(true).open(&log)?)
            // A Ctrl-C is for the run, which ends the others.
            .process_group(0);
        for (variable, _) in env::vars_os() {
            let text = variable.to_string_lossy();
            if SETTINGS.iter().any(|setting| text.starts_with(setting)) {
                command.env_remove(&variable);
            }
        }
        command.envs(environment.iter().map(|(key, value)| (key, value)));
        let process = command.spawn().with_context(|| format!("start {name}"))?;
        Ok(Self { name, process, log })
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Its standard input and output, once.
    pub(super) fn pipes(&mut self) -> Option<(ChildStdin, ChildStdout)> {
        Some((self.process.stdin.take()?, self.process.stdout.take()?))
    }

    /// Kills it at once and waits for its end.
    pub(super) fn kill(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }

    /// Waits for its end, which must be a success.
    pub(super) async fn finish(&mut self) -> anyhow::Result<()> {
        let status = self.wait_for(Self::ended).await?;
        if !status.success() {
            bail!("{} ended with {status}: {}", self.name, self.last_words());
        }
        Ok(())
    }

    /// Waits until `look` finds something, while the process runs.
    pub(super) async fn wait_for<T>(
        &mut self,
        mut look: impl FnMut(&mut Self) -> Option<T>,
    ) -> anyhow::Result<T> {
        let deadline = Instant::now() + READY_DEADLINE;
        loop {
            if let Some(found) = look(self) {
                return Ok(found);
            }
            if let Some(status) = self.ended() {
                bail!("{} ended with {status}: {}", self.name, self.last_words());
            }
            if Instant::now() > deadline {
                bail!(
                    "{} was not ready within {READY_DEADLINE:?}: {}",
                    self.name,
                    self.last_words()
                );
            }
            sleep(READY_POLL).await;
        }
    }

    /// Waits until a service has said where it tells how it is, and is ready.
    pub(super) async fn ready(&mut self) -> anyhow::Result<()> {
        let admin = self.wait_for(|child| child.logged("admin=")).await?;
        let deadline = Instant::now() + READY_DEADLINE;
        while !is_ready(admin).await {
            if let Some(status) = self.ended() {
                bail!("{} ended with {status}: {}", self.name, self.last_words());
            }
            if Instant::now() > deadline {
                bail!(
                    "{} was not ready within {READY_DEADLINE:?}: {}",
                    self.name,
                    self.last_words()
                );
            }
            sleep(READY_POLL).await;
        }
        Ok(())
    }

    /// The last address that the process has logged behind `key`.
    pub(super) fn logged(&self, key: &str) -> Option<SocketAddr> {
        let log = fs::read_to_string(&self.log).ok()?;
        let mut addresses = log.lines().rev().filter_map(|line| {
            let (_, rest) = line.split_once(key)?;
            rest.split_whitespace().next()?.parse().ok()
        });
        addresses.next()
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().ok().flatten()
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let mut lines = log.lines().rev().filter(|line| !line.trim().is_empty());
        lines.next().unwrap_or("it said nothing").to_owned()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether the service with this admin listener is ready.
async fn is_ready(admin: SocketAddr) -> bool {
    get(admin, "/ready")
        .await
        .is_ok_and(|(status, _)| status == 200)
}

/// Asks for a page over HTTP; gives status and body.
pub(super) async fn get(addr: SocketAddr, path: &str) -> anyhow::Result<(u16, String)> {
    let exchange = async {
        let mut stream = TcpStream::connect(addr).await?;
        // HTTP/1.0, so that the body comes in one piece.
        let request = format!("GET {path} HTTP/1.0\r\nHost: {addr}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = timeout(PROBE, exchange).await.context("no answer")??;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    Ok((status.context("no HTTP status")?, body.to_owned()))
}
