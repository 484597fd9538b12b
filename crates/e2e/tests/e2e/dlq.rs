//! `signalbox dlq`: refused events are listed, shown and published again,
//! once each, as what they were.

use serde_json::{Value, json};
use signalbox_bus::publish::{Outgoing, publish};
use signalbox_bus::server::User;
use signalbox_bus::{Bus, HeaderMap, header};
use signalbox_protocol::envelope::{CE_ID, CE_SOURCE};
use signalbox_protocol::trace::TRACEPARENT;
use signalbox_testkit::{DEADLINE, Platform, Process, WsClient, eventually, signalbox};

use crate::events::{alert, send};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Runs `signalbox dlq` as the operator; gives exit code, output and errors.
pub(crate) async fn dlq(
    platform: &Platform,
    arguments: &[&str],
) -> (Option<i32>, Vec<String>, String) {
    let mut command = signalbox();
    command
        .arg("dlq")
        .args(arguments)
        .env("NATS_URL", platform.nats.url(User::Operator));
    let process = Process::spawn(command);
    let status = process.wait(DEADLINE).await;
    (
        status.code(),
        process.stdout().lines(),
        process.stderr().lines().join("\n"),
    )
}

/// The dead letters, once there are `count`, as `list --json` prints them.
pub(crate) async fn letters(platform: &Platform, count: usize) -> Vec<Value> {
    eventually("dead letters", DEADLINE, async || {
        let (code, lines, stderr) = dlq(platform, &["list", "--json"]).await;
        assert_eq!(code, Some(0), "{stderr}");
        (lines.len() == count).then(|| {
            lines
                .iter()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect()
        })
    })
    .await
}

/// Puts an event that any router would take on DLQ.
async fn misjudge(bus: &Bus, id: &str) -> u64 {
    let mut headers = HeaderMap::new();
    headers.insert(CE_ID, id);
    headers.insert(CE_SOURCE, "sensor");
    headers.insert(TRACEPARENT, TRACE);
    headers.insert(header::ORIGIN, "events.threat.threat_alert");
    headers.insert(header::REASON, "a mistake");
    let message = Outgoing {
        subject: "dlq.threat.threat_alert".into(),
        message_id: id.into(),
        headers,
        payload: alert("HIGH").to_string().into(),
    };
    publish(bus, &message, DEADLINE).await.unwrap().sequence
}

async fn subscriber(platform: &Platform) -> WsClient {
    let mut client = WsClient::connect(&platform.gateways[0].threat_url(), &[]).await;
    client.authenticate(&platform.api_key("viewer")).await;
    client.subscribe(json!({"channel": "threat_alerts"})).await;
    client
}

#[tokio::test]
async fn a_refused_event_is_listed_and_shown() {
    let platform = Platform::start(0).await;
    let producer = platform.bus(User::Producer).await;
    send(
        &producer,
        "threat_alert",
        "bad",
        &json!({"incident_id": "t", "threat_type": 7, "severity": "HIGH"}),
    )
    .await;
    letters(&platform, 1).await;
    send(&producer, "nope", "unknown", &json!({})).await;
    let listed = letters(&platform, 2).await;
    assert_eq!(listed[0]["sequence"], 1);
    assert_eq!(listed[0]["subject"], "events.threat.threat_alert");
    assert_eq!(listed[0]["id"], "bad");
    assert_eq!(
        listed[0]["reason"],
        "field `threat_type`: expected a string"
    );
    assert_eq!(listed[1]["id"], "unknown");

    let sequences = async |arguments: &[&str]| {
        let (code, lines, stderr) = dlq(&platform, &[&["list"], arguments].concat()).await;
        assert_eq!(code, Some(0), "{stderr}");
        lines
            .iter()
            .map(|line| line.split_whitespace().next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(sequences(&[]).await, ["1", "2"]);
    assert_eq!(sequences(&["--limit", "1"]).await, ["2"]);
    assert_eq!(sequences(&["--reason", "EXPECTED"]).await, ["1"]);
    assert_eq!(sequences(&["--domain", "threat"]).await, ["1", "2"]);
    assert_eq!(
        sequences(&["--domain", "network"]).await,
        Vec::<String>::new()
    );
    assert_eq!(sequences(&["--since", "1h"]).await, ["1", "2"]);
    let between = listed[1]["refused_at"].as_str().unwrap();
    assert_eq!(sequences(&["--since", between]).await, ["2"]);
    assert_eq!(
        sequences(&["--since", "2999-01-01T00:00:00Z"]).await,
        Vec::<String>::new()
    );

    let (code, shown, _) = dlq(&platform, &["show", "1"]).await;
    assert_eq!(code, Some(0));
    for told in [
        "sequence: 1",
        "ce-id: bad",
        "Ev-Reason: field `threat_type`: expected a string",
        "Ev-Msg-Id: threat/test/bad",
        "  \"threat_type\": 7,",
    ] {
        assert!(shown.iter().any(|line| line == told), "{told}: {shown:#?}");
    }
    let (_, raw, _) = dlq(&platform, &["show", "1", "--raw"]).await;
    assert_eq!(
        raw,
        [r#"{"incident_id":"t","threat_type":7,"severity":"HIGH"}"#]
    );
    let (code, _, stderr) = dlq(&platform, &["show", "9"]).await;
    assert_eq!(
        (code, stderr.contains("there is no dead letter 9")),
        (Some(1), true)
    );
}

/// What is wrong stays wrong: it is refused again, for the same reason, and
/// nobody receives anything. An event without an id keeps the one it got.
#[tokio::test]
async fn a_replay_does_not_make_a_bad_event_good() {
    let platform = Platform::start(1).await;
    let mut client = subscriber(&platform).await;
    let producer = platform.bus(User::Producer).await;
    let nameless = r#"{ "incident_id": "t", "threat_type": 7, "severity": "HIGH" }"#;
    let library = platform.nats.connect(User::Producer).await;
    library
        .request("events.threat.threat_alert", nameless.into())
        .await
        .unwrap();
    let first = letters(&platform, 1).await.remove(0);
    let (code, lines, stderr) = dlq(&platform, &["replay", "1"]).await;
    assert_eq!(code, Some(0), "{stderr}");
    assert!(
        lines[0].starts_with("1  replayed events.threat.threat_alert"),
        "{lines:?}"
    );
    let second = letters(&platform, 2).await.remove(1);
    assert!(first["id"].as_str().unwrap().starts_with("seq/"), "{first}");
    for field in ["id", "reason", "subject", "trace_id", "bytes"] {
        assert_eq!(first[field], second[field], "{field}");
    }
    send(&producer, "threat_alert", "good", &alert("HIGH")).await;
    assert_eq!(client.expect("threat_alert").await["id"], "good");
}

#[tokio::test]
async fn a_replayed_event_reaches_a_client_once() {
    let platform = Platform::start(1).await;
    let mut client = subscriber(&platform).await;
    let admin = platform.bus(User::Admin).await;
    let letter = misjudge(&admin, "late").await.to_string();
    for told in [
        "1  replayed events.threat.threat_alert id=late",
        "1  replayed already",
    ] {
        let (code, lines, stderr) = dlq(&platform, &["replay", &letter]).await;
        assert_eq!(code, Some(0), "{stderr}");
        assert!(lines[0].starts_with(told), "{lines:?}");
    }
    let (_, lines, _) = dlq(&platform, &["replay", "--all", "--reason", "mistake"]).await;
    assert!(lines[0].starts_with("1  replayed already"), "{lines:?}");
    send(
        &platform.bus(User::Producer).await,
        "threat_alert",
        "end",
        &alert("LOW"),
    )
    .await;
    let frame = client.expect("threat_alert").await;
    assert_eq!(
        (&frame["id"], &frame["data"]),
        (&json!("late"), &alert("HIGH"))
    );
    assert_eq!(client.expect("threat_alert").await["id"], "end");
    // The producer's trace goes through the replay to the gateway.
    let trace_id = TRACE.split('-').nth(1).unwrap();
    platform.gateways[0]
        .process
        .stderr()
        .wait_for_line(trace_id, DEADLINE)
        .await;
}

/// The record outlives the window in which the bus recognises a repeat, so
/// insisting publishes a new message; one that is not there is named.
#[tokio::test]
async fn insisting_publishes_once_more() {
    let platform = Platform::start(0).await;
    platform.router.process.kill9();
    let admin = platform.bus(User::Admin).await;
    misjudge(&admin, "a").await;
    misjudge(&admin, "b").await;
    let waiting = async || {
        let stream = admin.jetstream().get_stream("EVENTS").await.unwrap();
        stream.cached_info().state.messages
    };
    let (code, lines, stderr) = dlq(&platform, &["replay", "--all"]).await;
    assert_eq!((code, lines.len()), (Some(0), 2), "{stderr}");
    assert_eq!(waiting().await, 2);
    let (code, lines, stderr) = dlq(&platform, &["replay", "1", "9"]).await;
    assert_eq!(code, Some(1));
    assert!(lines[0].starts_with("1  replayed already"), "{lines:?}");
    assert_eq!(lines[1], "9  there is no such dead letter");
    assert!(
        stderr.contains("1 of 2 dead letters were not replayed"),
        "{stderr}"
    );
    assert_eq!(waiting().await, 2);
    let (code, lines, _) = dlq(&platform, &["replay", "1", "--again"]).await;
    assert_eq!(code, Some(0));
    assert!(lines[0].starts_with("1  replayed events."), "{lines:?}");
    assert_eq!(waiting().await, 3);
    let (code, _, stderr) = dlq(&platform, &["replay", "1", "--domain", "threat"]).await;
    assert_eq!(code, Some(64), "{stderr}");
}

/// Beside a running `up` its directory is all that the tool needs.
#[tokio::test]
async fn the_tool_finds_a_running_system() {
    let dir = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = signalbox();
        command.args(arguments).arg("--data-dir").arg(dir.path());
        Process::spawn(command)
    };
    let up = run(&["up", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    up.stdout()
        .wait_for_line("Signalbox is ready", DEADLINE)
        .await;
    let publish = run(&["publish", "--unchecked", "threat.nope", "{}"]);
    assert!(publish.wait(DEADLINE).await.success());
    eventually("the dead letter", DEADLINE, async || {
        let list = run(&["dlq", "list"]);
        let status = list.wait(DEADLINE).await;
        assert!(status.success(), "{:?}", list.stderr().lines());
        let told = "domain threat has no event type `nope`";
        let lines = list.stdout().lines();
        (lines.len() == 1 && lines[0].contains(told)).then_some(())
    })
    .await;
    let replay = run(&["dlq", "replay", "1"]);
    let status = replay.wait(DEADLINE).await;
    assert!(status.success(), "{:?}", replay.stderr().lines());
}
