//! A domain's events between two routers: whoever has the later lease takes
//! them, and the other can no longer take or settle anything.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use signalbox_bus::lease::Generation;
use signalbox_bus::publish::{Outgoing, publish};
use signalbox_bus::server::User;
use signalbox_bus::stream::{self, EVENTS, StreamSettings};
use signalbox_bus::work_queue::{QueueError, Taken, Work, WorkQueue};
use signalbox_bus::{Bus, BusOptions, HeaderMap};
use signalbox_protocol::domain::Domain;
use signalbox_testkit::{DEADLINE, NatsServer, eventually};
use tokio::time::timeout;

async fn bus(server: &NatsServer, user: User) -> Bus {
    let options = BusOptions {
        url: server.url(user),
        wait: DEADLINE,
    };
    Bus::connect(&options, "test").await.unwrap()
}

/// A server with streams and this many events of domain `threat`.
async fn server(events: usize) -> (NatsServer, Bus) {
    let server = NatsServer::start().await;
    let admin = bus(&server, User::Admin).await;
    stream::init(&admin, &StreamSettings::default())
        .await
        .unwrap();
    for number in 0..events {
        let message = Outgoing {
            subject: "events.threat.threat_alert".to_owned(),
            message_id: number.to_string(),
            headers: HeaderMap::new(),
            payload: "{}".into(),
        };
        publish(&admin, &message, DEADLINE).await.unwrap();
    }
    (server, admin)
}

async fn queue(server: &NatsServer, generation: &str) -> WorkQueue {
    let bus = bus(server, User::Router).await;
    // Said a moment after the connection is there; it would interrupt the queue.
    let mut link = bus.link();
    let up = timeout(DEADLINE, link.wait_for(|link| link.up)).await;
    up.unwrap().unwrap();
    let generation: Generation = generation.parse().unwrap();
    WorkQueue::new(bus, Domain::Threat, generation)
}

async fn take(queue: &mut WorkQueue) -> Work {
    match timeout(DEADLINE, queue.next()).await.unwrap() {
        Taken::Work(work) => work,
        Taken::Interrupted(cause) => panic!("interrupted: {cause}"),
    }
}

/// How many events nobody has acknowledged.
async fn left(admin: &Bus) -> u64 {
    let stream = admin.jetstream().get_stream(EVENTS).await.unwrap();
    stream.cached_info().state.messages
}

#[tokio::test]
async fn the_later_holder_gets_everything_unacknowledged_in_order() {
    let (server, admin) = server(5).await;
    let mut former = queue(&server, "5f-9").await;
    former.reset().await.unwrap();
    take(&mut former).await.receipt.acknowledge().await;
    let held = take(&mut former).await;
    assert_eq!(held.sequence, 2);
    eventually("the acknowledgement", DEADLINE, async || {
        (left(&admin).await == 4).then_some(())
    })
    .await;

    // Requests of the former holder stand; they must get nothing more.
    let mut heir = queue(&server, "5f-10").await;
    heir.reset().await.unwrap();
    let mut works = Vec::new();
    for sequence in 2..=5 {
        let work = take(&mut heir).await;
        assert_eq!(work.sequence, sequence);
        works.push(work);
    }

    // An acknowledgement of the former holder means nothing: the heir has the
    // event now. Its own request comes after it, on the same connection.
    held.receipt.acknowledge().await;
    let interrupted = async {
        while let Taken::Work(work) = former.next().await {
            assert!(work.sequence <= 5);
        }
    };
    timeout(DEADLINE, interrupted).await.unwrap();
    assert!(matches!(former.reset().await, Err(QueueError::Superseded)));
    assert_eq!(left(&admin).await, 4);
    for work in works {
        work.receipt.acknowledge().await;
    }
    eventually("an empty queue", DEADLINE, async || {
        (left(&admin).await == 0).then_some(())
    })
    .await;
}

/// One who was halted between the lease and the queue.
#[tokio::test]
async fn an_earlier_holder_does_not_displace_a_later_one() {
    let (server, admin) = server(1).await;
    let mut heir = queue(&server, "5f-10").await;
    heir.reset().await.unwrap();
    let mut late = queue(&server, "5f-9").await;
    assert!(matches!(late.reset().await, Err(QueueError::Superseded)));
    take(&mut heir).await.receipt.acknowledge().await;
    eventually("an empty queue", DEADLINE, async || {
        (left(&admin).await == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_queue_whose_consumer_is_gone_makes_it_again() {
    let (server, admin) = server(2).await;
    let mut queue = queue(&server, "5f-9").await;
    queue.reset().await.unwrap();
    assert_eq!(take(&mut queue).await.sequence, 1);
    let stream = admin.jetstream().get_stream(EVENTS).await.unwrap();
    stream.delete_consumer("router-threat-5f-9").await.unwrap();
    timeout(DEADLINE, async {
        while let Taken::Work(_) = queue.next().await {}
    })
    .await
    .unwrap();
    queue.reset().await.unwrap();
    assert_eq!(take(&mut queue).await.sequence, 1);
}
