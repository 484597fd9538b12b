//! WebSocket and the upgrade to it: events both ways, binary attachments, acknowledgements,
//! namespaces, and upgrades that are completed, abandoned or not allowed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{Frame, TestServer, polling, quick, soon, until};
use signalbox_socketio::{DisconnectReason, EndReason, Packet, Transport};

#[tokio::test(flavor = "local")]
async fn events_acknowledgements_and_attachments_go_both_ways() {
    let server = TestServer::start().await;
    let mut ws = server.joined("/ws").await;
    assert_eq!(ws.text().await, "42/ws,[\"hello\"]", "behind the answer");
    ws.send("42/ws,[\"echo\",1,{\"a\":[]}]").await;
    assert_eq!(ws.text().await, "42/ws,[\"back\",1,{\"a\":[]}]");
    ws.send("42/ws,17[\"echo\"]").await;
    assert_eq!(ws.text().await, "43/ws,17[]");
    ws.send("452-/ws,9[\"echo\",{\"_placeholder\":true,\"num\":1}]")
        .await;
    ws.binary(b"one").await;
    // Only text would break the message; a pong is none.
    ws.send("3").await;
    ws.binary(b"two").await;
    assert_eq!(
        ws.text().await,
        "462-/ws,9[{\"_placeholder\":true,\"num\":1}]"
    );
    assert_eq!(ws.receive().await, Frame::Binary(b"one".to_vec()));
    assert_eq!(ws.receive().await, Frame::Binary(b"two".to_vec()));
}

#[tokio::test(flavor = "local")]
async fn an_acknowledgement_is_awaited_for_its_time() {
    let server = TestServer::start().await;
    let mut ws = server.joined("/").await;
    ws.send("42[\"ask\"]").await;
    assert_eq!(ws.text().await, "420[\"question\",1]");
    ws.send("430[\"answer\",2]").await;
    assert_eq!(ws.text().await, "42[\"answered\",[\"answer\",2]]");
    ws.send("42[\"ask\"]").await;
    assert_eq!(ws.text().await, "421[\"question\",1]");
    assert_eq!(
        ws.text().await,
        "42[\"answered\",\"no acknowledgement in time\"]"
    );
    for late in ["431[]", "430[]", "4399[1]"] {
        ws.send(late).await;
    }
    ws.send("42[\"echo\",\"still there\"]").await;
    assert_eq!(ws.text().await, "42[\"back\",\"still there\"]");

    let socket = server.desk.members.borrow()[0].clone();
    let event = || Packet::event("/", "question");
    let awaited: Vec<_> = (0..1024)
        .map(|_| socket.emit_with_ack(event(), Duration::from_secs(60)))
        .collect();
    let refused = soon(socket.emit_with_ack(event(), Duration::from_secs(60))).await;
    assert_eq!(
        refused.unwrap_err().to_string(),
        "too many acknowledgements are awaited"
    );
    drop(ws);
    for answer in awaited {
        let gone = soon(answer).await.unwrap_err();
        assert_eq!(gone.to_string(), "the socket has left");
    }
}

#[tokio::test(flavor = "local")]
async fn several_namespaces_share_a_connection() {
    let server = TestServer::start().await;
    let mut ws = server.joined("/").await;
    ws.send("40/ws,{\"token\":\"x\"}").await;
    assert!(ws.text().await.starts_with("40/ws,{\"sid\":\""));
    assert_eq!(ws.text().await, "42/ws,[\"hello\"]");
    ws.send("40/private,").await;
    assert_eq!(
        ws.text().await,
        "44/private,{\"message\":\"not for you\",\"data\":{\"code\":7}}"
    );
    ws.send("40/nowhere,").await;
    assert_eq!(
        ws.text().await,
        "44/nowhere,{\"message\":\"Invalid namespace\"}"
    );
    ws.send("42/ws,[\"kick\"]").await;
    assert_eq!(ws.text().await, "41/ws,");
    // This crossed the end of the namespace; it is no offence.
    ws.send("42/ws,[\"echo\"]").await;
    ws.send("42[\"echo\",1]").await;
    assert_eq!(ws.text().await, "42[\"back\",1]");
    let left = server.desk.left.borrow_mut().pop();
    assert_eq!(left, Some(("/ws".into(), DisconnectReason::ServerLeft)));
    ws.send("40/ws,").await;
    assert!(ws.text().await.starts_with("40/ws,"), "it may return");
    ws.send("41").await;
    until("it left", || !server.desk.left.borrow().is_empty()).await;
    let left = server.desk.left.borrow_mut().pop();
    assert_eq!(left, Some(("/".into(), DisconnectReason::ClientLeft)));
    drop(ws);
    until("all left", || !server.desk.left.borrow().is_empty()).await;
    let reason = DisconnectReason::Ended(EndReason::TransportError);
    assert_eq!(*server.desk.left.borrow(), [("/ws".into(), reason)]);
}

#[tokio::test(flavor = "local")]
async fn namespaces_are_bounded() {
    let (engine, mut layer) = quick();
    layer.max_namespaces = 2;
    let server = TestServer::with(engine, layer).await;
    let mut ws = server.joined("/").await;
    for _ in 0..2 {
        ws.send("40/slow,").await;
        ws.send("40/ws,").await;
        assert_eq!(
            ws.text().await,
            "44/ws,{\"message\":\"too many namespaces\"}"
        );
        ws.send("41/slow,").await;
    }
}

#[tokio::test(flavor = "local")]
async fn a_verdict_that_takes_its_time_holds_up_nothing_else() {
    let server = TestServer::start().await;
    let mut ws = server.joined("/").await;
    ws.send("40/slow,").await;
    ws.send("42[\"echo\",1]").await;
    assert_eq!(ws.text().await, "42[\"back\",1]");
    assert_eq!(server.desk.deciding.get(), 1);
    server.desk.decided.notify_one();
    assert!(ws.text().await.starts_with("40/slow,"));

    // Whoever leaves meanwhile is decided upon no more.
    let mut gone = server.websocket().await;
    gone.send("40/slow,").await;
    until("it is being decided", || server.desk.deciding.get() == 1).await;
    drop(gone);
    until("it is given up", || server.desk.deciding.get() == 0).await;
    let mut later = server.websocket().await;
    later.send("40/later,").await;
    assert_eq!(later.close_code().await, 1001, "no answer");
}

#[tokio::test(flavor = "local")]
async fn what_breaks_the_protocol_closes_the_connection() {
    let server = TestServer::start().await;
    for packet in [
        "",
        "abc",
        "0{}",
        "2",
        "2probe",
        "1x",
        "4",
        "4abc",
        "40",
        "42",
        "42{}",
        "42[]",
        "42[1",
        "42[null]",
        "42abc[\"a\"]",
        "42[\"connect\"]",
        "42/other,[\"a\"]",
        "43[]",
        "44{}",
        "45-[]",
        "4511-[\"a\"]",
        "451-/other,[\"a\"]",
        "451-[\"a\",{\"_placeholder\":true,\"num\":1}]",
        "451-[\"a\"",
        "40/ws,[]",
    ] {
        let mut ws = server.joined("/").await;
        ws.send(packet).await;
        assert_eq!(ws.close_code().await, 1002, "{packet:?}");
        let left = server.desk.left.borrow_mut().pop();
        let reason = DisconnectReason::Ended(EndReason::Malformed);
        assert_eq!(left, Some(("/".into(), reason)), "{packet:?}");
    }
    let mut ws = server.joined("/").await;
    ws.binary(b"unannounced").await;
    assert_eq!(ws.close_code().await, 1002);
    let mut ws = server.joined("/").await;
    ws.send("451-[\"a\"]").await;
    ws.send("42[\"a\"]").await;
    assert_eq!(ws.close_code().await, 1002);
    let mut first = server.websocket().await;
    first.send("42[\"ahead of a connect\"]").await;
    assert_eq!(first.close_code().await, 1002);
}

#[tokio::test(flavor = "local")]
async fn attachments_are_bounded_in_number_and_together() {
    let (engine, mut layer) = quick();
    layer.assembly.bytes = 1000;
    let server = TestServer::with(engine, layer).await;
    let mut ws = server.joined("/").await;
    ws.send("4599999999999999-[\"echo\"]").await;
    assert_eq!(ws.close_code().await, 1002);
    let mut ws = server.joined("/").await;
    ws.send("453-[\"echo\"]").await;
    for _ in 0..3 {
        ws.binary(&[0; 400]).await;
    }
    assert_eq!(ws.close_code().await, 1002);
    let mut ws = server.joined("/").await;
    ws.frame_of(2 << 20).await;
    assert_eq!(ws.close_code().await, 1009);
    until("it is known", || {
        !server
            .desk
            .members
            .borrow()
            .iter()
            .any(|m| m.is_connected())
    })
    .await;
    let left = server.desk.left.borrow().last().unwrap().1;
    assert_eq!(left, DisconnectReason::Ended(EndReason::TooLarge));
}

#[tokio::test(flavor = "local")]
async fn pings_come_one_interval_after_the_opening_and_must_be_answered() {
    let (mut engine, layer) = quick();
    engine.ping_interval = Duration::from_millis(60);
    engine.ping_timeout = Duration::from_millis(500);
    let server = TestServer::with(engine, layer).await;
    let mut ws = server.joined("/").await;
    for _ in 0..3 {
        assert_eq!(ws.text().await, "2");
        ws.send("3").await;
    }
    assert_eq!(ws.text().await, "2");
    assert_eq!(ws.close_code().await, 1001);
    let left = server.desk.left.borrow()[0].1;
    assert_eq!(left, DisconnectReason::Ended(EndReason::PingTimeout));
}

#[tokio::test(flavor = "local")]
async fn an_upgrade_loses_and_reorders_nothing() {
    let server = TestServer::start().await;
    let sid = server.join("/").await;
    let socket = server.desk.members.borrow()[0].clone();
    let event = |number: usize| Packet::event("/", "n").value(&number.into()).build();
    let mut sent = 0;
    let mut emit = |count: usize| {
        for _ in 0..count {
            let _sent = socket.emit(&event(sent));
            sent += 1;
        }
    };
    let mut poll = server.http().await;
    poll.begin_get(&polling(&sid)).await;
    let mut ws = server
        .upgrade(&format!("EIO=4&transport=websocket&sid={sid}"))
        .await
        .unwrap();
    ws.send("2probe").await;
    assert_eq!(ws.text().await, "3probe");
    assert_eq!(
        poll.answer().await,
        (200, "6".to_owned()),
        "to let the client go on"
    );
    emit(100);
    let (_, polled) = server.poll(&sid).await;
    emit(100);
    // What follows the end of the upgrade may come in the same segment.
    ws.raw(
        &[
            common::text_frame("5"),
            common::text_frame("421[\"echo\",\"first\"]"),
        ]
        .concat(),
    )
    .await;
    let mut received: Vec<String> = polled.split('\u{1e}').map(str::to_owned).collect();
    while received.len() < 200 {
        let text = ws.text().await;
        if text != "431[\"first\"]" {
            received.push(text);
        }
    }
    let expected: Vec<String> = (0..200).map(|n| format!("42[\"n\",{n}]")).collect();
    assert_eq!(received, expected);
    assert_eq!(socket.link().transport(), Transport::WebSocket);
    assert_eq!(server.poll(&sid).await.0, 400, "it polls no more");
    assert_eq!(server.post(&sid, "42[\"a\"]").await.0, 400);
    let mut second = server
        .upgrade(&format!("EIO=4&transport=websocket&sid={sid}"))
        .await
        .unwrap();
    assert_eq!(second.close_code().await, 1008);
    let _sent = socket.emit(&event(200));
    assert!(ws.text().await.starts_with("4"), "and still lives");
}

#[tokio::test(flavor = "local")]
async fn an_upgrade_that_is_not_completed_leaves_the_session_as_it_was() {
    let server = TestServer::start().await;
    let sid = server.join("/").await;
    let upgrade = format!("EIO=4&transport=websocket&sid={sid}");
    for packets in [
        &["abc"][..],
        &["2"],
        &["5"],
        &["2probe", "4x"],
        &["2probe"],
        &[],
    ] {
        let mut ws = server.upgrade(&upgrade).await.unwrap();
        for packet in packets {
            ws.send(packet).await;
        }
        assert_eq!(ws.close_code().await, 1008, "{packets:?}");
    }
    // One at a time.
    let mut first = server.upgrade(&upgrade).await.unwrap();
    first.send("2probe").await;
    assert_eq!(first.text().await, "3probe");
    let mut second = server.upgrade(&upgrade).await.unwrap();
    assert_eq!(second.close_code().await, 1008);
    drop(first);
    server.desk.broadcast("/", &Packet::event("/", "a").build());
    assert_eq!(server.poll(&sid).await, (200, "42[\"a\"]".to_owned()));
    // A session that ends meanwhile takes the connection with it.
    let mut ws = server.upgrade(&upgrade).await.unwrap();
    ws.send("2probe").await;
    assert_eq!(ws.text().await, "3probe");
    assert_eq!(server.post(&sid, "1").await.0, 200);
    ws.send("5").await;
    assert_eq!(ws.close_code().await, 1008);
}

#[tokio::test(flavor = "local")]
async fn a_polls_long_wait_ends_for_an_upgrade() {
    let server = TestServer::start().await;
    let sid = server.join("/").await;
    let mut ws = server
        .upgrade(&format!("EIO=4&transport=websocket&sid={sid}"))
        .await
        .unwrap();
    ws.send("2probe").await;
    assert_eq!(ws.text().await, "3probe");
    // A client may poll once more before it has seen the answer to its probe.
    assert_eq!(server.poll(&sid).await, (200, "6".to_owned()));
    ws.send("5").await;
    ws.send("421[\"echo\"]").await;
    assert_eq!(ws.text().await, "431[]");
}

#[tokio::test(flavor = "local")]
async fn what_comes_ahead_of_the_verdict_waits_for_it() {
    let server = TestServer::start().await;
    let mut ws = server.websocket().await;
    ws.send("40/slow,").await;
    ws.send("42/slow,1[\"echo\",1]").await;
    ws.send("42/slow,2[\"echo\",2]").await;
    common::until("the handler decides", || server.desk.deciding.get() == 1).await;
    server.desk.decided.notify_one();
    assert!(ws.text().await.starts_with("40/slow,"));
    assert_eq!(ws.text().await, "43/slow,1[1]");
    assert_eq!(ws.text().await, "43/slow,2[2]");
    // Not without bounds.
    let mut ws = server.websocket().await;
    ws.send("40/slow,").await;
    for _ in 0..33 {
        ws.send("42/slow,[\"echo\"]").await;
    }
    assert_eq!(ws.close_code().await, 1002);
}
