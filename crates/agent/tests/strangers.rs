//! A process that hides from everything that tells whose it is. In a test
//! program of its own, since it can only be told from those of other commands
//! if there are none.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Rig, eventually, follow, processes_with};

#[tokio::test]
async fn who_leaves_session_environment_and_parent_is_ended_too() {
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
    eventually("no zombie is left", || common::zombies() == 0).await;
}
