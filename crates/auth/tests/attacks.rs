//! Tokens and credentials that must not get anyone in, where the auth service
//! itself looks at them: at `svc.auth.manage` and `svc.auth.revoke`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use signalbox_identity::{Role, SigningKey};
use signalbox_protocol::wire::manage_request::Operation;
use signalbox_protocol::wire::{self, revocation_target};
use time::OffsetDateTime;

use crate::common::{Managed, Service, World, request_for};

fn list() -> Operation {
    Operation::ListKeys(wire::ListKeys::default())
}

fn encode(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// A token with this header and these claims, signed by `sign`.
fn token(header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let body = format!("{}.{}", encode(header), encode(claims));
    let signature = URL_SAFE_NO_PAD.encode(sign(body.as_bytes()));
    format!("{body}.{signature}")
}

/// What an administrator's token says, with `changes`.
fn claims(changes: &Value) -> Value {
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let mut claims = json!({
        "iss": "signalbox", "aud": "signalbox", "sub": "root", "role": "admin",
        "iat": now, "exp": now + 600, "jti": "t1",
    });
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

#[tokio::test]
async fn forged_tokens_administer_nothing() {
    let world = World::new().await;
    let key = world.add_signing_key("1.pem");
    let _auth = Service::start(world.options()).await;
    let sign = |key: &SigningKey, header: &Value, changes: &Value| {
        let der = pem_body(key);
        let pair = aws_lc_rs::signature::Ed25519KeyPair::from_pkcs8(&der).unwrap();
        token(header, &claims(changes), |body| {
            pair.sign(body).as_ref().to_vec()
        })
    };
    let genuine = json!({"alg": "EdDSA", "kid": key.kid()});
    let none = json!({});
    let good = sign(&key, &genuine, &none);
    world.manage_with(&good, list()).await.unwrap();

    let now = OffsetDateTime::now_utc().unix_timestamp();
    let stranger = SigningKey::generate().unwrap();
    let public = serde_json::to_value(key.public_key()).unwrap();
    let public = URL_SAFE_NO_PAD
        .decode(public["x"].as_str().unwrap())
        .unwrap();
    let hs256 = json!({"alg": "HS256", "kid": key.kid()});
    let mac = |body: &[u8]| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &public);
        hmac::sign(&key, body).as_ref().to_vec()
    };
    let unsigned = json!({"alg": "none", "kid": key.kid()});
    let (head, rest) = good.split_once('.').unwrap();
    let (_, signature) = rest.split_once('.').unwrap();
    let raised = encode(&claims(&json!({"exp": now + 99_999})));
    let forged = [
        ("alg none", token(&unsigned, &claims(&none), |_| vec![0])),
        (
            "HS256 with the public key",
            token(&hs256, &claims(&none), mac),
        ),
        ("another key under our id", sign(&stranger, &genuine, &none)),
        (
            "another key",
            sign(
                &stranger,
                &json!({"alg": "EdDSA", "kid": stranger.kid()}),
                &none,
            ),
        ),
        ("no key id", sign(&key, &json!({"alg": "EdDSA"}), &none)),
        (
            "wrong audience",
            sign(&key, &genuine, &json!({"aud": "other"})),
        ),
        (
            "wrong issuer",
            sign(&key, &genuine, &json!({"iss": "other"})),
        ),
        ("expired", sign(&key, &genuine, &json!({"exp": now - 1}))),
        (
            "not yet valid",
            sign(&key, &genuine, &json!({"nbf": now + 60})),
        ),
        ("tampered", format!("{head}.{raised}.{signature}")),
    ];
    for (attack, token) in forged {
        let refusal = world.manage_with(&token, list()).await.unwrap_err();
        assert_eq!(refusal.code, "AUTH_FAILED", "{attack}");
        assert_eq!(refusal.message, "the access token is not valid", "{attack}");
        let held = wire::revoke_request::Held::EverythingOf(token);
        assert_eq!(
            world.revoke(held).await.unwrap_err().code,
            "AUTH_FAILED",
            "{attack}"
        );
    }
}

fn pem_body(key: &SigningKey) -> Vec<u8> {
    let pem = key.to_pkcs8_pem();
    let body = pem.expose().lines().nth(1).unwrap();
    base64::engine::general_purpose::STANDARD
        .decode(body)
        .unwrap()
}

#[tokio::test]
async fn only_administrators_administer_and_only_until_they_are_revoked() {
    let world = World::new().await;
    let _auth = Service::start(world.options()).await;
    for role in Role::ALL {
        let key = world.add_api_key(role, |_| ()).await;
        let issued = world.issue(request_for(&key)).await.unwrap();
        for credential in [key.expose().expose(), &issued.access_token] {
            let answer = world.manage_with(credential, list()).await;
            match role {
                Role::Admin => drop(answer.unwrap()),
                _ => assert_eq!(answer.unwrap_err().code, "FORBIDDEN", "{role}"),
            }
        }
    }
    for credential in ["", "sbk_x", "a.b.c"] {
        let refusal = world.manage_with(credential, list()).await.unwrap_err();
        assert_eq!(refusal.code, "AUTH_FAILED");
    }
    let key = world.add_api_key(Role::Admin, |_| ()).await;
    let issued = world.issue(request_for(&key)).await.unwrap();
    let target = revocation_target::Target::KeyId(key.id().to_string());
    let target = wire::RevocationTarget {
        target: Some(target),
    };
    let revoke = Operation::Revoke(target);
    // Also by itself.
    world
        .manage_with(&issued.access_token, revoke)
        .await
        .unwrap();
    for credential in [key.expose().expose(), &issued.access_token] {
        let refusal = world.manage_with(credential, list()).await.unwrap_err();
        assert_eq!(refusal.code, "AUTH_FAILED");
    }
}

#[tokio::test]
async fn a_demoted_administrator_is_one_no_longer() {
    let world = World::new().await;
    let _auth = Service::start(world.options()).await;
    let key = world.add_api_key(Role::Admin, |_| ()).await;
    let issued = world.issue(request_for(&key)).await.unwrap();
    let demote = wire::ChangeKey {
        id: key.id().to_string(),
        role: Some("viewer".to_owned()),
        ..wire::ChangeKey::default()
    };
    world.manage(Operation::ChangeKey(demote)).await.unwrap();
    for credential in [key.expose().expose(), &issued.access_token] {
        let refusal = world.manage_with(credential, list()).await.unwrap_err();
        assert_eq!(refusal.code, "FORBIDDEN");
    }
}

#[tokio::test]
async fn a_created_key_works_is_told_once_and_ends_when_revoked() {
    let world = World::new().await;
    let _auth = Service::start(world.options()).await;
    let admin = world.add_api_key(Role::Admin, |_| ()).await;
    let admin = admin.expose().expose().to_owned();
    let create = wire::CreateKey {
        role: "analyst".to_owned(),
        name: "Night shift".to_owned(),
        messages_per_minute: 5,
        ..wire::CreateKey::default()
    };
    let create = Operation::CreateKey(create);
    let Managed::CreatedKey(created) = world.manage_with(&admin, create).await.unwrap() else {
        panic!()
    };
    let info = created.key.unwrap();
    let principal = world.verify(&created.api_key).await.unwrap();
    assert_eq!(principal.role, Some(Role::Analyst));
    assert_eq!(principal.subject.to_string(), format!("key:{}", info.id));
    assert_eq!(principal.limits.messages_per_minute, 5);
    assert_eq!(principal.limits.agent_chats_per_hour, 100);
    let Managed::Keys(keys) = world.manage_with(&admin, list()).await.unwrap() else {
        panic!()
    };
    assert_eq!(keys.keys.len(), 2);
    assert!(keys.keys.contains(&info));
    let secret = created.api_key.rsplit('_').next().unwrap();
    assert!(!format!("{keys:?}").contains(secret));

    let request = wire::IssueTokenRequest {
        api_key: created.api_key.clone(),
        ..wire::IssueTokenRequest::default()
    };
    let issued = world.issue(request).await.unwrap();
    let target = revocation_target::Target::KeyId(info.id.clone());
    let revoke = || {
        let target = wire::RevocationTarget {
            target: Some(target.clone()),
        };
        Operation::Revoke(target)
    };
    world.manage_with(&admin, revoke()).await.unwrap();
    world.manage_with(&admin, revoke()).await.unwrap();
    assert_eq!(
        world.verify(&created.api_key).await.unwrap_err().code,
        "AUTH_FAILED"
    );
    assert_eq!(
        world.refresh(&issued.refresh_token).await.unwrap_err().code,
        "AUTH_FAILED"
    );
    let verdict = world.judge(&issued.access_token).await;
    assert_eq!(verdict, signalbox_identity::Verdict::Ended);
    assert_eq!(world.revocations().await.judge(&principal), verdict);
}

#[tokio::test]
async fn entries_go_when_nothing_is_left_to_end() {
    let world = World::new().await;
    let options = signalbox_auth::Options {
        max_token_ttl: Duration::from_secs(3_600),
        ..world.options()
    };
    let _auth = Service::start(options).await;
    let target = revocation_target::Target::TokenId("t1".to_owned());
    let target = wire::RevocationTarget {
        target: Some(target),
    };
    world.manage(Operation::Revoke(target)).await.unwrap();
    let stream = world
        .admin
        .jetstream()
        .get_stream("KV_revocations")
        .await
        .unwrap();
    let entry = stream.get_last_raw_message_by_subject("$KV.revocations.token.t1");
    let ttl = entry
        .await
        .unwrap()
        .headers
        .get("Nats-TTL")
        .unwrap()
        .to_string();
    assert_eq!(ttl, "4200", "the longest token and ten minutes");
}
