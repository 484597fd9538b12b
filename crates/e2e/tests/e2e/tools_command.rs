//! A command as a tool of a chat, with everything real but the model: somebody else
//! approves it, dashboards see it live while the chat waits, and the chat has its
//! end. Who may have commands run and where, what cancels them, and that a long
//! output is cut in the chat alone.

use serde_json::{Value, json};
use signalbox_bus::server::User as BusUser;
use signalbox_testkit::{DEADLINE, eventually};

use crate::agent_world::{Sight, until_gone};
use crate::fleet_side::User;
use crate::fleet_world::find;
use crate::tools_command_world::{WEB, World, action, frame, seen_whole};

const UNAPPROVED: &str = "approval = false";

/// One person asks, another approves, a third watches; the model is told the rest.
#[tokio::test]
async fn a_command_runs_once_somebody_has_approved_it_and_everyone_can_watch() {
    let world = World::start("").await;
    let mut dashboard = world.fleet.dashboard("viewer").await;
    let watcher = world.watch_terminal();
    let mut bob = world.decider("operator", "bob").await;
    let (mut ada, session) = world.chat("admin", "ada").await;
    let script = "echo ran >> ran; printf 'out \\303\\274\\n'; echo err >&2; \
                  until [ -e go ]; do sleep 0.05; done; echo on; exit 3";
    world.asks_for(script);
    world.concludes("It has failed.");
    ada.say(&session, "look at it").await;
    let held = frame(&mut ada, "agent_tool_approval").await;
    assert_eq!(held["tool_name"], "run_command");
    assert_eq!(held["parameters"]["command"], script);
    let pending = action(&mut bob, "PENDING").await;
    assert_eq!(pending["action_id"], held["action_id"]);
    assert_eq!(pending["action_type"], "run_command");
    assert_eq!(
        (&pending["arguments"], &pending["requested_by"]),
        (&held["parameters"], &json!("ada"))
    );
    assert_eq!(world.runs(), 0, "nothing runs before that");
    bob.send_json(&json!({
        "type": "action_decision", "action_id": held["action_id"], "decision": "approve",
    }))
    .await;
    assert_eq!(
        frame(&mut ada, "agent_tool_decision").await["decided_by"],
        "bob"
    );
    frame(&mut ada, "agent_tool_execution").await;
    let terminal = frame(&mut ada, "agent_tool_terminal").await;
    assert_eq!(
        (&terminal["agent_id"], &terminal["tool_call"]),
        (&json!(WEB), &json!(1))
    );
    let command = terminal["command_id"].as_str().unwrap().to_owned();
    // Live, while the chat waits.
    let mut sight = Sight::default();
    sight.until(&mut dashboard, &command, "out ü\n").await;
    eventually("output in the terminal", DEADLINE, async || {
        let lines = watcher.stdout().lines();
        lines.iter().any(|line| line == "out ü").then_some(())
    })
    .await;
    world.machine.write("go", "");
    let end = sight.watch(&mut dashboard, &command).await;
    assert_eq!(end["exitCode"], 3);
    assert_eq!(
        (sight.text().as_str(), sight.stderr()),
        ("out ü\non\n", &b"err\n"[..])
    );
    let ended = frame(&mut ada, "agent_tool_result").await;
    assert_eq!(
        (&ended["status"], &ended["outcome"]),
        (&json!("COMPLETED"), &json!("value"))
    );
    let results = &ended["results"];
    assert_eq!(results["command_id"], command.as_str());
    assert_eq!(
        (&results["status"], &results["exit_code"]),
        (&json!("failed"), &json!(3))
    );
    assert_eq!(
        results["stdout"],
        json!({"tail": "out ü\non\n", "bytes": 10, "truncated": false})
    );
    assert_eq!(
        results["stderr"],
        json!({"tail": "err\n", "bytes": 4, "truncated": false})
    );
    assert!(results["duration_ms"].is_u64(), "{results}");
    let complete = ada.hear_out(&session, 1).await;
    assert_eq!(complete["full_response"], "It has failed.");
    let told = world.model.received(2).await.body.to_string();
    for part in [&command, "exit_code", "out ü"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert_eq!(
        action(&mut bob, "COMPLETED").await["action_id"],
        held["action_id"]
    );
    assert_eq!(world.runs(), 1);
    let recorded = world.recording(&command).await;
    for part in ["out ü", "err", "on"] {
        assert!(recorded.contains(part), "{recorded}");
    }
}

/// A command that is turned down runs nowhere, and the model is told by whom.
#[tokio::test]
async fn a_rejected_command_never_runs() {
    let world = World::start("").await;
    let mut bob = world.decider("operator", "bob").await;
    let (mut ada, session) = world.chat("admin", "ada").await;
    world.asks_for("echo ran >> ran");
    world.concludes("It was not run.");
    ada.say(&session, "do it").await;
    let pending = action(&mut bob, "PENDING").await;
    bob.send_json(&json!({
        "type": "action_decision", "action_id": pending["action_id"], "decision": "reject",
        "reason": "not in the daytime",
    }))
    .await;
    let ended = frame(&mut ada, "agent_tool_result").await;
    assert_eq!(ended["outcome"], "refused");
    let words = ended["results"]["error"].as_str().unwrap();
    assert!(
        words.contains("bob") && words.contains("daytime"),
        "{words}"
    );
    ada.hear_out(&session, 1).await;
    action(&mut bob, "REJECTED").await;
    assert_eq!(world.runs(), 0);
}

/// Agents that the table does not name, and arguments that are none, are refused
/// before anybody is asked; users who may not run commands are not offered the tool.
#[tokio::test]
async fn what_is_not_allowed_is_refused_before_anybody_is_asked() {
    let world = World::start("").await;
    let (mut ada, session) = world.chat("admin", "ada").await;
    world.asks_with(&[
        json!({"agent_id": "db-1", "command": "echo ran >> ran"}),
        json!({"agent_id": WEB, "command": "echo ran >> ran", "shell": true}),
        json!({"agent_id": WEB, "command": "echo ran >> ran\u{202e}"}),
    ]);
    world.concludes("None of them.");
    ada.say(&session, "do it").await;
    for part in [
        "[tools.run_command]",
        "do not fit the tool",
        "cannot be seen",
    ] {
        let ended = frame(&mut ada, "agent_tool_result").await;
        assert_eq!(
            (&ended["status"], &ended["outcome"]),
            (&json!("FAILED"), &json!("refused"))
        );
        let words = ended["results"]["error"].as_str().unwrap();
        assert!(words.contains(part), "{words}");
    }
    ada.hear_out(&session, 1).await;
    let (mut eve, session) = world.chat("analyst", "eve").await;
    world.asks_for("echo ran >> ran");
    world.concludes("Not for you.");
    eve.say(&session, "do it").await;
    let ended = frame(&mut eve, "agent_tool_result").await;
    assert_eq!(ended["outcome"], "refused");
    let words = ended["results"]["error"].as_str().unwrap();
    assert!(words.contains("not permitted"), "{words}");
    eve.hear_out(&session, 1).await;
    let offered = &world.model.received(3).await.body["tools"];
    assert_eq!(offered.as_array().map_or(0, Vec::len), 0, "{offered}");
    assert_eq!(world.runs(), 0);
}

/// The command is told to end when the user cancels, and all of its processes do.
#[tokio::test]
async fn a_cancelled_chat_interrupts_its_command() {
    let world = World::start(UNAPPROVED).await;
    let mut dashboard = world.fleet.dashboard("viewer").await;
    let (mut ada, session) = world.chat("admin", "ada").await;
    let nap = format!("86417.{}", std::process::id());
    world.asks_for(&format!("echo begun; exec sleep {nap}"));
    ada.say(&session, "wait").await;
    let terminal = frame(&mut ada, "agent_tool_terminal").await;
    let command = terminal["command_id"].as_str().unwrap().to_owned();
    let mut sight = Sight::default();
    sight.until(&mut dashboard, &command, "begun\n").await;
    ada.socket
        .send_json(&json!({"type": "cancel_chat", "session_id": session}))
        .await;
    let ended = frame(&mut ada, "agent_tool_result").await;
    assert_eq!(ended["outcome"], "cancelled");
    let words = ended["results"]["error"].as_str().unwrap();
    assert!(words.contains("told to end"), "{words}");
    let interrupted = find(&mut dashboard, |message| {
        message["type"] == "command:complete" && message["commandId"] == command.as_str()
    })
    .await;
    assert_eq!(interrupted["status"], "interrupted", "{interrupted}");
    until_gone(&nap).await;
    ada.hear_out(&session, 1).await;
}

/// The chat has the end of it and how much it was; dashboards and the log have all.
#[tokio::test]
async fn a_long_output_is_cut_in_the_chat_and_whole_in_its_log() {
    let world = World::start(UNAPPROVED).await;
    let mut dashboard = world.fleet.dashboard("viewer").await;
    let (mut ada, session) = world.chat("admin", "ada").await;
    world.asks_for("seq 1 100000");
    world.concludes("Counted.");
    ada.say(&session, "count").await;
    let terminal = frame(&mut ada, "agent_tool_terminal").await;
    let command = terminal["command_id"].as_str().unwrap().to_owned();
    let ended = frame(&mut ada, "agent_tool_result").await;
    let whole: String = (1..=100_000).map(|number| format!("{number}\n")).collect();
    let stdout = &ended["results"]["stdout"];
    assert_eq!(
        (&stdout["bytes"], &stdout["truncated"]),
        (&json!(whole.len()), &Value::Bool(true))
    );
    let tail = stdout["tail"].as_str().unwrap();
    assert!(
        whole.ends_with(tail) && tail.len() > 10_000,
        "{}",
        tail.len()
    );
    // Cut by the tool, which knows where lines begin, and not once more.
    assert!(tail.lines().next().unwrap().len() >= 5, "{}", &tail[..20]);
    assert_eq!(ended.get("truncated"), None, "{}", ended["truncated"]);
    let (sight, end) = seen_whole(&mut dashboard, &command).await;
    assert_eq!(end["exitCode"], 0);
    assert!(sight.stdout() == whole.as_bytes());
    let user = User {
        bus: world.fleet.platform.bus(BusUser::Gateway).await,
    };
    let log = user.log_of(&command).await;
    assert!(log.output == whole.as_bytes());
    ada.hear_out(&session, 1).await;
}
