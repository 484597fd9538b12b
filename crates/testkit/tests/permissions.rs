//! The rights of each user of a managed server, tried against a real one: what
//! a service needs works through the library, and what it must not do is refused.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use async_nats::{
    Client, ConnectOptions, Event,
    jetstream::{
        self,
        consumer::{pull, push},
        kv, stream,
    },
};
use futures_util::StreamExt;
use signalbox_bus::server::User;
use signalbox_testkit::{DEADLINE, NatsServer};
use tokio::{sync::mpsc, time::timeout};

/// A client of one user that knows what the server refused it.
struct Tried {
    user: User,
    client: Client,
    refusals: mpsc::Receiver<String>,
}

impl Tried {
    async fn connect(server: &NatsServer, user: User) -> Self {
        let (sender, refusals) = mpsc::channel(64);
        let options = ConnectOptions::new()
            .request_timeout(Some(DEADLINE))
            .event_callback(move |event| {
                if let Event::ServerError(error) = event {
                    sender.try_send(error.to_string()).ok();
                }
                std::future::ready(())
            });
        let client = server.connect_with(user, options).await;
        Self {
            user,
            client,
            refusals,
        }
    }

    fn jetstream(&self) -> jetstream::Context {
        jetstream::new(self.client.clone())
    }

    /// The next refusal must be of this operation on this subject.
    async fn refused(&mut self, operation: &str, subject: &str) {
        let refusal = timeout(DEADLINE, self.refusals.recv()).await;
        let refusal =
            refusal.unwrap_or_else(|_| panic!("{}: {operation} {subject} passed", self.user));
        let refusal = refusal.unwrap().to_lowercase();
        let expected =
            format!("permissions violation for {operation} to \"{subject}\"").to_lowercase();
        assert!(
            refusal.contains(&expected),
            "{}: {refusal} instead of {expected}",
            self.user
        );
    }

    async fn must_not_publish(&mut self, subjects: &[&'static str]) {
        for subject in subjects {
            self.client.publish(*subject, "{}".into()).await.unwrap();
            self.refused("publish", subject).await;
        }
    }

    async fn must_not_subscribe(&mut self, subjects: &[&'static str]) {
        for subject in subjects {
            let _subscription = self.client.subscribe(*subject).await.unwrap();
            self.refused("subscription", subject).await;
        }
    }

    /// Nothing was refused up to now: the first refusal is of what is tried last.
    async fn all_passed(&mut self) {
        self.must_not_publish(&["probe.of.refusals"]).await;
    }
}

/// A server with the streams and buckets that the rights are about.
async fn server() -> NatsServer {
    let server = NatsServer::start().await;
    let jetstream = jetstream::new(server.connect(User::Admin).await);
    let streams = [
        ("EVENTS", "events.>"),
        ("TOPICS", "topics.>"),
        ("DLQ", "dlq.>"),
    ];
    for (name, subject) in streams {
        let config = stream::Config {
            name: name.to_owned(),
            subjects: vec![subject.to_owned()],
            allow_direct: true,
            ..stream::Config::default()
        };
        let stream = jetstream.create_stream(config).await.unwrap();
        if name == "EVENTS" {
            let config = pull::Config {
                durable_name: Some("former".to_owned()),
                filter_subject: "events.threat.>".to_owned(),
                ..pull::Config::default()
            };
            stream.create_consumer(config).await.unwrap();
        }
    }
    for bucket in ["api_keys", "signing_keys", "dlq_replays", "leases"] {
        let config = kv::Config {
            bucket: bucket.to_owned(),
            limit_markers: Some(Duration::from_secs(60)),
            ..kv::Config::default()
        };
        jetstream.create_key_value(config).await.unwrap();
    }
    server
}

async fn publish(jetstream: &jetstream::Context, subject: &'static str) {
    jetstream
        .publish(subject, "{}".into())
        .await
        .unwrap()
        .await
        .unwrap();
}

/// Reads the first message of a stream by a push consumer of one's own.
async fn read_first(reader: &Tried, stream: &str) {
    let config = push::OrderedConfig {
        deliver_subject: reader.client.new_inbox(),
        ..push::OrderedConfig::default()
    };
    let stream = reader.jetstream().get_stream(stream).await.unwrap();
    let mut messages = stream
        .create_consumer(config)
        .await
        .unwrap()
        .messages()
        .await
        .unwrap();
    timeout(DEADLINE, messages.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn producer_publishes_events_and_nothing_else() {
    let server = server().await;
    let mut producer = Tried::connect(&server, User::Producer).await;
    publish(&producer.jetstream(), "events.threat.threat_alert").await;
    producer.all_passed().await;
    producer
        .must_not_publish(&[
            "topics.threat_alerts.-.-.global",
            "dlq.threat.threat_alert",
            "$JS.API.STREAM.INFO.EVENTS",
            "$JS.API.STREAM.DELETE.EVENTS",
            "$JS.API.CONSUMER.CREATE.TOPICS.spy",
            "$JS.API.DIRECT.GET.TOPICS",
            "$KV.signing_keys.k1",
            "svc.auth.verify",
        ])
        .await;
    producer
        .must_not_subscribe(&["events.>", "topics.>", "_INBOX_gateway.>", "_INBOX.>", ">"])
        .await;
}

#[tokio::test]
async fn responder_answers_calls_of_tools_and_does_nothing_else() {
    let server = server().await;
    let mut responder = Tried::connect(&server, User::Responder).await;
    let mut calls = responder
        .client
        .queue_subscribe("tools.lookup_host", "any".to_owned())
        .await
        .unwrap();
    responder.client.flush().await.unwrap();
    let mut orchestrator = Tried::connect(&server, User::Orchestrator).await;
    let asking = orchestrator
        .client
        .request("tools.lookup_host", "which?".into());
    let answering = async {
        let call = timeout(DEADLINE, calls.next()).await.unwrap().unwrap();
        let reply = call.reply.unwrap();
        let client = &responder.client;
        client.publish(reply.clone(), "this".into()).await.unwrap();
        reply
    };
    let (answer, reply) = tokio::join!(asking, answering);
    assert_eq!(answer.unwrap().payload, "this");
    orchestrator.all_passed().await;
    orchestrator.must_not_subscribe(&["tools.>"]).await;
    responder.all_passed().await;
    // Once.
    let again = responder.client.publish(reply.clone(), "that".into());
    again.await.unwrap();
    responder.refused("publish", &reply).await;
    responder
        .must_not_publish(&[
            "tools.lookup_host",
            "events.threat.threat_alert",
            "topics.threat_alerts.-.-.global",
            "svc.orchestrator.0.chat",
            "log.chat.=ada.=chat-0",
            "$JS.API.INFO",
            "$JS.API.STREAM.INFO.TOPICS",
            "$JS.API.DIRECT.GET.TOPICS",
            "$JS.API.CONSUMER.CREATE.TOPICS.spy",
            "$KV.leases.orchestrator.shard.0",
            "_INBOX_orchestrator.x",
        ])
        .await;
    responder
        .must_not_subscribe(&[
            "events.>",
            "topics.>",
            "svc.>",
            "live.>",
            "_INBOX_orchestrator.>",
            ">",
        ])
        .await;
}

#[tokio::test]
async fn router_takes_events_and_writes_topics_and_dead_letters() {
    let server = server().await;
    publish(
        &jetstream::new(server.connect(User::Admin).await),
        "events.threat.threat_alert",
    )
    .await;

    let mut router = Tried::connect(&server, User::Router).await;
    let jetstream = router.jetstream();
    let events = jetstream.get_stream("EVENTS").await.unwrap();
    let names = events.consumer_names().collect::<Vec<_>>().await;
    assert_eq!(names.len(), 1);
    events.delete_consumer("former").await.unwrap();
    let config = pull::Config {
        durable_name: Some("threat".to_owned()),
        filter_subject: "events.threat.>".to_owned(),
        ..pull::Config::default()
    };
    events.create_consumer_strict(config).await.unwrap();
    let consumer: jetstream::consumer::PullConsumer = events.get_consumer("threat").await.unwrap();
    events.reset_consumer("threat", None).await.unwrap();
    let mut messages = consumer.fetch().max_messages(1).messages().await.unwrap();
    let message = timeout(DEADLINE, messages.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    publish(&jetstream, "topics.threat_alerts.-.-.global").await;
    publish(&jetstream, "dlq.threat.threat_alert").await;
    let topics = jetstream.get_stream("TOPICS").await.unwrap();
    topics
        .direct_get_last_for_subject("topics.threat_alerts.-.-.global")
        .await
        .unwrap();
    topics
        .get_last_raw_message_by_subject("topics.threat_alerts.-.-.global")
        .await
        .unwrap();
    message.double_ack().await.unwrap();
    router.all_passed().await;

    let leases = jetstream.get_key_value("leases").await.unwrap();
    let ttl = Duration::from_secs(60);
    let revision = leases
        .create_with_ttl("router.threat", "me".into(), ttl)
        .await
        .unwrap();
    let mut watch = leases.watch_with_history(">").await.unwrap();
    let seen = timeout(DEADLINE, watch.next()).await.unwrap().unwrap();
    assert_eq!(seen.unwrap().key, "router.threat");
    let stream = jetstream.get_stream("KV_leases").await.unwrap();
    stream
        .get_last_raw_message_by_subject("$KV.leases.router.threat")
        .await
        .unwrap();
    leases
        .purge_expect_revision_with_ttl("router.threat", revision, ttl)
        .await
        .unwrap();
    router.all_passed().await;

    router
        .must_not_publish(&[
            "events.threat.threat_alert",
            "$JS.API.STREAM.UPDATE.TOPICS",
            "$JS.API.STREAM.PURGE.EVENTS",
            "$JS.API.STREAM.PURGE.KV_leases",
            "$JS.API.STREAM.MSG.DELETE.EVENTS",
            "$JS.API.CONSUMER.CREATE.EVENTS.other",
            "$JS.API.CONSUMER.CREATE.EVENTS.other.topics.>",
            "$JS.API.CONSUMER.CREATE.TOPICS.spy",
            "$JS.API.CONSUMER.CREATE.KV_api_keys.spy",
            "$KV.api_keys.k1",
            "$KV.signing_keys.k1",
            "$JS.API.DIRECT.GET.KV_api_keys.$KV.api_keys.k1",
        ])
        .await;
    router
        .must_not_subscribe(&["topics.>", "svc.auth.>", "_INBOX_auth.>", "$KV.>"])
        .await;
}

#[tokio::test]
async fn gateway_reads_topics_and_public_keys_and_publishes_events() {
    let server = server().await;
    let admin = jetstream::new(server.connect(User::Admin).await);
    publish(&admin, "topics.threat_alerts.-.-.global").await;
    let keys = admin.get_key_value("signing_keys").await.unwrap();
    keys.put("k1", "public half".into()).await.unwrap();

    let mut gateway = Tried::connect(&server, User::Gateway).await;
    read_first(&gateway, "TOPICS").await;
    publish(&gateway.jetstream(), "events.threat.threat_alert").await;
    let keys = gateway
        .jetstream()
        .get_key_value("signing_keys")
        .await
        .unwrap();
    assert_eq!(keys.get("k1").await.unwrap().unwrap(), "public half");
    let mut watch = keys.watch_with_history(">").await.unwrap();
    timeout(DEADLINE, watch.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    gateway.all_passed().await;

    gateway
        .must_not_publish(&[
            "topics.threat_alerts.-.-.global",
            "dlq.threat.threat_alert",
            "$KV.signing_keys.k1",
            "$JS.API.DIRECT.GET.KV_api_keys.$KV.api_keys.k1",
            "$JS.API.CONSUMER.CREATE.KV_api_keys.spy",
            "$JS.API.CONSUMER.CREATE.EVENTS.spy",
            "$JS.API.STREAM.DELETE.TOPICS",
            "$JS.API.STREAM.MSG.DELETE.TOPICS",
        ])
        .await;
    gateway
        .must_not_subscribe(&["topics.>", "svc.auth.>", "_INBOX_router.>", "$KV.>"])
        .await;
}

#[tokio::test]
async fn auth_answers_requests_and_owns_the_keys() {
    let server = server().await;
    let mut auth = Tried::connect(&server, User::Auth).await;
    let mut requests = auth.client.subscribe("svc.auth.>").await.unwrap();
    auth.client.flush().await.unwrap();
    let gateway = Tried::connect(&server, User::Gateway).await;
    let asking = gateway.client.request("svc.auth.verify", "key".into());
    let answering = async {
        let request = timeout(DEADLINE, requests.next()).await.unwrap().unwrap();
        auth.client
            .publish(request.reply.unwrap(), "yes".into())
            .await
            .unwrap();
    };
    let (answer, ()) = tokio::join!(asking, answering);
    assert_eq!(answer.unwrap().payload, "yes");
    for bucket in ["api_keys", "signing_keys"] {
        let keys = auth.jetstream().get_key_value(bucket).await.unwrap();
        let revision = keys.create("k1", "one".into()).await.unwrap();
        keys.update("k1", "two".into(), revision).await.unwrap();
        assert_eq!(keys.get("k1").await.unwrap().unwrap(), "two");
        let names = keys.keys().await.unwrap().collect::<Vec<_>>().await;
        assert_eq!(names.len(), 1);
    }
    auth.all_passed().await;

    auth.must_not_publish(&[
        "events.security.x",
        "topics.security.-.-.global",
        "_INBOX_gateway.made.up",
        "$JS.API.STREAM.DELETE.KV_api_keys",
        "$JS.API.CONSUMER.CREATE.TOPICS.spy",
        "$KV.leases.threat",
    ])
    .await;
    auth.must_not_subscribe(&["svc.>", "topics.>", "_INBOX_gateway.>"])
        .await;
}

#[tokio::test]
async fn observer_reads_what_is_stored_and_writes_nothing() {
    let server = server().await;
    let admin = jetstream::new(server.connect(User::Admin).await);
    publish(&admin, "topics.threat_alerts.-.-.global").await;
    publish(&admin, "dlq.threat.threat_alert").await;

    let mut observer = Tried::connect(&server, User::Observer).await;
    read_first(&observer, "TOPICS").await;
    read_first(&observer, "DLQ").await;
    observer.all_passed().await;

    observer
        .must_not_publish(&[
            "topics.threat_alerts.-.-.global",
            "dlq.threat.threat_alert",
            "events.threat.threat_alert",
            "svc.auth.verify",
            "$JS.API.CONSUMER.CREATE.KV_signing_keys.spy",
            "$JS.API.CONSUMER.CREATE.EVENTS.spy",
            "$JS.API.STREAM.PURGE.DLQ",
            "$JS.API.STREAM.PURGE.TERM",
            "log.term.cmd-1",
        ])
        .await;
    observer
        .must_not_subscribe(&["dlq.>", "events.>", "live.log.>", "_INBOX_admin.>"])
        .await;
}

#[tokio::test]
async fn operator_reads_dead_letters_and_publishes_them_again() {
    let server = server().await;
    let admin = jetstream::new(server.connect(User::Admin).await);
    publish(&admin, "dlq.threat.threat_alert").await;

    let mut operator = Tried::connect(&server, User::Operator).await;
    let jetstream = operator.jetstream();
    let letters = jetstream.get_stream("DLQ").await.unwrap();
    letters.direct_get(1).await.unwrap();
    jetstream.get_stream("EVENTS").await.unwrap();
    publish(&jetstream, "events.threat.threat_alert").await;
    let replays = jetstream.get_key_value("dlq_replays").await.unwrap();
    let revision = replays.create("1-1", "begun".into()).await.unwrap();
    replays
        .update("1-1", "stored".into(), revision)
        .await
        .unwrap();
    assert_eq!(replays.get("1-1").await.unwrap().unwrap(), "stored");
    operator.all_passed().await;

    operator
        .must_not_publish(&[
            "dlq.threat.threat_alert",
            "topics.threat_alerts.-.-.global",
            "svc.auth.verify",
            "$KV.signing_keys.k1",
            "$JS.API.DIRECT.GET.KV_api_keys.$KV.api_keys.k1",
            "$JS.API.STREAM.INFO.TOPICS",
            "$JS.API.DIRECT.GET.EVENTS",
            "$JS.API.CONSUMER.CREATE.DLQ.spy",
            "$JS.API.CONSUMER.CREATE.EVENTS.spy",
            "$JS.API.STREAM.PURGE.DLQ",
            "$JS.API.STREAM.MSG.DELETE.DLQ",
        ])
        .await;
    operator
        .must_not_subscribe(&["dlq.>", "events.>", "$KV.>", "_INBOX_admin.>"])
        .await;
}

#[tokio::test]
async fn wrong_password_and_no_password_are_refused() {
    let server = NatsServer::start().await;
    let address = format!("127.0.0.1:{}", server.port());
    let wrong = ConnectOptions::with_user_and_password("admin".to_owned(), "guess".to_owned());
    wrong.connect(&address).await.unwrap_err();
    ConnectOptions::new().connect(&address).await.unwrap_err();
}
