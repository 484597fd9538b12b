//! Clients of dialect `threat` that chat, and what they hold to be true of
//! everything that they are told.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use signalbox_identity::UserId;
use signalbox_testkit::{DEADLINE, Platform, Service, WsClient};

/// A token of an analyst of this name whom no limit holds back.
pub(crate) fn token_of(platform: &Platform, user: &str) -> String {
    let mut claims = platform.claims("analyst");
    claims.sub = UserId::new(user).unwrap();
    let token = platform.signing_key().sign(&claims);
    token.unwrap().expose().to_owned()
}

/// A client, and what it has heard of its chats.
pub(crate) struct Chatter {
    pub(crate) socket: WsClient,
    pub(crate) heard: Heard,
}

/// What was heard of answers, by chat and answer.
#[derive(Debug, Default)]
pub(crate) struct Heard(BTreeMap<(String, u64), Answer>);

/// What was heard of one answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The text of the chunks that came before this client's first.
    pub(crate) text: String,
    /// The last chunk.
    pub(crate) last: u64,
    pub(crate) is_final: bool,
    /// The type of the message that ended it.
    pub(crate) end: Option<String>,
}

impl Heard {
    /// What the client knew of an answer before.
    pub(crate) fn know(&mut self, session: &str, answer: u64, last: u64, text: &str) {
        let known = Answer {
            text: text.to_owned(),
            last,
            ..Answer::default()
        };
        self.0.insert((session.to_owned(), answer), known);
    }

    pub(crate) fn of(&self, session: &str, answer: u64) -> Answer {
        let known = self.0.get(&(session.to_owned(), answer));
        known.cloned().unwrap_or_default()
    }

    /// Takes a frame in: chunks come in turn and once, nothing comes behind an
    /// end, and an end has the chunks joined.
    pub(crate) fn hear(&mut self, frame: &Value) {
        let kind = frame["type"].as_str().unwrap();
        let Some(number) = frame["answer"].as_u64() else {
            return;
        };
        let ends = [
            "agent_response_complete",
            "agent_response_cancelled",
            "agent_error",
        ];
        if kind != "agent_response_chunk" && !ends.contains(&kind) {
            return;
        }
        let session = frame["session_id"].as_str().unwrap().to_owned();
        let answer = self.0.entry((session, number)).or_default();
        assert_eq!(answer.end, None, "behind the end: {frame}");
        if kind == "agent_response_chunk" {
            assert_eq!(frame["chunk_id"], answer.last + 1, "out of turn: {frame}");
            assert!(!answer.is_final, "behind the last chunk: {frame}");
            answer.last += 1;
            answer.text.push_str(frame["content"].as_str().unwrap());
            answer.is_final = frame["is_final"].as_bool().unwrap();
            return;
        }
        let whole = frame.get("full_response");
        let whole = whole.or_else(|| frame.get("partial_response")).unwrap();
        assert_eq!(*whole, answer.text, "the chunks joined: {frame}");
        assert_eq!(
            answer.is_final,
            kind == "agent_response_complete",
            "{frame}"
        );
        answer.end = Some(kind.to_owned());
    }
}

impl Chatter {
    /// Connects to a gateway and authenticates.
    pub(crate) async fn connect(gateway: &Service, token: &str) -> Self {
        let mut socket = WsClient::connect(&gateway.threat_url(), &[]).await;
        socket.authenticate(token).await;
        Self {
            socket,
            heard: Heard::default(),
        }
    }

    /// The next frame, which is taken in.
    pub(crate) async fn next(&mut self) -> Value {
        let frame = self.socket.next_json(DEADLINE).await;
        self.heard.hear(&frame);
        frame
    }

    /// The next frame, which must be of this type.
    pub(crate) async fn expect(&mut self, kind: &str) -> Value {
        let frame = self.next().await;
        assert_eq!(frame["type"], kind, "{frame}");
        frame
    }

    /// Says a message; gives the next frame.
    pub(crate) async fn ask(&mut self, message: Value) -> Value {
        self.socket.send_json(&message).await;
        self.next().await
    }

    /// Begins a chat; gives its session.
    pub(crate) async fn start(&mut self, agent_type: &str) -> String {
        let message = json!({"type": "start_chat", "agent_type": agent_type});
        self.socket.send_json(&message).await;
        let started = self.expect("chat_session_started").await;
        assert_eq!(started["agent_type"], agent_type);
        started["session_id"].as_str().unwrap().to_owned()
    }

    /// Says something, without waiting for anything.
    pub(crate) async fn say(&mut self, session: &str, message: &str) {
        let message = json!({"type": "chat_message", "session_id": session, "message": message});
        self.socket.send_json(&message).await;
    }

    /// Subscribes to all chats of the user.
    pub(crate) async fn subscribe(&mut self) -> Value {
        let message = json!({"type": "subscribe", "channel": "agent_chat"});
        self.socket.send_json(&message).await;
        self.expect("subscription_confirmed").await
    }

    /// Goes on with the last answer of a chat; gives what confirms it.
    pub(crate) async fn resume(&mut self, session: &str, after_chunk: u64) -> Value {
        let message =
            json!({"type": "resume_chat", "session_id": session, "after_chunk": after_chunk});
        self.socket.send_json(&message).await;
        self.expect("chat_resumed").await
    }

    /// Hears an answer to its end; gives that.
    pub(crate) async fn hear_out(&mut self, session: &str, answer: u64) -> Value {
        loop {
            let frame = self.next().await;
            if self.heard.of(session, answer).end.is_some() {
                return frame;
            }
        }
    }

    /// Asserts that what was said before is being answered. The chat that was
    /// begun last is meant, since none is named.
    pub(crate) async fn is_busy(&mut self, session: &str) {
        let message = json!({"type": "chat_message", "message": "hello?"});
        let error = self.ask(message).await;
        assert_eq!(error["error"]["code"], "AGENT_BUSY", "{error}");
        assert_eq!(error["session_id"], session);
    }

    /// Hears the end of an answer whose chunks the client has.
    pub(crate) async fn expect_end(&mut self) -> Value {
        let frame = self.socket.next_json(DEADLINE).await;
        assert_eq!(frame["type"], "agent_response_complete", "{frame}");
        frame
    }

    /// Hears an answer up to a chunk.
    pub(crate) async fn hear_up_to(&mut self, session: &str, answer: u64, chunk: u64) {
        while self.heard.of(session, answer).last < chunk {
            self.next().await;
        }
    }

    /// Asserts that nothing waits to be heard.
    pub(crate) async fn hears_nothing(&mut self) {
        self.socket.send_json(&json!({"type": "ping"})).await;
        self.expect("pong").await;
    }
}
