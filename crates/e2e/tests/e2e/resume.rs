//! G8 and G10 for dialect `threat`: clients that lose their gateway, or a bus
//! that goes down in mid-stream, miss nothing, get nothing twice and nothing
//! out of order.

use std::time::Duration;

use serde_json::{Value, json};
use signalbox_bus::Bus;
use signalbox_bus::server::User;
use signalbox_bus::stream::{StreamSettings, TOPICS, init, state};
use signalbox_testkit::{DEADLINE, Follower, Platform, Record, WsClient, eventually};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::events::{alert, send};

const CLIENTS: usize = 100;
const EVENTS: usize = 1_000;
/// 200 events a second.
const PACE: Duration = Duration::from_millis(5);
/// When faults are injected, in events.
const FAULT_AT: usize = 300;

/// Publishes at an even pace and calls `fault` once, in the middle.
async fn publish_through(bus: &Bus, fault: impl AsyncFnOnce()) -> Vec<String> {
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut fault = Some(fault);
    let mut ids = Vec::new();
    for number in 0..EVENTS {
        if number == FAULT_AT
            && let Some(fault) = fault.take()
        {
            fault().await;
        }
        pace.tick().await;
        let id = format!("e-{number}");
        send(bus, "threat_alert", &id, &alert("HIGH")).await;
        ids.push(id);
    }
    ids
}

/// Starts followers, all at the first gateway, and waits for them to be
/// subscribed.
async fn followers(
    platform: &Platform,
    expected: &watch::Receiver<Option<usize>>,
) -> JoinSet<Record> {
    let (subscribed, mut confirmations) = mpsc::channel(CLIENTS);
    let token = platform.unlimited_token("viewer");
    let gateways = platform
        .gateways
        .iter()
        .map(|gateway| gateway.listener())
        .collect::<Vec<_>>();
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let follower = Follower {
            gateways: gateways.clone(),
            token: token.clone(),
            filters: Value::Null,
        };
        clients.spawn(follower.follow(expected.clone(), subscribed.clone()));
    }
    for _ in 0..CLIENTS {
        timeout(DEADLINE, confirmations.recv())
            .await
            .unwrap()
            .unwrap();
    }
    clients
}

/// Everything that was acknowledged, once and in order, for everyone.
async fn verify(mut clients: JoinSet<Record>, published: &[String]) -> usize {
    let mut returns = 0;
    while let Some(record) = clients.join_next().await {
        let record = record.unwrap();
        assert_eq!(record.unrecovered, 0);
        assert_eq!(record.ids, published);
        returns += record.returns;
    }
    returns
}

#[tokio::test]
async fn clients_of_a_killed_gateway_go_on_at_another() {
    let platform = Platform::start(2).await;
    let (expect, expected) = watch::channel(None);
    let clients = followers(&platform, &expected).await;
    let bus = platform.bus(User::Producer).await;
    let published = publish_through(&bus, async || platform.gateways[0].process.kill9()).await;
    expect.send(Some(published.len())).unwrap();
    let returns = verify(clients, &published).await;
    assert!(
        returns >= CLIENTS,
        "only {returns} of {CLIENTS} clients had to return"
    );
}

#[tokio::test]
async fn a_killed_bus_loses_nothing() {
    // More than one shard: the bus is then read by a thread of its own.
    let platform = Platform::start_with(1, &["--shards", "2"]).await;
    let (expect, expected) = watch::channel(None);
    let clients = followers(&platform, &expected).await;
    let bus = platform.bus(User::Producer).await;
    let published = publish_through(&bus, async || {
        platform.nats.kill9();
        platform.nats.restart().await;
    })
    .await;
    expect.send(Some(published.len())).unwrap();
    verify(clients, &published).await;
}

/// What was stored while a gateway's reader was cut off comes when it is back.
#[tokio::test]
async fn a_gateway_that_slept_through_a_restart_of_the_bus_reads_on() {
    let platform = Platform::start(1).await;
    let bus = platform.bus(User::Producer).await;
    let mut client = WsClient::connect(&platform.gateways[0].threat_url(), &[]).await;
    client.authenticate(&platform.api_key("viewer")).await;
    client.subscribe(json!({"channel": "threat_alerts"})).await;
    send(&bus, "threat_alert", "before", &alert("HIGH")).await;
    assert_eq!(client.expect("threat_alert").await["id"], "before");
    platform.gateways[0].process.sigstop();
    platform.nats.kill9();
    platform.nats.restart().await;
    for number in 0..50 {
        send(&bus, "threat_alert", &number.to_string(), &alert("HIGH")).await;
    }
    let admin = platform.bus(User::Admin).await;
    eventually("all events to be stored", DEADLINE, async || {
        (state(&admin, TOPICS).await.unwrap().last == 51).then_some(())
    })
    .await;
    platform.gateways[0].process.sigcont();
    for number in 0..50 {
        assert_eq!(
            client.expect("threat_alert").await["id"],
            number.to_string()
        );
    }
}

/// A killed router's successor goes on where it stopped.
#[tokio::test]
async fn a_killed_router_loses_nothing() {
    let mut platform = Platform::start(1).await;
    let (expect, expected) = watch::channel(None);
    let clients = followers(&platform, &expected).await;
    let bus = platform.bus(User::Producer).await;
    platform.router.process.kill9();
    let mut ids = Vec::new();
    for number in 0..EVENTS {
        if number == EVENTS / 2 {
            platform.router = platform.start_router().await;
        }
        let id = format!("e-{number}");
        send(&bus, "threat_alert", &id, &alert("LOW")).await;
        ids.push(id);
        if number == EVENTS * 3 / 4 {
            platform.router.process.kill9();
            platform.router = platform.start_router().await;
        }
    }
    expect.send(Some(ids.len())).unwrap();
    verify(clients, &ids).await;
}

/// A gateway that was just started has nothing in memory and reads history.
#[tokio::test]
async fn a_return_beyond_memory_is_served_from_the_stream() {
    let platform = Platform::start(1).await;
    let bus = platform.bus(User::Producer).await;
    let mut client = WsClient::connect(&platform.gateways[0].threat_url(), &[]).await;
    client.authenticate(&platform.api_key("viewer")).await;
    let confirmed = client.subscribe(json!({"channel": "threat_alerts"})).await;
    for number in 0..700 {
        let severity = if number % 2 == 0 { "HIGH" } else { "LOW" };
        send(&bus, "threat_alert", &number.to_string(), &alert(severity)).await;
    }
    // The channel's history ends before the position up to which it is read.
    send(&bus, "metrics_update", "elsewhere", &json!({"a": 1})).await;
    let late = platform.start_gateway(&[]).await;
    let mut client = WsClient::connect(&late.threat_url(), &[]).await;
    client.authenticate(&platform.api_key("viewer")).await;
    let resumed = client
        .subscribe(json!({"channel": "threat_alerts", "filters": {"severity": ["HIGH"]}, "since": confirmed["seq"]}))
        .await;
    assert_eq!(
        (&resumed["recovered"], &resumed["seq"]),
        (&json!(true), &confirmed["seq"])
    );
    send(&bus, "threat_alert", "live", &alert("HIGH")).await;
    for number in (0..700).step_by(2) {
        assert_eq!(
            client.expect("threat_alert").await["id"],
            number.to_string()
        );
    }
    assert_eq!(client.expect("threat_alert").await["id"], "live");
}

/// Retention has passed a position by: the client is told, and what comes from
/// then on reaches it.
#[tokio::test]
async fn a_position_beyond_retention_is_told() {
    let platform = Platform::start(0).await;
    let admin = platform.bus(User::Admin).await;
    let small = StreamSettings {
        topics_bytes: 64 * 1024,
        ..StreamSettings::default()
    };
    init(&admin, &small).await.unwrap();
    let bus = platform.bus(User::Producer).await;
    let empty = state(&admin, TOPICS).await.unwrap();
    for number in 0..400 {
        send(&bus, "threat_alert", &number.to_string(), &alert("HIGH")).await;
    }
    let kept = eventually("the oldest events to be gone", DEADLINE, async || {
        let state = state(&admin, TOPICS).await.unwrap();
        (state.last == 400 && state.first > 2).then_some(state)
    })
    .await;
    // A gateway that was started now has nothing in memory.
    let gateway = platform.start_gateway(&[]).await;
    let mut client = WsClient::connect(&gateway.threat_url(), &[]).await;
    client.authenticate(&platform.api_key("viewer")).await;
    let since = |sequence: u64| json!({"channel": "threat_alerts", "since": format!("{}-{sequence}", empty.epoch)});
    let lost = client.subscribe(since(kept.first - 2)).await;
    assert_eq!(
        (&lost["recovered"], &lost["seq"]),
        (&json!(false), &json!(format!("{}-400", empty.epoch)))
    );
    let found = client.subscribe(since(kept.first - 1)).await;
    assert_eq!(found["recovered"], true);
    for number in kept.first..=400 {
        // Sequences count from 1, ids from 0.
        assert_eq!(
            client.expect("threat_alert").await["id"],
            (number - 1).to_string()
        );
    }
    send(&bus, "threat_alert", "live", &alert("HIGH")).await;
    assert_eq!(client.expect("threat_alert").await["id"], "live");
}

/// A position that cannot be honoured is said to be lost.
#[tokio::test]
async fn a_lost_position_is_told() {
    let platform = Platform::start(1).await;
    let bus = platform.bus(User::Producer).await;
    let mut client = WsClient::connect(&platform.gateways[0].threat_url(), &[]).await;
    client.authenticate(&platform.api_key("viewer")).await;
    let confirmed = client.subscribe(json!({"channel": "threat_alerts"})).await;
    let (epoch, _) = confirmed["seq"].as_str().unwrap().split_once('-').unwrap();
    let future = format!("{epoch}-999999");
    let other_life = "1-0".to_owned();
    for since in [future, other_life] {
        let answer = client
            .subscribe(json!({"channel": "threat_alerts", "since": since}))
            .await;
        assert_eq!(
            (&answer["recovered"], &answer["seq"]),
            (&json!(false), &confirmed["seq"])
        );
    }
    send(&bus, "threat_alert", "once", &alert("HIGH")).await;
    assert_eq!(client.expect("threat_alert").await["id"], "once");
    client.send_json(&json!({"type": "ping"})).await;
    client.expect("pong").await;
}
