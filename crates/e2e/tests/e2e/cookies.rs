//! G6 and G7: a cookie is no credential of the dialects and endpoints that are
//! served, from whichever origin; and no credential stands in a command line.

use serde_json::json;
use signalbox_testkit::{DEADLINE, Platform, WsClient, request};

#[tokio::test]
async fn a_cookie_opens_nothing() {
    let platform = Platform::start(1).await;
    let gateway = &platform.gateways[0];
    let listener = gateway.listener();
    let cookie = format!("token={}", platform.token("admin").await);
    let own = format!("http://{listener}");
    let none = [("Cookie", cookie.as_str())];
    let same = [("Cookie", cookie.as_str()), ("Origin", own.as_str())];
    for headers in [&none[..], &same[..]] {
        let url = format!("ws://{listener}/api/v1/ws");
        let mut mesh = WsClient::connect(&url, headers).await;
        assert_eq!(mesh.expect_close(DEADLINE).await.code, Some(1008));

        let mut threat = WsClient::connect(&gateway.threat_url(), headers).await;
        threat
            .send_json(&json!({"type": "subscribe", "channel": "threat_alerts"}))
            .await;
        assert_eq!(threat.expect("error").await["code"], "FORBIDDEN");

        for (method, path) in [("GET", "/api/v1/admin/keys"), ("POST", "/api/v1/events")] {
            let answer = request(listener, method, path, headers, "{}").await;
            assert_eq!(answer.status, 401, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn no_process_shows_a_credential() {
    let platform = Platform::start(1).await;
    let mut secrets = Vec::new();
    for role in ["admin", "viewer", "producer"] {
        secrets.push(platform.api_key(role));
        secrets.push(platform.token(role).await);
    }
    for user in signalbox_bus::server::User::ALL {
        let url = platform.nats.url(user);
        let (_, rest) = url.split_once("://").unwrap();
        let (_, password) = rest.split_once('@').unwrap().0.split_once(':').unwrap();
        secrets.push(password.to_owned());
    }
    let processes = [
        platform.gateways[0].process.pid(),
        platform.router.process.pid(),
        platform.auth.process.pid(),
        platform.nats.pid(),
    ];
    for pid in processes {
        let shown = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        let shown = String::from_utf8_lossy(&shown);
        assert!(!shown.is_empty());
        for secret in &secrets {
            assert!(!shown.contains(secret.as_str()), "{shown}");
        }
    }
}
