//! Programs that answer calls of tools on the bus, and count how often each call
//! was executed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use parking_lot::Mutex;
use serde_json::{Value, json};
use signalbox_bus::server::User;
use signalbox_testkit::{DEADLINE, Gate, NatsServer, Reply, eventually};
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// What a call was executed with.
#[derive(Clone, Debug, Default)]
struct Executed {
    calls: BTreeMap<String, u32>,
    arguments: Vec<Value>,
}

/// A responder; dropped, it is gone.
pub(crate) struct Responder {
    executed: Arc<Mutex<Executed>>,
    task: JoinHandle<()>,
}

impl Responder {
    /// Answers `tools.<name>` with this result, or not at all.
    pub(crate) async fn giving(nats: &NatsServer, name: &str, result: Option<Value>) -> Self {
        let reply = result.map(|result| json!({"result": result}));
        Self::start(nats, name, None, move |_| reply.clone()).await
    }

    /// Answers with its arguments once the gate is open; what it is to do is done
    /// before.
    pub(crate) async fn behind(nats: &NatsServer, name: &str, gate: &Gate) -> Self {
        let echo = |question: &Value| Some(json!({"result": {"got": question["arguments"]}}));
        Self::start(nats, name, Some(gate.clone()), echo).await
    }

    /// Answers once it has worked for a while.
    pub(crate) async fn working(nats: &NatsServer, name: &str, work: Duration) -> Self {
        let done = |_: &Value| Some(json!({"result": "done"}));
        Self::begin(nats, name, (work, None), done).await
    }

    pub(crate) async fn start(
        nats: &NatsServer,
        name: &str,
        gate: Option<Gate>,
        reply: impl Fn(&Value) -> Option<Value> + Send + 'static,
    ) -> Self {
        Self::begin(nats, name, (Duration::ZERO, gate), reply).await
    }

    async fn begin(
        nats: &NatsServer,
        name: &str,
        (work, gate): (Duration, Option<Gate>),
        reply: impl Fn(&Value) -> Option<Value> + Send + 'static,
    ) -> Self {
        let client = nats.connect(User::Responder).await;
        let mut calls = client.subscribe(format!("tools.{name}")).await.unwrap();
        client.flush().await.unwrap();
        let executed = Arc::new(Mutex::new(Executed::default()));
        let noted = Arc::clone(&executed);
        let task = tokio::spawn(async move {
            let mut waiting = tokio::task::JoinSet::new();
            while let Some(call) = calls.next().await {
                let question: Value = serde_json::from_slice(&call.payload).unwrap();
                let id = question["call_id"].as_str().unwrap().to_owned();
                {
                    let mut noted = noted.lock();
                    *noted.calls.entry(id).or_default() += 1;
                    noted.arguments.push(question["arguments"].clone());
                }
                let Some(body) = reply(&question) else {
                    continue;
                };
                let (client, gate) = (client.clone(), gate.clone());
                let to = call.reply.unwrap();
                waiting.spawn(async move {
                    if let Some(gate) = gate {
                        gate.opened().await;
                    }
                    sleep(work).await;
                    // Whoever has asked may be gone.
                    client.publish(to, body.to_string().into()).await.ok();
                });
            }
        });
        Self { executed, task }
    }

    /// How many calls were executed.
    pub(crate) fn calls(&self) -> usize {
        self.executed.lock().calls.len()
    }

    /// What each of them was given, in the order in which they came.
    pub(crate) fn arguments(&self) -> Vec<Value> {
        self.executed.lock().arguments.clone()
    }

    /// Waits until so many calls were executed.
    pub(crate) async fn executed(&self, calls: usize) {
        eventually("executions", DEADLINE, async || {
            (self.calls() >= calls).then_some(())
        })
        .await;
    }

    /// Asserts that none was executed twice; gives how many there were.
    pub(crate) fn once_each(&self) -> usize {
        let executed = self.executed.lock();
        for (call, times) in &executed.calls {
            assert_eq!(*times, 1, "{call} was executed {times} times");
        }
        executed.calls.len()
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The table of a tool that a responder answers, with further lines.
pub(crate) fn table(name: &str, more: &str) -> String {
    let schema = json!({
        "type": "object",
        "properties": {"n": {"type": "integer"}, "text": {"type": "string"}},
        "additionalProperties": false,
    });
    format!(
        "\n[tools.{name}]\ndescription = \"A tool called {name}.\"\n\
         parameters = '''{schema}'''\n{more}\n"
    )
}

/// A reply that says this and then asks for these tools: id, name, arguments.
pub(crate) fn asking(text: &str, calls: &[(&str, &str, &str)]) -> Reply {
    let reply = match text.is_empty() {
        true => Reply::new(),
        false => Reply::new().text(text),
    };
    let reply = calls.iter().fold(reply, |reply, (id, name, arguments)| {
        reply.call(id, name, &[arguments])
    });
    reply
        .usage(100, 20)
        .end_with(signalbox_testkit::Finish::Tools)
}

/// What a model was told of the results of its calls, in the request's order.
pub(crate) fn results_told(body: &Value) -> Vec<(String, Value)> {
    let messages = body["messages"].as_array().unwrap().iter();
    let tools = messages.filter(|message| message["role"] == "tool");
    tools
        .map(|message| {
            let id = message["tool_call_id"].as_str().unwrap().to_owned();
            let content = message["content"].as_str().unwrap();
            let data = content.strip_prefix("<tool_result>\n").unwrap();
            let data = data.strip_suffix("\n</tool_result>").unwrap();
            assert!(!data.contains('<'), "data closes no tag: {data}");
            (id, serde_json::from_str(data).unwrap())
        })
        .collect()
}
