//! The AsyncAPI 3.0 document: what clients say and hear over WebSocket, and
//! what producers publish on NATS. Signalbox is the application described, so
//! it receives what clients and producers send.

use serde_json::{Map, Value, json};
use signalbox_protocol::Dialect;
use signalbox_protocol::catalogue;
use signalbox_protocol::envelope::{CE_ID, CE_PRIORITY, CE_SOURCE, CE_TIME};
use signalbox_protocol::event::Priority;
use signalbox_protocol::frame::shape::{self, Carrier, Kind, Message, Offer, Shape};
use signalbox_protocol::trace::TRACEPARENT;

use super::{events, examples};

/// The parts of the document that grow with every message.
#[derive(Default)]
struct Document {
    channels: Map<String, Value>,
    operations: Map<String, Value>,
    messages: Map<String, Value>,
    schemas: Map<String, Value>,
}

/// The whole document.
pub(crate) fn document() -> String {
    let mut parts = Document::default();
    for shape in shape::ALL {
        parts.dialect(shape);
    }
    parts.schemas.insert("event.headers".to_owned(), headers());
    for kind in catalogue::all() {
        parts.event(kind);
    }
    let document = json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Signalbox",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Real-time events for browsers, apps and agents, in the dialect they already speak. Generated from the code: see docs/reference/ for the same in words.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": servers(),
        "channels": parts.channels,
        "operations": parts.operations,
        "components": {
            "messages": parts.messages,
            "schemas": parts.schemas,
            "securitySchemes": security(),
        },
    });
    format!("{document:#}\n")
}

/// A message's name as a key of the document, which may have no colons.
fn key_of(name: &str) -> String {
    name.replace(':', ".")
}

fn reference(path: &str) -> Value {
    json!({"$ref": format!("#/{path}")})
}

fn servers() -> Value {
    json!({
        "gateway": {
            "host": "127.0.0.1:8080",
            "protocol": "ws",
            "description": "A gateway of `signalbox up`; all gateways serve the same.",
            "security": [
                reference("components/securitySchemes/message"),
                reference("components/securitySchemes/bearer"),
                reference("components/securitySchemes/apiKeyHeader"),
                reference("components/securitySchemes/tokenQuery"),
            ],
        },
        "bus": {
            "host": "127.0.0.1:4222",
            "protocol": "nats",
            "description": "The NATS server, with JetStream. `signalbox up` writes its address and the producer's credentials to `.signalbox/runtime.json`.",
            "security": [reference("components/securitySchemes/producer")],
        },
    })
}

fn security() -> Value {
    json!({
        "message": {
            "type": "apiKey", "in": "user",
            "description": "An API key or an access token in the message `authenticate`, where the dialect has it as its first message.",
        },
        "bearer": {
            "type": "http", "scheme": "bearer", "bearerFormat": "JWT",
            "description": "An access token or an API key, at the upgrade.",
        },
        "apiKeyHeader": {
            "type": "httpApiKey", "in": "header", "name": "X-API-Key",
            "description": "An API key or an access token, at the upgrade.",
        },
        "tokenQuery": {
            "type": "httpApiKey", "in": "query", "name": "token",
            "description": "An access token, at the upgrade; API keys are refused in URLs.",
        },
        "producer": {
            "type": "userPassword",
            "description": "The bus user of producers, who may publish events and nothing else.",
        },
    })
}

impl Document {
    fn dialect(&mut self, shape: &Shape) {
        let dialect = shape.dialect.name();
        let mut messages = Map::new();
        for (side, message) in sides(shape) {
            let key = format!("{side}.{}", key_of(&message.name()));
            let component = format!("{dialect}.{key}");
            messages.insert(key, reference(&format!("components/messages/{component}")));
            let examples: Vec<_> = examples::of_message(dialect, side, &message.name())
                .into_iter()
                .map(|(name, payload)| json!({"name": name, "payload": payload}))
                .collect();
            let written = json!({
                "name": message.kind,
                "title": message.name(),
                "summary": message.summary,
                "payload": reference(&format!("components/schemas/{component}")),
                "examples": examples,
            });
            self.messages.insert(component.clone(), written);
            self.schemas.insert(component, message.schema());
        }
        let mut binding = json!({"method": "GET", "bindingVersion": "0.1.0"});
        // Only there a token never comes with the URL.
        if shape.dialect != Dialect::Pipeline {
            binding["query"] = json!({"type": "object", "properties": {"token": {
                "type": "string", "description": "An access token.",
            }}});
        }
        self.channels.insert(
            dialect.to_owned(),
            json!({
                "address": shape.path,
                "title": format!("Dialect {dialect}"),
                "description": described(shape),
                "servers": [reference("servers/gateway")],
                "messages": messages,
                "bindings": {"ws": binding},
            }),
        );
        self.operations_of(shape);
    }

    fn operations_of(&mut self, shape: &Shape) {
        let dialect = shape.dialect.name();
        let channel = reference(&format!("channels/{dialect}"));
        let within = |key: String| reference(&format!("channels/{dialect}/messages/{key}"));
        for message in shape.client {
            let mut operation = json!({
                "action": "receive",
                "channel": channel,
                "summary": message.summary,
                "messages": [within(format!("client.{}", key_of(&message.name())))],
            });
            if !message.answers.is_empty() {
                let answers = message.answers.iter().chain(shape.errors);
                let answers: Vec<_> = answers
                    .map(|kind| within(format!("server.{}", key_of(kind))))
                    .collect();
                operation["reply"] = json!({"channel": channel, "messages": answers});
            }
            let name = format!("{dialect}.receive.{}", key_of(&message.name()));
            self.operations.insert(name, operation);
        }
        for offer in shape.offers {
            let carried: Vec<_> = shape
                .events()
                .filter(|(kind, _)| kind.route.channel == offer.channel)
                .map(|(_, message)| within(format!("server.{}", message.name())))
                .collect();
            let name = format!("{dialect}.send.{}", offer.channel);
            self.operations.insert(
                name,
                json!({
                    "action": "send",
                    "channel": channel,
                    "summary": offer.summary,
                    "description": audience(shape, offer),
                    "messages": carried,
                }),
            );
        }
    }

    fn event(&mut self, kind: &'static catalogue::EventType) {
        let subject = format!("events.{}.{}", kind.domain, kind.name);
        let example = examples::of_event(kind.domain.token(), kind.name);
        self.schemas
            .insert(subject.clone(), events::data_schema(kind));
        self.messages.insert(
            subject.clone(),
            json!({
                "name": kind.name,
                "title": subject,
                "summary": kind.summary,
                "headers": reference("components/schemas/event.headers"),
                "payload": reference(&format!("components/schemas/{subject}")),
                "examples": [{"name": kind.name, "payload": example}],
            }),
        );
        self.channels.insert(
            subject.clone(),
            json!({
                "address": subject,
                "description": format!(
                    "{} Default source `{}`, default priority {}. Publish with a JetStream acknowledgement.",
                    kind.summary, kind.source, kind.priority
                ),
                "servers": [reference("servers/bus")],
                "messages": {"event": reference(&format!("components/messages/{subject}"))},
            }),
        );
        self.operations.insert(
            format!("receive.{subject}"),
            json!({
                "action": "receive",
                "channel": reference(&format!("channels/{subject}")),
                "summary": kind.summary,
                "messages": [reference(&format!("channels/{subject}/messages/event"))],
            }),
        );
    }
}

/// What a dialect is, and what a message of it is.
fn described(shape: &Shape) -> String {
    match shape.carrier {
        Carrier::WebSocket => shape.summary.to_owned(),
        Carrier::SocketIo => format!(
            "{} Each message is the argument of the event that it is named after, or of an acknowledgement.",
            shape.summary
        ),
    }
}

/// Who gets the events of a channel.
fn audience(shape: &Shape, offer: &Offer) -> String {
    match (shape.carrier, offer.permission) {
        (Carrier::WebSocket, Some(permission)) => format!(
            "Events for those who subscribed to `{}`, which needs the permission `{permission}`.",
            offer.channel
        ),
        (Carrier::WebSocket, None) => {
            format!("Events for those who subscribed to `{}`.", offer.channel)
        }
        (Carrier::SocketIo, Some(permission)) => {
            format!("Events for those with the permission `{permission}`.")
        }
        (Carrier::SocketIo, None) => {
            "Events for those who are in a room that they are addressed to.".to_owned()
        }
    }
}

/// The messages of both sides, events among the server's.
fn sides(shape: &Shape) -> impl Iterator<Item = (&'static str, Message)> {
    let client = shape.client.iter().cloned();
    let server = shape.server.iter().cloned();
    let events = shape.events().map(|(_, message)| message);
    let client = client.map(|message| ("client", message));
    client.chain(server.chain(events).map(|message| ("server", message)))
}

/// The headers of producers' messages.
fn headers() -> Value {
    let id = |says: &str| {
        let mut schema = Kind::Id.schema();
        schema["description"] = says.into();
        schema
    };
    let priorities = [Priority::High, Priority::Medium, Priority::Low].map(Priority::as_str);
    json!({
        "type": "object",
        "description": "Each is optional and honoured by itself.",
        "properties": {
            CE_ID: id("The event's id, unique within domain and source."),
            CE_SOURCE: id("The producing service."),
            CE_TIME: {"type": "string", "format": "date-time", "description": "When it happened."},
            CE_PRIORITY: {"type": "string", "enum": priorities, "description": "How urgent it is."},
            "Nats-Msg-Id": {
                "type": "string",
                "description": "`<domain>/<source>/<id>`: a repeated publish is stored once.",
            },
            TRACEPARENT: {"type": "string", "description": "The trace that the event continues."},
        },
    })
}
