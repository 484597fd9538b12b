//! Commands that do not want to end, and what they leave behind: nothing.
//!
//! Each test marks its processes with an argument of its own, and looks for it
//! in the process table.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{Rig, TERMINAL, eventually, expect, follow, processes_with};
use signalbox_agent::executor::{Outcome, Urgency};

/// A number that nobody else sleeps for.
fn nap(number: u32) -> String {
    format!("{}.{number}", 80_000 + std::process::id() % 10_000)
}

async fn all_gone(text: &str) {
    eventually(&format!("`{text}` is gone"), || {
        processes_with(text).is_empty()
    })
    .await;
}

#[tokio::test]
async fn an_interrupt_is_a_sigint_first() {
    let rig = Rig::new(|options| options.graces.interrupt = Duration::from_secs(50));
    let command = rig.start(
        "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.05; done",
        &[],
    );
    let mut pieces = Vec::new();
    expect(&command, &mut pieces, "ready").await;
    command.end(Urgency::Interrupt);
    let run = follow(&command).await;
    assert_eq!(run.stdout(), "ready\ncaught\n");
    assert_eq!(
        (run.ending.outcome, run.ending.exit_code),
        (Outcome::Interrupted, Some(5))
    );
}

#[tokio::test]
async fn who_ignores_one_signal_gets_the_next() {
    let rig = Rig::new(|_| {});
    for (ignored, code) in [("INT", 143), ("INT TERM", 137), ("INT TERM HUP", 137)] {
        // In a terminal as well as with pipes, and a child that does the same.
        let nap = nap(1);
        let script = format!(
            "trap '' {ignored}; sh -c 'trap \"\" {ignored}; sleep {nap}' & echo ready; while :; do sleep 0.05; done"
        );
        let command = rig.start(&script, &[]);
        expect(&command, &mut Vec::new(), "ready").await;
        command.end(Urgency::Interrupt);
        let run = follow(&command).await;
        assert_eq!(run.ending.exit_code, Some(code), "{ignored}");
        assert_eq!(
            (run.ending.outcome, run.ending.left_behind),
            (Outcome::Interrupted, 0)
        );
        all_gone(&nap).await;
    }
}

#[tokio::test]
async fn who_is_stopped_is_ended_too() {
    let rig = Rig::new(|options| options.mode = TERMINAL);
    let nap = nap(2);
    let command = rig.start(&format!("sleep {nap} & kill -STOP $! $$"), &[]);
    eventually("it sleeps", || !processes_with(&nap).is_empty()).await;
    command.end(Urgency::Interrupt);
    let run = follow(&command).await;
    assert!(run.ending.signal.is_some());
    all_gone(&nap).await;
}

#[tokio::test]
async fn a_kill_skips_the_graces() {
    let rig = Rig::new(|options| {
        options.graces.interrupt = Duration::from_secs(100);
        options.graces.terminate = Duration::from_secs(100);
    });
    let command = rig.start(
        "trap '' INT TERM; echo ready; while :; do sleep 0.05; done",
        &[],
    );
    expect(&command, &mut Vec::new(), "ready").await;
    command.end(Urgency::Interrupt);
    command.end(Urgency::Kill);
    command.end(Urgency::Interrupt);
    assert_eq!(follow(&command).await.ending.exit_code, Some(137));
}

#[tokio::test]
async fn a_command_may_be_interrupted_before_it_starts() {
    let rig = Rig::new(|_| {});
    for _ in 0..20 {
        let command = rig.start("sleep 100", &[]);
        command.end(Urgency::Interrupt);
        assert_eq!(follow(&command).await.ending.outcome, Outcome::Interrupted);
    }
}

#[tokio::test]
async fn what_is_left_when_the_main_process_exits_is_ended() {
    let rig = Rig::new(|_| {});
    let nap = nap(3);
    // One closes its descriptors and lives on, another leaves the session too,
    // and a third ignores what it is told.
    let script = format!(
        "sleep {nap} <&- >&- 2>&- & setsid sleep {nap} <&- >&- 2>&- & sh -c 'trap \"\" TERM; sleep {nap}; :' <&- >&- 2>&- & sleep 0.2; echo over"
    );
    let run = rig.run(&script).await;
    run.check();
    assert_eq!(run.stdout(), "over\n");
    assert_eq!(
        (run.ending.outcome, run.ending.left_behind),
        (Outcome::Completed, 0)
    );
    assert!(!run.ending.output_incomplete);
    // Not "soon": they are gone when the command has ended.
    assert!(processes_with(&nap).is_empty());
    eventually("no zombie is left", || common::zombies() == 0).await;
}

#[tokio::test]
async fn output_that_is_held_open_does_not_hold_up_the_end() {
    let rig = Rig::new(|_| {});
    let nap = nap(4);
    let run = rig.run(&format!("sleep {nap} & echo out")).await;
    run.check();
    assert_eq!(run.stdout(), "out\n");
    assert_eq!(run.ending.exit_code, Some(0));
    assert!(run.ending.output_incomplete);
    assert!(processes_with(&nap).is_empty());
}

#[tokio::test]
async fn a_child_may_finish_what_it_writes_within_the_drain() {
    let rig = Rig::new(|options| options.graces.drain = Duration::from_secs(30));
    let run = rig.run("(sleep 0.3; echo late) & echo early").await;
    run.check();
    assert_eq!(run.stdout(), "early\nlate\n");
    assert!(!run.ending.output_incomplete);
}

#[tokio::test]
async fn a_child_that_writes_for_ever_does_not_hold_up_the_end() {
    let rig = Rig::new(|_| {});
    let nap = nap(5);
    let run = rig
        .run(&format!(
            "(trap '' TERM; while :; do echo {nap}; done) & echo out"
        ))
        .await;
    run.check();
    assert!(run.ending.output_incomplete);
    assert!(processes_with(&nap).is_empty());
}

#[tokio::test]
async fn output_before_the_exit_is_complete_although_a_child_holds_the_terminal() {
    let rig = Rig::new(|options| options.mode = TERMINAL);
    let nap = nap(6);
    for round in 0..10 {
        let run = rig.run(&format!("sleep {nap} & seq 20000")).await;
        assert!(
            run.stdout().ends_with("\r\n20000\r\n"),
            "round {round}: {:?}",
            run.ending
        );
    }
    all_gone(&nap).await;
}

#[tokio::test]
async fn a_bomb_of_grandchildren_is_cleared_away() {
    let rig = Rig::new(|_| {});
    let nap = nap(7);
    // 3^4 processes, half of them in sessions of their own, all orphans.
    let script = format!(
        "bomb() {{ if [ $1 -gt 0 ]; then for i in 1 2; do bomb $(($1-1)) & done; setsid sh -c 'trap \"\" TERM INT; sleep {nap}; :' & else sh -c 'trap \"\" TERM INT; sleep {nap}; :' & fi; }}; bomb 4; sleep 0.5; echo armed; wait"
    );
    let command = rig.start(&script, &[]);
    expect(&command, &mut Vec::new(), "armed").await;
    eventually("it went off", || {
        processes_with(&format!("sleep {nap}")).len() > 25
    })
    .await;
    command.end(Urgency::Interrupt);
    let run = follow(&command).await;
    assert_eq!(run.ending.left_behind, 0);
    assert!(processes_with(&nap).is_empty());
    eventually("no zombie is left", || common::zombies() == 0).await;
}

#[tokio::test]
async fn who_keeps_having_children_is_ended() {
    let rig = Rig::new(|_| {});
    let nap = nap(8);
    // Each lives shortly and starts its successor in a new session.
    let script = format!(
        "cat > again <<'E'\ntrap '' TERM INT\nsetsid sh again {nap} &\nsleep 0.05\nE\nsetsid sh again {nap} <&- >&- 2>&- & sleep 0.3"
    );
    let run = rig.run(&script).await;
    assert_eq!(run.ending.left_behind, 0);
    assert!(processes_with(&nap).is_empty());
}
