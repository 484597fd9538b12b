//! Replicas: they share the requests, each is answered by one of them, and
//! one suffices.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeSet;

use futures_util::StreamExt as _;
use signalbox_auth::Options;
use signalbox_bus::subject;
use signalbox_identity::Role;
use signalbox_testkit::DEADLINE;

use crate::common::{Service, World, expectations, request_for};

#[tokio::test]
async fn replicas_share_the_requests_and_one_suffices() {
    let world = World::new().await;
    let key = world.add_api_key(Role::Viewer, |_| ()).await;
    // Tokens tell which replica made them.
    let replica = |name: &str| Options {
        issuer: name.to_owned(),
        ..world.options()
    };
    let one = Service::start(replica("one")).await;
    let _two = Service::start(replica("two")).await;
    let issuer = async || {
        let token = world.issue(request_for(&key)).await.unwrap().access_token;
        let keys = world.key_set().await;
        let by = |name| keys.verify(&token, &expectations(name)).is_ok();
        ["one", "two"].into_iter().find(|name| by(*name)).unwrap()
    };
    let mut seen = BTreeSet::new();
    // A server that shares at random sends 100 to one with odds of 1 to 2^99.
    for _ in 0..100 {
        seen.insert(issuer().await);
        if seen.len() == 2 {
            break;
        }
    }
    assert_eq!(seen.len(), 2);

    one.stop().await;
    for _ in 0..20 {
        assert_eq!(issuer().await, "two");
    }
}

#[tokio::test]
async fn each_request_is_answered_by_one_replica() {
    const REQUESTS: usize = 50;
    let world = World::new().await;
    let one = Service::start(world.options()).await;
    let two = Service::start(world.options()).await;
    let client = world.gateway.client();
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(format!("{inbox}.*")).await.unwrap();
    for number in 0..REQUESTS {
        // No bytes are a request without a key, which is refused. The right to
        // answer is for one message on a subject.
        let reply = format!("{inbox}.{number}");
        let sent = client.publish_with_reply(subject::VERIFY_KEY, reply, "".into());
        sent.await.unwrap();
    }
    for _ in 0..REQUESTS {
        let answer = tokio::time::timeout(DEADLINE, answers.next()).await;
        answer.unwrap().unwrap();
    }
    one.stop().await;
    two.stop().await;
    answers.drain().await.unwrap();
    assert!(answers.next().await.is_none(), "a request had two answers");
}
