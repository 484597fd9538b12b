//! One process: started in a session of its own, in a terminal or with pipes.
//!
//! The program finds standard input, output and error, no other descriptor, the
//! variables that it is given, and signals as any program expects them. In a
//! terminal that has its size before the program runs.

mod raw;
mod signal;

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, waitid,
};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcgetpgrp, tcsetwinsize};

pub(crate) use self::raw::{Exit, keep_exits, reap};
use crate::environment::Environment;
use crate::policy::Permit;

/// Of the pipe that output comes through, if the system allows it: the process
/// and we are woken less often.
const PIPE_BYTES: usize = 1 << 20;

/// How a process is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// To a terminal of this size: input and all output.
    Terminal(Size),
    /// By three pipes.
    Pipes,
}

/// Of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Its width.
    pub columns: u16,
    /// Its height.
    pub rows: u16,
}

impl Default for Size {
    fn default() -> Self {
        Self {
            columns: 80,
            rows: 24,
        }
    }
}

/// What to start.
pub(crate) struct Start<'a> {
    pub(crate) permit: &'a Permit,
    pub(crate) environment: &'a Environment,
    /// A variable that marks the process and all that descends from it.
    pub(crate) mark: (&'a str, &'a OsStr),
    pub(crate) workdir: &'a Path,
    pub(crate) mode: Mode,
}

/// A process that was started, and is not reaped.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    /// Readable once it has exited.
    pub(crate) exited: OwnedFd,
    pub(crate) started: Instant,
    pub(crate) ends: Ends,
    /// Its end of the terminal. While that is open here, ours does not say that
    /// nobody has it: a process may close its own and come back by `/dev/tty`.
    held: Option<OwnedFd>,
}

/// Our ends of what connects us to a process. None of them blocks.
#[derive(Debug)]
pub(crate) enum Ends {
    /// The terminal.
    Terminal(OwnedFd),
    /// Its three pipes.
    Pipes {
        stdin: Option<OwnedFd>,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
}

/// Starts a process.
pub(crate) fn start(start: &Start<'_>) -> io::Result<Process> {
    let mut command = Command::new(&start.permit.program);
    let (name, words) = start
        .permit
        .words
        .split_first()
        .ok_or(io::ErrorKind::InvalidInput)?;
    let terminal = matches!(start.mode, Mode::Terminal(_));
    command
        .arg0(name)
        .args(words)
        .env_clear()
        .envs(start.environment.variables(terminal))
        .env(start.mark.0, start.mark.1)
        .current_dir(start.workdir);
    let (ends, held) = match start.mode {
        Mode::Terminal(size) => {
            let (ours, theirs) = terminal_of(size)?;
            command
                .stdin(theirs.try_clone()?)
                .stdout(theirs.try_clone()?)
                .stderr(theirs.try_clone()?);
            (Ends::Terminal(ours), Some(theirs))
        }
        Mode::Pipes => {
            let (their_stdin, stdin) = pipe_with(PipeFlags::CLOEXEC)?;
            let (stdout, their_stdout) = pipe_with(PipeFlags::CLOEXEC)?;
            let (stderr, their_stderr) = pipe_with(PipeFlags::CLOEXEC)?;
            // A user may have only so much; the default does.
            fcntl_setpipe_size(&stdout, PIPE_BYTES).ok();
            for ours in [&stdin, &stdout, &stderr] {
                fcntl_setfl(ours, fcntl_getfl(ours)? | OFlags::NONBLOCK)?;
            }
            command
                .stdin(Stdio::from(their_stdin))
                .stdout(Stdio::from(their_stdout))
                .stderr(Stdio::from(their_stderr));
            let ends = Ends::Pipes {
                stdin: Some(stdin),
                stdout,
                stderr,
            };
            (ends, None)
        }
    };
    raw::prepare(&mut command, terminal);
    let started = Instant::now();
    let mut child = command.spawn()?;
    // The ends of pipes must not stay open here, or there would be no end of
    // output.
    drop(command);
    let pid = Pid::from_child(&child);
    // The pid is its own until we reap it.
    let exited = pidfd_open(pid, PidfdFlags::empty()).inspect_err(|_| {
        // Whoever hears that it was not started may send it again.
        kill_process_group(pid, Signal::KILL).ok();
        child.wait().ok();
    })?;
    Ok(Process {
        pid,
        exited,
        started,
        ends,
        held,
    })
}

fn terminal_of(size: Size) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = openpt(flags)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    resize(&ours, size)?;
    let theirs = ioctl_tiocgptpeer(&ours, flags)?;
    fcntl_setfl(&ours, fcntl_getfl(&ours)? | OFlags::NONBLOCK)?;
    Ok((ours, theirs))
}

fn resize(terminal: &OwnedFd, size: Size) -> io::Result<()> {
    tcsetwinsize(
        terminal,
        Winsize {
            ws_row: size.rows,
            ws_col: size.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        },
    )?;
    Ok(())
}

impl Process {
    pub(crate) const fn pid(&self) -> Pid {
        self.pid
    }

    pub(crate) const fn is_terminal(&self) -> bool {
        matches!(self.ends, Ends::Terminal(_))
    }

    /// Changes the size of its terminal; those that run in it are told.
    pub(crate) fn resize(&self, size: Size) -> io::Result<()> {
        match &self.ends {
            Ends::Terminal(terminal) => resize(terminal, size),
            Ends::Pipes { .. } => Ok(()),
        }
    }

    /// Whether it has exited. It stays a zombie, and its pid its own, until it
    /// is reaped.
    pub(crate) fn has_exited(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        !matches!(waitid(WaitId::Pid(self.pid), options), Ok(None))
    }

    /// It has exited: its output ends with the last other process that has the
    /// terminal open.
    pub(crate) fn let_go(&mut self) {
        self.held = None;
    }

    /// Interrupts it as a key in its terminal would: whoever is in front, and
    /// its own group.
    pub(crate) fn interrupt(&self) {
        if let Ends::Terminal(terminal) = &self.ends
            && let Ok(front) = tcgetpgrp(terminal)
            && front != self.pid
        {
            kill_process_group(front, Signal::INT).ok();
        }
        // Not reaped, so the group's number is its own.
        kill_process_group(self.pid, Signal::INT).ok();
    }
}

#[cfg(test)]
mod tests;
