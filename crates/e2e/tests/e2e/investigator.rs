//! A whole investigation without a model: alerts as the demo has them, a chat with
//! the investigation agent, its tools live, an analysis whose findings name what is
//! there, and its progress before the eyes of a second analyst. T4, T9, T10; and
//! what remains of all that when the orchestrator is killed again and again.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use signalbox_bus::server::User as BusUser;
use signalbox_testkit::{DEADLINE, FakeModel, Platform, Reply, Service, WsClient, orchestrator};
use tempfile::TempDir;

use crate::chat_client::{Chatter, token_of};
use crate::events::send;

const INCIDENT: &str = "threat-018-20261121";
const EARLIER: &str = "threat-011-20261121";
const INVESTIGATION: &str = "inv-018-20261121";
const SOURCE: &str = "203.0.113.9";
const HOST: &str = "i-00000001e6cad4a26";

/// Gateways, an orchestrator whose analyst writes slowly, and the alerts.
struct World {
    platform: Platform,
    orchestrator: Option<Service>,
    agents: String,
    /// The ids of what was planted.
    events: BTreeSet<String>,
    _directory: TempDir,
}

impl World {
    async fn start(agents: &str) -> Self {
        let platform = Platform::start(2).await;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agents.toml");
        std::fs::write(&path, agents).unwrap();
        let mut world = Self {
            platform,
            orchestrator: None,
            agents: path.to_str().unwrap().to_owned(),
            events: BTreeSet::new(),
            _directory: directory,
        };
        world.plant().await;
        world.start_orchestrator().await;
        world
    }

    async fn offline() -> Self {
        let agents = "[providers.slow]\nkind = \"offline\"\npace = 0.005\n\n\
                      [agents.investigation_agent]\nprovider = \"slow\"\n";
        Self::start(agents).await
    }

    async fn start_orchestrator(&mut self) {
        let arguments = ["--agents", self.agents.as_str()];
        let started = orchestrator(&self.platform.nats, &arguments).await;
        self.orchestrator = Some(started);
    }

    /// Kills the orchestrator and starts another.
    async fn kill(&mut self) {
        self.orchestrator.take().unwrap().process.kill9();
        self.start_orchestrator().await;
    }

    /// Publishes two incidents, and waits until they can be read.
    async fn plant(&mut self) {
        let mut viewer = self.viewer(0, "vera").await;
        viewer.subscribe(json!({"channel": "threat_alerts"})).await;
        viewer
            .subscribe(json!({"channel": "response_actions"}))
            .await;
        let bus = self.platform.bus(BusUser::Producer).await;
        let events = planted();
        for (name, id, data) in &events {
            send(&bus, name, id, data).await;
            self.events.insert(id.clone());
        }
        for _ in &events {
            viewer.next_json(DEADLINE).await;
        }
    }

    async fn viewer(&self, gateway: usize, user: &str) -> WsClient {
        let url = self.platform.gateways[gateway].threat_url();
        let mut viewer = WsClient::connect(&url, &[]).await;
        viewer.authenticate(&token_of(&self.platform, user)).await;
        viewer
    }

    /// A second analyst, on the other gateway, who follows the investigation.
    async fn follower(&self) -> WsClient {
        let mut bob = self.viewer(1, "bob").await;
        let what = json!({"channel": "investigation_progress", "investigation_id": INVESTIGATION});
        bob.subscribe(what).await;
        bob
    }

    /// An analyst who has begun a chat about the incident; and the chat.
    async fn investigator(&self) -> (Chatter, String) {
        let token = token_of(&self.platform, "ada");
        let mut ada = Chatter::connect(&self.platform.gateways[0], &token).await;
        let start = json!({"type": "start_chat", "agent_type": "investigation_agent",
            "context": {"incident_id": INCIDENT, "investigation_id": INVESTIGATION}});
        let started = ada.ask(start).await;
        assert_eq!(started["type"], "chat_session_started", "{started}");
        let session = started["session_id"].as_str().unwrap().to_owned();
        (ada, session)
    }
}

/// Two incidents as the demo has them, which share a host: name, id, data.
fn planted() -> Vec<(&'static str, String, Value)> {
    let alert = |incident: &str, kind: &str, severity: &str, source: &str, said: &str| {
        json!({"incident_id": incident, "threat_type": kind, "severity": severity,
            "confidence": 88, "source_ip": source, "affected_resources": [HOST, "vpc-0a1b2c3d"],
            "ai_summary": said, "recommended_actions": ["block_ip"]})
    };
    let action = json!({"action_id": "action-018-20261121", "incident_id": INCIDENT,
        "action_type": "block_ip", "target_resource": HOST, "status": "EXECUTING", "progress": 30});
    let mining = "keeps all cores busy and talks to a mining pool";
    let events = [
        (
            "threat_alert",
            alert(EARLIER, "crypto_mining", "MEDIUM", "203.0.113.77", mining),
        ),
        (
            "threat_alert",
            alert(
                INCIDENT,
                "brute_force",
                "MEDIUM",
                SOURCE,
                "412 failed SSH logins",
            ),
        ),
        (
            "threat_alert",
            alert(
                INCIDENT,
                "brute_force",
                "HIGH",
                SOURCE,
                "Login succeeded after 412 failures",
            ),
        ),
        (
            "threat_alert",
            alert(
                INCIDENT,
                "brute_force",
                "CRITICAL",
                SOURCE,
                "New privileged session minutes after",
            ),
        ),
        ("action_update", action),
    ];
    (1..)
        .zip(events)
        .map(|(number, (name, data))| (name, format!("planted-{number}"), data))
        .collect()
}

/// What was seen of calls: the name of each, and how it ended.
#[derive(Default)]
struct Calls(BTreeMap<u64, (String, Option<Value>)>);

impl Calls {
    /// Takes a frame in: a call begins once, then ends once.
    fn see(&mut self, frame: &Value) {
        let call = || frame["tool_call"].as_u64().unwrap();
        let name = || frame["tool_name"].as_str().unwrap().to_owned();
        match frame["type"].as_str().unwrap() {
            "agent_tool_execution" => {
                assert_eq!(frame["status"], "EXECUTING", "{frame}");
                let before = self.0.insert(call(), (name(), None));
                assert!(
                    before.is_none_or(|(_, end)| end.is_none()),
                    "again: {frame}"
                );
            }
            "agent_tool_result" => {
                let (begun, end) = self.0.get_mut(&call()).unwrap();
                assert_eq!((&*begun, end.is_none()), (&name(), true), "{frame}");
                *end = Some(frame.clone());
            }
            _ => {}
        }
    }

    fn ended(&self) -> usize {
        self.0.values().filter(|(_, end)| end.is_some()).count()
    }

    /// The calls that gave something.
    fn gave(&self) -> BTreeSet<u64> {
        let gave = |end: &Option<Value>| end.as_ref().is_some_and(|end| end["outcome"] == "value");
        let calls = self.0.iter().filter(|(_, (_, end))| gave(end));
        calls.map(|(call, _)| *call).collect()
    }
}

/// Everything that a finding cites is there.
fn assert_evidence(analysis: &Value, world: &World, calls: &Calls) {
    let findings = analysis["findings"].as_array().unwrap();
    assert!(findings.len() >= 5, "{analysis}");
    let gave = calls.gave();
    let mut kinds = BTreeSet::new();
    for finding in findings {
        let evidence = finding["evidence"].as_array().unwrap();
        assert!(!evidence.is_empty(), "{finding}");
        for one in evidence {
            if let Some(id) = one.get("event_id") {
                kinds.insert("event");
                assert!(world.events.contains(id.as_str().unwrap()), "{finding}");
            } else {
                kinds.insert("call");
                assert!(
                    gave.contains(&one["tool_call"].as_u64().unwrap()),
                    "{finding}"
                );
            }
        }
    }
    assert_eq!(kinds.len(), 2, "events and calls are cited: {analysis}");
    let cited = analysis["evidence"].as_array().unwrap();
    let is_there = |id: &Value| world.events.contains(id.as_str().unwrap());
    assert!(
        !cited.is_empty() && cited.iter().all(is_there),
        "{analysis}"
    );
}

/// The progress that a follower is told, up to its end: each event once, the figure
/// never back.
async fn progress(follower: &mut WsClient, session: &str) -> Vec<Value> {
    let (mut told, mut last): (Vec<Value>, u64) = (Vec::new(), 0);
    loop {
        let frame = follower.next_json(DEADLINE).await;
        if frame["type"] != "investigation_update" {
            continue;
        }
        assert_eq!(frame["investigation_id"], INVESTIGATION, "{frame}");
        let id = frame["id"].as_str().unwrap();
        let number = id.strip_prefix(&format!("{session}/1/")).unwrap();
        let number: u64 = number.parse().unwrap();
        assert!(number > last, "told twice: {frame}");
        last = number;
        let before = told
            .last()
            .map_or(0, |last| last["data"]["progress"].as_u64().unwrap());
        assert!(
            frame["data"]["progress"].as_u64().unwrap() >= before,
            "{frame}"
        );
        let is_over = frame["data"]["status"] == "COMPLETED";
        told.push(frame);
        if is_over {
            let begun = |one: &&Value| one["data"]["current_activity"] == "Reading what was asked";
            assert_eq!(told.iter().filter(begun).count(), 1, "{told:?}");
            return told;
        }
    }
}

/// Nothing more is told.
async fn hears_nothing(follower: &mut WsClient) {
    follower.send_json(&json!({"type": "ping"})).await;
    loop {
        let frame = follower.next_json(DEADLINE).await;
        assert_ne!(frame["type"], "investigation_update", "{frame}");
        if frame["type"] == "pong" {
            return;
        }
    }
}

#[tokio::test]
async fn an_investigation_goes_from_the_alert_to_findings_with_their_evidence() {
    let world = World::offline().await;
    let mut bob = world.follower().await;
    let (mut ada, session) = world.investigator().await;
    ada.say(&session, "What happened here, and what else is hit?")
        .await;
    let mut calls = Calls::default();
    let complete = loop {
        let frame = ada.next().await;
        calls.see(&frame);
        if ada.heard.of(&session, 1).end.is_some() {
            break frame;
        }
    };
    assert_eq!(complete["type"], "agent_response_complete", "{complete}");
    let names: Vec<&str> = calls.0.values().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names[..2], ["event_timeline", "related_incidents"]);
    assert!(
        names.len() > 3 && names[2..].contains(&"search_events"),
        "{names:?}"
    );
    assert_eq!(calls.ended(), names.len());
    assert_eq!(calls.gave().len(), names.len(), "all went well");
    assert_evidence(&complete["analysis"], &world, &calls);
    let report = complete["full_response"].as_str().unwrap();
    for part in [
        "CRITICAL: password guessing",
        "What happened, in order:",
        &format!("{EARLIER} (MEDIUM crypto_mining) shares {HOST} with it [call 2"),
        "What is not known:",
        "What to do",
    ] {
        assert!(report.contains(part), "{part}\n{report}");
    }
    let told = progress(&mut bob, &session).await;
    assert_eq!(told.len(), 2 + 2 * names.len(), "{told:?}");
    let end = &told.last().unwrap()["data"];
    assert_eq!(end["progress"], 100);
    assert_eq!(end["findings"], complete["analysis"]["findings"]);
    assert_eq!(end["findings_preview"].as_array().unwrap().len(), 5);
    assert_eq!(end["evidence_collected"], world.events.len());
    let tools: BTreeSet<&str> = names.into_iter().collect();
    let executed = end["tools_executed"].as_array().unwrap();
    let executed: BTreeSet<&str> = executed.iter().map(|name| name.as_str().unwrap()).collect();
    assert_eq!(executed, tools);
    hears_nothing(&mut bob).await;
}

/// Killed while it looks things up, between two rounds and while it writes its
/// report: each time another one goes on, and nobody can tell but by the clock.
#[tokio::test]
async fn an_investigation_survives_the_kill_of_its_orchestrator() {
    let mut world = World::offline().await;
    let mut bob = world.follower().await;
    let (mut ada, session) = world.investigator().await;
    ada.say(&session, "What happened here, and what else is hit?")
        .await;
    let mut calls = Calls::default();
    let mut kills = 0;
    let complete = loop {
        let frame = ada.next().await;
        calls.see(&frame);
        let heard = ada.heard.of(&session, 1);
        if heard.end.is_some() {
            break frame;
        }
        let is_time = match kills {
            0 => frame["type"] == "agent_tool_execution",
            1 => calls.ended() >= 2 && frame["type"] == "agent_response_chunk",
            2 => heard.text.contains("What connects it"),
            _ => false,
        };
        if is_time {
            kills += 1;
            world.kill().await;
        }
    };
    assert_eq!(kills, 3);
    assert_eq!(complete["type"], "agent_response_complete", "{complete}");
    assert_eq!(calls.ended(), calls.0.len());
    assert_evidence(&complete["analysis"], &world, &calls);
    let told = progress(&mut bob, &session).await;
    let end = &told.last().unwrap()["data"];
    assert_eq!(end["findings"], complete["analysis"]["findings"]);
    // A call that an orchestrator left behind may have no beginning or two; each
    // event of it was told once all the same.
    assert!(told.len() >= 2 + calls.0.len(), "{told:?}");
    hears_nothing(&mut bob).await;
}

/// What a model hands over.
fn handed_over(event_id: &str) -> String {
    let analysis = json!({
        "threat_classification":
            {"severity": "HIGH", "confidence": 80, "threat_type": "brute_force"},
        "risk_factors": ["a login succeeded"],
        "recommended_actions": ["rotate the credentials"],
        "findings": [{"statement": "A login succeeded.", "evidence": [{"event_id": event_id}]}],
        "evidence": [event_id],
    });
    format!("\n\n```analysis\n{analysis}\n```\n")
}

/// A model that cites what is not there is told so, once; then its answer fails.
#[tokio::test]
async fn a_model_that_cites_what_is_not_there_is_asked_once_more() {
    let model = FakeModel::start().await;
    let agents = format!(
        "[providers.scripted]\nkind = \"openai\"\nbase_url = \"{}\"\n\n\
         [agents.investigation_agent]\nprovider = \"scripted\"\nmodel = \"example-model\"\n\
         tools = []\n",
        model.openai_url()
    );
    let world = World::start(&agents).await;
    let (mut ada, session) = world.investigator().await;
    let reply = |text: &str, cited: &str| {
        let reply = Reply::new().text(text).text(&handed_over(cited));
        model.reply(reply.usage(400, 50).end());
    };
    reply("A login succeeded.", "planted-33");
    reply("", "planted-3");
    ada.say(&session, "What happened?").await;
    let complete = ada.hear_out(&session, 1).await;
    assert_eq!(complete["type"], "agent_response_complete", "{complete}");
    let findings = &complete["analysis"]["findings"];
    assert_eq!(findings[0]["evidence"], json!([{"event_id": "planted-3"}]));
    let repair = model.received(2).await.body.to_string();
    assert!(
        repair.contains("/findings/0/evidence/0/event_id"),
        "{repair}"
    );
    assert!(repair.contains("no event that you were given"), "{repair}");
    reply("A login succeeded.", "planted-33");
    reply("", "planted-34");
    ada.say(&session, "Really?").await;
    // Its text is complete by then, and the answer is not.
    let error = loop {
        let frame = ada.socket.next_json(DEADLINE).await;
        assert_ne!(frame["type"], "agent_response_complete", "{frame}");
        if frame["type"] == "agent_error" {
            break frame;
        }
    };
    assert_eq!(error["error"]["code"], "AGENT_UNAVAILABLE", "{error}");
    assert_eq!(error["partial_response"], "A login succeeded.", "{error}");
}
