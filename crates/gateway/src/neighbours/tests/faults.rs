//! Gateways that are gone, stalled or cut off, and shards that are behind.

use std::time::Duration;

use signalbox_socketio::SessionRequest;
use signalbox_socketio::engine::Verb;
use signalbox_testkit::NatsServer;
use tokio::task::JoinSet;

use super::super::ORDERS_CAPACITY;
use super::desk::{Frame, polling, until};
use super::{Gateway, Neighbours, Patience, options, patience};
use signalbox_bus::server::User;

#[tokio::test(flavor = "local")]
async fn polls_at_a_gateway_that_ends_are_answered_soon() {
    let nats = NatsServer::start().await;
    let (gone, here) = (
        Gateway::start(&nats, 1).await,
        Gateway::start(&nats, 1).await,
    );
    let sid = gone.shards[0].join("/").await;
    let shard = &here.shards[0];
    let mut waiting = shard.http().await;
    waiting.begin_get(&polling(&sid)).await;
    assert_eq!(shard.post(&sid, "42[\"nothing\"]").await.0, 200);
    // As its connection to the bus, when it is killed.
    gone.desk.abort();
    let (status, body) = waiting.answer().await;
    assert_eq!(status, 400);
    assert!(body.contains("Session ID unknown"), "{body}");
    assert_eq!(shard.post(&sid, "42[\"nothing\"]").await.0, 400);
    let query = format!("EIO=4&transport=websocket&sid={sid}");
    let mut ws = shard.upgrade(&query).await.unwrap();
    ws.send("2probe").await;
    assert_eq!(ws.receive().await, Frame::Close(1008));
    assert_eq!(here.neighbours.calls.waiting(), 0);
}

#[tokio::test(flavor = "local")]
async fn a_gateway_that_stalls_is_waited_for_no_longer_than_said() {
    let nats = NatsServer::start().await;
    // It listens, and never gets to it.
    let (stalled, _orders, _desk) = Neighbours::open(&options(&nats, User::Gateway), 1, patience())
        .await
        .unwrap();
    let short = Duration::from_millis(100);
    let impatient = Patience {
        poll: short,
        push: short,
        moving: short,
        ..patience()
    };
    let here = Gateway::with(&nats, 1, impatient).await;
    let sid = stalled.of_shard(0).session_id();
    let shard = &here.shards[0];
    assert_eq!(shard.poll(&sid).await.0, 400);
    assert_eq!(shard.post(&sid, "4").await.0, 400);
    let query = format!("EIO=4&transport=websocket&sid={sid}");
    let mut ws = shard.upgrade(&query).await.unwrap();
    ws.send("2probe").await;
    assert_eq!(ws.receive().await, Frame::Close(1008));
    assert_eq!(here.neighbours.calls.waiting(), 0);
}

#[tokio::test(flavor = "local")]
async fn answers_may_be_lost_with_the_bus_so_that_nobody_goes_on() {
    let nats = NatsServer::start().await;
    let gateways = [
        Gateway::start(&nats, 1).await,
        Gateway::start(&nats, 1).await,
    ];
    let (home, shard) = (&gateways[0].shards[0], &gateways[1].shards[0]);
    let sid = home.join("/").await;
    let mut waiting = shard.http().await;
    waiting.begin_get(&polling(&sid)).await;
    assert_eq!(shard.post(&sid, "42[\"nothing\"]").await.0, 200);
    nats.kill9();
    assert_eq!(waiting.answer().await.0, 400);
    nats.restart().await;
    until("the session ended", || gateways[0].sessions() == 0).await;
    // And as before.
    let sid = home.join("/").await;
    let mut tries = 0;
    while shard.post(&sid, "42[\"echo\",1]").await.0 != 200 {
        tries += 1;
        assert!(tries < 1_000, "the gateways do not find each other again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(shard.poll(&sid).await, (200, "42[\"back\",1]".to_owned()));
}

#[tokio::test(flavor = "local")]
async fn a_shard_that_is_behind_takes_no_more() {
    let nats = NatsServer::start().await;
    let options = options(&nats, User::Gateway);
    let (neighbours, _orders, _desk) = Neighbours::open(&options, 2, patience()).await.unwrap();
    let sid = neighbours.of_shard(1).session_id();
    let request = || SessionRequest {
        sid: sid.clone(),
        verb: Verb::Poll,
    };
    let asking = neighbours.of_shard(0);
    let mut waiting = JoinSet::new();
    for _ in 0..ORDERS_CAPACITY {
        let (asking, request) = (asking.clone(), request());
        waiting.spawn_local(async move { asking.elsewhere(request).await });
    }
    let refused = loop {
        tokio::task::yield_now().await;
        let answer = tokio::time::timeout(Duration::from_millis(10), asking.elsewhere(request()));
        if let Ok(answer) = answer.await {
            break answer.unwrap();
        }
    };
    assert_eq!(refused.status, http::StatusCode::SERVICE_UNAVAILABLE);
    assert!(asking.upgrade_elsewhere(&sid).is_none());
}

/// A gateway that took hold of a session and is killed lets it go.
#[tokio::test(flavor = "local")]
async fn a_claim_ends_with_its_time() {
    let nats = NatsServer::start().await;
    let short = Patience {
        claim: Duration::from_millis(200),
        ..patience()
    };
    let (home, gone) = (
        Gateway::with(&nats, 1, short).await,
        Gateway::start(&nats, 1).await,
    );
    let sid = home.shards[0].join("/").await;
    let query = format!("EIO=4&transport=websocket&sid={sid}");
    let mut ws = gone.shards[0].upgrade(&query).await.unwrap();
    ws.send("2probe").await;
    assert_eq!(ws.text().await, "3probe");
    gone.desk.abort();
    until("the claim ended", || (home.answering)() == 0).await;
    let other = Gateway::start(&nats, 1).await;
    let mut ws = other.shards[0].upgrade(&query).await.unwrap();
    ws.send("2probe").await;
    assert_eq!(ws.text().await, "3probe");
    ws.send("5").await;
    ws.send("420[\"echo\"]").await;
    assert_eq!(ws.text().await, "430[]");
    assert_eq!(home.sessions(), 0);
}
