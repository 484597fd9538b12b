//! gRPC when the bus is away, and when the service is stopped: what was
//! acknowledged arrives once, and callers and health checks are told.

use signalbox_auth::api;
use signalbox_auth::api::event_service_client::EventServiceClient;
use signalbox_auth::api::token_service_client::TokenServiceClient;
use signalbox_testkit::{DEADLINE, Platform, eventually};
use tokio::net::TcpStream;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use crate::grpc::{call, channel, event, one, reason};
use crate::ingest::{expect_ids, subscriber};

const SERVICES: [&str; 3] = [
    "",
    "signalbox.api.v1.TokenService",
    "signalbox.api.v1.EventService",
];

async fn health(channel: &Channel, service: &str) -> ServingStatus {
    let mut client = HealthClient::new(channel.clone());
    let service = service.to_owned();
    let answer = client.check(HealthCheckRequest { service }).await.unwrap();
    answer.into_inner().status()
}

/// Waits until every service says this of itself.
async fn until(channel: &Channel, wanted: ServingStatus) {
    for service in SERVICES {
        eventually("the status", DEADLINE, async || {
            (health(channel, service).await == wanted).then_some(())
        })
        .await;
    }
}

/// How many events of an interrupted batch are stored.
fn acknowledged(status: &Status) -> usize {
    let details = status.get_error_details();
    let info = details.error_info().unwrap();
    info.metadata["acknowledged"].parse().unwrap()
}

/// Without the bus callers are told to come again and health checks that it is
/// pointless; with it the same calls leave each event stored once.
#[tokio::test]
async fn without_the_bus_calls_are_unavailable_and_can_be_repeated() {
    let platform = Platform::start(1).await;
    let mut client = subscriber(&platform).await;
    let channel = channel(&platform).await;
    let key = platform.api_key("producer");
    let mut events = EventServiceClient::new(channel.clone());
    let mut tokens = TokenServiceClient::new(channel.clone());
    until(&channel, ServingStatus::Serving).await;
    events.publish(call(&key, one(event("1")))).await.unwrap();
    expect_ids(&mut client, ["1".to_owned()]).await;

    platform.nats.kill9();
    until(&channel, ServingStatus::NotServing).await;
    let token = platform.api_key("viewer");
    let ask = api::VerifyTokenRequest { token };
    let status = tokens.verify_token(call(&key, ask)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let status = events.publish(call(&key, one(event("2")))).await;
    let status = status.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(reason(&status).0, "UNAVAILABLE");
    assert!(status.get_error_details().retry_info().is_some());

    platform.nats.restart().await;
    until(&channel, ServingStatus::Serving).await;
    for id in ["1", "2", "3"] {
        events.publish(call(&key, one(event(id)))).await.unwrap();
    }
    expect_ids(&mut client, ["2".to_owned(), "3".to_owned()]).await;
}

/// The bus is killed in the middle of a batch: the error says how many events
/// are stored, and the same call again leaves every event stored once.
#[tokio::test]
async fn a_batch_that_the_bus_interrupted_can_be_sent_again() {
    let platform = Platform::start(1).await;
    let mut client = subscriber(&platform).await;
    let channel = channel(&platform).await;
    let mut events = EventServiceClient::new(channel.clone());
    let key = platform.api_key("producer");
    let batch = api::PublishBatchRequest {
        events: (0..1_000).map(|id| event(&id.to_string())).collect(),
    };
    let sending = events.publish_batch(call(&key, batch.clone()));
    let killing = async {
        assert_eq!(client.expect("threat_alert").await["id"], "0");
        platform.nats.kill9();
    };
    let (answer, ()) = tokio::join!(sending, killing);
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let stored = acknowledged(&status);
    assert!((1..1_000).contains(&stored), "{stored}");
    platform.nats.restart().await;
    eventually("the batch to be taken", DEADLINE, async || {
        events.publish_batch(call(&key, batch.clone())).await.ok()
    })
    .await;
    events
        .publish(call(&key, one(event("after"))))
        .await
        .unwrap();
    let rest = (1..1_000).map(|id| id.to_string());
    expect_ids(&mut client, rest.chain(["after".to_owned()])).await;
}

/// A stop ends the streams of those who watch health, lets the call end that is
/// under way, and takes no further connection.
#[tokio::test]
async fn a_stop_lets_calls_end() {
    let platform = Platform::start(1).await;
    let mut client = subscriber(&platform).await;
    let channel = channel(&platform).await;
    let key = platform.api_key("producer");
    let mut watcher = HealthClient::new(channel.clone());
    let watched = HealthCheckRequest::default();
    let mut watched = watcher.watch(watched).await.unwrap().into_inner();
    let first = watched.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);

    let mut events = EventServiceClient::new(channel);
    let batch = api::PublishBatchRequest {
        events: (0..1_000).map(|id| event(&id.to_string())).collect(),
    };
    let sending = events.publish_batch(call(&key, batch));
    let stopping = async {
        assert_eq!(client.expect("threat_alert").await["id"], "0");
        platform.auth.process.sigterm();
    };
    let (answer, ()) = tokio::join!(sending, stopping);
    assert_eq!(answer.unwrap().into_inner().acknowledgements.len(), 1_000);
    let last = watched.message().await.unwrap().unwrap();
    assert_eq!(last.status(), ServingStatus::NotServing);
    assert!(watched.message().await.unwrap().is_none());
    assert!(platform.auth.process.wait(DEADLINE).await.success());
    let lines = platform.auth.process.stderr().lines().join("\n");
    assert!(!lines.contains("did not end in time"), "{lines}");
    assert!(TcpStream::connect(platform.auth.listener()).await.is_err());
    expect_ids(&mut client, (1..1_000).map(|id| id.to_string())).await;
}
