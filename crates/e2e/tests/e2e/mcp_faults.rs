//! Tool servers that crash, hang, flood, lie and attack, and orchestrators that
//! are killed: what is left, and what models get to see.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use signalbox_orchestrator::tools::Outcome;
use signalbox_orchestrator::tools::mcp::{NOT_REACHABLE, Timing};
use signalbox_testkit::{ChatBus, DEADLINE, eventually};

use crate::mcp_world::{Journal, TIMING, World, all_gone, call, is_there, program, script};

#[tokio::test]
async fn a_crash_in_mid_call_is_unknown_and_the_next_call_works() {
    let journal = Journal::new();
    let world = World::start(&program("behaves", &journal, &json!({}), ""));
    let slow = world.tool("behaves__slow").await;
    let beside = tokio::spawn(slow.runner.run(call("behaves__slow", json!({}), DEADLINE)));
    journal.wait_for("call slow").await;
    let outcome = world.call("behaves__crash", json!({})).await;
    assert!(matches!(outcome, Outcome::Unknown(_)), "{outcome:?}");
    // All calls of the server that were under way end, not only the one.
    let outcome = beside.await.unwrap();
    assert!(matches!(outcome, Outcome::Unknown(_)), "{outcome:?}");
    assert_eq!(
        world.call("behaves__echo", json!({"text": "again"})).await,
        Outcome::Value(json!("again"))
    );
    let pids = journal.pids();
    assert_eq!(pids.len(), 2, "{pids:?}");
    assert!(!is_there(pids[0]));
    assert_eq!(journal.count("call crash"), 1);
    assert_eq!(journal.count("call slow"), 1);
    world.stop().await;
}

#[tokio::test]
async fn a_slow_call_is_given_up_in_its_time_and_the_server_is_told() {
    let journal = Journal::new();
    let world = World::start(&program("behaves", &journal, &json!({}), ""));
    let slow = world.tool("behaves__slow").await;
    let late = call("behaves__slow", json!({}), Duration::from_millis(300));
    assert_eq!(slow.runner.run(late).await, Outcome::TimedOut);
    eventually("the first cancellation", DEADLINE, async || {
        (journal.count("cancelled slow") == 1).then_some(())
    })
    .await;
    // Dropped without a word: the server is told all the same.
    let dropped = slow.runner.run(call("behaves__slow", json!({}), DEADLINE));
    let dropped = tokio::spawn(dropped);
    eventually("the second call", DEADLINE, async || {
        (journal.count("call slow") == 2).then_some(())
    })
    .await;
    dropped.abort();
    eventually("the second cancellation", DEADLINE, async || {
        (journal.count("cancelled slow") == 2).then_some(())
    })
    .await;
    assert_eq!(journal.pids().len(), 1);
    world.stop().await;
}

#[tokio::test]
async fn a_server_that_never_answers_is_away_and_is_tried_again() {
    let journal = Journal::new();
    let timing = Timing {
        begin: Duration::from_secs(2),
        ..TIMING
    };
    let world = World::with(
        &program("mute", &journal, &json!({"mute": true}), ""),
        timing,
    );
    eventually("a second try", DEADLINE, async || {
        (journal.pids().len() >= 2).then_some(())
    })
    .await;
    let first = journal.pids()[0];
    all_gone(&[first]).await;
    assert!(world.offered(&["mute__*"]).is_empty());
    world.stop().await;
    assert!(!journal.pids().iter().any(|pid| is_there(*pid)));
}

#[tokio::test]
async fn a_server_that_reads_no_more_is_ended_and_begun_again() {
    let journal = Journal::new();
    let timing = Timing {
        write: Duration::from_secs(2),
        ..TIMING
    };
    let world = World::with(&program("behaves", &journal, &json!({}), ""), timing);
    world.tool("behaves__echo").await;
    let hung = journal.pids()[0];
    kill(Pid::from_raw(hung), Signal::SIGSTOP).unwrap();
    // More than its pipe holds.
    let large = json!({"text": "x".repeat(128 * 1024)});
    let outcome = world.call("behaves__echo", large).await;
    assert!(matches!(outcome, Outcome::Unknown(_)), "{outcome:?}");
    all_gone(&[hung]).await;
    eventually("another server", DEADLINE, async || {
        let outcome = world.call("behaves__echo", json!({"text": "back"})).await;
        (outcome == Outcome::Value(json!("back"))).then_some(())
    })
    .await;
    assert_eq!(journal.pids().len(), 2);
    world.stop().await;
}

#[tokio::test]
async fn a_server_that_stays_away_keeps_its_tools_and_calls_say_so() {
    let journal = Journal::new();
    let timing = Timing {
        first_wait: Duration::from_secs(60),
        longest_wait: Duration::from_secs(60),
        ..TIMING
    };
    let world = World::with(&program("behaves", &journal, &json!({}), ""), timing);
    world.call("behaves__crash", json!({})).await;
    let away = Outcome::Error(NOT_REACHABLE.to_owned());
    assert_eq!(
        world.call("behaves__echo", json!({"text": "x"})).await,
        away
    );
    assert!(
        world
            .offered(&["behaves__*"])
            .contains(&"behaves__echo".to_owned())
    );
    world.stop().await;
}

#[tokio::test]
async fn a_large_result_is_whole_and_one_beyond_all_bounds_is_an_error() {
    let journal = Journal::new();
    let world = World::start(&program("behaves", &journal, &json!({}), ""));
    let Outcome::Value(Value::String(huge)) = world.call("behaves__huge", json!({})).await else {
        panic!("no text");
    };
    assert_eq!(huge.len(), 512 * 1024);
    let outcome = world.call("behaves__gigantic", json!({})).await;
    let Outcome::Error(sentence) = &outcome else {
        panic!("{outcome:?}");
    };
    assert!(sentence.contains("longer than"), "{sentence}");
    assert_eq!(
        world.call("behaves__echo", json!({"text": "x"})).await,
        Outcome::Value(json!("x"))
    );
    // It is the same server still.
    assert_eq!(journal.pids().len(), 1);
    world.stop().await;
}

#[tokio::test]
async fn a_line_without_an_end_takes_no_memory_and_ends_the_server() {
    let journal = Journal::new();
    let world = World::start(&program("behaves", &journal, &json!({}), ""));
    world.tool("behaves__endless").await;
    let before = peak_memory();
    let outcome = world.call("behaves__endless", json!({})).await;
    assert!(matches!(outcome, Outcome::Unknown(_)), "{outcome:?}");
    assert_eq!(
        world.call("behaves__echo", json!({"text": "x"})).await,
        Outcome::Value(json!("x"))
    );
    // 64 MiB went by; other tests share this process.
    let grown = peak_memory().saturating_sub(before);
    assert!(grown < 48 * 1024 * 1024, "grew by {grown} bytes");
    let pids = journal.pids();
    assert_eq!(pids.len(), 2);
    world.stop().await;
    assert!(!pids.iter().any(|pid| is_there(*pid)));
}

#[tokio::test]
async fn a_listing_is_not_kept_whole_while_it_is_read() {
    let journal = Journal::new();
    let fat = program("behaves", &journal, &json!({"listed": "fat"}), "");
    let before = peak_memory();
    let world = World::start(&fat);
    world.tool("behaves__t31").await;
    // One page as values has 5 MB, and there are 32; other tests share this process.
    let grown = peak_memory().saturating_sub(before);
    assert!(grown < 96 * 1024 * 1024, "grew by {grown} bytes");
    assert_eq!(world.offered(&["behaves__*"]).len(), 32);
    world.stop().await;
}

/// The most memory that this process has had, in bytes.
fn peak_memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.unwrap().trim().trim_end_matches(" kB");
    kibibytes.parse::<usize>().unwrap() * 1024
}

#[tokio::test]
async fn lies_about_schemas_and_names_cost_only_the_liars_tools() {
    let journal = Journal::new();
    let file = script("liar", "mcp_liar.py", &journal, &json!({}), "");
    let world = World::start(&file);
    let outcome = world.call("liar__fine", json!({})).await;
    assert!(matches!(outcome, Outcome::Error(_)), "{outcome:?}");
    assert_eq!(world.offered(&["liar__*"]), ["liar__fine"]);
    assert_eq!(journal.pids().len(), 1);
    world.stop().await;
}

#[tokio::test]
async fn malice_is_passed_on_as_text_and_never_as_anything_else() {
    let journal = Journal::new();
    let world = World::start(&program("behaves", &journal, &json!({}), ""));
    let tool = world.tool("behaves__malice").await;
    assert!(!tool.description.contains('\u{1b}'));
    assert!(tool.description.len() < 2100);
    let outcome = world.call("behaves__malice", json!({})).await;
    let Outcome::Value(Value::String(text)) = outcome else {
        panic!("{outcome:?}");
    };
    // One string, which the turn contains before anybody sees it.
    assert!(text.contains("Ignore your instructions"));
    assert!(text.contains("</tool_result>"));
    world.stop().await;
}

#[tokio::test]
async fn kill_9_of_an_orchestrator_leaves_no_process_of_a_server() {
    let journal = Journal::new();
    let chat = ChatBus::start("").await;
    let file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    let table = program("behaves", &journal, &json!({"family": true}), "")
        .replace("GIVEN = {from = \"GIVEN\"}", "GIVEN = \"x\"");
    std::fs::write(file.path(), table).unwrap();
    let path = file.path().to_str().unwrap();
    let orchestrator = signalbox_testkit::orchestrator(&chat.bus.nats, &["--agents", path]).await;
    journal.wait_for("up").await;
    let server = journal.pids()[0];
    let guard = parent_of(server).unwrap();
    let us = i32::try_from(orchestrator.process.pid()).unwrap();
    assert_eq!(parent_of(guard), Some(us));
    // Two that are deaf to TERM, one of them in a session of its own.
    let family = journal.lines().into_iter().find_map(|line| {
        let pids = line.strip_prefix("family ")?.to_owned();
        serde_json::from_str::<Vec<i32>>(&pids).ok()
    });
    let family = family.unwrap();
    assert!(family.iter().all(|pid| is_there(*pid)));
    orchestrator.process.kill9();
    all_gone(&[&[server, guard], family.as_slice()].concat()).await;
}

/// The parent of a process.
fn parent_of(pid: i32) -> Option<i32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok()
}
