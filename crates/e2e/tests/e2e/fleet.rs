//! F1-F6, F8-F10, G7: dashboards and agents find each other, commands go back
//! and forth, stops and fresh tokens work, with the clients that people have.
//! One file, since each test is a short conversation with the same fixture.

use serde_json::{Value, json};
use signalbox_testkit::{Browser, DEADLINE, NodeClient, WsClient, api_key, post};
use tokio_tungstenite::tungstenite::Message;

use crate::fleet_world::{Agent, UNLIMITED, World, connect, find, hear, join, run};
use crate::up::{listener, up};

/// F1, F2, F4, F5: a dashboard of the documented kind, in Node, with the token
/// in a header or in the URL.
#[tokio::test]
async fn a_dashboard_in_node_runs_a_command() {
    let world = World::start(1).await;
    let mut agent = world.agent("agent-123").await;
    for place in ["header", "query"] {
        let client = NodeClient::start(
            "fleet-class.mjs",
            &json!({
                "url": world.url(),
                "token": world.token("operator", 600).await,
                "where": place,
                "command": {"agentId": "agent-123", "command": "npm test", "args": ["--coverage"]},
                "heartbeat_ms": 50,
                "exit_after": {"command:complete": 1, "heartbeat:pong": 1},
            }),
        );
        client.expect_event("open").await;
        let execute = agent.executes().await;
        assert_eq!(execute["command"], "npm test");
        assert_eq!(execute["args"], json!(["--coverage"]));
        let id = execute["commandId"].as_str().unwrap().to_owned();
        agent
            .says(
                "command:status",
                json!({"commandId": id, "status": "running"}),
            )
            .await;
        agent.writes(&id, "Test passed\n").await;
        agent.completes(&id, 0).await;
        let mut kinds = Vec::new();
        let closed = loop {
            let mut value = client.next(DEADLINE).await;
            if value["event"] == "close" {
                break value;
            }
            let frame: Value = value["frame"].take();
            assert!(
                frame["timestamp"].as_str().unwrap().ends_with('Z'),
                "{frame}"
            );
            match frame["type"].as_str().unwrap() {
                "agent:list" => {
                    assert_eq!(frame["agents"][0]["agentId"], "agent-123");
                    assert_eq!(frame["agents"][0]["agentType"], "scripted");
                }
                "command:queued" => assert_eq!(frame["commandId"], id.as_str()),
                "terminal:output" => {
                    assert_eq!(frame["output"]["content"], "Test passed\n");
                    assert_eq!(frame["output"]["type"], "stdout");
                }
                "command:complete" => {
                    assert_eq!(
                        (&frame["exitCode"], &frame["duration"]),
                        (&json!(0), &json!(5))
                    );
                }
                "command:error" | "connection:error" | "validation:error" => panic!("{frame}"),
                _ => {}
            }
            kinds.push(frame["type"].as_str().unwrap().to_owned());
        };
        assert_eq!(closed["code"], 1000);
        let place = |kind: &str| kinds.iter().position(|known| known == kind).unwrap();
        assert!(
            place("terminal:output") < place("command:complete"),
            "{kinds:?}"
        );
        assert_eq!(kinds[0], "agent:list");
    }
}

/// A dashboard on a page whose cookie is the credential; no cookie knows ports.
const COOKIE_PAGE: &str = r"
document.cookie = `token=${SETTINGS.token}; path=/`;
const socket = new WebSocket(SETTINGS.url);
socket.onopen = () => socket.send(JSON.stringify({type: 'dashboard:connect', dashboardId: 'page'}));
socket.onmessage = message => {
    report({frame: JSON.parse(message.data)});
    socket.close(1000);
};
socket.onclose = event => report({code: event.code, reason: event.reason});
";

/// F1, G7: a page comes in by its cookie, in a browser.
#[tokio::test]
async fn a_page_comes_in_by_its_cookie() {
    let dir = tempfile::tempdir().unwrap();
    let (_process, runtime) = up(dir.path()).await;
    let addr = listener(&runtime);
    let key = api_key(&dir.path().join("credentials.json"), "viewer");
    let body = json!({"api_key": key}).to_string();
    let (_, answer) = post(addr, "/api/v1/auth/token", &body).await;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let settings = json!({"url": format!("ws://{addr}/ws"), "token": answer["access_token"]});
    let script = format!("const SETTINGS = {settings};\n{COOKIE_PAGE}");
    let mut browser = Browser::open(&script).await;
    let frame = browser.next(DEADLINE).await;
    assert_eq!(frame["frame"]["type"], "agent:list", "{frame}");
    assert_eq!(browser.next(DEADLINE).await["code"], 1000);
}

/// F1, G7: the cookie is read on this dialect, with an allowed origin only.
#[tokio::test]
async fn a_cookie_needs_an_origin_that_is_allowed() {
    let arguments = [&UNLIMITED[..], &["--cors-origins", "http://app.example"]].concat();
    let world = World::start_with(1, &arguments).await;
    let token = world.token("viewer", 600).await;
    let cookie = format!("token={token}");
    let url = world.url();
    let own = format!("http://{}", world.platform.gateways[0].listener());
    for allowed in [own.as_str(), "http://app.example"] {
        let headers = [("Cookie", cookie.as_str()), ("Origin", allowed)];
        let mut page = WsClient::connect(&url, &headers).await;
        join(&mut page, json!({})).await;
    }
    let mut bare = WsClient::connect(&url, &[("Cookie", &cookie)]).await;
    let closed = bare.expect_close(DEADLINE).await;
    assert_eq!(closed.code, Some(1008));
    assert!(closed.reason.contains("Origin"), "{closed:?}");
    let headers = [
        ("Cookie", cookie.as_str()),
        ("Origin", "http://evil.example"),
    ];
    let foreign = WsClient::try_connect(&url, &headers).await;
    assert_eq!(foreign.unwrap_err().status, 403);
}

/// F1: without a good credential the upgrade is accepted and closed with a
/// reason.
#[tokio::test]
async fn strangers_are_closed_with_a_reason() {
    let world = World::start(1).await;
    let url = world.url();
    for (url, headers) in [
        (url.clone(), vec![]),
        (format!("{url}?token=nonsense"), vec![]),
        (
            format!("{url}?token={}", world.platform.api_key("viewer")),
            vec![],
        ),
        (url.clone(), vec![("Authorization", "Basic YTpi")]),
    ] {
        let mut client = WsClient::connect(&url, &headers).await;
        let closed = client.expect_close(DEADLINE).await;
        assert_eq!(closed.code, Some(1008), "{url}");
        assert!(!closed.reason.is_empty());
    }
}

/// F2: a connection takes one role, which its credential must grant.
#[tokio::test]
async fn roles_are_taken_once_and_by_right() {
    let world = World::start(1).await;
    let refused = |message: &Value| {
        assert_eq!(message["type"], "connection:error", "{message}");
        assert_eq!(message["code"], "FORBIDDEN", "{message}");
    };
    // A token of an agent shows no fleet, one of another agent is no agent's.
    let mut agent = world.open(&world.agent_token("a-1").await).await;
    agent
        .send_json(&json!({"type": "dashboard:connect", "dashboardId": "d"}))
        .await;
    refused(&agent.next_json(DEADLINE).await);
    agent
        .send_json(&json!({"type": "agent:connect", "agentId": "a-2", "agentType": "t", "version": "1", "requestId": "r"}))
        .await;
    let answer = agent.next_json(DEADLINE).await;
    refused(&answer);
    assert_eq!(answer["requestId"], "r");
    agent
        .send_json(&json!({"type": "agent:connect", "agentId": "a-1", "agentType": "t", "version": "1", "requestId": "s"}))
        .await;
    assert_eq!(agent.expect("agent:connected").await["requestId"], "s");
    agent
        .send_json(
            &json!({"type": "agent:connect", "agentId": "a-1", "agentType": "t", "version": "1"}),
        )
        .await;
    refused(&agent.next_json(DEADLINE).await);
    // A dashboard is no agent, and says first what it is.
    let mut viewer = world.open(&world.platform.api_key("viewer")).await;
    viewer
        .send_json(&json!({"type": "terminal:clear", "agentId": "a-1"}))
        .await;
    refused(&viewer.next_json(DEADLINE).await);
    viewer
        .send_json(
            &json!({"type": "agent:connect", "agentId": "a-1", "agentType": "t", "version": "1"}),
        )
        .await;
    refused(&viewer.next_json(DEADLINE).await);
    let list = join(&mut viewer, json!({"requestId": "q"})).await;
    assert_eq!(list["requestId"], "q");
    assert_eq!(list["agents"][0]["agentId"], "a-1");
    // It sees, and commands nothing.
    for message in [
        json!({"type": "command:request", "agentId": "a-1", "command": "ls"}),
        json!({"type": "command:interrupt", "commandId": "cmd-0"}),
        json!({"type": "terminal:clear", "agentId": "a-1"}),
        json!({"type": "terminal:input", "commandId": "cmd-0", "content": "x"}),
        json!({"type": "terminal:resize", "commandId": "cmd-0", "columns": 1, "rows": 1}),
        json!({"type": "system:emergency-stop", "reason": "x"}),
        json!({"type": "system:resume"}),
    ] {
        viewer.send_json(&message).await;
        let answer = hear(&mut viewer, "command:error").await;
        assert_eq!(answer["code"], "FORBIDDEN", "{message}");
    }
    viewer
        .send_json(&json!({"type": "dashboard:disconnect", "dashboardId": "d"}))
        .await;
    assert_eq!(viewer.drain(DEADLINE).await.1.code, Some(1000));
}

/// F2: a connection that does not say what it is is ended.
#[tokio::test]
async fn a_connection_without_a_role_is_ended() {
    let arguments = [&UNLIMITED[..], &["--fleet-identification", "0.3"]].concat();
    let world = World::start_with(1, &arguments).await;
    // One that has a role may stay, though it came before.
    let mut viewer = world.dashboard("viewer").await;
    let mut idle = world.open(&world.platform.api_key("viewer")).await;
    let closed = idle.expect_close(DEADLINE).await;
    assert_eq!(closed.code, Some(1008));
    viewer
        .send_json(&json!({"type": "heartbeat:ping", "requestId": "r"}))
        .await;
    assert_eq!(hear(&mut viewer, "heartbeat:pong").await["requestId"], "r");
}

/// F2, F3: agents come, change, are replaced and go, and every dashboard sees it.
#[tokio::test]
async fn dashboards_see_how_agents_are() {
    let world = World::start(2).await;
    let mut here = world.dashboard("viewer").await;
    let key = world.platform.api_key("viewer");
    let mut there = connect(world.platform.gateways[1].listener(), &key).await;
    join(&mut there, json!({})).await;
    let mut agent = world.agent("a-1").await;
    for dashboard in [&mut here, &mut there] {
        let status = find(dashboard, |message| message["status"] == "online").await;
        assert_eq!(status["agentId"], "a-1");
    }
    agent
        .says(
            "agent:status",
            json!({"status": "busy", "metrics": {"cpuUsage": 45.2}}),
        )
        .await;
    for dashboard in [&mut here, &mut there] {
        let status = find(dashboard, |message| message["status"] == "busy").await;
        assert_eq!(status["metrics"], json!({"cpuUsage": 45.2}));
    }
    // Another connection takes its place, on another gateway.
    let token = world.agent_token("a-1").await;
    let addr = world.platform.gateways[1].listener();
    let (mut second, _) = Agent::connect(addr, &token, "a-1", json!({})).await;
    let (_, closed) = agent.client.drain(DEADLINE).await;
    assert_eq!(
        (closed.code, closed.reason.as_str()),
        (Some(1008), "replaced")
    );
    second.says("agent:disconnect", json!({})).await;
    assert_eq!(second.client.drain(DEADLINE).await.1.code, Some(1000));
    for dashboard in [&mut here, &mut there] {
        find(dashboard, |message| message["status"] == "offline").await;
    }
    let (_, list) = world.dashboard_with("viewer", json!({})).await;
    assert_eq!(list["agents"], json!([]));
}

/// F3: of many changes of metrics the last is told, not each.
#[tokio::test]
async fn metrics_are_told_now_and_then_and_the_last_at_last() {
    let world = World::start(1).await;
    let mut dashboard = world.dashboard("viewer").await;
    let mut agent = world.agent("a-1").await;
    hear(&mut dashboard, "agent:status").await;
    for number in 0..200 {
        agent
            .says(
                "agent:status",
                json!({"status": "online", "metrics": {"n": number}}),
            )
            .await;
    }
    let mut told = 0;
    loop {
        let status = hear(&mut dashboard, "agent:status").await;
        told += 1;
        if status["metrics"]["n"] == 199 {
            break;
        }
    }
    assert!(told < 100, "{told} of 200 changes were told");
}

/// F4: every way in which a request is refused, and the same key twice.
#[tokio::test]
async fn requests_are_refused_with_a_code_and_repeated_by_key() {
    let world = World::start(1).await;
    let mut dashboard = world.dashboard("operator").await;
    let refusal = async |dashboard: &mut WsClient, message: Value| {
        dashboard.send_json(&message).await;
        let answer = hear(dashboard, "command:error").await;
        assert_eq!(answer["requestId"], message["requestId"], "{answer}");
        answer["code"].as_str().unwrap().to_owned()
    };
    let request = |agent: &str| json!({"type": "command:request", "agentId": agent, "command": "ls", "requestId": "r"});
    assert_eq!(
        refusal(&mut dashboard, request("nobody")).await,
        "AGENT_NOT_FOUND"
    );
    let mut agent = world.agent("a-1").await;
    let mut keyed = request("a-1");
    keyed["idempotencyKey"] = json!("k-1");
    let mut ids = Vec::new();
    for _ in 0..2 {
        dashboard.send_json(&keyed).await;
        let queued = hear(&mut dashboard, "command:queued").await;
        assert_eq!(queued["requestId"], "r");
        ids.push(queued["commandId"].as_str().unwrap().to_owned());
    }
    assert_eq!(ids[0], ids[1]);
    agent.executes().await;
    agent.completes(&ids[0], 0).await;
    hear(&mut dashboard, "command:complete").await;
    let unknown = json!({"type": "command:interrupt", "commandId": ids[0], "requestId": "r"});
    assert_eq!(refusal(&mut dashboard, unknown).await, "COMMAND_NOT_FOUND");
    let nonsense =
        json!({"type": "terminal:input", "commandId": "x", "content": "", "requestId": "r"});
    assert_eq!(refusal(&mut dashboard, nonsense).await, "COMMAND_NOT_FOUND");
    agent.says("agent:disconnect", json!({})).await;
    find(&mut dashboard, |message| message["status"] == "offline").await;
    assert_eq!(
        refusal(&mut dashboard, request("a-1")).await,
        "AGENT_OFFLINE"
    );
    let mut patient = request("a-1");
    patient["queueIfOffline"] = json!(true);
    dashboard.send_json(&patient).await;
    assert_eq!(hear(&mut dashboard, "command:queued").await["position"], 1);
    for _ in 0..99 {
        dashboard.send_json(&patient).await;
        hear(&mut dashboard, "command:queued").await;
    }
    assert_eq!(refusal(&mut dashboard, patient).await, "QUEUE_FULL");
    // Without a relay nobody answers.
    world.relay.process.kill9();
    assert_eq!(refusal(&mut dashboard, request("a-1")).await, "TIMEOUT");
}

/// F5, F6: input and size reach the agent, an interruption too; a command that
/// waits is removed and the others move up.
#[tokio::test]
async fn commands_are_fed_interrupted_and_moved_up() {
    let world = World::start(1).await;
    let mut dashboard = world.dashboard("operator").await;
    let mut agent = world.agent("a-1").await;
    let running = run(&mut dashboard, "a-1", "sleep 100").await;
    agent.executes().await;
    agent
        .says(
            "command:status",
            json!({"commandId": running, "status": "running"}),
        )
        .await;
    let second = run(&mut dashboard, "a-1", "two").await;
    let third = run(&mut dashboard, "a-1", "three").await;
    let say = async |dashboard: &mut WsClient, mut message: Value| {
        message["requestId"] = json!("r");
        dashboard.send_json(&message).await;
        hear(dashboard, "request:done").await;
    };
    say(
        &mut dashboard,
        json!({"type": "terminal:input", "commandId": running, "content": "y\n"}),
    )
    .await;
    assert_eq!(
        hear(&mut agent.client, "terminal:input").await["content"],
        "y\n"
    );
    say(
        &mut dashboard,
        json!({"type": "terminal:resize", "commandId": running, "columns": 120, "rows": 40}),
    )
    .await;
    assert_eq!(
        hear(&mut agent.client, "terminal:resize").await["columns"],
        120
    );
    // The answer and what it causes come in either order.
    dashboard
        .send_json(&json!({"type": "command:interrupt", "commandId": second, "requestId": "i"}))
        .await;
    let (mut done, mut gone, mut moved) = (false, false, false);
    while !(done && gone && moved) {
        let message = dashboard.next_json(DEADLINE).await;
        done |= message["type"] == "request:done";
        gone |= message["type"] == "command:complete" && message["commandId"] == second.as_str();
        moved |= message["type"] == "command:status"
            && message["commandId"] == third.as_str()
            && message["position"] == 1;
    }
    say(
        &mut dashboard,
        json!({"type": "command:interrupt", "commandId": running}),
    )
    .await;
    let interrupt = hear(&mut agent.client, "command:interrupt").await;
    assert_eq!(interrupt["commandId"], running.as_str());
    agent
        .says(
            "command:complete",
            json!({"commandId": running, "exitCode": 130, "signal": "SIGINT", "duration": 7}),
        )
        .await;
    let complete = find(&mut dashboard, |message| {
        message["type"] == "command:complete" && message["commandId"] == running.as_str()
    })
    .await;
    assert_eq!(complete["status"], "interrupted");
    assert_eq!(
        (&complete["exitCode"], &complete["signal"]),
        (&json!(130), &json!("SIGINT"))
    );
    assert_eq!(agent.executes().await["commandId"], third.as_str());
}

/// F8: the server asks those who announce it, and only silence ends a connection.
#[tokio::test]
async fn heartbeats_go_both_ways() {
    let arguments = [&UNLIMITED[..], &["--fleet-heartbeat", "0.2"]].concat();
    let world = World::start_with(1, &arguments).await;
    let mut plain = world.dashboard("viewer").await;
    let mut silent = world.dashboard("viewer").await;
    let (mut asked, _) = world
        .dashboard_with("viewer", json!({"capabilities": ["heartbeat"]}))
        .await;
    // For longer than three intervals: what the client answers by itself is a
    // sign of life, too.
    let hearing = async {
        for _ in 0..5 {
            asked.expect("heartbeat:ping").await;
            asked.send_json(&json!({"type": "heartbeat:pong"})).await;
        }
    };
    let reading = async {
        loop {
            match plain.next_message(DEADLINE).await {
                Some(Message::Ping(_)) => {}
                other => break other,
            }
        }
    };
    tokio::select! {
        () = hearing => {}
        other = reading => panic!("{other:?}"),
    }
    plain.send_json(&json!({"type": "heartbeat:ping"})).await;
    plain.expect("heartbeat:pong").await;
    // This one has not even read.
    silent.drain(DEADLINE).await;
}

/// F9: a stop reaches everybody, holds against a restart of the relay, and is
/// lifted.
#[tokio::test]
async fn an_emergency_stop_holds_until_it_is_lifted() {
    let mut world = World::start(1).await;
    let mut dashboard = world.dashboard("operator").await;
    let mut agent = world.agent("a-1").await;
    let running = run(&mut dashboard, "a-1", "sleep 100").await;
    agent.executes().await;
    agent
        .says(
            "command:status",
            json!({"commandId": running, "status": "running"}),
        )
        .await;
    dashboard
        .send_json(
            &json!({"type": "system:emergency-stop", "reason": "User initiated", "requestId": "r"}),
        )
        .await;
    let stop = hear(&mut agent.client, "system:emergency-stop").await;
    assert_eq!(stop["reason"], "User initiated");
    assert!(stop["by"].is_string());
    agent
        .says(
            "system:emergency-confirmed",
            json!({"stopId": stop["stopId"]}),
        )
        .await;
    agent
        .says(
            "command:complete",
            json!({"commandId": running, "exitCode": 137, "signal": "SIGKILL"}),
        )
        .await;
    let (mut told, mut done, mut over, mut confirmed) = (false, false, false, false);
    while !(told && done && over && confirmed) {
        let message = dashboard.next_json(DEADLINE).await;
        told |= message["type"] == "system:emergency-stop";
        done |= message["type"] == "request:done";
        over |= message["type"] == "command:complete";
        confirmed |= message["type"] == "system:emergency-status"
            && message["agents"] == json!([{"agentId": "a-1", "state": "confirmed"}]);
    }
    world.relay.process.kill9();
    world.relay = world.platform.start_relay(&[]).await;
    let mut late = world.open(&world.platform.api_key("operator")).await;
    join(&mut late, json!({})).await;
    hear(&mut late, "system:emergency-status").await;
    dashboard
        .send_json(&json!({"type": "command:request", "agentId": "a-1", "command": "ls"}))
        .await;
    let refusal = hear(&mut dashboard, "command:error").await;
    assert_eq!(refusal["code"], "EMERGENCY_STOP");
    dashboard
        .send_json(&json!({"type": "system:resume", "requestId": "s"}))
        .await;
    hear(&mut agent.client, "system:resume").await;
    hear(&mut late, "system:resume").await;
    run(&mut dashboard, "a-1", "ls").await;
}

/// F10: tokens are put off on an open connection, by either kind of token, and
/// a bad one changes nothing.
#[tokio::test]
async fn fresh_tokens_keep_a_connection() {
    let arguments = [&UNLIMITED[..], &["--expiry-notice", "1"]].concat();
    let world = World::start_with(1, &arguments).await;
    let body = json!({"api_key": world.platform.api_key("viewer"), "ttl": 3});
    let first = world.issue(&body).await;
    let mut client = world.open(first["access_token"].as_str().unwrap()).await;
    join(&mut client, json!({})).await;
    hear(&mut client, "auth:refresh-needed").await;
    // The same token does not last longer, another user's is not this user's.
    for token in [
        first["access_token"].as_str().unwrap().to_owned(),
        world.token("operator", 60).await,
    ] {
        client
            .send_json(&json!({"type": "auth:refresh-token", "token": token, "requestId": "r"}))
            .await;
        let failed = hear(&mut client, "auth:refresh-failed").await;
        assert_eq!(failed["requestId"], "r");
    }
    let fresh = world.token("viewer", 4).await;
    client
        .send_json(&json!({"type": "auth:refresh-token", "token": fresh, "refreshToken": first["refresh_token"]}))
        .await;
    let success = hear(&mut client, "auth:refresh-success").await;
    assert_eq!(success.get("refreshToken"), None, "{success}");
    hear(&mut client, "auth:refresh-needed").await;
    // Unused so far, the refresh token gives the next pair; the same again, on
    // this connection, gives its successor again.
    for _ in 0..2 {
        client
            .send_json(
                &json!({"type": "auth:refresh-token", "refreshToken": first["refresh_token"]}),
            )
            .await;
        let success = hear(&mut client, "auth:refresh-success").await;
        assert!(success["token"].is_string() && success["refreshToken"].is_string());
    }
    client
        .send_json(&json!({"type": "auth:refresh-token"}))
        .await;
    assert_eq!(
        hear(&mut client, "validation:error").await["field"],
        "token"
    );
    // At last nobody refreshes.
    let expired = find(&mut client, |message| message["type"] == "connection:error").await;
    assert_eq!(expired["code"], "TOKEN_EXPIRED");
    assert_eq!(client.expect_close(DEADLINE).await.code, Some(1008));
}

/// G6: what is revoked ends dashboards and agents.
#[tokio::test]
async fn revoked_credentials_end_connections() {
    let world = World::start(1).await;
    let token = world.token("viewer", 600).await;
    let mut client = world.open(&token).await;
    join(&mut client, json!({})).await;
    let body = json!({"token": token}).to_string();
    let listener = world.platform.gateways[0].listener();
    let (status, answer) = post(listener, "/api/v1/auth/revoke", &body).await;
    assert!(status < 300, "{status} {answer}");
    let refused = hear(&mut client, "connection:error").await;
    assert_eq!(refused["code"], "AUTH_FAILED");
    assert_eq!(client.expect_close(DEADLINE).await.code, Some(1008));
}
