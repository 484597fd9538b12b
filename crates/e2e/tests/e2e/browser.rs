//! Pages in a real browser (headless Chromium), on an origin of their own.
//! G11 along the way: browsers always offer permessage-deflate.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::json;
use signalbox_bus::publish::{Outgoing, publish};
use signalbox_bus::{Bus, BusOptions, HeaderMap};
use signalbox_testkit::{Browser, DEADLINE, Platform, Process, api_key};

use crate::events::{alert, send};
use crate::up::{listener, up};

/// A dashboard on dialect `threat`: says what it hears and when it is closed.
const THREAT_PAGE: &str = r"
const socket = new WebSocket(SETTINGS.url);
socket.onopen = () => {
    report({open: true, extensions: socket.extensions});
    socket.send(JSON.stringify({type: 'authenticate', token: SETTINGS.token}));
};
socket.onmessage = message => {
    const frame = JSON.parse(message.data);
    report({frame});
    if (frame.type === 'auth_success') {
        socket.send(JSON.stringify({type: 'subscribe', channel: 'threat_alerts'}));
    }
    if (frame.type === 'threat_alert') {
        socket.close(1000);
    }
};
socket.onclose = event => report({code: event.code, reason: event.reason});
";

/// A dashboard on dialect `mesh`: exchanges a key for a token, as browsers do
/// that have one at all, and connects with it.
const MESH_PAGE: &str = r"
const answer = await fetch(`http://${SETTINGS.addr}/api/v1/auth/token`, {
    method: 'POST',
    headers: {'Content-Type': 'application/json'},
    body: JSON.stringify({api_key: SETTINGS.key}),
});
const {access_token} = await answer.json();
const socket = new WebSocket(`ws://${SETTINGS.addr}/api/v1/ws?token=${access_token}`);
socket.onopen = () => socket.send(JSON.stringify({type: 'subscribe', channel: 'network_events'}));
socket.onmessage = message => report({frame: JSON.parse(message.data)});
socket.onclose = event => report({code: event.code, reason: event.reason});
";

/// Says how it is closed, and nothing else.
const CLOSING_PAGE: &str = r"
const socket = new WebSocket(SETTINGS.url);
socket.onclose = event => report({code: event.code, reason: event.reason});
";

fn page(script: &str, settings: &serde_json::Value) -> String {
    format!("const SETTINGS = {settings};\n{script}")
}

/// A system that serves pages of any port of this machine, as `up` does, with
/// the key of a role.
async fn system(dir: &Path, role: &str) -> (Process, SocketAddr, Bus, String) {
    let (process, runtime) = up(dir).await;
    let options = BusOptions {
        url: runtime["nats_url"].as_str().unwrap().to_owned(),
        wait: DEADLINE,
    };
    let bus = Bus::connect(&options, "test").await.unwrap();
    let key = api_key(&dir.join("credentials.json"), role);
    (process, listener(&runtime), bus, key)
}

#[tokio::test]
async fn a_page_receives_alerts() {
    let dir = tempfile::tempdir().unwrap();
    let (_process, addr, bus, key) = system(dir.path(), "analyst").await;
    let settings = json!({"url": format!("ws://{addr}/v1/ws"), "token": key});
    let mut browser = Browser::open(&page(THREAT_PAGE, &settings)).await;
    let opened = browser.next(DEADLINE).await;
    assert_eq!(opened, json!({"open": true, "extensions": ""}));
    for kind in ["auth_success", "subscription_confirmed"] {
        assert_eq!(browser.next(DEADLINE).await["frame"]["type"], kind);
    }
    send(&bus, "threat_alert", "1", &alert("HIGH")).await;
    let event = browser.next(DEADLINE).await;
    assert_eq!(event["frame"]["data"], alert("HIGH"));
    assert_eq!(browser.next(DEADLINE).await["code"], 1000);
}

#[tokio::test]
async fn a_page_logs_in_and_follows_the_mesh() {
    let dir = tempfile::tempdir().unwrap();
    let (_process, addr, bus, key) = system(dir.path(), "viewer").await;
    let settings = json!({"addr": addr.to_string(), "key": key});
    let mut browser = Browser::open(&page(MESH_PAGE, &settings)).await;
    assert_eq!(browser.next(DEADLINE).await["frame"]["type"], "subscribed");
    let data = json!({"node_id": "node_123", "address": "node123.onion"});
    let message = Outgoing {
        subject: "events.network.node_joined".to_owned(),
        message_id: "network/test/1".to_owned(),
        headers: HeaderMap::new(),
        payload: data.to_string().into(),
    };
    publish(&bus, &message, DEADLINE).await.unwrap();
    let event = browser.next(DEADLINE).await;
    assert_eq!(event["frame"]["event"], "node_joined");
    assert_eq!(event["frame"]["data"], data);
}

#[tokio::test]
async fn a_page_reads_why_it_was_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (_process, addr, ..) = system(dir.path(), "viewer").await;
    let settings = json!({"url": format!("ws://{addr}/v1/ws"), "token": "no.such.token"});
    let mut browser = Browser::open(&page(THREAT_PAGE, &settings)).await;
    browser.next(DEADLINE).await;
    let error = browser.next(DEADLINE).await;
    assert_eq!(error["frame"]["code"], "AUTH_FAILED");
    let closed = browser.next(DEADLINE).await;
    assert_eq!(closed["code"], 1008);
    assert_eq!(closed["reason"], error["frame"]["message"]);

    // M1: the token is on the URL, and so is the answer to a bad one.
    let settings =
        json!({"url": format!("ws://{addr}/api/v1/ws?token=no.such.token"), "token": ""});
    let mut browser = Browser::open(&page(CLOSING_PAGE, &settings)).await;
    let closed = browser.next(DEADLINE).await;
    assert_eq!(closed["code"], 1008);
    assert_eq!(closed["reason"], "the token is not valid");
}

#[tokio::test]
async fn a_page_of_a_foreign_origin_gets_no_connection() {
    let platform = Platform::start(1).await;
    let settings = json!({
        "url": platform.gateways[0].threat_url(), "token": platform.api_key("analyst"),
    });
    let mut browser = Browser::open(&page(THREAT_PAGE, &settings)).await;
    // A browser says no more of a refused upgrade.
    let closed = browser.next(DEADLINE).await;
    assert_eq!(closed, json!({"code": 1006, "reason": ""}));
}
