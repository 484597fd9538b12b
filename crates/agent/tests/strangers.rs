//! A process that hides from everything that tells whose it is, beside one that
//! no command has left. In a test program of its own, since it can only be told
//! from those of other commands if there are none.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::process::Command;

use common::{Rig, eventually, follow, processes_with};

/// Seconds since the machine was started, as finely as starts of processes are
/// known.
fn uptime() -> f64 {
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
    uptime.split(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn who_leaves_session_environment_and_parent_is_ended_and_who_was_there_is_not() {
    // As what an entry point started before it became the runner.
    let mut daemon = Command::new("setsid")
        .args(["sleep", "100"])
        .spawn()
        .unwrap();
    let started = uptime();
    eventually("it is older than any command", || uptime() > started + 0.02).await;
    let rig = Rig::new(|_| {});
    let nap = format!("{}.5", 70_000 + std::process::id() % 10_000);
    let hide = format!("setsid env -i sh -c 'sleep {nap} <&- >&- 2>&- & :'");
    let run = rig.run(&format!("{hide}; echo hidden")).await;
    assert_eq!(run.stdout(), "hidden\n");
    assert!(processes_with(&nap).is_empty());
    // While another command runs it could be that one's: it goes with the last.
    let other = rig.start("cat", &[]);
    rig.run(&hide).await;
    assert_eq!(processes_with(&nap).len(), 1);
    other.input(b"").unwrap();
    follow(&other).await;
    assert!(processes_with(&nap).is_empty());
    assert!(daemon.try_wait().unwrap().is_none());
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    eventually("no zombie is left", || common::zombies() == 0).await;
}
