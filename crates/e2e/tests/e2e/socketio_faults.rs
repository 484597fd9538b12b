//! Clients of the dialects on Socket.IO whom something happens to amid a command
//! (G6, G8, G10): a revocation, a take-over, a break, a write that waits.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use signalbox_bus::Bus;
use signalbox_testkit::{
    DEADLINE, Direction, Flow, Platform, Process, Proxy, Service, WsClient, eventually, request,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::io::{Io, producer, send, token};
use crate::revocation::run;

/// One shard, whose connections follow each other into the same places.
const ONE_SHARD: &[&str] = &["--longest-refusal-delay", "0", "--shards", "1"];
/// Readers that stop are noticed early, and suffered for long.
const STALLING: &[&str] = &[
    "--send-buffer-bytes",
    "16384",
    "--queue-bytes",
    "100000000",
    "--queue-frames",
    "100000",
];
/// Events, of so many bytes each, that do not fit into the buffers of a reader
/// who has stopped.
const MANY: usize = 200;
const LARGE: usize = 40_000;
/// Events while a write waits, some of which come when it has begun.
const DURING: usize = 50;

const STALLED: Flow = Flow {
    stalled: true,
    delay: Duration::ZERO,
    rate: None,
};

async fn platform(arguments: &[&str]) -> Platform {
    Platform::start_with(1, &[ONE_SHARD, arguments].concat()).await
}

/// A gateway whose link to the bus can be held up.
async fn behind_a_proxy(platform: &Platform) -> (Proxy, Service) {
    let proxy = Proxy::start(([127, 0, 0, 1], platform.nats.port()).into()).await;
    let gateway = platform
        .start_gateway_through(proxy.addr().port(), ONE_SHARD)
        .await;
    (proxy, gateway)
}

async fn logged(process: &Process, words: &[&str]) {
    let is_it = |line: &String| words.iter().all(|word| line.contains(word));
    eventually(&format!("a line with {words:?}"), DEADLINE, async || {
        process.stderr().lines().iter().any(is_it).then_some(())
    })
    .await;
}

/// The sum of a metric over its labels.
async fn metric(gateway: &Service, name: &str) -> u64 {
    let body = request(gateway.admin, "GET", "/metrics", &[], "")
        .await
        .body;
    let lines = body.lines().filter(|line| {
        line.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with(['{', ' ']))
    });
    lines
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64)
        .sum()
}

async fn debug(bus: &Bus, id: &str, bytes: usize) {
    let data = json!({"sessionId": "s", "session": {"text": "x".repeat(bytes)}});
    send(bus, "pipeline.debug_session_created", id, &data).await;
}

async fn alert(bus: &Bus, id: &str) {
    let data = json!({"alertId": id, "alert": {}});
    send(bus, "pipeline.system_alert", id, &data).await;
}

async fn touch(bus: &Bus, id: &str) {
    let data = json!({"project_id": "p-1", "updated_by": "nobody"});
    send(bus, "project.updated", id, &data).await;
}

/// A client that replaces its events so often that no further replacement fits
/// is bound by what its credential has become all the same.
#[tokio::test]
async fn a_narrowed_credential_holds_amid_many_replays() {
    let platform = platform(STALLING).await;
    let gateway = &platform.gateways[0];
    let bus = producer(&platform).await;
    let made = [
        "key", "create", "--role", "operator", "--name", "Desk", "--json",
    ];
    let made: Value = serde_json::from_str(&run(&platform, &made, None).await).unwrap();
    let (id, key) = (made["id"].as_str().unwrap(), &made["api_key"]);
    let authenticated = async |address| {
        let io = Io::connect(address, json!({})).await;
        io.event("connect").await;
        io.emit("authenticate", &json!({"token": key}));
        let since = io.message("authenticated").await[0]["seq"].clone();
        (io, since)
    };
    let (witness, since) = authenticated(gateway.listener()).await;
    for number in 0..MANY {
        debug(&bus, &format!("early-{number}"), LARGE).await;
        witness.message("debug_session_created").await;
    }
    let proxy = Proxy::start(gateway.listener()).await;
    let (io, _) = authenticated(proxy.addr()).await;
    proxy.shape(Direction::Back, STALLED);
    for _ in 0..17 {
        io.emit("subscribe", &json!({"since": since}));
    }
    logged(&gateway.process, &["subscribed again too often"]).await;
    run(&platform, &["key", "set", id, "--role", "viewer"], None).await;
    logged(&gateway.process, &["revoked", "narrowed"]).await;
    debug(&bus, "late", 1).await;
    alert(&bus, "end").await;
    proxy.shape(Direction::Back, Flow::default());
    loop {
        let (name, arguments) = io.next_message().await;
        let id = &arguments[0]["id"];
        if name == "system_alert" {
            assert_eq!(id, "end");
            break;
        }
        assert_ne!(id, "late", "{name}");
    }
}

/// What a client left behind is taken by another connection before it has said
/// who it is: it returns for it, and misses nothing.
#[tokio::test]
async fn a_session_that_was_taken_meanwhile_is_returned_to() {
    let platform = platform(&[]).await;
    let bus = producer(&platform).await;
    let address = platform.gateways[0].listener();
    let io = Io::connect(address, json!({})).await;
    io.event("connect").await;
    let short = token(&platform, "viewer", "ada", &[], 2);
    io.emit("authenticate", &json!({"token": short}));
    io.message("authenticated").await;
    alert(&bus, "seen").await;
    let offset = io.message("system_alert").await[1].clone();
    let secret = io.secret().await;
    drop(io);
    alert(&bus, "missed").await;
    eventually("the token has ended", DEADLINE, async || {
        let bearer = format!("Bearer {short}");
        let headers = [("Authorization", bearer.as_str())];
        let path = "/api/v1/admin/roles";
        let refused = request(address, "GET", path, &headers, "").await;
        (refused.status == 401).then_some(())
    })
    .await;
    let auth = json!({"pid": secret, "offset": offset});
    let (late, early) = (Io::new(address).await, Io::new(address).await);
    let options =
        |again: bool| json!({"auth": auth, "transports": ["websocket"], "reconnection": again});
    late.join(&options(true));
    late.event("connect").await;
    early.join(&options(false));
    early.event("connect").await;
    let fresh = token(&platform, "viewer", "ada", &[], 3_600);
    early.emit("authenticate", &json!({"token": fresh}));
    assert_eq!(early.message("authenticated").await[0]["recovered"], true);
    assert_eq!(early.message("system_alert").await[0]["id"], "missed");
    late.emit("authenticate", &json!({"token": fresh}));
    assert_eq!(late.message("system_alert").await[0]["id"], "missed");
    late.event("disconnect").await;
    assert_eq!(late.event("connect").await["recovered"], true);
    early.event("disconnect").await;
    alert(&bus, "live").await;
    assert_eq!(late.message("system_alert").await[0]["id"], "live");
}

/// A client that goes while its credential is looked at leaves nothing with the
/// gateway.
#[tokio::test]
async fn who_leaves_amid_authenticate_gets_nothing_afterwards() {
    let platform = Platform::start(0).await;
    let (proxy, gateway) = behind_a_proxy(&platform).await;
    let credential = token(&platform, "viewer", "ada", &[], 3_600);
    // Only the stream can tell that this is not within reach.
    let options = json!({
        "auth": {"since": "1-5"}, "transports": ["websocket"], "reconnection": false,
    });
    let mut clients = Vec::new();
    for _ in 0..2 {
        let io = Io::new(gateway.listener()).await;
        io.join(&options);
        io.event("connect").await;
        clients.push(io);
    }
    let (other, gone) = (clients.pop().unwrap(), clients.pop().unwrap());
    proxy.shape(Direction::Forth, STALLED);
    gone.emit("authenticate", &json!({"token": credential}));
    logged(&gateway.process, &["audit", "authenticated"]).await;
    gone.cut();
    logged(&gateway.process, &["audit", "disconnected"]).await;
    proxy.shape(Direction::Forth, Flow::default());
    // The stream answers it behind the one who left.
    other.emit("authenticate", &json!({"token": credential}));
    assert_eq!(other.message("authenticated").await[0]["recovered"], false);
    let subscriptions = async || metric(&gateway, "signalbox_gateway_subscriptions").await;
    eventually("subscriptions", DEADLINE, async || {
        (subscriptions().await > 0).then_some(())
    })
    .await;
    other.leave();
    eventually("none is left", DEADLINE, async || {
        (subscriptions().await == 0).then_some(())
    })
    .await;
}

/// The session of a client that went amid its return makes nobody known.
#[tokio::test]
async fn who_leaves_amid_a_return_is_a_stranger_again() {
    const MOST: usize = 4;
    let bound = ["--max-unauthenticated-per-address", &MOST.to_string()];
    let platform = platform(&[STALLING, &bound].concat()).await;
    let gateway = &platform.gateways[0];
    let bus = producer(&platform).await;
    let credential = token(&platform, "operator", "ada", &[], 3_600);
    let io = Io::connect(gateway.listener(), json!({})).await;
    io.event("connect").await;
    io.emit("authenticate", &json!({"token": credential}));
    io.message("authenticated").await;
    let secret = io.secret().await;
    drop(io);
    logged(&gateway.process, &["audit", "disconnected"]).await;
    for number in 0..MANY {
        debug(&bus, &format!("missed-{number}"), LARGE).await;
    }
    let url = format!(
        "ws://{}/socket.io/?EIO=4&transport=websocket",
        gateway.listener()
    );
    let mut client = WsClient::connect(&url, &[]).await;
    let opened = client.next_message(DEADLINE).await.unwrap();
    let opened: Value = serde_json::from_str(&opened.to_text().unwrap()[1..]).unwrap();
    let hello = json!({"pid": secret, "dialect": "pipeline"});
    client.send(format!("40/ws,{hello}").into()).await;
    let connections = async || metric(gateway, "signalbox_gateway_connections").await;
    eventually("it returns", DEADLINE, async || {
        let lines = gateway.process.stderr().lines();
        let known = lines
            .iter()
            .filter(|line| line.contains("audit") && line.contains(" authenticated"));
        (known.count() == 2).then_some(())
    })
    .await;
    assert_eq!(connections().await, 1);
    drop(client);
    eventually("it is gone", DEADLINE, async || {
        (connections().await == 0).then_some(())
    })
    .await;
    let sid = opened["sid"].as_str().unwrap();
    let asked =
        format!("GET /socket.io/?EIO=4&transport=polling&sid={sid} HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut open = Vec::new();
    let mut answers = BTreeSet::new();
    for _ in 0..=MOST {
        let mut stream = TcpStream::connect(gateway.listener()).await.unwrap();
        stream.write_all(asked.as_bytes()).await.unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).await.unwrap();
        answers.insert(String::from_utf8_lossy(&status[9..]).into_owned());
        open.push(stream);
    }
    assert_eq!(answers, ["400", "429"].map(str::to_owned).into());
}

/// Two members of project `p-1`, of whom the second is in its room, on a gateway
/// whose link to the bus can be held up.
async fn members(platform: &Platform, bus: &Bus) -> (Proxy, Service, String, [Io; 2]) {
    let (proxy, gateway) = behind_a_proxy(platform).await;
    let credential = token(platform, "viewer", "ada", &["p-1"], 3_600);
    let mut members = Vec::new();
    for _ in 0..2 {
        let io = Io::connect(gateway.listener(), json!({"token": credential})).await;
        io.message("connection_established").await;
        members.push(io);
    }
    let Ok([io, witness]) = <[Io; 2]>::try_from(members) else {
        unreachable!("there are two");
    };
    witness
        .ask("subscribe", &json!({"room": "project:p-1"}))
        .await;
    // With its first event a gateway looks at what was revoked.
    touch(bus, "first").await;
    witness.message("project.updated").await;
    (proxy, gateway, credential, [io, witness])
}

/// What a room gets while the join is being written came before it: nothing of
/// it comes out of turn afterwards.
#[tokio::test]
async fn what_came_while_a_join_was_written_came_before() {
    let platform = Platform::start(0).await;
    let bus = producer(&platform).await;
    let (proxy, _gateway, _, [io, witness]) = members(&platform, &bus).await;
    let room = json!({"room": "project:p-1"});
    proxy.shape(Direction::Forth, STALLED);
    io.emit("subscribe", &room);
    for number in 0..DURING {
        touch(&bus, &format!("during-{number}")).await;
        witness.message("project.updated").await;
    }
    proxy.shape(Direction::Forth, Flow::default());
    assert_eq!(io.ask("ping", &json!({})).await["status"], "pong");
    touch(&bus, "after").await;
    let event = io.message("project.updated").await;
    assert_eq!(event[0]["id"], "after");
    assert_eq!(event[1], event[0]["seq"], "the offset");
}

/// The same of the events of dialect `pipeline` beside rooms.
#[tokio::test]
async fn what_came_while_a_credential_was_written_came_before() {
    let platform = Platform::start(0).await;
    let bus = producer(&platform).await;
    let (proxy, _gateway, credential, [io, witness]) = members(&platform, &bus).await;
    let token = json!({"token": credential});
    witness.emit("authenticate", &token);
    witness.message("authenticated").await;
    proxy.shape(Direction::Forth, STALLED);
    io.emit("authenticate", &token);
    for number in 0..DURING {
        alert(&bus, &format!("during-{number}")).await;
        witness.message("system_alert").await;
    }
    proxy.shape(Direction::Forth, Flow::default());
    io.message("authenticated").await;
    alert(&bus, "after").await;
    let event = io.message("system_alert").await;
    assert_eq!(event[0]["id"], "after");
    assert_eq!(event[1], event[0]["seq"], "the offset");
}
