//! Every event type of dialects `pipeline` and `workspace`, from a producer to
//! stock clients, field by field, in the rooms that it is for and in no other
//! (P2, W7, G4, G5, G10).
//!
//! `protocol/tests/fixtures/<dialect>/event/<type>.json` has what is published
//! and the argument that must come of it, but for the stream's numbers.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::{Value, json};
use signalbox_bus::publish::{Outgoing, publish};
use signalbox_bus::{Bus, HeaderMap};
use signalbox_protocol::catalogue::{self, Audience, EventType};
use signalbox_protocol::cursor::Cursor;
use signalbox_protocol::envelope::{CE_ID, CE_TIME};
use signalbox_testkit::{DEADLINE, Platform};

use crate::io::{Io, producer, token};

/// An event type, and the example of it.
struct Example {
    kind: &'static EventType,
    /// The Socket.IO event's name.
    name: String,
    time: String,
    data: Value,
    frame: Value,
}

/// The examples of a dialect: one for each type that it has a word for.
fn examples(dialect: &str, name: fn(&EventType) -> Option<String>) -> Vec<Example> {
    let folder = PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../protocol/tests/fixtures"
    ));
    let folder = folder.join(dialect).join("event");
    let kinds = catalogue::all().filter_map(|kind| Some((kind, name(kind)?)));
    let examples: Vec<Example> = kinds
        .map(|(kind, name)| {
            let path = folder.join(format!("{name}.json"));
            let text = std::fs::read_to_string(path).unwrap();
            let mut example: Value = serde_json::from_str(&text).unwrap();
            Example {
                kind,
                name,
                time: example["time"].as_str().unwrap().to_owned(),
                data: example["data"].take(),
                frame: example["frame"].take(),
            }
        })
        .collect();
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), examples.len());
    examples
}

async fn send(bus: &Bus, example: &Example) {
    let kind = example.kind;
    let id = example.frame["id"].as_str().unwrap();
    let mut headers = HeaderMap::new();
    headers.insert(CE_ID, id);
    headers.insert(CE_TIME, example.time.as_str());
    let message = Outgoing {
        subject: format!("events.{}.{}", kind.domain, kind.name),
        message_id: format!("{}/{}/{id}", kind.domain, kind.name),
        headers,
        payload: example.data.to_string().into(),
    };
    publish(bus, &message, DEADLINE).await.unwrap();
}

/// The next event, which must be the example, and the offset behind it.
async fn receive(io: &Io, example: &Example) -> u64 {
    let (name, mut arguments) = io.next_message().await;
    assert_eq!(name, example.name);
    assert_eq!(arguments[1], arguments[0]["seq"], "the offset");
    let seq: Cursor = arguments[0]["seq"].as_str().unwrap().parse().unwrap();
    arguments[0]["seq"] = json!("EPOCH-SEQUENCE");
    assert_eq!(arguments[0], example.frame, "{name}");
    seq.sequence
}

#[tokio::test]
async fn every_event_of_pipeline_comes_as_documented() {
    let examples = examples("pipeline", |kind| {
        kind.words.pipeline.map(|_| kind.name.to_owned())
    });
    assert_eq!(examples.len(), 24);
    let platform = Platform::start(1).await;
    let bus = producer(&platform).await;
    let address = platform.gateways[0].listener();
    let user = examples
        .iter()
        .find(|example| example.name == "user_notification")
        .and_then(|example| example.data["userId"].as_str())
        .unwrap();
    let io = Io::connect(address, json!({})).await;
    io.event("connect").await;
    let credential = token(&platform, "admin", user, &[], 3_600);
    io.emit("authenticate", &json!({"token": credential}));
    io.message("authenticated").await;
    // One that may see nothing of all that.
    let agentless = Io::connect(address, json!({})).await;
    agentless.event("connect").await;
    let mut last = 0;
    for example in &examples {
        send(&bus, example).await;
        let sequence = receive(&io, example).await;
        assert!(sequence > last, "{}", example.name);
        last = sequence;
    }
    assert_eq!(io.leftovers().await, Vec::<Value>::new());
    assert_eq!(agentless.leftovers().await, Vec::<Value>::new());
}

#[tokio::test]
async fn every_event_of_workspace_reaches_its_rooms_and_no_other() {
    let examples = examples("workspace", |kind| {
        kind.words.workspace.map(|word| word.event.to_owned())
    });
    assert_eq!(examples.len(), 17);
    let platform = Platform::start(1).await;
    let bus = producer(&platform).await;
    let address = platform.gateways[0].listener();
    let rooms_of = |example: &Example| {
        let topic = example
            .kind
            .route
            .topic(example.data.as_object().unwrap())
            .unwrap();
        let prefix = if example.kind.domain.token() == "agent" {
            "agent"
        } else {
            "project"
        };
        let object = topic.object.map(|id| format!("{prefix}:{id}"));
        let audience = match topic.audience {
            Audience::Nobody => None,
            Audience::Everyone => Some("global".to_owned()),
            Audience::User(id) => Some(format!("user:{id}")),
        };
        object.into_iter().chain(audience).collect::<BTreeSet<_>>()
    };
    let rooms: BTreeSet<String> = examples.iter().flat_map(rooms_of).collect();
    // A client in each room alone, and one in all of them.
    let mut clients = Vec::new();
    let users: BTreeSet<&str> = rooms
        .iter()
        .filter_map(|room| room.strip_prefix("user:"))
        .collect();
    let everywhere = users.first().copied().unwrap_or("ada");
    for room in &rooms {
        let user = room.strip_prefix("user:").unwrap_or("loner");
        let projects: Vec<&str> = room.strip_prefix("project:").into_iter().collect();
        let credential = token(&platform, "viewer", user, &projects, 3_600);
        let io = Io::connect(address, json!({"token": credential})).await;
        io.message("connection_established").await;
        for begun in [format!("user:{user}"), "global".to_owned()] {
            if begun != *room {
                io.ask("unsubscribe", &json!({"room": begun})).await;
            }
        }
        let joined = io.ask("subscribe", &json!({"room": room})).await;
        assert_eq!(joined["status"], "success", "{room}");
        clients.push((BTreeSet::from([room.clone()]), io));
    }
    let projects: Vec<&str> = rooms
        .iter()
        .filter_map(|room| room.strip_prefix("project:"))
        .collect();
    let credential = token(&platform, "viewer", everywhere, &projects, 3_600);
    let io = Io::connect(address, json!({"token": credential})).await;
    io.message("connection_established").await;
    let mut all = BTreeSet::from(["global".to_owned(), format!("user:{everywhere}")]);
    for room in &rooms {
        if !room.starts_with("user:") {
            io.ask("subscribe", &json!({"room": room})).await;
            all.insert(room.clone());
        }
    }
    clients.push((all, io));
    for example in &examples {
        send(&bus, example).await;
        let addressed = rooms_of(example);
        for (rooms, io) in &clients {
            if !rooms.is_disjoint(&addressed) {
                receive(io, example).await;
            }
        }
    }
    for (rooms, io) in &clients {
        assert_eq!(io.leftovers().await, Vec::<Value>::new(), "{rooms:?}");
    }
}
