//! F11-F13, G3: everything that a client can do wrong in dialect `fleet` gets
//! the documented answer, and hurts nobody. One file, since the offenders share
//! their tools.

use std::io::Write as _;
use std::time::Duration;

use serde_json::{Map, Value, json};
use signalbox_protocol::ErrorCode;
use signalbox_protocol::fleet::{Shard, command_id};
use signalbox_protocol::frame::fleet::shape::SHAPE;
use signalbox_protocol::frame::shape::{Field, Kind};
use signalbox_testkit::{DEADLINE, WsClient};
use tokio_tungstenite::tungstenite::Message as Frame;

use crate::fleet_world::{UNLIMITED, World, encode, find, hear, join, run};

/// Bad messages in a row that close a connection.
const STRIKES: usize = 10;

/// A message that must be refused, and what the refusal says.
struct Case {
    text: String,
    code: ErrorCode,
    field: Option<String>,
}

/// Every malformed message of the dialect.
fn matrix() -> Vec<Case> {
    let mut cases = Vec::new();
    for text in [
        "",
        "{",
        "nul",
        "{'type':'x'}",
        "{\"type\":\"heartbeat:ping\",}",
        "{\"type\":1e999}",
    ] {
        cases.push(Case {
            text: text.to_owned(),
            code: ErrorCode::InvalidJson,
            field: None,
        });
    }
    for text in ["null", "7", "[]", "\"heartbeat:ping\""] {
        cases.push(Case {
            text: text.to_owned(),
            code: ErrorCode::InvalidMessage,
            field: None,
        });
    }
    let kind = Field::required("type", Kind::Text { most: 128 }, "");
    for message in SHAPE.client {
        let mut valid = Map::new();
        valid.insert("type".to_owned(), json!(message.kind));
        for field in message.fields.iter().filter(|field| field.required) {
            valid.insert(field.name.to_owned(), field.kind.samples().swap_remove(0));
        }
        for field in std::iter::once(&kind).chain(message.fields.iter()) {
            for wrong in field.wrong() {
                let mut broken = valid.clone();
                match &wrong.value {
                    None => broken.remove(field.name),
                    Some(value) => broken.insert(field.name.to_owned(), value.clone()),
                };
                let is_type = field.name == "type"
                    && matches!(&wrong.value, Some(Value::String(text)) if !text.is_empty() && text.len() <= 128);
                cases.push(Case {
                    text: Value::Object(broken).to_string(),
                    code: if is_type {
                        ErrorCode::UnknownType
                    } else {
                        wrong.code
                    },
                    field: Some(wrong.field.clone()),
                });
            }
        }
        let mut other = valid.clone();
        other.insert("type".to_owned(), json!(format!("{}s", message.kind)));
        cases.push(Case {
            text: Value::Object(other).to_string(),
            code: ErrorCode::UnknownType,
            field: Some("type".to_owned()),
        });
    }
    cases
}

#[tokio::test]
async fn every_malformed_message_is_answered_and_names_the_field() {
    let world = World::start(1).await;
    let mut client = world.dashboard("operator").await;
    let cases = matrix();
    assert!(cases.len() > 500, "{}", cases.len());
    for cases in cases.chunks(STRIKES - 1) {
        for case in cases {
            client.send(Frame::text(case.text.clone())).await;
        }
        for case in cases {
            let answer = hear(&mut client, "validation:error").await;
            SHAPE
                .server("validation:error")
                .unwrap()
                .check(&answer)
                .unwrap();
            assert_eq!(answer["code"], case.code.as_str(), "{} {answer}", case.text);
            assert_eq!(
                answer["field"].as_str(),
                case.field.as_deref(),
                "{} {answer}",
                case.text
            );
        }
        // A good one forgives the bad ones.
        client.send_json(&json!({"type": "heartbeat:ping"})).await;
        hear(&mut client, "heartbeat:pong").await;
    }
    for _ in 0..STRIKES {
        client.send(Frame::text("{")).await;
    }
    let (frames, closed) = client.drain(DEADLINE).await;
    assert_eq!(frames.len(), STRIKES);
    assert_eq!(closed.code, Some(1008));
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

fn compressed(kind: &str, text: &str) -> Value {
    let bytes = gzip(text.as_bytes());
    json!({"type": "compressed", "algorithm": "gzip", "originalType": kind,
        "originalSize": text.len(), "compressedSize": bytes.len(), "data": encode(&bytes)})
}

/// F12: what is packed is opened, what is packed wrongly is named.
#[tokio::test]
async fn containers_are_opened_within_bounds() {
    let world = World::start(1).await;
    let mut client = world.dashboard("operator").await;
    let ping = json!({"type": "heartbeat:ping"});
    let batch = json!({"type": "batch", "messages": [ping, ping], "count": 2});
    for good in [
        batch.clone(),
        compressed("heartbeat:ping", &ping.to_string()),
        compressed("batch", &batch.to_string()),
    ] {
        client.send_json(&good).await;
        hear(&mut client, "heartbeat:pong").await;
    }
    let with = |mut message: Value, key: &str, value: Value| {
        message[key] = value;
        message
    };
    let one = || compressed("heartbeat:ping", &ping.to_string());
    let bomb = gzip(&vec![b' '; 200 * 1024 * 1024]);
    let nested = |inner: &Value| json!({"type": "batch", "messages": [inner], "count": 1});
    for (bad, field) in [
        (with(batch.clone(), "count", json!(3)), "count"),
        (nested(&batch), "messages"),
        (nested(&one()), "messages"),
        (with(one(), "originalSize", json!(24)), "originalSize"),
        (with(one(), "originalSize", json!(26)), "originalSize"),
        (
            with(one(), "originalSize", json!(2_000_000)),
            "originalSize",
        ),
        (with(one(), "compressedSize", json!(3)), "compressedSize"),
        (with(one(), "algorithm", json!("br")), "algorithm"),
        (with(one(), "data", json!("***")), "data"),
        (with(one(), "originalType", json!("batch")), "originalType"),
        (compressed("compressed", &one().to_string()), "data"),
        (compressed("batch", &nested(&one()).to_string()), "messages"),
        (
            json!({"type": "compressed", "algorithm": "gzip", "originalType": "heartbeat:ping",
                "originalSize": 1_000_000, "compressedSize": bomb.len(), "data": encode(&bomb)}),
            "originalSize",
        ),
    ] {
        client.send_json(&bad).await;
        let answer = find(&mut client, |message| message["type"] != "heartbeat:pong").await;
        assert_eq!(answer["type"], "validation:error", "{answer}");
        assert_eq!(answer["field"], field, "{answer}");
        client.send_json(&ping).await;
        hear(&mut client, "heartbeat:pong").await;
    }
}

/// An agent speaks for itself alone, and of its own commands.
#[tokio::test]
async fn an_agent_cannot_speak_for_another() {
    let world = World::start(1).await;
    let mut operator = world.dashboard("operator").await;
    let mut victim = world.agent("victim").await;
    let mut thief = world.agent("thief").await;
    let id = run(&mut operator, "victim", "ls").await;
    victim.executes().await;
    for kind in [
        "agent:status",
        "terminal:output",
        "terminal:clear",
        "command:complete",
        "agent:disconnect",
    ] {
        let fields = json!({"agentId": "victim", "commandId": id, "status": "completed",
            "output": {"type": "stdout", "content": "x"}});
        let mut fields = fields;
        if kind == "agent:status" {
            fields["status"] = json!("error");
        }
        thief.says(kind, fields).await;
        let answer = hear(&mut thief.client, "connection:error").await;
        assert_eq!(answer["code"], "FORBIDDEN", "{kind}");
    }
    // As itself, of a command of another; also of one that never was, in its own
    // shard.
    let (mine, other) = (Shard::of_agent("thief"), Shard::of_agent("victim"));
    assert_ne!(mine, other, "choose other names");
    let own = command_id(mine, &"0".repeat(32)).unwrap();
    for id in [id.as_str(), &own, "nonsense"] {
        thief.writes(id, "x").await;
        let answer = hear(&mut thief.client, "command:error").await;
        assert_eq!(answer["code"], "COMMAND_NOT_FOUND", "{id}");
    }
    for id in [id.as_str(), "nonsense"] {
        thief.completes(id, 0).await;
        let answer = hear(&mut thief.client, "command:error").await;
        assert_eq!(answer["code"], "COMMAND_NOT_FOUND", "{id}");
    }
    victim.writes(&id, "mine\n").await;
    victim.completes(&id, 0).await;
    let output = hear(&mut operator, "terminal:output").await;
    assert_eq!(output["output"]["content"], "mine\n");
    assert_eq!(
        hear(&mut operator, "command:complete").await["status"],
        "completed"
    );
    // Dashboards report nothing.
    operator
        .send_json(&json!({"type": "command:complete", "commandId": id, "exitCode": 0}))
        .await;
    assert_eq!(
        hear(&mut operator, "connection:error").await["code"],
        "FORBIDDEN"
    );
}

/// The next refusal for too many messages; everything before it is skipped.
async fn excess(client: &mut WsClient) -> Value {
    let answer = hear(client, "connection:error").await;
    SHAPE
        .server("connection:error")
        .unwrap()
        .check(&answer)
        .unwrap();
    assert_eq!(answer["code"], "RATE_LIMIT", "{answer}");
    assert!(answer["retryAfter"].as_u64().unwrap() > 0, "{answer}");
    answer
}

/// F11, F13: the documented limits, as they are without settings.
#[tokio::test]
async fn the_documented_limits_hold() {
    let world = World::start_with(1, &[]).await;
    let operator = || async {
        let mut client = world.open(&world.platform.api_key("operator")).await;
        join(&mut client, json!({})).await;
        client
    };
    // Ten a second; the connection itself took one.
    let mut client = operator().await;
    for _ in 0..10 {
        client.send_json(&json!({"type": "heartbeat:pong"})).await;
    }
    let answer = excess(&mut client).await;
    assert_eq!(answer["limits"]["perMinute"]["limit"], 100);
    assert_eq!(answer["limits"]["perHour"]["limit"], 1_000);
    assert_eq!(answer["retryAfter"], 1);
    // Ten commands a minute, whatever else there is.
    let mut client = operator().await;
    for _ in 0..11 {
        client
            .send_json(&json!({"type": "command:request", "agentId": "nobody", "command": "ls"}))
            .await;
    }
    let answer = excess(&mut client).await;
    assert_eq!(
        answer["limits"]["perMinute"],
        json!({"used": 11, "limit": 10})
    );
    assert_eq!(
        answer["limits"]["perHour"],
        json!({"used": 11, "limit": 100})
    );
    // A batch counts its members.
    let mut client = operator().await;
    let ping = json!({"type": "heartbeat:ping"});
    let batch = json!({"type": "batch", "messages": vec![ping; 61], "count": 61});
    client.send_json(&batch).await;
    let answer = excess(&mut client).await;
    assert_eq!(
        answer["limits"]["perMinute"],
        json!({"used": 61, "limit": 60})
    );
    // Refused for their number, they are no bad messages: it stays.
    for _ in 0..20 {
        client.send_json(&json!({"type": "heartbeat:ping"})).await;
        excess(&mut client).await;
    }
    // A thousand messages with output.
    let mut agent = world.agent("a-1").await;
    let nothing = json!({"type": "terminal:output", "agentId": "a-1", "commandId": "x",
        "output": {"type": "stdout", "content": ""}});
    for _ in 0..4 {
        let batch = json!({"messages": vec![nothing.clone(); 250], "count": 250});
        agent.says("batch", batch).await;
    }
    agent.says("terminal:output", nothing).await;
    let answer = excess(&mut agent.client).await;
    assert_eq!(
        answer["limits"]["perMinute"],
        json!({"used": 1_001, "limit": 1_000})
    );
}

/// F13: all connections share a limit.
#[tokio::test]
async fn all_connections_share_a_limit() {
    let arguments = [&UNLIMITED[..], &["--fleet-all-per-minute", "5"]].concat();
    let world = World::start_with(1, &arguments).await;
    let mut first = world.dashboard("operator").await;
    let mut second = world.dashboard("operator").await;
    for _ in 0..4 {
        first
            .send_json(&json!({"type": "terminal:clear", "agentId": "nobody"}))
            .await;
    }
    excess(&mut first).await;
    second
        .send_json(&json!({"type": "terminal:clear", "agentId": "nobody"}))
        .await;
    excess(&mut second).await;
}

/// G3: the closes of WebSocket itself.
#[tokio::test]
async fn what_is_no_text_message_closes_the_connection() {
    let world = World::start(1).await;
    let mut client = world.dashboard("viewer").await;
    client.send(Frame::binary(vec![1, 2, 3])).await;
    assert_eq!(client.drain(DEADLINE).await.1.code, Some(1003));
    let mut client = world.dashboard("viewer").await;
    client.send(Frame::text("x".repeat(1_048_577))).await;
    assert_eq!(client.drain(DEADLINE).await.1.code, Some(1009));
    // A stranger may say less.
    let mut stranger = world.open("nonsense").await;
    assert_eq!(stranger.drain(DEADLINE).await.1.code, Some(1008));
}

/// G3, 1001: a gateway that stops tells everybody.
#[tokio::test]
async fn a_gateway_that_stops_says_so() {
    let world = World::start(1).await;
    let mut dashboard = world.dashboard("viewer").await;
    let mut agent = world.agent("a-1").await;
    world.platform.gateways[0].process.sigterm();
    for client in [&mut dashboard, &mut agent.client] {
        let (frames, closed) = client.drain(DEADLINE).await;
        let last = frames.last().unwrap();
        assert_eq!(last["type"], "connection:error", "{last}");
        assert_eq!(last["code"], "CONNECTION_FAILED");
        assert_eq!(last["retryAfter"], 1);
        assert_eq!(closed.code, Some(1001));
    }
    let deadline = Duration::from_secs(20);
    assert!(
        world.platform.gateways[0]
            .process
            .wait(deadline)
            .await
            .success()
    );
}

/// Who may make tokens for agents may make up any number of them; only so many
/// are taken in.
#[tokio::test]
async fn agents_are_known_up_to_a_number() {
    let platform = signalbox_testkit::Platform::start_with(1, &UNLIMITED).await;
    let relay = platform.start_relay(&["--most-agents", "32"]).await;
    let world = World { platform, relay };
    let shard = Shard::of_agent("a-1");
    let ids = (1..).map(|number| format!("a-{number}"));
    let ids: Vec<String> = ids
        .filter(|id| Shard::of_agent(id) == shard)
        .take(3)
        .collect();
    let first = world.agent(&ids[0]).await;
    let _second = world.agent(&ids[1]).await;
    let mut third = world.open(&world.agent_token(&ids[2]).await).await;
    let hello = json!({
        "type": "agent:connect",
        "agentId": ids[2],
        "agentType": "scripted",
        "version": "1",
    });
    third.send_json(&hello).await;
    assert_eq!(
        hear(&mut third, "connection:error").await["code"],
        "FORBIDDEN"
    );
    let closed = third.expect_close(DEADLINE).await;
    assert_eq!(closed.code, Some(1008));
    // Those who are known come and go.
    drop(first);
    world.agent(&ids[0]).await;
}

/// Offsets that an agent makes up are refused before anything is counted with them.
#[tokio::test]
async fn offsets_beyond_all_counting_are_refused() {
    let world = World::start(1).await;
    let mut dashboard = world.dashboard("operator").await;
    let mut agent = world.agent("a-1").await;
    let id = run(&mut dashboard, "a-1", "make").await;
    agent.executes().await;
    let most = (1_u64 << 53) - 1;
    for (offset, length) in [(most, 1), (most - 2, 3), (most + 1, 1), (u64::MAX, 1)] {
        let output = json!({"type": "stdout", "content": "x".repeat(length)});
        let fields = json!({"commandId": id, "output": output, "offset": offset});
        agent.says("terminal:output", fields).await;
        let refused = hear(&mut agent.client, "validation:error").await;
        assert_eq!(refused["field"], "offset", "{refused}");
    }
    // It takes no acknowledgements: what it leaves out is a gap, and the last byte
    // that can be counted is taken.
    let output = json!({"type": "stdout", "content": "end"});
    let fields = json!({"commandId": id, "output": output, "offset": most - 3});
    agent.says("terminal:output", fields).await;
    let gap = hear(&mut dashboard, "terminal:gap").await;
    assert_eq!((&gap["from"], &gap["to"]), (&json!(0), &json!(most - 3)));
    // Without an offset it goes on there.
    agent.writes(&id, "more").await;
    assert_eq!(
        hear(&mut agent.client, "validation:error").await["field"],
        "offset"
    );
    let complete = json!({
        "commandId": id,
        "exitCode": 0,
        "streams": [{"stream": "stdout", "bytes": most, "sha256": "zz"}],
    });
    agent.says("command:complete", complete.clone()).await;
    assert_eq!(
        hear(&mut agent.client, "validation:error").await["field"],
        "streams[].sha256"
    );
    // More than it ever sent: it cannot send it again, and is taken at its word.
    let mut more = complete;
    more["streams"] =
        json!([{"stream": "stdout", "bytes": most}, {"stream": "stderr", "bytes": 7}]);
    agent.says("command:complete", more).await;
    let end = hear(&mut dashboard, "command:complete").await;
    assert_eq!(
        (&end["incomplete"], &end["status"]),
        (&json!(true), &json!("completed"))
    );
    assert_eq!(
        end["streams"][1],
        json!({"stream": "stderr", "bytes": 7, "recorded": 0})
    );
}

/// An agent that says to have written more than is stored is told from where to
/// send again, and its end is taken after that.
#[tokio::test]
async fn an_end_ahead_of_its_output_is_not_taken() {
    let world = World::start(1).await;
    let mut dashboard = world.dashboard("operator").await;
    let capable = json!({"capabilities": ["ack", "journal"]});
    let mut agent = world.agent_with("a-1", capable).await;
    let id = run(&mut dashboard, "a-1", "make").await;
    agent.executes().await;
    agent.writes_bytes(&id, 0, b"abc").await;
    hear(&mut agent.client, "terminal:ack").await;
    let complete = json!({
        "commandId": id,
        "exitCode": 3,
        "status": "failed",
        "reason": "out of patience",
        "requestId": "end",
        "streams": [{"stream": "stdout", "bytes": 6}],
    });
    agent.says("command:complete", complete.clone()).await;
    assert_eq!(hear(&mut agent.client, "terminal:ack").await["offset"], 3);
    let refused = hear(&mut agent.client, "validation:error").await;
    assert_eq!(
        (&refused["field"], &refused["requestId"]),
        (&json!("streams"), &json!("end"))
    );
    agent.writes_bytes(&id, 3, b"def").await;
    agent.says("command:complete", complete.clone()).await;
    assert_eq!(
        hear(&mut agent.client, "request:done").await["requestId"],
        "end"
    );
    let end = find(&mut dashboard, |message| {
        message["type"] == "command:complete"
    })
    .await;
    assert_eq!(
        (&end["status"], &end["reason"]),
        (&json!("failed"), &json!("out of patience"))
    );
    assert!(end.get("incomplete").is_none(), "{end}");
    // Again, since the answer might have been lost.
    agent.says("command:complete", complete).await;
    assert_eq!(
        hear(&mut agent.client, "request:done").await["requestId"],
        "end"
    );
}
