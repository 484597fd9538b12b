//! Whole chats in which a model uses the tools of an MCP server: what it is
//! offered and told, a server that crashes, and an orchestrator that is killed
//! while a call runs (T10).

use serde_json::{Value, json};
use signalbox_bus::key;
use signalbox_bus::server::User as BusUser;
use signalbox_protocol::timestamp::Timestamp;
use signalbox_protocol::wire::ToolOutcome;
use signalbox_testkit::{ChatBus, DEADLINE, Reply, Service};
use time::OffsetDateTime;

use crate::chat_side::{Answer, Asker};
use crate::chat_turns::concluded;
use crate::mcp_world::{Journal, all_gone, program};
use crate::tools_world::{asking, results_told};

struct Stage {
    chat: ChatBus,
    journal: Journal,
    orchestrator: Service,
    ada: Asker,
    id: String,
}

/// An orchestrator that has listed the tools of the server, and a chat.
async fn stage() -> Stage {
    stage_with(&json!({}), "approval = false").await
}

/// The same, with these settings of the script and this of the table.
async fn stage_with(settings: &Value, approval: &str) -> Stage {
    let journal = Journal::new();
    let table = program("behaves", &journal, settings, "result_bytes = 4096")
        .replace("GIVEN = {from = \"GIVEN\"}", "GIVEN = \"x\"")
        .replace("approval = false", approval);
    let chat = ChatBus::start(&format!("tools = [\"behaves__*\"]\n{table}")).await;
    let orchestrator = chat.orchestrator(&[]).await;
    has_listed(&orchestrator).await;
    let ada = Asker::new(chat.bus.bus(BusUser::Gateway).await, "ada");
    let id = ada.start("tester").await.unwrap().session_id;
    Stage {
        chat,
        journal,
        orchestrator,
        ada,
        id,
    }
}

async fn has_listed(orchestrator: &Service) {
    let stderr = orchestrator.process.stderr();
    stderr.wait_for_line("has listed its tools", DEADLINE).await;
}

impl Stage {
    async fn answer(&self, replies: impl IntoIterator<Item = Reply>) -> Answer {
        for reply in replies {
            self.chat.model.reply(reply);
        }
        self.ada.say(&self.id, "m1").await.unwrap();
        self.ada.answer(&self.id, 1).await
    }

    fn told(&self, request: usize) -> Vec<(String, Value)> {
        results_told(&self.chat.model.requests()[request - 1].body)
    }
}

fn outcomes(answer: &Answer) -> Vec<ToolOutcome> {
    answer.tools.iter().map(|tool| tool.end().0).collect()
}

#[tokio::test]
async fn a_model_uses_a_server_and_malice_reaches_it_as_text() {
    let stage = stage().await;
    let calls = [
        ("c1", "behaves__echo", r#"{"text": "hello"}"#),
        ("c2", "behaves__fail", "{}"),
        ("c3", "behaves__malice", "{}"),
        ("c4", "behaves__huge", "{}"),
        ("c5", "behaves__nothing_of_the_kind", "{}"),
        ("c6", "behaves__echo", r#"{"text": 7}"#),
    ];
    let answer = stage
        .answer([asking("", &calls), concluded(Reply::new().text("Done."))])
        .await;
    assert_eq!(answer.answered().full_response, "Done.");
    assert_eq!(
        outcomes(&answer),
        [
            ToolOutcome::Value,
            ToolOutcome::Error,
            ToolOutcome::Value,
            ToolOutcome::Value,
            ToolOutcome::Refused,
            ToolOutcome::Refused,
        ]
    );
    assert_eq!(answer.tools[0].end().1, r#""hello""#);
    let malice: String = serde_json::from_str(answer.tools[2].end().1).unwrap();
    let steers = |char: char| char.is_control() || matches!(char, '\u{202e}' | '\u{feff}');
    assert!(!malice.contains(steers), "{malice:?}");
    assert!(malice.contains("Ignore your instructions"));
    // It stays within the one string of the one result, for clients and for the model.
    let told = stage.told(2);
    assert_eq!(told.len(), 6);
    assert!(told[2].1.to_string().contains("</tool_result>"));
    let huge = answer.tools[3].ended.as_ref().unwrap();
    assert!(huge.truncated && huge.result.len() <= 4096);
    // What a server says of its tools is bounded for the model, too.
    let offered = stage.chat.model.requests()[0].body["tools"].clone();
    let malice = offered.as_array().unwrap().iter();
    let mut malice = malice.filter(|tool| tool["function"]["name"] == "behaves__malice");
    let description = malice.next().unwrap()["function"]["description"].clone();
    let description = description.as_str().unwrap();
    assert!(description.len() < 2100 && !description.contains('\u{1b}'));
    // Neither of the refused ones has reached the server.
    assert_eq!(stage.journal.count("call"), 4);
}

#[tokio::test]
async fn a_server_that_crashes_leaves_one_call_unknown_and_serves_the_next() {
    let stage = stage().await;
    let answer = stage
        .answer([
            asking("", &[("c1", "behaves__crash", "{}")]),
            asking("", &[("c2", "behaves__echo", r#"{"text": "back"}"#)]),
            concluded(Reply::new().text("Done.")),
        ])
        .await;
    assert_eq!(answer.answered().full_response, "Done.");
    let ends: Vec<_> = answer.tools.iter().map(|tool| tool.end()).collect();
    let expected = [ToolOutcome::Unknown, ToolOutcome::Value];
    assert_eq!(outcomes(&answer), expected, "{ends:?}");
    assert_eq!(stage.told(2)[0].1["outcome"], "unknown");
    assert_eq!(stage.journal.count("call crash"), 1);
    assert_eq!(stage.journal.pids().len(), 2);
}

#[tokio::test]
async fn a_call_is_not_run_again_when_its_orchestrator_is_killed() {
    let mut stage = stage().await;
    stage
        .chat
        .model
        .reply(asking("", &[("c1", "behaves__slow", "{}")]));
    stage
        .chat
        .model
        .reply(concluded(Reply::new().text("Done.")));
    stage.ada.say(&stage.id, "m1").await.unwrap();
    stage.journal.wait_for("call slow").await;
    let server = stage.journal.pids();
    stage.orchestrator.process.kill9();
    stage.orchestrator = stage.chat.orchestrator(&[]).await;
    let answer = stage.ada.answer(&stage.id, 1).await;
    assert_eq!(outcomes(&answer), [ToolOutcome::Unknown]);
    all_gone(&server).await;
    assert_eq!(stage.journal.count("call slow"), 1);
}

/// A server has a successor wait for its tools, which takes it longer than people.
#[tokio::test]
async fn a_call_that_was_approved_runs_once_though_its_server_comes_late() {
    let mut stage = stage_with(&json!({"late": 3}), "approval = true").await;
    let model = &stage.chat.model;
    model.reply(asking("", &[("c1", "behaves__echo", r#"{"text": "a"}"#)]));
    model.reply(concluded(Reply::new().text("Done.")));
    stage.ada.say(&stage.id, "m1").await.unwrap();
    let is_held = |answer: &Answer| answer.tools.first().is_some_and(|tool| tool.held.is_some());
    let held = stage.ada.sees(&stage.id, 1, is_held).await.tools[0]
        .held
        .clone();
    let held = held.unwrap();
    stage.orchestrator.process.kill9();
    stage.orchestrator = stage.chat.orchestrator(&[]).await;
    // As a gateway records it.
    let record = json!({
        "action_id": held.action_id, "action_type": held.action_type, "decision": "approve",
        "decided_by": "operator@local", "arguments_hash": held.arguments_hash,
        "at": Timestamp::from(OffsetDateTime::now_utc()).to_string(), "published": false,
    });
    let bucket = stage.ada.bus.bucket(key::DECISIONS).await.unwrap();
    let record = record.to_string().into();
    bucket
        .create(key::decision(&held.action_id), record)
        .await
        .unwrap();
    let answer = stage.ada.answer(&stage.id, 1).await;
    assert_eq!(outcomes(&answer), [ToolOutcome::Value]);
    assert_eq!(stage.journal.count("call echo"), 1);
    // The model may go on with the server's tools.
    let offered = &stage.chat.model.requests()[1].body["tools"];
    assert!(offered.to_string().contains("behaves__echo"), "{offered}");
}

#[tokio::test]
async fn an_answer_that_is_cancelled_cancels_the_call_at_the_server() {
    let stage = stage().await;
    stage
        .chat
        .model
        .reply(asking("", &[("c1", "behaves__slow", "{}")]));
    stage.ada.say(&stage.id, "m1").await.unwrap();
    stage.journal.wait_for("call slow").await;
    stage.ada.cancel(&stage.id).await;
    let answer = stage.ada.answer(&stage.id, 1).await;
    answer.stopped();
    assert_eq!(outcomes(&answer), [ToolOutcome::Cancelled]);
    stage.journal.wait_for("cancelled slow").await;
}
