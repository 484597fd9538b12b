//! Stock Socket.IO clients against a whole platform, and what they are told to
//! do.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;

use serde_json::{Value, json};
use signalbox_bus::publish::{Outgoing, Stored, publish};
use signalbox_bus::server::User;
use signalbox_bus::{Bus, HeaderMap};
use signalbox_identity::UserId;
use signalbox_protocol::envelope::{CE_ID, CE_TIME};
use signalbox_testkit::{DEADLINE, NodeClient, Platform, PythonClient};
use time::OffsetDateTime;

/// The namespace of both dialects.
pub(crate) const NS: &str = "/ws";

/// A client on the JavaScript library, in one namespace.
pub(crate) struct Io {
    client: NodeClient,
    ns: String,
    /// What came while something else was waited for.
    kept: RefCell<VecDeque<Value>>,
}

impl Io {
    /// A client of the gateway at `address` that has not connected.
    pub(crate) async fn new(address: SocketAddr) -> Self {
        let url = format!("http://{address}");
        let client = NodeClient::start("socketio.mjs", &json!({"url": url}));
        client.expect_event("ready").await;
        Self {
            client,
            ns: NS.to_owned(),
            kept: RefCell::default(),
        }
    }

    /// The same in another namespace.
    pub(crate) fn in_namespace(mut self, ns: &str) -> Self {
        ns.clone_into(&mut self.ns);
        self
    }

    /// Connects with `auth`, by WebSocket alone.
    pub(crate) async fn connect(address: SocketAddr, auth: Value) -> Self {
        let io = Self::new(address).await;
        io.join(&json!({"auth": auth, "transports": ["websocket"]}));
        io
    }

    /// Connects with these options.
    pub(crate) fn join(&self, options: &Value) {
        self.tell(&json!({"join": self.ns, "options": options}));
    }

    /// Connects with a query in the URL, as documents show it.
    pub(crate) fn join_by_url(&mut self, query: &str) {
        self.ns = format!("{NS}?{query}");
        self.join(&json!({"transports": ["websocket"]}));
    }

    fn tell(&self, command: &Value) {
        self.client.process().write_line(&command.to_string());
    }

    /// Emits an event.
    pub(crate) fn emit(&self, name: &str, argument: &Value) {
        self.tell(&json!({"ns": self.ns, "emit": [name, argument]}));
    }

    /// Emits an event and gives its acknowledgement.
    pub(crate) async fn ask(&self, name: &str, argument: &Value) -> Value {
        self.tell(&json!({"ns": self.ns, "emit": [name, argument], "ack": 20_000}));
        let mut ack = self.event("ack").await;
        assert!(ack.get("error").is_none(), "{name} {argument}: {ack}");
        ack["answer"].take()
    }

    /// Breaks the transport, as a network does.
    pub(crate) fn cut(&self) {
        self.tell(&json!({"ns": self.ns, "cut": true}));
    }

    /// Leaves the namespace.
    pub(crate) fn leave(&self) {
        self.tell(&json!({"ns": self.ns, "leave": true}));
    }

    /// The secret of its session, as its library remembers it; empty if none.
    pub(crate) async fn secret(&self) -> String {
        self.tell(&json!({"ns": self.ns, "secret": true}));
        let told = self.event("secret").await;
        told["pid"].as_str().unwrap_or_default().to_owned()
    }

    /// Uses another server from the next attempt on.
    pub(crate) fn move_to(&self, address: SocketAddr) {
        let url = format!("http://{address}");
        self.tell(&json!({"ns": self.ns, "move": url}));
    }

    /// The next thing of this kind that happens; other things are kept.
    pub(crate) async fn event(&self, kind: &str) -> Value {
        self.find(|value| value["event"] == kind).await
    }

    /// The arguments of the next message of this name; other things are kept.
    pub(crate) async fn message(&self, name: &str) -> Value {
        let mut found = self
            .find(|value| value["event"] == "message" && value["name"] == name)
            .await;
        found["args"].take()
    }

    /// The next message, whatever it is: its name and arguments.
    pub(crate) async fn next_message(&self) -> (String, Value) {
        let mut found = self.find(|value| value["event"] == "message").await;
        let name = found["name"].as_str().unwrap().to_owned();
        (name, found["args"].take())
    }

    /// Messages that came and that nobody asked about, up to now: as many as
    /// came before the answer to a last question.
    pub(crate) async fn leftovers(&self) -> Vec<Value> {
        self.ask("ping", &json!({})).await;
        let kept = self.kept.take();
        kept.into_iter()
            .filter(|value| value["event"] == "message")
            .collect()
    }

    async fn find(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let at = self.kept.borrow().iter().position(&wanted);
        if let Some(found) = at.and_then(|at| self.kept.borrow_mut().remove(at)) {
            return found;
        }
        loop {
            let value = self.client.next(DEADLINE).await;
            if wanted(&value) {
                return value;
            }
            self.kept.borrow_mut().push_back(value);
        }
    }
}

/// A client on the Python library.
pub(crate) async fn python(address: SocketAddr) -> PythonClient {
    let url = format!("http://{address}");
    let client = PythonClient::start("socketio_client.py", &json!({"url": url}));
    client.expect_event("ready").await;
    client
}

/// A token of a user with these projects, for so many seconds.
pub(crate) fn token(
    platform: &Platform,
    role: &str,
    user: &str,
    projects: &[&str],
    seconds: i64,
) -> String {
    let mut claims = platform.claims(role);
    claims.sub = UserId::new(user).unwrap();
    claims.jti = format!("{user}-{seconds}-{}", projects.join("+"))
        .try_into()
        .unwrap();
    claims.projects = projects.iter().map(ToString::to_string).collect();
    claims.exp = OffsetDateTime::now_utc() + time::Duration::seconds(seconds);
    let token = platform.signing_key().sign(&claims).unwrap();
    token.expose().to_owned()
}

/// A producer.
pub(crate) async fn producer(platform: &Platform) -> Bus {
    platform.bus(User::Producer).await
}

/// Publishes `<domain>.<type>` under an id.
pub(crate) async fn send(bus: &Bus, subject: &str, id: &str, data: &Value) -> Stored {
    let mut headers = HeaderMap::new();
    headers.insert(CE_ID, id);
    headers.insert(CE_TIME, "2026-03-02T09:14:07.250Z");
    let message = Outgoing {
        subject: format!("events.{subject}"),
        message_id: format!("{subject}/{id}"),
        headers,
        payload: data.to_string().into(),
    };
    publish(bus, &message, DEADLINE).await.unwrap()
}
