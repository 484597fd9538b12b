//! Requests and upgrades that arrive at other shards and gateways.

use std::time::Instant;

use signalbox_bus::server::User;
use signalbox_socketio::{DisconnectReason, EndReason, Packet};
use signalbox_testkit::NatsServer;
use tokio::task::JoinSet;

use super::desk::{Frame, polling, until};
use super::{Gateway, Neighbours, options, patience};

#[tokio::test(flavor = "local")]
async fn polls_and_bodies_are_answered_wherever_they_arrive() {
    let nats = NatsServer::start().await;
    let gateways = [
        Gateway::start(&nats, 2).await,
        Gateway::start(&nats, 2).await,
    ];
    let home = &gateways[0].shards[1];
    let sid = home.join("/").await;
    assert!(sid.contains("-1-"), "{sid}");
    for gateway in &gateways {
        for shard in &gateway.shards {
            assert_eq!(
                shard.post(&sid, "42[\"echo\",1]").await,
                (200, "ok".to_owned())
            );
            assert_eq!(shard.poll(&sid).await, (200, "42[\"back\",1]".to_owned()));
            let mut waiting = shard.http().await;
            waiting.begin_get(&polling(&sid)).await;
            assert_eq!(shard.post(&sid, "42[\"echo\",2]").await.0, 200);
            assert_eq!(waiting.answer().await, (200, "42[\"back\",2]".to_owned()));
            let binary = "451-[\"echo\",{\"_placeholder\":true,\"num\":0}]\u{1e}bAB7/";
            assert_eq!(shard.post(&sid, binary).await.0, 200);
            let (_, answer) = shard.poll(&sid).await;
            assert_eq!(answer, binary.replace("echo", "back"));
        }
    }
    assert_eq!(gateways[1].shards[0].post(&sid, "malformed").await.0, 400);
    assert_eq!(gateways[0].sessions() + gateways[1].sessions(), 0);
    assert_eq!(gateways[1].neighbours.calls.waiting(), 0);
    until("all is answered", || (gateways[0].answering)() == 0).await;
}

#[tokio::test(flavor = "local")]
async fn a_mebibyte_passes_both_ways() {
    let nats = NatsServer::start().await;
    let gateways = [
        Gateway::start(&nats, 1).await,
        Gateway::start(&nats, 1).await,
    ];
    let sid = gateways[0].shards[0].join("/").await;
    let other = &gateways[1].shards[0];
    let body = format!("42[\"echo\",\"{}\"]", "x".repeat(1_048_576 - 20));
    assert_eq!(other.post(&sid, &body).await.0, 200);
    let (status, answer) = other.poll(&sid).await;
    assert!(status == 200 && answer == body.replace("echo", "back"));
    // A single packet may be longer than that, but not than the bus takes.
    let long = "x".repeat(4 * 1_048_576);
    let packet = Packet::event("/", "news").value(&long.into()).build();
    gateways[0].shards[0].desk.broadcast("/", &packet);
    assert_eq!(other.poll(&sid).await.0, 400, "and it returns");
}

/// As where they arrive at the session, which has a limit of its own.
#[tokio::test(flavor = "local")]
async fn bodies_that_are_too_large_end_the_session() {
    const OWN: usize = 64 * 1024;
    let nats = NatsServer::start().await;
    let gateways = [
        Gateway::start(&nats, 2).await,
        Gateway::start(&nats, 1).await,
    ];
    let home = &gateways[0].shards[0];
    for arrival in [&gateways[0].shards[1], &gateways[1].shards[0]] {
        for length in [OWN + 1, 2 * 1_048_576] {
            let sid = home.join("/").await;
            for link in home.engine.links() {
                link.set_max_payload(OWN);
            }
            let fits = format!("42[\"echo\",\"{}\"]", "x".repeat(OWN - 20));
            assert_eq!(arrival.post(&sid, &fits).await.0, 200);
            let answer = arrival.post(&sid, vec![b'4'; length]).await;
            assert_eq!(answer.0, 413, "{length}");
            until("the session ended", || gateways[0].sessions() == 0).await;
            let left = home.desk.left.borrow_mut().pop().unwrap();
            let reason = DisconnectReason::Ended(EndReason::TooLarge);
            assert_eq!(left.1, reason, "{length}");
        }
    }
}

#[tokio::test(flavor = "local")]
async fn sessions_that_nobody_has_are_refused_at_once() {
    let nats = NatsServer::start().await;
    let gateway = Gateway::start(&nats, 2).await;
    let shard = &gateway.shards[0];
    let secret = "x".repeat(24);
    let own = gateway.neighbours.id;
    let began = Instant::now();
    for sid in [
        "guessed".to_owned(),
        format!("0000000000000000-0-{secret}"),
        format!("{own}-0-{secret}"),
        format!("{own}-1-{secret}"),
        format!("{own}-2-{secret}"),
        format!("{own}-65535-{secret}"),
        format!("*-0-{secret}"),
        format!("{own}.ask-0-{secret}"),
    ] {
        let text = sid.replace('*', "%2A");
        assert_eq!(shard.poll(&text).await.0, 400, "{sid}");
        assert_eq!(shard.post(&text, "4").await.0, 400, "{sid}");
        let query = format!("EIO=4&transport=websocket&sid={text}");
        match shard.upgrade(&query).await {
            Ok(mut ws) => {
                ws.send("2probe").await;
                assert_eq!(ws.receive().await, Frame::Close(1008), "{sid}");
            }
            Err(status) => assert_eq!(status, 400, "{sid}"),
        }
    }
    // Far below any time-out: nobody there is told as such.
    assert!(began.elapsed() < patience().push, "{:?}", began.elapsed());
    assert_eq!(gateway.neighbours.calls.waiting(), 0);
}

#[tokio::test(flavor = "local")]
async fn a_client_that_gives_up_its_poll_ends_its_session() {
    let nats = NatsServer::start().await;
    let gateways = [
        Gateway::start(&nats, 2).await,
        Gateway::start(&nats, 1).await,
    ];
    let home = &gateways[0].shards[0];
    for shard in [&gateways[0].shards[1], &gateways[1].shards[0]] {
        let sid = home.join("/").await;
        let mut waiting = shard.http().await;
        waiting.begin_get(&polling(&sid)).await;
        assert_eq!(shard.post(&sid, "42[\"nothing\"]").await.0, 200);
        assert_eq!(gateways[0].sessions(), 1);
        drop(waiting);
        until("the session ended", || gateways[0].sessions() == 0).await;
    }
    until("all is answered", || (gateways[0].answering)() == 0).await;
    assert_eq!(gateways[1].neighbours.calls.waiting(), 0);
}

#[tokio::test(flavor = "local")]
async fn connections_go_to_sessions_of_the_process_and_others_come_to_them() {
    let nats = NatsServer::start().await;
    let gateways = [
        Gateway::start(&nats, 2).await,
        Gateway::start(&nats, 2).await,
    ];
    let home = &gateways[0].shards[0];
    for (arrival, stays) in [
        (&gateways[0].shards[1], true),
        (&gateways[1].shards[1], false),
    ] {
        let sid = home.join("/").await;
        for number in 0..20 {
            let packet = Packet::event("/", "news").value(&number.into()).build();
            home.desk.broadcast("/", &packet);
        }
        let query = format!("EIO=4&transport=websocket&sid={sid}");
        let mut ws = arrival.upgrade(&query).await.unwrap();
        ws.send("2probe").await;
        assert_eq!(ws.text().await, "3probe");
        ws.send("5").await;
        for number in 0..20 {
            assert_eq!(ws.text().await, format!("42[\"news\",{number}]"));
        }
        ws.send("427[\"echo\",\"here\"]").await;
        assert_eq!(ws.text().await, "437[\"here\"]");
        let here = if stays { home } else { arrival };
        assert_eq!(here.engine.session_count(), 1);
        assert_eq!(gateways[0].sessions() + gateways[1].sessions(), 1);
        if !stays {
            let left = home.desk.left.borrow_mut().pop().unwrap();
            assert_eq!(left.1, DisconnectReason::Moved);
        }
        drop(ws);
        until("it is gone", || here.engine.session_count() == 0).await;
        home.desk.left.borrow_mut().clear();
    }
    assert_eq!(gateways[1].neighbours.calls.waiting(), 0);
    until("all is answered", || (gateways[0].answering)() == 0).await;
}

#[tokio::test(flavor = "local")]
async fn many_polls_wait_at_once_without_a_trace() {
    const SESSIONS: usize = 1_000;
    let nats = NatsServer::start().await;
    let gateways = [
        Gateway::start(&nats, 1).await,
        Gateway::start(&nats, 1).await,
    ];
    let home = &gateways[0].shards[0];
    let asked = gateways[1].neighbours.of_shard(0);
    let mut sids = Vec::new();
    for _ in 0..SESSIONS {
        sids.push(home.join("/").await);
    }
    let poll = |sid: &String| signalbox_socketio::SessionRequest {
        sid: sid.clone(),
        verb: signalbox_socketio::engine::Verb::Poll,
    };
    for round in 0..3 {
        let mut polls = JoinSet::new();
        for sid in &sids {
            let (asked, request) = (asked.clone(), poll(sid));
            polls.spawn_local(async move { asked.elsewhere(request).await });
        }
        until("all wait", || (gateways[0].answering)() == SESSIONS).await;
        let packet = Packet::event("/", "news").value(&round.into()).build();
        home.desk.broadcast("/", &packet);
        while let Some(answer) = polls.join_next().await {
            let answer = answer.unwrap().unwrap();
            assert_eq!(answer.body, format!("42[\"news\",{round}]"));
        }
    }
    // All give up at once.
    let mut polls = JoinSet::new();
    for sid in &sids {
        let (asked, request) = (asked.clone(), poll(sid));
        polls.spawn_local(async move { asked.elsewhere(request).await });
    }
    until("all wait", || (gateways[0].answering)() == SESSIONS).await;
    polls.shutdown().await;
    assert_eq!(gateways[1].neighbours.calls.waiting(), 0);
    until("all have ended", || gateways[0].sessions() == 0).await;
    until("all is answered", || (gateways[0].answering)() == 0).await;
}

#[tokio::test(flavor = "local")]
async fn users_who_may_not_listen_are_told_at_the_start() {
    let nats = NatsServer::start().await;
    let opened = Neighbours::open(&options(&nats, User::Auth), 1, patience()).await;
    let error = opened.err().unwrap().to_string();
    assert!(error.contains("svc.gateway."), "{error}");
}
