//! How fast the runner takes in what a command writes, in MB/s: with nobody
//! reading, with somebody who reads and acknowledges, and with secrets removed.
//! Beside it what the command needs if nobody wants its output.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "it is run by people, who want to read the result"
)]

use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use signalbox_agent::environment::Environment;
use signalbox_agent::executor::{Executor, Graces, Options, Request, State};
use signalbox_agent::journal;
use signalbox_agent::output::Offsets;
use signalbox_agent::policy::Policy;
use signalbox_agent::process::{Mode, Size};
use signalbox_agent::redact::{Redaction, Secret};
use signalbox_agent::spool;

const COMMAND: &str = "yes | head -c 1G";
const BYTES: u64 = 1 << 30;
const READ_BYTES: usize = 256 * 1024;

fn options(dir: &Path, secrets: &[&str], mode: Mode) -> Options {
    let secrets: Vec<Secret> = secrets.iter().map(|text| text.parse().unwrap()).collect();
    Options {
        directory: dir.join("state"),
        policy: Policy::Shell,
        workdir: dir.to_owned(),
        environment: Environment::new(std::env::vars_os(), &[]),
        mode,
        redaction: Redaction::new(&secrets).unwrap(),
        concurrency: 1,
        spool: spool::Bounds {
            command_bytes: 4 << 30,
            total_bytes: 4 << 30,
            ..spool::Bounds::default()
        },
        journal: journal::Bounds::default(),
        graces: Graces::default(),
        input_bytes: 1 << 16,
    }
}

async fn capture(name: &str, secrets: &[&str], mode: Mode, reads: bool) {
    let dir = tempfile::tempdir().unwrap();
    let executor = Executor::open(options(dir.path(), secrets, mode)).unwrap();
    let (start, used) = (Instant::now(), processor_time());
    let command = executor.execute(Request {
        id: "bench".to_owned(),
        command: COMMAND.to_owned(),
        args: Vec::new(),
    });
    if reads {
        let mut from = Offsets::default();
        while let Some(pieces) = command.next(from, READ_BYTES).await.unwrap() {
            for piece in &pieces {
                from.pass(piece);
                command.acknowledge(piece.stream(), piece.end());
            }
        }
    }
    command
        .progress()
        .wait_for(|progress| progress.ended)
        .await
        .unwrap();
    let State::Ended(ending) = command.state() else {
        return;
    };
    assert!(ending.streams[0].bytes >= BYTES && ending.streams[0].lost == 0);
    tell(name, start, processor_time() - used);
}

/// Processor time of this process in seconds.
fn processor_time() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
    let ticks: Vec<f64> = fields
        .skip(11)
        .take(2)
        .map(|field| field.parse().unwrap())
        .collect();
    (ticks[0] + ticks[1]) / 100.0
}

fn tell(name: &str, start: Instant, used: f64) {
    let rate = BYTES as f64 / 1e6 / start.elapsed().as_secs_f64();
    let own = (used > 0.0).then(|| {
        format!(
            "{:>6.0} MB per second of our processor time",
            BYTES as f64 / 1e6 / used
        )
    });
    println!("{name:<44} {rate:>6.0} MB/s {}", own.unwrap_or_default());
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    for sink in ["/dev/null", "cat > /dev/null"] {
        let script = if sink == "/dev/null" {
            format!("{COMMAND} > {sink}")
        } else {
            format!("{COMMAND} | {sink}")
        };
        let start = Instant::now();
        let mut shell = std::process::Command::new("sh");
        assert!(
            shell
                .args(["-c", &script])
                .stdin(Stdio::null())
                .status()
                .unwrap()
                .success()
        );
        tell(&format!("alone, to {sink}"), start, 0.0);
    }
    let values = ["hunter2-hunter2", "another-secret", "a-third-one-here"];
    let expression = ["re:sk-[A-Za-z0-9]{20,48}"];
    let both: Vec<&str> = values.iter().chain(&expression).copied().collect();
    for reads in [false, true] {
        let reader = if reads {
            "read and acknowledged"
        } else {
            "nobody reads"
        };
        capture(&format!("pipes, {reader}"), &[], Mode::Pipes, reads).await;
        capture(
            &format!("pipes, {reader}, 3 values"),
            &values,
            Mode::Pipes,
            reads,
        )
        .await;
        capture(
            &format!("pipes, {reader}, 3 values, expression"),
            &both,
            Mode::Pipes,
            reads,
        )
        .await;
    }
    capture(
        "terminal, nobody reads",
        &[],
        Mode::Terminal(Size::default()),
        false,
    )
    .await;
}
