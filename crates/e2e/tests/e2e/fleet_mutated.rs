//! G3 for whole conversations of dialect `fleet`, of dashboards and of agents:
//! documented messages with seeded mutations. What an agent reports is not
//! answered at once, and dashboards are told what happens elsewhere; so each
//! message has a fence behind it, a `heartbeat:ping` with an id of its own. What
//! cannot be read is refused once ahead of the fence's answer, with the code and
//! field that the decoder complains of; everything that comes has the shape of
//! the dialect; and gateway and relay live on.
//!
//! 1,200 conversations; `SIGNALBOX_TEST_SCALE=20` runs 24,000.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use signalbox_identity::AgentId;
use signalbox_protocol::frame::fleet::ClientFrame;
use signalbox_protocol::frame::fleet::shape::SHAPE;
use signalbox_testkit::get;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use crate::fixtures::client_texts;
use crate::fleet_world::{Screen, UNLIMITED, World, run};
use crate::mutated::mutate::Mutator;
use crate::mutated::{assert_varied, hold, scale};
use crate::raw::{BINARY, CLOSE, Raw, TEXT, connect, frame, local};

/// Conversations at scale 1.
const CONVERSATIONS: u64 = 1_200;
/// Conversations at once.
const PARALLEL: u64 = 6;
/// Messages of a conversation, each with a fence.
const MESSAGES: usize = 6;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(8);
/// The agent of the documentation's examples.
const AGENT: &str = "builder-1";
/// What dashboards and agents hear without having asked, and the later outcome of
/// reports.
const UNASKED: &[&str] = &[
    "agent:status",
    "command:error",
    "command:execute",
    "command:interrupt",
    "request:done",
    "system:emergency-status",
    "system:emergency-stop",
    "system:resume",
    "terminal:ack",
    "terminal:clear",
];

/// One side of the dialect, and how it is reached.
struct Side {
    target: SocketAddr,
    header: String,
    hello: Value,
    texts: Vec<String>,
}

/// A message that is sent, and what must come of it.
struct Said {
    /// The complaint of the decoder, where there is one.
    refused: Option<(String, Value)>,
    /// Whether no text is meant.
    binary: bool,
    /// The message, as far as it is text.
    text: String,
}

impl Said {
    fn of(first: u8, bytes: &[u8]) -> Self {
        let text = std::str::from_utf8(bytes);
        let complaint = text.ok().and_then(|text| ClientFrame::decode(text).err());
        Self {
            refused: complaint
                .map(|complaint| (complaint.code.to_string(), json!(complaint.field))),
            binary: first == BINARY || text.is_err(),
            text: String::from_utf8_lossy(bytes).into_owned(),
        }
    }
}

/// Holds one conversation; says how it ended.
async fn converse(side: &Side, seed: u64) -> String {
    let mut mutator = Mutator::new(seed);
    let mut bytes = Vec::new();
    let mut said = Vec::new();
    for number in 0..MESSAGES {
        let text = &side.texts[mutator.below(side.texts.len())];
        let mut message = text.clone().into_bytes();
        if mutator.below(4) > 0 {
            mutator.mutate(&mut message);
        }
        let first = if mutator.below(64) == 0 { BINARY } else { TEXT };
        bytes.extend(frame(first, &message));
        said.push(Said::of(first, &message));
        let fence = json!({"type": "heartbeat:ping", "requestId": format!("fence-{number}")});
        bytes.extend(frame(TEXT, fence.to_string().as_bytes()));
    }
    let stream = connect(local(1), side.target, None).await;
    let upgraded = Raw::try_upgrade_at(stream, SHAPE.path, &side.header).await;
    let mut raw = upgraded.unwrap_or_else(|answer| panic!("{seed}: refused: {answer:?}"));
    raw.send(TEXT, side.hello.to_string().as_bytes()).await;
    let greeting = timeout(PATIENCE, raw.json()).await;
    let greeting = greeting.unwrap_or_else(|_| panic!("{seed}: no greeting"));
    let kind = greeting["type"].as_str().unwrap();
    assert!(
        matches!(kind, "agent:list" | "agent:connected"),
        "{seed}: {greeting}"
    );
    // The gateway may hang up before the end.
    raw.0.write_all(&bytes).await.ok();
    for (number, said) in said.iter().enumerate() {
        let mut answers = Vec::new();
        loop {
            let (first, payload) = match timeout(PATIENCE, raw.receive()).await {
                Ok(Ok(received)) => received,
                Ok(Err(error)) => return format!("cut: {:?}", error.kind()),
                Err(_) => panic!("{seed}: nothing after {answers:?} to {}", said.text),
            };
            if first == CLOSE {
                let code = u16::from_be_bytes([payload[0], payload[1]]);
                let listed = SHAPE.closes.iter().any(|close| close.code == code);
                assert!(listed, "{seed}: closed with {code}");
                return format!("closed: {code}");
            }
            assert_eq!(first, TEXT, "{seed}");
            let answer: Value = serde_json::from_slice(&payload).unwrap();
            let kind = answer["type"].as_str().unwrap();
            let shape = SHAPE.server(kind);
            let shape = shape.unwrap_or_else(|| panic!("{seed}: {answer}"));
            assert_eq!(shape.check(&answer), Ok(()), "{seed}: {answer}");
            if answer["requestId"] == format!("fence-{number}") {
                break;
            }
            if !UNASKED.contains(&kind) || said.refused.is_some() {
                answers.push(answer);
            }
        }
        assert!(!said.binary, "{seed}: taken for text: {}", said.text);
        if let Some((code, field)) = &said.refused {
            let refusals = answers.iter().filter(|answer| {
                answer["type"] == "validation:error"
                    && answer["code"] == code.as_str()
                    && answer["field"] == *field
            });
            let count = refusals.count();
            assert_eq!(
                count, 1,
                "{seed}: {code} {field}: {answers:?} to {}",
                said.text
            );
        }
    }
    "open".to_owned()
}

/// A client that behaves is served, by the gateway and by the relay.
async fn assert_served(world: &World) {
    let gateway = &world.platform.gateways[0];
    for service in [gateway, &world.relay] {
        assert_eq!(service.process.exit_status(), None);
        assert_eq!(get(service.admin, "/ready").await.0, 200);
        let log = service.process.stderr().lines();
        let panic = log.iter().find(|line| line.contains("panicked"));
        assert_eq!(panic, None);
    }
    let mut agent = world.agent(AGENT).await;
    let mut dashboard = world.dashboard("operator").await;
    let id = run(&mut dashboard, AGENT, "make").await;
    agent.executes().await;
    agent.writes(&id, "well\n").await;
    agent.completes(&id, 0).await;
    let mut screen = Screen::default();
    screen.watch(&mut dashboard, &id).await;
    assert_eq!(screen.text, "well\n");
}

/// The documented messages but those with refresh tokens: bad ones are answered
/// later and later, by the auth service as well.
fn texts(token: &str) -> Vec<String> {
    let texts = client_texts(&SHAPE, token).into_iter();
    texts
        .filter(|text| !text.contains("refreshToken"))
        .collect()
}

fn sides(world: &World) -> Vec<Side> {
    let target = world.platform.gateways[0].listener();
    let token = world.platform.unlimited_token("analyst");
    let dashboard = Side {
        target,
        header: format!("Authorization: Bearer {token}\r\n"),
        hello: json!({"type": "dashboard:connect", "dashboardId": "d"}),
        texts: texts(&token),
    };
    let agent = |number: u64| {
        // Each worker is an agent of its own, or they would replace each other.
        let id = format!("{AGENT}-{number}");
        let mut claims = world.platform.claims("agent");
        claims.agent_id = Some(AgentId::new(id.as_str()).unwrap());
        let token = world.platform.signing_key().sign(&claims).unwrap();
        let texts = texts(token.expose());
        Side {
            target,
            header: format!("Authorization: Bearer {}\r\n", token.expose()),
            hello: json!({
                "type": "agent:connect",
                "agentId": id,
                "agentType": "scripted",
                "version": "1",
                "capabilities": ["ack", "journal"],
            }),
            texts: texts
                .iter()
                .map(|text| text.replace(&format!("\"{AGENT}\""), &format!("\"{id}\"")))
                .collect(),
        }
    };
    std::iter::once(dashboard)
        .chain((0..PARALLEL).map(agent))
        .collect()
}

#[tokio::test]
async fn mutated_conversations_of_dashboards_and_agents_hurt_nobody() {
    let arguments = [
        "--connect-rate",
        "0",
        "--log-filter",
        "info",
        // Bad tokens are sent again and again, from one address.
        "--longest-refusal-delay",
        "0",
    ];
    let arguments = [&UNLIMITED[..], &arguments].concat();
    let world = World::start_with(1, &arguments).await;
    let sides = Arc::new(sides(&world));
    let count = CONVERSATIONS * scale();
    let endings = hold(count, PARALLEL, move |worker, seed| {
        let sides = Arc::clone(&sides);
        async move {
            let is_agent = (seed / PARALLEL).is_multiple_of(2);
            let side = if is_agent { 1 + worker as usize } else { 0 };
            converse(&sides[side], seed).await
        }
    });
    assert_varied(&endings.await, CONVERSATIONS / 10, &[1000, 1003, 1007]);
    assert_served(&world).await;
}
