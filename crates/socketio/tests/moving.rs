//! An upgrade that arrives at another engine than the session's: the session moves there, with
//! everything that its client has not had, and everything that it goes on with.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{TestServer, missed, neighbours::Pair, polling, quick, until};
use signalbox_socketio::{DisconnectReason, EndReason, Packet};
use tokio::io::AsyncWriteExt;

fn news(number: usize) -> Packet {
    Packet::event("/", "news").value(&number.into()).build()
}

fn reasons(server: &TestServer) -> Vec<DisconnectReason> {
    let left = server.desk.left.borrow();
    left.iter().map(|(_, reason)| *reason).collect()
}

#[tokio::test(flavor = "local")]
async fn what_was_not_fetched_comes_first_and_in_order() {
    let pair = Pair::start().await;
    let sid = pair.owner.join("/").await;
    let id = pair.owner.desk.members.borrow()[0].id();
    for number in 0..50 {
        pair.owner.desk.broadcast("/", &news(number));
    }
    let attached = Packet::event("/", "file")
        .binary(&b"\0\x1e\xff"[..])
        .build();
    pair.owner.desk.broadcast("/", &attached);
    let mut ws = pair.probe(&sid).await;
    pair.owner.desk.broadcast("/", &news(50));
    ws.send("5").await;
    until("it is there", || {
        !pair.other.desk.members.borrow().is_empty()
    })
    .await;
    pair.other.desk.broadcast("/", &news(51));
    // To the one that it has left.
    pair.owner.desk.broadcast("/", &news(99));

    for number in 0..50 {
        assert_eq!(ws.text().await, format!("42[\"news\",{number}]"));
    }
    assert_eq!(
        ws.text().await,
        "451-[\"file\",{\"_placeholder\":true,\"num\":0}]"
    );
    assert_eq!(
        ws.receive().await,
        common::Frame::Binary(b"\0\x1e\xff".to_vec())
    );
    for number in 50..52 {
        assert_eq!(ws.text().await, format!("42[\"news\",{number}]"));
    }
    ws.send("427[\"echo\",1]").await;
    assert_eq!(ws.text().await, "437[1]");
    assert_eq!(pair.other.desk.members.borrow()[0].id(), id);
    assert_eq!(reasons(&pair.owner), [DisconnectReason::Moved]);
    assert_eq!(pair.owner.engine.session_count(), 0);
    assert_eq!(pair.other.engine.session_count(), 1);
    for server in [&pair.owner, &pair.other] {
        assert_eq!(server.poll(&sid).await.0, 400);
        assert_eq!(server.post(&sid, "42[\"echo\",2]").await.0, 400);
    }

    drop(ws);
    until("it left", || !pair.other.desk.left.borrow().is_empty()).await;
    let lost = DisconnectReason::Ended(EndReason::TransportError);
    assert_eq!(reasons(&pair.other), [lost]);
    assert_eq!(pair.other.engine.session_count(), 0);
}

#[tokio::test(flavor = "local")]
async fn polls_that_wait_are_answered_with_nothing() {
    let pair = Pair::start().await;
    let noop = (200, "6".to_owned());
    // Polls arrive anywhere.
    for server in [&pair.owner, &pair.other] {
        let sid = pair.owner.join("/").await;
        let mut waiting = server.http().await;
        waiting.begin_get(&polling(&sid)).await;
        assert_eq!(server.post(&sid, "42[\"nothing\"]").await.0, 200);
        let mut ws = pair.probe(&sid).await;
        assert_eq!(waiting.answer().await, noop);
        assert_eq!(server.poll(&sid).await, noop, "and the next");
        // A client that does not wait for its last poll.
        waiting.begin_get(&polling(&sid)).await;
        ws.send("5").await;
        assert_eq!(waiting.answer().await, noop);
        ws.send("420[\"echo\",\"moved\"]").await;
        assert_eq!(ws.text().await, "430[\"moved\"]");
    }
}

#[tokio::test(flavor = "local")]
async fn bodies_on_their_way_are_waited_for() {
    let pair = Pair::start().await;
    for (before_probe, server) in [
        (true, &pair.owner),
        (true, &pair.other),
        // One that is elsewhere by then is not known of; stock clients wait for it themselves.
        (false, &pair.owner),
    ] {
        let sid = pair.owner.join("/").await;
        let body = b"42[\"echo\",\"late\"]";
        let mut post = server.http().await;
        let begin = async |post: &mut common::Http| {
            post.begin_post(&sid, body.len()).await;
            post.0.write_all(&body[..4]).await.unwrap();
            // The server has read as much once it answers another.
            assert_eq!(server.get("EIO=4&transport=polling").await.0, 200);
        };
        let mut ws = if before_probe {
            begin(&mut post).await;
            let mut ws = pair.connect(&sid).await;
            ws.send("2probe").await;
            ws
        } else {
            let mut ws = pair.probe(&sid).await;
            begin(&mut post).await;
            ws.send("5").await;
            ws
        };
        post.0.write_all(&body[4..]).await.unwrap();
        assert_eq!(post.answer().await, (200, "ok".to_owned()));
        if before_probe {
            assert_eq!(ws.text().await, "3probe");
            ws.send("5").await;
        }
        assert_eq!(ws.text().await, "42[\"back\",\"late\"]");
    }
}

#[tokio::test(flavor = "local")]
async fn acknowledgements_that_are_owed_are_waited_for() {
    let pair = Pair::start().await;
    for before_probe in [true, false] {
        let sid = pair.owner.join("/").await;
        let owe = async || {
            assert_eq!(pair.owner.post(&sid, "423[\"owe\"]").await.0, 200);
        };
        let mut ws = if before_probe {
            owe().await;
            let mut ws = pair.connect(&sid).await;
            ws.send("2probe").await;
            ws
        } else {
            let mut ws = pair.probe(&sid).await;
            owe().await;
            ws.send("5").await;
            ws
        };
        // The other one asks for the session meanwhile, or will.
        assert_eq!(pair.other.get("EIO=4&transport=polling").await.0, 200);
        let owed = pair.owner.desk.owed.borrow_mut().pop().unwrap();
        let _sent = owed.send(|answer| answer.value(&"done".into()));
        if before_probe {
            assert_eq!(ws.text().await, "3probe");
            ws.send("5").await;
        }
        assert_eq!(ws.text().await, "433[\"done\"]");
        ws.send("424[\"echo\"]").await;
        assert_eq!(ws.text().await, "434[]");
    }
}

#[tokio::test(flavor = "local")]
async fn verdicts_are_waited_for_and_sessions_in_no_namespace_move_too() {
    let pair = Pair::start().await;
    let sid = pair.owner.open().await;
    assert_eq!(pair.owner.post(&sid, "40/slow,").await.0, 200);
    until("it is asked", || pair.owner.desk.deciding.get() == 1).await;
    let mut ws = pair.connect(&sid).await;
    ws.send("2probe").await;
    assert_eq!(pair.other.get("EIO=4&transport=polling").await.0, 200);
    pair.owner.desk.decided.notify_one();
    assert_eq!(ws.text().await, "3probe");
    ws.send("5").await;
    assert!(
        ws.text().await.starts_with("40/slow,{"),
        "from the one before"
    );
    ws.send("42/slow,0[\"echo\"]").await;
    assert_eq!(ws.text().await, "43/slow,0[]");

    let sid = pair.owner.open().await;
    let mut ws = pair.upgrade(&sid).await;
    ws.send("40/ws,").await;
    assert!(ws.text().await.starts_with("40/ws,{"));
    assert_eq!(ws.text().await, "42/ws,[\"hello\"]", "new to the other one");
}

#[tokio::test(flavor = "local")]
async fn all_namespaces_move_with_what_they_are() {
    let pair = Pair::start().await;
    let sid = pair.owner.join("/recover").await;
    assert_eq!(pair.owner.post(&sid, "40/ws,\u{1e}40/slow,").await.0, 200);
    assert_eq!(pair.owner.post(&sid, "41/slow,").await.0, 200);
    let (_, answers) = pair.owner.poll(&sid).await;
    assert!(answers.starts_with("40/ws,{"), "{answers}");
    let mut ws = pair.upgrade(&sid).await;
    until("they are there", || {
        pair.other.desk.members.borrow().len() == 2
    })
    .await;
    // Still known as one that takes offsets.
    let packet = Packet::event("/recover", "a").value(&"text".into()).build();
    pair.other.desk.broadcast("/recover", &packet);
    assert_eq!(ws.text().await, "42/recover,[\"a\",\"text\",null]");
    pair.other.desk.broadcast("/recover", &missed(7, "x"));
    assert_eq!(ws.text().await, "42/recover,[\"news\",\"x\",\"7\"]");
    // May have crossed the end of the namespace.
    ws.send("42/slow,[\"echo\"]").await;
    ws.send("42/ws,1[\"echo\"]").await;
    assert_eq!(ws.text().await, "43/ws,1[]");
    assert_eq!(reasons(&pair.owner), [DisconnectReason::Moved; 2]);
    let state = &pair.moved.borrow()[0];
    assert!(state.settled && state.client.left_any);
    assert_eq!(state.client.opening, b"EIO=4&transport=polling");
    let told = format!("{state:?}");
    assert!(!told.contains(&sid), "{told}");
}

#[tokio::test(flavor = "local")]
async fn heartbeats_go_on() {
    let (mut engine, layer) = quick();
    engine.ping_interval = Duration::from_millis(100);
    engine.ping_timeout = Duration::from_millis(1_000);
    let pair = Pair::with(engine, layer).await;
    let sid = pair.owner.join("/").await;
    assert_eq!(pair.owner.poll(&sid).await, (200, "2".to_owned()));
    let mut ws = pair.upgrade(&sid).await;
    ws.send("3").await;
    assert_eq!(ws.text().await, "2", "after the answer to the one before");
    assert!(pair.moved.borrow()[0].pong_awaited);
    // Nobody answers this one.
    assert_eq!(ws.close_code().await, 1001);
    let late = DisconnectReason::Ended(EndReason::PingTimeout);
    assert_eq!(reasons(&pair.other), [late]);

    let sid = pair.owner.join("/").await;
    assert_eq!(pair.owner.poll(&sid).await, (200, "2".to_owned()));
    let mut ws = pair.upgrade(&sid).await;
    assert_eq!(ws.close_code().await, 1001, "the wait goes on as well");
}

#[tokio::test(flavor = "local")]
async fn messages_whose_attachments_are_under_way_go_on() {
    let pair = Pair::start().await;
    let sid = pair.owner.join("/").await;
    let head = "452-[\"echo\",{\"_placeholder\":true,\"num\":1},{\"_placeholder\":true,\"num\":0}]";
    assert_eq!(
        pair.owner.post(&sid, format!("{head}\u{1e}bAQI=")).await.0,
        200
    );
    let mut ws = pair.upgrade(&sid).await;
    ws.binary(&[3]).await;
    assert_eq!(ws.text().await, head.replace("echo", "back"));
    assert_eq!(ws.receive().await, common::Frame::Binary(vec![1, 2]));
    assert_eq!(ws.receive().await, common::Frame::Binary(vec![3]));
}

#[tokio::test(flavor = "local")]
async fn acknowledgements_of_the_client_end_with_the_move() {
    let pair = Pair::start().await;
    let sid = pair.owner.join("/").await;
    assert_eq!(pair.owner.post(&sid, "42[\"ask\"]").await.0, 200);
    let mut ws = pair.upgrade(&sid).await;
    assert_eq!(ws.text().await, "420[\"question\",1]");
    ws.send("42[\"ask\"]").await;
    assert_eq!(
        ws.text().await,
        "421[\"question\",1]",
        "a number of its own"
    );
    ws.send("430[\"too late\"]").await;
    ws.send("431[\"in time\"]").await;
    assert_eq!(ws.text().await, "42[\"answered\",[\"in time\"]]");
}
