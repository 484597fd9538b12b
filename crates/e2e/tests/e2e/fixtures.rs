//! The messages of the reference documentation, as files that tests compare
//! with what really goes over the wire.
//!
//! What differs from run to run has a fixed stand-in there: the epoch of
//! positions, names of sessions, credentials. `SIGNALBOX_TEST_RECORD=1` writes
//! the server's messages anew from what came.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::Value;
use signalbox_protocol::Dialect;
use signalbox_protocol::frame::shape::Shape;

/// Stands for a credential.
const CREDENTIAL: &str = "YOUR_API_KEY_OR_TOKEN";
/// Stands for the epoch of the stream.
const EPOCH: &str = "660b50a6870ca";
/// Stands for the name of a connection.
const SESSION: &str = "ws-session-01a1f9194d5a71508d519f18695b00c3";
/// Stands for the name of a chat.
const CHAT: &str = "chat-01a1f9194d5a71508d519f18695b00c3";
/// Stands for the time that an answer took.
const PROCESSING_TIME: &str = "2.4s";
/// Stands for an estimate of the tokens of an answer.
const TOKENS: u64 = 450;
/// Stands for a call of a tool that was decided on.
const ACTION: &str = "tool-0123456789abcdef0123456789abcdef";
/// Stands for a command.
const COMMAND: &str = "cmd-0123456789abcdef0123456789abcdef";
/// Stands for the end of the minute.
const RESET: &str = "2026-03-02T09:15:00Z";

/// The fixtures of one dialect, and which were used.
pub(crate) struct Fixtures {
    shape: &'static Shape,
    credential: String,
    epoch: RefCell<Option<String>>,
    chat: RefCell<Option<String>>,
    used: RefCell<BTreeSet<String>>,
}

fn root() -> PathBuf {
    PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../protocol/tests/fixtures"
    ))
}

fn read(path: &str) -> Value {
    let file = root().join(format!("{path}.json"));
    let text = std::fs::read_to_string(&file).unwrap_or_else(|err| panic!("{path}: {err}"));
    serde_json::from_str(&text).unwrap_or_else(|err| panic!("{path}: {err}"))
}

/// The data of the event `<domain>.<name>`.
pub(crate) fn event(name: &str) -> Value {
    read(&format!("events/{name}"))
}

/// The texts of all client messages of a dialect, with this credential.
pub(crate) fn client_texts(shape: &Shape, credential: &str) -> Vec<String> {
    let folder = root().join(shape.dialect.name()).join("client");
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let text = |name: &String| {
        let path = format!(
            "{}/client/{}",
            shape.dialect,
            name.trim_end_matches(".json")
        );
        read(&path).to_string().replace(CREDENTIAL, credential)
    };
    names.iter().map(text).collect()
}

impl Fixtures {
    /// `credential` goes where messages have one.
    pub(crate) fn new(shape: &'static Shape, credential: String) -> Self {
        Self {
            shape,
            credential,
            epoch: RefCell::default(),
            chat: RefCell::default(),
            used: RefCell::default(),
        }
    }

    /// A client's message, ready to be sent: `subscribe`, or `subscribe-more`
    /// for a further example of it.
    pub(crate) fn client(&self, name: &str) -> Value {
        let message = read(&self.path("client", name));
        let (kind, _) = name.split_once('-').unwrap_or((name, ""));
        let shape = self.shape.client(kind);
        shape.unwrap().check(&message).unwrap();
        let text = message.to_string().replace(CREDENTIAL, &self.credential);
        let text = match &*self.epoch.borrow() {
            Some(epoch) => text.replace(EPOCH, epoch),
            None => text,
        };
        let text = match &*self.chat.borrow() {
            Some(chat) => text.replace(CHAT, chat),
            None => text,
        };
        serde_json::from_str(&text).unwrap()
    }

    /// Asserts that a message is the server's of this name, field by field.
    pub(crate) fn assert_server(&self, name: &str, message: &Value) {
        let (kind, _) = name.split_once('-').unwrap_or((name, ""));
        let shape = self.shape.server(kind).unwrap();
        let misfit = shape.check(message).err();
        assert_eq!(misfit, None, "{message}");
        let message = self.normalised(message.clone());
        let path = self.path("server", name);
        if std::env::var_os("SIGNALBOX_TEST_RECORD").is_some() {
            let text = format!("{}\n", serde_json::to_string_pretty(&message).unwrap());
            std::fs::write(root().join(format!("{path}.json")), text).unwrap();
        }
        assert_eq!(message, read(&path), "{path}");
    }

    /// As [`assert_server`](Self::assert_server), of a chat that is not the
    /// conversation's.
    pub(crate) fn assert_foreign(&self, name: &str, message: &Value) {
        let own = self.chat.take();
        self.assert_server(name, message);
        *self.chat.borrow_mut() = own;
    }

    /// Asserts that every message of the dialect was heard or said, and every
    /// file used.
    pub(crate) fn assert_complete(&self) {
        let dialect = self.shape.dialect;
        let used = self.used.borrow();
        for side in ["client", "server"] {
            let folder = root().join(dialect.name()).join(side);
            for entry in std::fs::read_dir(folder).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                let path = format!("{dialect}/{side}/{}", name.trim_end_matches(".json"));
                assert!(used.contains(&path), "{path} is not used");
            }
        }
        let client = self
            .shape
            .client
            .iter()
            .map(|message| ("client", message.name()));
        let server = self.shape.server.iter().map(|message| message.name());
        let events = self.shape.events().map(|(_, message)| message.name());
        for (side, name) in client.chain(server.chain(events).map(|name| ("server", name))) {
            let path = format!("{dialect}/{side}/{name}");
            assert!(
                used.contains(&path),
                "{path} is not part of the conversation"
            );
        }
    }

    fn path(&self, side: &str, name: &str) -> String {
        let path = format!("{}/{side}/{name}", self.shape.dialect);
        self.used.borrow_mut().insert(path.clone());
        path
    }

    /// The message with stand-ins for what differs from run to run.
    fn normalised(&self, message: Value) -> Value {
        let mut message = self.positioned(message);
        if message.get("reset_time").is_some() {
            message["reset_time"] = RESET.into();
        }
        if let Some(notes) = message.get_mut("notes").and_then(Value::as_array_mut) {
            // Stored at this moment.
            for note in notes {
                note["timestamp"] = RESET.into();
            }
        }
        self.session(&mut message);
        if message.pointer("/metadata/processing_time").is_some() {
            message["metadata"]["processing_time"] = PROCESSING_TIME.into();
        }
        if message["type"] == "agent_response_cancelled" {
            // Nobody has counted these tokens.
            message["metadata"]["tokens_used"] = TOKENS.into();
        }
        if message.get("expires_at").is_some() {
            message["expires_at"] = RESET.into();
        }
        for (field, stand_in) in [("action_id", ACTION), ("command_id", COMMAND)] {
            let (kind, _) = stand_in.split_at(4);
            if let Some(id) = message[field].as_str().filter(|id| id.starts_with(kind)) {
                assert!(id.len() >= stand_in.len() - 1, "{id}");
                message[field] = stand_in.into();
            }
        }
        if self.shape.dialect == Dialect::Mesh && message.get("event").is_none() {
            // What is no event is of this moment, and has its fields below.
            if message.get("timestamp").is_some() {
                message["timestamp"] = RESET.into();
            }
            if message["data"].is_object() {
                let mut data = self.positioned(message["data"].take());
                self.session(&mut data);
                if data.get("expires_at").is_some() {
                    data["expires_at"] = RESET.into();
                }
                message["data"] = data;
            }
        }
        message
    }

    /// With a stand-in for the epoch in `seq`.
    fn positioned(&self, mut message: Value) -> Value {
        if let Some(seq) = message["seq"].as_str().map(str::to_owned) {
            let (epoch, sequence) = seq.split_once('-').unwrap();
            let mut known = self.epoch.borrow_mut();
            let known = known.get_or_insert_with(|| epoch.to_owned());
            assert_eq!(epoch, known, "one stream has one epoch");
            message["seq"] = format!("{EPOCH}-{sequence}").into();
        }
        message
    }

    fn session(&self, fields: &mut Value) {
        if let Some(chat) = fields["session_id"]
            .as_str()
            .filter(|id| id.starts_with("chat-"))
        {
            assert_eq!(chat.len(), CHAT.len(), "{chat}");
            let mut known = self.chat.borrow_mut();
            assert_eq!(known.get_or_insert_with(|| chat.to_owned()), chat);
            fields["session_id"] = CHAT.into();
        } else if let Some(session) = fields["session_id"].as_str() {
            assert_eq!(session.len(), SESSION.len(), "{session}");
            assert!(session.starts_with("ws-session-"), "{session}");
            fields["session_id"] = SESSION.into();
        }
    }
}
