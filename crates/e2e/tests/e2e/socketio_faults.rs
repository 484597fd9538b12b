//! Clients of the dialects on Socket.IO whom something happens to amid a command
//! (G6, G8, G10): a revocation, a take-over, a break, a write that waits.

use std::time::Duration;

use serde_json::{Value, json};
use signalbox_bus::Bus;
use signalbox_testkit::{DEADLINE, Direction, Flow, Platform, Process, Proxy, eventually};

use crate::io::{Io, producer, send};
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

const STALLED: Flow = Flow {
    stalled: true,
    delay: Duration::ZERO,
    rate: None,
};

async fn platform(arguments: &[&str]) -> Platform {
    Platform::start_with(1, &[ONE_SHARD, arguments].concat()).await
}

async fn logged(process: &Process, words: &[&str]) {
    let is_it = |line: &String| words.iter().all(|word| line.contains(word));
    eventually(&format!("a line with {words:?}"), DEADLINE, async || {
        process.stderr().lines().iter().any(is_it).then_some(())
    })
    .await;
}

async fn debug(bus: &Bus, id: &str, bytes: usize) {
    let data = json!({"sessionId": "s", "session": {"text": "x".repeat(bytes)}});
    send(bus, "pipeline.debug_session_created", id, &data).await;
}

async fn alert(bus: &Bus, id: &str) {
    let data = json!({"alertId": id, "alert": {}});
    send(bus, "pipeline.system_alert", id, &data).await;
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
