//! What a client that asks makes of what a gateway says: goodbyes, notices and
//! refusals that may pass.

use clap::Parser;
use futures_util::{SinkExt as _, StreamExt as _};
use signalbox_identity::Role;
use signalbox_protocol::Dialect;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::{WebSocketStream, accept_async};

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    ask: AskArgs,
}

/// A connection as the gateway has it.
struct Served(WebSocketStream<TcpStream>);

impl Served {
    /// Admits who connects.
    async fn accept(listener: &TcpListener) -> Self {
        let (stream, _) = listener.accept().await.unwrap();
        let mut served = Self(accept_async(stream).await.unwrap());
        served.say(json!({"type": "auth_success"})).await;
        served
    }

    async fn say(&mut self, message: Value) {
        self.0.send(Frame::text(message.to_string())).await.unwrap();
    }

    /// The next message, which must be of this type.
    async fn expect(&mut self, kind: &str) -> Value {
        loop {
            let Frame::Text(text) = self.0.next().await.unwrap().unwrap() else {
                continue;
            };
            let message: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(message["type"], kind, "{message}");
            return message;
        }
    }

    /// Begins the chat; gives the question.
    async fn begin(&mut self) -> Value {
        self.expect("start_chat").await;
        let info = json!({"name": "Tester", "model": "none"});
        self.say(json!({"type": "chat_session_started", "session_id": "c", "agent_info": info}))
            .await;
        self.expect("chat_message").await
    }

    /// Says goodbye.
    async fn leave(mut self) {
        self.say(
            json!({"type": "error", "code": "CONNECTION_FAILED", "message": "going away",
            "retry_after": 1}),
        )
        .await;
        self.0.close(None).await.unwrap();
    }

    async fn complete(&mut self) {
        self.say(json!({"type": "agent_response_complete", "session_id": "c", "answer": 1}))
            .await;
    }
}

/// Somebody who asks a gateway.
async fn ask(more: &[&str]) -> (TcpListener, JoinHandle<anyhow::Result<Ending>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let fixed = ["ask", "--url", &url, "--token", "t", "What?"];
    let args = Line::parse_from(fixed.iter().chain(more)).ask;
    let target = Target::new(&args.connect, Dialect::Threat, Role::Analyst).unwrap();
    let talk = Talk::new(target, &args, None);
    (listener, tokio::spawn(talk.run()))
}

fn message(value: &Value) -> Message {
    Message::read(&value.to_string()).unwrap().remove(0)
}

#[test]
fn a_refusal_says_who_was_first() {
    let refused = message(
        &json!({"type": "error", "message": "the action was decided before",
            "decided_by": "ada", "decision": "reject"}),
    );
    assert_eq!(
        complaint(&refused),
        "the action was decided before: reject by ada"
    );
    let refused = message(&json!({"type": "error", "message": "no"}));
    assert_eq!(complaint(&refused), "the gateway refuses: no");
}

fn limit() -> Value {
    json!({"type": "rate_limit_exceeded", "limit_type": "messages_per_minute",
        "current_usage": "61/60", "reset_time": "2026-11-21T23:11:00.000Z"})
}

#[tokio::test]
async fn a_question_too_many_is_refused_in_words() {
    let (listener, asked) = ask(&[]).await;
    let mut gateway = Served::accept(&listener).await;
    gateway.begin().await;
    gateway.say(limit()).await;
    let error = asked.await.unwrap().unwrap_err();
    let expected = "the gateway refuses: messages_per_minute 61/60, until 2026-11-21T23:11:00.000Z";
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn a_return_too_many_is_made_again() {
    let (listener, asked) = ask(&[]).await;
    let mut gateway = Served::accept(&listener).await;
    gateway.begin().await;
    gateway.leave().await;
    let mut gateway = Served::accept(&listener).await;
    gateway.expect("chat_message").await;
    gateway.say(limit()).await;
    let mut gateway = Served::accept(&listener).await;
    gateway.expect("chat_message").await;
    gateway.complete().await;
    assert_eq!(asked.await.unwrap().unwrap(), Ending::Answered);
}

#[tokio::test]
async fn a_notice_ends_nothing() {
    let (listener, asked) = ask(&[]).await;
    let mut gateway = Served::accept(&listener).await;
    gateway.begin().await;
    gateway
        .say(json!({"type": "error", "code": "TOKEN_EXPIRING", "message": "soon"}))
        .await;
    gateway.complete().await;
    assert_eq!(asked.await.unwrap().unwrap(), Ending::Answered);
}

#[tokio::test]
async fn what_is_refused_for_now_is_asked_again() {
    let (listener, asked) = ask(&[]).await;
    let refusal = json!({"type": "agent_error", "session_id": "c", "error": {
        "code": "AGENT_UNAVAILABLE", "message": "out of reach", "retry_available": true,
    }});
    let mut gateway = Served::accept(&listener).await;
    let question = gateway.begin().await;
    gateway.leave().await;
    let mut gateway = Served::accept(&listener).await;
    assert_eq!(gateway.expect("chat_message").await, question);
    gateway.say(refusal.clone()).await;
    let mut gateway = Served::accept(&listener).await;
    assert_eq!(gateway.expect("chat_message").await, question);
    gateway
        .say(
            json!({"type": "agent_response_chunk", "session_id": "c", "answer": 1,
            "chunk_id": 1, "content": "Half"}),
        )
        .await;
    gateway.leave().await;
    let mut gateway = Served::accept(&listener).await;
    let resumed = gateway.expect("resume_chat").await;
    assert_eq!(
        (&resumed["answer"], &resumed["after_chunk"]),
        (&json!(1), &json!(1))
    );
    gateway.say(refusal).await;
    let mut gateway = Served::accept(&listener).await;
    gateway.expect("resume_chat").await;
    gateway.complete().await;
    assert_eq!(asked.await.unwrap().unwrap(), Ending::Answered);
}

#[tokio::test]
async fn a_first_question_that_is_refused_is_not_asked_again() {
    let (listener, asked) = ask(&[]).await;
    let mut gateway = Served::accept(&listener).await;
    gateway.begin().await;
    gateway
        .say(json!({"type": "agent_error", "session_id": "c", "error": {
            "code": "AGENT_UNAVAILABLE", "message": "no room", "retry_available": true,
        }}))
        .await;
    let error = asked.await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "the agent failed: no room");
}

#[tokio::test]
async fn a_gateway_that_sends_away_at_once_is_not_asked_for_ever() {
    let (listener, asked) = ask(&["--patience", "1"]).await;
    let mut gateway = Served::accept(&listener).await;
    gateway.begin().await;
    gateway.leave().await;
    let sending_away = tokio::spawn(async move {
        loop {
            Served::accept(&listener).await.leave().await;
        }
    });
    let error = asked.await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "not back within 1 s: going away");
    sending_away.abort();
}
