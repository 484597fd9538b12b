//! External issuers, whose server is slow, down, rotating or asked too often:
//! gateways verify with what is published, and never with less than before.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use signalbox_auth::{FetchTimes, IssuerSettings, Options};
use signalbox_bus::{key, rpc, subject};
use signalbox_identity::{ExternalIssuer, SigningKey};
use signalbox_protocol::wire;
use signalbox_testkit::{DEADLINE, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::common::{Service, World};

/// What the server of an issuer does.
#[derive(Clone)]
enum Mood {
    Answers(String),
    NeverAnswers,
    Closes,
}

struct JwksServer {
    url: String,
    mood: Arc<Mutex<Mood>>,
    asked: Arc<AtomicUsize>,
}

impl JwksServer {
    async fn start(mood: Mood) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let (mood, asked) = (Arc::new(Mutex::new(mood)), Arc::new(AtomicUsize::new(0)));
        let (its_mood, count) = (Arc::clone(&mood), Arc::clone(&asked));
        tokio::spawn(async move {
            let mut held = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                let mood = its_mood.lock().clone();
                match mood {
                    Mood::Answers(body) => {
                        let mut request = [0; 2_048];
                        let _read = stream.read(&mut request).await.unwrap();
                        let length = body.len();
                        let answer = format!(
                            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
                        );
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                    Mood::NeverAnswers => held.push(stream),
                    Mood::Closes => drop(stream),
                }
            }
        });
        Self { url, mood, asked }
    }

    fn settings(&self) -> Vec<IssuerSettings> {
        serde_json::from_value(json!([{
            "name": "corp", "issuer": "https://id.example", "jwks_url": self.url,
            "audience": "signalbox", "algorithms": ["EdDSA"], "role_claim": "roles",
            "roles": [{"theirs": "soc", "ours": "viewer"}],
        }]))
        .unwrap()
    }

    fn set(&self, mood: Mood) {
        *self.mood.lock() = mood;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

fn jwks(key: &SigningKey) -> Mood {
    Mood::Answers(json!({"keys": [key.public_key()]}).to_string())
}

/// A service that fetches often; `shortest` apart.
async fn service(world: &World, server: &JwksServer, shortest: Duration) -> Service {
    let options = Options {
        issuers: server.settings(),
        fetch_times: FetchTimes {
            shortest,
            usual: shortest,
            patience: Duration::from_millis(200),
            ..FetchTimes::default()
        },
        ..world.options()
    };
    Service::start(options).await
}

/// What gateways read.
async fn published(world: &World) -> Option<ExternalIssuer> {
    let bucket = world.gateway.bucket(key::SIGNING_KEYS).await.unwrap();
    let found = bucket.get(key::issuer("corp")).await.unwrap()?;
    Some(serde_json::from_slice(&found).unwrap())
}

async fn publishes(world: &World, key: &SigningKey) {
    let kid = key.kid();
    eventually("the keys", DEADLINE, async || {
        let found: Value = published(world).await?.jwks;
        (found["keys"][0]["kid"] == kid).then_some(())
    })
    .await;
}

async fn refresh(world: &World) -> bool {
    let request = wire::RefreshIssuerRequest {
        issuer: "https://id.example".to_owned(),
    };
    let subject = subject::REFRESH_ISSUER;
    let reply = rpc::call(&world.gateway, subject, &request, None, DEADLINE).await;
    let reply: wire::RefreshIssuerReply = reply.unwrap();
    reply.fetched
}

#[tokio::test]
async fn keys_are_published_and_follow_a_rotation() {
    let world = World::new().await;
    let (old, new) = (
        SigningKey::generate().unwrap(),
        SigningKey::generate().unwrap(),
    );
    let server = JwksServer::start(jwks(&old)).await;
    let _auth = service(&world, &server, Duration::from_millis(20)).await;
    publishes(&world, &old).await;
    server.set(jwks(&new));
    publishes(&world, &new).await;
}

#[tokio::test]
async fn what_was_published_survives_a_bad_server() {
    let world = World::new().await;
    let (old, new) = (
        SigningKey::generate().unwrap(),
        SigningKey::generate().unwrap(),
    );
    let server = JwksServer::start(jwks(&old)).await;
    let auth = service(&world, &server, Duration::from_millis(20)).await;
    publishes(&world, &old).await;
    for mood in [
        Mood::NeverAnswers,
        Mood::Closes,
        Mood::Answers("<html>".to_owned()),
        Mood::Answers("{}".to_owned()),
        Mood::Answers(json!({"keys": []}).to_string()),
        Mood::Answers("x".repeat(300 * 1024)),
    ] {
        server.set(mood);
        let before = server.asked();
        eventually("two more fetches", DEADLINE, async || {
            (server.asked() >= before + 2).then_some(())
        })
        .await;
        publishes(&world, &old).await;
        assert!(auth.health.is_ready());
    }
    server.set(jwks(&new));
    publishes(&world, &new).await;
}

#[tokio::test]
async fn a_flood_of_unknown_keys_is_one_fetch() {
    let world = World::new().await;
    let key = SigningKey::generate().unwrap();
    let server = JwksServer::start(jwks(&key)).await;
    let _auth = service(&world, &server, Duration::from_secs(3_600)).await;
    publishes(&world, &key).await;
    assert_eq!(server.asked(), 1);
    let asked = futures_util::future::join_all((0..100).map(|_| refresh(&world)));
    assert!(asked.await.iter().all(|fetched| !fetched));
    // Nor does another replica ask again.
    let _other = service(&world, &server, Duration::from_secs(3_600)).await;
    refresh(&world).await;
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn an_issuer_that_is_no_longer_trusted_is_withdrawn() {
    let world = World::new().await;
    let key = SigningKey::generate().unwrap();
    let server = JwksServer::start(jwks(&key)).await;
    let auth = service(&world, &server, Duration::from_secs(3_600)).await;
    publishes(&world, &key).await;
    auth.stop().await;
    let _auth = Service::start(world.options()).await;
    eventually("the withdrawal", DEADLINE, async || {
        published(&world).await.is_none().then_some(())
    })
    .await;
}
