//! `signalbox publish -`: events of many types from one input.

use serde_json::{Value, json};
use signalbox_bus::server::User;
use signalbox_testkit::{DEADLINE, Platform, Process, WsClient, signalbox};

fn publish(platform: &Platform) -> Process {
    let mut command = signalbox();
    command
        .args(["publish", "-"])
        .env("NATS_URL", platform.nats.url(User::Producer));
    Process::spawn(command)
}

#[tokio::test]
async fn each_line_names_its_type_and_what_else_it_knows_of_itself() {
    let platform = Platform::start(1).await;
    let mut client = WsClient::connect(&platform.gateways[0].threat_url(), &[]).await;
    client.authenticate(&platform.api_key("analyst")).await;
    client
        .subscribe(json!({"channel": "response_actions"}))
        .await;
    client.subscribe(json!({"channel": "system_metrics"})).await;
    let process = publish(&platform);
    let action = json!({"action_id": "a-1", "action_type": "block_ip", "status": "PENDING"});
    let lines: [Value; 2] = [
        json!({"type": "threat.action_update", "id": "e-1", "time": "2024-12-19T21:31:00Z", "data": action}),
        json!({"type": "threat.metrics_update", "data": {"threat_count": 3}}),
    ];
    for line in &lines {
        process.write_line(&line.to_string());
    }
    process.close_stdin();
    assert!(process.wait(DEADLINE).await.success());
    let event = client.expect("action_update").await;
    assert_eq!(event["id"], "e-1");
    assert_eq!(event["timestamp"], "2024-12-19T21:31:00Z");
    assert_eq!(event["data"], action);
    let event = client.expect("metrics_update").await;
    assert_eq!(event["data"], json!({"threat_count": 3}));
}

#[tokio::test]
async fn a_bad_line_is_named_and_nothing_of_it_is_sent() {
    let platform = Platform::start(1).await;
    for (line, told) in [
        ("{}", "missing field `type`"),
        (
            r#"{"type": "threat.nope", "data": {}}"#,
            "no event type `nope`",
        ),
        (
            r#"{"type": "nope.x", "data": {}}"#,
            "expected <domain>.<type>",
        ),
        (
            r#"{"type": "threat.action_update", "data": {}}"#,
            "field `action_id`",
        ),
        (
            r#"{"type": "threat.metrics_update", "id": "a\r\nb: c", "data": {}}"#,
            "ce-id",
        ),
    ] {
        let process = publish(&platform);
        process.write_line("");
        process.write_line(line);
        process.close_stdin();
        assert_eq!(process.wait(DEADLINE).await.code(), Some(1), "{line}");
        let said = process.stderr().lines().join("\n");
        assert!(said.contains("line 2: ") && said.contains(told), "{said}");
    }
}
