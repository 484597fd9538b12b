//! A thousand commands, in terminals and with pipes, leave no descriptor open,
//! no thread, no zombie and no file. In a test program of its own, since that
//! is counted for the whole process.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;

use common::{Rig, TERMINAL, eventually, follow};

/// Enough that a leak per command shows, in either kind of command.
const COMMANDS: usize = 500;

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

#[tokio::test]
async fn a_thousand_commands_leak_nothing() {
    let pipes = Rig::new(|_| {});
    let terminal = Rig::new(|options| options.mode = TERMINAL);
    for rig in [&pipes, &terminal] {
        follow(&rig.start("true", &[])).await;
    }
    let before = (descriptors(), threads());
    for round in 0..COMMANDS {
        for rig in [&pipes, &terminal] {
            // Some are refused, some are ended, and most are not confirmed.
            let command = rig.start(
                if round % 50 == 7 {
                    "sleep 50"
                } else {
                    "echo x; echo y >&2; exit 1"
                },
                &[],
            );
            if round % 50 == 7 {
                command.end(signalbox_agent::executor::Urgency::Kill);
            }
            follow(&command).await.check();
            if round % 2 == 0 {
                rig.executor.confirm(command.id());
            }
        }
    }
    eventually("all threads are gone", || threads() <= before.1).await;
    assert_eq!(descriptors(), before.0);
    assert_eq!(common::zombies(), 0);
    for rig in [&pipes, &terminal] {
        for command in rig.executor.commands() {
            rig.executor.confirm(command.id());
        }
        assert_eq!(
            fs::read_dir(rig.dir.path().join("state/spool"))
                .unwrap()
                .count(),
            0
        );
    }
}
