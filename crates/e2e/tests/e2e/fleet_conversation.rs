//! One conversation in which every message of dialect `fleet` occurs, compared
//! field by field with the examples of the reference documentation: F2-F12, G4,
//! G5, G8.
//!
//! What differs from run to run has a fixed stand-in in the examples: ids of
//! commands and stops, positions, times, users, tokens. `SIGNALBOX_TEST_RECORD=1`
//! writes the server's messages anew from what came.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::{Value, json};
use signalbox_protocol::frame::fleet::shape::SHAPE;
use signalbox_protocol::frame::shape::Message;
use signalbox_testkit::{DEADLINE, Service, WsClient};

use crate::fleet_world::{Agent, UNLIMITED, World, connect, encode, find, hear};

const AGENT: &str = "builder-1";
/// Stands for the command.
const COMMAND: &str = "cmd-f1a1f9194d5a71508d519f18695b00c3";
/// Stands for the emergency stop.
const STOP: &str = "5f1a1f91-94d5-4a71-908d-519f18695b00";
/// Stands for any position.
const SEQ: &str = "660b50a6870ca-0.44";
/// Stands for any time.
const TIME: &str = "2026-03-02T09:14:07.250Z";
/// The value that stands for one that differs from run to run, by field.
const STAND_INS: &[(&str, &str)] = &[
    ("timestamp", TIME),
    ("connectedAt", TIME),
    ("expiresAt", TIME),
    ("seq", SEQ),
    ("by", "ada"),
    ("stopId", STOP),
    ("token", "THE_NEXT_TOKEN"),
    ("refreshToken", "THE_NEXT_REFRESH_TOKEN"),
];

fn file(side: &str, name: &str) -> PathBuf {
    let root = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../protocol/tests/fixtures/fleet"
    );
    PathBuf::from(format!("{root}/{side}/{name}.json"))
}

fn read(side: &str, name: &str) -> Value {
    let text = std::fs::read_to_string(file(side, name));
    let text = text.unwrap_or_else(|error| panic!("{side}/{name}: {error}"));
    serde_json::from_str(&text).unwrap()
}

/// The message of which a file is an example.
fn shape_of(messages: &'static [Message], name: &str) -> &'static Message {
    let of_name = |message: &&Message| {
        let kind = message.kind.replace(':', ".");
        name.strip_prefix(&kind)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    let found = messages.iter().filter(of_name);
    found.max_by_key(|message| message.kind.len()).unwrap()
}

/// Puts the same for what differs from run to run.
fn normalise(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match STAND_INS.iter().find(|(field, _)| field == name) {
                    Some((_, stand_in)) if value.is_string() => *value = json!(stand_in),
                    _ => normalise(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(normalise),
        Value::String(text) if text.starts_with("cmd-") => *value = json!(COMMAND),
        _ => {}
    }
}

/// The examples, and which were used.
#[derive(Default)]
struct Examples {
    used: RefCell<BTreeSet<String>>,
}

impl Examples {
    /// A client's message with these values in place of its stand-ins.
    fn client(&self, name: &str, values: &[(&str, &str)]) -> Value {
        self.used.borrow_mut().insert(format!("client/{name}"));
        let message = read("client", name);
        shape_of(SHAPE.client, name).check(&message).unwrap();
        let mut text = message.to_string();
        for (stand_in, value) in values {
            assert!(text.contains(stand_in), "{name} has no {stand_in}");
            text = text.replace(stand_in, value);
        }
        serde_json::from_str(&text).unwrap()
    }

    /// Asserts that a message has the shape of an example.
    fn assert_shape(&self, name: &str, message: &Value) {
        self.used.borrow_mut().insert(format!("server/{name}"));
        let misfit = shape_of(SHAPE.server, name).check(message).err();
        assert_eq!(misfit, None, "{name}: {message}");
    }

    /// Asserts that a message is an example, field by field.
    fn assert_server(&self, name: &str, message: &Value) {
        self.assert_shape(name, message);
        let mut message = message.clone();
        normalise(&mut message);
        if std::env::var_os("SIGNALBOX_TEST_RECORD").is_some() {
            let text = format!("{}\n", serde_json::to_string_pretty(&message).unwrap());
            std::fs::write(file("server", name), text).unwrap();
        }
        assert_eq!(message, read("server", name), "{name}");
    }

    /// Asserts that every example was used, and that every message has one.
    fn assert_complete(&self) {
        let used = self.used.borrow();
        for (side, messages) in [("client", SHAPE.client), ("server", SHAPE.server)] {
            for entry in std::fs::read_dir(file(side, "x").parent().unwrap()).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                let name = format!("{side}/{}", name.trim_end_matches(".json"));
                assert!(used.contains(&name), "{name} is not used");
            }
            for message in messages {
                let name = format!("{side}/{}", message.kind.replace(':', "."));
                assert!(used.contains(&name), "{name} does not occur");
            }
        }
    }

    /// The next message of the example's type must be the example.
    async fn hears(&self, client: &mut WsClient, name: &str) -> Value {
        let kind = shape_of(SHAPE.server, name).kind;
        let message = hear(client, kind).await;
        self.assert_server(name, &message);
        message
    }

    /// Everything about credentials, on a connection whose token ends soon.
    async fn refresh(&self, world: &World) {
        let mut guest = world.open(&world.token("viewer", 5).await).await;
        guest
            .send_json(&self.client("dashboard.connect", &[]))
            .await;
        self.hears(&mut guest, "auth.refresh-needed").await;
        let fresh = world.token("viewer", 300).await;
        let values = [("YOUR_API_KEY_OR_TOKEN", fresh.as_str())];
        guest
            .send_json(&self.client("auth.refresh-token", &values))
            .await;
        self.hears(&mut guest, "auth.refresh-success").await;
        let body = json!({"api_key": world.platform.api_key("viewer")});
        let pair = world.issue(&body).await;
        let values = [(
            "YOUR_REFRESH_TOKEN",
            pair["refresh_token"].as_str().unwrap(),
        )];
        guest
            .send_json(&self.client("auth.refresh-token-pair", &values))
            .await;
        self.hears(&mut guest, "auth.refresh-success-pair").await;
        let values = [("YOUR_API_KEY_OR_TOKEN", "nonsense")];
        guest
            .send_json(&self.client("auth.refresh-token", &values))
            .await;
        self.hears(&mut guest, "auth.refresh-failed").await;
    }

    /// The limit of a connection, and the heartbeat, at gateways of their own.
    async fn limits(&self, world: &World) {
        let key = world.platform.api_key("operator");
        let start =
            async |arguments: &[&str]| -> Service { world.platform.start_gateway(arguments).await };
        let limited = start(&["--fleet-burst", "0"]).await;
        let mut client = connect(limited.listener(), &key).await;
        client
            .send_json(&self.client("dashboard.connect", &[]))
            .await;
        hear(&mut client, "agent:list").await;
        for _ in 0..100 {
            let interrupt = json!({"type": "command:interrupt", "commandId": "x"});
            client.send_json(&interrupt).await;
        }
        let mut refused = hear(&mut client, "connection:error").await;
        assert!((1..=60).contains(&refused["retryAfter"].as_u64().unwrap()));
        refused["retryAfter"] = json!(42);
        self.assert_server("connection.error", &refused);

        let beating = start(&["--fleet-heartbeat", "1"]).await;
        let mut client = connect(beating.listener(), &key).await;
        let mut hello = self.client("dashboard.connect", &[]);
        hello["capabilities"] = json!(["heartbeat"]);
        client.send_json(&hello).await;
        self.hears(&mut client, "heartbeat.ping").await;
        client.send_json(&self.client("heartbeat.pong", &[])).await;
        client
            .send_json(&self.client("dashboard.disconnect", &[]))
            .await;
        let (_, closed) = client.drain(DEADLINE).await;
        assert_eq!(closed.code, Some(1000));
    }
}

/// What a command writes to its error output, no text, and where.
async fn write_bytes(agent: &mut Agent, command: &str, offset: usize, bytes: &[u8]) {
    let output = json!({"type": "stderr", "content": "", "raw": encode(bytes)});
    let fields = json!({"commandId": command, "output": output, "offset": offset});
    agent.says("terminal:output", fields).await;
}

#[tokio::test]
async fn fleet_is_spoken_as_documented() {
    let world = World::start_with(1, &UNLIMITED).await;
    let examples = Examples::default();
    let listener = world.platform.gateways[0].listener();
    // One that was here and is not any more.
    drop(world.agent("builder-2").await);
    let token = world.agent_token(AGENT).await;
    let mut ada = world.open(&world.platform.api_key("operator")).await;
    ada.send_json(&examples.client("dashboard.connect", &[]))
        .await;
    let begin = hear(&mut ada, "agent:list").await["seq"].clone();
    let mut agent = Agent {
        id: AGENT.to_owned(),
        client: connect(listener, &token).await,
    };
    agent
        .client
        .send_json(&examples.client("agent.connect", &[]))
        .await;
    examples.hears(&mut agent.client, "agent.connected").await;

    ada.send_json(&examples.client("command.request", &[]))
        .await;
    let (mut queued, mut shown) = (None, None);
    while queued.is_none() || shown.is_none() {
        let message = ada.next_json(DEADLINE).await;
        match message["type"].as_str().unwrap() {
            "command:queued" => queued = Some(message),
            "command:status" => shown = Some(message),
            _ => {}
        }
    }
    let queued = queued.unwrap();
    examples.assert_server("command.queued", &queued);
    examples.assert_server("command.status", &shown.unwrap());
    let command = queued["commandId"].as_str().unwrap();
    let values = [(COMMAND, command)];
    examples.hears(&mut agent.client, "command.execute").await;
    agent
        .client
        .send_json(&examples.client("command.status", &values))
        .await;
    examples.hears(&mut ada, "command.status-running").await;
    agent
        .client
        .send_json(&examples.client("agent.status", &[]))
        .await;
    let status = find(&mut ada, |message| {
        message["type"] == "agent:status" && message["metrics"].is_object()
    });
    examples.assert_server("agent.status", &status.await);
    agent
        .client
        .send_json(&examples.client("terminal.output", &values))
        .await;
    examples.hears(&mut ada, "terminal.output").await;
    // It has lost what was in front, and cannot send it again.
    write_bytes(&mut agent, command, 17, b"\xff!").await;
    examples.hears(&mut ada, "terminal.gap").await;

    let mut late = world.open(&world.platform.api_key("viewer")).await;
    late.send_json(&examples.client("dashboard.connect", &[]))
        .await;
    examples.hears(&mut late, "agent.list").await;
    let replayed = find(&mut late, |message| message["stream"] == "stderr");
    let replayed = match replayed.await {
        gap if gap["type"] == "terminal:gap" => hear(&mut late, "terminal:output").await,
        output => output,
    };
    examples.assert_server("terminal.output-bytes", &replayed);

    ada.send_json(&examples.client("terminal.input", &values))
        .await;
    examples.hears(&mut agent.client, "terminal.input").await;
    ada.send_json(&examples.client("terminal.resize", &values))
        .await;
    examples.hears(&mut agent.client, "terminal.resize").await;
    ada.send_json(&examples.client("batch", &values)).await;
    hear(&mut ada, "heartbeat:pong").await;
    hear(&mut agent.client, "terminal:resize").await;
    for name in ["heartbeat.ping", "compressed"] {
        ada.send_json(&examples.client(name, &[])).await;
        examples.hears(&mut ada, "heartbeat.pong").await;
    }
    ada.send_json(&examples.client("terminal.clear", &[])).await;
    examples.hears(&mut ada, "terminal.clear").await;
    ada.send_json(&examples.client("command.interrupt", &values))
        .await;
    examples.hears(&mut ada, "request.done").await;
    examples.hears(&mut agent.client, "command.interrupt").await;
    let mut unclear = examples.client("terminal.clear", &[]);
    unclear["agentId"] = Value::Null;
    unclear["requestId"] = json!("r-1");
    ada.send_json(&unclear).await;
    examples.hears(&mut ada, "validation.error").await;

    let mut packed = world.open(&world.platform.api_key("viewer")).await;
    let resume = [("660b50a6870ca-0.41", begin.as_str().unwrap())];
    let resume = examples.client("dashboard.connect-resumed", &resume);
    packed.send_json(&resume).await;
    examples.hears(&mut packed, "agent.list-resumed").await;

    // The agent's connection breaks; it comes back as one that keeps account.
    drop(agent);
    let mut agent = Agent {
        id: AGENT.to_owned(),
        client: connect(listener, &token).await,
    };
    agent
        .client
        .send_json(&examples.client("agent.connect-returning", &values))
        .await;
    examples
        .hears(&mut agent.client, "agent.connected-returning")
        .await;
    let mut place = 19;
    let mut missing = vec!["batch", "compressed"];
    while !missing.is_empty() {
        // Few bytes come as a batch, many compressed.
        for piece in [&[b'.'; 1][..], &[b'x'; 700][..]] {
            let messages: Vec<Value> = (0..2)
                .map(|number| {
                    json!({
                        "type": "terminal:output",
                        "agentId": AGENT,
                        "commandId": command,
                        "output": {"type": "stderr", "content": String::from_utf8_lossy(piece)},
                        "offset": place + number * piece.len(),
                    })
                })
                .collect();
            place += 2 * piece.len();
            let batch = json!({"messages": messages, "count": 2});
            agent.says("batch", batch).await;
            let container = find(&mut packed, |message| {
                message["type"] == "batch"
                    || message["type"] == "compressed"
                    || message["output"]["type"] == "stderr"
            });
            let container = container.await;
            let kind = container["type"].as_str().unwrap();
            if missing.contains(&kind) {
                examples.assert_shape(kind, &container);
                missing.retain(|one| *one != kind);
            }
        }
    }
    let ack = find(&mut agent.client, |message| {
        message["type"] == "terminal:ack" && message["offset"] == place
    });
    let mut ack = ack.await;
    ack["offset"] = json!(4_096);
    examples.assert_server("terminal.ack", &ack);
    agent
        .client
        .send_json(&examples.client("command.complete", &values))
        .await;
    let done = hear(&mut agent.client, "request:done").await;
    assert_eq!(done["requestId"], "r-9");
    let mut complete = hear(&mut ada, "command:complete").await;
    // How much was written to it until both containers had come, chance decides.
    let streams = complete["streams"].as_array_mut().unwrap();
    assert_eq!(streams.pop().unwrap()["bytes"], place);
    examples.assert_server("command.complete", &complete);

    ada.send_json(&examples.client("system.emergency-stop", &[]))
        .await;
    examples.hears(&mut ada, "system.emergency-stop").await;
    let stop = hear(&mut agent.client, "system:emergency-stop").await;
    let values = [(STOP, stop["stopId"].as_str().unwrap())];
    agent
        .client
        .send_json(&examples.client("system.emergency-confirmed", &values))
        .await;
    let status = find(&mut ada, |message| {
        message["type"] == "system:emergency-status"
            && message["agents"].as_array().unwrap().len() == 2
    });
    examples.assert_server("system.emergency-status", &status.await);
    ada.send_json(&examples.client("system.resume", &[])).await;
    examples.hears(&mut ada, "system.resume").await;
    agent
        .client
        .send_json(&examples.client("agent.disconnect", &[]))
        .await;
    find(&mut ada, |message| {
        message["agentId"] == AGENT && message["status"] == "offline"
    })
    .await;
    ada.send_json(&examples.client("command.request", &[]))
        .await;
    examples.hears(&mut ada, "command.error").await;

    examples.refresh(&world).await;
    examples.limits(&world).await;
    examples.assert_complete();
}
