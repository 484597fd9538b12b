//! Tools of this platform, asked for by a model whose words are scripted: those over
//! the event log, with events that went the whole way, and those of programs on the
//! bus, among them the documentation's example as it stands (T10). What a user may
//! not read stays unread, and a responder that answers anything but what it should
//! ends nothing but its call.

use std::path::PathBuf;
use std::process::Command;

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use signalbox_bus::server::User;
use signalbox_bus::stream::{self, TOPICS};
use signalbox_identity::{Permission, Permissions, UserId};
use signalbox_testkit::{
    DEADLINE, FakeModel, Platform, Process, Reply, Service, eventually, orchestrator,
};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::chat_client::{Chatter, token_of};
use crate::chat_world::handed_over;
use crate::events::send;
use crate::tools_world::{asking, results_told, table};

/// The example of the documentation, and its table.
fn example(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .join("docs/examples")
        .join(name)
}

/// A platform with an agent that has these tools.
struct Stage {
    platform: Platform,
    model: FakeModel,
    _orchestrator: Service,
    _dir: TempDir,
}

impl Stage {
    async fn start(tools: &[&str], tables: &str) -> Self {
        let platform = Platform::start(1).await;
        let model = FakeModel::start().await;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agents.toml");
        let text = format!(
            "[providers.scripted]\nkind = 'openai'\nbase_url = '{}'\n\n\
             [agents.investigation_agent]\nprovider = 'scripted'\nmodel = 'example-model'\n\
             events = 0\nanalysis_by = 'fence'\nanalysis_schema = '{{\"type\": \"object\"}}'\n\
             tools = {tools:?}\n{tables}",
            model.openai_url()
        );
        std::fs::write(&path, text).unwrap();
        let arguments = ["--agents", path.to_str().unwrap()];
        let orchestrator = orchestrator(&platform.nats, &arguments).await;
        Self {
            platform,
            model,
            _orchestrator: orchestrator,
            _dir: dir,
        }
    }

    /// Has events stored, all the way from a producer.
    async fn publish(&self, events: &[(&str, &str, Value)]) {
        let producer = self.platform.bus(User::Producer).await;
        for (name, id, data) in events {
            send(&producer, name, id, data).await;
        }
        let admin = self.platform.bus(User::Admin).await;
        eventually("events in TOPICS", DEADLINE, async || {
            let state = stream::state(&admin, TOPICS).await.unwrap();
            (state.last >= events.len() as u64).then_some(())
        })
        .await;
    }

    /// Has the model ask for tools and then conclude.
    fn script(&self, calls: &[(&str, &str, &str)]) {
        self.model.reply(asking("Looking. ", calls));
        let conclusion = Reply::new().text("Done.").text(&handed_over());
        self.model.reply(conclusion.usage(400, 50).end());
    }

    /// Says something to the agent; gives what the client saw until the answer's end.
    async fn ask(&self, token: &str) -> Vec<Value> {
        let mut client = Chatter::connect(&self.platform.gateways[0], token).await;
        let session = client.start("investigation_agent").await;
        client.say(&session, "What happened?").await;
        let mut frames = Vec::new();
        loop {
            let frame = client.next().await;
            let ended = client.heard.of(&session, 1).end.is_some();
            frames.push(frame);
            if ended {
                return frames;
            }
        }
    }

    /// What the model was told of its calls, last.
    fn told(&self) -> Vec<Value> {
        let requests = self.model.requests();
        let told = results_told(&requests.last().unwrap().body);
        told.into_iter().map(|(_, value)| value).collect()
    }
}

fn alert(incident: &str, source: &str, host: &str) -> Value {
    json!({"incident_id": incident, "threat_type": "port_scanning", "severity": "HIGH",
        "source_ip": source, "affected_resources": [host]})
}

/// The frames of a kind, by the number of their call.
fn frames<'f>(all: &'f [Value], kind: &str) -> Vec<&'f Value> {
    let mut found: Vec<&Value> = all.iter().filter(|frame| frame["type"] == kind).collect();
    found.sort_by_key(|frame| frame["tool_call"].as_u64());
    found
}

fn ids(entries: &Value) -> Vec<&str> {
    let entries = entries.as_array().unwrap().iter();
    entries
        .map(|entry| entry["event_id"].as_str().unwrap())
        .collect()
}

/// T10: an agent looks events up, puts them in order, relates incidents and asks a
/// program in Python about a host; the client sees each call and its result, and the
/// model gets them all.
#[tokio::test]
async fn an_agent_looks_things_up_and_asks_the_documented_example() {
    let tables = std::fs::read_to_string(example("lookup_host.toml")).unwrap();
    let tools = [
        "search_events",
        "event_timeline",
        "related_incidents",
        "lookup_host",
    ];
    let stage = Stage::start(&tools, &tables).await;
    let mut python = Command::new("python3");
    let libraries = example("../../.tools/python");
    assert!(libraries.is_dir(), "run: scripts/deps --test");
    python
        .env("PYTHONPATH", libraries)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("NATS_URL", stage.platform.nats.url(User::Responder))
        .arg(example("lookup_host.py"));
    let python = Process::spawn(python);
    python
        .wait_for_line("answering tools.lookup_host", DEADLINE)
        .await;
    stage
        .publish(&[
            ("threat_alert", "e1", alert("t-1", "10.0.0.7", "web-1")),
            ("threat_alert", "e2", alert("t-2", "10.0.0.7", "build-7")),
            ("threat_alert", "e3", alert("t-3", "10.0.0.9", "db-2")),
        ])
        .await;
    stage.script(&[
        (
            "c1",
            "search_events",
            r#"{"severity": ["high"], "limit": 2}"#,
        ),
        ("c2", "event_timeline", r#"{"source_ip": "10.0.0.7"}"#),
        ("c3", "related_incidents", r#"{"incident_id": "t-1"}"#),
        ("c4", "lookup_host", r#"{"host": "web-1"}"#),
        ("c5", "lookup_host", r#"{"host": "mail-1"}"#),
    ]);
    let seen = stage.ask(&token_of(&stage.platform, "ada")).await;
    let executions = frames(&seen, "agent_tool_execution");
    let names: Vec<&Value> = executions.iter().map(|frame| &frame["tool_name"]).collect();
    let expected = [
        "search_events",
        "event_timeline",
        "related_incidents",
        "lookup_host",
        "lookup_host",
    ];
    assert_eq!(names, expected);
    assert_eq!(executions[3]["parameters"], json!({"host": "web-1"}));
    let results = frames(&seen, "agent_tool_result");
    let outcomes: Vec<&Value> = results.iter().map(|frame| &frame["outcome"]).collect();
    assert_eq!(
        outcomes,
        ["value", "value", "value", "value", "error"],
        "{seen:?}"
    );
    let told = stage.told();
    for (result, told) in results.iter().zip(&told).take(4) {
        assert_eq!(result["results"], *told);
    }
    assert_eq!(ids(&told[0]["events"]), ["e3", "e2"]);
    assert_eq!(
        (&told[0]["more"], &told[0]["complete"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(ids(&told[1]["entries"]), ["e1", "e2"]);
    assert_eq!(told[1]["complete"], true);
    let related = &told[2]["related"][0];
    assert_eq!(related["incident_id"], "t-2");
    assert_eq!(related["shared"][0]["event_ids"], json!(["e2"]));
    assert_eq!(related["shared"][0]["own_event_ids"], json!(["e1"]));
    let host =
        json!({"host": "web-1", "owner": "shop team", "role": "web server", "critical": true});
    assert_eq!(told[3], host);
    assert!(
        told[4].to_string().contains("there is no host mail-1"),
        "{}",
        told[4]
    );
    assert_eq!(results[4]["status"], "FAILED");
    python.sigterm();
    assert!(python.wait(DEADLINE).await.success());
    // Without it the next call fails at once, and the answer goes on.
    stage.script(&[("c1", "lookup_host", r#"{"host": "web-1"}"#)]);
    let seen = stage.ask(&token_of(&stage.platform, "ada")).await;
    let results = frames(&seen, "agent_tool_result");
    assert_eq!(results[0]["outcome"], "error");
    let words = "no responder of this tool is connected now";
    assert!(results[0].to_string().contains(words), "{}", results[0]);
    assert_eq!(seen.last().unwrap()["type"], "agent_response_complete");
}

/// G4: a user who may chat and may not read threats is shown none, by no tool, and is
/// not offered what it lacks the permission for.
#[tokio::test]
async fn what_a_user_may_not_read_no_tool_tells() {
    let tables = std::fs::read_to_string(example("lookup_host.toml")).unwrap();
    let tools = [
        "search_events",
        "event_timeline",
        "related_incidents",
        "lookup_host",
    ];
    let stage = Stage::start(&tools, &tables).await;
    let secret = alert("t-1", "10.66.0.7", "web-1");
    stage.publish(&[("threat_alert", "secret-1", secret)]).await;
    let mut claims = stage.platform.claims("analyst");
    claims.sub = UserId::new("eve").unwrap();
    let permitted = [Permission::ChatAgents, Permission::ReadNetwork];
    claims.permissions = Some(permitted.into_iter().collect::<Permissions>());
    let token = stage.platform.signing_key().sign(&claims).unwrap();
    stage.script(&[
        ("c1", "search_events", "{}"),
        (
            "c2",
            "search_events",
            r#"{"event_types": ["threat_alert"]}"#,
        ),
        ("c3", "event_timeline", r#"{"source_ip": "10.66.0.7"}"#),
        ("c4", "related_incidents", r#"{"incident_id": "t-1"}"#),
        ("c5", "lookup_host", r#"{"host": "web-1"}"#),
    ]);
    let seen = stage.ask(token.expose()).await;
    let shown = format!("{seen:?}");
    assert!(!shown.contains("secret-1"), "{shown}");
    let requests = stage.model.requests();
    let asked = requests.last().unwrap().body.to_string();
    assert!(!asked.contains("secret-1"), "{asked}");
    assert!(
        !requests[0].body["tools"]
            .to_string()
            .contains("lookup_host")
    );
    let results = frames(&seen, "agent_tool_result");
    assert_eq!(
        results[1]["results"]["not_readable"],
        json!(["threat.threat_alert"])
    );
    assert_eq!(results[4]["outcome"], "refused", "{}", results[4]);
    // Somebody else is shown it.
    stage.script(&[("c1", "search_events", "{}")]);
    let seen = stage.ask(&token_of(&stage.platform, "ada")).await;
    assert!(format!("{seen:?}").contains("secret-1"));
}

/// Whatever a responder does, its call has an outcome that says what is known, and the
/// answer goes on.
#[tokio::test]
async fn a_responder_that_misbehaves_ends_nothing_but_its_call() {
    let names = ["empty", "garbage", "huge", "slow", "long"];
    let tables = names.map(|name| match name {
        "slow" => table(name, "timeout = 0.5"),
        "long" => table(name, "result_bytes = 300"),
        _ => table(name, ""),
    });
    let stage = Stage::start(&names, &tables.concat()).await;
    let client = stage.platform.nats.connect(User::Responder).await;
    let mut calls = client.subscribe("tools.*").await.unwrap();
    let mut serving = JoinSet::new();
    let answering = client.clone();
    serving.spawn(async move {
        while let Some(call) = calls.next().await {
            let reply = match call.subject.as_str() {
                "tools.empty" => String::new(),
                "tools.garbage" => "\u{1b}[2J<html>".to_owned(),
                "tools.huge" => json!({"result": "x".repeat(2 * 1024 * 1024)}).to_string(),
                "tools.long" => json!({"result": {"said": "ü".repeat(1_000)}}).to_string(),
                _ => continue,
            };
            let to = call.reply.unwrap();
            answering.publish(to, reply.into()).await.unwrap();
        }
    });
    client.flush().await.unwrap();
    let asked: Vec<(&str, &str, &str)> = names.iter().map(|name| (*name, *name, "{}")).collect();
    stage.script(&asked);
    let seen = stage.ask(&token_of(&stage.platform, "ada")).await;
    let results = frames(&seen, "agent_tool_result");
    let expected = [
        ("error", "reply is empty; it may have done"),
        ("error", "reply is not JSON; it may have done"),
        (
            "error",
            "of which at most 524288 are read; it may have done",
        ),
        ("timed_out", "whether it acted is unknown"),
        ("value", "üü"),
    ];
    for (result, (outcome, words)) in results.iter().zip(expected) {
        assert_eq!(result["outcome"], outcome, "{result}");
        assert!(result["results"].to_string().contains(words), "{result}");
    }
    assert_eq!(results.len(), expected.len());
    assert_eq!(results[4]["truncated"], true, "{}", results[4]);
    assert_eq!(seen.last().unwrap()["type"], "agent_response_complete");
}
