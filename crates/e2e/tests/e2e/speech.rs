//! What tests over all dialects have to know of one beyond its shape: how a
//! connection comes to speak it, and how it says that something is wrong.

use serde_json::{Map, Value, json};
use signalbox_bus::server::User;
use signalbox_protocol::Dialect;
use signalbox_protocol::frame::mesh::shape::SHAPE as MESH;
use signalbox_protocol::frame::shape::{Message, Shape};
use signalbox_protocol::frame::threat::shape::SHAPE as THREAT;
use signalbox_testkit::{DEADLINE, Platform, WsClient};
use uuid::Uuid;

use crate::chat_script::{AGENT, Scripted};
use crate::events::send;

/// A dialect as a test speaks it.
pub(crate) struct Speech {
    pub(crate) shape: &'static Shape,
    /// Whether a connection is heard before it has authenticated.
    pub(crate) admits_strangers: bool,
}

/// An error as its client is told.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) code: String,
    pub(crate) field: Option<String>,
    pub(crate) message: String,
}

impl Speech {
    pub(crate) fn threat() -> Self {
        Self {
            shape: &THREAT,
            admits_strangers: true,
        }
    }

    pub(crate) fn mesh() -> Self {
        Self {
            shape: &MESH,
            admits_strangers: false,
        }
    }

    fn url(&self, platform: &Platform) -> String {
        format!(
            "ws://{}{}",
            platform.gateways[0].listener(),
            self.shape.path
        )
    }

    /// A connection that has not authenticated.
    pub(crate) async fn stranger(&self, platform: &Platform) -> WsClient {
        WsClient::connect(&self.url(platform), &[]).await
    }

    /// A connection that has.
    pub(crate) async fn connect(&self, platform: &Platform, credential: &str) -> WsClient {
        let bearer = format!("Bearer {credential}");
        let headers = [("Authorization", bearer.as_str())];
        let mut client = WsClient::connect(&self.url(platform), &headers).await;
        if self.shape.dialect == Dialect::Threat {
            client.expect("auth_success").await;
        }
        client
    }

    /// What an error message says; nothing for other messages.
    pub(crate) fn told(&self, message: &Value) -> Option<Told> {
        if message["type"] != "error" {
            return None;
        }
        self.shape.server("error")?.check(message).ok()?;
        let body = match self.shape.dialect {
            Dialect::Mesh => &message["data"],
            _ => message,
        };
        Some(Told {
            code: body["code"].as_str()?.to_owned(),
            field: body["field"].as_str().map(str::to_owned),
            message: body["message"].as_str()?.to_owned(),
        })
    }

    /// Starts what messages need that others answer; to be kept.
    pub(crate) async fn helper(&self, platform: &Platform) -> Option<Scripted> {
        match self.shape.dialect {
            Dialect::Threat => Some(Scripted::answering(platform).await),
            _ => None,
        }
    }

    /// Whether a message can be served only once as it is.
    pub(crate) fn is_once(&self, message: &Message) -> bool {
        matches!(message.kind, "unsubscribe" | "action_decision")
    }

    /// Makes a valid message one that can be served on this connection.
    ///
    /// # Panics
    /// When the message is new: say here what it needs.
    pub(crate) async fn prepare(
        &self,
        platform: &Platform,
        client: &mut WsClient,
        message: &Message,
        fields: &mut Map<String, Value>,
    ) {
        match (self.shape.dialect, message.kind) {
            (_, "authenticate" | "subscribe" | "ping") => {}
            (Dialect::Threat, "unsubscribe") => {
                let confirmed = client.subscribe(json!({"channel": "threat_alerts"})).await;
                fields.insert(
                    "subscription_id".to_owned(),
                    confirmed["subscription_id"].clone(),
                );
            }
            (Dialect::Mesh, "unsubscribe") => {
                let channel = &fields["channel"];
                client
                    .send_json(&json!({"type": "subscribe", "channel": channel}))
                    .await;
                client.expect("subscribed").await;
            }
            (Dialect::Threat, "action_decision") => {
                let action = &mut fields["action_id"];
                if *action == "x" {
                    *action = json!(format!("x-{}", Uuid::now_v7()));
                }
                let action = json!({
                    "action_id": action, "action_type": "isolate", "status": "PENDING",
                    "arguments_hash": fields.get("arguments_hash"),
                });
                announce(platform, client, &action).await;
            }
            (Dialect::Threat, "start_chat") => {
                fields.insert("agent_type".to_owned(), json!(AGENT));
            }
            (Dialect::Threat, "chat_message" | "cancel_chat" | "resume_chat") => {
                let start = json!({"type": "start_chat", "agent_type": AGENT});
                client.send_json(&start).await;
                let started = client.expect("chat_session_started").await;
                // Where it may be absent, the one just begun is meant.
                if fields.get("session_id").is_some_and(Value::is_string) {
                    fields.insert("session_id".to_owned(), started["session_id"].clone());
                }
            }
            (Dialect::Threat, "add_investigation_note") => {
                let id = &fields["investigation_id"];
                let of = json!({"channel": "investigation_progress", "investigation_id": id});
                client.subscribe(of).await;
                client.expect("investigation_state").await;
            }
            (dialect, kind) => panic!("what does `{kind}` of {dialect} need?"),
        }
    }

    /// Undoes what an answer confirmed, so that nothing piles up.
    pub(crate) async fn tidy(&self, client: &mut WsClient, answer: &Value) {
        if answer["type"] == "subscription_confirmed" {
            let id = &answer["subscription_id"];
            client
                .send_json(&json!({"type": "unsubscribe", "subscription_id": id}))
                .await;
            client.expect("unsubscription_confirmed").await;
        }
        if answer["type"] == "agent_response_chunk" {
            client.expect("agent_response_complete").await;
        }
    }
}

/// Publishes an action on which users can decide, and sees it stored.
async fn announce(platform: &Platform, client: &mut WsClient, action: &Value) {
    let confirmed = client
        .subscribe(json!({"channel": "response_actions"}))
        .await;
    let bus = platform.bus(User::Producer).await;
    let id = Uuid::now_v7().to_string();
    send(&bus, "action_update", &id, action).await;
    // Earlier decisions may still be on their way.
    while client.next_json(DEADLINE).await["type"] != "action_update" {}
    let id = &confirmed["subscription_id"];
    client
        .send_json(&json!({"type": "unsubscribe", "subscription_id": id}))
        .await;
    while client.next_json(DEADLINE).await["type"] != "unsubscription_confirmed" {}
}
