//! A runner that is killed, and its successor: nothing runs on, nothing runs
//! twice, and what was written is there.
//!
//! The runner that is killed is this test program itself, started once more
//! with [`RUNNER`] set; it executes what it reads from its standard input.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::io::{BufRead as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::time::Duration;

use common::{bytes, eventually, follow, lives, options, processes_with};
use signalbox_agent::executor::{Executor, Outcome, Request, State};
use signalbox_agent::output::{Offsets, Stream};

/// The folder of the runner that is to be killed.
const RUNNER: &str = "SIGNALBOX_TEST_RUNNER";
/// A limit for its files, in blocks of 512 bytes.
const FILE_BLOCKS: &str = "SIGNALBOX_TEST_FILE_BLOCKS";

/// Not a test: the runner that is to be killed.
#[test]
#[ignore = "started by the other tests"]
fn runner() {
    let Ok(dir) = std::env::var(RUNNER) else {
        return;
    };
    let mut options = options(Path::new(&dir));
    options.spool.patience = Duration::from_millis(100);
    let executor = Executor::open(options).unwrap();
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let (id, command) = line.split_once(' ').unwrap();
        if id == "confirm" {
            executor.confirm(command);
            continue;
        }
        let command = executor.execute(Request {
            id: id.to_owned(),
            command: command.to_owned(),
            args: Vec::new(),
        });
        let mut told = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(Path::new(&dir).join("told"))
            .unwrap();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap();
            let mut progress = command.progress();
            runtime
                .block_on(progress.wait_for(|progress| progress.ended))
                .unwrap();
            writeln!(told, "{}", command.id()).unwrap();
        });
    }
}

/// A runner in a process of its own.
struct Runner {
    child: Child,
    stdin: ChildStdin,
}

impl Runner {
    fn start(dir: &Path, file_blocks: Option<u32>) -> Self {
        let mut command = std::process::Command::new("sh");
        // Whoever starts a runner may ignore signals, which it inherits.
        let mut script = "trap '' CHLD XFSZ; ".to_owned();
        if file_blocks.is_some() {
            script.push_str("ulimit -f $SIGNALBOX_TEST_FILE_BLOCKS; ");
        }
        script.push_str("exec \"$0\" --exact runner --ignored --nocapture");
        command
            .args(["-c", &script])
            .arg(std::env::current_exe().unwrap())
            .env(RUNNER, dir)
            .env(FILE_BLOCKS, file_blocks.unwrap_or(0).to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        Self { child, stdin }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap();
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn nap(number: u32) -> String {
    format!("{}.{number}", 60_000 + std::process::id() % 10_000)
}

async fn successor(dir: &Path) -> Executor {
    let options = options(dir);
    tokio::task::spawn_blocking(|| Executor::open(options))
        .await
        .unwrap()
        .unwrap()
}

#[tokio::test]
async fn what_a_killed_runner_left_is_ended_and_its_output_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let nap = nap(1);
    let mut runner = Runner::start(dir.path(), None);
    // Descendants in the session, out of it, and one that takes no SIGTERM.
    let script = format!(
        "sleep {nap} & setsid sleep {nap} & setsid sh -c 'trap \"\" TERM HUP; sleep {nap}; :' & printf 'written\\351'; echo x >> ran; wait"
    );
    runner.say(&format!("left {script}"));
    runner.say("over echo over; echo err >&2; exit 3");
    runner.say("gone echo gone");
    let told = || fs::read_to_string(dir.path().join("told")).unwrap_or_default();
    eventually("two have ended", || told().lines().count() == 2).await;
    eventually("they sleep", || processes_with(&nap).len() >= 4).await;
    runner.say("confirm gone");
    eventually("it is confirmed", || {
        !dir.path().join("state/spool/gone").exists()
    })
    .await;
    runner.kill();
    let left = processes_with(&nap);
    assert!(left.len() >= 4, "they outlive the runner: {left:?}");

    let executor = successor(dir.path()).await;
    assert!(left.iter().all(|&pid| !lives(pid)));
    let mut ids: Vec<_> = executor
        .commands()
        .iter()
        .map(|command| command.id().to_owned())
        .collect();
    ids.sort();
    assert_eq!(ids, ["left", "over"]);

    let run = follow(&executor.command("left").unwrap()).await;
    assert_eq!(bytes(&run.pieces, Stream::Stdout), b"written\xe9");
    assert_eq!(run.ending.reason.as_deref(), Some("outcome_unknown"));
    assert_eq!(
        (run.ending.outcome, run.ending.exit_code),
        (Outcome::Failed, None)
    );
    assert!(run.ending.output_incomplete && run.ending.left_behind == 0);
    let run = follow(&executor.command("over").unwrap()).await;
    run.check();
    assert_eq!(
        (run.stdout().as_str(), run.stderr().as_str()),
        ("over\n", "err\n")
    );
    assert_eq!(run.ending.exit_code, Some(3));

    // Nothing is executed again, whatever is known of it.
    for id in ["left", "over", "gone"] {
        let request = Request {
            id: id.to_owned(),
            command: "echo again >> ran".into(),
            args: Vec::new(),
        };
        assert!(
            matches!(executor.execute(request).state(), State::Ended(_)),
            "{id}"
        );
    }
    assert_eq!(
        fs::read_to_string(dir.path().join("work/ran")).unwrap(),
        "x\n"
    );
}

#[tokio::test]
async fn nothing_that_was_told_is_lost_wherever_the_kill_falls() {
    let dir = tempfile::tempdir().unwrap();
    let nap = nap(2);
    for round in 0..12u64 {
        let mut runner = Runner::start(dir.path(), None);
        for number in 0..6 {
            let id = format!("r{round}n{number}");
            runner.say(&format!(
                "{id} echo {id} >> ran; seq 20000; echo {id}; sleep {nap}"
            ));
        }
        let ran = || fs::read_to_string(dir.path().join("work/ran")).unwrap_or_default();
        let before = ran().lines().count();
        eventually("some run", || ran().lines().count() > before).await;
        tokio::time::sleep(Duration::from_millis(round * 3)).await;
        runner.kill();
        let executor = successor(dir.path()).await;
        assert!(processes_with(&nap).is_empty(), "round {round}");
        let started = executor.commands();
        let lines = ran();
        for line in lines.lines() {
            assert_eq!(
                lines.lines().filter(|other| *other == line).count(),
                1,
                "{line}"
            );
        }
        // Whatever ran is known, and not executed again.
        let ids: Vec<&str> = started.iter().map(|command| command.id()).collect();
        for line in lines
            .lines()
            .filter(|line| line.starts_with(&format!("r{round}n")))
        {
            assert!(ids.contains(&line), "{line} ran and nobody knows");
        }
        for command in &started {
            let run = follow(command).await;
            let whole: String = (1..=20_000).map(|i| format!("{i}\n")).collect();
            let whole = format!("{whole}{}\n", command.id());
            assert!(whole.starts_with(&run.stdout()), "round {round}");
            executor.confirm(command.id());
        }
        assert_eq!(
            fs::read_dir(dir.path().join("state/spool"))
                .unwrap()
                .count(),
            0
        );
    }
}

#[tokio::test]
async fn a_torn_journal_and_a_torn_spool_are_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let mut runner = Runner::start(dir.path(), None);
    runner.say("first echo first");
    let told = || fs::read_to_string(dir.path().join("told")).unwrap_or_default();
    eventually("it has ended", || told().lines().count() == 1).await;
    runner.say("second echo second; sleep 50");
    let spool = dir.path().join("state/spool/second/00000000.seg");
    eventually("it writes", || {
        fs::metadata(&spool).is_ok_and(|file| file.len() > 36)
    })
    .await;
    runner.kill();
    for file in [&spool, &dir.path().join("state/journal")] {
        fs::OpenOptions::new()
            .append(true)
            .open(file)
            .unwrap()
            .write_all(b"torn")
            .unwrap();
    }
    // The first one's output is shorter than its end says.
    let first = dir.path().join("state/spool/first/00000000.seg");
    let length = fs::metadata(&first).unwrap().len();
    fs::OpenOptions::new()
        .write(true)
        .open(&first)
        .unwrap()
        .set_len(length - 1)
        .unwrap();
    let executor = successor(dir.path()).await;
    let run = follow(&executor.command("second").unwrap()).await;
    assert_eq!(run.stdout(), "second\n");
    let run = follow(&executor.command("first").unwrap()).await;
    run.check();
    assert!(run.ending.output_incomplete);
    assert_eq!(
        (run.ending.exit_code, run.ending.streams[0].lost),
        (Some(0), 6)
    );
}

#[tokio::test]
async fn acknowledged_output_stays_gone_and_the_rest_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let executor = successor(dir.path()).await;
    let command = executor.execute(Request {
        id: "big".into(),
        command: "seq 3000000".into(),
        args: Vec::new(),
    });
    let run = follow(&command).await;
    let all = bytes(&run.pieces, Stream::Stdout);
    let half = all.len() as u64 / 2;
    command.acknowledge(Stream::Stdout, half);
    drop((executor, command));
    let executor = successor(dir.path()).await;
    let command = executor.command("big").unwrap();
    let kept = command.acknowledged().stdout;
    assert!(kept > 0 && kept <= half, "{kept} of {half}");
    let mut pieces = Vec::new();
    let mut from = command.acknowledged();
    while let Some(more) = command.next(from, 1 << 20).await.unwrap() {
        more.iter().for_each(|piece| from.pass(piece));
        pieces.extend(more);
    }
    assert_eq!(
        bytes(&pieces, Stream::Stdout),
        all[usize::try_from(kept).unwrap()..]
    );
    assert_eq!(
        from,
        Offsets {
            stdout: all.len() as u64,
            stderr: 0
        }
    );
}

#[tokio::test]
async fn a_full_disk_ends_no_command() {
    let dir = tempfile::tempdir().unwrap();
    // No file may have more than 256 KiB.
    let mut runner = Runner::start(dir.path(), Some(512));
    runner.say("full seq 200000; exit 9");
    // The runner ignores this signal; its commands do not.
    runner.say("signal kill -s XFSZ $$");
    let told = || fs::read_to_string(dir.path().join("told")).unwrap_or_default();
    eventually("both have ended", || told().lines().count() == 2).await;
    runner.kill();
    let executor = successor(dir.path()).await;
    let run = follow(&executor.command("full").unwrap()).await;
    assert_eq!(run.ending.exit_code, Some(9));
    assert!(run.ending.output_incomplete && run.ending.streams[0].lost > 100_000);
    run.check();
    let run = follow(&executor.command("signal").unwrap()).await;
    assert_eq!(run.ending.signal.as_deref(), Some("SIGXFSZ"));
}
