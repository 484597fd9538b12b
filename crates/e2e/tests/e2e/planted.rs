//! Faults planted between a real system and its clients, or its producers: the
//! ledger must find each, blame the right client, and nobody else.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use signalbox_bus::publish::{Outgoing, publish};
use signalbox_bus::server::User;
use signalbox_bus::stream::TOPICS;
use signalbox_bus::{Bus, HeaderMap, history};
use signalbox_testkit::ledger::{Entitlement, Event, FaultKind, Position, Verdict};
use signalbox_testkit::{DEADLINE, LiveLedger, Platform, Subscriber, WsClient, eventually};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{accept_async, client_async};

use crate::events::{alert, send};

const EVENTS: usize = 20;
/// Which event, counted from 1, a lie is about.
const LIE_AT: usize = 9;
const CHANNEL: &str = "threat_alerts";
/// The client that is lied to.
const VICTIM: &str = "victim";

/// How a relay between gateway and client departs from the truth.
#[derive(Clone, Debug, PartialEq)]
enum Lie {
    None,
    /// One event is not handed on.
    Drop,
    /// One event is handed on twice.
    Double,
    /// One event is handed on behind the next.
    Swap,
    /// The client is let in with somebody else's token.
    Lend(String),
    /// The gateway never hears of the filters.
    Unfilter,
}

/// A relay that passes whole WebSocket frames, in front of a gateway.
struct Relay {
    addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Relay {
    async fn start(gateway: SocketAddr, lie: Lie) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(relay(client, gateway, lie.clone()));
            }
        });
        Self { addr, task }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn relay(client: TcpStream, gateway: SocketAddr, lie: Lie) {
    let mut client = accept_async(client).await.unwrap();
    let server = TcpStream::connect(gateway).await.unwrap();
    let (mut server, _) = client_async(format!("ws://{gateway}/v1/ws"), server)
        .await
        .unwrap();
    let (mut events, mut held) = (0, None);
    loop {
        tokio::select! {
            Some(Ok(message)) = client.next() => {
                if server.send(twisted(message, &lie)).await.is_err() {
                    return;
                }
            }
            Some(Ok(message)) = server.next() => {
                let is_event = message.to_text().is_ok_and(|text| text.contains("\"threat_alert\""));
                events += usize::from(is_event);
                let lied_about = is_event && events == LIE_AT;
                let frames = match lie {
                    Lie::Drop if lied_about => vec![],
                    Lie::Double if lied_about => vec![message.clone(), message],
                    Lie::Swap if lied_about => {
                        held = Some(message);
                        vec![]
                    }
                    _ => [Some(message), held.take()].into_iter().flatten().collect(),
                };
                for frame in frames {
                    if client.send(frame).await.is_err() {
                        return;
                    }
                }
            }
            else => return,
        }
    }
}

/// What the gateway hears instead of what the client said.
fn twisted(message: Message, lie: &Lie) -> Message {
    let Ok(mut frame) = serde_json::from_str::<Value>(message.to_text().unwrap_or_default()) else {
        return message;
    };
    match (lie, frame["type"].as_str()) {
        (Lie::Lend(token), Some("authenticate")) => frame["token"] = json!(token),
        (Lie::Unfilter, Some("subscribe")) => frame["filters"] = json!({}),
        _ => return message,
    }
    Message::text(frame.to_string())
}

/// A run with two clients: an honest one that everything reaches, and one that
/// is lied to.
struct Run {
    platform: Platform,
    bus: Bus,
    ledger: Arc<LiveLedger>,
    clients: JoinSet<usize>,
    answered: (mpsc::Sender<()>, mpsc::Receiver<()>),
    stop: watch::Sender<bool>,
    relays: Vec<Relay>,
}

impl Run {
    async fn start() -> Self {
        let platform = Platform::start(1).await;
        let mut run = Self {
            bus: platform.bus(User::Producer).await,
            platform,
            ledger: LiveLedger::new(DEADLINE),
            clients: JoinSet::new(),
            answered: mpsc::channel(2),
            stop: watch::channel(false).0,
            relays: Vec::new(),
        };
        run.admit("honest", "viewer", Entitlement::to(CHANNEL), Lie::None)
            .await;
        run
    }

    /// The position at which the stream is now.
    async fn position(&self) -> Position {
        let mut client = WsClient::connect(&self.platform.gateways[0].threat_url(), &[]).await;
        client.authenticate(&self.platform.api_key("viewer")).await;
        let confirmed = client.subscribe(json!({"channel": CHANNEL})).await;
        Position::parse(confirmed["seq"].as_str().unwrap()).unwrap()
    }

    /// Starts a client behind a relay and waits until it is subscribed.
    async fn admit(&mut self, name: &str, role: &str, entitlement: Entitlement, lie: Lie) {
        self.admit_from(None, name, role, entitlement, lie).await;
    }

    /// As [`Self::admit`], with everything behind a position.
    async fn admit_from(
        &mut self,
        since: Option<Position>,
        name: &str,
        role: &str,
        entitlement: Entitlement,
        lie: Lie,
    ) {
        let relay = Relay::start(self.platform.gateways[0].listener(), lie).await;
        let subscriber = Subscriber {
            name: name.to_owned(),
            gateways: vec![relay.addr],
            token: self.platform.api_key(role),
            entitlement,
            since,
        };
        self.relays.push(relay);
        self.clients.spawn(subscriber.run(
            Arc::clone(&self.ledger),
            self.answered.0.clone(),
            self.stop.subscribe(),
        ));
        self.answered.1.recv().await.unwrap();
    }

    async fn publish(&self, number: usize) {
        let data = alert(if number.is_multiple_of(2) {
            "HIGH"
        } else {
            "LOW"
        });
        let id = format!("e-{number}");
        self.begin(&id, &data);
        let stored = send(&self.bus, "threat_alert", &id, &data).await;
        self.ledger.acknowledged(&id, stored.sequence);
    }

    fn begin(&self, id: &str, data: &Value) {
        self.ledger.publishing(Event {
            id: id.to_owned(),
            channel: CHANNEL.to_owned(),
            object: None,
            data: data.clone(),
        });
    }

    /// Waits until this many events were received by all clients together, lets
    /// everything under way arrive, and judges.
    async fn end(mut self, received: usize) -> Verdict {
        eventually("the events", DEADLINE, async || {
            (self.ledger.verdict().received >= received).then_some(())
        })
        .await;
        self.stop.send(true).unwrap();
        while let Some(client) = self.clients.join_next().await {
            client.unwrap();
        }
        self.ledger.verdict()
    }
}

/// A run in which one client is told this lie.
async fn lied_to(role: &str, entitlement: Entitlement, lie: Lie, received: usize) -> Verdict {
    let mut run = Run::start().await;
    run.admit(VICTIM, role, entitlement, lie).await;
    for number in 1..=EVENTS {
        run.publish(number).await;
    }
    run.end(EVENTS + received).await
}

/// The verdict must consist of faults of this kind, with these events, and
/// blame the victim alone.
fn assert_found(verdict: &Verdict, kind: FaultKind, events: &[usize]) {
    let found: Vec<_> = verdict
        .faults
        .iter()
        .map(|fault| (fault.kind, fault.event.clone()))
        .collect();
    let expected: Vec<_> = events
        .iter()
        .map(|number| (kind, format!("e-{number}")))
        .collect();
    assert_eq!(found, expected, "{verdict}");
    let victims = verdict
        .faults
        .iter()
        .all(|fault| fault.client.starts_with(VICTIM));
    assert!(victims, "{verdict}");
}

#[tokio::test]
async fn a_truthful_run_is_clean() {
    let entitlement = Entitlement::to(CHANNEL).filtered("severity", &["high"]);
    let verdict = lied_to("viewer", entitlement, Lie::None, EVENTS / 2).await;
    verdict.assert_clean("a truthful run");
    assert_eq!(
        (verdict.acknowledged, verdict.received),
        (EVENTS, EVENTS + EVENTS / 2)
    );
}

#[tokio::test]
async fn a_dropped_frame_is_a_lost_event() {
    let verdict = lied_to("viewer", Entitlement::to(CHANNEL), Lie::Drop, EVENTS - 1).await;
    assert_found(&verdict, FaultKind::Lost, &[LIE_AT]);
}

#[tokio::test]
async fn a_repeated_frame_is_a_duplicated_event() {
    let verdict = lied_to("viewer", Entitlement::to(CHANNEL), Lie::Double, EVENTS + 1).await;
    assert_found(&verdict, FaultKind::Duplicated, &[LIE_AT]);
}

#[tokio::test]
async fn swapped_frames_are_a_reordered_event() {
    let verdict = lied_to("viewer", Entitlement::to(CHANNEL), Lie::Swap, EVENTS).await;
    assert_found(&verdict, FaultKind::Reordered, &[LIE_AT]);
}

#[tokio::test]
async fn an_ignored_filter_delivers_what_nobody_asked_for() {
    let entitlement = Entitlement::to(CHANNEL).filtered("severity", &["HIGH"]);
    let verdict = lied_to("viewer", entitlement, Lie::Unfilter, EVENTS).await;
    let odd: Vec<usize> = (1..=EVENTS).step_by(2).collect();
    assert_found(&verdict, FaultKind::NotEntitled, &odd);
}

/// A client without the permission names a position and gets what lies behind
/// it, in replay and then live.
#[tokio::test]
async fn a_permission_that_is_not_checked_is_found() {
    let entitlement = Entitlement::to(CHANNEL).forbidden();
    let mut run = Run::start().await;
    let start = run.position().await;
    for number in 1..=EVENTS {
        if number == LIE_AT {
            let lend = Lie::Lend(run.platform.api_key("viewer"));
            run.admit_from(
                Some(start.clone()),
                VICTIM,
                "producer",
                entitlement.clone(),
                lend,
            )
            .await;
        }
        run.publish(number).await;
    }
    let all: Vec<usize> = (1..=EVENTS).collect();
    assert_found(&run.end(2 * EVENTS).await, FaultKind::NotEntitled, &all);
    // The gateway itself lets such a client have nothing.
    let verdict = lied_to("producer", entitlement, Lie::None, 0).await;
    verdict.assert_clean("an honest gateway");
}

/// A producer's library that acknowledges what it has not sent.
#[tokio::test]
async fn an_acknowledgement_before_the_publish_is_a_loss() {
    let mut run = Run::start().await;
    run.admit(VICTIM, "viewer", Entitlement::to(CHANNEL), Lie::None)
        .await;
    for number in 1..=EVENTS {
        if number == LIE_AT {
            run.begin(&format!("e-{number}"), &alert("LOW"));
            run.ledger
                .acknowledged(&format!("e-{number}"), number as u64);
        } else {
            run.publish(number).await;
        }
    }
    let verdict = run.end(2 * (EVENTS - 1)).await;
    let lost: Vec<_> = verdict
        .faults
        .iter()
        .map(|fault| (fault.kind, fault.event.as_str()))
        .collect();
    let expected = (FaultKind::Lost, "e-9");
    assert_eq!(lost, [expected, expected], "{verdict}");
    assert!(verdict.to_string().contains("nobody has it"), "{verdict}");
}

/// A router that stores an event twice, under another message id.
#[tokio::test]
async fn an_event_that_is_stored_twice_is_found() {
    let run = Run::start().await;
    for number in 1..=EVENTS {
        run.publish(number).await;
    }
    let admin = run.platform.bus(User::Admin).await;
    let stored = eventually("stored events", DEADLINE, async || {
        let page = history::page(&admin, TOPICS, "topics.>", 1, EVENTS).await;
        let messages = page.unwrap().messages;
        (messages.len() == EVENTS).then_some(messages)
    })
    .await;
    let first = stored.into_iter().next().unwrap();
    // Without what belongs to the first publish, the fence above all.
    let mut headers = HeaderMap::new();
    for (name, values) in first.headers.unwrap().iter() {
        if !name.to_string().starts_with("Nats-") {
            headers.insert(name.clone(), values[0].clone());
        }
    }
    let again = Outgoing {
        subject: first.subject.to_string(),
        message_id: "another".to_owned(),
        headers,
        payload: first.payload,
    };
    publish(&admin, &again, DEADLINE).await.unwrap();
    let verdict = run.end(EVENTS + 1).await;
    let kinds: Vec<_> = verdict
        .faults
        .iter()
        .map(|fault| (fault.kind, fault.event.as_str()))
        .collect();
    assert_eq!(kinds, [(FaultKind::Duplicated, "e-1")], "{verdict}");
}
