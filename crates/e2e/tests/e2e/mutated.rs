//! G3 for whole conversations: documented ones with seeded mutations. Every
//! message is answered once, in the shape of the dialect, or the connection is
//! closed with a documented code; the gateway lives on and serves others.
//!
//! 5,000 conversations; `SIGNALBOX_TEST_SCALE=20` runs 100,000.

#[path = "../../../protocol/fuzz/mutate.rs"]
pub(crate) mod mutate;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use signalbox_bus::server::User;
use signalbox_protocol::Dialect;
use signalbox_protocol::frame::shape::{self, Carrier, Shape};
use signalbox_testkit::{Platform, WsClient, get};
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;

use self::mutate::Mutator;
use crate::events::{alert, send};
use crate::fixtures::client_texts;
use crate::raw::{BINARY, CLOSE, Raw, TEXT, connect, frame, local};

/// Conversations at scale 1.
const CONVERSATIONS: u64 = 5_000;
/// Conversations at once.
const PARALLEL: u64 = 8;
/// Messages of a conversation, the last of which is sound.
const MESSAGES: usize = 6;
/// The addresses that clients come from, so that ports do not run out.
const ADDRESSES: std::ops::RangeInclusive<u8> = 2..=251;

/// How conversations ended, and how often.
pub(crate) type Endings = BTreeMap<String, u64>;

/// A dialect, its sound messages, and how it is reached.
struct Subject {
    shape: &'static Shape,
    target: SocketAddr,
    header: String,
    texts: Vec<String>,
}

/// How many times as many conversations are to be held.
pub(crate) fn scale() -> u64 {
    let scale = std::env::var("SIGNALBOX_TEST_SCALE").ok();
    scale.map_or(1, |scale| scale.parse().unwrap())
}

/// Holds the conversations of so many seeds, `parallel` at once; `converse` is
/// given which of those it is and the seed, and says how it ended.
pub(crate) async fn hold<F: Future<Output = String> + Send + 'static>(
    count: u64,
    parallel: u64,
    converse: impl Fn(u64, u64) -> F + Clone + Send + 'static,
) -> Endings {
    let mut workers = JoinSet::new();
    for worker in 0..parallel {
        let converse = converse.clone();
        workers.spawn(async move {
            let mut endings = Vec::new();
            for seed in (worker..count).step_by(parallel as usize) {
                endings.push(converse(worker, seed).await);
            }
            endings
        });
    }
    let mut endings = Endings::new();
    while let Some(part) = workers.join_next().await {
        for ending in part.unwrap() {
            *endings.entry(ending).or_default() += 1;
        }
    }
    eprintln!("{endings:?}");
    endings
}

/// Asserts that more than `open` conversations ended open and some with each of
/// these codes, since mutations that all end in the same way would prove little;
/// and that every close was said before it happened.
pub(crate) fn assert_varied(endings: &Endings, open: u64, codes: &[u16]) {
    let count = |ending: &str| endings.get(ending).copied().unwrap_or_default();
    assert!(count("open") > open, "{endings:?}");
    for code in codes {
        assert!(count(&format!("closed: {code}")) > 0, "{endings:?}");
    }
    let cut = endings.keys().find(|ending| ending.starts_with("cut"));
    assert_eq!(cut, None, "{endings:?}");
}

/// Holds one conversation; says how it ended.
async fn converse(subject: &Subject, seed: u64) -> String {
    let mut mutator = Mutator::new(seed);
    let mut bytes = Vec::new();
    for _ in 1..MESSAGES {
        let mut message = subject.texts[mutator.below(subject.texts.len())]
            .clone()
            .into_bytes();
        if mutator.below(4) > 0 {
            mutator.mutate(&mut message);
        }
        let first = if mutator.below(64) == 0 { BINARY } else { TEXT };
        bytes.extend(frame(first, &message));
    }
    bytes.extend(frame(TEXT, br#"{"type":"ping"}"#));

    let addresses = ADDRESSES.count();
    let offset = u8::try_from(seed % addresses as u64).unwrap();
    let source = local(ADDRESSES.start() + offset);
    let stream = connect(source, subject.target, None).await;
    let mut raw = match Raw::try_upgrade_at(stream, subject.shape.path, &subject.header).await {
        Ok(raw) => raw,
        Err(answer) => panic!("{seed}: refused: {answer:?}"),
    };
    if subject.shape.server("auth_success").is_some() {
        assert_eq!(raw.json().await["type"], "auth_success", "{seed}");
    }
    // The gateway may hang up before the end.
    raw.0.write_all(&bytes).await.ok();
    let mut answered = 0;
    while answered < MESSAGES {
        let (first, payload) = match raw.receive().await {
            Ok(received) => received,
            Err(error) => return format!("cut: {:?}", error.kind()),
        };
        if first == CLOSE {
            let code = u16::from_be_bytes([payload[0], payload[1]]);
            let listed = subject.shape.closes.iter().any(|close| close.code == code);
            assert!(listed, "{seed}: closed with {code}");
            return format!("closed: {code}");
        }
        assert_eq!(first, TEXT, "{seed}");
        let answer: Value = serde_json::from_slice(&payload).unwrap();
        let kind = answer["type"].as_str().unwrap();
        let message = subject.shape.server(kind);
        let message = message.unwrap_or_else(|| panic!("{seed}: {answer}"));
        assert_eq!(message.check(&answer), Ok(()), "{seed}: {answer}");
        // What an investigation is told comes beside the answers.
        let is_unasked = kind == "investigation_state"
            || subject.shape.events().any(|(_, event)| event.kind == kind);
        answered += usize::from(!is_unasked);
        if answered == MESSAGES && !is_unasked {
            assert_eq!(kind, "pong", "{seed}: {answer}");
        }
    }
    "open".to_owned()
}

/// A client that behaves is served.
async fn assert_served(platform: &Platform) {
    let gateway = &platform.gateways[0];
    assert_eq!(gateway.process.exit_status(), None);
    assert_eq!(get(gateway.admin, "/ready").await.0, 200);
    let log = gateway.process.stderr().lines();
    let panic = log.iter().find(|line| line.contains("panicked"));
    assert_eq!(panic, None);
    let bus = platform.bus(User::Producer).await;
    let mut client = WsClient::connect(&gateway.threat_url(), &[]).await;
    client.authenticate(&platform.api_key("viewer")).await;
    client.subscribe(json!({"channel": "threat_alerts"})).await;
    send(&bus, "threat_alert", "after", &alert("HIGH")).await;
    assert_eq!(client.expect("threat_alert").await["id"], "after");
}

#[tokio::test]
async fn mutated_conversations_hurt_nobody() {
    let arguments = [
        "--messages-per-minute",
        "0",
        "--connect-rate",
        "0",
        "--log-filter",
        "info",
        // There are no agents, and clients are told so soon.
        "--chat-patience",
        "0.05",
    ];
    let platform = Platform::start_with(1, &arguments).await;
    let token = platform.unlimited_token("analyst");
    let subjects: Vec<_> = shape::ALL
        .iter()
        .filter(|shape| shape.carrier == Carrier::WebSocket)
        // Agents report without being answered; `fleet_mutated` has that dialect.
        .filter(|shape| shape.dialect != Dialect::Fleet)
        .map(|shape| Subject {
            shape,
            target: platform.gateways[0].listener(),
            header: format!("Authorization: Bearer {token}\r\n"),
            texts: client_texts(shape, &token),
        })
        .collect();
    let subjects = Arc::new(subjects);
    let count = CONVERSATIONS * scale();
    let endings = hold(count, PARALLEL, move |_, seed| {
        let subjects = Arc::clone(&subjects);
        async move {
            let subject = &subjects[(seed / PARALLEL) as usize % subjects.len()];
            converse(subject, seed).await
        }
    });
    assert_varied(&endings.await, CONVERSATIONS / 10, &[1003, 1007, 1008]);
    assert_served(&platform).await;
}
