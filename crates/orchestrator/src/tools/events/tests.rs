//! The tools against events on a real bus, read as the orchestrator's user.

use serde_json::json;
use signalbox_bus::BusOptions;
use signalbox_bus::assignment::Stop;
use signalbox_bus::server::User;
use signalbox_bus::stored_event::{self, Origin};
use signalbox_bus::stream::{self, StreamSettings};
use signalbox_protocol::Epoch;
use signalbox_protocol::catalogue;
use signalbox_protocol::event::{self, Priority};
use signalbox_protocol::timestamp::Timestamp;
use signalbox_protocol::trace::TraceParent;
use signalbox_testkit::{DEADLINE, NatsServer};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::arguments::Period;
use super::walk::{Bounds, Keep};
use super::*;
use crate::tools::config;

/// The channels of someone who may read threats.
const THREATS: &[&str] = &["threat_alerts", "investigation_progress", "system_metrics"];

struct Log {
    server: NatsServer,
    admin: Bus,
    bus: Bus,
    stored: u64,
}

async fn connect(server: &NatsServer, user: User) -> Bus {
    let options = BusOptions {
        url: server.url(user),
        wait: DEADLINE,
    };
    Bus::connect(&options, "test").await.unwrap()
}

impl Log {
    async fn start() -> Self {
        let server = NatsServer::start().await;
        let admin = connect(&server, User::Admin).await;
        let settings = StreamSettings::default();
        stream::init(&admin, &settings).await.unwrap();
        let bus = connect(&server, User::Orchestrator).await;
        Self {
            server,
            admin,
            bus,
            stored: 0,
        }
    }

    /// Stores an event as the router does; `second` is its time on one day.
    async fn store(&mut self, name: &str, id: &str, second: u32, data: Value) {
        self.stored += 1;
        let (domain, name) = name.split_once('.').unwrap();
        let kind = catalogue::find(domain.parse().unwrap(), name).unwrap();
        kind.check(data.as_object().unwrap()).unwrap();
        let event = event::Event {
            kind,
            id: id.to_owned(),
            source: "test".to_owned(),
            time: time(second),
            priority: Priority::Low,
            data: data.as_object().unwrap().clone(),
        };
        let origin = Origin {
            epoch: Epoch::from_unix_micros(10),
            sequence: self.stored,
            trace: TraceParent::new(1, 2, false).unwrap().into(),
        };
        let message = stored_event::encode(event, &origin).unwrap();
        let jetstream = self.admin.jetstream();
        let stored =
            jetstream.publish_with_headers(message.subject, message.headers, message.payload);
        stored.await.unwrap().await.unwrap();
    }

    async fn alert(&mut self, id: &str, second: u32, incident: &str, source: &str, host: &str) {
        let data = json!({
            "incident_id": incident, "threat_type": "port_scanning", "severity": "HIGH",
            "source_ip": source, "affected_resources": [host, "vpc-1"],
            "ai_summary": format!("Scan of {host}"),
        });
        self.store("threat.threat_alert", id, second, data).await;
    }

    async fn call(&self, name: &str, channels: &[&str], arguments: Value) -> Outcome {
        self.call_for(name, channels, arguments, 16 * 1024).await
    }

    async fn call_for(
        &self,
        name: &str,
        channels: &[&str],
        arguments: Value,
        result_bytes: usize,
    ) -> Outcome {
        let mut definition = Definition::of(config::built_in(name).unwrap());
        definition.limits.result_bytes = result_bytes;
        let problems = definition.schema.problems(&arguments);
        assert_eq!(problems, [""; 0], "{arguments}");
        let supplies = Supplies {
            bus: self.bus.clone(),
        };
        let runner = (definition.built_in.unwrap().runner)(&definition, &supplies);
        let (note, _) = mpsc::channel(1);
        let call = Call {
            user_id: "ada".to_owned(),
            session_id: "chat-1".to_owned(),
            answer: 1,
            number: 1,
            name: name.to_owned(),
            arguments,
            channels: channels.iter().map(|&name| name.to_owned()).collect(),
            permissions: Vec::new(),
            deadline: Instant::now() + DEADLINE,
            cancel: Stop::default(),
            note,
            trace: None,
        };
        runner.run(call).await
    }

    async fn value(&self, name: &str, arguments: Value) -> Value {
        match self.call(name, THREATS, arguments).await {
            Outcome::Value(value) => value,
            other => panic!("{other:?}"),
        }
    }

    async fn found(&self, arguments: Value) -> Vec<String> {
        ids(&self.value("search_events", arguments).await["events"])
    }
}

fn time(second: u32) -> Timestamp {
    let (minute, second) = (second / 60, second % 60);
    Timestamp::parse(&format!("2026-03-02T09:{minute:02}:{second:02}Z")).unwrap()
}

fn ids(entries: &Value) -> Vec<String> {
    let id = |entry: &Value| entry["event_id"].as_str().unwrap().to_owned();
    entries.as_array().unwrap().iter().map(id).collect()
}

#[tokio::test]
async fn filters_add_up_and_order_and_limit_choose() {
    let mut log = Log::start().await;
    log.alert("a1", 1, "t-1", "10.0.0.7", "i-a").await;
    log.alert("a2", 2, "t-2", "10.0.0.8", "I-B").await;
    let low = json!({"incident_id": "t-3", "threat_type": "malware", "severity": "low",
        "ai_summary": "Trojaner auf Büro-PC 17"});
    log.store("threat.threat_alert", "a3", 3, low).await;
    let update = json!({"investigation_id": "inv-1", "progress": 10, "status": "RUNNING",
        "current_activity": "scan of logs"});
    log.store("threat.investigation_update", "u1", 4, update)
        .await;
    let cases = [
        (json!({}), vec!["u1", "a3", "a2", "a1"]),
        (json!({"order": "oldest"}), vec!["a1", "a2", "a3", "u1"]),
        (json!({"limit": 2}), vec!["u1", "a3"]),
        (json!({"limit": 2, "order": "oldest"}), vec!["a1", "a2"]),
        (json!({"text": "SCAN of"}), vec!["u1", "a2", "a1"]),
        (json!({"text": "büro 17"}), vec!["a3"]),
        // Names of fields are no words of an event.
        (json!({"text": "severity"}), vec![]),
        (
            json!({"event_types": ["threat_alert"], "text": "scan"}),
            vec!["a2", "a1"],
        ),
        (
            json!({"event_types": ["threat.investigation_update"]}),
            vec!["u1"],
        ),
        (json!({"severity": ["LOW", "CRITICAL"]}), vec!["a3"]),
        (json!({"source_ip": "10.0.0.7"}), vec!["a1"]),
        (json!({"resource": "i-b"}), vec!["a2"]),
        (
            json!({"resource": "vpc-1", "incident_id": "t-1"}),
            vec!["a1"],
        ),
        (json!({"resource": "i-a", "source_ip": "10.0.0.8"}), vec![]),
        (json!({"incident_id": "inv-1"}), vec!["u1"]),
        (
            json!({"since": "2026-03-02T09:00:02Z", "until": "2026-03-02T10:00:03+01:00"}),
            vec!["a3", "a2"],
        ),
    ];
    for (arguments, expected) in cases {
        assert_eq!(log.found(arguments.clone()).await, expected, "{arguments}");
    }
    let all = log.value("search_events", json!({"limit": 3})).await;
    assert_eq!(
        (&all["more"], &all["complete"]),
        (&json!(true), &json!(false))
    );
    let all = log.value("search_events", json!({"limit": 4})).await;
    assert_eq!(
        (&all["more"], &all["complete"]),
        (&json!(false), &json!(true))
    );
    assert!(all["searched_back_to"].is_string(), "{all}");
    let alert = &all["events"][3];
    let line = "HIGH port_scanning from 10.0.0.7 on i-a, vpc-1: Scan of i-a";
    assert_eq!(alert["line"], line);
    assert_eq!(alert["type"], "threat.threat_alert");
    assert_eq!(alert["data"]["severity"], "HIGH");
}

#[tokio::test]
async fn nobody_is_shown_what_it_may_not_read_or_what_is_anothers() {
    let mut log = Log::start().await;
    log.alert("a1", 1, "t-1", "10.0.0.7", "i-a").await;
    let attack = json!({"attack_type": "ddos", "source_ip": "10.0.0.7", "severity": "HIGH"});
    log.store("security.intrusion_detected", "s1", 2, attack)
        .await;
    let told = json!({"userId": "bob", "notification": {"title": "10.0.0.7"}});
    log.store("pipeline.user_notification", "n1", 3, told).await;
    assert_eq!(log.found(json!({})).await, ["a1"]);
    let asked = json!({"event_types": ["security.intrusion_detected", "threat.threat_alert"]});
    let value = log.value("search_events", asked).await;
    assert_eq!(ids(&value["events"]), ["a1"]);
    assert_eq!(
        value["not_readable"],
        json!(["security.intrusion_detected"])
    );
    assert_eq!(value["channels"], json!(["threat_alerts"]));
    let asked = json!({"event_types": ["security.intrusion_detected"]});
    let value = log.value("search_events", asked).await;
    assert_eq!(ids(&value["events"]), [""; 0]);
    // Both channels, and still nothing that is addressed to one person.
    let both = ["security_events", "pipeline_user_notifications"];
    let outcome = log.call("search_events", &both, json!({"text": "10.0.0.7"}));
    let Outcome::Value(value) = outcome.await else {
        panic!("no value");
    };
    assert_eq!(ids(&value["events"]), ["s1"]);
    for (tool, arguments) in [
        ("event_timeline", json!({"source_ip": "10.0.0.7"})),
        ("related_incidents", json!({"incident_id": "t-1"})),
    ] {
        let value = log.value(tool, arguments).await;
        assert!(!value.to_string().contains("s1"), "{value}");
    }
    for channels in [&[][..], &["agent_chat"], &["unheard_of"]] {
        let outcome = log.call("search_events", channels, json!({})).await;
        let words = "the user who asks may read no events";
        assert_eq!(outcome, Outcome::Error(words.to_owned()));
    }
}

#[tokio::test]
async fn a_timeline_is_in_the_order_in_which_things_happened() {
    let mut log = Log::start().await;
    log.alert("late", 30, "t-1", "10.0.0.7", "i-a").await;
    // Stored later, and earlier all the same.
    log.alert("early", 10, "t-1", "10.0.0.9", "i-b").await;
    log.alert("other", 20, "t-2", "10.0.0.8", "i-a").await;
    log.alert("none", 25, "t-3", "10.0.0.6", "i-c").await;
    let about = async |arguments: Value| {
        let value = log.value("event_timeline", arguments).await;
        assert_eq!(value["entries"][0]["data"], Value::Null);
        ids(&value["entries"])
    };
    assert_eq!(
        about(json!({"incident_id": "t-1"})).await,
        ["early", "late"]
    );
    let either = json!({"incident_id": "t-1", "resource": "i-a"});
    assert_eq!(about(either).await, ["early", "other", "late"]);
    let one = json!({"resource": "i-a", "limit": 1});
    assert_eq!(about(one).await, ["late"]);
    let nothing = log.call("event_timeline", THREATS, json!({})).await;
    let words = "expected incident_id, resource or source_ip";
    assert_eq!(nothing, Outcome::Error(words.to_owned()));
}

#[tokio::test]
async fn incidents_are_related_by_what_they_share_and_events_show_it() {
    let mut log = Log::start().await;
    log.alert("a1", 1, "t-1", "10.0.0.7", "i-a").await;
    log.alert("a2", 2, "t-1", "10.0.0.7", "i-b").await;
    log.alert("b1", 3, "t-2", "10.0.0.7", "i-x").await;
    log.alert("c1", 4, "t-3", "10.0.0.5", "i-y").await;
    log.alert("d1", 5, "t-4", "10.0.0.7", "i-b").await;
    let of_user = |incident: &str| {
        json!({"incident_id": incident, "threat_type": "login", "severity": "LOW",
            "username": "mallory"})
    };
    log.store("threat.threat_alert", "a3", 6, of_user("t-1"))
        .await;
    log.store("threat.threat_alert", "e1", 7, of_user("t-5"))
        .await;
    let asked = json!({"incident_id": "t-1"});
    let value = log.value("related_incidents", asked).await;
    assert_eq!(value["event_ids"], json!(["a3", "a2", "a1"]));
    let related = value["related"].as_array().unwrap();
    let named: Vec<_> = related.iter().map(|one| &one["incident_id"]).collect();
    // Most in common first, then the latest; a network is nothing in common.
    assert_eq!(named, ["t-4", "t-5", "t-2"]);
    let shared = json!([
        {"kind": "address", "name": "10.0.0.7", "event_ids": ["d1"], "own_event_ids": ["a2", "a1"]},
        {"kind": "host", "name": "i-b", "event_ids": ["d1"], "own_event_ids": ["a2"]},
    ]);
    assert_eq!(related[0]["shared"], shared);
    assert_eq!(related[1]["shared"][0]["kind"], "user");
    assert_eq!(related[1]["severity"], "LOW");
    let asked = json!({"incident_id": "t-1", "limit": 1});
    let value = log.value("related_incidents", asked).await;
    assert_eq!(value["related"].as_array().unwrap().len(), 1);
    assert_eq!(value["more"], true);
    let asked = json!({"incident_id": "t-9"});
    let value = log.value("related_incidents", asked).await;
    assert_eq!(
        (&value["event_ids"], &value["related"]),
        (&json!([]), &json!([]))
    );
}

#[tokio::test]
async fn a_result_is_as_long_as_it_may_be_and_says_that_there_is_more() {
    let mut log = Log::start().await;
    for number in 0..60 {
        let host = format!("i-{}", "x".repeat(100));
        let incident = format!("t-{number}");
        log.alert(&format!("a{number}"), number, &incident, "10.0.0.7", &host)
            .await;
    }
    for (tool, arguments, list) in [
        ("search_events", json!({"limit": 50}), "events"),
        (
            "event_timeline",
            json!({"source_ip": "10.0.0.7", "limit": 60}),
            "entries",
        ),
        (
            "related_incidents",
            json!({"incident_id": "t-1", "limit": 20}),
            "related",
        ),
    ] {
        for most in [256, 2_048, 4_096] {
            let outcome = log.call_for(tool, THREATS, arguments.clone(), most).await;
            let Outcome::Value(value) = outcome else {
                panic!("no value");
            };
            let bytes = value.to_string().len();
            assert!(bytes <= most, "{tool}: {bytes} of {most}: {value}");
            assert_eq!(value["more"], true, "{tool}");
            let shown = value[list].as_array().unwrap().len();
            assert!(most < 2_048 || shown > 1, "{tool}: {value}");
        }
    }
}

/// Windows that grow and shrink lose nothing and double nothing, and what is rare
/// is found behind what is common.
#[tokio::test]
async fn everything_is_walked_through_once() {
    let mut log = Log::start().await;
    for number in 0..2_600 {
        if number % 500 == 0 {
            let id = format!("a{number}");
            log.alert(&id, number / 60, "t-1", "10.0.0.7", "i-a").await;
        }
        log.store(
            "threat.metrics_update",
            &format!("m{number}"),
            1,
            json!({"n": number}),
        )
        .await;
    }
    let walk = || {
        let channels = vec![Channel::SystemMetrics, Channel::ThreatAlerts];
        Walk::new(&log.bus, channels, Instant::now() + DEADLINE)
    };
    let all = Keep::Newest(usize::MAX);
    let mut seen = Vec::new();
    let look = walk().back(Period::default(), all, |found| {
        seen.push(found.event.seq);
        None::<()>
    });
    let (_, looked) = look.await.unwrap();
    assert!(looked.complete);
    seen.sort_unstable();
    assert_eq!(seen, (1..=log.stored).collect::<Vec<_>>());
    assert_eq!(
        log.found(json!({"text": "port_scanning"})).await,
        ["a2500", "a2000", "a1500", "a1000", "a500", "a0"]
    );
    // A bound ends it early; how far it came is said, and the rare are found by
    // then, since each channel has its share.
    let bounds = Bounds {
        events: 600,
        bytes: usize::MAX,
        time: DEADLINE,
    };
    let look = walk().within(bounds);
    let look = look.back(Period::default(), all, |found| Some(found.event.id));
    let (picked, looked) = look.await.unwrap();
    assert!(!looked.complete && looked.back_to.is_some());
    let ids: Vec<&str> = picked.iter().map(|one| one.item.as_str()).collect();
    assert!(ids.contains(&"m2599") && !ids.contains(&"m0"));
    assert!(ids.contains(&"a2500"));
    assert!(ids.len() < 2_000, "{}", ids.len());
    let bounds = Bounds {
        events: usize::MAX,
        bytes: usize::MAX,
        time: Duration::ZERO,
    };
    let look = walk().within(bounds);
    let look = look.back(Period::default(), all, |found| Some(found.event.id));
    let (picked, looked) = look.await.unwrap();
    assert!(!looked.complete, "{looked:?}");
    assert!(picked.len() < 2_600);
}

#[tokio::test]
async fn an_empty_log_and_a_bus_that_says_nothing_are_told() {
    let log = Log::start().await;
    let value = log.value("search_events", json!({})).await;
    assert_eq!(value["complete"], true);
    assert_eq!(value["searched_back_to"], Value::Null);
    let unknown = json!({"event_types": ["nope"]});
    let Outcome::Error(sentence) = log.call("search_events", THREATS, unknown).await else {
        panic!("no error");
    };
    assert!(sentence.starts_with("there is no event type nope"));
    for (arguments, words) in [
        (json!({"since": "yesterday"}), "since: expected an RFC 3339"),
        (
            json!({"since": "2026-03-02T09:00:01Z", "until": "2026-03-02T09:00:00Z"}),
            "since lies behind until",
        ),
    ] {
        let Outcome::Error(sentence) = log.call("search_events", THREATS, arguments).await else {
            panic!("no error");
        };
        assert!(sentence.starts_with(words), "{sentence}");
    }
    log.server.sigstop();
    let outcome = log.call("search_events", THREATS, json!({})).await;
    let words = "the event log cannot be read now";
    assert_eq!(outcome, Outcome::Error(words.to_owned()));
}
