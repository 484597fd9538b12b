//! The step between the orchestrator and a tool server that is a program: our
//! own binary, started again, which runs the server and ends all of it.
//!
//! ```text
//! orchestrator ──▶ guard ──▶ server ──▶ whatever it starts
//! ```
//!
//! The guard ends the server when it is told to (SIGTERM) and when the
//! orchestrator is gone, also by kill -9: TERM to the server's process group,
//! after a grace KILL to all that is left. It is the reaper of what the server
//! orphans, so that nothing is missed and nothing stays a zombie. The server in
//! turn is killed when the guard is.
//!
//! The system tells the end of the *thread* that started a process, not of the
//! process: the orchestrator starts guards from a thread that lives as long as
//! itself, the guard its server from its only one.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::{CommandExt as _, parent_id};
use std::process::{self, Command};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, dup2_stdin, dup2_stdout};

/// The hidden subcommand under which a binary that runs an orchestrator must
/// call [`guard_main`].
pub const GUARD_SUBCOMMAND: &str = "__tool-server";

/// What a guard returns when the program cannot be started, as shells do.
pub(super) const NOT_STARTED: u8 = 127;
/// The first argument of the guard itself.
const WATCH: &str = "watch";
/// The first argument of the process that becomes the server.
const BECOME: &str = "become";
/// How often what is left is killed once the grace is over.
const KILL_AGAIN: Duration = Duration::from_millis(100);

/// The arguments of a guard that gives its server this long to end.
pub(super) fn arguments(grace: Duration, program: &OsStr) -> [OsString; 5] {
    [
        GUARD_SUBCOMMAND.into(),
        WATCH.into(),
        process::id().to_string().into(),
        grace.as_millis().to_string().into(),
        program.into(),
    ]
}

/// Guards the server that the arguments after [`GUARD_SUBCOMMAND`] describe, and
/// returns the exit code to end with.
pub fn guard_main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let mut arguments = arguments.into_iter();
    let (mode, parent) = (arguments.next(), arguments.next());
    let (Some(mode), Some(parent)) = (mode, parent) else {
        return refuse("this subcommand is for internal use");
    };
    let outcome = if mode == WATCH {
        watch(&parent, arguments)
    } else {
        Err(become_server(&parent, arguments))
    };
    outcome.unwrap_or_else(refuse)
}

/// Standard error is the orchestrator's to read.
fn refuse(error: impl std::fmt::Display) -> u8 {
    use std::io::Write as _;
    writeln!(io::stderr(), "{error}").ok();
    NOT_STARTED
}

fn watch(parent: &OsStr, mut arguments: impl Iterator<Item = OsString>) -> io::Result<u8> {
    let grace = arguments.next();
    let grace = grace.and_then(|millis| millis.to_str()?.parse().ok());
    let grace = Duration::from_millis(grace.ok_or(io::ErrorKind::InvalidInput)?);
    let mut signals = SigSet::empty();
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGCHLD,
    ] {
        signals.add(signal);
    }
    signals.thread_block()?;
    end_with_parent(parent, Signal::SIGTERM)?;
    adopt_orphans()?;
    let child = Command::new(own_program()?)
        .arg(GUARD_SUBCOMMAND)
        .arg(BECOME)
        .arg(process::id().to_string())
        .args(arguments)
        .process_group(0)
        .spawn()?;
    // The pipes are the server's alone: held here, too, they would not end with it.
    let nothing = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    dup2_stdin(&nothing)?;
    dup2_stdout(&nothing)?;
    let server = i32::try_from(child.id()).map_err(io::Error::other)?;
    serve(&signals, Pid::from_raw(server), grace)
}

/// Until the server and all of its descendants have ended; returns its exit code.
fn serve(signals: &SigSet, server: Pid, grace: Duration) -> io::Result<u8> {
    let mut ending = false;
    loop {
        let signal = signals.wait()?;
        for child in orphans(server) {
            waitpid(child, Some(WaitPidFlag::WNOHANG)).ok();
        }
        // It is reaped last: until then nobody else can have its number.
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let ended = !matches!(waitid(Id::Pid(server), flags), Ok(WaitStatus::StillAlive));
        if ended && orphans(server).is_empty() {
            return Ok(match waitpid(server, None)? {
                WaitStatus::Exited(_, code) => u8::try_from(code & 0xff).unwrap_or(1),
                WaitStatus::Signaled(_, signal, _) => 128_u8.saturating_add(signal as u8),
                _ => 1,
            });
        }
        if !ending && (ended || signal != Signal::SIGCHLD) {
            ending = true;
            killpg(server, Signal::SIGTERM).ok();
            thread::Builder::new().spawn(move || kill_after(grace, server))?;
        }
    }
}

/// What the server has left behind: once it has ended, all its descendants come
/// to be children of this process, one generation after the other.
fn orphans(server: Pid) -> Vec<Pid> {
    let mut children = children();
    children.retain(|child| *child != server);
    children
}

/// Kills what is left when the grace is over, and again until this process ends.
fn kill_after(grace: Duration, server: Pid) {
    thread::sleep(grace);
    loop {
        killpg(server, Signal::SIGKILL).ok();
        // Those that left the group became children of ours.
        for child in children() {
            kill(child, Signal::SIGKILL).ok();
        }
        // Has the other thread look, should it have missed an end.
        kill(Pid::this(), Signal::SIGCHLD).ok();
        thread::sleep(KILL_AGAIN);
    }
}

/// The children of this process. The server is started by the first thread and
/// orphans are given to it, too.
fn children() -> Vec<Pid> {
    let this = Pid::this();
    let list = std::fs::read_to_string(format!("/proc/{this}/task/{this}/children"));
    let list = list.unwrap_or_default();
    let pids = list
        .split_ascii_whitespace()
        .filter_map(|pid| pid.parse().ok());
    pids.map(Pid::from_raw).collect()
}

/// Becomes the server; returns only when that fails.
fn become_server(parent: &OsStr, mut arguments: impl Iterator<Item = OsString>) -> io::Error {
    if let Err(error) = end_with_parent(parent, Signal::SIGKILL) {
        return error;
    }
    let Some(program) = arguments.next() else {
        return io::ErrorKind::InvalidInput.into();
    };
    // What the guard waits for is blocked in it: the server is to hear it.
    if let Err(error) = SigSet::all().thread_unblock() {
        return error.into();
    }
    let error = Command::new(&program).args(arguments).exec();
    io::Error::other(format!("{}: {error}", program.display()))
}

/// Has the system send a signal to this process when its parent ends.
fn end_with_parent(parent: &OsStr, signal: Signal) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_pdeathsig(signal)?;
    #[cfg(not(target_os = "linux"))]
    let _ = signal;
    // Asked for too late if the parent ended before: then nobody would tell.
    if parent != OsStr::new(&parent_id().to_string()) {
        return Err(io::Error::other("whoever wanted this server has ended"));
    }
    Ok(())
}

fn adopt_orphans() -> Result<(), Errno> {
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_child_subreaper(true)?;
    Ok(())
}

/// Our own program, also when its file was replaced since it was started.
pub(super) fn own_program() -> io::Result<OsString> {
    if cfg!(target_os = "linux") {
        return Ok("/proc/self/exe".into());
    }
    std::env::current_exe().map(OsString::from)
}
