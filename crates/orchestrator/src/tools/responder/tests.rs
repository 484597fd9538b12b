//! Calls on a real bus, answered by clients with a responder's rights.

use async_nats::{Client, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::json;
use signalbox_bus::BusOptions;
use signalbox_bus::assignment::Stop;
use signalbox_bus::server::User;
use signalbox_protocol::trace::TraceParent;
use signalbox_testkit::{DEADLINE, NatsServer};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;

const NAME: &str = "lookup_host";
/// What is sent to see whether somebody listens.
const READY: &str = "tools.ready";
/// How long that is waited for before it is sent again.
const RETRY: Duration = Duration::from_millis(20);

async fn bus(server: &NatsServer, user: User) -> Bus {
    let options = BusOptions {
        url: server.url(user),
        wait: DEADLINE,
    };
    Bus::connect(&options, "test").await.unwrap()
}

fn call(time: Duration) -> Call {
    let (note, _) = mpsc::channel(1);
    Call {
        user_id: "corp/ada".to_owned(),
        session_id: "chat-1".to_owned(),
        answer: 2,
        number: 3,
        name: NAME.to_owned(),
        arguments: json!({"host": "i-a"}),
        channels: Vec::new(),
        permissions: Vec::new(),
        deadline: Instant::now() + time,
        cancel: Stop::default(),
        note,
        trace: None,
    }
}

/// A bus with a tool, and somebody who listens for its calls.
struct Stage {
    server: NatsServer,
    tool: Responder,
    client: Client,
    calls: Subscriber,
}

/// A client that the server knows to listen.
async fn listening(server: &NatsServer) -> (Client, Subscriber) {
    let client = server.connect(User::Responder).await;
    let mut calls = client.subscribe("tools.*").await.unwrap();
    let admin = server.connect(User::Admin).await;
    let asked = timeout(DEADLINE, async {
        loop {
            admin.publish(READY, "".into()).await.unwrap();
            if timeout(RETRY, calls.next()).await.is_ok() {
                break;
            }
        }
    });
    asked.await.unwrap();
    (client, calls)
}

/// The next call.
async fn heard(calls: &mut Subscriber) -> Message {
    loop {
        let message = timeout(DEADLINE, calls.next()).await.unwrap().unwrap();
        if message.subject.as_str() != READY {
            return message;
        }
    }
}

impl Stage {
    async fn start() -> Self {
        let server = NatsServer::start().await;
        let (client, calls) = listening(&server).await;
        let tool = Responder::new(NAME, bus(&server, User::Orchestrator).await);
        Self {
            server,
            tool,
            client,
            calls,
        }
    }

    /// Runs a call that gets this reply; gives what was asked, too.
    async fn answered(&mut self, call: Call, reply: impl Into<Bytes>) -> (Outcome, Message) {
        let reply = reply.into();
        let answering = async {
            let message = heard(&mut self.calls).await;
            let to = message.reply.clone().unwrap();
            self.client.publish(to, reply).await.unwrap();
            message
        };
        tokio::join!(self.tool.run(call), answering)
    }

    /// Asserts that nobody has heard of another call.
    async fn heard_nothing_more(&mut self) {
        let marker = self.server.connect(User::Admin).await;
        marker.publish("tools.marker", "".into()).await.unwrap();
        let next = heard(&mut self.calls).await;
        assert_eq!(next.subject.as_str(), "tools.marker");
    }
}

fn since_1970_ms() -> u64 {
    millis(since_1970())
}

#[tokio::test]
async fn a_responder_is_told_what_is_asked_and_its_result_is_the_value() {
    let mut stage = Stage::start().await;
    let parent = TraceParent::new(7, 8, true).unwrap();
    let before = since_1970_ms();
    let asked = Call {
        trace: Some(parent.into()),
        ..call(DEADLINE)
    };
    let (outcome, message) = stage
        .answered(asked, r#"{"result": {"owner": "ops"}}"#)
        .await;
    assert_eq!(outcome, Outcome::Value(json!({"owner": "ops"})));
    assert_eq!(message.subject.as_str(), "tools.lookup_host");
    let headers = message.headers.unwrap();
    let traced = headers.get("traceparent").unwrap().as_str();
    assert_eq!(
        traced.split('-').nth(1),
        parent.to_string().split('-').nth(1)
    );
    let mut asked: Value = serde_json::from_slice(&message.payload).unwrap();
    let deadline = asked["deadline_ms"].take().as_u64().unwrap();
    let patience = asked["timeout_ms"].take().as_u64().unwrap();
    assert!(u128::from(patience) <= DEADLINE.as_millis() && patience > 0);
    assert!(deadline >= before + patience, "{deadline} {before}");
    let expected = json!({
        "call_id": "chat-1/2/3", "tool": NAME, "arguments": {"host": "i-a"},
        "user_id": "corp/ada", "session_id": "chat-1", "answer": 2, "tool_call": 3,
        "timeout_ms": null, "deadline_ms": null,
    });
    assert_eq!(asked, expected);
    let (outcome, _) = stage
        .answered(call(DEADLINE), r#"{"error": "no such host"}"#)
        .await;
    assert_eq!(outcome, Outcome::Error("no such host".to_owned()));
    stage.heard_nothing_more().await;
}

#[tokio::test]
async fn what_is_no_reply_is_said_to_be_none() {
    let mut stage = Stage::start().await;
    let huge = format!(r#"{{"result": "{}"}}"#, "x".repeat(3 * 1024 * 1024));
    for (reply, words) in [
        (String::new(), "is empty"),
        ("<html>".to_owned(), "is not JSON"),
        (huge, "of which at most"),
    ] {
        let (outcome, _) = stage.answered(call(DEADLINE), reply).await;
        let Outcome::Error(sentence) = outcome else {
            panic!("{outcome:?}");
        };
        assert!(sentence.contains(words), "{sentence}");
    }
    stage.heard_nothing_more().await;
}

#[tokio::test]
async fn nobody_who_listens_is_known_at_once() {
    let server = NatsServer::start().await;
    let tool = Responder::new(NAME, bus(&server, User::Orchestrator).await);
    let words = "no responder of this tool is connected now; nothing was done";
    let outcome = timeout(DEADLINE, tool.run(call(10 * DEADLINE))).await;
    assert_eq!(outcome.unwrap(), Outcome::Error(words.to_owned()));
    // Nor may everyone have a tool called.
    let tool = Responder::new(NAME, bus(&server, User::Observer).await);
    let words = "the bus does not let this tool be called; nothing was done";
    let outcome = timeout(DEADLINE, tool.run(call(10 * DEADLINE))).await;
    assert_eq!(outcome.unwrap(), Outcome::Error(words.to_owned()));
}

#[tokio::test]
async fn a_call_that_gets_nothing_times_out_and_is_not_sent_again() {
    let mut stage = Stage::start().await;
    let outcome = stage.tool.run(call(Duration::from_millis(200))).await;
    assert_eq!(outcome, Outcome::TimedOut);
    let asked = heard(&mut stage.calls).await;
    assert_eq!(asked.subject.as_str(), "tools.lookup_host");
    let cancelled = call(10 * DEADLINE);
    let cancel = cancelled.cancel.clone();
    let running = stage.tool.run(cancelled);
    let cancelling = async {
        heard(&mut stage.calls).await;
        cancel.trigger();
    };
    let (outcome, ()) = tokio::join!(running, cancelling);
    assert_eq!(outcome, Outcome::Cancelled);
    stage.heard_nothing_more().await;
}

#[tokio::test]
async fn without_a_bus_nothing_is_sent_now_or_later() {
    let mut stage = Stage::start().await;
    let mut link = stage.tool.bus.link();
    stage.server.kill9();
    let down = timeout(DEADLINE, link.wait_for(|link| !link.up)).await;
    down.unwrap().unwrap();
    let outcome = stage.tool.run(call(DEADLINE)).await;
    let words = "the bus is out of reach; nothing was done";
    assert_eq!(outcome, Outcome::Error(words.to_owned()));
    stage.server.restart().await;
    let up = timeout(DEADLINE, link.wait_for(|link| link.up)).await;
    up.unwrap().unwrap();
    (stage.client, stage.calls) = listening(&stage.server).await;
    let (outcome, _) = stage.answered(call(DEADLINE), r#"{"result": 1}"#).await;
    assert_eq!(outcome, Outcome::Value(json!(1)));
    stage.heard_nothing_more().await;
}

fn reply(payload: impl Into<Bytes>) -> Outcome {
    let payload = payload.into();
    read(&Message {
        subject: "_INBOX.x".into(),
        reply: None,
        length: payload.len(),
        payload,
        headers: None,
        status: None,
        description: None,
    })
}

#[test]
fn a_reply_is_a_result_or_an_error() {
    for (payload, value) in [
        (r#"{"result": null}"#, Value::Null),
        (r#"{"result": [1], "took": 3}"#, json!([1])),
        (r#"{"result": "x", "error": null}"#, "x".into()),
    ] {
        assert_eq!(reply(payload), Outcome::Value(value), "{payload}");
    }
    let said = reply(r#"{"error": "no such host"}"#);
    assert_eq!(said, Outcome::Error("no such host".to_owned()));
    let long = format!(r#"{{"error": "{}"}}"#, "ü".repeat(MAX_ERROR_BYTES));
    let Outcome::Error(sentence) = reply(long) else {
        panic!("an error is an error");
    };
    assert!(sentence.len() < MAX_ERROR_BYTES + 4 && sentence.ends_with("ü…"));
}

#[test]
fn what_is_neither_is_told_as_such_without_a_word_of_it() {
    let huge = format!(r#"{{"result": "{}"}}"#, "x".repeat(MAX_REPLY_BYTES));
    for (payload, words) in [
        ("", "is empty"),
        ("<html>secret", "is not JSON"),
        (r#"{"result": "secret"#, "is not JSON"),
        (r#"["secret"]"#, "is not {\"result\""),
        ("\"secret\"", "is not {\"result\""),
        (r#"{"value": "secret"}"#, "either result or error"),
        (r#"{"result": "secret", "error": "y"}"#, "either result"),
        (r#"{"error": {"code": "secret"}}"#, "no sentence"),
        (r#"{"error": " "}"#, "no sentence"),
        (&huge, "of which at most 524288 are read"),
    ] {
        let Outcome::Error(sentence) = reply(payload.to_owned()) else {
            panic!("{payload} was taken for an answer");
        };
        assert!(sentence.contains(words), "{sentence}");
        assert!(sentence.contains("may have done"), "{sentence}");
        assert!(!sentence.contains("secret"), "{sentence}");
    }
}
