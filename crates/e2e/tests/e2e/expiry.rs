//! G6, M6: the end of a token is announced on an open connection, put off by a
//! fresh token of the same user, and enforced, in both dialects.

use serde_json::{Value, json};
use signalbox_protocol::Dialect;
use signalbox_testkit::{DEADLINE, Platform, WsClient, post};

use crate::speech::Speech;

/// How long before the end it is announced here, in seconds.
const NOTICE: &str = "1";

async fn token(platform: &Platform, role: &str, ttl: u32) -> String {
    let body = json!({"api_key": platform.api_key(role), "ttl": ttl}).to_string();
    let listener = platform.gateways[0].listener();
    let (status, answer) = post(listener, "/api/v1/auth/token", &body).await;
    assert_eq!(status, 200, "{answer}");
    let answer: Value = serde_json::from_str(&answer).unwrap();
    answer["access_token"].as_str().unwrap().to_owned()
}

/// The next error, which has to be this one; its body.
async fn hears(client: &mut WsClient, speech: &Speech, code: &str) -> Value {
    let message = client.next_json(DEADLINE).await;
    let told = speech.told(&message);
    assert_eq!(told.unwrap().code, code, "{message}");
    match speech.shape.dialect {
        Dialect::Mesh => message["data"].clone(),
        _ => message,
    }
}

async fn refresh(client: &mut WsClient, speech: &Speech, token: &str) {
    client
        .send_json(&json!({"type": "authenticate", "token": token}))
        .await;
    let answer = match speech.shape.dialect {
        Dialect::Mesh => "authenticated",
        _ => "auth_success",
    };
    assert_eq!(client.next_json(DEADLINE).await["type"], answer);
}

#[tokio::test]
async fn a_token_is_announced_put_off_and_ended() {
    let platform = Platform::start_with(1, &["--expiry-notice", NOTICE]).await;
    for speech in [Speech::threat(), Speech::mesh()] {
        let mut client = speech
            .connect(&platform, &token(&platform, "viewer", 3).await)
            .await;
        let first = hears(&mut client, &speech, "TOKEN_EXPIRING").await;
        refresh(&mut client, &speech, &token(&platform, "viewer", 4).await).await;
        // The end of the first token comes and goes: the next that is heard is
        // the end of the second.
        let second = hears(&mut client, &speech, "TOKEN_EXPIRING").await;
        let end = |body: &Value| body["expires_at"].as_str().unwrap().to_owned();
        assert!(end(&second) > end(&first), "{first} {second}");
        hears(&mut client, &speech, "TOKEN_EXPIRED").await;
        let closed = client.expect_close(DEADLINE).await;
        assert_eq!(
            (closed.code, closed.reason.as_str()),
            (Some(1008), "the token has expired")
        );
    }
}

#[tokio::test]
async fn another_users_token_does_not_put_it_off() {
    let platform = Platform::start_with(1, &["--expiry-notice", NOTICE]).await;
    for speech in [Speech::threat(), Speech::mesh()] {
        let mut client = speech
            .connect(&platform, &token(&platform, "viewer", 60).await)
            .await;
        let other = token(&platform, "analyst", 60).await;
        client
            .send_json(&json!({"type": "authenticate", "token": other}))
            .await;
        hears(&mut client, &speech, "AUTH_FAILED").await;
        assert_eq!(client.expect_close(DEADLINE).await.code, Some(1008));
    }
}

/// One that lives no longer than the notice is announced at once.
#[tokio::test]
async fn a_short_token_is_announced_at_once() {
    let platform = Platform::start_with(1, &["--expiry-notice", "3600"]).await;
    for speech in [Speech::threat(), Speech::mesh()] {
        let token = token(&platform, "viewer", 600).await;
        let mut client = speech.connect(&platform, &token).await;
        hears(&mut client, &speech, "TOKEN_EXPIRING").await;
        client.send_json(&json!({"type": "ping"})).await;
        client.expect("pong").await;
    }
}
