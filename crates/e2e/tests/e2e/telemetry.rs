//! Promise 5: one trace per event, from the producer's publish to the frame's
//! write, over separate processes and as a collector receives it; what is not
//! sampled or cannot be exported does no harm; and nothing secret goes out.

use serde_json::{Value, json};
use signalbox_bus::publish::{Outgoing, publish};
use signalbox_bus::server::User;
use signalbox_bus::{Bus, HeaderMap, header};
use signalbox_protocol::envelope::CE_ID;
use signalbox_protocol::trace::{TRACEPARENT, TRACESTATE};
use signalbox_testkit::{
    Arguments, DEADLINE, Platform, Process, WsClient, eventually, get, signalbox,
};
use tokio::net::TcpListener;

use crate::collector::Collector;
use crate::events::{alert, send};
use crate::metrics::Page;

/// How soon spans are exported, in milliseconds.
const EXPORT_DELAY: (&str, &str) = ("OTEL_BSP_SCHEDULE_DELAY", "50");
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// A platform that exports to `collector`.
async fn platform(collector: &Collector) -> Platform {
    let arguments = Arguments {
        environment: &[(ENDPOINT, &collector.url()), EXPORT_DELAY],
        ..Arguments::default()
    };
    Platform::start_as(1, arguments).await
}

/// A client with a subscription of threat alerts.
async fn subscriber(platform: &Platform, subscription: Value) -> WsClient {
    let mut client = WsClient::connect(&platform.gateways[0].threat_url(), &[]).await;
    client.authenticate(&platform.api_key("analyst")).await;
    client.subscribe(subscription).await;
    client
}

/// Runs `signalbox publish` with these variables; gives the trace's id and
/// the process.
async fn publish_by_command(
    platform: &Platform,
    data: &Value,
    variables: &[(&str, &str)],
) -> (String, Process) {
    let mut command = signalbox();
    command
        .args(["publish", "threat.threat_alert", &data.to_string()])
        .env("NATS_URL", platform.nats.url(User::Producer))
        .envs(variables.iter().copied());
    let process = Process::spawn(command);
    let line = process.stdout().wait_for_line("trace=", DEADLINE).await;
    let trace_id = line.split_once("trace=").unwrap().1.trim().to_owned();
    (trace_id, process)
}

/// Publishes with these trace headers, as a producer with a library of its own.
async fn send_within(bus: &Bus, id: &str, traceparent: &str, tracestate: Option<&str>) {
    let mut headers = HeaderMap::new();
    headers.insert(CE_ID, id);
    headers.insert(TRACEPARENT, traceparent);
    if let Some(state) = tracestate {
        headers.insert(TRACESTATE, state);
    }
    let message = Outgoing {
        subject: "events.threat.threat_alert".to_owned(),
        message_id: format!("threat/test/{id}"),
        headers,
        payload: alert("HIGH").to_string().into(),
    };
    publish(bus, &message, DEADLINE).await.unwrap();
}

#[tokio::test]
async fn one_trace_leads_from_the_publish_to_the_write() {
    let collector = Collector::start().await;
    // Two shards hand the event out; their notes become one span.
    let arguments = Arguments {
        gateway: &["--shards", "2"],
        environment: &[
            (ENDPOINT, &collector.url()),
            EXPORT_DELAY,
            ("OTEL_METRIC_EXPORT_INTERVAL", "200"),
        ],
        ..Arguments::default()
    };
    let platform = Platform::start_as(1, arguments).await;
    let all = json!({"channel": "threat_alerts"});
    let mut clients = [
        subscriber(&platform, all.clone()).await,
        subscriber(&platform, all).await,
    ];
    let low = json!({"channel": "threat_alerts", "filters": {"severity": ["LOW"]}});
    let mut other = subscriber(&platform, low).await;
    let url = collector.url();
    let variables = [
        (ENDPOINT, url.as_str()),
        EXPORT_DELAY,
        ("SIGNALBOX_LOG", "debug"),
        ("SIGNALBOX_LOG_FORMAT", "json"),
    ];
    let mut data = alert("HIGH");
    data["description"] = json!("words-of-the-payload");
    let (trace, process) = publish_by_command(&platform, &data, &variables).await;
    for client in &mut clients {
        client.expect("threat_alert").await;
    }
    let find = async |name: &str| collector.find(Some(&trace), name).await;
    let published = find("publish threat.threat_alert").await;
    let routed = find("route threat.threat_alert").await;
    let stored = find("store threat_alerts").await;
    let fanned_out = find("fan-out threat_alerts").await;
    let written = find("write threat_alerts").await;

    assert!(published.span.parent_span_id.is_empty(), "{published:?}");
    for (later, earlier) in [
        (&routed, &published),
        (&stored, &routed),
        (&fanned_out, &stored),
        (&written, &fanned_out),
    ] {
        assert!(later.is_behind(earlier), "{later:?}\n{earlier:?}");
        let starts = [earlier, later].map(|seen| seen.span.start_time_unix_nano);
        assert!(starts.is_sorted(), "{earlier:?} begins behind {later:?}");
    }
    let services = [&published, &routed, &stored, &fanned_out, &written].map(|it| &*it.service);
    let (producer, router, gateway) =
        ("signalbox-publish", "signalbox-router", "signalbox-gateway");
    assert_eq!(services, [producer, router, router, gateway, gateway]);
    assert_eq!(collector.trace(&trace).len(), 5, "{:?}", collector.spans());

    let counts = ["matched", "filtered", "written", "queued", "dropped"]
        .map(|name| fanned_out.number(&format!("signalbox.fanout.{name}")));
    assert_eq!(counts, [2, 1, 2, 0, 0]);
    assert_eq!(routed.text("signalbox.outcome"), "stored");

    // The producer's line names the trace as well, in JSON.
    let line = process
        .stderr()
        .wait_for_line("\"published\"", DEADLINE)
        .await;
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["trace_id"], trace);
    let sent = eventually("metrics", DEADLINE, async || {
        let names = collector.metrics_of("signalbox-gateway");
        names
            .contains(&"signalbox.gateway.events.delivered".to_owned())
            .then_some(names)
    });
    assert!(sent.await.contains(&"process.memory.usage".to_owned()));
    // Nothing of the event but its ids and subject, and no credential.
    let spans = format!("{:?}", collector.spans());
    assert!(!spans.contains("words-of-the-payload"), "{spans}");
    other.send_json(&json!({"type": "ping"})).await;
    other.expect("pong").await;
}

/// An event that is refused ends its trace with an error, on its way to DLQ.
#[tokio::test]
async fn a_refused_event_shows_as_an_error() {
    let collector = Collector::start().await;
    let platform = platform(&collector).await;
    let bus = platform.bus(User::Producer).await;
    send(&bus, "threat_alert", "1", &json!({"severity": "NONE"})).await;
    let routed = collector.find(None, "route threat.threat_alert").await;
    assert_eq!(routed.text("signalbox.outcome"), "refused");
    assert_eq!(routed.span.status.unwrap().code, 2);
}

/// A producer's own trace is continued, vendors' part included; one that it
/// did not sample leaves nothing behind.
#[tokio::test]
async fn a_producers_decision_is_honoured() {
    let collector = Collector::start().await;
    let platform = platform(&collector).await;
    let mut client = subscriber(&platform, json!({"channel": "threat_alerts"})).await;
    let bus = platform.bus(User::Producer).await;
    let (unsampled, sampled) = (format!("{:032x}", 0xaaaa), format!("{:032x}", 0xbbbb));
    let parent = "00000000000000aa";
    send_within(&bus, "1", &format!("00-{unsampled}-{parent}-00"), None).await;
    // A producer of ours whose own sampler says no marks its events so.
    let variables = [
        (ENDPOINT, &*collector.url()),
        ("OTEL_TRACES_SAMPLER", "always_off"),
    ];
    let (left_out, _) = publish_by_command(&platform, &alert("HIGH"), &variables).await;
    let state = "vendor=opaque:1,other=2";
    send_within(&bus, "2", &format!("00-{sampled}-{parent}-01"), Some(state)).await;
    for _ in 0..3 {
        client.expect("threat_alert").await;
    }
    let written = collector.find(Some(&sampled), "write").await;
    assert_eq!(written.span.trace_state, state);
    let routed = collector.find(Some(&sampled), "route").await;
    assert_eq!(routed.span.parent_span_id, 0xaa_u64.to_be_bytes());
    // Both services have exported behind the first event by now.
    for unsampled in [&unsampled, &left_out] {
        assert!(
            collector.trace(unsampled).is_empty(),
            "{:?}",
            collector.spans()
        );
    }

    // The trace of an event that nobody records is passed on all the same.
    let stored = platform.bus(User::Admin).await;
    let page = signalbox_bus::history::page(&stored, "TOPICS", "topics.>", 1, 10)
        .await
        .unwrap();
    let first = header::trace(page.messages[0].headers.as_ref()).unwrap();
    assert_eq!(first.to_string(), format!("00-{unsampled}-{parent}-00"));
}

/// Checking a credential and catching up are traces of their own.
#[tokio::test]
async fn credentials_and_replays_are_traced() {
    let collector = Collector::start().await;
    let platform = platform(&collector).await;
    let bus = platform.bus(User::Producer).await;
    let mut first = WsClient::connect(&platform.gateways[0].threat_url(), &[]).await;
    first.authenticate(&platform.api_key("analyst")).await;
    let confirmed = first.subscribe(json!({"channel": "threat_alerts"})).await;
    let check = collector.find(None, "authenticate").await;
    assert_eq!(check.text("signalbox.outcome"), "accepted");
    let asked = eventually("both sides of the request", DEADLINE, async || {
        let mut spans = collector.spans();
        spans.retain(|seen| seen.name() == "svc.auth.verify_key");
        (spans.len() == 2).then_some(spans)
    });
    let mut asked = asked.await;
    asked.sort_by_key(|seen| seen.service != "signalbox-gateway");
    assert!(
        asked[0].is_behind(&check) && asked[1].is_behind(&asked[0]),
        "{asked:?}"
    );
    assert_eq!(asked[1].service, "signalbox-auth");
    assert_eq!(asked[1].text("signalbox.outcome"), "ACCEPTED");

    for id in ["1", "2", "3"] {
        send(&bus, "threat_alert", id, &alert("HIGH")).await;
        first.expect("threat_alert").await;
    }
    // A gateway that knows nothing of the time before has to read them back.
    let late = platform.start_gateway(&["--recent-events", "0"]).await;
    let mut returned = WsClient::connect(&late.threat_url(), &[]).await;
    returned.authenticate(&platform.api_key("analyst")).await;
    let since = confirmed["seq"].clone();
    returned
        .subscribe(json!({"channel": "threat_alerts", "since": since}))
        .await;
    for _ in 0..3 {
        returned.expect("threat_alert").await;
    }
    let replay = collector.find(None, "replay threat_alerts").await;
    let chapter = collector.find(None, "read history threat_alerts").await;
    assert!(chapter.is_behind(&replay));
    assert_eq!(chapter.number("signalbox.events"), 3);
}

#[tokio::test]
async fn no_credential_is_in_spans_metrics_or_logs() {
    let collector = Collector::start().await;
    let platform = platform(&collector).await;
    let key = platform.api_key("analyst");
    let token = platform.token("analyst").await;
    let secret = key.rsplit('_').next().unwrap().to_owned();
    for credential in [key.as_str(), token.as_str()] {
        let mut client = WsClient::connect(&platform.gateways[0].threat_url(), &[]).await;
        client.authenticate(credential).await;
        client.close().await;
    }
    let wrong = format!("{}0000", &key[..key.len() - 4]);
    let mut refused = WsClient::connect(&platform.gateways[0].threat_url(), &[]).await;
    refused
        .send_json(&json!({"type": "authenticate", "token": wrong}))
        .await;
    refused.expect("error").await;
    let (_, publisher) =
        publish_by_command(&platform, &alert("HIGH"), &[(ENDPOINT, &collector.url())]).await;
    publisher.wait(DEADLINE).await;
    eventually("the last spans", DEADLINE, async || {
        let spans = collector.spans();
        let checks = spans.iter().filter(|seen| seen.name() == "authenticate");
        (checks.count() == 3 && spans.iter().any(|it| it.name().starts_with("store"))).then_some(())
    })
    .await;
    let gateway = &platform.gateways[0];
    let mut said = vec![("spans", format!("{:?}", collector.spans()))];
    for service in [gateway, &platform.router, &platform.auth] {
        said.push(("logs", service.process.stderr().lines().join("\n")));
        said.push(("metrics", get(service.admin, "/metrics").await.1));
    }
    let url = platform.nats.url(User::Gateway);
    let password = url.split(['@', ':']).nth(2).unwrap();
    for (what, text) in said {
        for secret in [&*secret, &*token, &wrong[wrong.len() - 12..], password] {
            assert!(!text.contains(secret), "a secret is in {what}");
        }
    }
}

/// Events flow, one line tells, and the process stops in time: with a
/// collector that is not there, and with one that never answers.
#[tokio::test]
async fn a_dead_collector_does_no_harm() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    for (addr, fails) in [(gone, true), (silent.local_addr().unwrap(), false)] {
        let url = format!("http://{addr}");
        let arguments = Arguments {
            environment: &[(ENDPOINT, &url), EXPORT_DELAY],
            ..Arguments::default()
        };
        let platform = Platform::start_as(1, arguments).await;
        let mut client = subscriber(&platform, json!({"channel": "threat_alerts"})).await;
        let bus = platform.bus(User::Producer).await;
        let gateway = &platform.gateways[0];
        let mut id = 0;
        // Many failed exports: the lost spans come in batches.
        let mut seen = std::collections::BTreeSet::new();
        while seen.len() < 5 {
            id += 1;
            send(&bus, "threat_alert", &id.to_string(), &alert("HIGH")).await;
            client.expect("threat_alert").await;
            let page = Page::of(gateway).await;
            seen.insert(page.number("signalbox_telemetry_spans_total", &[("outcome", "lost")]));
            if !fails && id == 50 {
                break;
            }
        }
        gateway.process.sigterm();
        assert!(gateway.process.wait(DEADLINE).await.success());
        let logs = gateway.process.stderr().lines();
        let told = logs
            .iter()
            .filter(|line| line.contains("telemetry not exported"));
        assert_eq!(told.count(), usize::from(fails), "{}", logs.join("\n"));
        let noise = logs.iter().any(|line| line.contains(" opentelemetry"));
        assert!(!noise, "{}", logs.join("\n"));
    }
}

#[tokio::test]
async fn wrong_settings_are_one_line_and_64() {
    for (variable, value) in [
        ("OTEL_TRACES_SAMPLER", "xray"),
        (ENDPOINT, "not a url"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
    ] {
        let mut command = signalbox();
        command
            .arg("router")
            .env(ENDPOINT, "http://127.0.0.1:1")
            .env(variable, value);
        let process = Process::spawn(command);
        assert_eq!(process.wait(DEADLINE).await.code(), Some(64), "{variable}");
        let said = process.stderr().lines();
        assert!(said.len() <= 1, "{said:?}");
    }
}
