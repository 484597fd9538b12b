//! Dialect `workspace` with the stock clients: W1-W6, W8-W11, and the rules
//! G1-G4, G6, G7 for it. Every event: `every_socket_event`; returning:
//! `socketio_recovery`.

use std::net::SocketAddr;

use serde_json::{Value, json};
use signalbox_testkit::{DEADLINE, Platform, Service, WsClient, eventually, request};

use crate::io::{Io, NS, producer, python, send, token};

async fn platform() -> Platform {
    Platform::start_with(1, &["--longest-refusal-delay", "0"]).await
}

fn hour(platform: &Platform, user: &str, projects: &[&str]) -> String {
    token(platform, "viewer", user, projects, 3_600)
}

/// W1, W3, W6: by `auth`, over each transport; the greeting field by field.
#[tokio::test]
async fn clients_are_greeted_over_each_transport() {
    let platform = platform().await;
    let address = platform.gateways[0].listener();
    let bus = producer(&platform).await;
    let token = hour(&platform, "ada", &[]);
    for transports in [
        json!(["polling", "websocket"]),
        json!(["polling"]),
        json!(["websocket"]),
    ] {
        let io = Io::new(address).await;
        io.join(&json!({"auth": {"token": token}, "transports": transports}));
        let id = io.event("connect").await["id"].clone();
        let greeting = io.message("connection_established").await[0].clone();
        let expected = json!({
            "type": "connection.established",
            "timestamp": greeting["timestamp"],
            "data": {
                "connection_id": id, "user_id": "ada", "protocol_version": "1.0",
                "seq": greeting["data"]["seq"],
            },
        });
        assert_eq!(greeting, expected);
        assert!(greeting["data"]["seq"].is_string());
        assert_eq!(io.ask("ping", &json!({})).await, json!({"status": "pong"}));
        // In its own room and in everyone's, and in no other.
        let about = |user: &str| json!({"project_id": "p-1", "updated_by": user});
        send(
            &bus,
            "project.updated",
            &format!("other-{transports}"),
            &about("eve"),
        )
        .await;
        send(
            &bus,
            "project.updated",
            &format!("own-{transports}"),
            &about("ada"),
        )
        .await;
        send(
            &bus,
            "agent.connected",
            &format!("all-{transports}"),
            &json!({"agent_id": "a"}),
        )
        .await;
        let arguments = io.message("project.updated").await;
        assert_eq!(arguments[0]["data"]["updated_by"], "ada");
        assert_eq!(arguments[1], arguments[0]["seq"], "the offset");
        io.message("agent.connected").await;
        assert_eq!(io.leftovers().await, Vec::<Value>::new());
    }
}

/// W1: `?token=` in the URL, which goes into the Engine.IO query; `auth` counts
/// more.
#[tokio::test]
async fn tokens_come_in_the_url_too() {
    let platform = platform().await;
    let address = platform.gateways[0].listener();
    let token = hour(&platform, "ada", &[]);
    let mut io = Io::new(address).await;
    io.join_by_url(&format!("token={token}"));
    let greeting = io.message("connection_established").await;
    assert_eq!(greeting[0]["data"]["user_id"], "ada");
    let mut io = Io::new(address).await;
    io.join_by_url(&format!("token={}", platform.api_key("viewer")));
    let error = io.message("connection_error").await;
    let message = error[0]["data"]["error_message"].as_str().unwrap();
    assert!(message.contains("URL"), "{error}");
}

/// W2: by default let in, told and sent out of the namespace, with commands
/// answered ahead of that; or not let in.
#[tokio::test]
async fn bad_tokens_are_refused_as_asked() {
    let platform = platform().await;
    let address = platform.gateways[0].listener();
    let expired = token(&platform, "viewer", "ada", &[], -60);
    let agent = token(&platform, "agent", "agent", &[], 60);
    for (given, code) in [
        (json!(null), "AUTH_MISSING"),
        (json!(""), "AUTH_MISSING"),
        (json!("nonsense"), "AUTH_FAILED"),
        (json!(7), "AUTH_FAILED"),
        (json!(expired), "AUTH_FAILED"),
        (json!(agent), "AUTH_FAILED"),
    ] {
        let io = Io::connect(address, json!({"token": given})).await;
        io.event("connect").await;
        let answer = io.ask("subscribe", &json!({"room": "global"})).await;
        assert_eq!(
            (&answer["status"], &answer["error_code"], &answer["room"]),
            (&json!("error"), &json!(code), &json!("global")),
            "{given}"
        );
        let error = io.message("connection_error").await[0].clone();
        let expected = json!({
            "type": "connection.error",
            "timestamp": error["timestamp"],
            "data": {
                "error_code": code,
                "error_message": error["data"]["error_message"],
                "connection_id": null,
            },
        });
        assert_eq!(error, expected);
        let left = io.event("disconnect").await;
        assert_eq!(left["reason"], "io server disconnect", "{left}");
        assert_eq!(left["active"], false, "it does not loop");

        let auth = json!({"token": given, "errors": "connect_error"});
        let io = Io::connect(address, auth).await;
        let refused = io.event("connect_error").await;
        assert_eq!(refused["data"]["data"]["error_code"], code, "{refused}");
        assert_eq!(refused["data"]["type"], "connection.error");
    }
    let setting = platform
        .start_gateway(&["--refuse-by", "connect-error"])
        .await;
    let io = Io::connect(setting.listener(), json!({"token": null})).await;
    io.event("connect_error").await;
}

/// W4, W5: rooms, and who may be where.
#[tokio::test]
async fn rooms_are_joined_and_left_by_those_who_may() {
    let platform = platform().await;
    let address = platform.gateways[0].listener();
    let bus = producer(&platform).await;
    let io = Io::connect(address, json!({"token": hour(&platform, "ada", &["p-1"])})).await;
    io.message("connection_established").await;
    let join = async |room: &str| io.ask("subscribe", &json!({"room": room})).await;
    let joined = join("project:p-1").await;
    let expected = json!({"status": "success", "room": "project:p-1", "seq": joined["seq"]});
    assert_eq!(joined, expected);
    for room in ["project:p-1", "user:ada", "global", "agent:a-1"] {
        assert_eq!(join(room).await["status"], "success", "{room}");
    }
    for (room, code) in [
        ("project:p-2", "ROOM_ACCESS_DENIED"),
        ("user:eve", "ROOM_ACCESS_DENIED"),
        ("team:x", "INVALID_ROOM"),
        ("project:", "INVALID_ROOM"),
        ("", "INVALID_ROOM"),
    ] {
        let answer = join(room).await;
        assert_eq!(answer["error_code"], code, "{room}: {answer}");
        assert_eq!(answer["status"], "error");
        assert!(answer["error_message"].is_string());
    }
    // Without an acknowledgement errors come as events, and nobody leaves.
    io.emit("subscribe", &json!({"room": "project:p-2"}));
    let error = io.message("connection_error").await;
    assert_eq!(error[0]["data"]["error_code"], "ROOM_ACCESS_DENIED");
    assert_eq!(error[0]["data"]["room"], "project:p-2");
    // An event for two rooms of one client comes once.
    let both = json!({"project_id": "p-1", "updated_by": "ada"});
    send(&bus, "project.updated", "both", &both).await;
    io.message("project.updated").await;
    for room in ["project:p-1", "user:ada", "global", "agent:never-joined"] {
        let left = io.ask("unsubscribe", &json!({"room": room})).await;
        assert_eq!(left, json!({"status": "success", "room": room}));
    }
    send(&bus, "project.updated", "after", &both).await;
    send(&bus, "agent.connected", "a-1", &json!({"agent_id": "a-1"})).await;
    io.message("agent.connected").await;
    assert_eq!(io.leftovers().await, Vec::<Value>::new());
}

/// G2: what has no token yet is told so; P1 in W: `authenticate` answers and
/// adds the other dialect's events.
#[tokio::test]
async fn the_dialects_share_the_namespace() {
    let platform = platform().await;
    let address = platform.gateways[0].listener();
    let bus = producer(&platform).await;
    let stranger = Io::connect(address, json!({})).await;
    stranger.event("connect").await;
    for (name, argument) in [
        ("subscribe", json!({"room": "global"})),
        ("unsubscribe", json!({"room": "global"})),
        ("ping", json!({})),
    ] {
        let answer = stranger.ask(name, &argument).await;
        assert_eq!(answer["error_code"], "AUTH_MISSING", "{name}: {answer}");
    }
    let token = hour(&platform, "ada", &[]);
    let io = Io::connect(address, json!({"token": token})).await;
    io.message("connection_established").await;
    let witness = Io::connect(address, json!({})).await;
    witness.event("connect").await;
    witness.emit("authenticate", &json!({"token": token}));
    witness.message("authenticated").await;
    send(
        &bus,
        "pipeline.system_alert",
        "before",
        &json!({"alertId": "1", "alert": {}}),
    )
    .await;
    witness.message("system_alert").await;
    io.emit("authenticate", &json!({"token": token}));
    let authenticated = io.message("authenticated").await[0].clone();
    assert_eq!(authenticated["user"]["id"], "ada");
    send(
        &bus,
        "pipeline.system_alert",
        "after",
        &json!({"alertId": "2", "alert": {}}),
    )
    .await;
    send(&bus, "agent.connected", "a", &json!({"agent_id": "a"})).await;
    assert_eq!(io.message("system_alert").await[0]["id"], "after");
    io.message("agent.connected").await;
    // The dialect can be named.
    let io = Io::connect(address, json!({"token": token, "dialect": "pipeline"})).await;
    io.event("connect").await;
    let answer = io.ask("ping", &json!({})).await;
    assert_eq!(answer["error_code"], "AUTH_MISSING");
    let io = Io::connect(address, json!({"dialect": "workspace"})).await;
    io.message("connection_error").await;
}

/// G3: bad input is answered; ten in a row end it, without a loop.
#[tokio::test]
async fn garbage_is_answered_and_ends_it_in_the_end() {
    let platform = platform().await;
    let address = platform.gateways[0].listener();
    let io = Io::connect(address, json!({"token": hour(&platform, "ada", &[])})).await;
    io.message("connection_established").await;
    let bad = [
        ("subscribe", json!({})),
        ("subscribe", json!(null)),
        ("subscribe", json!("global")),
        ("subscribe", json!({"room": 7})),
        ("subscribe", json!({"room": "global", "since": "x"})),
        ("unsubscribe", json!([])),
        ("nonsense", json!({})),
        ("subscribe", json!({"bytes": [1, 2, 3]})),
        ("publish", json!({"room": "global"})),
    ];
    for round in 0..2 {
        for (name, argument) in &bad {
            let answer = io.ask(name, argument).await;
            assert_eq!(answer["status"], "error", "{name} {argument}: {answer}");
            assert!(answer["error_code"].is_string());
        }
        // Nine in a row do no harm.
        assert_eq!(
            io.ask("ping", &json!({})).await["status"],
            "pong",
            "{round}"
        );
    }
    for _ in 0..10 {
        io.emit("nonsense", &json!(1));
    }
    let left = io.event("disconnect").await;
    assert_eq!(left["reason"], "io server disconnect");
}

/// G3: what is too large closes the transport, from which clients return, and
/// the second time sends them away.
#[tokio::test]
async fn what_is_too_large_does_not_loop() {
    let platform = platform().await;
    let address = platform.gateways[0].listener();
    let io = Io::connect(address, json!({"token": hour(&platform, "ada", &[])})).await;
    io.message("connection_established").await;
    let large = json!({"room": "x".repeat(1_100_000)});
    io.emit("subscribe", &large);
    assert_eq!(io.event("disconnect").await["active"], true);
    io.message("connection_established").await;
    io.emit("subscribe", &large);
    assert_eq!(io.event("disconnect").await["active"], true);
    let error = io.message("connection_error").await;
    assert_eq!(error[0]["data"]["error_code"], "TOO_LARGE");
    let left = io.event("disconnect").await;
    assert_eq!(
        (&left["active"], &left["reason"]),
        (&json!(false), &json!("io server disconnect"))
    );
}

/// W2, W4, W6 with the Python library, whose handlers take what they name.
#[tokio::test]
async fn python_clients_take_part() {
    let platform = platform().await;
    let address = platform.gateways[0].listener();
    let bus = producer(&platform).await;
    let token = hour(&platform, "ada", &["p-1"]);
    for transports in [json!(["polling", "websocket"]), json!(["websocket"])] {
        let client = python(address).await;
        let tell = |command: Value| client.process().write_line(&command.to_string());
        let options = json!({"auth": {"token": token}, "transports": transports});
        tell(json!({"join": [NS], "options": options}));
        let mut greeted = false;
        for _ in 0..2 {
            let value = client.next(DEADLINE).await;
            greeted |= value["name"] == "connection_established";
        }
        assert!(greeted);
        tell(json!({"ns": NS, "emit": ["subscribe", {"room": "project:p-1"}], "ack": 20}));
        let answer = client.expect_event("ack").await["answer"].clone();
        assert_eq!(answer["status"], "success", "{answer}");
        let id = format!("py-{transports}");
        send(
            &bus,
            "pr.updated",
            &id,
            &json!({"pr_id": "1", "project_id": "p-1", "title": "t", "status": "s"}),
        )
        .await;
        let event = client.expect_event("message").await;
        assert_eq!(event["name"], "pr.updated");
        assert_eq!(event["args"].as_array().unwrap().len(), 1, "no offset");
    }
    let client = python(address).await;
    let join = json!({"join": [NS], "options": {"auth": {"token": "bad"}}});
    client.process().write_line(&join.to_string());
    let mut told = Vec::new();
    for _ in 0..3 {
        let value = client.next(DEADLINE).await;
        let what = value["name"].as_str().or(value["event"].as_str());
        told.push(what.unwrap().to_owned());
    }
    assert_eq!(told, ["connect", "connection_error", "disconnect"]);
}

/// G6: a token that ends is announced, and ends the connection unless a fresh
/// one of the same user comes.
#[tokio::test]
async fn tokens_that_end_are_announced() {
    let platform = platform().await;
    let address = platform.gateways[0].listener();
    let io = Io::connect(
        address,
        json!({"token": token(&platform, "viewer", "ada", &[], 4)}),
    )
    .await;
    let notice = io.message("connection_error").await;
    assert_eq!(notice[0]["data"]["error_code"], "TOKEN_EXPIRING");
    assert!(notice[0]["data"]["expires_at"].is_string(), "{notice}");
    io.emit(
        "authenticate",
        &json!({"token": hour(&platform, "eve", &[])}),
    );
    assert_eq!(io.message("auth_error").await[0]["code"], "AUTH_FAILED");
    io.emit(
        "authenticate",
        &json!({"token": token(&platform, "viewer", "ada", &[], 6)}),
    );
    io.message("authenticated").await;
    let notice = io.message("connection_error").await;
    assert_eq!(notice[0]["data"]["error_code"], "TOKEN_EXPIRING");
    let end = io.message("connection_error").await;
    assert_eq!(end[0]["data"]["error_code"], "TOKEN_EXPIRED");
    let left = io.event("disconnect").await;
    assert_eq!(left["reason"], "io server disconnect");
}

/// G1, G7, W11: who knocks at the wrong place is told the right one, and pages
/// of foreign origins are refused.
#[tokio::test]
async fn the_way_in_is_told() {
    let platform = Platform::start_with(1, &["--cors-origins", "http://app.example.com"]).await;
    let address = platform.gateways[0].listener();
    // Where dialect `fleet` is served as well, `/ws` is its place.
    let alone = platform
        .start_gateway(&["--listen", "127.0.0.1:0=pipeline,workspace"])
        .await;
    let alone_at = second_listener(&alone);
    for (address, path, status) in [
        (address, "/ws", 426),
        (alone_at, "/ws", 404),
        (address, "/socket.io", 404),
        (address, "/socket.io/x", 404),
    ] {
        let answer = request(address, "GET", path, &[], "").await;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        assert!(answer.body.contains("/socket.io/"), "{answer:?}");
        assert!(answer.body.contains("namespace /ws"), "{answer:?}");
    }
    let refused = WsClient::try_connect(&format!("ws://{alone_at}/ws"), &[]).await;
    assert_eq!(refused.unwrap_err().status, 404);
    let io = Io::new(address).await.in_namespace("/");
    io.join(&json!({"transports": ["websocket"]}));
    let refused = io.event("connect_error").await;
    assert!(
        refused["message"].as_str().unwrap().contains("/ws"),
        "{refused}"
    );
    let open = "/socket.io/?EIO=4&transport=polling";
    let foreign = [("Origin", "http://evil.example.com")];
    assert_eq!(
        request(address, "GET", open, &foreign, "").await.status,
        403
    );
    let listed = [("Origin", "http://app.example.com")];
    let answer = request(address, "GET", open, &listed, "").await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.header("access-control-allow-origin"),
        Some("http://app.example.com")
    );
    let only_threat = ["--listen", "127.0.0.1:0=threat"];
    let elsewhere = platform.start_gateway(&only_threat).await;
    let port = second_listener(&elsewhere);
    assert_eq!(request(port, "GET", open, &[], "").await.status, 404);
}

/// The address of a listener that a gateway has beside its usual one.
fn second_listener(gateway: &Service) -> SocketAddr {
    let lines = gateway.process.stderr().lines();
    let mut listening = lines.iter().filter(|line| line.contains("listening"));
    let second = listening.nth(1).and_then(|line| line.split_once("addr="));
    let address = second.and_then(|(_, rest)| rest.split_whitespace().next());
    address.unwrap().parse().unwrap()
}

/// W9: who is where, over all gateways, for administrators.
#[tokio::test]
async fn statistics_are_told_to_administrators() {
    let platform = Platform::start(2).await;
    let path = "/api/v1/websocket/stats";
    let mut clients = Vec::new();
    for (user, gateway) in [("ada", 0), ("eve", 0), ("ada", 1)] {
        let address = platform.gateways[gateway].listener();
        let io = Io::connect(address, json!({"token": hour(&platform, user, &["p-1"])})).await;
        io.message("connection_established").await;
        clients.push(io);
    }
    let joined = clients[2]
        .ask("subscribe", &json!({"room": "project:p-1"}))
        .await;
    assert_eq!(joined["status"], "success");
    let address = platform.gateways[0].listener();
    let ask = async |role: &str, path: &str| {
        let bearer = format!("Bearer {}", platform.token(role).await);
        let headers = [("Authorization", bearer.as_str())];
        request(address, "GET", path, &headers, "").await
    };
    let expected = json!({
        "connections": 3, "gateways": 2,
        "rooms": {"global": 3, "user:ada": 2, "user:eve": 1, "project:p-1": 1},
    });
    assert_eq!(ask("admin", path).await.json(), expected);
    let here = json!({
        "connections": 2, "gateways": 1,
        "rooms": {"global": 2, "user:ada": 1, "user:eve": 1},
    });
    assert_eq!(
        ask("admin", &format!("{path}?scope=local")).await.json(),
        here
    );
    assert_eq!(ask("admin", &format!("{path}?scope=x")).await.status, 400);
    assert_eq!(ask("operator", path).await.status, 403);
    assert_eq!(request(address, "GET", path, &[], "").await.status, 401);
    clients[2]
        .ask("unsubscribe", &json!({"room": "global"}))
        .await;
    clients.truncate(1);
    let left = json!({"connections": 1, "gateways": 2, "rooms": {"global": 1, "user:ada": 1}});
    eventually("they have left", DEADLINE, async || {
        (ask("admin", path).await.json() == left).then_some(())
    })
    .await;
}

/// W10: large payloads arrive, are counted and told of once per producer.
#[tokio::test]
async fn large_payloads_arrive_and_are_told_of() {
    let platform = platform().await;
    let bus = producer(&platform).await;
    let address = platform.gateways[0].listener();
    let io = Io::connect(address, json!({"token": hour(&platform, "ada", &["p-1"])})).await;
    io.message("connection_established").await;
    io.ask("subscribe", &json!({"room": "project:p-1"})).await;
    for (id, bytes) in [("small", 1_000), ("large", 200_000), ("larger", 900_000)] {
        let data = json!({"project_id": "p-1", "notes": "x".repeat(bytes)});
        send(&bus, "project.updated", id, &data).await;
        let event = io.message("project.updated").await;
        assert_eq!(event[0]["data"], data, "{id}");
    }
    let admin = platform.gateways[0].admin;
    let metrics = request(admin, "GET", "/metrics", &[], "").await.body;
    let counted =
        |line: &str| line.starts_with("signalbox_gateway_events_large") && line.ends_with(" 2");
    assert!(metrics.lines().any(counted), "{metrics}");
    let lines = platform.gateways[0].process.stderr().lines();
    let told = lines.iter().filter(|line| line.contains("large payloads"));
    assert_eq!(told.count(), 1);
}
