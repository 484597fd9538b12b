//! What orchestrators owe their tools through faults: killed before a call was
//! started, while it ran, behind its end, and while people were asked. No call is
//! ever executed twice, each has exactly one end, and everyone is shown the same;
//! the programs that execute count, and `chat_side` checks each log that is read.

use std::time::Duration;

use serde_json::{Value, json};
use signalbox_bus::server::User as BusUser;
use signalbox_protocol::wire::{ChatError, ToolOutcome, ToolVerdict};
use signalbox_testkit::{ChatBus, DEADLINE, Gate, Reply, Service};

use crate::chat_client::{Chatter, token_of};
use crate::chat_side::{Answer, Asker, Viewer};
use crate::chat_turns::concluded;
use crate::chat_world::{World, handed_over};
use crate::tools_world::{Responder, asking, results_told, table};

const ADA: &str = "ada";

struct Stage {
    chat: ChatBus,
    orchestrator: Service,
    ada: Asker,
    id: String,
}

async fn stage(settings: &str, tables: &[String]) -> Stage {
    let chat = ChatBus::start(&format!("{settings}\n{}", tables.concat())).await;
    let orchestrator = chat.orchestrator(&[]).await;
    let ada = Asker::new(chat.bus.bus(BusUser::Gateway).await, ADA);
    let id = ada.start("tester").await.unwrap().session_id;
    Stage {
        chat,
        orchestrator,
        ada,
        id,
    }
}

impl Stage {
    /// Kills the orchestrator and starts another.
    async fn kill(&mut self) {
        self.orchestrator.process.kill9();
        self.orchestrator = self.chat.orchestrator(&[]).await;
    }

    async fn viewer(&self) -> Viewer {
        let bus = self.chat.bus.bus(BusUser::Gateway).await;
        Viewer::start(bus, ADA, &self.id).await
    }

    fn told(&self, request: usize) -> Vec<(String, Value)> {
        results_told(&self.chat.model.requests()[request - 1].body)
    }
}

fn outcomes(answer: &Answer) -> Vec<ToolOutcome> {
    answer.tools.iter().map(|tool| tool.end().0).collect()
}

/// Asserts that a viewer has seen what the log has.
async fn assert_seen(mut viewer: Viewer, answer: &Answer) {
    viewer.see(1).await;
    let seen = &viewer.chat.answers[0];
    assert_eq!(format!("{seen:?}"), format!("{answer:?}"));
}

/// Killed while eight calls run and two wait for their turn: nobody knows what became
/// of the eight, which are not run again; the two are started by the next, once, with
/// the arguments that were planned. The model is told which is which.
#[tokio::test]
async fn what_was_started_is_never_run_again_and_what_was_not_is_run_once() {
    let mut stage = stage(r#"tools = ["look"]"#, &[table("look", "")]).await;
    let viewer = stage.viewer().await;
    let gate = Gate::new();
    let look = Responder::behind(&stage.chat.bus.nats, "look", &gate).await;
    let arguments: Vec<String> = (1..=10).map(|n| format!("{{\"n\": {n}}}")).collect();
    let calls: Vec<_> = arguments.iter().map(|one| ("c", "look", &**one)).collect();
    stage.chat.model.reply(asking("Ten at once. ", &calls));
    stage
        .chat
        .model
        .reply(concluded(Reply::new().text("Two of ten.")));
    stage.ada.say(&stage.id, "m1").await.unwrap();
    look.executed(8).await;
    stage.kill().await;
    look.executed(10).await;
    gate.open();
    let answer = stage.ada.answer(&stage.id, 1).await;
    assert_eq!(
        answer.answered().full_response,
        "Ten at once. Two of ten.",
        "words of a round that was over are no obstacle"
    );
    assert_eq!(answer.recoveries, 1);
    let (unknown, value) = ([ToolOutcome::Unknown; 8], [ToolOutcome::Value; 2]);
    assert_eq!(outcomes(&answer), [&unknown[..], &value].concat());
    assert_eq!(look.once_each(), 10);
    let last: Vec<_> = look.arguments().split_off(8);
    assert!(last.contains(&json!({"n": 9})) && last.contains(&json!({"n": 10})));
    let told = stage.told(2);
    assert_eq!(told[0].1["outcome"], "unknown");
    assert_eq!(told[8].1, json!({"got": {"n": 9}}));
    assert_seen(viewer, &answer).await;
}

/// Killed behind the end of a call, while the model is asked what to make of it: the
/// next asks the same with the same results, and runs nothing.
#[tokio::test]
async fn what_a_tool_gave_outlives_its_orchestrator() {
    let mut stage = stage(r#"tools = ["look"]"#, &[table("look", "")]).await;
    let viewer = stage.viewer().await;
    let nats = &stage.chat.bus.nats;
    let look = Responder::giving(nats, "look", Some(json!({"seen": "\u{1b}[1mx"}))).await;
    let shut = Gate::new();
    let calls = [("c1", "look", r#"{"n": 1}"#), ("c2", "none", "{}")];
    stage.chat.model.reply(asking("First. ", &calls));
    stage.chat.model.reply(Reply::new().wait(&shut));
    stage.chat.model.reply(asking("", &[("c3", "look", "{}")]));
    stage.chat.model.reply(Reply::new().wait(&shut));
    stage
        .chat
        .model
        .reply(concluded(Reply::new().text("Last.")));
    stage.ada.say(&stage.id, "m1").await.unwrap();
    for request in [2, 4] {
        stage.chat.model.received(request).await;
        stage.kill().await;
    }
    let answer = stage.ada.answer(&stage.id, 1).await;
    assert_eq!(answer.answered().full_response, "First. Last.");
    assert_eq!(answer.recoveries, 2);
    let expected = [ToolOutcome::Value, ToolOutcome::Refused, ToolOutcome::Value];
    assert_eq!(outcomes(&answer), expected);
    assert_eq!(look.once_each(), 2);
    let requests = stage.chat.model.requests();
    assert_eq!(requests[1].body["messages"], requests[2].body["messages"]);
    assert_eq!(requests[3].body["messages"], requests[4].body["messages"]);
    assert_eq!(stage.told(5).len(), 3);
    assert_eq!(stage.told(5)[0].1, json!({"seen": "x"}));
    assert_seen(viewer, &answer).await;
}

/// Killed when words of a later round are on screens: a model would write others, so
/// that the answer fails and keeps them; its tools are as they were.
#[tokio::test]
async fn words_of_a_later_round_end_the_answer_visibly() {
    let mut stage = stage(r#"tools = ["look"]"#, &[table("look", "")]).await;
    let look = Responder::giving(&stage.chat.bus.nats, "look", Some(json!(1))).await;
    let shut = Gate::new();
    stage
        .chat
        .model
        .reply(asking("First. ", &[("c1", "look", "{}")]));
    stage
        .chat
        .model
        .reply(Reply::new().text("Half").wait(&shut));
    stage.ada.say(&stage.id, "m1").await.unwrap();
    let half = |answer: &Answer| answer.text().ends_with("Half");
    stage.ada.sees(&stage.id, 1, half).await;
    stage.kill().await;
    let answer = stage.ada.answer(&stage.id, 1).await;
    assert_eq!(answer.failed().code(), ChatError::AgentUnavailable);
    assert_eq!(answer.failed().message, "the answer was interrupted");
    assert_eq!(answer.failed().partial_response, "First. Half");
    assert_eq!(outcomes(&answer), [ToolOutcome::Value]);
    assert_eq!(look.once_each(), 1);
}

/// Killed at any moment, again and again, while the model asks for one tool after the
/// other: whatever becomes of the answer, no call is executed twice.
#[tokio::test]
async fn no_moment_to_be_killed_has_a_call_executed_twice() {
    let mut stage = stage(r#"tools = ["look"]"#, &[table("look", "")]).await;
    let viewer = stage.viewer().await;
    let look = Responder::working(&stage.chat.bus.nats, "look", Duration::from_millis(30)).await;
    let calls = [("c1", "look", "{}"), ("c2", "look", "{}")];
    stage.chat.model.otherwise(asking("", &calls));
    stage.ada.say(&stage.id, "m1").await.unwrap();
    for round in 1..=3_usize {
        // Somewhere in the middle of it, which differs from time to time.
        look.executed(round * 4).await;
        tokio::time::sleep(Duration::from_millis(7 * round as u64)).await;
        stage.kill().await;
    }
    let answer = stage.ada.answer(&stage.id, 1).await;
    assert_eq!(answer.failed().code(), ChatError::BudgetExceeded);
    assert_eq!(answer.recoveries, 3);
    let ran = answer.tools.iter().filter(|tool| tool.is_started).count();
    let executed = look.once_each();
    // Killed between the record and the request, a call has not been executed.
    assert!(
        executed <= ran && ran <= executed + 6,
        "{executed} of {ran}"
    );
    assert_seen(viewer, &answer).await;
}

/// Killed while people are asked, more often than answers are otherwise gone on with:
/// nothing was lost by that. One who leaves in good order does not wait for people.
/// Cancelled then, the call never runs.
#[tokio::test]
async fn a_chat_that_waits_for_people_outlives_any_number_of_orchestrators() {
    let tables = [table("act", "approval = true")];
    let mut stage = stage(r#"tools = ["act"]"#, &tables).await;
    let act = Responder::giving(&stage.chat.bus.nats, "act", Some(json!(1))).await;
    stage.chat.model.reply(asking("", &[("c", "act", "{}")]));
    stage.ada.say(&stage.id, "m1").await.unwrap();
    let held = |answer: &Answer| answer.tools.first().is_some_and(|tool| tool.held.is_some());
    stage.ada.sees(&stage.id, 1, held).await;
    for round in 1..=5 {
        stage.kill().await;
        let taken = |answer: &Answer| answer.recoveries == round;
        stage.ada.sees(&stage.id, 1, taken).await;
    }
    stage.orchestrator.process.sigterm();
    assert!(stage.orchestrator.process.wait(DEADLINE).await.success());
    stage.orchestrator = stage.chat.orchestrator(&[]).await;
    assert_eq!(stage.ada.cancel(&stage.id).await.answer, 1);
    let answer = stage.ada.answer(&stage.id, 1).await;
    answer.stopped();
    assert_eq!(answer.recoveries, 6);
    assert_eq!(outcomes(&answer), [ToolOutcome::Cancelled]);
    assert_eq!(act.calls(), 0);
}

/// Waits for the update of an action that says this.
async fn update(client: &mut Chatter, status: &str) -> Value {
    loop {
        let frame = client.next().await;
        if frame["type"] == "action_update" && frame["data"]["status"] == status {
            return frame["data"].clone();
        }
    }
}

/// Approved by somebody on a dashboard, with the orchestrator killed before the
/// decision, and again while the approved call runs: it is executed once, with what
/// was approved, and everyone sees each step of it once.
#[tokio::test]
async fn an_approved_call_is_executed_once_however_often_orchestrators_die() {
    let tools = format!("tools = [\"act\"]\n{}", table("act", "approval = true"));
    let mut world = World::start_with(1, &[], &tools).await;
    let gate = Gate::new();
    let act = Responder::behind(&world.platform.nats, "act", &gate).await;
    let gateway = &world.platform.gateways[0];
    let mut ada = Chatter::connect(gateway, &token_of(&world.platform, ADA)).await;
    let mut bob = Chatter::connect(gateway, &token_of(&world.platform, "bob")).await;
    let subscribe = json!({"type": "subscribe", "channel": "response_actions"});
    bob.socket.send_json(&subscribe).await;
    bob.expect("subscription_confirmed").await;
    let id = ada.start("threat_classifier").await;
    world
        .model
        .reply(asking("", &[("c1", "act", r#"{"n": 5}"#)]));
    let reply = Reply::new().text("Done.").text(&handed_over());
    world.model.reply(reply.usage(1, 1).end());
    ada.say(&id, "do it").await;
    let pending = update(&mut bob, "PENDING").await;
    assert_eq!(pending["arguments"], json!({"n": 5}));
    assert_eq!(pending["requested_by"], ADA);
    world.replace_orchestrator().await;
    let decision = json!({
        "type": "action_decision", "action_id": pending["action_id"], "decision": "approve",
    });
    bob.socket.send_json(&decision).await;
    act.executed(1).await;
    update(&mut bob, "EXECUTING").await;
    world.replace_orchestrator().await;
    gate.open();
    let end = ada.hear_out(&id, 1).await;
    assert_eq!(end["full_response"], "Done.");
    assert_eq!(act.once_each(), 1);
    assert_eq!(act.arguments(), [json!({"n": 5})]);
    let failed = update(&mut bob, "FAILED").await;
    assert_eq!(failed["action_id"], pending["action_id"]);
    let asker = Asker::new(connect(&world).await, ADA);
    let answer = asker.answer(&id, 1).await;
    let [tool] = &answer.tools[..] else {
        panic!("one call: {answer:?}")
    };
    let decided = tool.decided.as_ref().unwrap();
    assert_eq!(
        (decided.verdict(), &*decided.decided_by),
        (ToolVerdict::Approve, "bob")
    );
    assert_eq!(tool.end().0, ToolOutcome::Unknown);
    assert_eq!(answer.recoveries, 2);
}

/// A connection to a world's bus as gateways have it.
async fn connect(world: &World) -> signalbox_bus::Bus {
    let options = signalbox_bus::BusOptions {
        url: world.platform.nats.url(BusUser::Gateway),
        wait: DEADLINE,
    };
    signalbox_bus::Bus::connect(&options, "test").await.unwrap()
}
