//! Connection state recovery with the stock clients (G8, G10, P and W): what a
//! client that returns gets, on any gateway and after a kill, what it may have
//! of a session, and what becomes of secrets that are not its own.

use serde_json::{Value, json};
use signalbox_bus::Bus;
use signalbox_testkit::{DEADLINE, Direction, Flow, Platform, Proxy, eventually};

use crate::io::{Io, producer, send, token};

async fn platform(gateways: usize) -> Platform {
    Platform::start_with(gateways, &["--longest-refusal-delay", "0"]).await
}

async fn touch(bus: &Bus, project: &str, id: &str) {
    let data = json!({"project_id": project, "updated_by": "nobody"});
    send(bus, "project.updated", id, &data).await;
}

async fn alert(bus: &Bus, id: &str) {
    let data = json!({"alertId": id, "alert": {}});
    send(bus, "pipeline.system_alert", id, &data).await;
}

/// Expects events of this name with these ids and no other.
async fn expect(io: &Io, name: &str, ids: &[String]) {
    for id in ids {
        let arguments = io.message(name).await;
        assert_eq!(arguments[0]["id"], json!(id), "{arguments}");
        assert_eq!(arguments[1], arguments[0]["seq"], "the offset");
    }
}

fn ids(prefix: &str, count: usize) -> Vec<String> {
    (0..count)
        .map(|number| format!("{prefix}-{number}"))
        .collect()
}

/// A member of project `p-1` in its room; gives its socket id, too.
async fn member(platform: &Platform, auth: Value) -> (Io, Value) {
    let io = Io::connect(platform.gateways[0].listener(), auth).await;
    let id = io.event("connect").await["id"].clone();
    io.message("connection_established").await;
    let joined = io.ask("subscribe", &json!({"room": "project:p-1"})).await;
    assert_eq!(joined["status"], "success", "{joined}");
    (io, id)
}

fn ada(platform: &Platform) -> String {
    token(platform, "viewer", "ada", &["p-1"], 3_600)
}

/// After kill -9 of its gateway, on another one: everything once, in order,
/// ahead of the answer; then live.
#[tokio::test]
async fn a_killed_gateway_costs_nothing() {
    let platform = platform(2).await;
    let bus = producer(&platform).await;
    let (io, id) = member(&platform, json!({"token": ada(&platform)})).await;
    let ops = Io::connect(platform.gateways[0].listener(), json!({})).await;
    let ops_id = ops.event("connect").await["id"].clone();
    let credential = token(&platform, "operator", "ops", &[], 3_600);
    ops.emit("authenticate", &json!({"token": credential}));
    ops.message("authenticated").await;
    touch(&bus, "p-1", "before").await;
    alert(&bus, "before").await;
    expect(&io, "project.updated", &["before".into()]).await;
    expect(&ops, "system_alert", &["before".into()]).await;
    for client in [&io, &ops] {
        client.move_to(platform.gateways[1].listener());
    }
    platform.gateways[0].process.kill9();
    for client in [&io, &ops] {
        client.event("disconnect").await;
    }
    let (missed, alerts) = (ids("missed", 40), ids("alert", 40));
    for (project, id) in missed.iter().zip(&alerts) {
        touch(&bus, "p-1", project).await;
        touch(&bus, "p-2", &format!("foreign-{project}")).await;
        alert(&bus, id).await;
    }
    expect(&io, "project.updated", &missed).await;
    expect(&ops, "system_alert", &alerts).await;
    for (client, id) in [(&io, id), (&ops, ops_id)] {
        let again = client.event("connect").await;
        assert_eq!(
            (&again["recovered"], &again["id"]),
            (&json!(true), &id),
            "{again}"
        );
    }
    let greeting = io.message("connection_established").await[0]["data"].clone();
    assert_eq!(greeting["recovered"], true, "{greeting}");
    assert_eq!(
        greeting["rooms"],
        json!(["global", "project:p-1", "user:ada"])
    );
    touch(&bus, "p-1", "live").await;
    alert(&bus, "live").await;
    expect(&io, "project.updated", &["live".into()]).await;
    expect(&ops, "system_alert", &["live".into()]).await;
    assert_eq!(io.leftovers().await, Vec::<Value>::new());
}

/// A client that has received nothing recovers from where it began, over
/// polling as well.
#[tokio::test]
async fn a_client_without_an_event_recovers_too() {
    let platform = platform(1).await;
    let bus = producer(&platform).await;
    for transports in [json!(["websocket"]), json!(["polling"])] {
        let io = Io::new(platform.gateways[0].listener()).await;
        let auth = json!({"token": ada(&platform)});
        io.join(&json!({"auth": auth, "transports": transports, "reconnectionDelay": 300, "reconnectionDelayMax": 300}));
        io.event("connect").await;
        io.message("connection_established").await;
        io.ask("subscribe", &json!({"room": "project:p-1"})).await;
        io.cut();
        io.event("disconnect").await;
        let missed = ids(&format!("missed-{transports}"), 3);
        for id in &missed {
            touch(&bus, "p-1", id).await;
        }
        expect(&io, "project.updated", &missed).await;
        assert_eq!(io.event("connect").await["recovered"], true);
    }
}

/// Rooms that were left stay left, and a project that was taken away while the
/// client was gone is not joined again: it is told so.
#[tokio::test]
async fn rooms_are_looked_at_again() {
    let platform = platform(1).await;
    let bus = producer(&platform).await;
    let address = platform.gateways[0].listener();
    let both = token(&platform, "viewer", "ada", &["p-1", "p-2"], 3_600);
    let io = Io::connect(address, json!({"token": both})).await;
    let secret = secret_of(&platform, &io).await;
    for room in ["project:p-1", "project:p-2"] {
        io.ask("subscribe", &json!({"room": room})).await;
    }
    io.ask("unsubscribe", &json!({"room": "global"})).await;
    drop(io);
    touch(&bus, "p-2", "not-any-more").await;
    touch(&bus, "p-1", "missed").await;
    let io = Io::connect(address, json!({"token": ada(&platform), "pid": secret})).await;
    let (name, arguments) = io.next_message().await;
    assert_eq!(
        (name.as_str(), &arguments[0]["id"]),
        ("project.updated", &json!("missed"))
    );
    let greeting = io.message("connection_established").await[0]["data"].clone();
    assert_eq!(greeting["rooms"], json!(["project:p-1", "user:ada"]));
    let denied = io.message("connection_error").await[0]["data"].clone();
    assert_eq!(denied["error_code"], "ROOM_ACCESS_DENIED");
    assert_eq!(denied["room"], "project:p-2");
    assert_eq!(io.leftovers().await, Vec::<Value>::new());
}

/// The secret that a client was given, from the memory of its library.
async fn secret_of(_platform: &Platform, io: &Io) -> String {
    io.event("connect").await;
    io.secret().await
}

/// Forged secrets, those of others and those of sessions that are over open
/// nothing: the client is as new, and the audit log knows.
#[tokio::test]
async fn secrets_of_others_open_nothing() {
    let platform = platform(1).await;
    let address = platform.gateways[0].listener();
    let bus = producer(&platform).await;
    let (ada_io, _) = member(&platform, json!({"token": ada(&platform)})).await;
    let secret = ada_io.secret().await;
    let eve = token(&platform, "viewer", "eve", &[], 3_600);
    for (round, stolen) in [secret.as_str(), "forged", &"A".repeat(32), ""]
        .into_iter()
        .enumerate()
    {
        let auth = json!({"token": eve, "pid": stolen, "offset": "1-0"});
        let io = Io::connect(address, auth).await;
        let connected = io.event("connect").await;
        assert_eq!(connected["recovered"], false);
        let greeting = io.message("connection_established").await[0]["data"].clone();
        assert_eq!(greeting["user_id"], "eve");
        assert!(greeting.get("recovered").is_none(), "{greeting}");
        assert_ne!(io.secret().await, stolen);
        touch(&bus, "p-1", &format!("ada-{round}")).await;
        ada_io.message("project.updated").await;
        assert_eq!(io.leftovers().await, Vec::<Value>::new());
    }
    let lines = platform.gateways[0].process.stderr().lines();
    let noted = lines
        .iter()
        .filter(|line| line.contains("session not recovered"));
    assert!(noted.clone().count() >= 2, "{lines:?}");
    assert!(
        !lines.iter().any(|line| line.contains(&secret)),
        "a secret in the log"
    );
    // A client that left its namespace has closed its session.
    ada_io.leave();
    let io = Io::connect(address, json!({"token": ada(&platform), "pid": secret})).await;
    eventually("the session is closed", DEADLINE, async || Some(())).await;
    assert_eq!(io.event("connect").await["recovered"], false);
}

/// Whoever returns while the old connection still lives takes the session over:
/// the old one ends, on the same gateway or another.
#[tokio::test]
async fn old_connections_are_taken_over() {
    let platform = platform(2).await;
    let bus = producer(&platform).await;
    let mut auth = json!({"token": ada(&platform)});
    let mut kept: Option<(Io, Value)> = None;
    for (round, gateway) in [0, 0, 1, 0].into_iter().enumerate() {
        let new = Io::new(platform.gateways[gateway].listener()).await;
        // It would come back by itself and take the session again.
        new.join(&json!({"auth": auth, "transports": ["websocket"], "reconnection": false}));
        let id = new.event("connect").await["id"].clone();
        new.message("connection_established").await;
        match kept {
            None => {
                new.ask("subscribe", &json!({"room": "project:p-1"})).await;
                auth["pid"] = json!(new.secret().await);
            }
            Some((old, known)) => {
                assert_eq!(id, known, "the same session");
                old.event("disconnect").await;
            }
        }
        touch(&bus, "p-1", &format!("live-{round}")).await;
        // Without an offset everything comes since the session began.
        for earlier in 0..=round {
            let event = new.message("project.updated").await;
            assert_eq!(event[0]["id"], json!(format!("live-{earlier}")));
        }
        assert_eq!(new.leftovers().await, Vec::<Value>::new());
        kept = Some((new, id));
    }
}

/// A revocation while a client is away holds when it returns; one that comes
/// while it is there ends it, or the room.
#[tokio::test]
async fn what_was_revoked_is_not_recovered() {
    let platform = platform(1).await;
    let address = platform.gateways[0].listener();
    let key = platform.api_key("operator");
    let body = json!({"api_key": key}).to_string();
    let (_, answer) = signalbox_testkit::post(address, "/api/v1/auth/token", &body).await;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let access = answer["access_token"].as_str().unwrap();
    let io = Io::connect(address, json!({})).await;
    io.event("connect").await;
    io.emit("authenticate", &json!({"token": access}));
    io.message("authenticated").await;
    let secret = io.secret().await;
    let gone = Io::connect(address, json!({"token": access})).await;
    gone.message("connection_established").await;
    let revoke = json!({"token": access}).to_string();
    let (status, answer) = signalbox_testkit::post(address, "/api/v1/auth/revoke", &revoke).await;
    assert!((200..300).contains(&status), "{answer}");
    assert_eq!(io.message("auth_error").await[0]["code"], "AUTH_FAILED");
    assert_eq!(
        io.event("disconnect").await["reason"],
        "io server disconnect"
    );
    let error = gone.message("connection_error").await;
    assert_eq!(error[0]["data"]["error_code"], "AUTH_FAILED");
    assert_eq!(
        gone.event("disconnect").await["reason"],
        "io server disconnect"
    );
    let io = Io::connect(address, json!({"pid": secret})).await;
    io.event("connect").await;
    let bus = producer(&platform).await;
    alert(&bus, "not-for-it").await;
    io.emit("authenticate", &json!({"token": access}));
    let (name, _) = io.next_message().await;
    assert_eq!(name, "auth_error", "and nothing before");
}

/// Beyond what the stream has: told so, with a new secret, in the same rooms.
#[tokio::test]
async fn what_is_gone_is_told() {
    let platform = platform(1).await;
    let bus = producer(&platform).await;
    let address = platform.gateways[0].listener();
    let (io, id) = member(&platform, json!({"token": ada(&platform)})).await;
    let secret = io.secret().await;
    drop(io);
    let auth = json!({"token": ada(&platform), "pid": secret, "offset": "1-5"});
    let io = Io::connect(address, auth).await;
    let connected = io.event("connect").await;
    assert_eq!(connected["recovered"], false);
    assert_ne!(connected["id"], id);
    let greeting = io.message("connection_established").await[0]["data"].clone();
    assert_eq!(greeting["recovered"], false, "{greeting}");
    assert_eq!(
        greeting["rooms"],
        json!(["global", "project:p-1", "user:ada"])
    );
    assert_ne!(io.secret().await, secret);
    touch(&bus, "p-1", "live").await;
    expect(&io, "project.updated", &["live".into()]).await;
}

/// Clients that take no part go on with `since`, in `auth` or with a room.
#[tokio::test]
async fn others_resume_by_since() {
    let platform = platform(1).await;
    let bus = producer(&platform).await;
    let address = platform.gateways[0].listener();
    let plain = json!({"token": ada(&platform), "recovery": false});
    let (io, _) = member(&platform, plain.clone()).await;
    assert_eq!(io.secret().await, "", "no secret for it");
    touch(&bus, "p-1", "seen").await;
    let (_, arguments) = io.next_message().await;
    assert_eq!(arguments.as_array().unwrap().len(), 1, "no offset");
    let seq = arguments[0]["seq"].clone();
    drop(io);
    touch(&bus, "p-1", "missed").await;
    send(
        &bus,
        "agent.connected",
        "for-all",
        &json!({"agent_id": "a"}),
    )
    .await;
    let mut auth = plain.clone();
    auth["since"] = seq.clone();
    let io = Io::connect(address, auth).await;
    let (name, greeting) = io.next_message().await;
    assert_eq!(name, "connection_established", "ahead of the replay");
    assert_eq!(greeting[0]["data"]["recovered"], true);
    assert_eq!(greeting[0]["data"]["seq"], seq);
    assert_eq!(io.next_message().await.0, "agent.connected");
    let answer = io
        .ask("subscribe", &json!({"room": "project:p-1", "since": seq}))
        .await;
    assert_eq!((&answer["recovered"], &answer["seq"]), (&json!(true), &seq));
    assert_eq!(io.message("project.updated").await[0]["id"], "missed");
    let lost = json!({"room": "user:ada", "since": "1-1"});
    let answer = io.ask("subscribe", &lost).await;
    assert_eq!(
        (&answer["status"], &answer["recovered"]),
        (&json!("success"), &json!(false))
    );
    // `pipeline` alike, in the confirmation of the credential.
    alert(&bus, "alert").await;
    let auth = json!({"recovery": false, "since": seq});
    let io = Io::connect(address, auth).await;
    io.event("connect").await;
    let credential = token(&platform, "viewer", "ada", &[], 3_600);
    io.emit("authenticate", &json!({"token": credential}));
    let (name, answer) = io.next_message().await;
    assert_eq!(
        (name.as_str(), &answer[0]["recovered"]),
        ("authenticated", &json!(true))
    );
    assert_eq!(io.next_message().await.1[0]["id"], "alert");
}

/// A replay that has nothing to bring, or all of it at once, is over for the
/// return, too.
#[tokio::test]
async fn a_short_replay_does_not_stand_in_the_way() {
    let platform = platform(1).await;
    let bus = producer(&platform).await;
    let (io, _) = member(&platform, json!({"token": ada(&platform)})).await;
    touch(&bus, "p-1", "seen").await;
    let seq = io.message("project.updated").await[1].clone();
    let again = json!({"room": "project:p-1", "since": seq});
    assert_eq!(io.ask("subscribe", &again).await["recovered"], true);
    touch(&bus, "p-1", "later").await;
    expect(&io, "project.updated", &["later".into()]).await;
    io.cut();
    io.event("disconnect").await;
    assert_eq!(io.event("connect").await["recovered"], true);
}

/// A session whose token has ended goes on with the next one of the same user.
#[tokio::test]
async fn an_ended_token_is_waited_for() {
    let platform = platform(1).await;
    let bus = producer(&platform).await;
    let address = platform.gateways[0].listener();
    let io = Io::connect(address, json!({})).await;
    io.event("connect").await;
    let short = token(&platform, "viewer", "ada", &[], 2);
    io.emit("authenticate", &json!({"token": short}));
    io.message("authenticated").await;
    alert(&bus, "seen").await;
    let offset = io.message("system_alert").await[1].clone();
    let secret = io.secret().await;
    drop(io);
    alert(&bus, "missed").await;
    eventually("the token has ended", DEADLINE, async || {
        let bearer = format!("Bearer {short}");
        let headers = [("Authorization", bearer.as_str())];
        let path = "/api/v1/admin/roles";
        let refused = signalbox_testkit::request(address, "GET", path, &headers, "").await;
        (refused.status == 401).then_some(())
    })
    .await;
    // Another user gets nothing of it, and is told so.
    let io = Io::connect(address, json!({"pid": secret, "offset": offset})).await;
    io.event("connect").await;
    let eve = token(&platform, "viewer", "eve", &[], 3_600);
    io.emit("authenticate", &json!({"token": eve}));
    let (name, answer) = io.next_message().await;
    assert_eq!(name, "authenticated");
    assert_eq!(answer[0]["recovered"], false, "{answer}");
    assert_eq!(io.leftovers().await, Vec::<Value>::new());
    drop(io);
    let io = Io::connect(address, json!({"pid": secret, "offset": offset})).await;
    io.event("connect").await;
    let fresh = token(&platform, "viewer", "ada", &[], 3_600);
    io.emit("authenticate", &json!({"token": fresh}));
    let (name, answer) = io.next_message().await;
    assert_eq!(name, "authenticated");
    assert_eq!(answer[0]["recovered"], true, "{answer}");
    assert_eq!(io.next_message().await.1[0]["id"], "missed");
}

/// G9: a reader that takes nothing is sent away, hurts nobody else, and gets
/// everything, once and in order, when it returns.
#[tokio::test]
async fn slow_readers_return_to_everything() {
    const EVENTS: usize = 400;
    let buffer = ["--send-buffer-bytes", "16384"];
    let platform = Platform::start_with(1, &buffer).await;
    let bus = producer(&platform).await;
    let proxy = Proxy::start(platform.gateways[0].listener()).await;
    let auth = json!({"token": ada(&platform)});
    let slow = Io::connect(proxy.addr(), auth.clone()).await;
    slow.message("connection_established").await;
    slow.ask("subscribe", &json!({"room": "project:p-1"})).await;
    let (quick, _) = member(&platform, auth).await;
    let stalled = Flow {
        stalled: true,
        ..Flow::default()
    };
    proxy.shape(Direction::Back, stalled);
    let numbers = ids("event", EVENTS);
    for id in &numbers {
        let data =
            json!({"project_id": "p-1", "updated_by": "nobody", "notes": "n".repeat(20_000)});
        send(&bus, "project.updated", id, &data).await;
    }
    for id in &numbers {
        assert_eq!(quick.message("project.updated").await[0]["id"], json!(id));
    }
    let lines = platform.gateways[0].process.stderr();
    let sent_away = |line: &String| line.contains("disconnected") && line.contains("too slow");
    eventually("the slow reader is sent away", DEADLINE, async || {
        lines.lines().iter().any(sent_away).then_some(())
    })
    .await;
    proxy.shape(Direction::Back, Flow::default());
    for id in &numbers {
        assert_eq!(slow.message("project.updated").await[0]["id"], json!(id));
    }
    slow.event("disconnect").await;
    slow.event("connect").await;
    assert_eq!(slow.event("connect").await["recovered"], true);
}
