//! Events over HTTP: every form, who may publish, what is refused, and that an
//! event arrives once however often it is sent. What happens when the bus does
//! not play along is in `ingest_faults`.

use std::process::Command;

use serde_json::{Value, json};
use signalbox_bus::server::User;
use signalbox_bus::stream::{self, DLQ, EVENTS};
use signalbox_testkit::{Answer, DEADLINE, Platform, Process, WsClient, eventually, request};

use crate::events::alert;

pub(crate) const PATH: &str = "/api/v1/events";
pub(crate) const BARE: &str = "/api/v1/events?type=threat.threat_alert";
pub(crate) const BATCH: (&str, &str) = ("Content-Type", "application/cloudevents-batch+json");

/// A client that hears of alerts.
pub(crate) async fn subscriber(platform: &Platform) -> WsClient {
    let mut client = WsClient::connect(&platform.gateways[0].threat_url(), &[]).await;
    client.authenticate(&platform.api_key("viewer")).await;
    client.subscribe(json!({"channel": "threat_alerts"})).await;
    client
}

/// Posts as the role `producer`.
pub(crate) async fn post(
    platform: &Platform,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let key = platform.api_key("producer");
    let mut all = vec![("X-API-Key", key.as_str())];
    all.extend(headers);
    request(platform.gateways[0].listener(), "POST", path, &all, body).await
}

fn cloud_event(id: &str) -> Value {
    json!({
        "specversion": "1.0", "type": "threat.threat_alert", "id": id, "source": "test",
        "data": alert("HIGH"),
    })
}

/// A batch of this many events, numbered from 0.
pub(crate) fn batch(count: usize) -> String {
    let events: Vec<Value> = (0..count).map(|id| cloud_event(&id.to_string())).collect();
    Value::Array(events).to_string()
}

/// The next frames must have these ids.
pub(crate) async fn expect_ids(client: &mut WsClient, ids: impl IntoIterator<Item = String>) {
    for id in ids {
        assert_eq!(client.expect("threat_alert").await["id"], id);
    }
}

/// Every form through curl, with each kind of credential.
#[tokio::test]
async fn every_form_of_event_is_delivered() {
    let platform = Platform::start(1).await;
    let mut client = subscriber(&platform).await;
    let key = format!("X-API-Key: {}", platform.api_key("producer"));
    let bearer = format!("Authorization: Bearer {}", platform.token("producer").await);
    let data = alert("HIGH").to_string();
    let json = "Content-Type: application/json";
    let structured = "Content-Type: application/cloudevents+json";
    let batched = "Content-Type: application/cloudevents-batch+json";
    let binary = [
        "ce-specversion: 1.0",
        "ce-type: threat.threat_alert",
        "ce-id: bin%61ry",
        "ce-source: test",
    ];
    let (one, two) = (
        cloud_event("structured").to_string(),
        json!([cloud_event("b-1"), cloud_event("b-2")]).to_string(),
    );
    let query = format!("{BARE}&id=bare");
    let cases: [(&str, Vec<&str>, &str, &[&str]); 5] = [
        (&query, vec![&key, json], &data, &["bare"]),
        (
            BARE,
            vec![&bearer, json, "Idempotency-Key: keyed"],
            &data,
            &["keyed"],
        ),
        (PATH, vec![&key, structured], &one, &["structured"]),
        (
            PATH,
            [&[bearer.as_str(), json][..], &binary].concat(),
            &data,
            &["binary"],
        ),
        (PATH, vec![&key, batched], &two, &["b-1", "b-2"]),
    ];
    for (path, headers, body, ids) in cases {
        let url = format!("http://{}{path}", platform.gateways[0].listener());
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--write-out", "\n%{http_code}"])
            .args(["--data", body, &url]);
        for header in headers {
            curl.args(["--header", header]);
        }
        let curl = Process::spawn(curl);
        assert!(
            curl.wait(DEADLINE).await.success(),
            "{:?}",
            curl.stderr().lines()
        );
        let printed = curl.stdout().lines();
        assert_eq!(
            printed.last().map(String::as_str),
            Some("202"),
            "{printed:?}"
        );
        let answer: Value = serde_json::from_str(&printed[0]).unwrap();
        let wanted: Vec<Value> = ids.iter().map(|id| json!({"id": id})).collect();
        assert_eq!(answer, json!({"events": wanted}));
        for id in ids {
            let frame = client.expect("threat_alert").await;
            assert_eq!((&frame["id"], &frame["data"]), (&json!(id), &alert("HIGH")));
        }
    }
    let logs = platform.gateways[0].process.stderr().lines().join("\n");
    let secrets = [key, bearer];
    for secret in secrets
        .iter()
        .filter_map(|line| line.split(' ').next_back())
    {
        assert!(!logs.contains(secret), "a credential is in the logs");
    }
}

/// An event without an id gets one, which the answer tells.
#[tokio::test]
async fn an_event_without_an_id_gets_one() {
    let platform = Platform::start(1).await;
    let mut client = subscriber(&platform).await;
    let answer = post(&platform, BARE, &[], &alert("HIGH").to_string()).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let frame = client.expect("threat_alert").await;
    assert_eq!(answer.json()["events"][0]["id"], frame["id"]);
}

/// G6: who may publish what.
#[tokio::test]
async fn publishing_needs_a_credential_and_the_domains_permission() {
    let platform = Platform::start(1).await;
    let listener = platform.gateways[0].listener();
    let body = alert("HIGH").to_string();
    let send = async |headers: &[(&str, &str)], path: &str| {
        request(listener, "POST", path, headers, &body).await
    };
    let key = platform.api_key("producer");
    let wrong = format!("{}0000", &key[..key.len() - 4]);
    let basic = ("Authorization", "Basic YTpi");
    let in_url = format!("{BARE}&token={}", platform.token("producer").await);
    for (headers, path) in [
        (vec![], BARE),
        (vec![("X-API-Key", wrong.as_str())], BARE),
        (vec![("Authorization", "Bearer a.b.c")], BARE),
        (vec![basic], BARE),
        (vec![], in_url.as_str()),
    ] {
        let answer = send(&headers, path).await;
        assert_eq!(answer.status, 401, "{headers:?} {answer:?}");
        assert_eq!(answer.json()["error"]["code"], "AUTH_FAILED");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    }
    for role in ["viewer", "analyst", "operator", "agent"] {
        let key = platform.api_key(role);
        let answer = send(&[("X-API-Key", &key)], BARE).await;
        assert_eq!(answer.status, 403, "{role} {answer:?}");
        assert_eq!(answer.json()["error"]["code"], "FORBIDDEN", "{role}");
    }
    for role in ["producer", "admin"] {
        let key = platform.api_key(role);
        assert_eq!(
            send(&[("X-API-Key", &key)], BARE).await.status,
            202,
            "{role}"
        );
    }
}

/// What a router would refuse is refused here, by field, and nothing of the
/// request is published.
#[tokio::test]
async fn bad_events_are_named_and_nothing_is_published() {
    let platform = Platform::start(1).await;
    let mut client = subscriber(&platform).await;
    let good = alert("HIGH").to_string();
    let json = ("Content-Type", "application/json");
    let mut third_bad = vec![cloud_event("1"), cloud_event("2"), cloud_event("3")];
    third_bad[2]["data"]["severity"] = json!(7);
    let third_bad = Value::Array(third_bad).to_string();
    let key_of = |answer: &Value| {
        let error = &answer["error"];
        (
            error["code"].as_str().unwrap().to_owned(),
            error["field"].as_str().map(str::to_owned),
        )
    };
    for (path, headers, body, status, code, field) in [
        (BARE, json, "{", 400, "INVALID_JSON", None),
        (PATH, json, &good, 400, "INVALID_MESSAGE", Some("type")),
        (
            "/api/v1/events?type=threat.nope",
            json,
            &good,
            400,
            "UNKNOWN_TYPE",
            Some("type"),
        ),
        (
            "/api/v1/events?type=nope.x",
            json,
            &good,
            400,
            "UNKNOWN_TYPE",
            Some("type"),
        ),
        (
            BARE,
            json,
            r#"{"incident_id":"x"}"#,
            400,
            "INVALID_MESSAGE",
            Some("data.threat_type"),
        ),
        (
            BARE,
            ("Content-Type", "text/xml"),
            &good,
            415,
            "UNSUPPORTED_MEDIA_TYPE",
            Some("Content-Type"),
        ),
        (
            PATH,
            BATCH,
            &third_bad,
            400,
            "INVALID_MESSAGE",
            Some("events[2].data.severity"),
        ),
    ] {
        let answer = post(&platform, path, &[headers], body).await;
        assert_eq!(answer.status, status, "{path} {body} {answer:?}");
        let wanted = (code.to_owned(), field.map(str::to_owned));
        assert_eq!(key_of(&answer.json()), wanted, "{path} {body}");
    }
    let unknown = post(&platform, "/api/v1/events?type=threat.nope", &[json], &good).await;
    let unknown = unknown.json()["error"]["message"].to_string();
    assert!(unknown.contains("threat_alert"), "{unknown}");
    let good_one = format!("{BARE}&id=good");
    assert_eq!(post(&platform, &good_one, &[json], &good).await.status, 202);
    expect_ids(&mut client, ["good".to_owned()]).await;
    let admin = platform.bus(User::Admin).await;
    assert_eq!(stream::state(&admin, EVENTS).await.unwrap().last, 1);
    assert_eq!(stream::state(&admin, DLQ).await.unwrap().last, 0);
}

/// Bodies over 1 MiB are refused, whether they say so or not; below, large
/// ones pass.
#[tokio::test]
async fn bodies_are_bounded() {
    let platform = Platform::start(1).await;
    let mut client = subscriber(&platform).await;
    let sized = |bytes: usize| {
        let mut data = alert("HIGH");
        data["ai_summary"] = json!("x".repeat(bytes));
        data.to_string()
    };
    let large = post(
        &platform,
        &format!("{BARE}&id=large"),
        &[],
        &sized(1_000_000),
    )
    .await;
    assert_eq!(large.status, 202, "{large:?}");
    expect_ids(&mut client, ["large".to_owned()]).await;
    let over = sized(1_100_000);
    let chunked = format!("{:x}\r\n{over}\r\n0\r\n\r\n", over.len());
    for (headers, body) in [
        (vec![], &over),
        (vec![("Transfer-Encoding", "chunked")], &chunked),
    ] {
        let answer = post(&platform, BARE, &headers, body).await;
        assert_eq!(answer.status, 413, "{answer:?}");
        assert_eq!(answer.json()["error"]["code"], "TOO_LARGE");
    }
    // It fits the request and not the bus, once it has a type and an id.
    let answer = post(&platform, BARE, &[], &sized(1_048_450)).await;
    assert_eq!(answer.status, 413, "{answer:?}");
    assert_eq!(answer.json()["error"]["field"], "data");
}

/// The same event again is told as a duplicate and delivered once.
#[tokio::test]
async fn a_repeated_event_is_delivered_once() {
    let platform = Platform::start(1).await;
    let mut client = subscriber(&platform).await;
    let key = [("Idempotency-Key", "order-7")];
    let body = alert("HIGH").to_string();
    let first = post(&platform, BARE, &key, &body).await;
    assert_eq!(first.json(), json!({"events": [{"id": "order-7"}]}));
    let again = post(&platform, BARE, &key, &body).await;
    assert_eq!(again.status, 202);
    assert_eq!(
        again.json(),
        json!({"events": [{"id": "order-7", "duplicate": true}]})
    );
    post(&platform, &format!("{BARE}&id=after"), &[], &body).await;
    expect_ids(&mut client, ["order-7", "after"].map(str::to_owned)).await;
}

#[tokio::test]
async fn a_full_batch_arrives_once_and_in_order() {
    let platform = Platform::start(1).await;
    let mut client = subscriber(&platform).await;
    let answer = post(&platform, PATH, &[BATCH], &batch(1_000)).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(answer.json()["events"].as_array().unwrap().len(), 1_000);
    expect_ids(&mut client, (0..1_000).map(|id| id.to_string())).await;
    post(
        &platform,
        &format!("{BARE}&id=after"),
        &[],
        &alert("LOW").to_string(),
    )
    .await;
    expect_ids(&mut client, ["after".to_owned()]).await;
}

/// The trace of a request goes on through router and gateway.
#[tokio::test]
async fn the_trace_of_a_request_goes_on() {
    let platform = Platform::start(1).await;
    let mut client = subscriber(&platform).await;
    let trace_id = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace_id}-00f067aa0ba902b7-01");
    let headers = [("traceparent", parent.as_str())];
    let answer = post(&platform, BARE, &headers, &alert("HIGH").to_string()).await;
    assert_eq!(answer.status, 202);
    client.expect("threat_alert").await;
    let router = platform.router.process.stderr();
    router.wait_for_line(trace_id, DEADLINE).await;
    let lines = eventually("the gateway's two lines", DEADLINE, async || {
        let lines = platform.gateways[0].process.stderr().lines();
        let of_trace = lines.into_iter().filter(|line| line.contains(trace_id));
        let of_trace: Vec<String> = of_trace.collect();
        (of_trace.len() >= 2).then_some(of_trace)
    })
    .await;
    for what in ["published", "fanned out"] {
        assert!(lines.iter().any(|line| line.contains(what)), "{lines:?}");
    }
}
