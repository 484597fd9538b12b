//! What differs between dialects, as a load generator sees them: where to
//! connect, what to say until events flow, and which events to publish. A new
//! dialect is one more constant here.

mod mesh;
mod socketio;
mod threat;

use clap::ValueEnum;
use serde_json::{Map, Value, json};
use signalbox_protocol::domain::Domain;

use super::mark::{FIELD, Mark};

/// The dialects that clients of a run may speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DialectName {
    /// JSON over WebSocket at /v1/ws
    Threat,
    /// JSON over WebSocket at /api/v1/ws
    Mesh,
    /// Socket.IO over WebSocket, namespace /ws
    Socketio,
}

/// One dialect.
#[derive(Debug)]
pub(super) struct Dialect {
    /// Its name in reports.
    pub(super) name: &'static str,
    /// Whether its credential must be an access token.
    pub(super) needs_token: bool,
    /// The request target of the upgrade.
    pub(super) path: fn(&Ask<'_>) -> String,
    /// What the client says first once the socket is open.
    pub(super) hello: fn(&Ask<'_>) -> Option<String>,
    /// What a message without a mark means, and what to say to it.
    pub(super) hear: fn(&Ask<'_>, &str) -> Heard,
    /// Events for everyone who subscribed to [`Subject::Broadcast`].
    pub(super) broadcast: Events,
    /// Events about one object each, for [`Subject::Object`] and
    /// [`Subject::Objects`].
    pub(super) objects: Events,
}

/// What a client wants of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask<'a> {
    /// Its credential.
    pub(super) token: &'a str,
    /// What to subscribe to.
    pub(super) subject: Subject,
    /// The run, which object names carry.
    pub(super) run: u32,
    /// The position to resume from.
    pub(super) since: Option<&'a str>,
}

/// What a client subscribes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    /// Nothing: it only authenticates.
    Nothing,
    /// A channel that brings every broadcast event.
    Broadcast,
    /// The events of every object.
    Objects,
    /// The events of one object.
    Object(u32),
}

/// What the server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// It wants, or allows, this next.
    Say(String),
    /// Everything that was asked for is confirmed.
    Confirmed {
        /// The position from which events come.
        seq: Option<String>,
        /// Whether everything since `since` follows.
        recovered: Option<bool>,
    },
    /// It refuses, with the reason.
    Refused(String),
    /// Nothing that matters here.
    Other,
}

/// Events of one kind that a publisher makes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Events {
    /// Their domain.
    pub(super) domain: Domain,
    /// Their type.
    pub(super) name: &'static str,
    /// The field that names the object; `None` for broadcast events.
    object_field: Option<&'static str>,
    /// Further fields that the type requires, as JSON.
    fields: &'static str,
}

/// The name of an object of a run.
pub(super) fn object(run: u32, target: u32) -> String {
    format!("bench-{run:08x}-{target}")
}

impl Events {
    /// The data of one event, padded to `bytes` of JSON.
    pub(super) fn data(&self, mark: &Mark, bytes: usize) -> String {
        let mut data: Map<String, Value> = serde_json::from_str(self.fields).unwrap_or_default();
        if let Some(field) = self.object_field {
            data.insert(field.to_owned(), object(mark.run, mark.target).into());
        }
        data.insert(FIELD.to_owned(), mark.to_string().into());
        data.insert("pad".to_owned(), "".into());
        let mut text = Value::Object(data).to_string();
        let padding = bytes.saturating_sub(text.len());
        // Inside the quotes that end the text.
        text.truncate(text.len() - 2);
        text.extend(std::iter::repeat_n('x', padding));
        text.push_str("\"}");
        text
    }
}

impl DialectName {
    /// The dialect of that name.
    pub(super) const fn dialect(self) -> &'static Dialect {
        match self {
            Self::Threat => &threat::THREAT,
            Self::Mesh => &mesh::MESH,
            Self::Socketio => &socketio::SOCKETIO,
        }
    }
}

/// `{type: "error", ...}` of the JSON dialects, as one line.
fn complaint(body: &Value) -> String {
    let text = |key: &str| body[key].as_str().unwrap_or("?").to_owned();
    format!("{}: {}", text("code"), text("message"))
}

/// Text of a field.
fn text(body: &Value, key: &str) -> Option<String> {
    body[key].as_str().map(str::to_owned)
}

/// The type of a JSON message, and the message.
fn typed(message: &str) -> (String, Value) {
    let value: Value = serde_json::from_str(message).unwrap_or_else(|_| json!({}));
    (text(&value, "type").unwrap_or_default(), value)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const ASK: Ask<'static> = Ask {
        token: "t.o.k",
        subject: Subject::Broadcast,
        run: 0xAB,
        since: None,
    };

    #[test]
    fn events_fit_the_catalogue_and_have_the_wanted_size() {
        let mark = Mark {
            run: 1,
            target: 42,
            sequence: 7,
            sent: 1_000_000,
        };
        for name in DialectName::value_variants() {
            let dialect = name.dialect();
            for events in [dialect.broadcast, dialect.objects] {
                let data = events.data(&mark, 256);
                assert_eq!(data.len(), 256, "{data}");
                assert_eq!(Mark::find(data.as_bytes()), Some(mark));
                let parsed: Map<String, Value> = serde_json::from_str(&data).unwrap();
                let Some(kind) = signalbox_protocol::catalogue::find(events.domain, events.name)
                else {
                    // A dialect that the catalogue does not have yet.
                    continue;
                };
                for field in kind.fields.iter().filter(|field| field.required) {
                    assert!(
                        parsed.contains_key(field.name),
                        "{} {}",
                        events.name,
                        field.name
                    );
                }
            }
        }
    }
}
