//! Promise 4 and its neighbours: a bus that is away, streams that are made
//! anew, and a work queue that is full. Services stay alive, say so, and go on
//! by themselves.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use signalbox_bus::publish::{Outgoing, PublishError, publish};
use signalbox_bus::server::User;
use signalbox_bus::stream::{EVENTS, StreamSettings, TOPICS, init};
use signalbox_bus::{Bus, HeaderMap};
use signalbox_testkit::{DEADLINE, Platform, WsClient, eventually, get};

use crate::events::{alert, send};

async fn subscriber(platform: &Platform) -> (WsClient, Value) {
    let mut client = WsClient::connect(&platform.gateways[0].threat_url(), &[]).await;
    client.authenticate(&platform.api_key("viewer")).await;
    let confirmed = client.subscribe(json!({"channel": "threat_alerts"})).await;
    (client, confirmed)
}

async fn ready(admin: SocketAddr, wanted: bool) -> String {
    let what = if wanted { "readiness" } else { "unreadiness" };
    eventually(what, DEADLINE, async || {
        let (status, body) = get(admin, "/ready").await;
        assert_eq!(get(admin, "/live").await.0, 200);
        ((status == 200) == wanted).then_some(body)
    })
    .await
}

/// A gateway that has been without the bus for 5 s is not ready, admits no one
/// and serves nothing from memory; then it goes on where it was.
#[tokio::test]
async fn a_gateway_without_the_bus_admits_no_one() {
    let platform = Platform::start(1).await;
    let bus = platform.bus(User::Producer).await;
    let token = platform.token("viewer").await;
    let (mut client, confirmed) = subscriber(&platform).await;
    send(&bus, "threat_alert", "before", &alert("HIGH")).await;
    client.expect("threat_alert").await;
    platform.nats.kill9();
    let body = ready(platform.gateways[0].admin, false).await;
    assert!(body.contains("out of reach for 5 s"), "{body}");
    ready(platform.router.admin, false).await;
    ready(platform.auth.admin, false).await;
    // A token that could be verified without the bus may have been revoked.
    let mut stranger = WsClient::connect(&platform.gateways[0].threat_url(), &[]).await;
    stranger
        .send_json(&json!({"type": "authenticate", "token": token}))
        .await;
    assert_eq!(stranger.expect("error").await["code"], "CONNECTION_FAILED");
    assert_eq!(stranger.expect_close(DEADLINE).await.code, Some(1013));
    // Memory could serve this, but it waits.
    client
        .send_json(
            &json!({"type": "subscribe", "channel": "threat_alerts", "since": confirmed["seq"]}),
        )
        .await;
    assert_eq!(client.expect("error").await["code"], "UNAVAILABLE");
    platform.nats.restart().await;
    for admin in [
        platform.gateways[0].admin,
        platform.router.admin,
        platform.auth.admin,
    ] {
        ready(admin, true).await;
    }
    send(&bus, "threat_alert", "after", &alert("HIGH")).await;
    assert_eq!(client.expect("threat_alert").await["id"], "after");
    subscriber(&platform).await;
}

/// TOPICS was deleted and made again: live clients go on with its first event,
/// positions of the former life are lost, and nobody was restarted.
#[tokio::test]
async fn a_recreated_stream_of_topics_is_read_from_its_start() {
    let platform = Platform::start(1).await;
    let (producer, admin) = (
        platform.bus(User::Producer).await,
        platform.bus(User::Admin).await,
    );
    let (mut client, confirmed) = subscriber(&platform).await;
    for id in ["1", "2", "3"] {
        send(&producer, "threat_alert", id, &alert("HIGH")).await;
        assert_eq!(client.expect("threat_alert").await["id"], id);
    }
    admin.jetstream().delete_stream(TOPICS).await.unwrap();
    send(&producer, "threat_alert", "4", &alert("HIGH")).await;
    init(&admin, &StreamSettings::default()).await.unwrap();
    send(&producer, "threat_alert", "5", &alert("HIGH")).await;
    let first = client.expect("threat_alert").await;
    assert_eq!(first["id"], "4");
    assert_eq!(client.expect("threat_alert").await["id"], "5");
    let epoch = |seq: &Value| seq.as_str().unwrap().split_once('-').unwrap().0.to_owned();
    assert_ne!(epoch(&first["seq"]), epoch(&confirmed["seq"]));
    let resumed = client
        .subscribe(json!({"channel": "threat_alerts", "since": confirmed["seq"]}))
        .await;
    assert_eq!(resumed["recovered"], false);
}

/// The machine of the bus lost the last events that it had stored: what is left
/// was delivered before and is not repeated, and live clients go on with what is
/// published from then on.
#[tokio::test]
async fn a_stream_that_lost_its_tail_repeats_nothing() {
    let platform = Platform::start(1).await;
    let producer = platform.bus(User::Producer).await;
    let (mut client, confirmed) = subscriber(&platform).await;
    let mut deliver = async |id: &str| {
        send(&producer, "threat_alert", id, &alert("HIGH")).await;
        let event = client.expect("threat_alert").await;
        assert_eq!(event["id"], id);
        event["seq"].clone()
    };
    for id in ["1", "2", "3"] {
        deliver(id).await;
    }
    platform.nats.kill9();
    let topics = directory(platform.nats.dir(), TOPICS).unwrap();
    let kept = tempfile::tempdir().unwrap();
    copy(&topics, kept.path());
    platform.nats.restart().await;
    for id in ["4", "5"] {
        deliver(id).await;
    }
    platform.nats.kill9();
    std::fs::remove_dir_all(&topics).unwrap();
    copy(kept.path(), &topics);
    // What comes before the gateway is back takes a number that was lost.
    let gateway = &platform.gateways[0].process;
    gateway.sigstop();
    platform.nats.restart().await;
    send(&producer, "threat_alert", "6", &alert("HIGH")).await;
    let admin = platform.bus(User::Admin).await;
    eventually("the event is stored", DEADLINE, async || {
        let state = signalbox_bus::stream::state(&admin, TOPICS).await.ok()?;
        (state.last == 4).then_some(())
    })
    .await;
    gateway.sigcont();
    let event = client.expect("threat_alert").await;
    assert_eq!(event["id"], "6");
    let seq = event["seq"].clone();
    send(&producer, "threat_alert", "7", &alert("HIGH")).await;
    assert_eq!(client.expect("threat_alert").await["id"], "7");
    // It is the same stream still, so positions that were not lost are good.
    let epoch = |seq: &Value| seq.as_str().unwrap().split_once('-').unwrap().0.to_owned();
    assert_eq!(epoch(&seq), epoch(&confirmed["seq"]));
    let resumed = client
        .subscribe(json!({"channel": "threat_alerts", "since": confirmed["seq"]}))
        .await;
    assert_eq!(resumed["recovered"], true);
}

/// The directory of this name anywhere below another.
fn directory(below: &Path, name: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(below).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut directories = paths.filter(|path| path.is_dir());
    directories.find_map(|path| match path.ends_with(name) {
        true => Some(path),
        false => directory(&path, name),
    })
}

/// Copies a directory with all that is in it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// EVENTS was deleted and made again: routers go on with its first event.
#[tokio::test]
async fn a_recreated_work_queue_is_taken_up_again() {
    let platform = Platform::start(1).await;
    let (producer, admin) = (
        platform.bus(User::Producer).await,
        platform.bus(User::Admin).await,
    );
    let (mut client, _) = subscriber(&platform).await;
    send(&producer, "threat_alert", "1", &alert("HIGH")).await;
    assert_eq!(client.expect("threat_alert").await["id"], "1");
    admin.jetstream().delete_stream(EVENTS).await.unwrap();
    let refused = try_send(&producer, "2", Duration::from_secs(1))
        .await
        .unwrap_err();
    assert!(matches!(refused, PublishError::NoStream(_)), "{refused}");
    init(&admin, &StreamSettings::default()).await.unwrap();
    for id in ["2", "3"] {
        send(&producer, "threat_alert", id, &alert("HIGH")).await;
        assert_eq!(client.expect("threat_alert").await["id"], id);
    }
}

/// A full work queue refuses producers in words; what it took is delivered.
#[tokio::test]
async fn a_full_work_queue_is_a_clear_refusal() {
    let platform = Platform::start(1).await;
    let (producer, admin) = (
        platform.bus(User::Producer).await,
        platform.bus(User::Admin).await,
    );
    let (mut client, _) = subscriber(&platform).await;
    let small = StreamSettings {
        events_bytes: 64 * 1024,
        ..StreamSettings::default()
    };
    init(&admin, &small).await.unwrap();
    platform.router.process.sigstop();
    let mut taken = 0;
    let refused = loop {
        match try_send(&producer, &taken.to_string(), Duration::from_secs(5)).await {
            Ok(()) => taken += 1,
            Err(refused) => break refused,
        }
        assert!(taken < 10_000, "64 KiB are never full");
    };
    assert!(
        refused.to_string().contains("maximum bytes exceeded"),
        "{refused}"
    );
    platform.router.process.sigcont();
    for number in 0..taken {
        assert_eq!(
            client.expect("threat_alert").await["id"],
            number.to_string()
        );
    }
    send(&producer, "threat_alert", "room-again", &alert("HIGH")).await;
    assert_eq!(client.expect("threat_alert").await["id"], "room-again");
}

async fn try_send(bus: &Bus, id: &str, patience: Duration) -> Result<(), PublishError> {
    let mut headers = HeaderMap::new();
    headers.insert("ce-id", id);
    let message = Outgoing {
        subject: "events.threat.threat_alert".to_owned(),
        message_id: format!("threat/test/{id}"),
        headers,
        payload: alert("HIGH").to_string().into(),
    };
    publish(bus, &message, patience).await.map(|_| ())
}
