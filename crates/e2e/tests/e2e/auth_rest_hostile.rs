//! Those who should not get in over HTTP: strangers who guess, users without
//! the right to administer, and requests that are not what they should be.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use signalbox_testkit::{Answer, Arguments, DEADLINE, Platform, request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::time::{Instant, timeout};

use crate::auth_rest::{KEYS, PASSWORD, Rest, USER, USERS};

const TOKEN: &str = "/api/v1/auth/token";

/// Sends bytes from an address of this machine and reads what comes back.
async fn raw(from: &str, to: SocketAddr, bytes: &[u8]) -> String {
    let socket = TcpSocket::new_v4().unwrap();
    socket
        .bind(SocketAddr::new(from.parse().unwrap(), 0))
        .unwrap();
    let mut stream = socket.connect(to).await.unwrap();
    // What refuses early may hang up before everything is sent.
    stream.write_all(bytes).await.ok();
    let mut answer = Vec::new();
    let read = timeout(DEADLINE, stream.read_to_end(&mut answer));
    read.await.expect("an answer").ok();
    String::from_utf8_lossy(&answer).into_owned()
}

fn login(username: &str, password: &str) -> Vec<u8> {
    let body = json!({"username": username, "password": password}).to_string();
    let length = body.len();
    format!(
        "POST {TOKEN} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

fn status(answer: &str) -> u16 {
    let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok());
    status.unwrap_or_else(|| panic!("{answer:?}"))
}

/// Milliseconds of the first delay and of the longest.
const DELAYS: [u64; 2] = [40, 640];

#[tokio::test]
async fn a_thousand_wrong_passwords_are_answered_later_and_later() {
    let [first, longest] = DELAYS.map(|delay| delay.to_string());
    let arguments = Arguments {
        gateway: &["--connect-rate", "0"],
        environment: &[
            ("SIGNALBOX_FAILURE_DELAY_MS", &first),
            ("SIGNALBOX_MAX_FAILURE_DELAY_MS", &longest),
        ],
        ..Arguments::default()
    };
    let rest = Rest::of(Platform::start_as(1, arguments).await).await;
    rest.add_user("ada", "viewer").await;
    let gateway = rest.platform.gateways[0].listener();
    let attacker = "127.0.0.66";
    for number in 0..10_u32 {
        let began = Instant::now();
        let answer = raw(attacker, gateway, &login("ada", &format!("guess {number}"))).await;
        assert_eq!(status(&answer), 401, "{answer}");
        // Three are free.
        let factor = number.checked_sub(3).map_or(0, |over| 1 << over);
        let delay = Duration::from_millis((DELAYS[0] * factor).min(DELAYS[1]));
        assert!(began.elapsed() >= delay, "{number}: {:?}", began.elapsed());
    }
    let mut unseen = 0;
    for round in 0..10 {
        let guesses = (0..99).map(|number| {
            let guess = login("ada", &format!("guess {round}-{number}"));
            async move { raw(attacker, gateway, &guess).await }
        });
        // Others are served meanwhile, the user's right password included.
        let right = login("ada", PASSWORD);
        let (answers, right) = tokio::join!(join_all(guesses), raw("127.0.0.2", gateway, &right));
        assert_eq!(status(&right), 200, "{right}");
        for answer in answers {
            match status(&answer) {
                401 => {}
                429 => {
                    assert!(answer.contains("retry-after: 1\r\n"), "{answer}");
                    unseen += 1;
                }
                other => panic!("{other}: {answer}"),
            }
        }
    }
    assert!(unseen > 0, "every guess was looked at");
}

/// What a stranger sees of an answer.
fn seen(answer: &Answer) -> (u16, Vec<(String, String)>, String) {
    let headers = answer.headers.iter().filter(|(name, _)| name != "date");
    (
        answer.status,
        headers.cloned().collect(),
        answer.body.clone(),
    )
}

#[tokio::test]
async fn who_is_a_user_cannot_be_found_out() {
    let rest = Rest::start().await;
    for name in ["ada", "bob", "eve"] {
        rest.add_user(name, "viewer").await;
    }
    rest.manage("PATCH", USER, "bob", json!({"disabled": true}), 200)
        .await;
    rest.manage("DELETE", USER, "eve", Value::Null, 204).await;
    let gateway = rest.platform.gateways[0].listener();
    let mut answers = Vec::new();
    for (name, password) in [
        ("ada", "a wrong password"),
        ("bob", PASSWORD),
        ("bob", "a wrong password"),
        ("eve", PASSWORD),
        ("nobody", PASSWORD),
    ] {
        let body = json!({"username": name, "password": password}).to_string();
        let headers = [("X-Request-Id", "r-1")];
        let answer = request(gateway, "POST", TOKEN, &headers, &body).await;
        assert_eq!(answer.status, 401, "{answer:?}");
        answers.push(seen(&answer));
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
}

#[tokio::test]
async fn only_administrators_administer() {
    let rest = Rest::start().await;
    rest.add_user("ada", "operator").await;
    let token = rest.login("ada", PASSWORD).await.json();
    let token = token["access_token"].as_str().unwrap();
    let key = rest.platform.api_key("operator");
    let document = crate::openapi::document(&rest.platform).await;
    let mut tried = 0;
    for (template, item) in document["paths"].as_object().unwrap() {
        if !template.starts_with("/api/v1/admin/") {
            continue;
        }
        for method in item.as_object().unwrap().keys() {
            let path = template.replace(['{', '}'], "");
            let method = method.to_uppercase();
            // Also where the body is nonsense: rights come first.
            let nonsense = json!(["nonsense"]);
            for (bearer, expected) in [
                (Some(token), 403),
                (Some(key.as_str()), 403),
                (Some("a.b.c"), 401),
                (Some("sbk_abcdefghjkmn_x"), 401),
                (None, 401),
            ] {
                let answer = rest.call(&method, template, &path, bearer, &nonsense).await;
                assert_eq!(answer.status, expected, "{method} {path} {answer:?}");
                tried += 1;
            }
        }
    }
    assert_eq!(tried, 5 * 15);
}

#[tokio::test]
async fn what_is_wrong_with_a_body_is_named() {
    let rest = Rest::start().await;
    let key = rest.platform.api_key("viewer");
    let refresh = "/api/v1/auth/refresh";
    let revoke = "/api/v1/auth/revoke";
    for (path, body, field) in [
        (TOKEN, json!({}), "api_key"),
        (TOKEN, json!({"api_key": 5}), "api_key"),
        (TOKEN, json!({"api_key": key, "project": ["a"]}), "project"),
        (TOKEN, json!({"api_key": key, "ttl": "1h"}), "ttl"),
        (TOKEN, json!({"username": "ada"}), "password"),
        (
            TOKEN,
            json!({"username": "a|b", "password": "x"}),
            "username",
        ),
        (
            TOKEN,
            json!({"api_key": key, "username": "ada", "password": "x"}),
            "api_key",
        ),
        (refresh, json!({"refresh_token": null}), "refresh_token"),
        (refresh, json!({"refresh_token": "x", "extra": 1}), "extra"),
        (revoke, json!({}), "token"),
        (revoke, json!({"token": {}}), "token"),
    ] {
        let answer = rest.post(path, &body).await;
        assert_eq!(answer.status, 400, "{path} {body} {answer:?}");
        assert_eq!(answer.json()["error"]["field"], field, "{path} {body}");
    }
    let user = |more: Value| {
        let mut user = json!({"username": "ada", "password": PASSWORD, "role": "viewer"});
        for (name, value) in more.as_object().unwrap() {
            user[name] = value.clone();
        }
        user
    };
    for (path, body, field) in [
        (KEYS, json!({}), "role"),
        (KEYS, json!({"role": "king"}), "role"),
        (KEYS, json!({"role": "viewer", "projects": "a"}), "projects"),
        (
            KEYS,
            json!({"role": "viewer", "projects": ["a b"]}),
            "projects",
        ),
        (
            KEYS,
            json!({"role": "viewer", "messages_per_minute": 0}),
            "messages_per_minute",
        ),
        (KEYS, json!({"role": "viewer", "name": "a\u{7}"}), "name"),
        (KEYS, json!({"role": "viewer", "id": "x"}), "id"),
        (USERS, user(json!({"role": "agent"})), "role"),
        (USERS, user(json!({"username": "a b"})), "username"),
        (USERS, user(json!({"username": "key:x"})), "username"),
        (USERS, user(json!({"password": "short"})), "password"),
        (USERS, user(json!({"disabled": true})), "disabled"),
    ] {
        let answer = rest.manage("POST", path, "", body.clone(), 400).await;
        assert_eq!(answer.json()["error"]["field"], field, "{path} {body}");
    }
    rest.add_user("ada", "viewer").await;
    let answer = rest
        .manage("PATCH", USER, "ada", json!({"disabled": "yes"}), 400)
        .await;
    assert_eq!(answer.json()["error"]["field"], "disabled");
    for query in ["?limit=0", "?limit=x", "?offset=3"] {
        let admin = rest.platform.api_key("admin");
        let path = format!("{USERS}{query}");
        let answer = rest
            .call("GET", USERS, &path, Some(&admin), &Value::Null)
            .await;
        assert_eq!(answer.status, 400, "{query}");
    }
    let gateway = rest.platform.gateways[0].listener();
    for text in ["", "{", "[]", "\"x\"", "{\"api_key\":\"a\"}}"] {
        let answer = request(gateway, "POST", TOKEN, &[], text).await;
        assert_eq!(answer.status, 400, "{text}");
    }
}

#[tokio::test]
async fn headers_are_given_back_only_when_they_are_sane() {
    let rest = Rest::start().await;
    let gateway = rest.platform.gateways[0].listener();
    let long = "x".repeat(4_000);
    for (id, given_back) in [
        ("req-7.a:b", true),
        ("a b", false),
        ("x\" peer=127.0.0.9", false),
        ("\u{1b}[31m", false),
        ("caf\u{e9}", false),
        (long.as_str(), false),
    ] {
        let head = format!(
            "POST {TOKEN} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Request-Id: {id}\r\nContent-Length: 27\r\n\r\n{{\"api_key\":\"sbk_nothing_x\"}}"
        );
        let answer = raw("127.0.0.1", gateway, head.as_bytes()).await;
        assert_eq!(answer.contains(id), given_back, "{answer}");
        if status(&answer) != 400 {
            assert!(answer.contains("\r\nx-request-id: "), "{answer}");
        }
    }
    let told = rest
        .platform
        .auth
        .process
        .wait_for_line("req-7.a:b", DEADLINE);
    assert!(told.await.contains("peer=127.0.0.1"));
    let forged = |line: &String| line.contains("127.0.0.9") || line.contains("[31m");
    assert!(
        !rest
            .platform
            .auth
            .process
            .stderr()
            .lines()
            .iter()
            .any(forged)
    );
    for origin in [
        "http://evil.example\tx",
        "http://e\u{e9}.example",
        "null",
        "\"><script>",
    ] {
        let head = format!(
            "POST {TOKEN} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nOrigin: {origin}\r\nContent-Length: 2\r\n\r\n{{}}"
        );
        let answer = raw("127.0.0.1", gateway, head.as_bytes()).await;
        assert_eq!(status(&answer), 403, "{answer}");
        assert!(!answer.contains("access-control-allow-origin"), "{answer}");
        assert!(!answer.contains(origin), "{answer}");
        assert!(answer.contains("cache-control: no-store"), "{answer}");
    }
}

#[tokio::test]
async fn bodies_that_are_huge_slow_or_cut_are_refused() {
    let platform = Platform::start_with(1, &["--handshake-timeout", "1"]).await;
    let rest = Rest::of(platform).await;
    let gateway = rest.platform.gateways[0].listener();
    let head = |length: usize| {
        format!(
            "POST {TOKEN} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    for length in [16 * 1_024 + 1, 1 << 20, 16 << 20] {
        let huge = [head(length).into_bytes(), vec![b' '; length]].concat();
        let answer = raw("127.0.0.1", gateway, &huge).await;
        // Beyond some size the connection ends before everything is read.
        assert!(answer.is_empty() || status(&answer) == 413, "{answer}");
        assert!(length > 1 << 20 || !answer.is_empty(), "{length}");
    }
    let slow = format!("{}{{\"api_key\":", head(500));
    let trickle = raw("127.0.0.1", gateway, slow.as_bytes());
    let key = rest.platform.api_key("viewer");
    let body = json!({"api_key": key});
    let (slow, other) = tokio::join!(trickle, rest.post(TOKEN, &body));
    assert_eq!(other.status, 200);
    assert_eq!(status(&slow), 400, "{slow}");
    assert!(slow.contains("took too long"), "{slow}");
    let mut cut = tokio::net::TcpStream::connect(gateway).await.unwrap();
    cut.write_all(slow_part(&head(500)).as_bytes())
        .await
        .unwrap();
    cut.shutdown().await.unwrap();
    let mut answer = String::new();
    timeout(DEADLINE, cut.read_to_string(&mut answer))
        .await
        .unwrap()
        .ok();
    assert!(answer.is_empty() || status(&answer) == 400, "{answer}");
    assert_eq!(rest.post(TOKEN, &body).await.status, 200);
}

fn slow_part(head: &str) -> String {
    format!("{head}{{\"api")
}
