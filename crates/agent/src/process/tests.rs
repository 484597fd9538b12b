//! Where the system refuses what it takes to watch a process.
#![allow(unsafe_code)]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::{fs, io, thread};

use super::*;
use crate::family;

/// Runs something on a thread that is refused `pidfd_open`, as by the sandbox of
/// a container.
fn without_pidfd<T: Send + 'static>(
    body: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let filtered = || {
        let word = |code: u32, k: u32, otherwise: u8| libc::sock_filter {
            code: code as u16,
            jt: 0,
            jf: otherwise,
            k,
        };
        let returns = libc::BPF_RET | libc::BPF_K;
        let mut program = [
            // The number of the call is what comes first.
            word(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
            word(
                libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
                libc::SYS_pidfd_open as u32,
                1,
            ),
            word(returns, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32, 0),
            word(returns, libc::SECCOMP_RET_ALLOW, 0),
        ];
        let program = libc::sock_fprog {
            len: program.len() as u16,
            filter: program.as_mut_ptr(),
        };
        // SAFETY: the program outlives the call, and is of this thread alone.
        let filtered = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(
                    libc::PR_SET_SECCOMP,
                    libc::SECCOMP_MODE_FILTER,
                    &raw const program,
                ) == 0
        };
        assert!(filtered, "{}", io::Error::last_os_error());
        body()
    };
    thread::spawn(filtered).join().unwrap()
}

fn is_running(argument: &str) -> bool {
    let lines = fs::read_dir("/proc").unwrap().flatten();
    let mut lines = lines.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.any(|line| {
        line.split(|&byte| byte == 0)
            .any(|word| word == argument.as_bytes())
    })
}

#[test]
fn what_cannot_be_watched_is_not_left_running() {
    let nap = format!("{}.4", 60_000 + std::process::id() % 10_000);
    let permit = Permit {
        program: PathBuf::from("/bin/sleep"),
        words: vec!["sleep".to_owned(), nap.clone()],
    };
    for mode in [Mode::Pipes, Mode::Terminal(Size::default())] {
        let permit = permit.clone();
        let started = without_pidfd(move || {
            start(&Start {
                permit: &permit,
                environment: &Environment::new([], &[]),
                mark: ("MARK", OsStr::new("m")),
                workdir: Path::new("/"),
                mode,
            })
        });
        assert_eq!(started.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert!(!is_running(&nap));
    }
}

#[test]
fn a_system_without_what_it_takes_is_told_at_the_start() {
    let refused = without_pidfd(family::become_reaper).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
}
