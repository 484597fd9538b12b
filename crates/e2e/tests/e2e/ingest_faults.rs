//! Events over HTTP when the bus dies, is away or full, when too much comes at
//! once, and when the gateway is stopped: what was acknowledged arrives once,
//! and the producer is told what to send again.

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use signalbox_bus::server::User;
use signalbox_bus::stream::{self, StreamSettings, TOPICS, init};
use signalbox_testkit::{DEADLINE, Platform, eventually, get, request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::events::alert;
use crate::ingest::{BARE, BATCH, PATH, batch, expect_ids, post, subscriber};

/// The bus is killed in the middle of a batch: the answer says what was
/// acknowledged, and the same request again leaves every event stored once.
#[tokio::test]
async fn a_batch_that_the_bus_interrupted_can_be_sent_again() {
    let platform = Platform::start_with(1, &["--ingest-patience", "2"]).await;
    let mut client = subscriber(&platform).await;
    let batch = batch(1_000);
    let sending = post(&platform, PATH, &[BATCH], &batch);
    let killing = async {
        let first = client.expect("threat_alert").await;
        assert_eq!(first["id"], "0");
        platform.nats.kill9();
    };
    let (answer, ()) = tokio::join!(sending, killing);
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(answer.header("retry-after"), Some("1"));
    let body = answer.json();
    assert_eq!(body["error"]["code"], "UNAVAILABLE");
    let acknowledged = body["acknowledged"].as_array().unwrap();
    assert!(
        (1..1_000).contains(&acknowledged.len()),
        "{}",
        acknowledged.len()
    );
    for (index, event) in acknowledged.iter().enumerate() {
        assert_eq!(event["id"], index.to_string());
    }
    platform.nats.restart().await;
    // The work queue has forgotten what routers took before the restart, so it
    // may take an event again; the log behind it has not.
    eventually("the batch to be taken", DEADLINE, async || {
        let answer = post(&platform, PATH, &[BATCH], &batch).await;
        (answer.status == 202).then_some(())
    })
    .await;
    post(
        &platform,
        &format!("{BARE}&id=after"),
        &[],
        &alert("LOW").to_string(),
    )
    .await;
    let rest = (1..1_000).map(|id| id.to_string());
    expect_ids(&mut client, rest.chain(["after".to_owned()])).await;
}

/// A gateway that has lost the bus refuses at once rather than after its
/// patience.
#[tokio::test]
async fn without_the_bus_nothing_is_taken() {
    let platform = Platform::start(1).await;
    let admin = platform.gateways[0].admin;
    let token = platform.token("producer").await;
    platform.nats.kill9();
    eventually("unreadiness", DEADLINE, async || {
        (get(admin, "/ready").await.0 != 200).then_some(())
    })
    .await;
    let bearer = format!("Bearer {token}");
    let headers = [("Authorization", bearer.as_str())];
    let listener = platform.gateways[0].listener();
    let answer = request(listener, "POST", BARE, &headers, &alert("LOW").to_string()).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(answer.header("retry-after"), Some("1"));
    let error = &answer.json()["error"];
    assert_eq!(error["code"], "UNAVAILABLE");
    assert!(
        error["message"].as_str().unwrap().contains("out of reach"),
        "{error}"
    );
}

/// A full work queue is told as such; what was taken is delivered.
#[tokio::test]
async fn a_full_work_queue_is_told() {
    let platform = Platform::start(1).await;
    let admin = platform.bus(User::Admin).await;
    let mut client = subscriber(&platform).await;
    let small = StreamSettings {
        events_bytes: 64 * 1024,
        ..StreamSettings::default()
    };
    init(&admin, &small).await.unwrap();
    platform.router.process.sigstop();
    let answer = post(&platform, PATH, &[BATCH], &batch(1_000)).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    let body = answer.json();
    let message = body["error"]["message"].as_str().unwrap();
    assert!(message.contains("room"), "{message}");
    let taken = body["acknowledged"].as_array().unwrap().len();
    assert!((1..1_000).contains(&taken), "{taken}");
    platform.router.process.sigcont();
    expect_ids(&mut client, (0..taken).map(|id| id.to_string())).await;
    let answer = post(
        &platform,
        &format!("{BARE}&id=room"),
        &[],
        &alert("LOW").to_string(),
    )
    .await;
    assert_eq!(answer.status, 202, "{answer:?}");
    expect_ids(&mut client, ["room".to_owned()]).await;
}

/// One credential has so many requests under way and no more; others are not
/// held up by it.
#[tokio::test]
async fn requests_of_one_credential_are_bounded() {
    let platform = Platform::start(1).await;
    let listener = platform.gateways[0].listener();
    let key = platform.api_key("producer");
    let head = format!(
        "POST {BARE} HTTP/1.1\r\nHost: {listener}\r\nX-API-Key: {key}\r\nContent-Length: 10\r\n\r\n{{"
    );
    let mut held: FuturesUnordered<_> = (0..9)
        .map(async |_| {
            let mut stream = TcpStream::connect(listener).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = vec![0; 1024];
            let length = stream.read(&mut answer).await.unwrap();
            String::from_utf8_lossy(&answer[..length]).into_owned()
        })
        .collect();
    // Eight wait for their bodies; whichever comes as the ninth does not.
    let refused = held.next().await.unwrap();
    assert!(refused.starts_with("HTTP/1.1 429 "), "{refused}");
    assert!(refused.contains("\r\nretry-after: 1\r\n"), "{refused}");
    assert!(refused.contains("RATE_LIMIT"), "{refused}");
    let body = alert("HIGH").to_string();
    assert_eq!(post(&platform, BARE, &[], &body).await.status, 429);
    let other = platform.api_key("admin");
    let headers = [("X-API-Key", other.as_str())];
    assert_eq!(
        request(listener, "POST", BARE, &headers, &body)
            .await
            .status,
        202
    );
    drop(held);
    eventually("room", DEADLINE, async || {
        (post(&platform, BARE, &[], &body).await.status == 202).then_some(())
    })
    .await;
}

/// A request that is under way when the gateway is stopped is answered.
#[tokio::test]
async fn a_stop_lets_requests_end() {
    let platform = Platform::start_with(1, &["--drain-window", "20"]).await;
    let mut client = subscriber(&platform).await;
    let gateway = &platform.gateways[0];
    let body = alert("HIGH").to_string();
    let (first, rest) = body.split_at(10);
    let head = format!(
        "POST {BARE}&id=late HTTP/1.1\r\nHost: x\r\nX-API-Key: {}\r\nContent-Length: {}\r\n\r\n{first}",
        platform.api_key("producer"),
        body.len(),
    );
    let mut stream = TcpStream::connect(gateway.listener()).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    // Behind it in time: the connection is known to the gateway.
    post(&platform, &format!("{BARE}&id=early"), &[], &body).await;
    expect_ids(&mut client, ["early".to_owned()]).await;
    gateway.process.sigterm();
    let said = gateway.process.stderr();
    said.wait_for_line("telling clients", DEADLINE).await;
    stream.write_all(rest.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    assert!(gateway.process.wait(DEADLINE).await.success());
    let bus = platform.bus(User::Admin).await;
    eventually("the event to be stored", DEADLINE, async || {
        let stored = stream::state(&bus, TOPICS).await.unwrap().last;
        (stored == 2).then_some(())
    })
    .await;
}
