//! T8, T9, T12 as far as gateways go: who is shown what of chats' logs, live and
//! read back, whatever the bus repeats or leaves out.

use std::net::SocketAddr;

use serde_json::{Value, json};
use signalbox_testkit::{DEADLINE, Platform, Proxy, eventually};

use crate::chat_client::{Answer, Chatter, token_of};
use crate::chat_script::{AGENT, Scripted};
use crate::chat_world::World;

/// Pieces of an answer, with text that JSON and UTF-8 make longer.
fn pieces() -> Vec<String> {
    let odd = [
        "a ",
        "\"b\" ",
        "\u{fc}\n",
        "",
        "{d} ",
        "\u{1f980}",
        "\\",
        "g",
    ];
    odd.map(str::to_owned).to_vec()
}

#[tokio::test]
async fn a_chat_is_shown_to_its_user_on_every_device_and_to_nobody_else() {
    let platform = Platform::start(2).await;
    let script = Scripted::start(&platform).await;
    let [one, two] = &platform.gateways[..] else {
        panic!()
    };
    let (ada, bob) = (token_of(&platform, "ada"), token_of(&platform, "bob"));
    let mut desk = Chatter::connect(one, &ada).await;
    let mut phone = Chatter::connect(two, &ada).await;
    let mut idle = Chatter::connect(two, &ada).await;
    let mut stranger = Chatter::connect(two, &bob).await;
    let confirmed = phone.subscribe().await;
    assert_eq!(confirmed["channel"], "agent_chat");
    stranger.subscribe().await;

    let session = desk.start(AGENT).await;
    let started = phone.expect("chat_session_started").await;
    assert_eq!(started["session_id"], session.as_str());
    assert_eq!(started["agent_info"]["model"], "script");
    desk.say(&session, "what is it?").await;
    desk.is_busy(&session).await;
    for piece in pieces() {
        script.write(&session, &piece).await;
    }
    script.finish(&session).await;
    for device in [&mut desk, &mut phone] {
        let complete = device.hear_out(&session, 1).await;
        assert_eq!(complete["full_response"], pieces().concat());
        assert_eq!(complete["analysis"], json!({"risk_factors": ["one"]}));
        let metadata = json!({"processing_time": "14.2s", "tokens_used": 450});
        assert_eq!(complete["metadata"], metadata);
        device.hears_nothing().await;
    }
    idle.hears_nothing().await;
    stranger.hears_nothing().await;

    // Another's chat is as unknown as one that never was.
    for name in [
        session.as_str(),
        "chat-00000000000000000000000000000000",
        "x",
    ] {
        for message in [
            json!({"type": "chat_message", "session_id": name, "message": "m"}),
            json!({"type": "resume_chat", "session_id": name, "after_chunk": 0}),
            json!({"type": "cancel_chat", "session_id": name}),
            json!({"type": "subscribe", "channel": "agent_chat", "session_id": name}),
        ] {
            let error = stranger.ask(message).await;
            assert_eq!(error["type"], "agent_error", "{error}");
            assert_eq!(error["session_id"], name);
            assert_eq!(error["error"]["code"], "SESSION_NOT_FOUND");
        }
    }
    // What is no longer subscribed to is no longer shown.
    let id = &confirmed["subscription_id"];
    let ended = phone
        .ask(json!({"type": "unsubscribe", "subscription_id": id}))
        .await;
    assert_eq!(ended["type"], "unsubscription_confirmed");
    desk.say(&session, "and now?").await;
    desk.is_busy(&session).await;
    script.write(&session, "nothing").await;
    desk.hear_up_to(&session, 2, 1).await;
    phone.hears_nothing().await;
}

/// At every chunk, on either gateway, while the answer is written and after.
#[tokio::test]
async fn a_chat_goes_on_behind_every_chunk_that_a_client_can_have() {
    let platform = Platform::start(2).await;
    let script = Scripted::start(&platform).await;
    let ada = token_of(&platform, "ada");
    let mut first = Chatter::connect(&platform.gateways[0], &ada).await;
    let session = first.start(AGENT).await;
    first.say(&session, "m").await;
    first.is_busy(&session).await;
    let pieces = pieces();
    let mut returned = Vec::new();
    for (written, piece) in pieces.iter().enumerate() {
        script.write(&session, piece).await;
        for after in 0..=written + 1 {
            let gateway = &platform.gateways[(written + after) % 2];
            let mut client = Chatter::connect(gateway, &ada).await;
            let known = pieces[..after].concat();
            client.heard.know(&session, 1, after as u64, &known);
            let resumed = client.resume(&session, after as u64).await;
            assert_eq!(
                (&resumed["answer"], &resumed["answering"]),
                (&json!(1), &json!(true))
            );
            returned.push(client);
        }
        script.tell_tip(&session).await;
    }
    script.finish(&session).await;
    for client in &mut returned {
        client.hear_out(&session, 1).await;
        client.hears_nothing().await;
    }
    for after in 0..=pieces.len() + 1 {
        let mut client = Chatter::connect(&platform.gateways[after % 2], &ada).await;
        let known = pieces[..after.min(pieces.len())].concat();
        client.heard.know(&session, 1, after as u64, &known);
        if after > pieces.len() {
            // It has the last chunk, and lacks the end alone.
            let resumed = client.resume(&session, after as u64).await;
            assert_eq!(resumed["answering"], false);
            client.expect_end().await;
        } else {
            client.resume(&session, after as u64).await;
            client.hear_out(&session, 1).await;
        }
        client.hears_nothing().await;
    }
    // Without an answer yet there is nothing to go on with.
    let other = first_free(&mut first, &session).await;
    let mut client = Chatter::connect(&platform.gateways[1], &ada).await;
    let resumed = client.resume(&other, 0).await;
    assert_eq!(resumed.get("answer"), None);
    client.hears_nothing().await;
}

/// Hears out what there is, and begins another chat.
async fn first_free(client: &mut Chatter, session: &str) -> String {
    client.hear_out(session, 1).await;
    client.start(AGENT).await
}

/// What the bus repeats live may be lost: with every cut of the gateway's link,
/// in the middle of answers. Records carry numbers, and the rest is read.
#[tokio::test]
async fn cuts_of_the_bus_lose_and_double_nothing() {
    let platform = Platform::start(0).await;
    let script = Scripted::start(&platform).await;
    let to_nats = SocketAddr::from(([127, 0, 0, 1], platform.nats.port()));
    let proxy = Proxy::start(to_nats).await;
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let gateway = platform
        .start_gateway_at(anywhere, proxy.addr().port())
        .await;
    let ada = token_of(&platform, "ada");
    let mut starter = Chatter::connect(&gateway, &ada).await;
    let mut subscriber = Chatter::connect(&gateway, &ada).await;
    subscriber.subscribe().await;
    let session = starter.start(AGENT).await;
    for answer in 1..=4 {
        starter.say(&session, "m").await;
        starter.is_busy(&session).await;
        let pieces = pieces();
        let (before, after) = pieces.split_at(pieces.len() / 2);
        for piece in before {
            script.write(&session, piece).await;
        }
        starter
            .hear_up_to(&session, answer, before.len() as u64)
            .await;
        proxy.refuse();
        proxy.cut();
        for piece in after {
            script.write(&session, piece).await;
        }
        if answer % 2 == 0 {
            eventually("the link to be cut", DEADLINE, async || {
                (proxy.connections() == 0).then_some(())
            })
            .await;
        }
        script.finish(&session).await;
        proxy.admit();
        for device in [&mut starter, &mut subscriber] {
            let complete = device.hear_out(&session, answer).await;
            assert_eq!(complete["full_response"], pieces.concat());
        }
    }
    starter.hears_nothing().await;
    subscriber.hears_nothing().await;
}

/// A message, which is the same each time that it is said.
fn message(session: &str, id: &str) -> Value {
    json!({"type": "chat_message", "session_id": session, "message": "m", "message_id": id})
}

/// T12: a message that was answered before others is followed by its answer and
/// theirs when it is said again, and by nothing that was said before.
#[tokio::test]
async fn a_repeated_message_goes_on_from_its_answer() {
    let world = World::start(2, &[]).await;
    let [one, two] = &world.platform.gateways[..] else {
        panic!()
    };
    let ada = token_of(&world.platform, "ada");
    let mut desk = Chatter::connect(one, &ada).await;
    let session = desk.start(AGENT).await;
    for (answer, id) in (1..).zip(["m-1", "m-2", "m-3"]) {
        world.reply(id);
        desk.socket.send_json(&message(&session, id)).await;
        desk.hear_out(&session, answer).await;
    }
    let mut again = Chatter::connect(two, &ada).await;
    let first = again.ask(message(&session, "m-2")).await;
    assert_eq!(first["answer"], 2, "{first}");
    for answer in [2, 3] {
        again.hear_out(&session, answer).await;
        assert_eq!(
            again.heard.of(&session, answer),
            desk.heard.of(&session, answer)
        );
    }
    assert_eq!(again.heard.of(&session, 1), Answer::default());
    again.hears_nothing().await;
    desk.hears_nothing().await;
    assert_eq!(world.model.requests().len(), 3);
}

/// T12: however long its answer is, and wherever it is said again.
#[tokio::test]
async fn a_repeated_message_is_followed_by_all_of_its_answer() {
    let platform = Platform::start(2).await;
    let script = Scripted::start(&platform).await;
    let [one, two] = &platform.gateways[..] else {
        panic!()
    };
    let ada = token_of(&platform, "ada");
    let mut desk = Chatter::connect(one, &ada).await;
    let session = desk.start(AGENT).await;
    desk.socket.send_json(&message(&session, "m-1")).await;
    desk.is_busy(&session).await;
    // More than is read at once.
    for _ in 0..600 {
        script.write(&session, "word ").await;
    }
    desk.hear_up_to(&session, 1, 600).await;
    let mut again = Chatter::connect(two, &ada).await;
    again.socket.send_json(&message(&session, "m-1")).await;
    again.hear_up_to(&session, 1, 600).await;
    script.finish(&session).await;
    for device in [&mut desk, &mut again] {
        device.hear_out(&session, 1).await;
        device.hears_nothing().await;
    }
}
