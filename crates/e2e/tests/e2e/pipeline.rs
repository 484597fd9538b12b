//! Dialect `pipeline` with the stock clients: P1, P3-P5, and the rules G2, G3,
//! G6, G12 for it. Every event: `every_socket_event`; returning:
//! `socketio_recovery`.

use serde_json::{Value, json};
use signalbox_bus::Bus;
use signalbox_testkit::{DEADLINE, Platform, eventually, request};

use crate::io::{Io, producer, send, token};

async fn platform(arguments: &[&str]) -> Platform {
    let arguments = [arguments, &["--longest-refusal-delay", "0"]].concat();
    Platform::start_with(1, &arguments).await
}

/// A client that has authenticated as a user in this role.
async fn authenticated(platform: &Platform, role: &str, user: &str) -> Io {
    let io = Io::connect(platform.gateways[0].listener(), json!({})).await;
    io.event("connect").await;
    let token = token(platform, role, user, &[], 3_600);
    io.emit("authenticate", &json!({"token": token}));
    io.message("authenticated").await;
    io
}

async fn alert(bus: &Bus, id: &str) {
    let data = json!({"alertId": id, "alert": {}});
    send(bus, "pipeline.system_alert", id, &data).await;
}

/// P1, P5: by `authenticate` over each transport, the answer field by field.
#[tokio::test]
async fn clients_say_who_they_are() {
    let platform = platform(&[]).await;
    let address = platform.gateways[0].listener();
    let bus = producer(&platform).await;
    let token = token(&platform, "viewer", "ada", &[], 3_600);
    let witness = authenticated(&platform, "viewer", "witness").await;
    for transports in [
        json!(["polling", "websocket"]),
        json!(["polling"]),
        json!(["websocket"]),
    ] {
        let io = Io::new(address).await;
        io.join(&json!({"transports": transports}));
        io.event("connect").await;
        // Nothing before that.
        alert(&bus, &format!("before-{transports}")).await;
        witness.message("system_alert").await;
        io.emit("authenticate", &json!({"token": token}));
        let (name, arguments) = io.next_message().await;
        assert_eq!(name, "authenticated");
        let answer = &arguments[0];
        let user = json!({
            "id": "ada", "name": "unlimited-viewer", "role": "viewer",
            "permissions": answer["user"]["permissions"],
        });
        assert_eq!(answer["user"], user);
        for field in ["id", "name", "role", "permissions"] {
            assert_eq!(answer[field], answer["user"][field], "{field}");
        }
        assert!(answer["expires_at"].is_string() && answer["seq"].is_string());
        assert!(
            answer["permissions"]
                .as_array()
                .unwrap()
                .contains(&json!("read_pipelines"))
        );
        let id = format!("after-{transports}");
        alert(&bus, &id).await;
        assert_eq!(io.message("system_alert").await[0]["id"], json!(id));
        witness.message("system_alert").await;
        assert_eq!(io.leftovers().await, Vec::<Value>::new());
    }
}

/// P1: no token in time, and three bad ones, end it without a loop.
#[tokio::test]
async fn strangers_have_to_leave() {
    let platform = platform(&["--authentication-timeout", "1"]).await;
    let address = platform.gateways[0].listener();
    let io = Io::connect(address, json!({})).await;
    let error = io.message("auth_error").await;
    assert_eq!(error[0]["code"], "AUTH_FAILED");
    let left = io.event("disconnect").await;
    assert_eq!(left["reason"], "io server disconnect");

    let patient = platform
        .start_gateway(&["--longest-refusal-delay", "0"])
        .await;
    let io = Io::connect(patient.listener(), json!({})).await;
    io.event("connect").await;
    for bad in [
        json!("x"),
        json!(token(&platform, "viewer", "ada", &[], -9)),
    ] {
        io.emit("authenticate", &json!({"token": bad}));
        let error = io.message("auth_error").await;
        assert_eq!(error[0]["code"], "AUTH_FAILED");
        assert!(error[0]["message"].is_string());
    }
    io.emit("authenticate", &json!({"token": "third"}));
    io.message("auth_error").await;
    let left = io.event("disconnect").await;
    assert_eq!(left["reason"], "io server disconnect");
}

/// P1: again at any time, by the same user.
#[tokio::test]
async fn tokens_are_renewed_in_place() {
    let platform = platform(&[]).await;
    let io = authenticated(&platform, "viewer", "ada").await;
    let bus = producer(&platform).await;
    let eve = token(&platform, "viewer", "eve", &[], 3_600);
    io.emit("authenticate", &json!({"token": eve}));
    assert_eq!(io.message("auth_error").await[0]["code"], "AUTH_FAILED");
    // A higher role brings more from here on.
    let debug = json!({"sessionId": "s", "session": {}});
    let witness = authenticated(&platform, "operator", "witness").await;
    send(&bus, "pipeline.debug_session_created", "hidden", &debug).await;
    witness.message("debug_session_created").await;
    let operator = token(&platform, "operator", "ada", &[], 3_600);
    let answer = io.ask("authenticate", &json!({"token": operator})).await;
    assert_eq!(answer["status"], "success", "{answer}");
    assert_eq!(io.message("authenticated").await[0]["role"], "operator");
    send(&bus, "pipeline.debug_session_created", "seen", &debug).await;
    assert_eq!(io.message("debug_session_created").await[0]["id"], "seen");
    // A short one is announced and ends it.
    let short = token(&platform, "operator", "ada", &[], 2);
    io.emit("authenticate", &json!({"token": short}));
    io.message("authenticated").await;
    let notice = io.message("auth_error").await;
    assert_eq!(notice[0]["code"], "TOKEN_EXPIRING");
    assert!(notice[0]["expires_at"].is_string());
    assert_eq!(io.message("auth_error").await[0]["code"], "TOKEN_EXPIRED");
    let left = io.event("disconnect").await;
    assert_eq!(left["reason"], "io server disconnect");
}

/// P3, P4: narrowed at the server, and widened again.
#[tokio::test]
async fn clients_narrow_what_they_get() {
    let platform = platform(&[]).await;
    let io = authenticated(&platform, "operator", "ada").await;
    let witness = authenticated(&platform, "operator", "witness").await;
    let bus = producer(&platform).await;
    let publish = async |round: &str| {
        let created = json!({"pipelineId": "p", "pipeline": {}});
        send(
            &bus,
            "pipeline.pipeline_created",
            &format!("{round}-p"),
            &created,
        )
        .await;
        alert(&bus, &format!("{round}-a")).await;
        let metrics = json!({"metrics": {}});
        send(
            &bus,
            "pipeline.system_metrics_update",
            &format!("{round}-m"),
            &metrics,
        )
        .await;
    };
    for (round, (asked, expected)) in [
        (json!({}), vec!["p", "a", "m"]),
        (json!({"categories": ["SYSTEM"]}), vec!["a", "m"]),
        (json!({"event_types": ["pipeline_created"]}), vec!["p"]),
        (json!({"min_priority": "HIGH"}), vec!["a"]),
        (
            json!({"categories": ["SYSTEM"], "event_types": ["pipeline_created"]}),
            vec![],
        ),
        (json!({"min_priority": "LOW"}), vec!["p", "a", "m"]),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = io.ask("subscribe", &asked).await;
        assert_eq!(answer["status"], "success", "{answer}");
        assert!(answer["seq"].is_string());
        publish(&round.to_string()).await;
        for name in ["pipeline_created", "system_alert", "system_metrics_update"] {
            witness.message(name).await;
        }
        let closing = format!("end-{round}");
        let mut got = Vec::new();
        for _ in &expected {
            let (_, arguments) = io.next_message().await;
            got.push(arguments[0]["id"].as_str().unwrap().to_owned());
        }
        let wanted: Vec<String> = expected
            .iter()
            .map(|kind| format!("{round}-{kind}"))
            .collect();
        assert_eq!(got, wanted, "{asked}");
        // What comes next is not one of them.
        let answer = io.ask("subscribe", &json!({})).await;
        assert_eq!(answer["status"], "success", "{answer}");
        alert(&bus, &closing).await;
        let (_, arguments) = io.next_message().await;
        assert_eq!(arguments[0]["id"], json!(closing), "{asked}");
        witness.message("system_alert").await;
    }
    for (asked, code) in [
        (json!({"categories": ["NOPE"]}), "UNKNOWN_CHANNEL"),
        (json!({"event_types": ["nope"]}), "UNKNOWN_FILTER"),
        (
            json!({"event_types": ["system_alert", "user_action"]}),
            "FORBIDDEN",
        ),
        (json!({"min_priority": "URGENT"}), "INVALID_MESSAGE"),
        (json!({"categories": "SYSTEM"}), "INVALID_MESSAGE"),
        (
            json!({"min_priority": "LOW", "since": "x"}),
            "INVALID_MESSAGE",
        ),
    ] {
        let answer = io.ask("subscribe", &asked).await;
        assert_eq!(
            (&answer["status"], &answer["code"]),
            (&json!("error"), &json!(code)),
            "{answer}"
        );
    }
}

/// P2: category USER: what is for one user reaches that one alone, what users
/// do reaches administrators alone.
#[tokio::test]
async fn what_is_for_users_reaches_those() {
    let platform = platform(&[]).await;
    let bus = producer(&platform).await;
    let ada = authenticated(&platform, "viewer", "ada").await;
    let eve = authenticated(&platform, "viewer", "eve").await;
    let admin = authenticated(&platform, "admin", "root").await;
    let notification = |user: &str| json!({"userId": user, "notification": {"text": "x"}});
    send(
        &bus,
        "pipeline.user_notification",
        "n-ada",
        &notification("ada"),
    )
    .await;
    send(
        &bus,
        "pipeline.user_notification",
        "n-eve",
        &notification("eve"),
    )
    .await;
    send(
        &bus,
        "pipeline.user_action",
        "act",
        &json!({"userId": "ada", "action": {}}),
    )
    .await;
    for (io, expected) in [(&ada, "n-ada"), (&eve, "n-eve"), (&admin, "act")] {
        assert_eq!(io.next_message().await.1[0]["id"], expected);
    }
    alert(&bus, "end").await;
    for io in [&ada, &eve, &admin] {
        assert_eq!(io.next_message().await.1[0]["id"], "end");
    }
}

/// G3, G12: garbage is answered, ten in a row end it; messages beyond the limit
/// are not served, and the connection stays.
#[tokio::test]
async fn garbage_and_floods_are_answered() {
    let platform = platform(&["--messages-per-minute", "20"]).await;
    let io = authenticated(&platform, "viewer", "ada").await;
    for _ in 0..9 {
        io.emit("nonsense", &json!({"a": 1}));
        assert_eq!(io.message("error").await[0]["code"], "UNKNOWN_TYPE");
    }
    assert_eq!(io.ask("subscribe", &json!({})).await["status"], "success");
    // Ten before, and the credential.
    let mut refused = 0;
    for _ in 0..15 {
        let answer = io.ask("subscribe", &json!({})).await;
        if answer["status"] == "error" {
            assert_eq!(answer["code"], "RATE_LIMIT", "{answer}");
            assert!(answer["retry_after"].is_u64());
            refused += 1;
        }
    }
    assert_eq!(refused, 6);
    assert_eq!(io.ask("ping", &json!({})).await["status"], "pong");
    let other = authenticated(&platform, "viewer", "ada").await;
    for _ in 0..10 {
        other.emit("nonsense", &json!({}));
    }
    assert_eq!(
        other.event("disconnect").await["reason"],
        "io server disconnect"
    );
}

/// Metrics and audit lines know the dialects, and no credential.
#[tokio::test]
async fn clients_are_counted_and_audited() {
    let platform = platform(&[]).await;
    let io = authenticated(&platform, "viewer", "ada").await;
    let admin = platform.gateways[0].admin;
    eventually("the count of connections", DEADLINE, async || {
        let metrics = request(admin, "GET", "/metrics", &[], "").await.body;
        let is_it = |line: &&str| {
            line.starts_with("signalbox_gateway_connections{")
                && line.contains("dialect=\"pipeline\"")
                && line.ends_with(" 1")
        };
        metrics.lines().find(is_it).map(|_| ())
    })
    .await;
    io.cut();
    io.event("disconnect").await;
    let lines = platform.gateways[0].process.stderr();
    let ended = |line: &String| line.contains("audit") && line.contains("disconnected");
    eventually("the audit line", DEADLINE, async || {
        lines.lines().iter().any(ended).then_some(())
    })
    .await;
    let all = lines.lines().join("\n");
    assert!(all.contains("dialect=pipeline") && all.contains("authenticated"));
    assert!(!all.contains("eyJ"), "a token in the log");
}
