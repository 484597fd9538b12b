//! Moves between engines that fail: the session stays where it is, or is nowhere, and never at two.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{
    Frame, TestServer, Ws,
    neighbours::{Fault, Pair},
    quick, until,
};
use signalbox_socketio::{DisconnectReason, EndReason, Packet};
use tokio::io::AsyncWriteExt;

const REFUSED: u16 = 1008;

/// The session polls on, at its first server and through the other.
async fn polls_on(pair: &Pair, sid: &str) {
    for server in [&pair.owner, &pair.other] {
        // What a move has begun ends with its connection.
        loop {
            assert_eq!(server.post(sid, "42[\"echo\",1]").await.0, 200);
            match server.poll(sid).await {
                (200, noop) if noop == "6" => {}
                (200, back) => {
                    assert!(back.contains("42[\"back\",1]"), "{back}");
                    break;
                }
                refused => panic!("{refused:?}"),
            }
        }
    }
    assert!(pair.owner.desk.left.borrow().is_empty());
    assert!(pair.other.desk.members.borrow().is_empty());
    assert_eq!(pair.other.engine.session_count(), 0);
}

/// Afterwards the session moves, as if nothing had been.
async fn moves_at_last(pair: &Pair, sid: &str) {
    let mut ws = pair.upgrade(sid).await;
    ws.send("427[\"echo\",\"at last\"]").await;
    assert_eq!(ws.text().await, "437[\"at last\"]");
}

fn reasons(server: &TestServer) -> Vec<DisconnectReason> {
    let left = server.desk.left.borrow();
    left.iter().map(|(_, reason)| *reason).collect()
}

#[tokio::test(flavor = "local")]
async fn what_is_no_probe_moves_nothing() {
    let pair = Pair::start().await;
    let sid = pair.owner.join("/").await;
    for garbage in ["2", "2probe!", "5", "42[\"echo\"]", "", "probe"] {
        let mut ws = pair.connect(&sid).await;
        ws.send(garbage).await;
        assert_eq!(ws.receive().await, Frame::Close(REFUSED), "{garbage}");
    }
    let mut ws = pair.connect(&sid).await;
    ws.binary(b"2probe").await;
    assert_eq!(ws.receive().await, Frame::Close(REFUSED));
    let mut silent = pair.connect(&sid).await;
    assert_eq!(silent.receive().await, Frame::Close(REFUSED));
    polls_on(&pair, &sid).await;
    moves_at_last(&pair, &sid).await;
}

#[tokio::test(flavor = "local")]
async fn what_does_not_complete_an_upgrade_moves_nothing() {
    let pair = Pair::start().await;
    let sid = pair.owner.join("/").await;
    for garbage in ["5x", "2probe", "42[\"echo\"]", ""] {
        let mut ws = pair.probe(&sid).await;
        ws.send(garbage).await;
        assert_eq!(ws.receive().await, Frame::Close(REFUSED), "{garbage}");
    }
    let mut silent = pair.probe(&sid).await;
    assert_eq!(silent.receive().await, Frame::Close(REFUSED));
    polls_on(&pair, &sid).await;
    assert!(pair.moved.borrow().is_empty());
    moves_at_last(&pair, &sid).await;
}

#[tokio::test(flavor = "local")]
async fn a_client_that_leaves_amid_its_upgrade_polls_on() {
    let pair = Pair::start().await;
    let sid = pair.owner.join("/").await;
    drop(pair.connect(&sid).await);
    polls_on(&pair, &sid).await;
    drop(pair.probe(&sid).await);
    polls_on(&pair, &sid).await;
    moves_at_last(&pair, &sid).await;
}

#[tokio::test(flavor = "local")]
async fn only_one_connection_takes_a_session() {
    let pair = Pair::start().await;
    let sid = pair.owner.join("/").await;
    let query = format!("EIO=4&transport=websocket&sid={sid}");
    let second = async |mut ws: Ws| {
        ws.send("2probe").await;
        assert_eq!(ws.receive().await, Frame::Close(REFUSED));
    };
    let mut first = pair.probe(&sid).await;
    second(pair.connect(&sid).await).await;
    second(pair.owner.upgrade(&query).await.unwrap()).await;
    first.send("5").await;
    first.send("420[\"echo\"]").await;
    assert_eq!(first.text().await, "430[]");
    // It is unknown where it was, and has its connection where it is.
    assert_eq!(pair.owner.upgrade(&query).await.err(), Some(400));
    second(pair.connect(&sid).await).await;

    // An upgrade where the session is counts as well.
    let sid = pair.owner.join("/").await;
    let query = format!("EIO=4&transport=websocket&sid={sid}");
    let mut first = pair.owner.upgrade(&query).await.unwrap();
    first.send("2probe").await;
    assert_eq!(first.text().await, "3probe");
    second(pair.connect(&sid).await).await;
    first.send("5").await;
    first.send("420[\"echo\"]").await;
    assert_eq!(first.text().await, "430[]");
    second(pair.connect(&sid).await).await;
    assert_eq!(pair.owner.engine.session_count(), 1);
}

#[tokio::test(flavor = "local")]
async fn of_two_that_wait_for_a_session_one_gets_it() {
    let pair = Pair::start().await;
    let sid = pair.owner.join("/").await;
    assert_eq!(pair.owner.post(&sid, "423[\"owe\"]").await.0, 200);
    let mut connections = [pair.connect(&sid).await, pair.connect(&sid).await];
    for ws in &mut connections {
        ws.send("2probe").await;
    }
    // Both are asking by the time that another is answered.
    assert_eq!(pair.other.get("EIO=4&transport=polling").await.0, 200);
    pair.owner.desk.owed.borrow_mut().clear();
    let mut got = 0;
    for ws in &mut connections {
        match ws.receive().await {
            Frame::Text(answer) if answer == "3probe" => got += 1,
            refused => assert_eq!(refused, Frame::Close(REFUSED)),
        }
    }
    assert_eq!(got, 1);
}

#[tokio::test(flavor = "local")]
async fn a_session_that_ends_amid_its_move_is_nowhere() {
    let pair = Pair::start().await;
    for end in ["1", "malformed", "42[\"drop\"]"] {
        let sid = pair.owner.join("/").await;
        let mut ws = pair.probe(&sid).await;
        pair.owner.post(&sid, end).await;
        ws.send("5").await;
        assert_eq!(ws.receive().await, Frame::Close(REFUSED), "{end}");
        assert_eq!(pair.other.engine.session_count(), 0, "{end}");
        let left = pair.owner.desk.left.borrow_mut().pop().unwrap();
        assert_ne!(left.1, DisconnectReason::Moved, "{end}");
    }
    // A namespace that ends leaves the others.
    let sid = pair.owner.join("/").await;
    let mut ws = pair.probe(&sid).await;
    assert_eq!(pair.owner.post(&sid, "42[\"kick\"]").await.0, 200);
    ws.send("5").await;
    assert_eq!(ws.text().await, "41");
    ws.send("40").await;
    assert!(ws.text().await.starts_with("40{"));
}

#[tokio::test(flavor = "local")]
async fn an_owner_that_does_not_answer_leaves_the_client_polling() {
    let pair = Pair::start().await;
    let sid = pair.owner.join("/").await;
    pair.fault.set(Fault::Silent);
    let mut ws = pair.connect(&sid).await;
    ws.send("2probe").await;
    assert_eq!(ws.receive().await, Frame::Close(REFUSED));
    polls_on(&pair, &sid).await;
    pair.fault.set(Fault::None);
    moves_at_last(&pair, &sid).await;
}

#[tokio::test(flavor = "local")]
async fn a_session_that_is_lost_on_its_way_has_nobody() {
    let pair = Pair::start().await;
    for fault in [Fault::Lost, Fault::Mistaken] {
        let sid = pair.owner.join("/").await;
        pair.fault.set(fault);
        let mut ws = pair.upgrade(&sid).await;
        assert_eq!(ws.receive().await, Frame::Close(REFUSED), "{fault:?}");
        assert_eq!(pair.owner.poll(&sid).await.0, 400, "{fault:?}");
        assert_eq!(pair.owner.engine.session_count(), 0, "{fault:?}");
        assert_eq!(pair.other.engine.session_count(), 0, "{fault:?}");
    }
    assert_eq!(reasons(&pair.owner), [DisconnectReason::Moved; 2]);
}

#[tokio::test(flavor = "local")]
async fn handlers_decide_what_moves_and_what_is_taken() {
    let pair = Pair::start().await;
    let sid = pair.owner.join("/").await;
    pair.owner.desk.rooted.set(true);
    let mut ws = pair.connect(&sid).await;
    ws.send("2probe").await;
    assert_eq!(ws.receive().await, Frame::Close(REFUSED), "not answered");
    polls_on(&pair, &sid).await;
    // Changed its mind too late for the client.
    pair.owner.desk.rooted.set(false);
    let mut ws = pair.probe(&sid).await;
    pair.owner.desk.rooted.set(true);
    ws.send("5").await;
    assert_eq!(ws.receive().await, Frame::Close(REFUSED));
    polls_on(&pair, &sid).await;

    pair.owner.desk.rooted.set(false);
    pair.other.desk.closed.set(true);
    pair.owner
        .desk
        .broadcast("/", &Packet::event("/", "news").build());
    let mut ws = pair.upgrade(&sid).await;
    assert_eq!(ws.text().await, "42[\"news\"]");
    assert_eq!(ws.receive().await, Frame::Close(1001), "it returns");
    assert_eq!(reasons(&pair.owner), [DisconnectReason::Moved]);
    until("it is gone", || pair.other.engine.session_count() == 0).await;
    assert!(pair.other.desk.left.borrow().is_empty(), "never let in");
}

#[tokio::test(flavor = "local")]
async fn busy_sessions_do_not_move() {
    let (mut engine, layer) = quick();
    engine.move_patience = Duration::from_millis(100);
    engine.body_timeout = Duration::from_secs(30);
    let pair = Pair::with(engine, layer).await;
    let refused = async |mut ws: Ws| assert_eq!(ws.receive().await, Frame::Close(REFUSED));
    let sid = pair.owner.join("/").await;
    let ws = pair.probe(&sid).await;
    assert_eq!(pair.owner.post(&sid, "423[\"owe\"]").await.0, 200);
    for (mut ws, next) in [(ws, "5"), (pair.connect(&sid).await, "2probe")] {
        ws.send(next).await;
        refused(ws).await;
    }
    pair.owner.desk.owed.borrow_mut().clear();
    polls_on(&pair, &sid).await;

    let ws = pair.probe(&sid).await;
    let mut post = pair.owner.http().await;
    post.begin_post(&sid, 10).await;
    post.0.write_all(b"42").await.unwrap();
    assert_eq!(pair.owner.get("EIO=4&transport=polling").await.0, 200);
    for (mut ws, next) in [(ws, "5"), (pair.connect(&sid).await, "2probe")] {
        ws.send(next).await;
        refused(ws).await;
    }
    post.0.write_all(b"[\"echo\"]").await.unwrap();
    assert_eq!(post.answer().await.0, 200);
    polls_on(&pair, &sid).await;
    moves_at_last(&pair, &sid).await;
}

#[tokio::test(flavor = "local")]
async fn while_a_session_leaves_it_takes_no_requests() {
    let pair = Pair::start().await;
    let sid = pair.owner.join("/").await;
    let mut ws = pair.probe(&sid).await;
    assert_eq!(pair.owner.post(&sid, "423[\"owe\"]").await.0, 200);
    ws.send("5").await;
    // Until it is about to be handed over, requests are answered.
    while pair.owner.post(&sid, "42[\"nothing\"]").await.0 == 200 {}
    assert_eq!(pair.owner.poll(&sid).await.0, 400);
    assert_eq!(pair.owner.engine.session_count(), 1);
    pair.owner.desk.owed.borrow_mut().clear();
    ws.send("420[\"echo\"]").await;
    assert_eq!(ws.text().await, "430[]");
}

#[tokio::test(flavor = "local")]
async fn a_server_without_room_takes_no_session() {
    let (mut engine, layer) = quick();
    engine.max_move_bytes = 1_000;
    engine.max_sessions = 2;
    let pair = Pair::with(engine, layer).await;
    let sid = pair.owner.join("/").await;
    let query = format!("EIO=4&transport=websocket&sid={sid}");
    let held = [pair.other.websocket().await, pair.other.websocket().await];
    assert_eq!(pair.other.upgrade(&query).await.err(), Some(503));
    drop(held);
    until("there is room", || pair.other.engine.session_count() == 0).await;

    let long = "x".repeat(1_000);
    let packet = Packet::event("/", "news").value(&long.into()).build();
    pair.owner.desk.broadcast("/", &packet);
    let mut ws = pair.upgrade(&sid).await;
    assert_eq!(
        ws.receive().await,
        Frame::Close(REFUSED),
        "too much to take"
    );
    assert!(pair.owner.poll(&sid).await.1.contains("news"));
    polls_on(&pair, &sid).await;

    pair.other.engine.drain();
    assert_eq!(pair.other.upgrade(&query).await.err(), Some(503));
    assert_eq!(
        pair.other
            .upgrade("EIO=4&transport=websocket&sid=nowhere")
            .await
            .err(),
        Some(400)
    );
    // What it had is where it was.
    assert_eq!(pair.owner.engine.session_count(), 1);
    pair.owner.engine.links()[0].close();
    let gone = || !pair.owner.desk.left.borrow().is_empty();
    until("it has left", gone).await;
    assert_eq!(
        reasons(&pair.owner),
        [DisconnectReason::Ended(EndReason::ServerClosed)]
    );
}
