//! The stock Socket.IO clients against the crate `socketio`: both transports, upgrades,
//! acknowledgements, binary, several namespaces, refusals, reconnection and recovery.

#[path = "../../../socketio/tests/common/mod.rs"]
mod desk;

use desk::{TestServer, missed, until};
use serde_json::{Value, json};
use signalbox_socketio::Packet;
use signalbox_testkit::{DEADLINE, NodeClient, PythonClient};

async fn node(server: &TestServer) -> NodeClient {
    let url = format!("http://{}", server.address);
    let client = NodeClient::start("socketio.mjs", &json!({"url": url}));
    client.expect_event("ready").await;
    client
}

async fn python(server: &TestServer) -> PythonClient {
    let url = format!("http://{}", server.address);
    let client = PythonClient::start("socketio_client.py", &json!({"url": url}));
    client.expect_event("ready").await;
    client
}

fn tell(client: &NodeClient, command: Value) {
    client.process().write_line(&command.to_string());
}

fn tell_python(client: &PythonClient, command: Value) {
    client.process().write_line(&command.to_string());
}

/// The next value, which must be a message of that name.
async fn message(client: &NodeClient, name: &str) -> Value {
    let mut message = client.expect_event("message").await;
    assert_eq!(message["name"], name, "{message}");
    message["args"].take()
}

async fn python_message(client: &PythonClient, name: &str) -> Value {
    let mut message = client.expect_event("message").await;
    assert_eq!(message["name"], name, "{message}");
    message["args"].take()
}

#[tokio::test(flavor = "local")]
async fn javascript_clients_talk_over_each_transport() {
    let server = TestServer::start().await;
    for (transports, last) in [
        (json!(["polling", "websocket"]), "websocket"),
        (json!(["polling"]), "polling"),
        (json!(["websocket"]), "websocket"),
    ] {
        let client = node(&server).await;
        tell(
            &client,
            json!({"join": "/", "options": {"transports": transports}}),
        );
        let connected = client.expect_event("connect").await;
        assert_eq!(connected["recovered"], false);
        // The upgrade may be over by then.
        if connected["transport"] != last {
            assert_eq!(client.expect_event("upgrade").await["transport"], last);
        }
        let payload = json!(["echo", 1, "grün", {"a": [null, true]}, {"bytes": [0, 30, 255]}]);
        tell(&client, json!({"ns": "/", "emit": payload}));
        assert_eq!(
            message(&client, "back").await,
            json!([1, "grün", {"a": [null, true]}, {"bytes": [0, 30, 255]}])
        );
        tell(
            &client,
            json!({"ns": "/", "emit": ["echo", {"bytes": [7]}], "ack": 20_000}),
        );
        assert_eq!(
            client.expect_event("ack").await["answer"],
            json!({"bytes": [7]})
        );
        tell(&client, json!({"ns": "/", "emit": ["silence"], "ack": 50}));
        assert_eq!(
            client.expect_event("ack").await["error"],
            "operation has timed out"
        );
        tell(&client, json!({"ns": "/", "emit": ["ask"]}));
        assert_eq!(message(&client, "question").await, json!([1]));
        assert_eq!(message(&client, "answered").await, json!([["answer", 1]]));
        // 50 KB in one frame, over either transport.
        let long = "x".repeat(50_000);
        tell(&client, json!({"ns": "/", "emit": ["echo", long]}));
        assert_eq!(message(&client, "back").await, json!([long]));
    }
}

#[tokio::test(flavor = "local")]
async fn javascript_clients_share_a_connection_between_namespaces() {
    let server = TestServer::start().await;
    let client = node(&server).await;
    for ns in ["/", "/ws"] {
        tell(
            &client,
            json!({"join": ns, "options": {"transports": ["websocket"]}}),
        );
        assert_eq!(client.expect_event("connect").await["ns"], ns);
    }
    message(&client, "hello").await;
    assert_eq!(server.engine.session_count(), 1);
    tell(&client, json!({"join": "/private"}));
    let refused = client.expect_event("connect_error").await;
    assert_eq!(
        (&refused["message"], &refused["data"]),
        (&json!("not for you"), &json!({"code": 7}))
    );
    tell(&client, json!({"join": "/nowhere"}));
    assert_eq!(
        client.expect_event("connect_error").await["message"],
        "Invalid namespace"
    );
    tell(&client, json!({"ns": "/ws", "emit": ["kick"]}));
    let kicked = client.expect_event("disconnect").await;
    assert_eq!(
        (&kicked["reason"], &kicked["active"]),
        (&json!("io server disconnect"), &json!(false))
    );
    tell(&client, json!({"ns": "/", "emit": ["echo", 1]}));
    assert_eq!(
        message(&client, "back").await,
        json!([1]),
        "the other goes on"
    );
}

#[tokio::test(flavor = "local")]
async fn javascript_clients_return_after_a_cut_and_after_a_close() {
    let server = TestServer::start().await;
    for transports in [
        json!(["polling"]),
        json!(["websocket"]),
        json!(["polling", "websocket"]),
    ] {
        let client = node(&server).await;
        let options = json!({"transports": transports, "upgrade": false});
        tell(&client, json!({"join": "/", "options": options}));
        let first = client.expect_event("connect").await["id"].clone();
        tell(&client, json!({"ns": "/", "emit": ["drop"]}));
        let closed = client.expect_event("disconnect").await;
        assert_eq!(
            (&closed["reason"], &closed["active"]),
            (&json!("transport close"), &json!(true))
        );
        let second = client.expect_event("connect").await["id"].clone();
        assert_ne!(first, second);
    }
}

#[tokio::test(flavor = "local")]
async fn javascript_clients_recover_their_session() {
    let server = TestServer::start().await;
    let client = node(&server).await;
    tell(
        &client,
        json!({"join": "/recover", "options": {"transports": ["websocket"]}}),
    );
    let id = client.expect_event("connect").await["id"].clone();
    let news = |at: usize, text: &str| {
        server.desk.history.borrow_mut().push(text.to_owned());
        missed(at, text)
    };
    server.desk.broadcast("/recover", &news(0, "a"));
    assert_eq!(message(&client, "news").await, json!(["a", "0"]));
    // Ends in a string that is no offset: without a guard the client would ask for it.
    let plain = Packet::event("/recover", "plain")
        .value(&json!("text"))
        .build();
    server.desk.broadcast("/recover", &plain);
    assert_eq!(message(&client, "plain").await, json!(["text", null]));
    for socket in server.desk.members.borrow().iter() {
        socket.close();
    }
    until("it left", || server.desk.members.borrow().is_empty()).await;
    drop(news(1, "b"));
    assert_eq!(
        client.expect_event("disconnect").await["reason"],
        "transport close"
    );
    assert_eq!(
        message(&client, "news").await,
        json!(["b", "1"]),
        "ahead of the answer"
    );
    let again = client.expect_event("connect").await;
    assert_eq!((&again["recovered"], &again["id"]), (&json!(true), &id));
}

/// Events flow while the transport changes: none is lost, doubled or out of order.
#[tokio::test(flavor = "local")]
async fn upgrades_under_load_lose_nothing() {
    const EVENTS: usize = 2_000;
    let server = TestServer::start().await;
    let client = node(&server).await;
    tell(&client, json!({"join": "/"}));
    let mut upgraded = false;
    let mut expected = 0;
    let mut sent = 0;
    let event = |number: usize| Packet::event("/", "n").value(&number.into()).build();
    while expected < EVENTS {
        if sent < EVENTS && !server.desk.members.borrow().is_empty() {
            // A hundred ahead at most, so that it lasts as long as the upgrade.
            while sent < EVENTS && sent < expected + 100 {
                server.desk.broadcast("/", &event(sent));
                sent += 1;
            }
        }
        let value = client.next(DEADLINE).await;
        match value["event"].as_str() {
            Some("message") => {
                assert_eq!(value["args"], json!([expected]));
                expected += 1;
            }
            Some("upgrade") => upgraded = true,
            Some("connect") => upgraded = value["transport"] == "websocket",
            _ => panic!("{value}"),
        }
    }
    if !upgraded {
        client.expect_event("upgrade").await;
    }
}

#[tokio::test(flavor = "local")]
async fn python_clients_talk_over_each_transport() {
    let server = TestServer::start().await;
    for transports in [
        json!(["polling", "websocket"]),
        json!(["polling"]),
        json!(["websocket"]),
    ] {
        let client = python(&server).await;
        tell_python(
            &client,
            json!({"join": ["/"], "options": {"transports": transports}}),
        );
        client.expect_event("connect").await;
        tell_python(
            &client,
            json!({"ns": "/", "emit": ["echo", {"a": [1, "grün"]}]}),
        );
        assert_eq!(
            python_message(&client, "back").await,
            json!([{"a": [1, "grün"]}])
        );
        tell_python(
            &client,
            json!({"ns": "/", "emit": ["echo", {"bytes": [0, 30, 255]}]}),
        );
        assert_eq!(
            python_message(&client, "back").await,
            json!([{"bytes": [0, 30, 255]}])
        );
        tell_python(
            &client,
            json!({"ns": "/", "emit": ["echo", "x"], "ack": 20}),
        );
        assert_eq!(client.expect_event("ack").await["answer"], "x");
        tell_python(
            &client,
            json!({"ns": "/", "emit": ["silence", 1], "ack": 0.05}),
        );
        assert_eq!(client.expect_event("ack").await["error"], "timeout");
        tell_python(&client, json!({"ns": "/", "emit": ["ask", 1]}));
        assert_eq!(python_message(&client, "question").await, json!([1]));
        assert_eq!(
            python_message(&client, "answered").await,
            json!([["answer", 1]])
        );
    }
}

#[tokio::test(flavor = "local")]
async fn python_clients_are_refused_sent_away_and_return() {
    let server = TestServer::start().await;
    let client = python(&server).await;
    tell_python(&client, json!({"join": ["/private"]}));
    let refused = client.expect_event("connect_error").await;
    assert_eq!(refused["data"]["message"], "not for you", "{refused}");
    assert_eq!(refused["data"]["data"], json!({"code": 7}));
    client.expect_event("failed").await;

    let client = python(&server).await;
    tell_python(&client, json!({"join": ["/", "/ws"]}));
    let mut greeted = false;
    let mut connected = 0;
    while connected < 2 || !greeted {
        match client.next(DEADLINE).await {
            value if value["event"] == "connect" => connected += 1,
            value => greeted = value["name"] == "hello",
        }
    }
    tell_python(&client, json!({"ns": "/ws", "emit": ["kick", 1]}));
    let kicked = client.expect_event("disconnect").await;
    assert_eq!(
        (&kicked["ns"], &kicked["reason"]),
        (&json!("/ws"), &json!("server disconnect"))
    );
    tell_python(&client, json!({"ns": "/", "emit": ["drop", 1]}));
    assert_eq!(client.expect_event("disconnect").await["ns"], "/");
    client.expect_event("connect").await;
}
