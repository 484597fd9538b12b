//! What has no safe interface: the steps between fork and exec, and waiting
//! with what was used.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, ioctl_tiocsctty, setsid};

use super::signal;
use crate::executor::Usage;

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    /// What it returned; 128+n where signal n ended it.
    pub(crate) code: i32,
    /// The signal that ended it.
    pub(crate) signal: Option<String>,
    /// What it and those of its descendants used that it waited for.
    pub(crate) usage: Usage,
}

/// Has a process begin as the leader of a session, in its terminal if it has
/// one, with default signals and without our descriptors.
pub(super) fn prepare(command: &mut Command, terminal: bool) {
    let steps = move || {
        setsid()?;
        if terminal {
            ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        for number in 1..=libc::SIGRTMAX() {
            // SAFETY: sets a disposition; refused for those that have none.
            unsafe { libc::signal(number, libc::SIG_DFL) };
        }
        // What the library did not open may lack the flag: all is closed at exec.
        // SAFETY: marks descriptors of this process, which is about to exec.
        let marked = unsafe {
            libc::syscall(
                libc::SYS_close_range,
                3 as libc::c_uint,
                libc::c_uint::MAX,
                libc::CLOSE_RANGE_CLOEXEC as libc::c_uint,
            )
        };
        if marked == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    // SAFETY: between fork and exec only system calls are made: nothing
    // allocates, and no lock is taken that another thread could hold.
    unsafe { command.pre_exec(steps) };
}

/// Sees to it that children stay until somebody asks how they ended: whoever
/// started this program may have left it to ignore them.
pub(crate) fn keep_exits() {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: the structure is valid to write to, and valid if zeroed; a handler
    // that is there is left alone.
    unsafe {
        libc::sigaction(libc::SIGCHLD, std::ptr::null(), action.as_mut_ptr());
        if action.assume_init().sa_sigaction == libc::SIG_IGN {
            libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        }
    }
}

/// Takes the exit of a child. `None` if it has not exited, or is none.
pub(crate) fn reap(pid: Pid) -> Option<Exit> {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both are valid to write to, and the structure is valid if zeroed.
    let (reaped, usage) = unsafe {
        let raw = pid.as_raw_nonzero().get();
        let reaped = libc::wait4(raw, &raw mut status, libc::WNOHANG, usage.as_mut_ptr());
        (reaped, usage.assume_init())
    };
    if reaped <= 0 {
        return None;
    }
    let ended_by = libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status));
    Some(Exit {
        code: match ended_by {
            Some(number) => 128 + number,
            None => libc::WEXITSTATUS(status),
        },
        signal: ended_by.map(signal::name),
        usage: Usage {
            cpu: duration(usage.ru_utime) + duration(usage.ru_stime),
            // The kernel counts in KiB.
            peak_memory: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
        },
    })
}

fn duration(time: libc::timeval) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let micros = u64::try_from(time.tv_usec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_micros(micros)
}
