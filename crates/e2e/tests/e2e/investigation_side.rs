//! Somebody in an investigation: what they were told adds up to a view, and
//! nothing in it may be told twice, out of turn or without need.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use signalbox_bus::server::User as BusUser;
use signalbox_bus::{HeaderMap, publish};
use signalbox_identity::UserId;
use signalbox_testkit::{DEADLINE, Platform, Service, WsClient};
use tokio::time::timeout;

/// What somebody knows of an investigation.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct View {
    /// Who is there, by id.
    pub(crate) users: BTreeMap<String, Value>,
    /// What was noted, in order.
    pub(crate) notes: Vec<Value>,
    /// The data of the last update.
    pub(crate) progress: Value,
}

/// A view, and how it came about.
#[derive(Clone, Debug, Default)]
pub(crate) struct Story {
    pub(crate) view: View,
    /// The position of the last message.
    pub(crate) seq: u64,
    /// What was told live: `USER_JOINED ada`, `note c`, `45`.
    pub(crate) told: Vec<String>,
}

fn sequence(frame: &Value) -> u64 {
    let seq = frame["seq"].as_str().unwrap();
    seq.rsplit_once('-').unwrap().1.parse().unwrap()
}

impl Story {
    /// Begins with a state.
    pub(crate) fn of(state: &Value) -> Self {
        assert_eq!(state.get("unavailable"), None, "{state}");
        let users = state["users"].as_array().unwrap().iter();
        let by_id = |user: &Value| (user["id"].as_str().unwrap().to_owned(), user.clone());
        let view = View {
            users: users.map(by_id).collect(),
            notes: state["notes"].as_array().unwrap().clone(),
            progress: state["progress"].clone(),
        };
        Self {
            view,
            seq: sequence(state),
            told: Vec::new(),
        }
    }

    /// Takes a message in.
    pub(crate) fn hear(&mut self, frame: &Value) {
        let kind = frame["type"].as_str().unwrap();
        match kind {
            "investigation_collaboration" => {
                let user = &frame["user"];
                let id = user["id"].as_str().unwrap();
                let word = frame["event"].as_str().unwrap();
                let before = match word {
                    "USER_JOINED" => self.view.users.insert(id.to_owned(), user.clone()),
                    _ => self.view.users.remove(id),
                };
                assert_eq!(before.is_some(), word == "USER_LEFT", "twice: {frame}");
                self.told.push(format!("{word} {id}"));
            }
            "investigation_note_added" => {
                let note = &frame["note"];
                let known = self.view.notes.iter().any(|one| one["id"] == note["id"]);
                assert!(!known, "twice: {frame}");
                self.view.notes.push(note.clone());
                self.told
                    .push(format!("note {}", note["content"].as_str().unwrap()));
            }
            "investigation_update" => {
                self.view.progress = frame["data"].clone();
                self.told.push(frame["data"]["progress"].to_string());
            }
            _ => return,
        }
        assert!(sequence(frame) > self.seq, "out of turn: {frame}");
        self.seq = sequence(frame);
    }
}

/// A token of somebody of this name.
pub(crate) fn token_of(platform: &Platform, role: &str, user: &str) -> String {
    let mut claims = platform.claims(role);
    claims.sub = UserId::new(user).unwrap();
    claims.name = format!("{user} by name");
    let token = platform.signing_key().sign(&claims);
    token.unwrap().expose().to_owned()
}

/// Has an update of an investigation produced.
pub(crate) async fn progress(platform: &Platform, id: &str, progress: u64) {
    let bus = platform.bus(BusUser::Producer).await;
    let data = json!({"investigation_id": id, "progress": progress, "status": "RUNNING"});
    let message = publish::Outgoing {
        subject: "events.threat.investigation_update".to_owned(),
        message_id: format!("threat/test/{id}/{progress}"),
        headers: HeaderMap::new(),
        payload: data.to_string().into(),
    };
    publish::publish(&bus, &message, DEADLINE).await.unwrap();
}

/// A request to note something.
pub(crate) fn note(id: &str, content: &str) -> Value {
    json!({"type": "add_investigation_note", "investigation_id": id, "content": content})
}

/// Somebody in an investigation.
pub(crate) struct Analyst {
    pub(crate) socket: WsClient,
    pub(crate) story: Story,
}

impl Analyst {
    /// Comes to an investigation.
    pub(crate) async fn join(gateway: &Service, token: &str, id: &str) -> Self {
        let mut socket = WsClient::connect(&gateway.threat_url(), &[]).await;
        socket.authenticate(token).await;
        let story = subscribe(&mut socket, id).await;
        Self { socket, story }
    }

    /// The next message, which is taken in.
    pub(crate) async fn next(&mut self) -> Value {
        let frame = self.socket.next_json(DEADLINE).await;
        self.story.hear(&frame);
        frame
    }

    /// Hears until something holds.
    pub(crate) async fn hear_until(&mut self, holds: impl Fn(&Story) -> bool) {
        while !holds(&self.story) {
            self.next().await;
        }
    }

    /// Hears that somebody has come, or gone.
    pub(crate) async fn hear_told(&mut self, words: &str) {
        self.hear_until(|story| story.told.iter().any(|one| one == words))
            .await;
    }

    /// Notes something; gives the confirmation.
    pub(crate) async fn note(&mut self, request: &Value) -> Value {
        self.socket.send_json(request).await;
        loop {
            let frame = self.next().await;
            if matches!(
                frame["type"].as_str(),
                Some("investigation_note_recorded" | "error")
            ) {
                return frame;
            }
        }
    }

    /// Asserts that nothing is told for a while.
    pub(crate) async fn hears_nothing(&mut self, a_while: Duration) {
        if let Ok(frame) = timeout(a_while, self.next()).await {
            panic!("told without need: {frame}");
        }
    }
}

/// Subscribes to an investigation; gives what there is.
pub(crate) async fn subscribe(socket: &mut WsClient, id: &str) -> Story {
    let asked = json!({"channel": "investigation_progress", "investigation_id": id});
    let confirmed = socket.subscribe(asked).await;
    let state = socket.expect("investigation_state").await;
    assert_eq!(state["seq"], confirmed["seq"]);
    assert_eq!(state["investigation_id"], id);
    Story::of(&state)
}
