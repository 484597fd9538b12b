//! Credentials that are forged, outdated or in the wrong place; floods of them;
//! tokens of external issuers; and secrets that must not be seen. One file,
//! since the attackers share the forger of tokens.

use std::fmt::Write as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use signalbox_bus::server::User;
use signalbox_bus::{key, rpc, subject};
use signalbox_identity::SigningKey;
use signalbox_protocol::timestamp::Timestamp;
use signalbox_protocol::wire::{self, issue_token_reply};
use signalbox_testkit::{Arguments, DEADLINE, Platform, WsClient, eventually, get, post, settle};
use time::OffsetDateTime;
use tokio::time::timeout;

use crate::speech::Speech;

/// The issuer of the tests.
const ISSUER: &str = "https://id.example";

/// A gateway whose refusals come at once.
const AT_ONCE: [&str; 4] = ["--longest-refusal-delay", "0", "--connect-rate", "0"];

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_secs().try_into().unwrap()
}

/// Claims of a good token of ours.
fn claims(platform: &Platform) -> Value {
    serde_json::to_value(platform.claims("viewer")).unwrap()
}

fn header(algorithm: Algorithm, kid: &str) -> Header {
    Header {
        kid: Some(kid.to_owned()),
        ..Header::new(algorithm)
    }
}

fn signed(key: &SigningKey, header: &Header, claims: &Value) -> String {
    let key = EncodingKey::from_ed_pem(key.to_pkcs8_pem().expose().as_bytes()).unwrap();
    encode(header, claims, &key).unwrap()
}

/// The three parts of a token with others in place of some.
fn reassembled(token: &str, parts: [Option<&str>; 3]) -> String {
    let own: Vec<&str> = token.split('.').collect();
    let chosen: Vec<&str> = parts
        .iter()
        .zip(own)
        .map(|(part, own)| part.unwrap_or(own))
        .collect();
    chosen.join(".")
}

/// The header `{"alg":"none","typ":"JWT"}`.
const ALG_NONE: &str = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";

/// What is presented, and what is wrong with it.
fn forgeries(platform: &Platform) -> Vec<(&'static str, String)> {
    let key = platform.signing_key();
    let kid = key.kid().to_owned();
    let good = header(Algorithm::EdDSA, &kid);
    let with = |name: &str, value: Value| {
        let mut claims = claims(platform);
        claims[name] = value;
        signed(&key, &good, &claims)
    };
    let token = signed(&key, &good, &claims(platform));
    let other = signed(&SigningKey::generate().unwrap(), &good, &claims(platform));
    let admin = signed(
        &key,
        &good,
        &serde_json::to_value(platform.claims("admin")).unwrap(),
    );
    let part = |token: &str, at: usize| token.split('.').nth(at).unwrap().to_owned();
    // The public half is what an attacker has.
    let public = serde_json::to_vec(key.public_key()).unwrap();
    let hmac = encode(
        &header(Algorithm::HS256, &kid),
        &claims(platform),
        &EncodingKey::from_secret(&public),
    );
    let jwk: Value = serde_json::from_slice(&public).unwrap();
    let raw = EncodingKey::from_base64_secret(&format!(
        "{}=",
        jwk["x"]
            .as_str()
            .unwrap()
            .replace('-', "+")
            .replace('_', "/")
    ));
    let hmac_raw = encode(
        &header(Algorithm::HS256, &kid),
        &claims(platform),
        &raw.unwrap(),
    );
    let mut critical = good.clone();
    critical.crit = Some(vec!["exp".to_owned()]);
    vec![
        (
            "alg none",
            reassembled(&token, [Some(ALG_NONE), None, None]),
        ),
        (
            "alg none, no signature",
            format!("{ALG_NONE}.{}.", part(&token, 1)),
        ),
        ("HS256 with the published key", hmac.unwrap()),
        ("HS256 with the raw key", hmac_raw.unwrap()),
        ("another key under our id", other),
        (
            "unknown kid",
            signed(&key, &header(Algorithm::EdDSA, "nobody"), &claims(platform)),
        ),
        (
            "no kid",
            signed(&key, &Header::new(Algorithm::EdDSA), &claims(platform)),
        ),
        (
            "critical extension",
            signed(&key, &critical, &claims(platform)),
        ),
        (
            "payload of another",
            reassembled(&token, [None, Some(&part(&admin, 1)), None]),
        ),
        (
            "signature of another",
            reassembled(&token, [None, None, Some(&part(&admin, 2))]),
        ),
        ("audience", with("aud", json!("elsewhere"))),
        ("audiences", with("aud", json!(["a", "b"]))),
        ("issuer", with("iss", json!("elsewhere"))),
        ("unknown external issuer", with("iss", json!(ISSUER))),
        ("expired", with("exp", json!(now() - 60))),
        ("not yet valid", with("nbf", json!(now() + 60))),
        ("expiry is text", with("exp", json!("2999"))),
        ("subject with a line break", with("sub", json!("ada\nbob"))),
        ("token id with a line break", with("jti", json!("1\nbob"))),
        ("agent", with("role", json!("agent"))),
        ("nothing", String::new()),
        ("white space", format!(" {token}")),
    ]
}

#[tokio::test]
async fn forged_tokens_open_nothing() {
    let platform = Platform::start_with(1, &AT_ONCE).await;
    let url = platform.gateways[0].threat_url();
    let good = signed(
        &platform.signing_key(),
        &header(Algorithm::EdDSA, platform.signing_key().kid()),
        &claims(&platform),
    );
    let mut client = WsClient::connect(&url, &[]).await;
    client.authenticate(&good).await;
    for (what, token) in forgeries(&platform) {
        let mut client = WsClient::connect(&url, &[]).await;
        client
            .send_json(&json!({"type": "authenticate", "token": token}))
            .await;
        let answer = client.next_json(DEADLINE).await;
        // An empty field is no credential at all.
        if what == "nothing" && answer["code"] == "INVALID_MESSAGE" {
            continue;
        }
        assert_eq!(answer["code"], "AUTH_FAILED", "{what}: {answer}");
        let closed = client.expect_close(DEADLINE).await;
        assert_eq!(closed.code, Some(1008), "{what}");
        if token.contains(' ') {
            continue;
        }
        let mut client = WsClient::connect(&platform.gateways[0].mesh_url(&token), &[]).await;
        let closed = client.expect_close(DEADLINE).await;
        assert_eq!(closed.code, Some(1008), "{what}");
    }
    let key = platform.api_key("viewer");
    for speech in [Speech::threat(), Speech::mesh()] {
        let listener = platform.gateways[0].listener();
        let url = format!("ws://{listener}{}?token={key}", speech.shape.path);
        let mut client = WsClient::connect(&url, &[]).await;
        let (_, closed) = client.drain(DEADLINE).await;
        assert_eq!(closed.code, Some(1008));
        assert!(closed.reason.contains("URL"), "{closed:?}");
    }
}

/// A flood of made-up key ids: few questions to the bus, and others are served.
#[tokio::test]
async fn a_flood_of_unknown_key_ids_is_no_burden_to_the_bus() {
    let platform = Platform::start_with(1, &AT_ONCE).await;
    let url = platform.gateways[0].threat_url();
    let key = platform.signing_key();
    let watcher = platform.bus(User::Admin).await;
    let mut asked = watcher
        .client()
        .subscribe("$JS.API.CONSUMER.CREATE.>")
        .await
        .unwrap();
    settle(watcher.client()).await;
    let began = Instant::now();
    for round in 0..6 {
        let attempts = (0..50).map(async |number| {
            let kid = format!("made-up-{round}-{number}");
            let token = signed(&key, &header(Algorithm::EdDSA, &kid), &claims(&platform));
            let mut client = WsClient::connect(&url, &[]).await;
            client
                .send_json(&json!({"type": "authenticate", "token": token}))
                .await;
            assert_eq!(client.next_json(DEADLINE).await["code"], "AUTH_FAILED");
        });
        join_all(attempts).await;
        let mut client = WsClient::connect(&url, &[]).await;
        client.authenticate(&platform.api_key("viewer")).await;
    }
    let seconds = began.elapsed().as_secs();
    settle(watcher.client()).await;
    let mut count = 0;
    while let Ok(Some(request)) = timeout(Duration::from_millis(200), asked.next()).await {
        count += u64::from(request.subject.contains("KV_signing_keys"));
    }
    assert!(count >= 1, "the subscription sees nothing");
    assert!(count <= seconds + 2, "{count} reads in {seconds} s");
}

/// What clients choose cannot begin a line in the logs.
#[tokio::test]
async fn logs_keep_their_lines() {
    let platform = Platform::start_with(1, &AT_ONCE).await;
    let url = platform.gateways[0].threat_url();
    let forged = "x\r\nFORGED 2026-01-01 INFO audit: authenticated subject=root\u{1b}[2J";
    let key = platform.signing_key();
    let mut named = claims(&platform);
    named["name"] = json!(forged);
    let odd_kid = signed(&key, &header(Algorithm::EdDSA, forged), &claims(&platform));
    let good = signed(&key, &header(Algorithm::EdDSA, key.kid()), &named);
    for (token, accepted) in [(forged, false), (&odd_kid, false), (&good, true)] {
        let mut client = WsClient::connect(&url, &[]).await;
        client
            .send_json(&json!({
                "type": "authenticate", "token": token,
                "client_info": {"name": forged.chars().take(100).collect::<String>()},
            }))
            .await;
        let answer = client.next_json(DEADLINE).await;
        let type_ = if accepted { "auth_success" } else { "error" };
        assert_eq!(answer["type"], type_, "{answer}");
        client
            .send_json(&json!({"type": "subscribe", "channel": forged}))
            .await;
        client
            .send_json(&json!({"type": "unsubscribe", "subscription_id": "a\nFORGED"}))
            .await;
        client.close().await;
    }
    for line in platform.gateways[0].process.stderr().lines() {
        assert!(!line.trim_start().starts_with("FORGED"), "{line}");
        assert!(!line.contains('\u{1b}'), "{line:?}");
    }
}

/// Repeated refusals come later and later, and nobody else waits for them.
#[tokio::test]
async fn repeated_failures_are_answered_later_and_later() {
    let platform = Platform::start_with(1, &["--longest-refusal-delay", "24"]).await;
    let url = platform.gateways[0].threat_url();
    let mut waits = Vec::new();
    for _ in 0..6 {
        let mut client = WsClient::connect(&url, &[]).await;
        let began = Instant::now();
        client
            .send_json(&json!({"type": "authenticate", "token": "a.b.c"}))
            .await;
        assert_eq!(client.next_json(DEADLINE).await["code"], "AUTH_FAILED");
        waits.push(began.elapsed());
        assert_eq!(client.expect_close(DEADLINE).await.code, Some(1008));
    }
    // 0, 0, 0, 0.2 s, 0.4 s, 0.8 s: withheld at least so long.
    for (wait, least) in waits.iter().skip(3).zip([200, 400, 800]) {
        assert!(*wait >= Duration::from_millis(least), "{waits:?}");
    }
    // While one is being withheld, a good credential from the same address is
    // taken.
    let mut refused = WsClient::connect(&url, &[]).await;
    refused
        .send_json(&json!({"type": "authenticate", "token": "a.b.c"}))
        .await;
    let mut client = WsClient::connect(&url, &[]).await;
    client.authenticate(&platform.api_key("viewer")).await;
    assert!(refused.next_message(DEADLINE).await.is_some());
}

struct External {
    key: SigningKey,
}

impl External {
    fn claims() -> Value {
        json!({
            "iss": ISSUER, "aud": "signalbox", "sub": "carol", "roles": ["soc"],
            "iat": now() - 10, "exp": now() + 600, "jti": "t-1",
        })
    }

    fn token(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut claims = Self::claims();
        change(&mut claims);
        signed(
            &self.key,
            &header(Algorithm::EdDSA, self.key.kid()),
            &claims,
        )
    }

    /// Publishes the issuer as the auth service does.
    async fn publish(&self, platform: &Platform, stale_in: i64) {
        let time = |at: i64| json!(rfc3339(at));
        let issuer = json!({
            "trust": {
                "name": "corp", "issuer": ISSUER, "audience": "signalbox",
                "algorithms": ["EdDSA"], "role_claim": "roles",
                "roles": [{"theirs": "soc", "ours": "viewer"}],
            },
            "jwks": {"keys": [self.key.public_key()]},
            "fetched_at": time(now()), "stale_at": time(now() + stale_in),
        });
        let bus = platform.bus(User::Admin).await;
        let bucket = bus.bucket(key::SIGNING_KEYS).await.unwrap();
        let entry = issuer.to_string().into();
        bucket.put(key::issuer("corp"), entry).await.unwrap();
    }
}

/// A time as the bucket has it.
fn rfc3339(at: i64) -> Value {
    let time = Timestamp::from(OffsetDateTime::from_unix_timestamp(at).unwrap());
    serde_json::to_value(time).unwrap()
}

async fn is_let_in(url: &str, token: &str) -> bool {
    let mut client = WsClient::connect(url, &[]).await;
    client
        .send_json(&json!({"type": "authenticate", "token": token}))
        .await;
    client.next_json(DEADLINE).await["type"] == "auth_success"
}

#[tokio::test]
async fn tokens_of_external_issuers_are_held_to_their_trust() {
    let platform = Platform::start_with(1, &AT_ONCE).await;
    let url = platform.gateways[0].threat_url();
    let external = External {
        key: SigningKey::generate().unwrap(),
    };
    let good = external.token(|_| {});
    assert!(!is_let_in(&url, &good).await, "nobody trusts it yet");
    external.publish(&platform, 3_600).await;
    eventually("trust", DEADLINE, async || {
        is_let_in(&url, &good).await.then_some(())
    })
    .await;
    let stranger = External {
        key: SigningKey::generate().unwrap(),
    };
    let own = platform.signing_key();
    let under_our_kid = signed(
        &external.key,
        &header(Algorithm::EdDSA, own.kid()),
        &External::claims(),
    );
    let ours_for_them = signed(
        &own,
        &header(Algorithm::EdDSA, own.kid()),
        &External::claims(),
    );
    let theirs_for_us = signed(
        &external.key,
        &header(Algorithm::EdDSA, external.key.kid()),
        &claims(&platform),
    );
    let hmac = encode(
        &header(Algorithm::HS256, external.key.kid()),
        &External::claims(),
        &EncodingKey::from_secret(&serde_json::to_vec(external.key.public_key()).unwrap()),
    );
    for (what, token) in [
        (
            "audience",
            external.token(|claims| claims["aud"] = json!("x")),
        ),
        (
            "no audience",
            external.token(|claims| claims["aud"] = Value::Null),
        ),
        (
            "issuer",
            external.token(|claims| claims["iss"] = json!("https://x")),
        ),
        (
            "expired",
            external.token(|claims| claims["exp"] = json!(now() - 60)),
        ),
        (
            "too old",
            external.token(|claims| claims["iat"] = json!(now() - 90_000)),
        ),
        (
            "not yet",
            external.token(|claims| claims["nbf"] = json!(now() + 60)),
        ),
        (
            "no role",
            external.token(|claims| claims["roles"] = json!([])),
        ),
        (
            "unmapped role",
            external.token(|claims| claims["roles"] = json!("admin")),
        ),
        (
            "subject",
            external.token(|claims| claims["sub"] = json!("a\nb")),
        ),
        ("unknown key", stranger.token(|_| {})),
        ("kid of ours", under_our_kid),
        ("signed by us", ours_for_them),
        ("claims to be ours", theirs_for_us),
        ("alg none", reassembled(&good, [Some(ALG_NONE), None, None])),
        ("HS256", hmac.unwrap()),
    ] {
        assert!(!is_let_in(&url, &token).await, "{what}");
    }
    assert!(is_let_in(&url, &good).await);
    let (_, jwks) = get(platform.gateways[0].listener(), "/.well-known/jwks.json").await;
    assert!(!jwks.contains(external.key.kid()), "{jwks}");
    external.publish(&platform, -1).await;
    eventually("the end of trust in old keys", DEADLINE, async || {
        (!is_let_in(&url, &good).await).then_some(())
    })
    .await;
}

/// Everything that can be done with a secret, then a search for all of them.
#[tokio::test]
async fn no_secret_is_seen_in_logs_and_metrics() {
    let password = "a password that nobody would log";
    // Hundreds of failures follow one another here.
    let arguments = Arguments {
        gateway: &AT_ONCE,
        environment: &[("SIGNALBOX_MAX_FAILURE_DELAY_MS", "1")],
        ..Arguments::default()
    };
    let platform = Platform::start_as(1, arguments).await;
    let gateway = &platform.gateways[0];
    let bus = platform.bus(User::Gateway).await;
    let mut secrets = vec![password.to_owned(), platform.api_key("viewer")];
    for role in ["viewer", "analyst", "admin"] {
        secrets.push(platform.api_key(role));
        secrets.push(platform.token(role).await);
    }
    let request = wire::IssueTokenRequest {
        api_key: platform.api_key("viewer"),
        ..wire::IssueTokenRequest::default()
    };
    let reply = rpc::call(&bus, subject::ISSUE_TOKEN, &request, None, DEADLINE).await;
    let reply: wire::IssueTokenReply = reply.unwrap();
    let Some(issue_token_reply::Outcome::Token(issued)) = reply.outcome else {
        panic!("{reply:?}")
    };
    let wrong = wire::IssueTokenRequest {
        username: "ada".to_owned(),
        password: password.to_owned(),
        ..wire::IssueTokenRequest::default()
    };
    let reply = rpc::call(&bus, subject::ISSUE_TOKEN, &wrong, None, DEADLINE).await;
    let _refused: wire::IssueTokenReply = reply.unwrap();
    secrets.extend([issued.access_token, issued.refresh_token.clone()]);
    let refresh = wire::RefreshTokenRequest {
        refresh_token: issued.refresh_token,
        context: None,
    };
    for _ in 0..2 {
        let reply = rpc::call(&bus, subject::REFRESH_TOKEN, &refresh, None, DEADLINE).await;
        let reply: wire::IssueTokenReply = reply.unwrap();
        if let Some(issue_token_reply::Outcome::Token(next)) = reply.outcome {
            secrets.extend([next.access_token, next.refresh_token]);
        }
    }
    secrets.extend(forgeries(&platform).into_iter().map(|(_, token)| token));
    secrets.retain(|secret| secret.len() > 20);
    let mut almost = platform.api_key("analyst");
    almost.replace_range(almost.len() - 4.., "0000");
    secrets.push(almost);
    for secret in &secrets {
        let mut client = WsClient::connect(&gateway.threat_url(), &[]).await;
        client
            .send_json(&json!({"type": "authenticate", "token": secret}))
            .await;
        client.next_json(DEADLINE).await;
        if !secret.contains(' ') {
            let mut client = WsClient::connect(&gateway.mesh_url(secret), &[]).await;
            client
                .send_json(&json!({"type": "authenticate", "token": secret}))
                .await;
            let headers = [("X-API-Key", secret.as_str())];
            WsClient::connect(&gateway.threat_url(), &headers).await;
            client.close().await;
        }
        let body = json!({"api_key": secret}).to_string();
        post(gateway.listener(), "/api/v1/auth/token", &body).await;
    }
    let mut seen = String::new();
    for service in [gateway, &platform.auth, &platform.router] {
        for line in service.process.stderr().lines() {
            writeln!(seen, "{line}").unwrap();
        }
        for line in service.process.stdout().lines() {
            writeln!(seen, "{line}").unwrap();
        }
        seen += &get(service.admin, "/metrics").await.1;
    }
    assert!(seen.contains("refused") && seen.contains("authenticated"));
    for secret in &secrets {
        assert!(!seen.contains(secret), "{secret}");
        // Nor the part that makes it one.
        let tail = &secret[secret.len() - 16..];
        assert!(!seen.contains(tail), "{secret}");
    }
}
