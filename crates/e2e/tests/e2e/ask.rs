//! `signalbox ask` and `signalbox decide`: what people read of an answer in a
//! terminal, whatever becomes of the connection, and how they decide.

use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use signalbox_bus::server::User;
use signalbox_testkit::{DEADLINE, Platform, Process, Proxy, WsClient, signalbox};

use crate::approval_world::World as Approvals;
use crate::chat_world::World;
use crate::events::send;

/// `signalbox` with the key of a role.
fn tool(platform: &Platform, role: &str, arguments: &[&str]) -> Command {
    let mut command = signalbox();
    command
        .args(arguments)
        .env("SIGNALBOX_TOKEN", platform.api_key(role));
    command
}

fn url(platform: &Platform) -> String {
    format!("http://{}", platform.gateways[0].listener())
}

async fn ended(process: &Process) -> (Option<i32>, String, String) {
    let status = process.wait(DEADLINE).await;
    let stdout = process.stdout().lines().join("\n");
    (status.code(), stdout, process.stderr().lines().join("\n"))
}

#[tokio::test]
async fn an_answer_is_read_in_a_terminal() {
    let world = World::start(1, &[]).await;
    world.reply("It is a scan.\nIts title is \u{1b}]0;yours\u{7} and \u{9b}2J.");
    let url = url(&world.platform);
    let context = ["--incident", "t-1", "--context", r#"{"note":"by night"}"#];
    let question = ["How", "bad is it?"];
    let arguments = [&["ask", "--url", &url], &context[..], &question].concat();
    let asked = Process::spawn(tool(&world.platform, "analyst", &arguments));
    let (code, out, told) = ended(&asked).await;
    assert_eq!(code, Some(0), "{told}");
    let expected = "It is a scan.\nIts title is ^[]0;yours^G and <9b>2J.\n\n\
                    HIGH port_scanning, 95 % sure\nWhy:\n  - 212 ports within 30 s\n\
                    To do:\n  - isolate 10.4.7.19";
    let shown = out.replace("\\u{9b}", "<9b>").replace("M-[", "<9b>");
    assert_eq!(shown, expected);
    assert!(
        told.starts_with("Threat Classifier (example-model), chat chat-"),
        "{told}"
    );
    let body = world.model.received(1).await.body.to_string();
    for known in ["How bad is it?", "t-1", "by night"] {
        assert!(body.contains(known), "{known}: {body}");
    }
    // The chat can be gone on with.
    world.reply("Still bad.");
    let chat = told.lines().next().unwrap().rsplit(' ').next().unwrap();
    let arguments = ["ask", "--url", &url, "--chat", chat, "--json", "And now?"];
    let asked = Process::spawn(tool(&world.platform, "analyst", &arguments));
    let (code, out, told) = ended(&asked).await;
    assert_eq!(code, Some(0), "{told}");
    let last: serde_json::Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert_eq!(last["type"], "agent_response_complete");
    assert_eq!(
        (&last["answer"], &last["session_id"]),
        (&json!(2), &json!(chat))
    );
}

#[tokio::test]
async fn a_cut_connection_costs_the_reader_nothing() {
    let world = World::start(1, &[]).await;
    // An end of a line is held back while it may begin the analysis.
    let pieces = ["one\n-", "two\n-", "three\n-", "four\n-", "five"];
    let gates = world.reply_behind_gates(&pieces);
    let proxy = Proxy::start(world.platform.gateways[0].listener()).await;
    let url = format!("http://{}", proxy.addr());
    let arguments = ["ask", "--url", &url, "What?"];
    let asked = Process::spawn(tool(&world.platform, "analyst", &arguments));
    world.model.received(1).await;
    for (piece, gate) in pieces.iter().zip(&gates) {
        // What comes next is written while nobody is connected, or just again.
        gate.open();
        if let Some(line) = piece.strip_suffix("\n-") {
            asked.stdout().wait_for_line(line, DEADLINE).await;
        }
        proxy.cut();
    }
    gates[pieces.len()].open();
    let (code, out, told) = ended(&asked).await;
    assert_eq!(code, Some(0), "{told}");
    assert!(
        out.starts_with("one\n-two\n-three\n-four\n-five\n\nHIGH"),
        "{out}"
    );
    assert!(told.contains("returning"), "{told}");
}

#[tokio::test]
async fn gateways_that_are_stopped_cost_the_reader_nothing() {
    let world = World::start(2, &[]).await;
    let gates = world.reply_behind_gates(&["one\n-", "two"]);
    let [first, second] = &world.platform.gateways[..] else {
        panic!("two gateways");
    };
    let proxy = Proxy::start(first.listener()).await;
    let url = format!("http://{}", proxy.addr());
    let arguments = ["ask", "--url", &url, "What?"];
    let asked = Process::spawn(tool(&world.platform, "analyst", &arguments));
    world.model.received(1).await;
    gates[0].open();
    asked.stdout().wait_for_line("one", DEADLINE).await;
    proxy.retarget(second.listener());
    first.process.sigterm();
    asked.stderr().wait_for_line("; returning", DEADLINE).await;
    gates[1].open();
    gates[2].open();
    let (code, out, told) = ended(&asked).await;
    assert_eq!(code, Some(0), "{told}");
    assert!(out.starts_with("one\n-two\n\nHIGH"), "{out}");
    assert!(
        told.contains("the gateway is going away; returning"),
        "{told}"
    );
}

#[tokio::test]
async fn an_interrupt_cancels_the_answer_while_nobody_is_connected() {
    let world = World::start(1, &[]).await;
    let gates = world.reply_behind_gates(&["one\n-", "never told"]);
    let proxy = Proxy::start(world.platform.gateways[0].listener()).await;
    let url = format!("http://{}", proxy.addr());
    let arguments = ["ask", "--url", &url, "What?"];
    let asked = Process::spawn(tool(&world.platform, "analyst", &arguments));
    world.model.received(1).await;
    gates[0].open();
    asked.stdout().wait_for_line("one", DEADLINE).await;
    proxy.refuse();
    proxy.cut();
    asked.stderr().wait_for_line("returning", DEADLINE).await;
    let pid = Pid::from_raw(asked.pid().try_into().unwrap());
    kill(pid, Signal::SIGINT).unwrap();
    proxy.admit();
    let (code, out, told) = ended(&asked).await;
    assert_eq!(code, Some(130), "{told}");
    assert!(!out.contains("never"), "{out}");
    // Nobody pays for what nobody waits for.
    let chat = told.lines().next().unwrap().rsplit(' ').next().unwrap();
    let mut client = WsClient::connect(&world.platform.gateways[0].threat_url(), &[]).await;
    client
        .authenticate(&world.platform.api_key("analyst"))
        .await;
    let resume = json!({"type": "resume_chat", "session_id": chat, "answer": 1, "after_chunk": 0});
    client.send_json(&resume).await;
    client.expect("chat_resumed").await;
    client.expect("agent_response_chunk").await;
    client.expect("agent_response_cancelled").await;
}

#[tokio::test]
async fn an_interrupt_cancels_the_answer() {
    let world = World::start(1, &[]).await;
    let gates = world.reply_behind_gates(&["begun ", "never told"]);
    let url = url(&world.platform);
    let asked = Process::spawn(tool(
        &world.platform,
        "analyst",
        &["ask", "--url", &url, "What?"],
    ));
    world.model.received(1).await;
    asked
        .stderr()
        .wait_for_line("Threat Classifier", DEADLINE)
        .await;
    gates[0].open();
    let pid = Pid::from_raw(asked.pid().try_into().unwrap());
    kill(pid, Signal::SIGINT).unwrap();
    let (code, out, told) = ended(&asked).await;
    assert_eq!(code, Some(130), "{told}");
    assert!(!out.contains("never"), "{out}");
    // Nobody writes it any more: the agent answers the next question.
    world.reply("Yes.");
    let chat = told.lines().next().unwrap().rsplit(' ').next().unwrap();
    let arguments = ["ask", "--url", &url, "--chat", chat, "Still there?"];
    let asked = Process::spawn(tool(&world.platform, "analyst", &arguments));
    assert_eq!(ended(&asked).await.0, Some(0));
}

#[tokio::test]
async fn whoever_may_not_chat_is_told_so() {
    let world = World::start(1, &[]).await;
    let url = url(&world.platform);
    let asked = Process::spawn(tool(
        &world.platform,
        "viewer",
        &["ask", "--url", &url, "What?"],
    ));
    let (code, _, told) = ended(&asked).await;
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("chat_agents"), "{told}");
    let arguments = ["ask", "--url", &url, "--agent", "nobody", "What?"];
    let asked = Process::spawn(tool(&world.platform, "analyst", &arguments));
    let (code, _, told) = ended(&asked).await;
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("threat_classifier"), "{told}");
}

#[tokio::test]
async fn decisions_are_made_in_a_terminal() {
    let platform = Platform::start(1).await;
    let bus = platform.bus(User::Producer).await;
    let mut client = WsClient::connect(&platform.gateways[0].threat_url(), &[]).await;
    client.authenticate(&platform.api_key("viewer")).await;
    client
        .subscribe(json!({"channel": "response_actions"}))
        .await;
    let data = json!({"action_id": "a-1", "action_type": "block_ip", "status": "PENDING"});
    send(&bus, "action_update", "pending", &data).await;
    client.expect("action_update").await;
    let url = url(&platform);
    let decide = |role: &str, arguments: &[&str]| {
        let arguments = [&["decide", "--url", &url], arguments].concat();
        Process::spawn(tool(&platform, role, &arguments))
    };
    let (code, out, told) =
        ended(&decide("analyst", &["a-1", "reject", "--reason", "known"])).await;
    assert_eq!((code, out.as_str()), (Some(0), "rejected a-1"), "{told}");
    let decided = client.expect("action_decided").await;
    assert_eq!(decided["data"]["reason"], "known");
    let (code, _, told) = ended(&decide("operator", &["a-1", "approve"])).await;
    assert_eq!(code, Some(1));
    assert!(told.ends_with("reject by analyst@local"), "{told}");
    let (code, _, told) = ended(&decide("viewer", &["a-1", "approve"])).await;
    assert_eq!(code, Some(1));
    assert!(told.contains("execute_actions"), "{told}");
}

#[tokio::test]
async fn who_says_too_much_is_told_so() {
    let world = World::start(1, &[]).await;
    let url = url(&world.platform);
    let mut client = WsClient::connect(&world.platform.gateways[0].threat_url(), &[]).await;
    client
        .authenticate(&world.platform.api_key("analyst"))
        .await;
    // The default of a credential, over all connections of its user.
    for _ in 0..60 {
        client.subscribe(json!({"channel": "system_metrics"})).await;
    }
    for command in [
        &["ask", "--url", &url, "What?"][..],
        &["decide", "--url", &url, "a-1", "approve"],
    ] {
        let refused = Process::spawn(tool(&world.platform, "analyst", command));
        let (code, _, told) = ended(&refused).await;
        assert_eq!(code, Some(1), "{told}");
        let (_, rest) = told.split_once("messages_per_minute ").unwrap();
        assert!(rest.contains("/60, until 20"), "{told}");
    }
}

#[tokio::test]
async fn who_agrees_sees_to_what() {
    let world = Approvals::start(1).await;
    let blanks = " ".repeat(1_000);
    let arguments = json!({"host": format!("10.4.7.19{blanks}and all others")});
    world.script(&[("isolate_host", arguments.clone())]);
    let mut operator = world.observer(0).await;
    let url = url(&world.platform);
    let command = ["ask", "--url", &url, "What is to be done?"];
    let asked = Process::spawn(tool(&world.platform, "analyst", &command));
    let action = operator.pending().await;
    let id = action["action_id"].as_str().unwrap();
    let command = ["decide", "--url", &url, id, "approve"];
    let decided = Process::spawn(tool(&world.platform, "operator", &command));
    let (code, out, told) = ended(&decided).await;
    assert_eq!(code, Some(0), "{told}");
    assert_eq!(out, format!("approved {id}: isolate_host {arguments}"));
    let (code, _, told) = ended(&asked).await;
    assert_eq!(code, Some(0), "{told}");
    let offered = format!("  [1] isolate_host {arguments} waits until ");
    assert!(told.contains(&offered), "{told}");
}
