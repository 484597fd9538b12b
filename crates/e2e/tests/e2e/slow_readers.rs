//! G9, promise 3: readers that are too slow are sent away with a reason, take
//! a bounded amount of memory and their descriptor goes with them; they can
//! resume, and nobody else notices them.

use std::time::Duration;

use serde_json::{Value, json};
use signalbox_bus::server::User;
use signalbox_testkit::{DEADLINE, Follower, Platform, Record, eventually};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::events::{alert, send};
use crate::raw::{CLOSE, Raw, TEXT, connect, local};

const HEALTHY: usize = 100;
const STALLED: usize = 10;
const EVENTS: usize = 1_000;
/// 200 events a second.
const PACE: Duration = Duration::from_millis(5);
/// Length of each event's summary, so that few events fill the queues.
const SUMMARY_BYTES: usize = 3_000;
const QUEUE_BYTES: usize = 256 * 1024;
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// What the kernel of a client takes that never reads. With so little, one
/// that reads on may wait long for its kernel and the gateway's to agree that
/// there is room again.
const RECEIVE_BUFFER_BYTES: u32 = 4_096;
/// Memory that the gateway may take for the events themselves: what it keeps
/// of the last minute for those who return.
const MEMORY_OF_EVENTS_BYTES: usize = 64 * 1024 * 1024;

fn long_alert() -> Value {
    let mut data = alert("HIGH");
    data["ai_summary"] = json!("s".repeat(SUMMARY_BYTES));
    data
}

/// A gateway whose limits are soon reached.
async fn platform(close_grace: &str) -> Platform {
    let (queue, buffer) = (QUEUE_BYTES.to_string(), SEND_BUFFER_BYTES.to_string());
    let arguments = [
        "--queue-bytes",
        &queue,
        "--send-buffer-bytes",
        &buffer,
        "--close-grace",
        close_grace,
    ];
    Platform::start_with(1, &arguments).await
}

/// A subscriber and the `seq` of its confirmation.
async fn subscriber(
    platform: &Platform,
    token: &str,
    receive_buffer: Option<u32>,
    since: Option<&Value>,
) -> (Raw, Value) {
    let listener = platform.gateways[0].listener();
    let stream = connect(local(1), listener, receive_buffer).await;
    let mut raw = Raw::open_over(stream, token).await;
    let mut subscribe = json!({"type": "subscribe", "channel": "threat_alerts"});
    if let Some(since) = since {
        subscribe["since"] = since.clone();
    }
    raw.send(TEXT, subscribe.to_string().as_bytes()).await;
    let confirmed = raw.json().await;
    assert_eq!(confirmed["type"], "subscription_confirmed", "{confirmed}");
    if since.is_some() {
        assert_eq!(confirmed["recovered"], true);
    }
    (raw, confirmed["seq"].clone())
}

/// Healthy readers, subscribed.
async fn followers(
    platform: &Platform,
    token: &str,
    count: usize,
    expected: &watch::Receiver<Option<usize>>,
) -> JoinSet<Record> {
    let (subscribed, mut confirmations) = mpsc::channel(count);
    let mut followers = JoinSet::new();
    for _ in 0..count {
        let follower = Follower {
            gateways: vec![platform.gateways[0].listener()],
            token: token.to_owned(),
            filters: Value::Null,
        };
        followers.spawn(follower.follow(expected.clone(), subscribed.clone()));
    }
    for _ in 0..count {
        timeout(DEADLINE, confirmations.recv())
            .await
            .unwrap()
            .unwrap();
    }
    followers
}

/// How many readers got everything, once, in order and without a break, which
/// must be all.
async fn undisturbed(mut followers: JoinSet<Record>, published: &[String]) -> usize {
    let mut count = 0;
    while let Some(record) = timeout(DEADLINE, followers.join_next()).await.unwrap() {
        let record = record.unwrap();
        assert_eq!(record.ids, published);
        assert_eq!(record.returns, 0, "a healthy reader was sent away");
        count += 1;
    }
    count
}

/// Reads about 1 KB a second to the end of the connection, which its own
/// kernel puts off.
async fn sip(mut stream: TcpStream) {
    let mut sip = [0; 102];
    while matches!(stream.read(&mut sip).await, Ok(1..)) {
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn slow_readers_are_sent_away_and_hurt_nobody() {
    let platform = platform("1").await;
    let gateway = &platform.gateways[0];
    let bus = platform.bus(User::Producer).await;
    let token = platform.unlimited_token("viewer");
    let (expect, expected) = watch::channel(None);
    let healthy = followers(&platform, &token, HEALTHY, &expected).await;
    let files = gateway.process.open_files();
    let buffer = Some(RECEIVE_BUFFER_BYTES);
    let mut stalled = Vec::new();
    for _ in 0..STALLED {
        stalled.push(subscriber(&platform, &token, buffer, None).await.0);
    }
    let slow = subscriber(&platform, &token, buffer, None).await.0;
    let slow = tokio::spawn(sip(slow.0));
    let memory = gateway.process.resident_bytes();
    // Without the one that was counted in `files` if the token's had not gone.
    assert!(gateway.process.open_files() >= files + STALLED);

    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut published = Vec::new();
    for number in 0..EVENTS {
        pace.tick().await;
        let id = format!("e-{number}");
        send(&bus, "threat_alert", &id, &long_alert()).await;
        published.push(id);
    }
    let grown = gateway.process.resident_bytes().saturating_sub(memory);
    let bound = (STALLED + 1) * QUEUE_BYTES + MEMORY_OF_EVENTS_BYTES;
    assert!(grown < bound, "memory grew by {grown} bytes");

    expect.send(Some(EVENTS)).unwrap();
    assert_eq!(undisturbed(healthy, &published).await, HEALTHY);
    // Their own ends are open still.
    eventually("the slow readers' end", DEADLINE, async || {
        let log = gateway.process.stderr().lines();
        let gone = log.iter().filter(|line| {
            line.contains("disconnected") && line.contains("code=1013") && line.contains("by=Us")
        });
        (gone.count() == STALLED + 1).then_some(())
    })
    .await;
    eventually("their descriptors", DEADLINE, async || {
        (gateway.process.open_files() <= files - HEALTHY).then_some(())
    })
    .await;
    slow.abort();
    drop(stalled);
}

/// One that reads on in time gets whole frames, the reason, and everything
/// else once it has returned.
#[tokio::test]
async fn a_slow_reader_is_told_and_resumes() {
    let platform = platform("60").await;
    let bus = platform.bus(User::Producer).await;
    let token = platform.unlimited_token("viewer");
    let (expect, expected) = watch::channel(None);
    let healthy = followers(&platform, &token, 1, &expected).await;
    let (mut reader, mut seq) = subscriber(&platform, &token, None, None).await;
    let mut published = Vec::new();
    for number in 0..EVENTS / 2 {
        let id = format!("e-{number}");
        send(&bus, "threat_alert", &id, &long_alert()).await;
        published.push(id);
    }
    // Once a healthy reader has everything, the other has long been too slow.
    expect.send(Some(published.len())).unwrap();
    undisturbed(healthy, &published).await;
    let mut received = Vec::new();
    let mut take = |frame: &Value, seq: &mut Value| {
        assert_eq!(
            frame["data"]["ai_summary"].as_str().map(str::len),
            Some(SUMMARY_BYTES)
        );
        received.push(frame["id"].as_str().unwrap().to_owned());
        *seq = frame["seq"].clone();
    };
    let farewell = loop {
        let frame = reader.json().await;
        if frame["type"] != "threat_alert" {
            break frame;
        }
        take(&frame, &mut seq);
    };
    assert_eq!(
        (&farewell["type"], &farewell["code"]),
        (&json!("error"), &json!("CONNECTION_FAILED"))
    );
    assert!(farewell["retry_after"].as_u64().unwrap() > 0, "{farewell}");
    let (first, payload) = reader.receive().await.unwrap();
    assert_eq!((first, &payload[..2]), (CLOSE, &1013_u16.to_be_bytes()[..]));

    let (mut reader, _) = subscriber(&platform, &token, None, Some(&seq)).await;
    let last = published.last().unwrap();
    loop {
        let frame = reader.json().await;
        take(&frame, &mut seq);
        if frame["id"] == **last {
            break;
        }
    }
    assert_eq!(received, published);
}
