//! A platform with a relay, and the two sides of dialect `fleet` that tests
//! speak: dashboards and scripted agents.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use signalbox_testkit::{DEADLINE, Platform, Service, WsClient, post};
use tokio::time::timeout;

/// What lifts the limits that a test is not about.
pub(crate) const UNLIMITED: [&str; 20] = [
    "--fleet-resizes-per-minute",
    "0",
    "--fleet-input-per-minute",
    "0",
    "--fleet-heartbeats-per-minute",
    "0",
    "--fleet-messages-per-minute",
    "0",
    "--fleet-messages-per-hour",
    "0",
    "--fleet-burst",
    "0",
    "--fleet-requests-per-minute",
    "0",
    "--fleet-requests-per-hour",
    "0",
    "--fleet-output-per-minute",
    "0",
    "--fleet-output-per-hour",
    "0",
];

/// A platform with a relay.
pub(crate) struct World {
    pub(crate) platform: Platform,
    pub(crate) relay: Service,
}

impl World {
    /// With this many gateways, which limit nothing.
    pub(crate) async fn start(gateways: usize) -> Self {
        Self::start_with(gateways, &UNLIMITED).await
    }

    /// With these arguments for the gateways.
    pub(crate) async fn start_with(gateways: usize, arguments: &[&str]) -> Self {
        let platform = Platform::start_with(gateways, arguments).await;
        let relay = platform.start_relay(&[]).await;
        Self { platform, relay }
    }

    pub(crate) fn url(&self) -> String {
        self.platform.gateways[0].fleet_url()
    }

    /// A token for a role that lasts for so many seconds.
    pub(crate) async fn token(&self, role: &str, ttl: u32) -> String {
        let body = json!({"api_key": self.platform.api_key(role), "ttl": ttl});
        self.issue(&body).await["access_token"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// The token of an agent.
    pub(crate) async fn agent_token(&self, agent_id: &str) -> String {
        let body = json!({"api_key": self.platform.api_key("agent"), "agent_id": agent_id});
        self.issue(&body).await["access_token"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// What is issued for a request.
    pub(crate) async fn issue(&self, body: &Value) -> Value {
        let listener = self.platform.gateways[0].listener();
        let (status, answer) = post(listener, "/api/v1/auth/token", &body.to_string()).await;
        assert_eq!(status, 200, "{answer}");
        serde_json::from_str(&answer).unwrap()
    }

    /// A connection with this credential that has no role yet.
    pub(crate) async fn open(&self, credential: &str) -> WsClient {
        connect(self.platform.gateways[0].listener(), credential).await
    }

    /// A dashboard with the key of a role, that was let in.
    pub(crate) async fn dashboard(&self, role: &str) -> WsClient {
        let (dashboard, _) = self
            .dashboard_with(role, json!({"dashboardId": "d-1"}))
            .await;
        dashboard
    }

    /// As [`dashboard`](Self::dashboard), with these fields; gives its list of
    /// agents too.
    pub(crate) async fn dashboard_with(&self, role: &str, fields: Value) -> (WsClient, Value) {
        let mut client = self.open(&self.platform.api_key(role)).await;
        let list = join(&mut client, fields).await;
        (client, list)
    }

    /// An agent that is connected.
    pub(crate) async fn agent(&self, id: &str) -> Agent {
        self.agent_with(id, json!({})).await
    }

    /// As [`agent`](Self::agent), with these fields.
    pub(crate) async fn agent_with(&self, id: &str, fields: Value) -> Agent {
        let token = self.agent_token(id).await;
        let addr = self.platform.gateways[0].listener();
        Agent::connect(addr, &token, id, fields).await.0
    }
}

/// A connection with this credential that has no role yet.
pub(crate) async fn connect(addr: SocketAddr, credential: &str) -> WsClient {
    let bearer = format!("Bearer {credential}");
    let headers = [("Authorization", bearer.as_str())];
    WsClient::connect(&format!("ws://{addr}/ws"), &headers).await
}

/// Takes a connection as a dashboard's; gives the list of agents.
pub(crate) async fn join(client: &mut WsClient, mut fields: Value) -> Value {
    fields["type"] = json!("dashboard:connect");
    if fields.get("dashboardId").is_none() {
        fields["dashboardId"] = json!("d-1");
    }
    client.send_json(&fields).await;
    hear(client, "agent:list").await
}

/// The next message of this type; others are skipped.
pub(crate) async fn hear(client: &mut WsClient, kind: &str) -> Value {
    find(client, |message| message["type"] == kind).await
}

/// The next message that is meant; others are skipped.
pub(crate) async fn find(client: &mut WsClient, mut is_meant: impl FnMut(&Value) -> bool) -> Value {
    let found = timeout(DEADLINE, async {
        loop {
            let message = client.next_json(DEADLINE).await;
            if is_meant(&message) {
                return message;
            }
        }
    });
    found.await.expect("the message comes")
}

/// Asks an agent to run a command; gives its id.
pub(crate) async fn run(dashboard: &mut WsClient, agent: &str, command: &str) -> String {
    let request = json!({"type": "command:request", "agentId": agent, "command": command});
    dashboard.send_json(&request).await;
    let queued = find(dashboard, |message| {
        message["type"] == "command:queued" || message["type"] == "command:error"
    })
    .await;
    assert_eq!(queued["type"], "command:queued", "{queued}");
    queued["commandId"].as_str().unwrap().to_owned()
}

/// A scripted agent.
pub(crate) struct Agent {
    pub(crate) id: String,
    pub(crate) client: WsClient,
}

impl Agent {
    /// Connects at a gateway; gives what it was told, too.
    pub(crate) async fn connect(
        addr: SocketAddr,
        token: &str,
        id: &str,
        mut fields: Value,
    ) -> (Self, Value) {
        let mut client = connect(addr, token).await;
        fields["type"] = json!("agent:connect");
        fields["agentId"] = json!(id);
        fields["agentType"] = json!("scripted");
        fields["version"] = json!("1.0.0");
        client.send_json(&fields).await;
        let connected = hear(&mut client, "agent:connected").await;
        let id = id.to_owned();
        (Self { id, client }, connected)
    }

    /// The command that it is to run next.
    pub(crate) async fn executes(&mut self) -> Value {
        hear(&mut self.client, "command:execute").await
    }

    pub(crate) async fn says(&mut self, kind: &str, mut fields: Value) {
        fields["type"] = json!(kind);
        if fields.get("agentId").is_none() {
            fields["agentId"] = json!(self.id);
        }
        self.client.send_json(&fields).await;
    }

    /// Writes to the standard output of a command.
    pub(crate) async fn writes(&mut self, command: &str, content: &str) {
        let output = json!({"type": "stdout", "content": content});
        let fields = json!({"commandId": command, "output": output});
        self.says("terminal:output", fields).await;
    }

    /// Writes bytes at an offset.
    pub(crate) async fn writes_bytes(&mut self, command: &str, offset: usize, bytes: &[u8]) {
        let output = json!({
            "type": "stdout",
            "content": String::from_utf8_lossy(bytes),
            "raw": encode(bytes),
        });
        let fields = json!({"commandId": command, "output": output, "offset": offset});
        self.says("terminal:output", fields).await;
    }

    pub(crate) async fn completes(&mut self, command: &str, exit_code: u32) {
        let fields = json!({"commandId": command, "exitCode": exit_code, "duration": 5});
        self.says("command:complete", fields).await;
    }
}

/// The standard output of a command as a dashboard has it: bytes, each with a
/// check that they follow those before.
#[derive(Debug, Default)]
pub(crate) struct Screen {
    pub(crate) bytes: Vec<u8>,
    pub(crate) text: String,
    pub(crate) last: Option<String>,
    pub(crate) replayed: usize,
}

impl Screen {
    /// Takes in a message; true at the end of the command.
    pub(crate) fn see(&mut self, command: &str, message: &Value) -> bool {
        if let Some(seq) = message["seq"].as_str() {
            self.last = Some(seq.to_owned());
        }
        if message["commandId"] != command {
            return false;
        }
        if message["type"] == "terminal:output" {
            assert_eq!(message["offset"], self.bytes.len() as u64, "{message}");
            let content = message["output"]["content"].as_str().unwrap();
            self.text.push_str(content);
            match message["output"]["raw"].as_str() {
                Some(raw) => self.bytes.extend(decode(raw)),
                None => self.bytes.extend_from_slice(content.as_bytes()),
            }
            self.replayed += usize::from(message["replay"] == true);
        }
        message["type"] == "command:complete"
    }

    /// Watches until the command has ended; gives the message that says so.
    pub(crate) async fn watch(&mut self, client: &mut WsClient, command: &str) -> Value {
        loop {
            let message = client.next_json(DEADLINE).await;
            if self.see(command, &message) {
                return message;
            }
        }
    }

    /// Watches until so many bytes have come.
    pub(crate) async fn watch_bytes(&mut self, client: &mut WsClient, command: &str, least: usize) {
        while self.bytes.len() < least {
            let message = client.next_json(DEADLINE).await;
            self.see(command, &message);
        }
    }
}

pub(crate) fn encode(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

pub(crate) fn decode(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .unwrap()
}

/// A short while, in which something is not to happen.
pub(crate) const MOMENT: Duration = Duration::from_millis(300);
