//! Tool servers that are programs, on the official SDK: what they list, what
//! calls give, what they get to know of us, and that they end with us.

use std::time::Duration;

use serde_json::{Value, json};
use signalbox_orchestrator::tools::Outcome;
use signalbox_testkit::{DEADLINE, eventually};

use crate::mcp_world::{Journal, World, all_gone, call, program};

#[tokio::test]
async fn tools_are_listed_and_called() {
    let journal = Journal::new();
    let world = World::start(&program("behaves", &journal, &json!({}), ""));
    let tool = world.tool("behaves__echo").await;
    assert_eq!(tool.description, "Repeats a text.");
    assert_eq!(tool.schema.source()["required"], json!(["text"]));
    assert_eq!(tool.approval, None);
    let offered = world.offered(&["behaves__*"]);
    assert!(offered.contains(&"behaves__echo".to_owned()), "{offered:?}");
    assert_eq!(
        world.offered(&["behaves__fail", "behaves__none"]),
        ["behaves__fail"]
    );
    assert_eq!(
        world
            .call("behaves__echo", json!({"text": "grüße 🛰️"}))
            .await,
        Outcome::Value(json!("grüße 🛰️"))
    );
    assert_eq!(
        world.call("behaves__fail", json!({})).await,
        Outcome::Error("the disk is full".to_owned())
    );
    assert_eq!(
        world.call("behaves__structured", json!({})).await,
        Outcome::Value(json!({"free_bytes": 12, "disks": ["a"]}))
    );
    assert_eq!(
        world.call("behaves__picture", json!({})).await,
        Outcome::Value(json!("a picture\n[image: image/png, 8 bytes, not shown]"))
    );
    assert_eq!(
        world.call("behaves__progress", json!({})).await,
        Outcome::Value(json!("done"))
    );
    world.stop().await;
}

#[tokio::test]
async fn calls_run_side_by_side() {
    let journal = Journal::new();
    let world = World::start(&program("behaves", &journal, &json!({}), ""));
    let slow = world.tool("behaves__slow").await;
    let call = call("behaves__slow", json!({}), DEADLINE);
    let cancel = call.cancel.clone();
    let running = tokio::spawn(slow.runner.run(call));
    journal.wait_for("call slow").await;
    let texts =
        (0..8).map(|number| world.call("behaves__echo", json!({"text": number.to_string()})));
    for (number, outcome) in futures_util::future::join_all(texts)
        .await
        .into_iter()
        .enumerate()
    {
        assert_eq!(outcome, Outcome::Value(json!(number.to_string())));
    }
    cancel.trigger();
    assert_eq!(running.await.unwrap(), Outcome::Cancelled);
    world.stop().await;
}

#[tokio::test]
async fn a_program_knows_only_what_it_is_given_and_asks_in_vain() {
    let journal = Journal::new();
    let world = World::start(&program("behaves", &journal, &json!({}), ""));
    let Outcome::Value(Value::String(told)) = world.call("behaves__environment", json!({})).await
    else {
        panic!("no environment");
    };
    let told: Value = serde_json::from_str(&told).unwrap();
    let known = [
        "HOME",
        "LANG",
        "PATH",
        "PYTHONPATH",
        "PYTHONDONTWRITEBYTECODE",
    ];
    // What shells and version managers of Python set on the way.
    let by_others = |name: &str| ["PWD", "SHLVL", "_"].contains(&name) || name.contains("PYENV");
    for (name, value) in std::env::vars() {
        if !known.contains(&name.as_str()) && !by_others(&name) {
            assert_ne!(told["env"][&name], *value, "{name}");
        }
    }
    assert_eq!(told["env"]["CARGO_MANIFEST_DIR"], Value::Null);
    assert_eq!(told["env"]["GIVEN"], "given by us");
    assert!(
        told["cwd"]
            .as_str()
            .unwrap()
            .ends_with("crates/e2e/clients")
    );
    let Outcome::Value(Value::String(asked)) = world.call("behaves__asks", json!({})).await else {
        panic!("no answer");
    };
    assert!(asked.starts_with("refused"), "{asked}");
    world.stop().await;
}

#[tokio::test]
async fn a_server_that_says_that_its_tools_changed_is_asked_again() {
    let journal = Journal::new();
    let world = World::start(&program("behaves", &journal, &json!({}), ""));
    world.tool("behaves__more").await;
    assert!(
        !world
            .offered(&["behaves__*"])
            .contains(&"behaves__later".to_owned())
    );
    world.call("behaves__more", json!({})).await;
    world.tool("behaves__later").await;
    world.stop().await;
}

#[tokio::test]
async fn files_choose_tools_and_approval() {
    let journal = Journal::new();
    let file = program(
        "behaves",
        &journal,
        &json!({}),
        "tools = [\"echo\", \"write_*\"]",
    )
    .replace(
        "approval = false",
        "approval = [\"write_*\"]\nexpires_in = 30",
    );
    let world = World::start(&file);
    let write = world.tool("behaves__write_file").await;
    let approval = write.approval.as_ref().unwrap();
    assert_eq!(approval.action_type, "behaves__write_file");
    assert_eq!(approval.expires_in, Duration::from_secs(30));
    assert_eq!(
        world.offered(&["behaves__*"]),
        ["behaves__echo", "behaves__write_file"]
    );
    assert_eq!(world.tool("behaves__echo").await.approval, None);
    world.stop().await;
    // People decide where the file does not say otherwise.
    let journal = Journal::new();
    let file = program("behaves", &journal, &json!({}), "").replace("approval = false", "");
    let world = World::start(&file);
    assert!(world.tool("behaves__echo").await.approval.is_some());
    world.stop().await;
}

#[tokio::test]
async fn a_listing_of_many_pages_is_read_to_its_bound() {
    let journal = Journal::new();
    let world = World::start(&program(
        "behaves",
        &journal,
        &json!({"listed": "many"}),
        "",
    ));
    world.tool("behaves__t0127").await;
    assert_eq!(world.offered(&["behaves__*"]).len(), 128);
    world.stop().await;
}

#[tokio::test]
async fn a_program_that_does_not_end_with_its_input_hears_that_it_is_to() {
    let journal = Journal::new();
    let world = World::start(&program("mute", &journal, &json!({"mute": true}), ""));
    journal.wait_for("up").await;
    world.stop().await;
    assert_eq!(journal.count("tidied up"), 1);
}

#[tokio::test]
async fn the_end_of_an_orchestrator_ends_all_that_servers_started() {
    let journal = Journal::new();
    let world = World::start(&program("behaves", &journal, &json!({}), ""));
    let Outcome::Value(Value::String(family)) = world.call("behaves__family", json!({})).await
    else {
        panic!("no family");
    };
    let family: Vec<i32> = serde_json::from_str(&family).unwrap();
    assert_eq!(family.len(), 3);
    assert_eq!(journal.pids(), family[..1]);
    world.stop().await;
    // No waiting: who stops in order leaves nothing, and no zombies.
    assert!(!family.iter().any(|pid| crate::mcp_world::is_there(*pid)));
}

#[tokio::test]
async fn a_world_that_is_dropped_leaves_no_process() {
    let journal = Journal::new();
    let world = World::start(&program("behaves", &journal, &json!({}), ""));
    world.tool("behaves__echo").await;
    let pids = journal.pids();
    drop(world);
    all_gone(&pids).await;
}

#[tokio::test]
async fn servers_do_not_wait_for_each_other() {
    let (mute, fine) = (Journal::new(), Journal::new());
    let file = [
        program("mute", &mute, &json!({"mute": true}), ""),
        program("fine", &fine, &json!({}), ""),
        "[mcp.absent]\ncommand = \"/no/such/program\"\n".to_owned(),
    ];
    let world = World::start(&file.concat());
    mute.wait_for("up").await;
    assert_eq!(
        world.call("fine__echo", json!({"text": "x"})).await,
        Outcome::Value(json!("x"))
    );
    let offered = world.offered(&["mute__*", "absent__*"]);
    assert!(offered.is_empty(), "{offered:?}");
    let pids = [mute.pids(), fine.pids()].concat();
    world.stop().await;
    eventually("the end of both", DEADLINE, async || {
        (!pids.iter().any(|pid| crate::mcp_world::is_there(*pid))).then_some(())
    })
    .await;
}
