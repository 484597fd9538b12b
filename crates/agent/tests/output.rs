//! What comes out of a command is what it wrote: all bytes, in order, whatever
//! they are and however they are cut, without secrets, and with gaps told.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::Write as _;
use std::time::Duration;

use common::{Rig, Run, TERMINAL, bytes, eventually, follow, processes_with, redaction};
use signalbox_agent::executor::{Command, State, Urgency};
use signalbox_agent::output::{Chunk, Offsets, Piece, Stream, whole_characters};
use signalbox_agent::spool;

/// A program that writes a file byte by byte: `python3 SCRIPT FILE`.
const DRIP: &str =
    "import sys,os\nfor b in open(sys.argv[1],'rb').read(): os.write(1,bytes([b]))\n";

fn chunks(run: &Run) -> impl Iterator<Item = &Chunk> {
    run.pieces.iter().filter_map(|piece| match piece {
        Piece::Output(chunk) => Some(chunk),
        Piece::Gap { .. } => None,
    })
}

/// Has these bytes written at once, and byte by byte.
async fn write_all(rig: &Rig, contents: &[u8]) -> [Run; 2] {
    std::fs::write(rig.work().join("contents"), contents).unwrap();
    std::fs::write(rig.work().join("drip.py"), DRIP).unwrap();
    let at_once = rig.run("cat contents").await;
    let dripped = rig.run("python3 drip.py contents").await;
    [at_once, dripped]
}

#[tokio::test]
async fn output_without_a_line_end_comes_at_once() {
    let rig = Rig::new(|_| {});
    let command = rig.start("printf prompt:; cat", &[]);
    common::expect(&command, &mut Vec::new(), "prompt:").await;
    command.input(b"").unwrap();
    follow(&command).await.check();
}

#[tokio::test]
async fn any_bytes_are_exact() {
    let rig = Rig::new(|_| {});
    let contents: Vec<u8> = (0..=255u8)
        .cycle()
        .take(10_000)
        .chain(*b"\xe2\x82")
        .collect();
    for run in write_all(&rig, &contents).await {
        run.check();
        assert_eq!(bytes(&run.pieces, Stream::Stdout), contents);
        assert!(chunks(&run).any(|chunk| matches!(chunk.text(), std::borrow::Cow::Owned(_))));
    }
}

#[tokio::test]
async fn no_character_is_cut_in_two() {
    let rig = Rig::new(|_| {});
    let contents = "aé€🦀\u{1b}[31mß\u{1b}[0m".repeat(500);
    for run in write_all(&rig, contents.as_bytes()).await {
        run.check();
        assert_eq!(run.stdout(), contents);
        for chunk in chunks(&run) {
            assert_eq!(whole_characters(&chunk.bytes), chunk.bytes.len());
            assert!(std::str::from_utf8(&chunk.bytes).is_ok());
        }
    }
}

#[tokio::test]
async fn escape_sequences_come_through_a_terminal_whole_wherever_they_are_cut() {
    let rig = Rig::new(|options| options.mode = TERMINAL);
    let contents =
        "\u{1b}[?1049h\u{1b}[38;2;255;0;0mred\u{1b}[0m\u{1b}]0;title\u{7}\u{1b}[2J\u{1b}[1;1H";
    for run in write_all(&rig, contents.as_bytes()).await {
        run.check();
        assert_eq!(run.stdout(), contents);
    }
}

#[tokio::test]
async fn thousands_of_coloured_lines_come_in_order() {
    let rig = Rig::new(|options| options.mode = TERMINAL);
    let script = "i=0; while [ $i -lt 5000 ]; do printf 'test module::case_%d ... \\033[32mok\\033[0m\\n' $i; i=$((i+1)); done; printf 'test result: \\033[32mok\\033[0m'";
    let run = rig.run(script).await;
    run.check();
    let mut expected: String = (0..5_000)
        .map(|number| format!("test module::case_{number} ... \u{1b}[32mok\u{1b}[0m\r\n"))
        .collect();
    expected.push_str("test result: \u{1b}[32mok\u{1b}[0m");
    assert_eq!(run.stdout(), expected);
}

#[tokio::test]
async fn both_streams_keep_their_own_order() {
    let rig = Rig::new(|_| {});
    let run = rig
        .run("for i in $(seq 1000); do echo out$i; echo err$i >&2; done")
        .await;
    run.check();
    let expected = |name: &str| -> String { (1..=1000).map(|i| format!("{name}{i}\n")).collect() };
    assert_eq!(
        (run.stdout(), run.stderr()),
        (expected("out"), expected("err"))
    );
}

#[tokio::test]
async fn secrets_are_removed_wherever_they_are_cut() {
    let secrets = ["hunter2-hunter2", "re:sk-[a-z0-9]{8,20}"];
    let rig = Rig::new(|options| options.redaction = redaction(&secrets));
    let contents = b"user hunter2-hunter2! key sk-abcdefgh0123, sk-short hunter2-hunter";
    let expected = "user [redacted]! key [redacted], sk-short hunter2-hunter";
    for run in write_all(&rig, contents).await {
        run.check();
        assert_eq!(run.stdout(), expected);
    }
    // A stop at each place, long enough that what came before was taken.
    for at in 5..20 {
        let text = str::from_utf8(&contents[..25]).unwrap();
        let (front, back) = text.split_at(at);
        let run = rig
            .run(&format!(
                "printf '%s' '{front}'; sleep 0.03; printf '%s' '{back}'"
            ))
            .await;
        assert_eq!(run.stdout(), "user [redacted]! key", "{at}");
    }
    let spooled = std::process::Command::new("grep")
        .args(["-rc", "hunter2-hunter2\\|sk-abcdef"])
        .arg(rig.dir.path().join("state"))
        .output()
        .unwrap();
    let spooled = String::from_utf8(spooled.stdout).unwrap();
    assert!(
        spooled.lines().all(|line| line.ends_with(":0")),
        "{spooled}"
    );
}

#[tokio::test]
async fn a_secret_in_a_refused_command_is_not_told() {
    let rig = Rig::new(|options| {
        options.redaction = redaction(&["hunter2-hunter2"]);
        options.policy = signalbox_agent::policy::Policy::Nothing;
    });
    let reason = rig
        .run("hunter2-hunter2 x")
        .await
        .ending
        .reason
        .clone()
        .unwrap();
    assert!(reason.contains("`[redacted]` is not allowed"), "{reason}");
}

/// Peak memory of this process, in bytes.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        * 1024
}

/// Reads to the end and acknowledges, keeping no more than the sums.
async fn drain(command: &Command) -> (u64, String) {
    use sha2::Digest as _;
    let mut hash = sha2::Sha256::new();
    let mut from = Offsets::default();
    while let Some(pieces) = command.next(from, 256 * 1024).await.unwrap() {
        for piece in &pieces {
            assert_eq!(piece.start(), from.of(piece.stream()));
            from.pass(piece);
            command.acknowledge(piece.stream(), piece.end());
            match piece {
                Piece::Output(chunk) => hash.update(&chunk.bytes),
                Piece::Gap { .. } => panic!("nothing is lost"),
            }
        }
    }
    let digest = hash.finalize();
    (
        from.stdout,
        digest.iter().map(|byte| format!("{byte:02x}")).collect(),
    )
}

#[tokio::test]
async fn a_line_of_100_mb_takes_no_memory() {
    let bounds = spool::Bounds {
        command_bytes: 8 << 20,
        ..spool::Bounds::default()
    };
    let rig = Rig::new(|options| {
        options.spool = bounds;
        options.redaction = redaction(&["hunter2-hunter2", "re:sk-[a-z]{8,20}"]);
    });
    rig.run("true").await;
    let before = peak_memory();
    let command = rig.start(
        "head -c 100000000 /dev/zero | tr '\\0' s; printf hunter2-hunter2",
        &[],
    );
    let (bytes, digest) = drain(&command).await;
    let State::Ended(ending) = command.state() else {
        panic!("it has ended");
    };
    assert_eq!(bytes, 100_000_000 + "[redacted]".len() as u64);
    assert_eq!(ending.streams[0].sha256.as_deref(), Some(digest.as_str()));
    let grown = peak_memory() - before;
    assert!(grown < 30 << 20, "{grown}");
}

#[tokio::test]
async fn a_process_waits_while_its_spool_is_full_and_loses_nothing() {
    let rig = Rig::new(|options| {
        options.spool.command_bytes = 512 * 1024;
        options.spool.patience = common::DEADLINE;
    });
    let command = rig.start("seq 500000 && touch done", &[]);
    let mut progress = command.progress();
    // It gets as far as the spool, and the pipe, and no further.
    progress
        .wait_for(|progress| progress.written.stdout > 300_000)
        .await
        .unwrap();
    assert!(!rig.work().join("done").exists());
    let (bytes, digest) = drain(&command).await;
    let expected: Vec<u8> = (1..=500_000)
        .flat_map(|i| format!("{i}\n").into_bytes())
        .collect();
    assert_eq!(
        (bytes, digest),
        (expected.len() as u64, common::sha256(&expected))
    );
    assert!(rig.work().join("done").exists());
}

#[tokio::test]
async fn a_process_does_not_wait_for_ever_and_the_gap_is_told() {
    let rig = Rig::new(|options| {
        options.spool.command_bytes = 512 * 1024;
        options.spool.patience = Duration::from_millis(200);
    });
    let command = rig.start("seq 500000; touch more; cat; echo end", &[]);
    eventually("it went on without room", || {
        rig.work().join("more").exists()
    })
    .await;
    let reading = command.clone();
    let (sender, seen) = tokio::sync::watch::channel(false);
    let reader = tokio::spawn(async move {
        let mut pieces = Vec::new();
        let mut from = Offsets::default();
        while let Some(more) = reading.next(from, 1 << 20).await.unwrap() {
            for piece in more {
                from.pass(&piece);
                reading.acknowledge(piece.stream(), piece.end());
                let more =
                    matches!(&piece, Piece::Output(chunk) if chunk.bytes.ends_with(b"more\n"));
                sender.send_if_modified(|seen| !std::mem::replace(seen, *seen || more) && more);
                pieces.push(piece);
            }
        }
        pieces
    });
    // Once this comes through there is room, and nothing waits before it.
    while !*seen.borrow() {
        command.input(b"more\n").unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    command.input(b"").unwrap();
    let pieces = reader.await.unwrap();
    let State::Ended(ending) = command.state() else {
        panic!("it has ended");
    };
    let run = Run { ending, pieces };
    run.check();
    assert!(run.ending.output_incomplete);
    assert!(run.ending.streams[0].lost > 1_000_000);
    let gaps = run
        .pieces
        .iter()
        .filter(|piece| matches!(piece, Piece::Gap { .. }));
    assert!((1..10).contains(&gaps.count()));
    assert!(bytes(&run.pieces, Stream::Stdout).ends_with(b"more\nend\n"));
    assert_eq!(run.ending.exit_code, Some(0));
}

#[tokio::test]
async fn a_disk_without_room_is_like_a_full_spool() {
    let rig = Rig::new(|options| options.spool.patience = Duration::from_millis(200));
    // A file where the command's folder would be: nothing can be stored.
    std::fs::File::create(rig.dir.path().join("state/spool/c0"))
        .unwrap()
        .write_all(b"in the way")
        .unwrap();
    let run = rig.run("seq 1000; exit 4").await;
    assert_eq!(run.ending.exit_code, Some(4));
    assert!(run.ending.output_incomplete && run.pieces.is_empty());
    assert_eq!(run.ending.streams[0].lost, run.ending.streams[0].bytes);
    // Room again.
    let run = rig.run("seq 1000").await;
    run.check();
}

#[tokio::test]
async fn a_command_in_a_full_spool_can_be_ended() {
    let rig = Rig::new(|options| {
        options.spool.command_bytes = 512 * 1024;
        options.spool.patience = Duration::from_secs(1);
    });
    for mode in [Urgency::Interrupt, Urgency::Kill] {
        let command = rig.start("yes", &[]);
        let mut progress = command.progress();
        progress
            .wait_for(|progress| progress.written.stdout > 300_000)
            .await
            .unwrap();
        command.end(mode);
        let run = follow(&command).await;
        run.check();
        assert!(run.ending.signal.is_some(), "{:?}", run.ending);
    }
}

#[tokio::test]
async fn the_last_output_in_a_terminal_waits_for_room_although_a_child_has_it_open() {
    let rig = Rig::new(|options| {
        options.mode = TERMINAL;
        options.spool.command_bytes = 512 * 1024;
        options.spool.patience = common::DEADLINE;
        options.graces.drain = Duration::from_secs(2);
    });
    // More than fits into the spool; the terminal has room for the rest.
    for holder in ["", "sleep 97 & "] {
        let command = rig.start(&format!("{holder}seq 72000; printf end"), &[]);
        let shell = format!("{holder}seq 72000;");
        let mut progress = command.progress();
        progress
            .wait_for(|progress| progress.written.stdout > 400_000)
            .await
            .unwrap();
        eventually("the shell exits", || processes_with(&shell).is_empty()).await;
        let (bytes, digest) = drain(&command).await;
        let lines = (1..=72_000).flat_map(|i| format!("{i}\r\n").into_bytes());
        let expected: Vec<u8> = lines.chain(*b"end").collect();
        assert_eq!(
            (bytes, digest),
            (expected.len() as u64, common::sha256(&expected)),
            "{holder}"
        );
    }
}
