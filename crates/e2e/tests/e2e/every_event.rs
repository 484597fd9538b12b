//! Every event type of dialects `threat` and `mesh`, from a producer to a
//! client, field by field, live and at a return (T2-T6, M4, G4, G5, G8).
//!
//! `protocol/tests/fixtures/<dialect>/event/<type>.json` has what is published
//! and the frame that must come of it, but for the stream's numbers.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::{Value, json};
use signalbox_bus::publish::{Outgoing, publish};
use signalbox_bus::server::User;
use signalbox_bus::{Bus, HeaderMap};
use signalbox_protocol::catalogue::{self, Channel, EventType};
use signalbox_protocol::cursor::Cursor;
use signalbox_protocol::envelope::{CE_ID, CE_TIME};
use signalbox_testkit::{DEADLINE, Platform, WsClient};

/// An event type, and the example of it.
struct Example {
    kind: &'static EventType,
    time: String,
    data: Value,
    frame: Value,
}

/// The examples of a dialect: one for each type that it has a word for, no
/// more and no less.
fn examples(dialect: &str, is_spoken: fn(&EventType) -> bool) -> Vec<Example> {
    let folder = PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../protocol/tests/fixtures"
    ));
    let folder = folder.join(dialect).join("event");
    let files = std::fs::read_dir(&folder).unwrap();
    let files: BTreeSet<String> = files
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let kinds: Vec<_> = catalogue::all().filter(|kind| is_spoken(kind)).collect();
    let expected = kinds.iter().map(|kind| format!("{}.json", kind.name));
    assert_eq!(files, expected.collect(), "examples of {dialect}");
    let read = |kind: &'static EventType| {
        let text = std::fs::read_to_string(folder.join(format!("{}.json", kind.name))).unwrap();
        let mut example: Value = serde_json::from_str(&text).unwrap();
        Example {
            kind,
            time: example["time"].as_str().unwrap().to_owned(),
            data: example["data"].take(),
            frame: example["frame"].take(),
        }
    };
    kinds.into_iter().map(read).collect()
}

async fn send(bus: &Bus, example: &Example) {
    let Example {
        kind, time, data, ..
    } = example;
    let id = format!("{}-1", kind.name);
    let mut headers = HeaderMap::new();
    headers.insert(CE_ID, id.as_str());
    headers.insert(CE_TIME, time.as_str());
    let message = Outgoing {
        subject: format!("events.{}.{}", kind.domain, kind.name),
        message_id: format!("{}/test/{id}", kind.domain),
        headers,
        payload: data.to_string().into(),
    };
    publish(bus, &message, DEADLINE).await.unwrap();
}

/// The stream sequence in a frame's `seq`, and the frame with the fixtures'
/// stand-in for it.
fn positioned(mut frame: Value) -> (u64, Value) {
    let seq: Cursor = frame["seq"].as_str().unwrap().parse().unwrap();
    frame["seq"] = json!("EPOCH-SEQUENCE");
    (seq.sequence, frame)
}

/// Subscribes to the dialect's channels; gives the position in the
/// confirmations.
async fn subscribe(client: &mut WsClient, channels: &[Channel], since: Option<&Value>) -> Value {
    let mut seq = Value::Null;
    for channel in channels {
        let mut asked = json!({"type": "subscribe", "channel": channel.name()});
        if let Some(since) = since {
            asked["since"] = since.clone();
        }
        client.send_json(&asked).await;
        let confirmed = client.next_json(DEADLINE).await;
        // `mesh` has it below `data`.
        let fields = confirmed.get("data").unwrap_or(&confirmed);
        assert_eq!(fields["channel"], channel.name(), "{confirmed}");
        seq = fields["seq"].clone();
    }
    seq
}

/// Publishes every example and compares what comes, then returns and compares
/// what comes again.
async fn exchange(
    platform: &Platform,
    examples: &[Example],
    channels: &[Channel],
    connect: impl AsyncFn() -> WsClient,
) {
    let bus = platform.bus(User::Producer).await;
    let mut client = connect().await;
    let start = subscribe(&mut client, channels, None).await;
    let mut received = Vec::new();
    for example in examples {
        send(&bus, example).await;
        let frame = client.next_json(DEADLINE).await;
        let (sequence, frame) = positioned(frame);
        assert_eq!(frame, example.frame, "{}", example.kind.name);
        received.push((sequence, frame));
    }
    assert!(received.is_sorted_by(|one, next| one.0 < next.0));
    client.send_json(&json!({"type": "ping"})).await;
    assert_eq!(client.next_json(DEADLINE).await, json!({"type": "pong"}));

    // One channel per connection, so that nothing comes in between.
    let mut again = Vec::new();
    for channel in channels {
        let mut client = connect().await;
        subscribe(&mut client, &[*channel], Some(&start)).await;
        let of_channel = |example: &&Example| example.kind.route.channel == *channel;
        for _ in examples.iter().filter(of_channel) {
            again.push(positioned(client.next_json(DEADLINE).await));
        }
        client.send_json(&json!({"type": "ping"})).await;
        assert_eq!(client.next_json(DEADLINE).await, json!({"type": "pong"}));
    }
    again.sort_by_key(|(sequence, _)| *sequence);
    assert_eq!(again, received);
}

#[tokio::test]
async fn every_event_of_threat_comes_as_documented() {
    let examples = examples("threat", |kind| kind.words.threat.is_some());
    assert_eq!(examples.len(), 7);
    let platform = Platform::start(1).await;
    let channels = [
        Channel::ThreatAlerts,
        Channel::InvestigationProgress,
        Channel::SystemMetrics,
        Channel::ResponseActions,
    ];
    exchange(&platform, &examples, &channels, async || {
        let mut client = WsClient::connect(&platform.gateways[0].threat_url(), &[]).await;
        client.authenticate(&platform.api_key("viewer")).await;
        client
    })
    .await;
}

#[tokio::test]
async fn every_event_of_mesh_comes_as_documented() {
    let examples = examples("mesh", |kind| kind.words.mesh.is_some());
    assert_eq!(examples.len(), 16);
    let platform = Platform::start(1).await;
    let token = platform.token("viewer").await;
    let channels = [
        Channel::NetworkEvents,
        Channel::ConsensusEvents,
        Channel::SecurityEvents,
        Channel::MonitoringEvents,
    ];
    exchange(&platform, &examples, &channels, async || {
        WsClient::connect(&platform.gateways[0].mesh_url(&token), &[]).await
    })
    .await;
}
