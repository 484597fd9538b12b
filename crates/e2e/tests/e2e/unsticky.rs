//! W10: stock Socket.IO clients behind a load balancer without sticky sessions,
//! which sends every request and every upgrade to another gateway than the one
//! before.

use std::time::Duration;

use serde_json::{Value, json};
use signalbox_bus::publish::{Outgoing, publish};
use signalbox_bus::server::User;
use signalbox_bus::{Bus, HeaderMap};
use signalbox_protocol::envelope::CE_ID;
use signalbox_testkit::{DEADLINE, NodeClient, Platform, RoundRobin, request};
use tokio::time::{MissedTickBehavior, interval};

const NS: &str = "/ws";
/// How long a publish may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two events.
const PACE: Duration = Duration::from_millis(25);
/// Between two events while clients upgrade, which takes them not much longer.
const FAST: Duration = Duration::from_millis(5);
/// Every request is a connection of its own to its gateway.
const ANY_NUMBER: &[&str] = &[
    "--connect-rate",
    "0",
    "--max-unauthenticated-per-address",
    "0",
];

async fn start(gateways: usize) -> (Platform, RoundRobin) {
    let platform = Platform::start_with(gateways, ANY_NUMBER).await;
    let addresses: Vec<_> = platform.gateways.iter().map(|one| one.listener()).collect();
    let balancer = RoundRobin::start(addresses).await;
    (platform, balancer)
}

/// Publishes an event for everybody.
async fn send(bus: &Bus, id: &str) {
    let mut headers = HeaderMap::new();
    headers.insert(CE_ID, id);
    let data = json!({"workflow_id": id, "status": "running"});
    let message = Outgoing {
        subject: "events.workflow.started".to_owned(),
        message_id: format!("workflow/test/{id}"),
        headers,
        payload: data.to_string().into(),
    };
    publish(bus, &message, PATIENCE).await.unwrap();
}

/// How many sessions have moved to another gateway.
fn moves(platform: &Platform) -> usize {
    let of = |gateway: &signalbox_testkit::Service| {
        let lines = gateway.process.stderr().lines();
        lines
            .iter()
            .filter(|line| line.contains("moved here"))
            .count()
    };
    platform.gateways.iter().map(of).sum()
}

/// Publishes so many events at an even pace, and does something amid it.
async fn publish_through(
    bus: &Bus,
    (count, pace): (usize, Duration),
    amid: impl AsyncFnOnce(),
) -> Vec<String> {
    let mut pace = interval(pace);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut amid = Some(amid);
    let mut ids = Vec::new();
    for number in 0..count {
        pace.tick().await;
        if number == count / 3
            && let Some(amid) = amid.take()
        {
            amid().await;
        }
        let id = format!("e-{number}");
        send(bus, &id).await;
        ids.push(id);
    }
    ids
}

/// Stock clients, a third of which polls, a third upgrades, and a third begins
/// with WebSocket.
struct Crowd(NodeClient);

impl Crowd {
    async fn start(balancer: &RoundRobin, token: &str, clients: usize) -> Self {
        let crowd = NodeClient::start(
            "socketio-crowd.mjs",
            &json!({
                "url": format!("http://{}", balancer.addr()),
                "clients": clients,
                "auth": {"token": token},
                "event": "workflow.started",
                "transports": [["polling"], ["polling", "websocket"], ["websocket"]],
            }),
        );
        crowd.expect_event("ready").await;
        let established = crowd.next(PATIENCE).await;
        assert_eq!(established["clients"], clients, "{established}");
        Self(crowd)
    }

    /// What each has got, once all have got the last.
    async fn records(&self, last: &str) -> Vec<Value> {
        self.0
            .process()
            .write_line(&json!({"await": last}).to_string());
        let mut done = self.0.next(PATIENCE).await;
        serde_json::from_value(done["clients"].take()).unwrap()
    }
}

/// Everything, once and in order, for everyone; gives how often they returned.
fn verify(records: &[Value], published: &[String]) -> u64 {
    let published = json!(published);
    let mut returns = 0;
    for (number, record) in records.iter().enumerate() {
        let told = || {
            let mut short = record.clone();
            short["ids"] = json!(record["ids"].as_array().unwrap().len());
            short
        };
        assert_eq!(record["ids"], published, "client {number}: {}", told());
        assert_eq!(record["lost"], 0, "client {number}: {}", told());
        let connects = record["connects"].as_u64().unwrap();
        assert_eq!(
            record["recovered"],
            connects - 1,
            "client {number}: {}",
            told()
        );
        returns += connects - 1;
    }
    returns
}

#[tokio::test]
async fn each_transport_works_across_gateways() {
    let (platform, balancer) = start(2).await;
    let bus = platform.bus(User::Producer).await;
    let token = platform.unlimited_token("viewer");
    for (transports, last) in [
        (json!(["polling"]), "polling"),
        (json!(["polling", "websocket"]), "websocket"),
        (json!(["websocket"]), "websocket"),
    ] {
        let url = format!("http://{}", balancer.addr());
        let client = NodeClient::start("socketio.mjs", &json!({"url": url}));
        client.expect_event("ready").await;
        let tell = |command: Value| client.process().write_line(&command.to_string());
        let options = json!({"auth": {"token": token}, "transports": transports});
        tell(json!({"join": NS, "options": options}));
        let mut transport = Value::Null;
        let mut established = false;
        while transport != last || !established {
            let value = client.next(DEADLINE).await;
            match value["event"].as_str() {
                Some("connect" | "upgrade") => transport = value["transport"].clone(),
                Some("message") => {
                    assert_eq!(value["name"], "connection_established", "{value}");
                    established = true;
                }
                _ => panic!("{transports}: {value}"),
            }
        }
        for round in 0..10 {
            tell(json!({"ns": NS, "emit": ["ping", {}], "ack": 20_000}));
            let pong = client.expect_event("ack").await;
            assert_eq!(pong["answer"], json!({"status": "pong"}), "{last} {round}");
            let id = format!("{last}-{}-{round}", transports.as_array().unwrap().len());
            send(&bus, &id).await;
            let event = client.expect_event("message").await;
            assert_eq!(event["name"], "workflow.started", "{event}");
            assert_eq!(event["args"][0]["id"], id, "{event}");
        }
        let room = json!({"room": "global"});
        tell(json!({"ns": NS, "emit": ["unsubscribe", room], "ack": 20_000}));
        let left = client.expect_event("ack").await;
        assert_eq!(left["answer"]["status"], "success", "{left}");
    }
}

#[tokio::test]
async fn two_hundred_clients_miss_nothing() {
    const CLIENTS: usize = 200;
    let (platform, balancer) = start(2).await;
    let bus = platform.bus(User::Producer).await;
    let token = platform.unlimited_token("viewer");
    let crowd = Crowd::start(&balancer, &token, CLIENTS).await;
    let published = publish_through(&bus, (200, PACE), async || {}).await;
    let records = crowd.records(published.last().unwrap()).await;
    assert_eq!(verify(&records, &published), 0, "nobody had to return");
    let over = |name: &str| {
        let of = |record: &&Value| record["transport"] == name;
        records.iter().filter(of).count()
    };
    assert!(over("polling") >= CLIENTS / 3);
    assert_eq!(over("polling") + over("websocket"), CLIENTS);
    let upgrades = records
        .iter()
        .filter(|record| record["upgrades"] == 1)
        .count();
    assert!(upgrades > 0, "some upgrade behind their first poll");
    assert!(moves(&platform) > 0, "some of them elsewhere");
}

/// As those come and upgrade that events are on their way to.
#[tokio::test]
async fn moves_amid_events_lose_and_double_nothing() {
    const CLIENTS: usize = 60;
    let (platform, balancer) = start(2).await;
    let bus = platform.bus(User::Producer).await;
    let token = platform.unlimited_token("viewer");
    let (crowd, published) = tokio::join!(
        Crowd::start(&balancer, &token, CLIENTS),
        publish_through(&bus, (600, FAST), async || {}),
    );
    // Behind the last that came, if they came late.
    send(&bus, "last").await;
    let records = crowd.records("last").await;
    let published: Vec<Value> = published
        .iter()
        .map(|id| json!(id))
        .chain([json!("last")])
        .collect();
    let mut amid = 0;
    for (number, record) in records.iter().enumerate() {
        let ids = record["ids"].as_array().unwrap();
        let expected = &published[published.len() - ids.len()..];
        assert!(ids == expected, "client {number}: {record}");
        amid += usize::from(ids.len() > 1);
        assert_eq!(record["connects"], 1, "client {number}");
    }
    assert!(amid > 0, "events came while clients did");
    assert!(moves(&platform) > 0);
}

#[tokio::test]
async fn clients_of_a_killed_gateway_miss_nothing_either() {
    const CLIENTS: usize = 60;
    let (platform, balancer) = start(3).await;
    let bus = platform.bus(User::Producer).await;
    let token = platform.unlimited_token("viewer");
    let crowd = Crowd::start(&balancer, &token, CLIENTS).await;
    // Where sessions are is up to chance: they move to their WebSockets.
    let key = format!("Bearer {}", platform.api_key("admin"));
    let mut fullest = (0, 0);
    for (index, gateway) in platform.gateways.iter().enumerate() {
        let path = "/api/v1/websocket/stats?scope=local";
        let headers = [("Authorization", key.as_str())];
        let answer = request(gateway.listener(), "GET", path, &headers, "").await;
        let stats: Value = serde_json::from_str(&answer.body).unwrap();
        fullest = fullest.max((stats["connections"].as_u64().unwrap(), index));
    }
    let published = publish_through(&bus, (200, PACE), async || {
        platform.gateways[fullest.1].process.kill9()
    })
    .await;
    let records = crowd.records(published.last().unwrap()).await;
    let returns = verify(&records, &published);
    assert!(returns > 0, "the killed gateway had {} sessions", fullest.0);
}
