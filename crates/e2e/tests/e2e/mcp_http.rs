//! Tool servers that are reached by streamable HTTP, on the official SDK, with
//! streams and with plain JSON as answers.

use std::time::Duration;

use serde_json::{Value, json};
use signalbox_orchestrator::tools::Outcome;
use signalbox_orchestrator::tools::mcp::NOT_REACHABLE;
use signalbox_testkit::{DEADLINE, PythonClient, eventually};

use crate::mcp_world::{Journal, TOKEN, World, address, call, sdk};

/// A server that listens.
struct Server {
    client: PythonClient,
    port: u16,
}

impl Server {
    async fn start(journal: &Journal, port: u16, settings: &Value) -> Self {
        let mut settings = settings.clone();
        settings["transport"] = json!("http");
        settings["token"] = json!(TOKEN);
        settings["port"] = json!(port);
        settings["journal"] = json!(journal.path());
        sdk();
        let client = PythonClient::start("mcp_server.py", &settings);
        let listening = client.expect_event("listening").await;
        let port = u16::try_from(listening["port"].as_u64().unwrap()).unwrap();
        Self { client, port }
    }

    fn kill(&self) {
        self.client.process().kill9();
    }
}

#[tokio::test]
async fn tools_are_listed_and_called_by_streams_and_by_json() {
    for json_answers in [false, true] {
        let journal = Journal::new();
        let server = Server::start(&journal, 0, &json!({"json": json_answers})).await;
        let world = World::start(&address("remote", server.port, ""));
        assert_eq!(
            world
                .call("remote__echo", json!({"text": "grüße 🛰️"}))
                .await,
            Outcome::Value(json!("grüße 🛰️"))
        );
        assert_eq!(
            world.call("remote__fail", json!({})).await,
            Outcome::Error("the disk is full".to_owned())
        );
        assert_eq!(
            world.call("remote__structured", json!({})).await,
            Outcome::Value(json!({"free_bytes": 12, "disks": ["a"]}))
        );
        let Outcome::Value(Value::String(huge)) = world.call("remote__huge", json!({})).await
        else {
            panic!("no text");
        };
        assert_eq!(huge.len(), 512 * 1024);
        assert_eq!(journal.count("refused"), 0);
        world.stop().await;
    }
}

#[tokio::test]
async fn calls_run_side_by_side_and_are_cancelled_at_the_server() {
    for json_answers in [false, true] {
        let journal = Journal::new();
        let server = Server::start(&journal, 0, &json!({"json": json_answers})).await;
        let world = World::start(&address("remote", server.port, ""));
        let slow = world.tool("remote__slow").await;
        let call = call("remote__slow", json!({}), DEADLINE);
        let cancel = call.cancel.clone();
        let running = tokio::spawn(slow.runner.run(call));
        journal.wait_for("call slow").await;
        assert_eq!(
            world.call("remote__echo", json!({"text": "x"})).await,
            Outcome::Value(json!("x"))
        );
        cancel.trigger();
        assert_eq!(running.await.unwrap(), Outcome::Cancelled);
        journal.wait_for("cancelled slow").await;
        world.stop().await;
    }
}

#[tokio::test]
async fn a_server_that_says_that_its_tools_changed_is_asked_again() {
    let journal = Journal::new();
    let server = Server::start(&journal, 0, &json!({})).await;
    let world = World::start(&address("remote", server.port, ""));
    // It is told on the stream that is kept open, which takes a moment to be.
    eventually("the tool that comes later", DEADLINE, async || {
        world.call("remote__more", json!({})).await;
        world.offered(&["remote__later"]).pop()
    })
    .await;
    world.stop().await;
}

#[tokio::test]
async fn a_wrong_token_leaves_a_server_without_tools() {
    let journal = Journal::new();
    let server = Server::start(&journal, 0, &json!({})).await;
    let file = address("remote", server.port, "").replace("token = {from = \"TOKEN\"}", "");
    let world = World::start(&file);
    journal.wait_for("refused").await;
    assert!(world.offered(&["remote__*"]).is_empty());
    world.stop().await;
}

#[tokio::test]
async fn a_server_that_is_killed_in_mid_call_leaves_it_unknown_and_comes_back() {
    for json_answers in [false, true] {
        let journal = Journal::new();
        let server = Server::start(&journal, 0, &json!({"json": json_answers})).await;
        let world = World::start(&address("remote", server.port, ""));
        let slow = world.tool("remote__slow").await;
        let running = tokio::spawn(slow.runner.run(call("remote__slow", json!({}), DEADLINE)));
        journal.wait_for("call slow").await;
        server.kill();
        let outcome = running.await.unwrap();
        assert!(matches!(outcome, Outcome::Unknown(_)), "{outcome:?}");
        // While it is away its tools stay, and calls say so.
        let away = Outcome::Error(NOT_REACHABLE.to_owned());
        assert_eq!(world.call("remote__echo", json!({"text": "x"})).await, away);
        assert!(
            world
                .offered(&["remote__*"])
                .contains(&"remote__echo".to_owned())
        );
        let again = Server::start(&journal, server.port, &json!({"json": json_answers})).await;
        eventually("the server to be back", DEADLINE, async || {
            let outcome = world.call("remote__echo", json!({"text": "back"})).await;
            (outcome == Outcome::Value(json!("back"))).then_some(())
        })
        .await;
        assert_eq!(again.port, server.port);
        // Nobody has called it twice.
        assert_eq!(journal.count("call slow"), 1);
        world.stop().await;
    }
}

#[tokio::test]
async fn a_session_that_a_server_answers_400_for_is_begun_anew() {
    let journal = Journal::new();
    let forgetful = json!({"forgetful": true});
    let server = Server::start(&journal, 0, &forgetful).await;
    let world = World::start(&address("remote", server.port, ""));
    world.tool("remote__echo").await;
    // It is back before anybody has seen it away.
    server.kill();
    let _again = Server::start(&journal, server.port, &forgetful).await;
    eventually("another session", DEADLINE, async || {
        let outcome = world.call("remote__echo", json!({"text": "back"})).await;
        (outcome == Outcome::Value(json!("back"))).then_some(())
    })
    .await;
    world.stop().await;
}

#[tokio::test]
async fn a_request_that_a_server_answers_400_for_leaves_the_calls_beside_it() {
    let journal = Journal::new();
    let server = Server::start(&journal, 0, &json!({"forgetful": true})).await;
    let world = World::start(&address("remote", server.port, ""));
    let slow = world.tool("remote__slow").await;
    let call = call("remote__slow", json!({}), DEADLINE);
    let cancel = call.cancel.clone();
    let running = tokio::spawn(slow.runner.run(call));
    journal.wait_for("call slow").await;
    assert_eq!(
        world.call("remote__refused", json!({})).await,
        Outcome::Error(NOT_REACHABLE.to_owned())
    );
    journal.wait_for("ping").await;
    assert_eq!(
        world.call("remote__echo", json!({"text": "x"})).await,
        Outcome::Value(json!("x"))
    );
    cancel.trigger();
    assert_eq!(running.await.unwrap(), Outcome::Cancelled);
    // It is told in the session that the call began in.
    journal.wait_for("cancelled slow").await;
    world.stop().await;
}

#[tokio::test]
async fn a_result_beyond_all_bounds_is_an_error_and_the_next_one_is_fine() {
    for json_answers in [false, true] {
        let journal = Journal::new();
        let server = Server::start(&journal, 0, &json!({"json": json_answers})).await;
        let world = World::start(&address("remote", server.port, ""));
        let outcome = world.call("remote__gigantic", json!({})).await;
        let Outcome::Error(sentence) = &outcome else {
            panic!("{outcome:?}");
        };
        assert!(sentence.contains("longer than"), "{sentence}");
        assert_eq!(
            world.call("remote__echo", json!({"text": "x"})).await,
            Outcome::Value(json!("x"))
        );
        world.stop().await;
    }
}

#[tokio::test]
async fn a_slow_call_ends_in_its_time() {
    let journal = Journal::new();
    let server = Server::start(&journal, 0, &json!({})).await;
    let world = World::start(&address("remote", server.port, ""));
    let slow = world.tool("remote__slow").await;
    let call = call("remote__slow", json!({}), Duration::from_millis(300));
    assert_eq!(slow.runner.run(call).await, Outcome::TimedOut);
    journal.wait_for("cancelled slow").await;
    world.stop().await;
}
