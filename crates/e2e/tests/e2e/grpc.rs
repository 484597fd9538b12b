//! gRPC for other systems: who may call, what is verified, what is published
//! and what is refused, by which field. What happens when the bus does not play
//! along is in `grpc_faults`.

use std::time::Duration;

use serde_json::{Value, json};
use signalbox_auth::api;
use signalbox_auth::api::event_service_client::EventServiceClient;
use signalbox_auth::api::token_service_client::TokenServiceClient;
use signalbox_auth::api::verify_token_reply::Outcome;
use signalbox_bus::server::User;
use signalbox_bus::stream::{self, EVENTS};
use signalbox_testkit::{DEADLINE, Platform, Process, eventually, post, signalbox};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};
use tonic_types::StatusExt as _;

use crate::events::alert;
use crate::ingest::{expect_ids, subscriber};
use crate::metrics::Page;

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A channel to the auth service.
pub(crate) async fn channel(platform: &Platform) -> Channel {
    let url = format!("http://{}", platform.auth.listener());
    let endpoint = Channel::from_shared(url).unwrap();
    endpoint.timeout(DEADLINE).connect().await.unwrap()
}

/// A call with a credential.
pub(crate) fn call<M>(credential: &str, message: M) -> Request<M> {
    let mut request = Request::new(message);
    let bearer: MetadataValue<_> = format!("Bearer {credential}").parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    request
}

/// An alert with this id.
pub(crate) fn event(id: &str) -> api::Event {
    api::Event {
        r#type: "threat.threat_alert".to_owned(),
        id: id.to_owned(),
        source: "test".to_owned(),
        data: alert("HIGH").to_string(),
        ..api::Event::default()
    }
}

pub(crate) fn one(event: api::Event) -> api::PublishRequest {
    api::PublishRequest { event: Some(event) }
}

/// The reason and the field that a status names.
pub(crate) fn reason(status: &Status) -> (String, Option<String>) {
    let details = status.get_error_details();
    let info = details.error_info().expect("every error has a reason");
    assert_eq!(info.domain, "signalbox");
    let field = details
        .bad_request()
        .map(|bad| bad.field_violations[0].field.clone());
    (info.reason.clone(), field)
}

async fn verify(platform: &Platform, channel: &Channel, token: &str) -> Outcome {
    let mut client = TokenServiceClient::new(channel.clone());
    let token = token.to_owned();
    let request = call(
        &platform.api_key("producer"),
        api::VerifyTokenRequest { token },
    );
    let reply = client.verify_token(request).await.unwrap();
    reply.into_inner().outcome.unwrap()
}

fn refused(outcome: Outcome) -> api::Refusal {
    match outcome {
        Outcome::Refusal(refusal) => refusal,
        Outcome::Principal(principal) => panic!("accepted: {principal:?}"),
    }
}

#[tokio::test]
async fn tokens_and_keys_are_verified() {
    let platform = Platform::start(1).await;
    let channel = channel(&platform).await;
    let token = platform.token("analyst").await;
    let Outcome::Principal(of_token) = verify(&platform, &channel, &token).await else {
        panic!("refused");
    };
    assert_eq!(of_token.role, "analyst");
    assert!(of_token.permissions.contains(&"chat_agents".to_owned()));
    assert!(of_token.expires_at_seconds > 1_700_000_000);
    let Outcome::Principal(of_key) = verify(&platform, &channel, &platform.api_key("viewer")).await
    else {
        panic!("refused");
    };
    assert_eq!(
        (of_key.role.as_str(), of_key.expires_at_seconds),
        ("viewer", 0)
    );
    assert_ne!(of_key.credential_id, of_token.credential_id);
}

/// All credentials that are not good look the same; one that ends is refused
/// from then on.
/// The same key with a secret that is not its own, whatever that is.
fn with_another_secret(key: &str) -> String {
    let (rest, last) = key.split_at(key.len() - 1);
    format!("{rest}{}", if last == "A" { 'E' } else { 'A' })
}

#[tokio::test]
async fn bad_credentials_are_refused_alike() {
    let platform = Platform::start(1).await;
    let channel = channel(&platform).await;
    let key = platform.api_key("viewer");
    let token = platform.token("viewer").await;
    let (head, _) = token.rsplit_once('.').unwrap();
    let body = json!({"api_key": key, "ttl": 1}).to_string();
    let gateway = platform.gateways[0].listener();
    let (_, short) = post(gateway, "/api/v1/auth/token", &body).await;
    let short: Value = serde_json::from_str(&short).unwrap();
    let short = short["access_token"].as_str().unwrap();
    let expired = eventually("the end of a token", DEADLINE, async || {
        match verify(&platform, &channel, short).await {
            Outcome::Refusal(refusal) => Some(refusal),
            Outcome::Principal(_) => None,
        }
    });
    let expired = expired.await;
    assert_eq!(expired.code, "AUTH_FAILED");
    let wrong_secret = with_another_secret(&key);
    let forged = format!("{head}.{}", "A".repeat(86));
    for bad in [&wrong_secret, &forged, "nonsense", "", "a.b.c"] {
        let refusal = refused(verify(&platform, &channel, bad).await);
        assert_eq!(refusal, expired, "{bad}");
    }
    // The key of the token is revoked, and with it the token.
    let id = key.split('_').nth(1).unwrap();
    let mut revoke = signalbox();
    revoke
        .args(["key", "revoke", id])
        .env("NATS_URL", platform.nats.url(User::Registrar));
    assert!(Process::spawn(revoke).wait(DEADLINE).await.success());
    for ended in [&key, &token] {
        let refusal = refused(verify(&platform, &channel, ended).await);
        assert_eq!(
            (refusal.code, refusal.message),
            (expired.code.clone(), expired.message.clone())
        );
    }
    // Nor may it call any more.
    let request = call(&token, one(event("late")));
    let status = EventServiceClient::new(channel).publish(request).await;
    assert_eq!(status.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn callers_need_a_credential_and_a_permission() {
    let platform = Platform::start(1).await;
    let channel = channel(&platform).await;
    let mut tokens = TokenServiceClient::new(channel.clone());
    let mut events = EventServiceClient::new(channel);
    let ask = || api::VerifyTokenRequest::default();

    let status = tokens.verify_token(ask()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(reason(&status), ("AUTH_FAILED".to_owned(), None));
    let unknown = tokens.verify_token(call("nonsense", ask())).await;
    assert_eq!(unknown.unwrap_err().code(), Code::Unauthenticated);
    let status = events.publish(one(event("e"))).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);

    for role in ["viewer", "analyst", "operator", "agent"] {
        let key = platform.api_key(role);
        let status = tokens.verify_token(call(&key, ask())).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{role}");
        let status = events.publish(call(&key, one(event("e")))).await;
        let status = status.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{role}");
        let expected = ("FORBIDDEN".to_owned(), Some("type".to_owned()));
        assert_eq!(reason(&status), expected, "{role}");
        assert!(status.message().contains("publish:threat"), "{status}");
    }
    let bus = platform.bus(User::Admin).await;
    assert_eq!(stream::state(&bus, EVENTS).await.unwrap().last, 0);

    let page = Page::of(&platform.auth).await;
    let calls = |method, outcome| {
        let labels = [("method", method), ("outcome", outcome)];
        page.number("signalbox_auth_grpc_calls_total", &labels)
    };
    assert_eq!(calls("VerifyToken", "UNAUTHENTICATED"), 2);
    assert_eq!(calls("VerifyToken", "PERMISSION_DENIED"), 4);
    assert_eq!(calls("Publish", "PERMISSION_DENIED"), 4);
}

/// Failures of one key are answered later and later; a good one of the same
/// address is not held up.
#[tokio::test]
async fn repeated_failures_are_withheld() {
    let platform = Platform::start(1).await;
    let channel = channel(&platform).await;
    let key = platform.api_key("viewer");
    let wrong = with_another_secret(&key);
    let mut delays = Vec::new();
    for _ in 0..5 {
        delays.push(refused(verify(&platform, &channel, &wrong).await).delay_ms);
    }
    assert_eq!(delays, [0, 0, 0, 250, 500]);
    let mut events = EventServiceClient::new(channel.clone());
    let failing = async {
        // The sixth failure of the key: a second.
        let began = std::time::Instant::now();
        let status = events.publish(call(&wrong, one(event("x")))).await;
        assert_eq!(status.unwrap_err().code(), Code::Unauthenticated);
        began.elapsed()
    };
    let mut others = EventServiceClient::new(channel);
    let good = async {
        let request = call(&platform.api_key("producer"), one(event("good")));
        others.publish(request).await.unwrap();
    };
    let (withheld, ()) = tokio::join!(failing, good);
    assert!(withheld >= Duration::from_secs(1), "{withheld:?}");
}

#[tokio::test]
async fn events_are_delivered_once_and_in_order() {
    let platform = Platform::start(1).await;
    let mut client = subscriber(&platform).await;
    let mut events = EventServiceClient::new(channel(&platform).await);
    let key = platform.api_key("producer");
    let token = platform.token("producer").await;

    let mut request = call(&token, one(event("first")));
    request
        .metadata_mut()
        .insert("traceparent", TRACE.parse().unwrap());
    let reply = events.publish(request).await.unwrap().into_inner();
    let acknowledgement = reply.acknowledgement.unwrap();
    assert_eq!(acknowledgement.id, "first");
    let frame = client.expect("threat_alert").await;
    assert_eq!(frame["id"], "first");
    let bus = platform.bus(User::Admin).await;
    let stored = bus.jetstream().get_stream("TOPICS").await.unwrap();
    let stored = stored.get_raw_message(1).await.unwrap();
    let trace = stored.headers.get("traceparent").unwrap().to_string();
    assert_eq!(trace[..36], TRACE[..36], "the trace goes on");

    // Sent again, and in a batch with others.
    events
        .publish(call(&key, one(event("first"))))
        .await
        .unwrap();
    let batch = api::PublishBatchRequest {
        events: ["second", "first", "third"].map(event).to_vec(),
    };
    let reply = events.publish_batch(call(&key, batch)).await.unwrap();
    let ids = reply.into_inner().acknowledgements;
    let ids: Vec<_> = ids.iter().map(|one| one.id.as_str()).collect();
    assert_eq!(ids, ["second", "first", "third"]);
    let unnamed = api::Event {
        id: String::new(),
        ..event("")
    };
    let reply = events.publish(call(&key, one(unnamed))).await.unwrap();
    let given = reply.into_inner().acknowledgement.unwrap().id;
    assert_eq!(given.len(), 36);
    expect_ids(
        &mut client,
        ["second".to_owned(), "third".to_owned(), given],
    )
    .await;
}

#[tokio::test]
async fn bad_events_are_refused_by_their_field() {
    let platform = Platform::start(1).await;
    let mut events = EventServiceClient::new(channel(&platform).await);
    let key = platform.api_key("producer");
    let with = |change: fn(&mut api::Event)| {
        let mut bad = event("bad");
        change(&mut bad);
        bad
    };
    let cases: [(api::Event, &str, &str); 8] = [
        (api::Event::default(), "data", "INVALID_MESSAGE"),
        (with(|e| e.r#type.clear()), "type", "INVALID_MESSAGE"),
        (
            with(|e| e.r#type = "threat.no".into()),
            "type",
            "UNKNOWN_TYPE",
        ),
        (with(|e| e.id = "a b".into()), "id", "INVALID_MESSAGE"),
        (with(|e| e.time = "noon".into()), "time", "INVALID_MESSAGE"),
        (
            with(|e| e.priority = "x".into()),
            "priority",
            "INVALID_MESSAGE",
        ),
        (with(|e| e.data = "[]".into()), "data", "INVALID_MESSAGE"),
        (
            with(|e| e.data = e.data.replace("\"HIGH\"", "7")),
            "data.severity",
            "INVALID_MESSAGE",
        ),
    ];
    for (bad, field, code) in cases {
        let status = events.publish(call(&key, one(bad.clone()))).await;
        let status = status.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert_eq!(reason(&status), (code.to_owned(), Some(field.to_owned())));
        let batch = api::PublishBatchRequest {
            events: vec![event("good"), bad],
        };
        let status = events.publish_batch(call(&key, batch)).await.unwrap_err();
        let field = format!("events[1].{field}");
        assert_eq!(reason(&status), (code.to_owned(), Some(field)));
    }
    let none = api::PublishRequest { event: None };
    let status = events.publish(call(&key, none)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let twice = api::PublishBatchRequest {
        events: vec![event("same"), event("same")],
    };
    let status = events.publish_batch(call(&key, twice)).await.unwrap_err();
    assert_eq!(reason(&status).1.as_deref(), Some("events[1].id"));
    let bus = platform.bus(User::Admin).await;
    let state = stream::state(&bus, EVENTS).await.unwrap();
    assert_eq!(
        state.last, 0,
        "the good ones of bad batches are not published"
    );
}

#[tokio::test]
async fn what_is_too_large_is_refused() {
    let platform = Platform::start(1).await;
    let mut events = EventServiceClient::new(channel(&platform).await);
    let key = platform.api_key("producer");
    let of_size = |bytes: usize| {
        let mut data = alert("HIGH");
        data["note"] = "x".repeat(bytes).into();
        api::Event {
            data: data.to_string(),
            ..event("large")
        }
    };
    // Past the event's limit, and past the message's.
    for (bytes, field) in [(1_048_576, Some("data")), (1_200_000, None)] {
        let status = events.publish(call(&key, one(of_size(bytes)))).await;
        let status = status.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        let expected = ("TOO_LARGE".to_owned(), field.map(str::to_owned));
        assert_eq!(reason(&status), expected);
    }
    let many = api::PublishBatchRequest {
        events: (0..1_001).map(|id| event(&id.to_string())).collect(),
    };
    let status = events.publish_batch(call(&key, many)).await.unwrap_err();
    assert_eq!(reason(&status).1.as_deref(), Some("events"));
    let large = call(&key, one(of_size(1_000_000)));
    events.publish(large).await.unwrap();
    let long = api::VerifyTokenRequest {
        token: "x".repeat(8_193),
    };
    let mut tokens = TokenServiceClient::new(channel(&platform).await);
    let status = tokens.verify_token(call(&key, long)).await.unwrap_err();
    assert_eq!(reason(&status).1.as_deref(), Some("token"));
}

/// What tools such as grpcurl ask before they call.
#[tokio::test]
async fn reflection_lists_and_describes_the_services() {
    let platform = Platform::start(1).await;
    let mut client = ServerReflectionClient::new(channel(&platform).await);
    let mut ask = async |question| -> ServerReflectionResponse {
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(question),
        };
        let stream = futures_util::stream::iter([request]);
        let mut answers = client
            .server_reflection_info(stream)
            .await
            .unwrap()
            .into_inner();
        answers.message().await.unwrap().unwrap()
    };
    let answer = ask(MessageRequest::ListServices(String::new())).await;
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}");
    };
    let mut names: Vec<_> = list.service.into_iter().map(|one| one.name).collect();
    names.sort();
    assert_eq!(
        names,
        [
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "signalbox.api.v1.EventService",
            "signalbox.api.v1.TokenService",
        ]
    );
    let symbol = "signalbox.api.v1.EventService".to_owned();
    let answer = ask(MessageRequest::FileContainingSymbol(symbol)).await;
    let described = matches!(
        answer.message_response,
        Some(MessageResponse::FileDescriptorResponse(files)) if files.file_descriptor_proto.len() == 1
    );
    assert!(described);
}
