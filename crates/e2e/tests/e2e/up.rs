//! `signalbox up`: one command from nothing to a running system, and its end.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};
use signalbox_testkit::{DEADLINE, Process, WsClient, api_key, eventually, get, post, signalbox};

/// Starts `up` on a directory and waits until it is ready.
pub(crate) async fn up(dir: &Path) -> (Process, Value) {
    up_with(dir, &[]).await
}

/// As [`up`], with further arguments.
pub(crate) async fn up_with(dir: &Path, arguments: &[&str]) -> (Process, Value) {
    let process = start(dir, arguments);
    process
        .stdout()
        .wait_for_line("Signalbox is ready", DEADLINE)
        .await;
    let runtime = std::fs::read_to_string(dir.join("runtime.json")).unwrap();
    (process, serde_json::from_str(&runtime).unwrap())
}

fn start(dir: &Path, arguments: &[&str]) -> Process {
    let mut command = signalbox();
    command
        .args([
            "up",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--data-dir",
        ])
        .arg(dir)
        .args(arguments);
    Process::spawn(command)
}

pub(crate) fn listener(runtime: &Value) -> std::net::SocketAddr {
    runtime["listeners"][0].as_str().unwrap().parse().unwrap()
}

/// Runs a tool on the directory; gives what it printed.
async fn tool(dir: &Path, arguments: &[&str]) -> String {
    let mut command = signalbox();
    command.args(arguments).arg("--data-dir").arg(dir);
    let process = Process::spawn(command);
    let status = process.wait(DEADLINE).await;
    assert!(
        status.success(),
        "{arguments:?}: {}",
        process.stderr().lines().join("\n")
    );
    process.stdout().lines().join("\n")
}

#[tokio::test]
async fn one_command_gives_a_system_that_delivers() {
    let dir = tempfile::tempdir().unwrap();
    let (process, runtime) = up(dir.path()).await;
    let admin = runtime["admin"].as_str().unwrap().parse().unwrap();
    assert_eq!(get(admin, "/live").await.0, 200);
    assert_eq!(get(admin, "/ready").await.0, 200);
    for secret in ["credentials.json", "runtime.json"] {
        let mode = std::fs::metadata(dir.path().join(secret))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{secret}");
    }
    let token = tool(dir.path(), &["token", "--as", "analyst", "--ttl", "5m"]).await;
    let url = format!("ws://{}/v1/ws", listener(&runtime));
    let mut client = WsClient::connect(&url, &[]).await;
    client.authenticate(&token).await;
    client.subscribe(json!({"channel": "threat_alerts"})).await;
    let mut tail = signalbox();
    tail.args([
        "tail",
        "--json",
        "--count",
        "1",
        "--log-filter",
        "info",
        "--data-dir",
    ])
    .arg(dir.path());
    let tail = Process::spawn(tail);
    tail.stderr().wait_for_line("following", DEADLINE).await;
    let data = r#"{"incident_id":"t-1","threat_type":"port_scanning","severity":"HIGH"}"#;
    let printed = tool(
        dir.path(),
        &["publish", "threat.threat_alert", data, "--id", "e-1"],
    )
    .await;
    assert!(
        printed.starts_with("stored events.threat.threat_alert id=e-1 trace="),
        "{printed}"
    );
    let frame = client.expect("threat_alert").await;
    assert_eq!(
        (&frame["id"], &frame["data"]["severity"]),
        (&json!("e-1"), &json!("HIGH"))
    );
    let line = tail.stdout().next_line(DEADLINE).await.unwrap();
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&line["id"], &line["channel"], &line["seq"]),
        (&json!("e-1"), &json!("threat_alerts"), &frame["seq"])
    );
    assert!(tail.wait(DEADLINE).await.success());
    process.sigterm();
    assert!(process.wait(DEADLINE).await.success());
    assert!(!dir.path().join("runtime.json").exists());
}

/// Keys, data and positions survive a kill -9, and the server goes with its
/// parent.
#[tokio::test]
async fn a_killed_up_leaves_nothing_running_and_starts_again() {
    let dir = tempfile::tempdir().unwrap();
    let (process, runtime) = up(dir.path()).await;
    let key = api_key(&dir.path().join("credentials.json"), "viewer");
    let mut client = WsClient::connect(&format!("ws://{}/v1/ws", listener(&runtime)), &[]).await;
    client.authenticate(&key).await;
    let confirmed = client.subscribe(json!({"channel": "threat_alerts"})).await;
    let data = r#"{"incident_id":"t-1","threat_type":"x","severity":"LOW"}"#;
    tool(
        dir.path(),
        &["publish", "threat.threat_alert", data, "--id", "before"],
    )
    .await;
    client.expect("threat_alert").await;
    let nats: u16 = runtime["nats_url"]
        .as_str()
        .unwrap()
        .rsplit(':')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    process.kill9();
    eventually("the bus to end", DEADLINE, async || {
        tokio::net::TcpStream::connect(("127.0.0.1", nats))
            .await
            .is_err()
            .then_some(())
    })
    .await;
    let (_process, runtime) = up(dir.path()).await;
    let mut client = WsClient::connect(&format!("ws://{}/v1/ws", listener(&runtime)), &[]).await;
    client.authenticate(&key).await;
    let resumed = client
        .subscribe(json!({"channel": "threat_alerts", "since": confirmed["seq"]}))
        .await;
    assert_eq!(resumed["recovered"], true);
    assert_eq!(client.expect("threat_alert").await["id"], "before");
}

#[tokio::test]
async fn a_second_up_on_the_same_directory_is_refused_in_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let (_process, _) = up(dir.path()).await;
    let second = start(dir.path(), &[]);
    let status = second.wait(DEADLINE).await;
    assert_eq!(status.code(), Some(64));
    let lines = second.stderr().lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].contains(&dir.path().display().to_string()),
        "{lines:?}"
    );
}

/// A crash of the bus is repaired by its supervisor; clients do not notice.
#[tokio::test]
async fn a_crashed_bus_is_started_again() {
    let dir = tempfile::tempdir().unwrap();
    let (process, runtime) = up(dir.path()).await;
    let key = api_key(&dir.path().join("credentials.json"), "viewer");
    let mut client = WsClient::connect(&format!("ws://{}/v1/ws", listener(&runtime)), &[]).await;
    client.authenticate(&key).await;
    client.subscribe(json!({"channel": "threat_alerts"})).await;
    let line = process
        .stderr()
        .wait_for_line("nats-server is ready", DEADLINE)
        .await;
    let pid: i32 = line
        .split_once("pid=")
        .unwrap()
        .1
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    let data = r#"{"incident_id":"t-1","threat_type":"x","severity":"LOW"}"#;
    tool(
        dir.path(),
        &["publish", "threat.threat_alert", data, "--id", "after"],
    )
    .await;
    assert_eq!(client.expect("threat_alert").await["id"], "after");
}

#[tokio::test]
async fn what_is_not_served_is_answered_with_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let (_process, runtime) = up(dir.path()).await;
    let (status, body) = get(listener(&runtime), "/nowhere").await;
    assert_eq!(status, 404, "{body}");
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["error"]["code"], "NOT_FOUND");
    for path in ["/v1/ws", "/api/v1/ws", "/ws"] {
        let (status, body) = get(listener(&runtime), path).await;
        assert_eq!(status, 426, "{path}: {body}");
    }
    for (body, status, field) in [
        ("{", 400, Value::Null),
        ("{}", 400, json!("api_key")),
        (r#"{"api_key":"x","ttl":0}"#, 400, json!("ttl")),
        (r#"{"api_key":"sbk_unknown"}"#, 401, Value::Null),
    ] {
        let (found, answer) = post(listener(&runtime), "/api/v1/auth/token", body).await;
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(
            (found, &answer["error"]["field"]),
            (status, &field),
            "{body}: {answer}"
        );
    }
}
