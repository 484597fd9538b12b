//! An executor in a folder of its own, and what its commands wrote.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use signalbox_agent::environment::Environment;
use signalbox_agent::executor::{Command, Ending, Executor, Graces, Options, Request, State};
use signalbox_agent::journal;
use signalbox_agent::output::{Offsets, Piece, Stream};
use signalbox_agent::policy::Policy;
use signalbox_agent::process::{Mode, Size};
use signalbox_agent::redact::{Redaction, Secret};
use signalbox_agent::spool;
use tempfile::TempDir;

/// How long anything may take; nothing takes nearly as long.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// Read at once.
const READ_BYTES: usize = 1 << 20;
/// Short graces, so that tests that wait for them are not long.
pub const GRACES: Graces = Graces {
    interrupt: Duration::from_millis(300),
    terminate: Duration::from_millis(300),
    kill: Duration::from_secs(10),
    drain: Duration::from_millis(300),
};

/// What a command came to.
#[derive(Debug)]
pub struct Run {
    pub ending: Arc<Ending>,
    pub pieces: Vec<Piece>,
}

/// An executor in a folder of its own.
pub struct Rig {
    pub executor: Executor,
    pub dir: TempDir,
    next: AtomicU32,
}

pub fn options(dir: &Path) -> Options {
    let work = dir.join("work");
    fs::create_dir_all(&work).unwrap();
    Options {
        directory: dir.join("state"),
        policy: Policy::Shell,
        workdir: work,
        environment: Environment::new(std::env::vars_os(), &[]),
        mode: Mode::Pipes,
        redaction: Redaction::none(),
        concurrency: 64,
        spool: spool::Bounds::default(),
        journal: journal::Bounds::default(),
        graces: GRACES,
        input_bytes: 64 * 1024,
    }
}

pub const TERMINAL: Mode = Mode::Terminal(Size {
    columns: 80,
    rows: 24,
});

pub fn redaction(secrets: &[&str]) -> Redaction {
    let secrets: Vec<Secret> = secrets.iter().map(|text| text.parse().unwrap()).collect();
    Redaction::new(&secrets).unwrap()
}

impl Rig {
    pub fn new(change: impl FnOnce(&mut Options)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut options = options(dir.path());
        change(&mut options);
        Self {
            executor: Executor::open(options).unwrap(),
            dir,
            next: AtomicU32::new(0),
        }
    }

    pub fn work(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    /// Starts a command.
    pub fn start(&self, command: &str, args: &[&str]) -> Command {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.executor.execute(Request {
            id: format!("c{number}"),
            command: command.to_owned(),
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
        })
    }

    /// Runs a command to its end, without acknowledging anything.
    pub async fn run(&self, command: &str) -> Run {
        follow(&self.start(command, &[])).await
    }
}

/// Reads a command to its end.
pub async fn follow(command: &Command) -> Run {
    let mut pieces = Vec::new();
    read_until(command, &mut pieces, |_| false).await;
    let State::Ended(ending) = command.state() else {
        panic!("there is nothing more to read, so it has ended");
    };
    Run { ending, pieces }
}

/// Reads a command on until its output is as expected, or it ends.
pub async fn read_until(
    command: &Command,
    pieces: &mut Vec<Piece>,
    mut enough: impl FnMut(&[u8]) -> bool,
) {
    let mut from = Offsets::default();
    pieces.iter().for_each(|piece| from.pass(piece));
    let reading = async {
        while !enough(&bytes(pieces, Stream::Stdout)) {
            let Some(more) = command.next(from, READ_BYTES).await.unwrap() else {
                return;
            };
            more.iter().for_each(|piece| from.pass(piece));
            pieces.extend(more);
        }
    };
    if tokio::time::timeout(DEADLINE, reading).await.is_err() {
        panic!(
            "after {:?}",
            String::from_utf8_lossy(&bytes(pieces, Stream::Stdout))
        );
    }
}

/// Reads a command on until a text is in its output; returns all of it.
pub async fn expect(command: &Command, pieces: &mut Vec<Piece>, text: &str) -> String {
    let has = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains(text);
    read_until(command, pieces, has).await;
    let all = String::from_utf8_lossy(&bytes(pieces, Stream::Stdout)).into_owned();
    assert!(all.contains(text), "no {text:?} in {all:?}");
    all
}

pub fn bytes(pieces: &[Piece], stream: Stream) -> Vec<u8> {
    let chunks = pieces.iter().filter_map(|piece| match piece {
        Piece::Output(chunk) if chunk.stream == stream => Some(&chunk.bytes),
        _ => None,
    });
    chunks.flatten().copied().collect()
}

impl Run {
    pub fn stdout(&self) -> String {
        String::from_utf8(bytes(&self.pieces, Stream::Stdout)).unwrap()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8(bytes(&self.pieces, Stream::Stderr)).unwrap()
    }

    /// Pieces follow each other, and the sums are of them.
    pub fn check(&self) {
        for stream in Stream::ALL {
            let mut at = 0;
            let mut lost = 0;
            for piece in self.pieces.iter().filter(|piece| piece.stream() == stream) {
                assert_eq!(piece.start(), at, "{stream:?}");
                at = piece.end();
                if let Piece::Gap { from, to, .. } = piece {
                    lost += to - from;
                }
            }
            let sum = self
                .ending
                .streams
                .iter()
                .find(|sum| sum.stream == stream)
                .unwrap();
            assert_eq!((sum.bytes, sum.lost), (at, lost), "{stream:?}");
            if lost == 0 {
                let digest = sha256(&bytes(&self.pieces, stream));
                assert_eq!(sum.sha256.as_deref(), Some(digest.as_str()), "{stream:?}");
            }
        }
    }
}

pub fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Waits until something holds.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

/// Whether a process lives; a zombie does not.
pub fn lives(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// Pids of all processes whose command line has this text.
pub fn processes_with(text: &str) -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|&pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line: Vec<u8> = line
            .into_iter()
            .map(|byte| if byte == 0 { b' ' } else { byte })
            .collect();
        lives(pid) && String::from_utf8_lossy(&line).contains(text)
    })
    .collect()
}

/// The children of this process that nobody reaped.
pub fn zombies() -> usize {
    let us = std::process::id().to_string();
    let entries = fs::read_dir("/proc").unwrap();
    let stats =
        entries.filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("stat")).ok());
    stats
        .filter(|stat| {
            let mut fields = stat
                .rsplit_once(')')
                .map_or("", |(_, rest)| rest)
                .split_whitespace();
            fields.next() == Some("Z") && fields.next() == Some(us.as_str())
        })
        .count()
}
