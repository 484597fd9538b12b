//! One trace per event: the producer's trace id is in the logs of publisher,
//! router and gateway.

use serde_json::json;
use signalbox_bus::server::User;
use signalbox_testkit::{DEADLINE, Platform, Process, WsClient, signalbox};

#[tokio::test]
async fn one_trace_id_follows_an_event_through_three_processes() {
    let platform = Platform::start(1).await;
    let mut client = WsClient::connect(&platform.gateways[0].threat_url(), &[]).await;
    client.authenticate(&platform.api_key("viewer")).await;
    client.subscribe(json!({"channel": "threat_alerts"})).await;
    let mut publish = signalbox();
    publish
        .args([
            "publish",
            "threat.threat_alert",
            r#"{"incident_id":"t","threat_type":"x","severity":"HIGH"}"#,
        ])
        .env("NATS_URL", platform.nats.url(User::Producer))
        .env("SIGNALBOX_LOG", "debug");
    let publish = Process::spawn(publish);
    let line = publish.stdout().wait_for_line("trace=", DEADLINE).await;
    let trace_id = line.split_once("trace=").unwrap().1.trim().to_owned();
    assert_eq!(trace_id.len(), 32);
    client.expect("threat_alert").await;
    publish.stderr().wait_for_line(&trace_id, DEADLINE).await;
    platform
        .router
        .process
        .stderr()
        .wait_for_line(&trace_id, DEADLINE)
        .await;
    platform.gateways[0]
        .process
        .stderr()
        .wait_for_line(&trace_id, DEADLINE)
        .await;
}
