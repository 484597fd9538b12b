//! A command as a tool of a chat, with what it hangs on killed while it runs: it was
//! run once, and the chat has its result.

use serde_json::json;
use signalbox_testkit::WsClient;

use crate::agent_world::Sight;
use crate::chat_client::Chatter;
use crate::tools_command_world::{World, action, frame};

const SCRIPT: &str = "echo ran >> ran; echo begun; until [ -e go ]; do sleep 0.05; done; \
                      echo done; exit 7";

/// A chat whose command runs, and who takes part.
struct Scene {
    world: World,
    dashboard: WsClient,
    ada: Chatter,
    bob: WsClient,
    session: String,
    command: String,
    sight: Sight,
}

async fn scene() -> Scene {
    let world = World::start("").await;
    let mut dashboard = world.fleet.dashboard("viewer").await;
    let mut bob = world.decider("operator", "bob").await;
    let (mut ada, session) = world.chat("admin", "ada").await;
    world.asks_for(SCRIPT);
    world.concludes("It is done.");
    ada.say(&session, "do it").await;
    let pending = action(&mut bob, "PENDING").await;
    bob.send_json(&json!({
        "type": "action_decision", "action_id": pending["action_id"], "decision": "approve",
    }))
    .await;
    let terminal = frame(&mut ada, "agent_tool_terminal").await;
    let command = terminal["command_id"].as_str().unwrap().to_owned();
    let mut sight = Sight::default();
    sight.until(&mut dashboard, &command, "begun\n").await;
    Scene {
        world,
        dashboard,
        ada,
        bob,
        session,
        command,
        sight,
    }
}

impl Scene {
    /// Lets the command end, and checks what everyone has of it.
    async fn finish(mut self) {
        self.world.machine.write("go", "");
        let end = self.sight.watch(&mut self.dashboard, &self.command).await;
        assert_eq!(end["exitCode"], 7);
        let ended = frame(&mut self.ada, "agent_tool_result").await;
        assert_eq!(ended["outcome"], "value", "{ended}");
        let results = &ended["results"];
        assert_eq!(results["command_id"], self.command.as_str());
        assert_eq!(results["exit_code"], 7);
        let stdout = json!({"tail": "begun\ndone\n", "bytes": 11, "truncated": false});
        assert_eq!(results["stdout"], stdout);
        let complete = self.ada.hear_out(&self.session, 1).await;
        assert_eq!(complete["full_response"], "It is done.");
        action(&mut self.bob, "COMPLETED").await;
        assert_eq!(self.world.runs(), 1, "run once");
        assert_eq!(
            self.world.model.requests().len(),
            2,
            "asked no more than needed"
        );
    }
}

#[tokio::test]
async fn a_killed_orchestrator_loses_no_result_and_runs_nothing_twice() {
    let mut scene = scene().await;
    scene.world.replace_orchestrator().await;
    scene.finish().await;
}

/// The command ends while nobody holds the chat.
#[tokio::test]
async fn a_command_that_ends_without_an_orchestrator_has_its_result() {
    let mut scene = scene().await;
    scene.world.orchestrator.process.kill9();
    scene.world.machine.write("go", "");
    let end = scene
        .sight
        .watch(&mut scene.dashboard, &scene.command)
        .await;
    assert_eq!(end["exitCode"], 7);
    scene.world.replace_orchestrator().await;
    let ended = frame(&mut scene.ada, "agent_tool_result").await;
    assert_eq!(
        (&ended["outcome"], &ended["results"]["exit_code"]),
        (&json!("value"), &json!(7))
    );
    scene.ada.hear_out(&scene.session, 1).await;
    assert_eq!(scene.world.runs(), 1);
}

#[tokio::test]
async fn a_killed_relay_loses_no_result_and_runs_nothing_twice() {
    let mut scene = scene().await;
    scene.world.replace_relay().await;
    scene.finish().await;
}

/// Both at once, one after the other.
#[tokio::test]
async fn relay_and_orchestrator_may_be_killed_together() {
    let mut scene = scene().await;
    scene.world.fleet.relay.process.kill9();
    scene.world.replace_orchestrator().await;
    scene.world.replace_relay().await;
    scene.finish().await;
}

/// Killed in the moments around the start: the command runs once all the same, for
/// what was approved is known to whoever goes on.
#[tokio::test]
async fn a_kill_at_any_moment_around_the_start_runs_it_once() {
    let mut world = World::start("").await;
    let mut bob = world.decider("operator", "bob").await;
    let (mut ada, session) = world.chat("admin", "ada").await;
    for (answer, moment) in (1..).zip([
        None,
        Some("agent_tool_decision"),
        Some("agent_tool_execution"),
        Some("agent_tool_terminal"),
    ]) {
        world.asks_for("echo ran >> ran; echo once");
        world.concludes("Done.");
        ada.say(&session, "do it").await;
        let pending = action(&mut bob, "PENDING").await;
        bob.send_json(&json!({
            "type": "action_decision", "action_id": pending["action_id"], "decision": "approve",
        }))
        .await;
        if let Some(moment) = moment {
            frame(&mut ada, moment).await;
        }
        world.replace_orchestrator().await;
        let ended = frame(&mut ada, "agent_tool_result").await;
        assert_eq!(ended["outcome"], "value", "{moment:?}: {ended}");
        assert_eq!(ended["results"]["stdout"]["tail"], "once\n");
        ada.hear_out(&session, answer).await;
        assert_eq!(world.runs() as u64, answer, "{moment:?}");
    }
}
