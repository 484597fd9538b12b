//! Events that a router refuses: kept with the reason, and in nobody's way.

use serde_json::json;
use signalbox_bus::server::User;
use signalbox_bus::stream::DLQ;
use signalbox_bus::{header, history};
use signalbox_testkit::{DEADLINE, Platform, WsClient, eventually};

use crate::events::{alert, send};

#[tokio::test]
async fn a_refused_event_is_kept_with_its_reason() {
    let platform = Platform::start(1).await;
    let (producer, admin) = (
        platform.bus(User::Producer).await,
        platform.bus(User::Admin).await,
    );
    let mut client = WsClient::connect(&platform.gateways[0].threat_url(), &[]).await;
    client.authenticate(&platform.api_key("viewer")).await;
    client.subscribe(json!({"channel": "threat_alerts"})).await;
    send(
        &producer,
        "threat_alert",
        "bad",
        &json!({"incident_id": "t", "threat_type": 7, "severity": "HIGH"}),
    )
    .await;
    send(&producer, "nope", "unknown", &json!({})).await;
    send(&producer, "threat_alert", "good", &alert("HIGH")).await;
    assert_eq!(client.expect("threat_alert").await["id"], "good");
    let refused = eventually("two dead letters", DEADLINE, async || {
        let page = history::page(&admin, DLQ, "dlq.>", 1, 10).await.unwrap();
        (page.messages.len() == 2).then_some(page.messages)
    })
    .await;
    let told = |index: usize| {
        let headers = refused[index].headers.as_ref().unwrap();
        let value = |name| header::value(headers, name).unwrap().to_owned();
        (value(header::ORIGIN), value("ce-id"), value(header::REASON))
    };
    let mut told = [told(0), told(1)];
    told.sort();
    assert_eq!(
        told[0],
        (
            "events.threat.nope".into(),
            "unknown".into(),
            "subject: domain threat has no event type `nope`".into()
        )
    );
    assert_eq!(
        told[1],
        (
            "events.threat.threat_alert".into(),
            "bad".into(),
            "field `threat_type`: expected a string".into()
        )
    );
}

/// A producer's subject outside the known domains is refused by the bus.
#[tokio::test]
async fn an_unknown_domain_gets_no_acknowledgement() {
    let platform = Platform::start(0).await;
    let client = platform.nats.connect(User::Producer).await;
    let refused = client
        .request("events.nope.x", "{}".into())
        .await
        .unwrap_err();
    assert_eq!(
        refused.kind(),
        async_nats::client::RequestErrorKind::NoResponders
    );
}
