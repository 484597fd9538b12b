//! Promise of revocation: a second after it was answered, nothing published
//! later reaches the connections concerned, nor does history; a bus that is cut
//! meanwhile changes nothing about the order.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use parking_lot::Mutex;
use serde_json::{Value, json};
use signalbox_bus::server::User;
use signalbox_bus::{Bus, rpc, subject};
use signalbox_protocol::wire::{self, issue_token_reply, revoke_request};
use signalbox_testkit::{
    DEADLINE, Platform, Process, Proxy, Service, WsClient, eventually, post, signalbox,
};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::events::{alert, send};

/// Within how long after its answer a revocation holds everywhere.
const BOUND: Duration = Duration::from_secs(1);
/// Connections with each kind of credential.
const EACH: usize = 100;
/// The crowds are of a few users.
const PLENTY: &str = "--messages-per-minute";
const PASSWORD: &str = "correct horse battery staple";

/// Runs `signalbox` as the registrar of the bus; what it printed.
pub(crate) async fn run(platform: &Platform, arguments: &[&str], input: Option<&str>) -> String {
    let mut command = signalbox();
    command
        .args(arguments)
        .env("NATS_URL", platform.nats.url(User::Registrar));
    let process = Process::spawn(command);
    if let Some(line) = input {
        process.write_line(line);
    }
    process.close_stdin();
    let status = process.wait(DEADLINE).await;
    let told = process.stderr().lines().join("\n");
    assert!(status.success(), "{arguments:?}: {told}");
    process.stdout().lines().join("\n")
}

/// A new key: its id, and itself.
async fn new_key(platform: &Platform, name: &str) -> (String, String) {
    let made = [
        "key", "create", "--role", "viewer", "--name", name, "--json", PLENTY, "100000",
    ];
    let made: Value = serde_json::from_str(&run(platform, &made, None).await).unwrap();
    let text = |field: &str| made[field].as_str().unwrap().to_owned();
    (text("id"), text("api_key"))
}

async fn new_user(platform: &Platform, name: &str) {
    let create = ["user", "create", name, "--role", "viewer", PLENTY, "100000"];
    run(platform, &create, Some(PASSWORD)).await;
}

/// An access token for a key.
async fn token_of(platform: &Platform, key: &str) -> String {
    let body = json!({"api_key": key}).to_string();
    let listener = platform.gateways[0].listener();
    let (status, answer) = post(listener, "/api/v1/auth/token", &body).await;
    assert_eq!(status, 200, "{answer}");
    let answer: Value = serde_json::from_str(&answer).unwrap();
    answer["access_token"].as_str().unwrap().to_owned()
}

/// The tokens of a user who logs in.
async fn login(bus: &Bus, name: &str) -> wire::IssuedToken {
    let request = wire::IssueTokenRequest {
        username: name.to_owned(),
        password: PASSWORD.to_owned(),
        ..wire::IssueTokenRequest::default()
    };
    let reply = rpc::call(bus, subject::ISSUE_TOKEN, &request, None, DEADLINE).await;
    let reply: wire::IssueTokenReply = reply.unwrap();
    match reply.outcome.unwrap() {
        issue_token_reply::Outcome::Token(token) => token,
        issue_token_reply::Outcome::Refusal(refusal) => panic!("{refusal:?}"),
    }
}

async fn revoke_family(bus: &Bus, refresh_token: String) {
    let request = wire::RevokeRequest {
        context: None,
        held: Some(revoke_request::Held::RefreshToken(refresh_token)),
    };
    let reply = rpc::call(bus, subject::REVOKE, &request, None, DEADLINE).await;
    let reply: wire::RevokeReply = reply.unwrap();
    assert!(
        matches!(reply.outcome, Some(wire::revoke_reply::Outcome::Done(_))),
        "{reply:?}"
    );
}

async fn subscriber(gateway: &Service, credential: &str) -> (WsClient, Value) {
    let mut client = WsClient::connect(&gateway.threat_url(), &[]).await;
    client.authenticate(credential).await;
    let confirmed = client.subscribe(json!({"channel": "threat_alerts"})).await;
    (client, confirmed["seq"].clone())
}

/// Publishes one event after the other, and notes when each began.
struct Producer {
    begun: Arc<Mutex<Vec<(String, Instant)>>>,
    task: JoinHandle<()>,
}

impl Producer {
    fn start(bus: Bus) -> Self {
        let begun: Arc<Mutex<Vec<(String, Instant)>>> = Arc::default();
        let notes = Arc::clone(&begun);
        let task = tokio::spawn(async move {
            for number in 0_u32.. {
                let id = format!("load-{number}");
                notes.lock().push((id.clone(), Instant::now()));
                send(&bus, "threat_alert", &id, &alert("HIGH")).await;
                // A pace that 400 readers on a busy machine keep up with.
                sleep(Duration::from_millis(20)).await;
            }
        });
        Self { begun, task }
    }

    /// The ids of events that were begun after `moment`.
    fn since(&self, moment: Instant) -> BTreeSet<String> {
        let begun = self.begun.lock();
        let later = begun.iter().filter(|(_, at)| *at > moment);
        later.map(|(id, _)| id.clone()).collect()
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn ids(frames: &[Value]) -> BTreeSet<String> {
    let events = frames
        .iter()
        .filter(|frame| frame["type"] == "threat_alert");
    events
        .map(|frame| frame["id"].as_str().unwrap().to_owned())
        .collect()
}

type Reading = JoinHandle<Vec<Value>>;

/// Reads until the connection ends, which has to be as a revocation does it.
fn read_to_the_end(mut client: WsClient) -> Reading {
    tokio::spawn(async move {
        let end = timeout(DEADLINE * 2, client.drain(DEADLINE)).await;
        let (frames, closed) = end.expect("the connection ends");
        assert_eq!(closed.code, Some(1008), "{closed:?}");
        assert_eq!(closed.reason, "the credential was revoked");
        assert_eq!(frames.last().unwrap()["code"], "AUTH_FAILED");
        frames
    })
}

/// Reads up to and including the frame that is the last.
async fn read_until(client: &mut WsClient, done: impl Fn(&Value) -> bool) -> Vec<Value> {
    let mut frames = Vec::new();
    loop {
        let frame = client.next_json(DEADLINE).await;
        let is_last = done(&frame);
        frames.push(frame);
        if is_last {
            return frames;
        }
    }
}

/// Nothing comes of a credential that was revoked, whatever it asks for.
async fn is_refused(gateway: &Service, credential: &str) {
    let mut client = WsClient::connect(&gateway.threat_url(), &[]).await;
    client
        .send_json(&json!({"type": "authenticate", "token": credential}))
        .await;
    assert_eq!(client.next_json(DEADLINE).await["code"], "AUTH_FAILED");
    assert_eq!(client.expect_close(DEADLINE).await.code, Some(1008));
}

async fn crowd(gateway: &Service, credential: &str) -> Vec<WsClient> {
    let connecting = (0..EACH).map(|_| subscriber(gateway, credential));
    let connected = join_all(connecting).await;
    connected.into_iter().map(|(client, _)| client).collect()
}

/// Keys and their tokens, families, users and permissions, each of them held by
/// a crowd that is being sent events.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_revoked_under_load_has_ended_a_second_later() {
    let arguments = ["--connect-rate", "0", "--longest-refusal-delay", "0"];
    let platform = Platform::start_with(1, &arguments).await;
    let gateway = &platform.gateways[0];
    let bus = platform.bus(User::Gateway).await;
    let (key_id, key) = new_key(&platform, "Wall").await;
    let (narrowed_id, narrowed_key) = new_key(&platform, "Desk").await;
    let key_token = token_of(&platform, &key).await;
    new_user(&platform, "ada").await;
    new_user(&platform, "bob").await;
    let (ada, bob) = (login(&bus, "ada").await, login(&bus, "bob").await);

    let (_, since) = subscriber(gateway, &narrowed_key).await;
    let producer = Producer::start(platform.bus(User::Producer).await);
    let mut ending: Vec<(Reading, &str)> = Vec::new();
    for (credential, kind) in [
        (key.as_str(), "key"),
        (key_token.as_str(), "key"),
        (ada.access_token.as_str(), "family"),
        (bob.access_token.as_str(), "user"),
    ] {
        for client in crowd(gateway, credential).await {
            ending.push((read_to_the_end(client), kind));
        }
    }
    let mut narrowed: Vec<Reading> = Vec::new();
    for mut client in crowd(gateway, &narrowed_key).await {
        narrowed.push(tokio::spawn(async move {
            let ended = |frame: &Value| frame["type"] == "unsubscription_confirmed";
            let frames = read_until(&mut client, ended).await;
            let told = frames.iter().filter(|frame| frame["code"] == "FORBIDDEN");
            assert_eq!(told.count(), 1);
            // It stays, until its key is revoked at the end of the test.
            let end = timeout(DEADLINE * 2, client.drain(DEADLINE)).await;
            let (rest, closed) = end.expect("the connection ends");
            assert_eq!(closed.code, Some(1008), "{closed:?}");
            assert_eq!(ids(&rest), BTreeSet::new());
            frames
        }));
    }
    let (mut witness, _) = subscriber(gateway, &platform.api_key("viewer")).await;

    run(&platform, &["key", "revoke", &key_id], None).await;
    let by_key = Instant::now() + BOUND;
    revoke_family(&bus, ada.refresh_token.clone()).await;
    let by_family = Instant::now() + BOUND;
    run(&platform, &["user", "revoke", "bob"], None).await;
    let by_user = Instant::now() + BOUND;
    run(
        &platform,
        &["key", "set", &narrowed_id, "--role", "producer"],
        None,
    )
    .await;
    let by_grant = Instant::now() + BOUND;

    eventually("events behind the bound", DEADLINE, async || {
        (producer.since(by_grant).len() >= 20).then_some(())
    })
    .await;
    let last = producer.since(by_grant).into_iter().next().unwrap();
    // Whoever is entitled still gets them all; by then others would have, too.
    read_until(&mut witness, |frame| frame["id"] == last.as_str()).await;

    for (reading, kind) in ending {
        let bound = match kind {
            "key" => by_key,
            "family" => by_family,
            _ => by_user,
        };
        let received = ids(&reading.await.unwrap());
        let late: Vec<_> = received
            .intersection(&producer.since(bound))
            .cloned()
            .collect();
        assert!(!received.is_empty(), "{kind}: nothing came before");
        assert!(late.is_empty(), "{kind}: {late:?}");
    }
    for credential in [&key, &key_token, &ada.access_token, &bob.access_token] {
        is_refused(gateway, credential).await;
    }

    // A subscription that is no longer allowed neither goes on nor is replayed.
    let mut returning = WsClient::connect(&gateway.threat_url(), &[]).await;
    returning.authenticate(&narrowed_key).await;
    let resume = json!({"type": "subscribe", "channel": "threat_alerts", "since": since});
    returning.send_json(&resume).await;
    assert_eq!(returning.next_json(DEADLINE).await["code"], "FORBIDDEN");
    returning.send_json(&json!({"type": "ping"})).await;
    assert_eq!(returning.next_json(DEADLINE).await["type"], "pong");
    run(&platform, &["key", "revoke", &narrowed_id], None).await;
    for reading in narrowed {
        let received = ids(&reading.await.unwrap());
        let late: Vec<_> = received
            .intersection(&producer.since(by_grant))
            .cloned()
            .collect();
        assert!(!received.is_empty(), "narrowed: nothing came before");
        assert!(late.is_empty(), "narrowed: {late:?}");
    }
}

/// The gateway's link to the bus is cut, a user revoked and events published:
/// the revocation is applied before what was published behind it is read on.
#[tokio::test]
async fn a_revocation_during_a_cut_is_applied_before_delivery_goes_on() {
    let platform = Platform::start(0).await;
    let bus = platform.bus(User::Gateway).await;
    let producer = platform.bus(User::Producer).await;
    let to_nats = SocketAddr::from(([127, 0, 0, 1], platform.nats.port()));
    let proxy = Proxy::start(to_nats).await;
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let gateway = platform
        .start_gateway_at(anywhere, proxy.addr().port())
        .await;
    for (round, refusing) in [true, false, true, false].into_iter().enumerate() {
        let name = format!("user-{round}");
        new_user(&platform, &name).await;
        let token = login(&bus, &name).await.access_token;
        let (mut client, _) = subscriber(&gateway, &token).await;
        let (mut witness, _) = subscriber(&gateway, &platform.api_key("viewer")).await;
        let before = format!("before-{round}");
        send(&producer, "threat_alert", &before, &alert("HIGH")).await;
        assert_eq!(client.expect("threat_alert").await["id"], before);
        proxy.refuse();
        proxy.cut();
        run(&platform, &["user", "revoke", &name], None).await;
        for number in 0..50 {
            let id = format!("after-{round}-{number}");
            send(&producer, "threat_alert", &id, &alert("HIGH")).await;
        }
        if refusing {
            // Long enough for the gateway to notice and to try again.
            eventually("a refused attempt", DEADLINE, async || {
                (proxy.connections() == 0).then_some(())
            })
            .await;
        }
        proxy.admit();
        let (frames, closed) = client.drain(DEADLINE).await;
        assert_eq!(closed.code, Some(1008), "{closed:?}");
        assert_eq!(ids(&frames), BTreeSet::new());
        // In order, and all of it, for whoever is entitled.
        assert_eq!(witness.expect("threat_alert").await["id"], before);
        for number in 0..50 {
            let id = format!("after-{round}-{number}");
            assert_eq!(witness.expect("threat_alert").await["id"], id);
        }
        is_refused(&gateway, &token).await;
    }
}
