//! T5: several subscriptions to metrics on one connection are one delivery
//! with all that they select, live and at a return.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use signalbox_bus::Bus;
use signalbox_bus::server::User;
use signalbox_testkit::{DEADLINE, Platform, Service, WsClient};

use crate::events::send;

const SELECTIONS: [&[&str]; 2] = [&["threat_count", "cost"], &["cost", "rate"]];

async fn connect(platform: &Platform, gateway: &Service) -> WsClient {
    let mut client = WsClient::connect(&gateway.threat_url(), &[]).await;
    client.authenticate(&platform.api_key("viewer")).await;
    client
}

/// Asks for both selections at once; gives the confirmations and the events
/// until everything is answered.
async fn subscribe(client: &mut WsClient, since: Option<&Value>) -> (Vec<Value>, Vec<Value>) {
    for metrics in SELECTIONS {
        let mut asked =
            json!({"type": "subscribe", "channel": "system_metrics", "metrics": metrics});
        if let Some(since) = since {
            asked["since"] = since.clone();
        }
        client.send_json(&asked).await;
    }
    let (mut confirmations, mut events) = (Vec::new(), Vec::new());
    while confirmations.len() < SELECTIONS.len() {
        let frame = client.next_json(DEADLINE).await;
        match frame["type"].as_str().unwrap() {
            "subscription_confirmed" => confirmations.push(frame),
            "metrics_update" => events.push(frame),
            other => panic!("{other}: {frame}"),
        }
    }
    (confirmations, events)
}

async fn update(bus: &Bus, id: &str, data: &Value) {
    send(bus, "metrics_update", id, data).await;
}

#[tokio::test]
async fn selections_of_one_connection_are_one_delivery() {
    let platform = Platform::start(1).await;
    let bus = platform.bus(User::Producer).await;
    let mut client = connect(&platform, &platform.gateways[0]).await;
    let (confirmations, _) = subscribe(&mut client, None).await;
    update(
        &bus,
        "all",
        &json!({"threat_count": 1, "cost": 2, "rate": 3, "queue": 4}),
    )
    .await;
    update(&bus, "none", &json!({"queue": 4})).await;
    update(&bus, "one", &json!({"rate": 5})).await;
    let frame = client.expect("metrics_update").await;
    assert_eq!(frame["id"], "all");
    assert_eq!(
        frame["data"],
        json!({"threat_count": 1, "cost": 2, "rate": 3})
    );
    let frame = client.expect("metrics_update").await;
    assert_eq!(
        (&frame["id"], &frame["data"]),
        (&json!("one"), &json!({"rate": 5}))
    );
    let name = &confirmations[0]["subscription_id"];
    client
        .send_json(&json!({"type": "unsubscribe", "subscription_id": name}))
        .await;
    client.expect("unsubscription_confirmed").await;
    update(
        &bus,
        "rest",
        &json!({"threat_count": 1, "cost": 2, "rate": 3}),
    )
    .await;
    let frame = client.expect("metrics_update").await;
    assert_eq!(frame["data"], json!({"cost": 2, "rate": 3}));
    // A third that wants everything.
    client.subscribe(json!({"channel": "system_metrics"})).await;
    let all = json!({"threat_count": 1, "cost": 2, "rate": 3, "queue": 4});
    update(&bus, "everything", &all).await;
    assert_eq!(client.expect("metrics_update").await["data"], all);
    client.send_json(&json!({"type": "ping"})).await;
    client.expect("pong").await;
}

/// G8: whoever returns with several selections gets all of them, from the
/// memory of a gateway and from history.
#[tokio::test]
async fn a_return_with_several_selections_loses_none() {
    let platform = Platform::start(1).await;
    let bus = platform.bus(User::Producer).await;
    let mut client = connect(&platform, &platform.gateways[0]).await;
    let (confirmations, _) = subscribe(&mut client, None).await;
    let since = confirmations[0]["seq"].clone();
    client.close().await;
    let mut watcher = connect(&platform, &platform.gateways[0]).await;
    watcher
        .subscribe(json!({"channel": "system_metrics"}))
        .await;
    let count = 40;
    for number in 0..count {
        let data = json!({"threat_count": number, "cost": 2, "rate": 3, "queue": 4});
        update(&bus, &number.to_string(), &data).await;
        watcher.expect("metrics_update").await;
    }
    // Its memory is empty.
    let newcomer = platform.start_gateway(&["--recent-events", "0"]).await;
    for gateway in [&platform.gateways[0], &newcomer] {
        let mut client = connect(&platform, gateway).await;
        let (confirmations, mut events) = subscribe(&mut client, Some(&since)).await;
        assert!(confirmations.iter().all(|frame| frame["recovered"] == true));
        update(
            &bus,
            "end",
            &json!({"threat_count": -1, "cost": 2, "rate": 3}),
        )
        .await;
        while events.last().is_none_or(|frame| frame["id"] != "end") {
            events.push(client.expect("metrics_update").await);
        }
        let mut got: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for frame in &events {
            let id = frame["id"].as_str().unwrap().to_owned();
            got.entry(id).or_default().push(frame["data"].clone());
        }
        for number in 0..count {
            let frames = &got[&number.to_string()];
            let whole = json!({"threat_count": number, "cost": 2, "rate": 3});
            // Sent anew only to say more than was said.
            assert!(
                frames.len() <= 2 && frames.last() == Some(&whole),
                "{number}: {frames:?}"
            );
        }
        assert_eq!(got["end"].len(), 1);
    }
}

/// G3: selections that differ are bounded, since each has to know of the
/// others; ones that are equal are not.
#[tokio::test]
async fn selections_that_differ_are_bounded() {
    let platform = Platform::start(1).await;
    let mut client = connect(&platform, &platform.gateways[0]).await;
    let asked = |metric: &str| json!({"type": "subscribe", "channel": "system_metrics", "metrics": [metric]});
    for number in 0..32 {
        client.send_json(&asked(&number.to_string())).await;
        client.expect("subscription_confirmed").await;
    }
    client.send_json(&asked("one-more")).await;
    let refused = client.expect("error").await;
    assert_eq!(refused["code"], "RATE_LIMIT", "{refused}");
    client.subscribe(json!({"channel": "threat_alerts"})).await;
}
