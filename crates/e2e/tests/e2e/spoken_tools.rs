//! The part of the conversation of dialect `threat` in which an agent has tools
//! run: one that looks something up, a command that is approved, and one that is
//! not.

use std::io::Write as _;
use std::path::Path;

use async_nats::{Client, ConnectOptions};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use signalbox_bus::server::User;
use signalbox_testkit::{DEADLINE, FakeModel, Process, Reply, WsClient, api_key, signalbox};
use tokio::task::JoinHandle;

use crate::chat_world::analysis;
use crate::fixtures::Fixtures;
use crate::tools_world::asking;
use crate::up::listener;

/// Gives the agent of a file its tools.
pub(crate) fn allow(agents: &Path) {
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .open(agents)
        .unwrap();
    let tools = r#"tools = ["lookup_host", "run_command"]

[tools.lookup_host]
description = "Says what a host is."
parameters = '{"type": "object", "required": ["host"], "properties": {"host": {"type": "string"}}}'

[tools.run_command]
agents = ["web-1"]
"#;
    file.write_all(tools.as_bytes()).unwrap();
}

/// Answers calls of `lookup_host`.
async fn responder(runtime: &Value) -> JoinHandle<()> {
    let url = runtime["responder_url"].as_str().unwrap();
    let (user, addr) = url
        .strip_prefix("nats://")
        .unwrap()
        .split_once('@')
        .unwrap();
    let (user, password) = user.split_once(':').unwrap();
    let client: Client = ConnectOptions::new()
        .user_and_password(user.to_owned(), password.to_owned())
        .custom_inbox_prefix(User::Responder.inbox_prefix())
        .connect(addr)
        .await
        .unwrap();
    let mut calls = client.subscribe("tools.lookup_host").await.unwrap();
    client.flush().await.unwrap();
    tokio::spawn(async move {
        while let Some(call) = calls.next().await {
            let found =
                json!({"result": {"host": "web-1", "owner": "shop team", "critical": true}});
            let to = call.reply.unwrap();
            client.publish(to, found.to_string().into()).await.unwrap();
        }
    })
}

/// The next frame of a kind, and those before it.
async fn until(client: &mut WsClient, kind: &str) -> (Value, Vec<Value>) {
    let mut before = Vec::new();
    loop {
        let frame = client.next_json(DEADLINE).await;
        if frame["type"] == kind {
            return (frame, before);
        }
        before.push(frame);
    }
}

async fn decide(client: &mut WsClient, action: &Value, decision: &str, reason: &str) {
    let decision = json!({
        "type": "action_decision", "action_id": action, "decision": decision, "reason": reason,
    });
    client.send_json(&decision).await;
}

/// Speaks it.
pub(crate) async fn speak(dir: &Path, runtime: &Value, model: &FakeModel, fixtures: &Fixtures) {
    let responder = responder(runtime).await;
    let mut agent = signalbox();
    agent.args(["agent", "--id", "web-1", "--allow", "echo **", "--data-dir"]);
    let agent = Process::spawn({
        agent.arg(dir);
        agent
    });
    agent.wait_for_line("serving", DEADLINE).await;
    let command = json!({"agent_id": "web-1", "command": "echo", "args": ["up 3 days"]});
    let command = command.to_string();
    let look = ("a", "lookup_host", r#"{"host":"web-1"}"#);
    model.reply(asking("", &[look, ("b", "run_command", &command)]));
    model.reply(asking("", &[("c", "run_command", &command)]));
    let end = format!("It is up.\n\n```analysis\n{}\n```\n", analysis());
    model.reply(Reply::new().text(&end).usage(400, 50).end());

    let mut erin = WsClient::connect(&format!("ws://{}/v1/ws", listener(runtime)), &[]).await;
    erin.authenticate(&api_key(&dir.join("credentials.json"), "admin"))
        .await;
    erin.send_json(&json!({"type": "start_chat", "agent_type": "threat_classifier"}))
        .await;
    erin.expect("chat_session_started").await;
    erin.send_json(&json!({"type": "chat_message", "message": "Is web-1 up?"}))
        .await;
    let (result, before) = until(&mut erin, "agent_tool_result").await;
    let mut action = Value::Null;
    for frame in &before {
        let kind = frame["type"].as_str().unwrap();
        fixtures.assert_foreign(kind, frame);
        if kind == "agent_tool_approval" {
            action = frame["action_id"].clone();
        }
    }
    fixtures.assert_foreign("agent_tool_result", &result);
    if action.is_null() {
        action = until(&mut erin, "agent_tool_approval").await.0["action_id"].take();
    }
    decide(&mut erin, &action, "approve", "the load may tell").await;
    let (decision, _) = until(&mut erin, "agent_tool_decision").await;
    fixtures.assert_foreign("agent_tool_decision", &decision);
    let (terminal, _) = until(&mut erin, "agent_tool_terminal").await;
    fixtures.assert_foreign("agent_tool_terminal", &terminal);
    let (result, _) = until(&mut erin, "agent_tool_result").await;
    assert_eq!(
        (&result["tool_call"], &result["outcome"]),
        (&json!(2), &json!("value"))
    );

    let (mut again, _) = until(&mut erin, "agent_tool_approval").await;
    decide(&mut erin, &again["action_id"].take(), "reject", "too risky").await;
    let (refused, _) = until(&mut erin, "agent_tool_result").await;
    fixtures.assert_foreign("agent_tool_result-failed", &refused);
    until(&mut erin, "agent_response_complete").await;
    responder.abort();
}
