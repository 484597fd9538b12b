//! T8, T9, T11, T12, T14 with everything real but the model: the documented
//! messages, devices on several gateways, what cancels and what does not, limits,
//! and who may chat.

use serde_json::{Value, json};
use signalbox_identity::{Limits, Role, UserId};
use signalbox_testkit::{DEADLINE, NodeClient, Platform, RedisServer, WsClient, eventually};

use crate::chat_client::{Chatter, token_of};
use crate::chat_world::{World, analysis};
use crate::revocation::run;

const AGENT: &str = "threat_classifier";
/// Answers of 120 KB that are more than the sockets and the queue of a reader take.
const SLOW_ANSWERS: u64 = 6;
const PIECES: [&str; 5] = [
    "The scan",
    " from 10.4.7.19",
    " is after \"open\" services:",
    " \u{fc}ber 212 ports",
    ".",
];

/// T8, T9: a page that makes the calls of the document, with a token in the URL
/// as a browser has it, and with the first message.
#[tokio::test]
async fn a_javascript_client_chats_as_documented() {
    let world = World::start(1, &[]).await;
    let url = world.platform.gateways[0].threat_url();
    let token = token_of(&world.platform, "ada");
    let context = json!({"incident_id": "threat-001", "user_role": "security_analyst"});
    let say = json!([
        {"message": "How bad is it?", "context": {"anomaly_data": {"ports_scanned": 25}}},
        {"message": "And now?"},
    ]);
    for credentials in [
        json!({"url": format!("{url}?token={token}")}),
        json!({"url": url, "token": token}),
    ] {
        world.reply("It is reconnaissance.");
        world.reply("Isolate the source, and look at its logins.");
        let mut arguments = credentials;
        arguments["say"] = say.clone();
        arguments["context"] = context.clone();
        let client = NodeClient::start("threat-chat.mjs", &arguments);
        client.expect_event("open").await;
        client.expect_frame("auth_success").await;
        let started = client.expect_frame("chat_session_started").await;
        assert_eq!(started["agent_type"], AGENT);
        let info = json!({
            "name": "Threat Classifier", "model": "example-model", "capabilities": ["threat_analysis"],
        });
        assert_eq!(started["agent_info"], info);
        for whole in [
            "It is reconnaissance.",
            "Isolate the source, and look at its logins.",
        ] {
            let complete = complete_of(&client).await;
            assert_eq!(complete["full_response"], whole);
            assert_eq!(complete["analysis"], analysis());
            assert_eq!(complete["metadata"]["tokens_used"], 450);
            let time = complete["metadata"]["processing_time"].as_str().unwrap();
            assert!(time.ends_with('s') && time[..time.len() - 1].parse::<f64>().is_ok());
            let shown = client.next(DEADLINE).await;
            let last = shown["messages"].as_array().unwrap().last().unwrap();
            assert_eq!(last["content"], whole, "{shown}");
        }
        assert_eq!(client.expect_event("close").await["code"], 1000);
        assert!(client.wait(DEADLINE).await.success());
    }
    // What was said before, and its context, reach the model.
    let asked = world.model.received(2).await.body.to_string();
    for known in ["threat-001", "ports_scanned", "reconnaissance", "And now?"] {
        assert!(asked.contains(known), "{known}: {asked}");
    }
}

/// The chunks of the next answer, and what it is as a whole.
async fn complete_of(client: &NodeClient) -> Value {
    loop {
        let mut value = client.next(DEADLINE).await;
        if value["frame"]["type"] == "agent_response_complete" {
            return value["frame"].take();
        }
        assert_eq!(value["frame"]["type"], "agent_response_chunk", "{value}");
    }
}

/// T12: two devices on two gateways see the same, and each comes back as often
/// as there are chunks.
#[tokio::test]
async fn an_answer_survives_a_reload_at_every_chunk() {
    let world = World::start(2, &[]).await;
    let gateways = &world.platform.gateways;
    let ada = token_of(&world.platform, "ada");
    let mut desk = Chatter::connect(&gateways[0], &ada).await;
    let mut phone = Chatter::connect(&gateways[1], &ada).await;
    phone.subscribe().await;
    let session = desk.start(AGENT).await;
    phone.expect("chat_session_started").await;
    let gates = world.reply_behind_gates(&PIECES);
    desk.say(&session, "what is it?").await;
    for (number, gate) in (1..).zip(&gates[..PIECES.len()]) {
        gate.open();
        phone.hear_up_to(&session, 1, number).await;
        desk.hear_up_to(&session, 1, number).await;
        // The page is loaded anew, by turns at either gateway.
        let known = desk.heard.of(&session, 1);
        desk = Chatter::connect(&gateways[number as usize % 2], &ada).await;
        desk.heard.know(&session, 1, known.last, &known.text);
        let resumed = desk.resume(&session, known.last).await;
        assert_eq!(resumed["answering"], true);
    }
    gates[PIECES.len()].open();
    for device in [&mut desk, &mut phone] {
        let complete = device.hear_out(&session, 1).await;
        assert_eq!(complete["full_response"], PIECES.concat());
        device.hears_nothing().await;
    }
    // Every value of `after_chunk`, once it is over.
    let last = phone.heard.of(&session, 1).last;
    for after in 0..=last {
        let mut late = Chatter::connect(&gateways[after as usize % 2], &ada).await;
        let known = if after == last {
            PIECES.len()
        } else {
            after as usize
        };
        late.heard
            .know(&session, 1, after, &PIECES[..known].concat());
        let resumed = late.resume(&session, after).await;
        assert_eq!(resumed["answering"], false);
        if after == last {
            late.expect_end().await;
        } else {
            late.hear_out(&session, 1).await;
        }
        late.hears_nothing().await;
    }
}

/// T12: kill -9 of the gateway in the middle of an answer.
#[tokio::test]
async fn an_answer_survives_its_gateway() {
    let world = World::start(2, &[]).await;
    let [first, second] = &world.platform.gateways[..] else {
        panic!()
    };
    let ada = token_of(&world.platform, "ada");
    let mut desk = Chatter::connect(first, &ada).await;
    let session = desk.start(AGENT).await;
    let gates = world.reply_behind_gates(&PIECES);
    desk.say(&session, "what is it?").await;
    gates[0].open();
    desk.hear_up_to(&session, 1, 1).await;
    first.process.kill9();
    gates[1].open();
    gates[2].open();
    let known = desk.heard.of(&session, 1);
    let mut again = Chatter::connect(second, &ada).await;
    again.heard.know(&session, 1, known.last, &known.text);
    again.resume(&session, known.last).await;
    for gate in &gates {
        gate.open();
    }
    let complete = again.hear_out(&session, 1).await;
    assert_eq!(complete["full_response"], PIECES.concat());
    again.hears_nothing().await;
}

/// T11, T12: only `cancel_chat` ends an answer, and a chat has one at a time.
#[tokio::test]
async fn an_answer_is_cancelled_on_request_and_by_nothing_else() {
    let world = World::start(2, &[]).await;
    let gateways = &world.platform.gateways;
    let ada = token_of(&world.platform, "ada");
    let mut desk = Chatter::connect(&gateways[0], &ada).await;
    let mut phone = Chatter::connect(&gateways[1], &ada).await;
    let session = desk.start(AGENT).await;
    // There is nothing to end yet.
    let cancel = json!({"type": "cancel_chat", "session_id": session});
    let nothing = phone.ask(cancel.clone()).await;
    assert_eq!(nothing["type"], "chat_cancelled", "{nothing}");
    assert_eq!(nothing.get("answer"), None);

    let gates = world.reply_behind_gates(&PIECES);
    desk.say(&session, "what is it?").await;
    gates[0].open();
    desk.hear_up_to(&session, 1, 1).await;
    desk.is_busy(&session).await;
    // The page is closed; the answer goes on.
    desk.socket.close().await;
    phone.subscribe().await;
    let resumed = phone.resume(&session, 0).await;
    assert_eq!(resumed["answering"], true);
    gates[1].open();
    phone.hear_up_to(&session, 1, 2).await;
    phone.socket.send_json(&cancel).await;
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let frame = phone.next().await;
        seen.push(frame["type"].as_str().unwrap().to_owned());
        assert_eq!(frame["answer"], 1, "{frame}");
    }
    seen.sort();
    assert_eq!(seen, ["agent_response_cancelled", "chat_cancelled"]);
    phone.hears_nothing().await;
    world.model.abandoned(1).await;

    // Then there is room for another, which has a number of its own.
    world.reply("Go on.");
    phone.say(&session, "and now?").await;
    let complete = phone.hear_out(&session, 2).await;
    assert_eq!(complete["full_response"], "Go on.");
}

/// T12: a message that is sent again under its id is said once.
#[tokio::test]
async fn a_message_is_said_once_however_often_it_is_sent() {
    let world = World::start(2, &[]).await;
    let ada = token_of(&world.platform, "ada");
    let mut desk = Chatter::connect(&world.platform.gateways[0], &ada).await;
    let session = desk.start(AGENT).await;
    world.reply("Once.");
    let message = json!({
        "type": "chat_message", "session_id": session, "message": "m", "message_id": "m-1",
    });
    desk.socket.send_json(&message).await;
    desk.hear_out(&session, 1).await;
    let mut again = Chatter::connect(&world.platform.gateways[1], &ada).await;
    again.socket.send_json(&message).await;
    let complete = again.hear_out(&session, 1).await;
    assert_eq!(complete["full_response"], "Once.");
    again.hears_nothing().await;
    desk.hears_nothing().await;
    assert_eq!(world.model.requests().len(), 1);
}

/// A token of a user with a limit on chats.
fn limited(platform: &Platform, user: &str, chats: u32) -> String {
    let mut claims = platform.claims("analyst");
    claims.sub = UserId::new(user).unwrap();
    claims.limits = Limits {
        agent_chats_per_hour: chats,
        ..claims.limits
    };
    let token = platform.signing_key().sign(&claims);
    token.unwrap().expose().to_owned()
}

/// T14: chats are counted per user, over all gateways, refused ones included.
#[tokio::test]
async fn chats_of_a_user_are_counted_over_all_gateways() {
    let redis = RedisServer::start().await;
    let url = redis.url();
    let world = World::start(2, &["--redis-url", &url]).await;
    let gateways = &world.platform.gateways;
    let ada = limited(&world.platform, "ada", 3);
    let mut devices = Vec::new();
    for gateway in gateways {
        devices.push(Chatter::connect(gateway, &ada).await);
    }
    for turn in 0..3 {
        devices[turn % 2].start(AGENT).await;
    }
    let start = json!({"type": "start_chat", "agent_type": AGENT});
    for turn in 3..16 {
        let refused = devices[turn % 2].ask(start.clone()).await;
        assert_eq!(refused["type"], "rate_limit_exceeded", "{refused}");
        assert_eq!(refused["limit_type"], "agent_chats_per_hour");
        assert_eq!(refused["current_usage"], format!("{}/3", turn + 1));
        assert!(refused["reset_time"].as_str().unwrap().ends_with('Z'));
    }
    // Others have a count of their own, and what has begun goes on.
    let bob = limited(&world.platform, "bob", 1);
    Chatter::connect(&gateways[0], &bob)
        .await
        .start(AGENT)
        .await;
    world.reply("Yes.");
    let message = json!({"type": "chat_message", "message": "still there?"});
    devices[0].socket.send_json(&message).await;
    devices[0].expect("agent_response_chunk").await;
}

/// T7, T8, T11, G6: what is asked of nobody, for nothing, or without the right.
#[tokio::test]
async fn what_cannot_be_done_is_said() {
    let world = World::start(1, &["--chat-patience", "0.5"]).await;
    let platform = &world.platform;
    let gateway = &platform.gateways[0];
    let start = json!({"type": "start_chat", "agent_type": AGENT});
    let about_chats = [
        start.clone(),
        json!({"type": "chat_message", "message": "m"}),
        json!({"type": "cancel_chat"}),
        json!({"type": "resume_chat", "session_id": "chat-1", "after_chunk": 0}),
        json!({"type": "subscribe", "channel": "agent_chat"}),
    ];
    let mut stranger = WsClient::connect(&gateway.threat_url(), &[]).await;
    let mut viewer = WsClient::connect(&gateway.threat_url(), &[]).await;
    viewer
        .authenticate(&platform.unlimited_token("viewer"))
        .await;
    for message in &about_chats {
        for client in [&mut stranger, &mut viewer] {
            client.send_json(message).await;
            let error = client.expect("error").await;
            assert_eq!(error["code"], "FORBIDDEN", "{message}");
        }
    }
    let mut ada = Chatter::connect(gateway, &token_of(platform, "ada")).await;
    for message in &about_chats[1..3] {
        let error = ada.ask(message.clone()).await;
        assert_eq!(error["error"]["code"], "SESSION_NOT_FOUND", "{error}");
        assert_eq!(error.get("session_id"), None);
    }
    let unknown = ada
        .ask(json!({"type": "start_chat", "agent_type": "nobody"}))
        .await;
    assert_eq!(
        (&unknown["code"], &unknown["field"]),
        (&json!("NOT_FOUND"), &json!("agent_type"))
    );
    let message = unknown["message"].as_str().unwrap();
    for known in [AGENT, "investigation_agent", "response_advisor"] {
        assert!(message.contains(known), "{message}");
    }
    let session = ada.start(AGENT).await;
    world.orchestrator.process.kill9();
    for message in [
        start,
        json!({"type": "chat_message", "session_id": session, "message": "m"}),
        json!({"type": "resume_chat", "session_id": session, "after_chunk": 0}),
        json!({"type": "cancel_chat", "session_id": session}),
    ] {
        let error = ada.ask(message).await;
        assert_eq!(error["type"], "agent_error", "{error}");
        assert_eq!(error["error"]["code"], "AGENT_UNAVAILABLE");
        assert_eq!(error["error"]["retry_available"], true);
    }
    ada.hears_nothing().await;
}

/// G6: chats stop reaching a connection that may no longer chat.
#[tokio::test]
async fn chats_are_shown_only_while_the_permission_lasts() {
    let world = World::start(1, &[]).await;
    let platform = &world.platform;
    let gateway = &platform.gateways[0];
    let ada = token_of(platform, "ada");
    let mut claims = platform.claims("viewer");
    claims.sub = UserId::new("ada").unwrap();
    assert_eq!(claims.role, Some(Role::Viewer));
    let lesser = platform.signing_key().sign(&claims).unwrap();
    let lesser = json!({"type": "authenticate", "token": lesser.expose()});

    let mut desk = Chatter::connect(gateway, &ada).await;
    let mut phone = Chatter::connect(gateway, &ada).await;
    let mut other = Chatter::connect(gateway, &ada).await;
    other.subscribe().await;
    phone.subscribe().await;
    let session = desk.start(AGENT).await;
    for device in [&mut phone, &mut other] {
        device.expect("chat_session_started").await;
    }
    let gates = world.reply_behind_gates(&PIECES);
    desk.say(&session, "what is it?").await;
    gates[0].open();
    for device in [&mut desk, &mut phone, &mut other] {
        device.hear_up_to(&session, 1, 1).await;
    }
    for device in [&mut desk, &mut phone] {
        let welcome = device.ask(lesser.clone()).await;
        assert_eq!(welcome["type"], "auth_success");
        assert_eq!(device.expect("error").await["code"], "FORBIDDEN");
    }
    phone.expect("unsubscription_confirmed").await;
    for gate in &gates {
        gate.open();
    }
    other.hear_out(&session, 1).await;
    for device in [&mut desk, &mut phone] {
        device.hears_nothing().await;
    }

    // By revocation, while an answer is written.
    let (id, key) = new_key(platform).await;
    let mut keyed = Chatter::connect(gateway, &key).await;
    let session = keyed.start(AGENT).await;
    let gates = world.reply_behind_gates(&PIECES);
    keyed.say(&session, "what is it?").await;
    gates[0].open();
    keyed.hear_up_to(&session, 1, 1).await;
    run(platform, &["key", "set", &id, "--role", "viewer"], None).await;
    assert_eq!(keyed.expect("error").await["code"], "FORBIDDEN");
    for gate in &gates {
        gate.open();
    }
    let mut again = Chatter::connect(gateway, &key).await;
    let refused = again
        .ask(json!({"type": "resume_chat", "session_id": session, "after_chunk": 0}))
        .await;
    assert_eq!(refused["code"], "FORBIDDEN");
    keyed.hears_nothing().await;
}

/// An analyst's key and its id.
async fn new_key(platform: &Platform) -> (String, String) {
    let create = [
        "key", "create", "--role", "analyst", "--name", "Desk", "--json",
    ];
    let made = run(platform, &create, None).await;
    let made: Value = serde_json::from_str(&made).unwrap();
    let text = |field: &str| made[field].as_str().unwrap().to_owned();
    (text("id"), text("api_key"))
}

/// The users whose chats a gateway follows are those who take part there.
#[tokio::test]
async fn logs_are_followed_while_somebody_takes_part() {
    let world = World::start(1, &[]).await;
    let gateway = &world.platform.gateways[0];
    let follows = async |users: u64| {
        let wanted = format!(
            "signalbox_gateway_chats_users{{otel_scope_name=\"signalbox.gateway\"}} {users}"
        );
        eventually(&wanted, DEADLINE, async || {
            let (_, page) = signalbox_testkit::get(gateway.admin, "/metrics").await;
            let line = page
                .lines()
                .find(|line| line.starts_with("signalbox_gateway_chats_users"));
            line.is_some_and(|line| line.ends_with(&format!(" {users}")))
                .then_some(())
        })
        .await;
    };
    follows(0).await;
    let mut ada = Chatter::connect(gateway, &token_of(&world.platform, "ada")).await;
    let mut phone = Chatter::connect(gateway, &token_of(&world.platform, "ada")).await;
    let mut bob = Chatter::connect(gateway, &token_of(&world.platform, "bob")).await;
    follows(0).await;
    ada.start(AGENT).await;
    phone.subscribe().await;
    follows(1).await;
    bob.subscribe().await;
    follows(2).await;
    ada.socket.close().await;
    follows(2).await;
    phone.socket.close().await;
    follows(1).await;
    bob.socket.close().await;
    follows(0).await;
}

/// A connection that takes nothing in is sent away and goes on later.
#[tokio::test]
async fn a_slow_reader_is_sent_away_and_goes_on() {
    // The reason is to be read before the connection is reset.
    let bounds = ["--queue-bytes", "300000", "--send-buffer-bytes", "16384"];
    let arguments = [&bounds[..], &["--close-grace", "60"]].concat();
    let world = World::start(1, &arguments).await;
    let gateway = &world.platform.gateways[0];
    let ada = token_of(&world.platform, "ada");
    let mut reader = Chatter::connect(gateway, &ada).await;
    reader.subscribe().await;
    let mut slow = Chatter::connect(gateway, &ada).await;
    slow.subscribe().await;
    let session = reader.start(AGENT).await;
    let long = format!("{} ", "w".repeat(1_000)).repeat(120);
    for answer in 1..=SLOW_ANSWERS {
        world.reply(long.trim_end());
        reader.say(&session, "go on").await;
        reader.hear_out(&session, answer).await;
    }
    let (frames, closed) = slow.socket.drain(DEADLINE).await;
    assert_eq!(closed.code, Some(1013));
    for frame in &frames {
        slow.heard.hear(frame);
    }
    let mut again = Chatter::connect(gateway, &ada).await;
    let resume = json!({
        "type": "resume_chat", "session_id": session, "answer": 1, "after_chunk": 0,
    });
    again.socket.send_json(&resume).await;
    again.expect("chat_resumed").await;
    for answer in 1..=SLOW_ANSWERS {
        again.hear_out(&session, answer).await;
    }
    again.hears_nothing().await;
}
