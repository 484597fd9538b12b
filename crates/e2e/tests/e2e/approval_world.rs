//! A platform whose agents have tools that people decide on, and a responder that
//! counts what it is asked to do.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use parking_lot::Mutex;
use serde_json::{Value, json};
use signalbox_bus::Bus;
use signalbox_bus::server::User;
use signalbox_testkit::{
    DEADLINE, FakeModel, Finish, Platform, Reply, Service, WsClient, eventually, orchestrator,
};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use crate::chat_client::{Chatter, token_of};
use crate::chat_world::analysis;

/// The agent whose tools these are.
pub(crate) const AGENT: &str = "threat_classifier";
/// The user who chats.
pub(crate) const ADA: &str = "ada";

/// The tools: two on which people have long to decide, one of which belongs to a
/// kind of actions, and one with a second.
const TOOLS: &str = r#"
[tools.isolate_host]
description = "Cuts a host off."
parameters = '{"type": "object", "required": ["host"], "properties": {"host": {"type": "string"}}}'
approval = {action_type = "isolation", expires_in = 600}

[tools.block_port]
description = "Closes a port."
parameters = '{"type": "object", "properties": {"port": {"type": "integer"}}}'
approval = true

[tools.hurry]
description = "Has to be decided on at once."
parameters = '{"type": "object"}'
approval = {expires_in = 2}
"#;

/// See the module.
pub(crate) struct World {
    pub(crate) platform: Platform,
    pub(crate) model: FakeModel,
    pub(crate) hand: Hand,
    pub(crate) orchestrator: Option<Service>,
    directory: TempDir,
}

impl World {
    pub(crate) async fn start(gateways: usize) -> Self {
        let platform = Platform::start(gateways).await;
        let model = FakeModel::start().await;
        let directory = tempfile::tempdir().unwrap();
        let text = format!(
            "[providers.scripted]\nkind = \"openai\"\nbase_url = \"{}\"\n\n\
             [agents.{AGENT}]\nname = \"Tester\"\nprovider = \"scripted\"\n\
             model = \"example-model\"\ncapabilities = [\"testing\"]\nevents = 0\n\
             analysis_by = \"fence\"\ntools = [\"isolate_host\", \"block_port\", \"hurry\"]\n{TOOLS}",
            model.openai_url()
        );
        std::fs::write(directory.path().join("agents.toml"), text).unwrap();
        let hand = Hand::start(platform.bus(User::Responder).await).await;
        let mut world = Self {
            platform,
            model,
            hand,
            orchestrator: None,
            directory,
        };
        world.serve().await;
        world
    }

    /// Starts another orchestrator; the one that was there is given back.
    pub(crate) async fn serve(&mut self) -> Option<Service> {
        let path = self.directory.path().join("agents.toml");
        let arguments = ["--agents", path.to_str().unwrap()];
        let next = orchestrator(&self.platform.nats, &arguments).await;
        self.orchestrator.replace(next)
    }

    /// Kills the orchestrator.
    pub(crate) fn kill(&mut self) {
        self.orchestrator.take().unwrap().process.kill9();
    }

    /// Has the model ask for these tools, then conclude.
    pub(crate) fn script(&self, calls: &[(&str, Value)]) {
        self.model.reply(asks_for(calls));
        self.model.reply(concludes(Reply::new().text("Done.")));
    }

    /// Begins a chat on the first gateway and asks something.
    pub(crate) async fn ask(&self) -> (Chatter, String) {
        let token = token_of(&self.platform, ADA);
        let mut ada = Chatter::connect(&self.platform.gateways[0], &token).await;
        let session = ada.start(AGENT).await;
        ada.say(&session, "What is to be done?").await;
        (ada, session)
    }

    /// Someone on a gateway who sees what becomes of actions.
    pub(crate) async fn observer(&self, gateway: usize) -> Observer {
        self.observer_of(gateway, json!({})).await
    }

    /// As [`observer`](Self::observer), of some actions.
    pub(crate) async fn observer_of(&self, gateway: usize, filters: Value) -> Observer {
        let key = self.platform.api_key("operator");
        Observer::connect(&self.platform.gateways[gateway], &key, filters).await
    }
}

/// A reply that asks for tools.
pub(crate) fn asks_for(calls: &[(&str, Value)]) -> Reply {
    let mut reply = Reply::new().text("I will see to it. ");
    for (number, (name, arguments)) in calls.iter().enumerate() {
        let (id, arguments) = (format!("call-{number}"), arguments.to_string());
        reply = reply.call(&id, name, &[&arguments]);
    }
    reply.usage(100, 20).end_with(Finish::Tools)
}

/// A reply that ends an answer.
pub(crate) fn concludes(reply: Reply) -> Reply {
    let handed_over = format!("\n\n```analysis\n{}\n```\n", analysis());
    reply.text(&handed_over).usage(100, 20).end()
}

/// What the tools do: nothing, but it is counted.
pub(crate) struct Hand {
    done: Arc<Mutex<Vec<Value>>>,
    open: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Hand {
    async fn start(bus: Bus) -> Self {
        let done: Arc<Mutex<Vec<Value>>> = Arc::default();
        let open = watch::Sender::new(true);
        let mut calls = bus.client().subscribe("tools.>").await.unwrap();
        bus.client().flush().await.unwrap();
        let (noted, gate) = (Arc::clone(&done), open.clone());
        let task = tokio::spawn(async move {
            let mut replies = JoinSet::new();
            while let Some(call) = calls.next().await {
                let question = serde_json::from_slice(&call.payload).unwrap();
                noted.lock().push(question);
                let (bus, mut open) = (bus.clone(), gate.subscribe());
                // Side by side: one that is held up hides none behind it.
                replies.spawn(async move {
                    open.wait_for(|open| *open).await.ok();
                    let reply = json!({"result": {"done": true}}).to_string();
                    let to = call.reply.unwrap();
                    bus.client().publish(to, reply.into()).await.ok();
                });
            }
        });
        Self { done, open, task }
    }

    /// Counts calls and answers none until it is opened.
    pub(crate) fn shut(&self) {
        self.open.send_replace(false);
    }

    /// Answers calls, those that wait and those that come.
    pub(crate) fn open(&self) {
        self.open.send_replace(true);
    }

    /// The arguments of all calls there were, by tool.
    pub(crate) fn done(&self) -> Vec<(String, Value)> {
        let done = self.done.lock();
        let named = |call: &Value| {
            let name = call["tool"].as_str().unwrap().to_owned();
            (name, call["arguments"].clone())
        };
        done.iter().map(named).collect()
    }

    /// Waits for so many calls.
    pub(crate) async fn has_done(&self, calls: usize) {
        eventually("a call", DEADLINE, async || {
            (self.done.lock().len() >= calls).then_some(())
        })
        .await;
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Someone who sees actions and may decide on them.
pub(crate) struct Observer {
    pub(crate) socket: WsClient,
    /// Frames of events that came while another was waited for.
    kept: Vec<Value>,
}

impl Observer {
    pub(crate) async fn connect(gateway: &Service, token: &str, filters: Value) -> Self {
        let mut socket = WsClient::connect(&gateway.threat_url(), &[]).await;
        socket.authenticate(token).await;
        let mut wanted = json!({"channel": "response_actions"});
        if filters
            .as_object()
            .is_some_and(|filters| !filters.is_empty())
        {
            wanted["filters"] = filters;
        }
        socket.subscribe(wanted).await;
        Self {
            socket,
            kept: Vec::new(),
        }
    }

    /// The next event.
    pub(crate) async fn event(&mut self) -> Value {
        if !self.kept.is_empty() {
            return self.kept.remove(0);
        }
        let frame = self.socket.next_json(DEADLINE).await;
        assert_eq!(frame["channel"], "response_actions", "{frame}");
        frame
    }

    /// The next event, which must say this of the action.
    pub(crate) async fn sees(&mut self, action: &str, word: &str) -> Value {
        let frame = self.event().await;
        assert_eq!(frame["data"]["action_id"], action, "{frame}");
        assert_eq!(word_of(&frame), word, "{frame}");
        frame
    }

    /// The next action that waits; gives what is said of it.
    pub(crate) async fn pending(&mut self) -> Value {
        let frame = self.event().await;
        assert_eq!(frame["data"]["status"], "PENDING", "{frame}");
        frame["data"].clone()
    }

    /// Sends a decision; gives the answer, whatever events come first.
    pub(crate) async fn send(&mut self, decision: &Value) -> Value {
        self.socket.send_json(decision).await;
        loop {
            let frame = self.socket.next_json(DEADLINE).await;
            if frame.get("channel").is_none() {
                return frame;
            }
            self.kept.push(frame);
        }
    }

    /// Decides; gives the answer.
    pub(crate) async fn decide(&mut self, action: &Value, verdict: &str) -> Value {
        self.send(&decision(action, verdict)).await
    }

    /// Decides, which must count.
    pub(crate) async fn decides(&mut self, action: &Value, verdict: &str) {
        let answer = self.decide(action, verdict).await;
        assert_eq!(answer["type"], "action_decision_recorded", "{answer}");
    }

    /// Decides as soon as the bus lets it, which must count then.
    pub(crate) async fn decides_at_last(&mut self, action: &Value, verdict: &str) {
        loop {
            let answer = self.decide(action, verdict).await;
            if answer["type"] == "action_decision_recorded" {
                return;
            }
            assert_eq!(answer["code"], "UNAVAILABLE", "{answer}");
            // A user may send sixty messages a minute.
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Sees nothing more.
    pub(crate) async fn sees_nothing(&mut self) {
        let answer = self.send(&json!({"type": "ping"})).await;
        assert_eq!(answer["type"], "pong");
        assert!(self.kept.is_empty(), "{:?}", self.kept);
    }
}

/// A decision on an action with the arguments that were seen.
pub(crate) fn decision(action: &Value, verdict: &str) -> Value {
    json!({
        "type": "action_decision", "action_id": action["action_id"], "decision": verdict,
        "reason": "checked", "arguments_hash": action["arguments_hash"],
    })
}

/// What an event says of its action.
fn word_of(frame: &Value) -> &str {
    let data = &frame["data"];
    let word = data.get("status").or_else(|| data.get("decision"));
    word.and_then(Value::as_str).unwrap_or_default()
}

/// The next frame about tools, which must be of this type; chunks are passed over.
pub(crate) async fn hears(chatter: &mut Chatter, kind: &str) -> Value {
    loop {
        let frame = chatter.next().await;
        if frame["type"] == "agent_response_chunk" || frame["type"] == "chat_resumed" {
            continue;
        }
        assert_eq!(frame["type"], kind, "{frame}");
        return frame;
    }
}

/// What the model was given for the tools that it has asked for, in order.
pub(crate) fn results(request: &Value) -> Vec<Value> {
    let messages = request["messages"].as_array().unwrap();
    let results = messages.iter().filter(|one| one["role"] == "tool");
    let contents = results.map(|one| one["content"].as_str().unwrap());
    let json = contents.map(|text| text.lines().find(|line| !line.starts_with('<')).unwrap());
    json.map(|text| serde_json::from_str(text).unwrap())
        .collect()
}
