//! `/metrics` of real processes: the numbers move as a known load says, the
//! probes answer under load, and `docs/metrics.md` lists what is served.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};
use signalbox_auth::api::event_service_client::EventServiceClient;
use signalbox_bus::server::User;
use signalbox_testkit::{
    DEADLINE, Platform, Service, WsClient, eventually, get, orchestrator, relay,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::events::{alert, send};
use crate::grpc;
use crate::raw::{self, Raw, TEXT};

/// Set to write `docs/metrics.md` instead of comparing it.
const WRITE_DOCS: &str = "SIGNALBOX_TEST_WRITE_DOCS";

/// One answer of `/metrics`.
pub(crate) struct Page(String);

impl Page {
    pub(crate) async fn of(service: &Service) -> Self {
        let (status, text) = get(service.admin, "/metrics").await;
        assert_eq!(status, 200);
        Self(text)
    }

    /// The sum of a metric over all lines that have these labels.
    pub(crate) fn number(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let lines = self.0.lines().filter(|line| {
            line.split(['{', ' ']).next() == Some(name)
                && labels
                    .iter()
                    .all(|(key, value)| line.contains(&format!("{key}=\"{value}\"")))
        });
        let numbers: Vec<f64> = lines
            .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
            .collect();
        assert!(!numbers.is_empty(), "no {name} {labels:?} in\n{}", self.0);
        numbers.into_iter().sum::<f64>() as u64
    }

    /// The names of all labels.
    fn labels(&self) -> BTreeSet<String> {
        let lines = self.0.lines().filter(|line| !line.starts_with('#'));
        let labels = lines.filter_map(|line| Some(line.split_once('{')?.1.rsplit_once('}')?.0));
        let names = labels.flat_map(|labels| labels.split(','));
        names
            .filter_map(|label| Some(label.split_once("=\"")?.0.to_owned()))
            .collect()
    }

    /// The value of the one line of a metric.
    fn exact(&self, name: &str) -> f64 {
        let mut lines = self.0.lines();
        let line = lines.find(|line| line.split(['{', ' ']).next() == Some(name));
        line.unwrap().rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Name to kind and description.
    fn described(&self) -> BTreeMap<String, (String, String)> {
        let words = |line: &str| {
            let mut words = line.splitn(4, ' ').skip(2).map(str::to_owned);
            Some((words.next()?, words.next().unwrap_or_default()))
        };
        let about = |prefix: &str| {
            let lines = self.0.lines().filter(|line| line.starts_with(prefix));
            lines.filter_map(words).collect::<BTreeMap<_, _>>()
        };
        let mut texts = about("# HELP ");
        about("# TYPE ")
            .into_iter()
            .map(|(name, kind)| {
                let text = texts.remove(&name).unwrap_or_default();
                (name, (kind, text))
            })
            .collect()
    }
}

async fn subscriber(service: &Service, key: &str, subscriptions: &[Value]) -> WsClient {
    let mut client = WsClient::connect(&service.threat_url(), &[]).await;
    client.authenticate(key).await;
    for subscription in subscriptions {
        client.subscribe(subscription.clone()).await;
    }
    client
}

/// A thousand subscriptions with fifty filters cost an evaluation for each
/// filter that an event may match and one encoding, whoever they belong to.
#[tokio::test]
async fn the_gateways_numbers_follow_the_load() {
    let platform = Platform::start(1).await;
    let gateway = &platform.gateways[0];
    let key = platform.unlimited_token("analyst");
    let filters: Vec<Value> = (0..50)
        .map(|n| {
            let kinds = [format!("kind-{n}"), "port_scanning".to_owned()];
            let kinds = if n < 10 { &kinds[..] } else { &kinds[..1] };
            json!({"channel": "threat_alerts", "filters": {"threat_types": kinds}})
        })
        .collect();
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(subscriber(gateway, &key, &filters).await);
    }
    let page = eventually("subscriptions", DEADLINE, async || {
        let page = Page::of(gateway).await;
        (page.number("signalbox_gateway_subscriptions", &[]) == 1_000).then_some(page)
    });
    let before = page.await;
    assert_eq!(before.number("signalbox_gateway_filters", &[]), 50);
    let bus = platform.bus(User::Producer).await;
    let events = 10;
    for id in 0..events {
        send(&bus, "threat_alert", &id.to_string(), &alert("HIGH")).await;
    }
    for client in &mut clients {
        for _ in 0..events {
            client.expect("threat_alert").await;
        }
    }
    let after = Page::of(gateway).await;
    let moved = |name: &str, labels: &[(&str, &str)]| {
        after.number(name, labels) - before.number(name, labels)
    };
    let gateway_moved = |name: &str| moved(&format!("signalbox_gateway_{name}_total"), &[]);
    assert_eq!(gateway_moved("events_received"), events);
    // The other forty are not found by a value of the event.
    assert_eq!(gateway_moved("filters_evaluated"), 10 * events);
    assert_eq!(gateway_moved("events_encoded"), events);
    assert_eq!(gateway_moved("events_matched"), 20 * events);
    assert_eq!(gateway_moved("events_delivered"), 20 * events);
    // Forty filters keep it from twenty subscriptions each.
    assert_eq!(gateway_moved("events_filtered"), 40 * 20 * events);
    assert_eq!(gateway_moved("events_dropped"), 0);
    let threat = [("signalbox_dialect", "threat")];
    assert_eq!(after.number("signalbox_gateway_connections", &threat), 20);
    assert_eq!(
        after.number("signalbox_gateway_connections_opened_total", &threat),
        20
    );
    let accepted = [("outcome", "accepted")];
    assert_eq!(
        after.number("signalbox_gateway_authentications_total", &accepted),
        20
    );
    let bytes = eventually("bytes", DEADLINE, async || {
        let page = Page::of(gateway).await;
        let sent = page.number("signalbox_gateway_sent_bytes_total", &[]);
        (sent > before.number("signalbox_gateway_sent_bytes_total", &[])).then_some(sent)
    });
    assert!(bytes.await > 20 * events * 100);

    for client in clients {
        client.close().await;
    }
    eventually("an empty house", DEADLINE, async || {
        let page = Page::of(gateway).await;
        let gone = page.number("signalbox_gateway_connections", &[]) == 0
            && page.number("signalbox_gateway_subscriptions", &[]) == 0;
        gone.then_some(())
    })
    .await;
    let page = Page::of(gateway).await;
    let by_peer = [("by", "peer")];
    assert_eq!(
        page.number("signalbox_gateway_connections_ended_total", &by_peer),
        20
    );
}

/// Routed, refused and repeated events are told apart, and so are sources of
/// replays and verdicts on keys.
#[tokio::test]
async fn the_routers_and_auths_numbers_follow_the_load() {
    let platform = Platform::start(1).await;
    let bus = platform.bus(User::Producer).await;
    let key = platform.api_key("analyst");
    let gateway = &platform.gateways[0];
    let all = json!({"channel": "threat_alerts"});
    let mut client = WsClient::connect(&gateway.threat_url(), &[]).await;
    client.authenticate(&key).await;
    let confirmed = client.subscribe(all.clone()).await;
    for id in ["1", "2", "3"] {
        send(&bus, "threat_alert", id, &alert("HIGH")).await;
        client.expect("threat_alert").await;
    }
    send(&bus, "threat_alert", "4", &json!({"severity": "NONE"})).await;
    let threat = [("signalbox_domain", "threat")];
    eventually("the dead letter", DEADLINE, async || {
        let page = Page::of(&platform.router).await;
        let kept = page.number("signalbox_router_dead_letters_total", &threat);
        (kept == 1).then_some(())
    })
    .await;
    let page = Page::of(&platform.router).await;
    let number = |name: &str| page.number(&format!("signalbox_router_{name}"), &threat);
    assert_eq!(number("events_routed_total"), 3);
    assert_eq!(number("events_invalid_total"), 1);
    assert_eq!(number("events_duplicate_total"), 0);
    assert_eq!(number("assigned"), 1);
    assert_eq!(
        page.number("signalbox_router_store_duration_seconds_count", &[]),
        3
    );
    let network = [("signalbox_domain", "network")];
    assert_eq!(
        page.number("signalbox_router_events_routed_total", &network),
        0
    );
    assert_eq!(page.number("signalbox_bus_connected", &[]), 1);

    // Memory serves who returns to the same gateway, or to one that read what
    // was before its start; the stream who comes to one that did not.
    let mut again = all;
    again["since"] = confirmed["seq"].clone();
    let late = platform.start_gateway(&["--recent-events", "0"]).await;
    let informed = platform.start_gateway(&["--recent-events", "100"]).await;
    for (service, source, other) in [
        (gateway, "memory", "stream"),
        (&late, "stream", "memory"),
        (&informed, "memory", "stream"),
    ] {
        let mut returned = subscriber(service, &key, std::slice::from_ref(&again)).await;
        for _ in 0..3 {
            returned.expect("threat_alert").await;
        }
        let page = Page::of(service).await;
        let replayed = |source| {
            page.number(
                "signalbox_gateway_events_replayed_total",
                &[("source", source)],
            )
        };
        assert_eq!((replayed(source), replayed(other)), (3, 0));
    }

    let wrong = format!("{}0000", &key[..key.len() - 4]);
    let mut refused = WsClient::connect(&gateway.threat_url(), &[]).await;
    refused
        .send_json(&json!({"type": "authenticate", "token": wrong}))
        .await;
    refused.expect("error").await;
    let page = Page::of(&platform.auth).await;
    let answered = |outcome| {
        let labels = [("operation", "verify_key"), ("outcome", outcome)];
        page.number("signalbox_auth_requests_total", &labels)
    };
    // Each gateway asked once for the good key.
    assert_eq!((answered("ACCEPTED"), answered("AUTH_FAILED")), (3, 1));
    assert_eq!(page.number("signalbox_ready", &[("condition", "auth")]), 1);
}

/// A reader that falls behind shows while it does, and as what it was once it
/// is sent away; so does who finds the house full, and a bus that was lost.
#[tokio::test]
async fn trouble_shows_in_numbers() {
    let limits = [
        "--send-buffer-bytes",
        "16384",
        "--queue-bytes",
        "20000000",
        "--max-connections",
        "2",
    ];
    let platform = Platform::start_with(1, &limits).await;
    let gateway = &platform.gateways[0];
    let key = platform.api_key("analyst");
    let stream = raw::connect(raw::local(1), gateway.listener(), Some(4_096)).await;
    let mut stalled = Raw::open_over(stream, &key).await;
    let subscribe = json!({"type": "subscribe", "channel": "threat_alerts"});
    stalled.send(TEXT, subscribe.to_string().as_bytes()).await;
    stalled.json().await;
    let bus = platform.bus(User::Producer).await;
    let mut data = alert("HIGH");
    data["ai_summary"] = json!("s".repeat(100_000));
    let mut id = 0;
    let mut publish = async || {
        id += 1;
        send(&bus, "threat_alert", &id.to_string(), &data).await;
        Page::of(gateway).await
    };
    eventually("a queue", DEADLINE, async || {
        let page = publish().await;
        let waits = page.number("signalbox_gateway_queue_connections", &[]) == 1
            && page.number("signalbox_gateway_queue_size_bytes", &[]) > 100_000
            && page.exact("signalbox_gateway_queue_age_seconds") > 0.0;
        waits.then_some(())
    })
    .await;
    let slow = [("by", "slow_reader")];
    eventually("the end of the slow reader", DEADLINE, async || {
        let page = publish().await;
        let ended = page.number("signalbox_gateway_connections_ended_total", &slow);
        (ended == 1).then_some(())
    })
    .await;
    let queued = [("outcome", "queued")];
    let page = Page::of(gateway).await;
    assert!(page.number("signalbox_gateway_events_delivered_total", &queued) > 0);
    assert!(page.number("signalbox_gateway_events_dropped_total", &[]) > 0);
    drop(stalled);

    let mut guests = Vec::new();
    eventually("a refusal", DEADLINE, async || {
        let connected = WsClient::try_connect(&gateway.threat_url(), &[]).await;
        guests.extend(connected);
        let page = Page::of(gateway).await;
        let full = [("reason", "full")];
        let refused = page.number("signalbox_gateway_connections_refused_total", &full);
        (refused > 0).then_some(())
    })
    .await;
    platform.nats.restart().await;
    eventually("the bus", DEADLINE, async || {
        let page = Page::of(gateway).await;
        let name = |name| [("signalbox_bus_connection", name)];
        let back = ["gateway", "gateway feed"].into_iter().all(|it| {
            page.number("signalbox_bus_connected", &name(it)) == 1
                && page.number("signalbox_bus_reconnects_total", &name(it)) == 1
        });
        back.then_some(())
    })
    .await;
}

/// The probes have a thread of their own: they answer while the shard works.
#[tokio::test]
async fn probes_answer_under_load() {
    let platform = Platform::start_with(1, &["--shards", "1"]).await;
    let gateway = &platform.gateways[0];
    let key = platform.unlimited_token("analyst");
    let all = [json!({"channel": "threat_alerts"})];
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(subscriber(gateway, &key, &all).await);
    }
    let bus = platform.bus(User::Producer).await;
    let events = 300;
    let producing = async {
        for id in 0..events {
            send(&bus, "threat_alert", &id.to_string(), &alert("HIGH")).await;
        }
    };
    let probing = async {
        loop {
            for path in ["/live", "/ready", "/metrics"] {
                assert_eq!(get(gateway.admin, path).await.0, 200, "{path}");
            }
            let page = Page::of(gateway).await;
            if page.number("signalbox_gateway_events_delivered_total", &[]) == 100 * events {
                return;
            }
        }
    };
    let reading = async {
        for client in &mut clients {
            for _ in 0..events {
                client.expect("threat_alert").await;
            }
        }
    };
    tokio::time::timeout(DEADLINE, async {
        tokio::join!(producing, probing, reading)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn the_format_is_that_of_prometheus() {
    let platform = Platform::start(1).await;
    let addr = platform.gateways[0].admin;
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let kind = head
        .lines()
        .find(|line| line.starts_with("content-type: "))
        .unwrap();
    assert_eq!(kind, "content-type: text/plain; version=0.0.4");
    for line in body.lines().filter(|line| !line.starts_with('#')) {
        let number = line.rsplit(' ').next().unwrap();
        assert!(number.parse::<f64>().is_ok(), "{line}");
    }
    assert!(body.contains("process_cpu_time_seconds_total{"), "{body}");
}

/// `docs/metrics.md` lists every metric that the services serve, and no other.
#[tokio::test]
async fn the_documentation_lists_what_is_served() {
    let platform = Platform::start(1).await;
    let bus = platform.bus(User::Producer).await;
    let all = [json!({"channel": "threat_alerts"})];
    let gateway = &platform.gateways[0];
    let mut client = subscriber(gateway, &platform.api_key("analyst"), &all).await;
    send(&bus, "threat_alert", "1", &alert("HIGH")).await;
    client.expect("threat_alert").await;
    let mut grpc = EventServiceClient::new(grpc::channel(&platform).await);
    let nobody = grpc::one(grpc::event("2"));
    grpc.publish(nobody).await.unwrap_err();
    let relay = relay(&platform.nats, &[]).await;
    let orchestrator = orchestrator(&platform.nats, &[]).await;
    let (mut table, mut labels) = (String::new(), BTreeSet::new());
    for (title, service) in [
        ("Gateway", gateway),
        ("Router", &platform.router),
        ("Auth", &platform.auth),
        ("Relay", &relay),
        ("Orchestrator", &orchestrator),
    ] {
        let page = Page::of(service).await;
        labels.extend(page.labels());
        writeln!(
            table,
            "\n## {title}\n\n| metric | kind | what |\n|---|---|---|"
        )
        .unwrap();
        for (name, (kind, text)) in page.described() {
            writeln!(table, "| `{name}` | {kind} | {text} |").unwrap();
        }
    }
    let path = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../docs/metrics.md"
    ));
    let text = std::fs::read_to_string(path).unwrap();
    let (head, documented) = text.split_at(text.find("\n## ").unwrap_or(text.len()));
    if std::env::var_os(WRITE_DOCS).is_some() {
        std::fs::write(path, format!("{head}{table}")).unwrap();
        return;
    }
    let explained = |label: &String| head.contains(&format!("`{label}`"));
    labels.retain(|label| !explained(label));
    assert!(labels.is_empty(), "labels without a word: {labels:?}");
    assert_eq!(
        documented, table,
        "run this test with {WRITE_DOCS}=1 to write it"
    );
}
