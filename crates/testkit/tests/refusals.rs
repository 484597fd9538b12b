//! A right that a user lacks is named to the caller at once; the client
//! library would report a time-out.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use signalbox_bus::publish::{Outgoing, PublishError, publish};
use signalbox_bus::reader::{OrderedReader, Reading};
use signalbox_bus::rpc::{self, CallError};
use signalbox_bus::server::User;
use signalbox_bus::stream::{self, DLQ, EVENTS, StreamSettings, TOPICS};
use signalbox_bus::{Bus, BusError, BusOptions, HeaderMap, history, key, subject};
use signalbox_protocol::wire;
use signalbox_testkit::{DEADLINE, NatsServer};

async fn bus(server: &NatsServer, user: User) -> Bus {
    let options = BusOptions {
        url: server.url(user),
        wait: DEADLINE,
    };
    Bus::connect(&options, "test").await.unwrap()
}

fn is_forbidden<T>(outcome: Result<T, BusError>) -> bool {
    matches!(outcome, Err(BusError::Forbidden { .. }))
}

#[tokio::test]
async fn a_missing_right_is_told_as_such() {
    let server = NatsServer::start().await;
    let admin = bus(&server, User::Admin).await;
    stream::init(&admin, &StreamSettings::default())
        .await
        .unwrap();
    let state = stream::state(&admin, TOPICS).await.unwrap();
    let producer = bus(&server, User::Producer).await;

    let message = Outgoing {
        subject: "topics.threat_alerts.-.-".to_owned(),
        message_id: "1".to_owned(),
        headers: HeaderMap::new(),
        payload: "{}".into(),
    };
    let refused = publish(&producer, &message, DEADLINE).await;
    assert!(
        matches!(refused, Err(PublishError::Forbidden(_))),
        "{refused:?}"
    );
    assert!(is_forbidden(stream::state(&producer, EVENTS).await));
    assert!(is_forbidden(
        history::page(&producer, DLQ, "dlq.>", 1, 1).await
    ));
    assert!(is_forbidden(producer.bucket(key::API_KEYS).await));
    let request = wire::VerifyKeyRequest::default();
    let refused: Result<wire::VerifyKeyReply, _> = rpc::call(
        &producer,
        subject::VERIFY_KEY,
        &request,
        None,
        Duration::from_secs(20),
    )
    .await;
    assert!(
        matches!(refused, Err(CallError::Forbidden(_))),
        "{refused:?}"
    );
    // The auth service may look at no stream of events.
    let auth = bus(&server, User::Auth).await;
    match OrderedReader::from_tip(auth, TOPICS, state).next(1).await {
        Reading::Interrupted(cause) => assert!(cause.contains("refuses this user"), "{cause}"),
        other => panic!("{other:?}"),
    }
}
