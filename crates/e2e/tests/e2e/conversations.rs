//! One conversation per dialect in which every message occurs, compared field
//! by field with the examples of the reference documentation: T1, T2, T4-T6,
//! M3-M5, M7, G4, G5, G8.

use std::net::SocketAddr;

use serde_json::{Value, json};
use signalbox_bus::publish::{Outgoing, publish};
use signalbox_bus::{Bus, BusOptions, HeaderMap};
use signalbox_protocol::envelope::{CE_ID, CE_TIME};
use signalbox_protocol::frame::mesh::shape::SHAPE as MESH;
use signalbox_protocol::frame::threat::shape::SHAPE as THREAT;
use signalbox_testkit::{DEADLINE, FakeModel, Gate, Reply, WsClient, api_key, post};

use crate::chat_world::{agents, analysis};
use crate::events::send;
use crate::fixtures::{Fixtures, event};
use crate::spoken_tools;
use crate::up::{listener, up, up_with};

/// The time of every event.
const TIME: &str = "2026-03-02T09:14:07.250Z";

/// A client that says and hears what the fixtures hold.
struct Speaker<'a> {
    client: WsClient,
    fixtures: &'a Fixtures,
}

impl<'a> Speaker<'a> {
    async fn connect(url: &str, fixtures: &'a Fixtures) -> Self {
        Self::connect_with(url, &[], fixtures).await
    }

    async fn connect_with(url: &str, headers: &[(&str, &str)], fixtures: &'a Fixtures) -> Self {
        let client = WsClient::connect(url, headers).await;
        Self { client, fixtures }
    }

    async fn says(&mut self, name: &str) {
        self.client.send_json(&self.fixtures.client(name)).await;
    }

    async fn hears(&mut self, name: &str) -> Value {
        let message = self.client.next_json(DEADLINE).await;
        self.fixtures.assert_server(name, &message);
        message
    }
}

/// Publishes the fixture of an event under the id `<name>-1`.
async fn produce(bus: &Bus, domain: &str, name: &str) {
    let id = format!("{name}-1");
    let mut headers = HeaderMap::new();
    headers.insert(CE_ID, id.as_str());
    headers.insert(CE_TIME, TIME);
    let message = Outgoing {
        subject: format!("events.{domain}.{name}"),
        message_id: format!("{domain}/test/{id}"),
        headers,
        payload: event(&format!("{domain}.{name}")).to_string().into(),
    };
    publish(bus, &message, DEADLINE).await.unwrap();
}

async fn producer(runtime: &Value) -> Bus {
    let options = BusOptions {
        url: runtime["nats_url"].as_str().unwrap().to_owned(),
        wait: DEADLINE,
    };
    Bus::connect(&options, "test").await.unwrap()
}

/// A token that ends in two seconds.
async fn short_token(addr: SocketAddr, key: &str) -> String {
    let body = json!({"api_key": key, "ttl": 2}).to_string();
    let (status, answer) = post(addr, "/api/v1/auth/token", &body).await;
    assert_eq!(status, 200, "{answer}");
    let answer: Value = serde_json::from_str(&answer).unwrap();
    answer["access_token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn threat_is_spoken_as_documented() {
    let dir = tempfile::tempdir().unwrap();
    let model = FakeModel::start().await;
    let agents = agents(&dir, &model);
    spoken_tools::allow(&agents);
    let (process, runtime) = up_with(dir.path(), &["--agents", agents.to_str().unwrap()]).await;
    let addr: SocketAddr = listener(&runtime);
    let url = format!("ws://{addr}{}", THREAT.path);
    let bus = producer(&runtime).await;
    let key = api_key(&dir.path().join("credentials.json"), "analyst");
    let fixtures = Fixtures::new(&THREAT, key);

    let mut dana = Speaker::connect(&url, &fixtures).await;
    dana.says("authenticate").await;
    dana.hears("auth_success").await;
    dana.says("subscribe").await;
    dana.hears("subscription_confirmed").await;
    dana.says("subscribe-investigation").await;
    dana.client.expect("subscription_confirmed").await;
    dana.client.expect("investigation_state").await;
    // Her own coming, of which the fixture of the event tells of somebody else's.
    dana.client.expect("investigation_collaboration").await;
    dana.says("subscribe-metrics").await;
    dana.client.expect("subscription_confirmed").await;
    dana.says("subscribe-actions").await;
    dana.client.expect("subscription_confirmed").await;
    for (kind, _) in THREAT.events() {
        produce(&bus, kind.domain.token(), kind.name).await;
        dana.hears(kind.name).await;
    }
    dana.says("action_decision").await;
    // The event may overtake the answer.
    for _ in 0..2 {
        let message = dana.client.next_json(DEADLINE).await;
        if message["type"] != "action_decided" {
            fixtures.assert_server("action_decision_recorded", &message);
        }
    }
    // The same decision again would be confirmed again.
    let mut other = fixtures.client("action_decision");
    other["decision"] = json!("reject");
    dana.client.send_json(&other).await;
    dana.hears("error-already_decided").await;
    let decision = fixtures.client("action_decision-arguments");
    let mut action = event("threat.action_update");
    action["action_id"] = decision["action_id"].clone();
    action["arguments_hash"] = decision["arguments_hash"].clone();
    action["expires_at"] = json!(TIME);
    send(&bus, "action_update", "expired-1", &action).await;
    dana.client.expect("action_update").await;
    dana.client.send_json(&decision).await;
    dana.hears("error-expired").await;
    dana.says("ping").await;
    dana.hears("pong").await;
    chat(&mut dana, &model).await;
    dana.says("add_investigation_note").await;
    // What is noted may be told before the one who noted it is answered.
    for _ in 0..2 {
        let message = dana.client.next_json(DEADLINE).await;
        if message["type"] != "investigation_note_added" {
            fixtures.assert_server("investigation_note_recorded", &message);
        }
    }
    dana.says("subscribe-investigation").await;
    dana.client.expect("subscription_confirmed").await;
    dana.hears("investigation_state").await;
    dana.says("unsubscribe").await;
    dana.hears("unsubscription_confirmed").await;
    // The same subscription again is one that the connection no longer holds.
    dana.says("unsubscribe").await;
    dana.hears("error-not_found").await;
    let mut other = fixtures.client("subscribe");
    other["filters"] = json!({"colour": ["red"]});
    dana.client.send_json(&other).await;
    dana.hears("error").await;

    let mut returning = Speaker::connect(&url, &fixtures).await;
    returning.says("authenticate").await;
    returning.client.expect("auth_success").await;
    returning.says("subscribe-resumed").await;
    returning.hears("subscription_confirmed-resumed").await;
    returning.hears("threat_alert").await;

    let mut stranger = Speaker::connect(&url, &fixtures).await;
    let mut claim = fixtures.client("authenticate");
    claim["token"] = json!("nonsense");
    stranger.client.send_json(&claim).await;
    stranger.hears("error-auth_failed").await;
    let closed = stranger.client.expect_close(DEADLINE).await;
    assert_eq!(closed.code, Some(1008));

    let mut guest = Speaker::connect(&url, &fixtures).await;
    let mut claim = fixtures.client("authenticate");
    claim["token"] = json!(short_token(addr, claim["token"].as_str().unwrap()).await);
    guest.client.send_json(&claim).await;
    guest.client.expect("auth_success").await;
    guest.hears("error-token_expiring").await;
    guest.hears("error-token_expired").await;
    let closed = guest.client.expect_close(DEADLINE).await;
    assert_eq!(closed.code, Some(1008));

    // Dana sees the actions of others as well, and says nothing more of them.
    spoken_tools::speak(dir.path(), &runtime, &model, &fixtures).await;

    loop {
        dana.says("subscribe-metrics").await;
        let answer = dana.client.next_json(DEADLINE).await;
        if answer["type"] == "rate_limit_exceeded" {
            fixtures.assert_server("rate_limit_exceeded", &answer);
            break;
        }
    }

    process.sigterm();
    returning.hears("error-connection_failed").await;
    let closed = returning.client.expect_close(DEADLINE).await;
    assert_eq!(closed.code, Some(1001));
    fixtures.assert_complete();
}

/// Chats: an answer, one that is cancelled, and a return to the first.
async fn chat(dana: &mut Speaker<'_>, model: &FakeModel) {
    let (first, last, never) = (Gate::new(), Gate::new(), Gate::new());
    let end = format!("\n\n```analysis\n{}\n```\n", analysis());
    let answer = Reply::new()
        .text("The scan from 10.4.7.19")
        .wait(&first)
        .text(" is after open services.")
        .wait(&last)
        .text(&end);
    model.reply(answer.usage(400, 50).end());
    dana.says("start_chat").await;
    dana.hears("chat_session_started").await;
    dana.says("chat_message").await;
    dana.hears("agent_response_chunk").await;
    first.open();
    dana.client.expect("agent_response_chunk").await;
    last.open();
    dana.hears("agent_response_chunk-final").await;
    dana.hears("agent_response_complete").await;

    let answer = Reply::new().text("It began").wait(&never).text(".");
    model.reply(answer.usage(400, 2).end());
    dana.says("chat_message").await;
    dana.client.expect("agent_response_chunk").await;
    dana.says("cancel_chat").await;
    // What ended may be told before the one who asked for it.
    for _ in 0..2 {
        let message = dana.client.next_json(DEADLINE).await;
        let name = message["type"].as_str().unwrap().to_owned();
        dana.fixtures.assert_server(&name, &message);
    }
    dana.says("resume_chat").await;
    dana.hears("chat_resumed").await;
    for kind in ["chunk", "chunk", "complete", "chunk", "cancelled"] {
        dana.client.expect(&format!("agent_response_{kind}")).await;
    }
    dana.says("subscribe-chats").await;
    dana.client.expect("subscription_confirmed").await;
    let mut other = dana.fixtures.client("resume_chat");
    other["session_id"] = json!("chat-00000000000000000000000000000000");
    dana.client.send_json(&other).await;
    let message = dana.client.expect("agent_error").await;
    dana.fixtures.assert_foreign("agent_error", &message);
}

#[tokio::test]
async fn mesh_is_spoken_as_documented() {
    let dir = tempfile::tempdir().unwrap();
    let (process, runtime) = up(dir.path()).await;
    let url = format!("ws://{}{}", listener(&runtime), MESH.path);
    let bus = producer(&runtime).await;
    let key = api_key(&dir.path().join("credentials.json"), "viewer");
    let headers = [("X-API-Key", key.as_str())];
    let fixtures = Fixtures::new(&MESH, key.clone());

    let mut noor = Speaker::connect_with(&url, &headers, &fixtures).await;
    noor.says("subscribe").await;
    noor.hears("subscribed").await;
    noor.says("subscribe-filtered").await;
    noor.client.expect("subscribed").await;
    for channel in ["consensus_events", "monitoring_events"] {
        let mut other = fixtures.client("subscribe");
        other["channel"] = json!(channel);
        noor.client.send_json(&other).await;
        noor.client.expect("subscribed").await;
    }
    for (kind, message) in MESH.events() {
        produce(&bus, kind.domain.token(), kind.name).await;
        noor.hears(&message.name()).await;
    }
    noor.says("ping").await;
    noor.hears("pong").await;
    noor.says("authenticate").await;
    noor.hears("authenticated").await;
    noor.says("unsubscribe").await;
    noor.hears("unsubscribed").await;
    // It is not subscribed any more.
    noor.says("unsubscribe").await;
    noor.hears("error-not_found").await;
    let mut other = fixtures.client("subscribe");
    other["filter"] = json!({"event": "node_crashed"});
    noor.client.send_json(&other).await;
    noor.hears("error").await;

    let mut returning = Speaker::connect_with(&url, &headers, &fixtures).await;
    returning.says("subscribe-resumed").await;
    returning.hears("subscribed-resumed").await;
    returning.hears("network_event.node_joined").await;

    let token = short_token(listener(&runtime), &key).await;
    let mut guest = Speaker::connect(&format!("{url}?token={token}"), &fixtures).await;
    guest.hears("error-token_expiring").await;
    guest.hears("error-token_expired").await;
    let closed = guest.client.expect_close(DEADLINE).await;
    assert_eq!(closed.code, Some(1008));

    process.sigterm();
    noor.hears("error-connection_failed").await;
    let closed = noor.client.expect_close(DEADLINE).await;
    assert_eq!(closed.code, Some(1001));
    fixtures.assert_complete();
}
