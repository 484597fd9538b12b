//! A client of dialect `threat` that notes in a ledger what it receives, and
//! comes back after every break, whatever broke.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::ledger::{ClientId, Entitlement, Event, Ledger, Position, Verdict};

/// The pause before a client tries the next gateway.
const RETURN_PAUSE: Duration = Duration::from_millis(100);
/// How long each step of coming back may take before the client turns away.
const STEP: Duration = Duration::from_secs(10);
/// How long a connection may be silent before the client asks for life, and
/// then before it leaves.
const SILENCE: Duration = Duration::from_secs(5);

/// A ledger with a clock, shared by all who write to it.
#[derive(Debug)]
pub struct LiveLedger {
    begun: Instant,
    ledger: Mutex<Ledger>,
}

/// Who connects, to what.
#[derive(Clone, Debug)]
pub struct Subscriber {
    /// How the ledger names it.
    pub name: String,
    /// The gateways; the first is tried first.
    pub gateways: Vec<SocketAddr>,
    /// An API key or a token.
    pub token: String,
    /// What it subscribes to and may have.
    pub entitlement: Entitlement,
    /// The position from which it wants everything; `None` = from now on.
    pub since: Option<Position>,
}

impl LiveLedger {
    /// An empty ledger in which events are late beyond `bound`.
    #[must_use]
    pub fn new(bound: Duration) -> Arc<Self> {
        Arc::new(Self {
            begun: Instant::now(),
            ledger: Mutex::new(Ledger::new(bound)),
        })
    }

    /// As [`Ledger::publishing`], now.
    pub fn publishing(&self, event: Event) {
        let at = self.begun.elapsed();
        self.ledger.lock().publishing(event, at);
    }

    /// As [`Ledger::acknowledged`], now.
    pub fn acknowledged(&self, id: &str, sequence: u64) {
        let at = self.begun.elapsed();
        self.ledger.lock().acknowledged(id, sequence, at);
    }

    /// As [`Ledger::disturbed`], now.
    pub fn disturbed(&self) {
        let at = self.begun.elapsed();
        self.ledger.lock().disturbed(at);
    }

    /// As [`Ledger::calm`], now.
    pub fn calm(&self) {
        let at = self.begun.elapsed();
        self.ledger.lock().calm(at);
    }

    /// As [`Ledger::verdict`].
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.ledger.lock().verdict()
    }

    fn note(&self, note: impl FnOnce(&mut Ledger, Duration)) {
        let at = self.begun.elapsed();
        note(&mut self.ledger.lock(), at);
    }
}

/// A subscriber at work.
struct Visitor {
    subscriber: Subscriber,
    ledger: Arc<LiveLedger>,
    id: ClientId,
    /// The position of the last event, or of the first confirmation.
    since: Option<String>,
    /// How often it had to come back.
    returns: usize,
    /// Where to tell that the subscription was answered, until it was.
    answered: Option<mpsc::Sender<()>>,
    stop: watch::Receiver<bool>,
}

/// Why a visit to a gateway ended.
enum Departure {
    /// The connection broke, or could not be used.
    Broken,
    /// The client was told to stop, and has read everything that was under way.
    Stopped,
}

type Socket = WebSocketStream<TcpStream>;

impl Subscriber {
    /// Follows until `stop` holds true and everything that was sent until then
    /// is read. Sends on `answered` when its subscription is first answered,
    /// be it with a refusal. Returns how often it had to come back.
    ///
    /// # Panics
    /// When its credential is refused, or a frame is not what the dialect says.
    pub async fn run(
        self,
        ledger: Arc<LiveLedger>,
        answered: mpsc::Sender<()>,
        stop: watch::Receiver<bool>,
    ) -> usize {
        let id = ledger
            .ledger
            .lock()
            .client(&self.name, self.entitlement.clone());
        let mut visitor = Visitor {
            since: self.since.as_ref().map(ToString::to_string),
            subscriber: self,
            ledger,
            id,
            returns: 0,
            answered: Some(answered),
            stop,
        };
        let mut tried = 0;
        loop {
            let gateways = &visitor.subscriber.gateways;
            let addr = gateways[tried % gateways.len()];
            tried += 1;
            match visitor.visit(addr).await {
                Departure::Stopped => return visitor.returns,
                Departure::Broken => sleep(RETURN_PAUSE).await,
            }
        }
    }
}

impl Visitor {
    async fn visit(&mut self, addr: SocketAddr) -> Departure {
        let Some(Some(mut socket)) = within(STEP, self.open(addr)).await else {
            return Departure::Broken;
        };
        match within(STEP, self.subscribe(&mut socket)).await {
            Some(Some(())) => self.follow(&mut socket).await,
            _ => Departure::Broken,
        }
    }

    /// Connects and authenticates.
    async fn open(&self, addr: SocketAddr) -> Option<Socket> {
        let stream = TcpStream::connect(addr).await.ok()?;
        let (mut socket, _) = client_async(format!("ws://{addr}/v1/ws"), stream)
            .await
            .ok()?;
        let token = &self.subscriber.token;
        send(
            &mut socket,
            &json!({"type": "authenticate", "token": token}),
        )
        .await?;
        let answer = receive(&mut socket).await?;
        let name = &self.subscriber.name;
        assert_ne!(answer["code"], "AUTH_FAILED", "{name}: {answer}");
        (answer["type"] == "auth_success").then_some(socket)
    }

    /// Subscribes from where it was.
    async fn subscribe(&mut self, socket: &mut Socket) -> Option<()> {
        let Entitlement {
            channel,
            object,
            filters,
            permitted,
        } = &self.subscriber.entitlement;
        let mut request = json!({"type": "subscribe", "channel": channel});
        if let Some(object) = object {
            request["investigation_id"] = json!(object);
        }
        if !filters.is_empty() {
            request["filters"] = json!(filters);
        }
        if let Some(since) = &self.since {
            request["since"] = json!(since);
        }
        send(socket, &request).await?;
        let answer = receive(socket).await?;
        if answer["code"] == "FORBIDDEN" {
            assert!(!permitted, "{}: {answer}", self.subscriber.name);
            self.tell_answered();
            return Some(());
        }
        if answer["type"] != "subscription_confirmed" {
            return None;
        }
        let seq = text(&answer["seq"]);
        let start = match &self.since {
            None => position(seq),
            Some(since) => position(since),
        };
        let (id, lost) = (self.id, answer["recovered"] == false);
        let mut first = false;
        self.ledger.note(|ledger, at| {
            first = ledger.confirmed(id, start, at);
            if lost {
                ledger.told_lost(id, at);
            }
        });
        self.returns += usize::from(!first);
        self.tell_answered();
        if self.since.is_none() || lost {
            self.since = Some(seq.to_owned());
        }
        Some(())
    }

    fn tell_answered(&mut self) {
        if let Some(answered) = self.answered.take() {
            answered.try_send(()).ok();
        }
    }

    async fn follow(&mut self, socket: &mut Socket) -> Departure {
        let mut asked = false;
        let mut stopping = false;
        loop {
            let received = tokio::select! {
                received = within(SILENCE, receive(socket)) => received,
                () = told_to_stop(&mut self.stop), if !stopping => {
                    stopping = true;
                    if send(socket, &json!({"type": "ping"})).await.is_none() {
                        return Departure::Stopped;
                    }
                    continue;
                }
            };
            let frame = match received {
                Some(Some(frame)) => frame,
                None if !asked => {
                    asked = true;
                    match send(socket, &json!({"type": "ping"})).await {
                        Some(()) => continue,
                        None => return Departure::Broken,
                    }
                }
                Some(None) | None if stopping => return Departure::Stopped,
                Some(None) | None => return Departure::Broken,
            };
            if frame["type"] == "pong" && stopping && !asked {
                socket.close(None).await.ok();
                return Departure::Stopped;
            }
            asked = false;
            // A state has no id: it is no event.
            if frame["seq"].is_string() && frame["id"].is_string() {
                let seq = text(&frame["seq"]);
                self.ledger.note(|ledger, at| {
                    ledger.received(self.id, text(&frame["id"]), position(seq), at);
                });
                self.since = Some(seq.to_owned());
            }
        }
    }
}

async fn told_to_stop(stop: &mut watch::Receiver<bool>) {
    stop.wait_for(|stop| *stop).await.ok();
}

async fn within<T>(time: Duration, future: impl Future<Output = T>) -> Option<T> {
    timeout(time, future).await.ok()
}

async fn send(socket: &mut Socket, frame: &Value) -> Option<()> {
    socket.send(Message::text(frame.to_string())).await.ok()
}

/// The next JSON frame; `None` at the end of the connection.
async fn receive(socket: &mut Socket) -> Option<Value> {
    loop {
        match socket.next().await?.ok()? {
            Message::Text(text) => {
                return Some(serde_json::from_str(&text).expect("frames are JSON"));
            }
            Message::Ping(_) | Message::Pong(_) => {}
            _ => return None,
        }
    }
}

fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("expected a string, not {value}"))
}

fn position(seq: &str) -> Position {
    Position::parse(seq).unwrap_or_else(|| panic!("expected a resume offset, not {seq}"))
}
