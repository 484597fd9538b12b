//! Pages in a real browser (headless Chromium), on an origin of their own.
//! G11 along the way: browsers always offer permessage-deflate.

use serde_json::json;
use signalbox_bus::server::User;
use signalbox_testkit::{Browser, DEADLINE, Platform};

use crate::events::{alert, send};

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

fn page(script: &str, settings: &serde_json::Value) -> String {
    format!("const SETTINGS = {settings};\n{script}")
}

#[tokio::test]
async fn a_page_receives_alerts() {
    let platform = Platform::start(1).await;
    let bus = platform.bus(User::Producer).await;
    let settings = json!({
        "url": platform.gateways[0].threat_url(), "token": platform.api_key("analyst"),
    });
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
async fn a_page_reads_why_it_was_refused() {
    let platform = Platform::start(1).await;
    let settings = json!({
        "url": platform.gateways[0].threat_url(), "token": "no.such.token",
    });
    let mut browser = Browser::open(&page(THREAT_PAGE, &settings)).await;
    browser.next(DEADLINE).await;
    let error = browser.next(DEADLINE).await;
    assert_eq!(error["frame"]["code"], "AUTH_FAILED");
    let closed = browser.next(DEADLINE).await;
    assert_eq!(closed["code"], 1008);
    assert_eq!(closed["reason"], error["frame"]["message"]);
}
