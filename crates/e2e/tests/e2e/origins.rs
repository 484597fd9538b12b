//! G7, W11, G1: pages of which origins may use a listener, what their browsers
//! are told, and what a plain request gets where WebSockets are served.

use std::net::SocketAddr;

use serde_json::{Value, json};
use signalbox_testkit::{Answer, DEADLINE, Platform, Process, WsClient, request, signalbox};

const LISTED: &str = "https://app.example.com";
const FOREIGN: &str = "https://evil.example";
const JWKS: &str = "/.well-known/jwks.json";

async fn upgrade(listener: SocketAddr, origin: &str) -> u16 {
    let url = format!("ws://{listener}/v1/ws");
    match WsClient::try_connect(&url, &[("Origin", origin)]).await {
        Ok(client) => {
            client.close().await;
            101
        }
        Err(refused) => refused.status,
    }
}

async fn from(listener: SocketAddr, origin: &str, method: &str, path: &str) -> Answer {
    let headers = [
        ("Origin", origin),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "x-api-key, x-evil"),
    ];
    // The second header makes an OPTIONS request a preflight and is without
    // meaning elsewhere.
    request(listener, method, path, &headers, "{}").await
}

/// G7: foreign pages are refused at the upgrade and everywhere else.
#[tokio::test]
async fn foreign_origins_are_refused_and_listed_ones_served() {
    let platform =
        Platform::start_with(1, &["--cors-origins", "https://app.example.com:443,"]).await;
    let listener = platform.gateways[0].listener();
    let own = format!("http://{listener}");
    for origin in [own.as_str(), LISTED] {
        assert_eq!(upgrade(listener, origin).await, 101, "{origin}");
        let answer = from(listener, origin, "GET", JWKS).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
        assert_eq!(answer.header("vary"), Some("Origin"));
        let preflight = from(listener, origin, "OPTIONS", "/api/v1/events").await;
        assert_eq!((preflight.status, preflight.body.as_str()), (204, ""));
        assert_eq!(
            preflight.header("access-control-allow-origin"),
            Some(origin)
        );
        let methods = preflight.header("access-control-allow-methods").unwrap();
        assert!(methods.contains("POST"), "{methods}");
        let headers = preflight.header("access-control-allow-headers").unwrap();
        assert!(
            headers.contains("x-api-key") && !headers.contains("evil"),
            "{headers}"
        );
        // A refusal can be read by the page, too.
        let refusal = from(listener, origin, "POST", "/api/v1/events").await;
        assert_eq!(refusal.status, 401);
        assert_eq!(refusal.header("access-control-allow-origin"), Some(origin));
    }
    let sub = "https://app.example.com.evil.example";
    for origin in [
        FOREIGN,
        sub,
        "null",
        "http://localhost:3000",
        "http://app.example.com",
    ] {
        assert_eq!(upgrade(listener, origin).await, 403, "{origin}");
        for (method, path) in [
            ("GET", JWKS),
            ("POST", "/api/v1/auth/token"),
            ("POST", "/api/v1/events"),
            ("OPTIONS", "/api/v1/events"),
            ("GET", "/nowhere"),
        ] {
            let answer = from(listener, origin, method, path).await;
            assert_eq!(answer.status, 403, "{origin} {method} {path}");
            assert_eq!(answer.json()["error"]["code"], "FORBIDDEN");
            assert_eq!(answer.header("access-control-allow-origin"), None);
            assert_eq!(answer.header("vary"), Some("Origin"));
        }
    }
    // What is no page is judged by its credential alone.
    let answer = request(listener, "GET", JWKS, &[], "").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("access-control-allow-origin"), None);
    assert_eq!(answer.header("vary"), Some("Origin"));
    // An OPTIONS request that is no preflight is a method like any other.
    let options = request(listener, "OPTIONS", JWKS, &[("Origin", LISTED)], "").await;
    assert_eq!(options.status, 405);
    assert_eq!(options.header("allow"), Some("GET,HEAD"));
}

/// G7: `up` serves pages that this machine serves on any port.
#[tokio::test]
async fn up_serves_pages_of_this_machine() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = signalbox();
    command
        .args(["up", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .arg("--data-dir")
        .arg(dir.path());
    let process = Process::spawn(command);
    process.stdout().wait_for_line("is ready", DEADLINE).await;
    let runtime = std::fs::read_to_string(dir.path().join("runtime.json")).unwrap();
    let runtime: Value = serde_json::from_str(&runtime).unwrap();
    let listener = runtime["listeners"][0].as_str().unwrap().parse().unwrap();
    for origin in ["http://localhost:3000", "http://127.0.0.1:5173"] {
        assert_eq!(upgrade(listener, origin).await, 101, "{origin}");
        let answer = from(listener, origin, "GET", JWKS).await;
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
    }
    for origin in [
        FOREIGN,
        "https://localhost:3000",
        "http://localhost.evil.example",
    ] {
        assert_eq!(upgrade(listener, origin).await, 403, "{origin}");
    }
}

/// W11: the list is exact, from flag or variable, and a bad one is told at
/// the start.
#[tokio::test]
async fn a_bad_list_of_origins_is_told_at_the_start() {
    for (bad, why) in [
        ("*", "one by one"),
        ("https://*.example.com", "without a path"),
        ("https://a.example/app", "without a path"),
        ("a.example", "without a path"),
        ("https://a.example,null", "without a path"),
    ] {
        let mut command = signalbox();
        command.arg("gateway").env("CORS_ORIGINS", bad);
        let process = Process::spawn(command);
        assert_eq!(process.wait(DEADLINE).await.code(), Some(64), "{bad}");
        let words = process.stderr().lines().join("\n");
        assert!(
            words.contains(why) && words.contains("--cors-origins"),
            "{bad}: {words}"
        );
    }
}

/// G1: a plain request where a WebSocket is served, and where none is.
#[tokio::test]
async fn plain_requests_are_told_what_is_served() {
    let platform = Platform::start(1).await;
    let listener = platform.gateways[0].listener();
    let plain = request(listener, "GET", "/v1/ws", &[], "").await;
    assert_eq!(plain.status, 426);
    assert_eq!(plain.header("upgrade"), Some("websocket"));
    assert!(plain.body.contains("WebSocket clients only"), "{plain:?}");
    let wrong = request(listener, "POST", "/v1/ws", &[], "").await;
    assert_eq!(wrong.status, 405);
    assert_eq!(wrong.json()["error"]["code"], "METHOD_NOT_ALLOWED");
    let nothing = request(listener, "GET", "/nowhere", &[], "").await;
    assert_eq!(
        (nothing.status, &nothing.json()["error"]["code"]),
        (404, &json!("NOT_FOUND"))
    );

    let some = platform
        .start_gateway(&["--listen", "127.0.0.1:0=fleet"])
        .await;
    let lines = some.process.stderr().lines();
    let addr = lines
        .iter()
        .filter(|line| line.contains("listening"))
        .find(|line| line.contains("dialects=fleet"))
        .and_then(|line| line.split_once("addr=")?.1.split(' ').next()?.parse().ok())
        .unwrap();
    for path in ["/v1/ws", "/api/v1/ws"] {
        let answer = request(addr, "GET", path, &[], "").await;
        assert_eq!(answer.status, 404, "{path}");
        let message = answer.json()["error"]["message"].to_string();
        assert!(message.contains("not served on this port"), "{message}");
        let refused = WsClient::try_connect(&format!("ws://{addr}{path}"), &[]).await;
        assert_eq!(refused.unwrap_err().status, 404, "{path}");
    }
}
