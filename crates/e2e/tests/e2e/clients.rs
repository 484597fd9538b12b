//! Clients that people write: plain JavaScript on `ws`, and a React hook in
//! jsdom, making the calls that the threat document shows.

use serde_json::json;
use signalbox_bus::server::User;
use signalbox_testkit::{DEADLINE, NodeClient, Platform, eventually};

use crate::events::{alert, send};

#[tokio::test]
async fn a_plain_javascript_dashboard_receives_alerts() {
    let platform = Platform::start(1).await;
    let bus = platform.bus(User::Producer).await;
    let client = NodeClient::start(
        "threat-plain.mjs",
        &json!({
            "url": platform.gateways[0].threat_url(), "token": platform.api_key("analyst"),
            "subscribe": [{"channel": "threat_alerts", "filters": {"severity": ["CRITICAL", "HIGH"]}}],
            "exit_after": {"threat_alert": 2},
        }),
    );
    client.expect_event("open").await;
    client.expect_frame("auth_success").await;
    client.expect_frame("subscription_confirmed").await;
    for (id, severity) in [("1", "HIGH"), ("2", "LOW"), ("3", "CRITICAL")] {
        send(&bus, "threat_alert", id, &alert(severity)).await;
    }
    assert_eq!(
        client.expect_frame("threat_alert").await["data"],
        alert("HIGH")
    );
    assert_eq!(
        client.expect_frame("threat_alert").await["data"],
        alert("CRITICAL")
    );
    let closed = client.expect_event("close").await;
    assert_eq!(closed["code"], 1000);
    assert!(client.wait(DEADLINE).await.success());
}

#[tokio::test]
async fn a_react_dashboard_shows_alerts_newest_first() {
    let platform = Platform::start(1).await;
    let bus = platform.bus(User::Producer).await;
    let client = NodeClient::start(
        "threat-react.mjs",
        &json!({
            "url": platform.gateways[0].threat_url(), "token": platform.api_key("analyst"),
            "exit_after": {"threat_alert": 2},
        }),
    );
    eventually("the hook to be connected", DEADLINE, async || {
        (client.next(DEADLINE).await["state"]["connected"] == true).then_some(())
    })
    .await;
    // The hook subscribes without waiting for the confirmation.
    platform.gateways[0]
        .process
        .stderr()
        .wait_for_line(" subscribed", DEADLINE)
        .await;
    for (id, severity) in [("1", "HIGH"), ("2", "LOW")] {
        send(&bus, "threat_alert", id, &alert(severity)).await;
    }
    let state = eventually("two threats", DEADLINE, async || {
        let state = client.next(DEADLINE).await["state"].clone();
        (state["threats"].as_array().map(Vec::len) == Some(2)).then_some(state)
    })
    .await;
    assert_eq!(state["threats"], json!([alert("LOW"), alert("HIGH")]));
    assert!(client.wait(DEADLINE).await.success());
}
