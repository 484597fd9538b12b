//! `signalbox key` and `signalbox user` against a running `up`: what they make
//! works, what they end has ended, and no secret is shown twice.

use std::path::Path;

use serde_json::Value;
use signalbox_bus::server::User;
use signalbox_testkit::{DEADLINE, Platform, Process, signalbox};

const PASSWORD: &str = "correct horse battery staple";

/// What a command printed.
struct Told {
    code: Option<i32>,
    lines: Vec<String>,
    stderr: String,
}

impl Told {
    fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        serde_json::from_str(&self.lines[0]).unwrap()
    }
}

/// Runs `signalbox` with an input, as the registrar of the bus.
async fn run(platform: &Platform, arguments: &[&str], input: Option<&str>) -> Told {
    let mut command = signalbox();
    command
        .args(arguments)
        .env("NATS_URL", platform.nats.url(User::Registrar));
    let process = Process::spawn(command);
    if let Some(line) = input {
        process.write_line(line);
    }
    process.close_stdin();
    let status = process.wait(DEADLINE).await;
    Told {
        code: status.code(),
        lines: process.stdout().lines(),
        stderr: process.stderr().lines().join("\n"),
    }
}

/// The status of exchanging an API key for a token.
async fn exchange(platform: &Platform, key: &str) -> u16 {
    let body = serde_json::json!({"api_key": key}).to_string();
    let listener = platform.gateways[0].listener();
    let (status, _) = signalbox_testkit::post(listener, "/api/v1/auth/token", &body).await;
    status
}

#[tokio::test]
async fn a_key_is_made_listed_changed_and_revoked() {
    let platform = Platform::start(1).await;
    let made = run(
        &platform,
        &[
            "key", "create", "--role", "viewer", "--name", "Wall", "--json",
        ],
        None,
    );
    let made = made.await.json();
    let (id, key) = (
        made["id"].as_str().unwrap(),
        made["api_key"].as_str().unwrap(),
    );
    assert_eq!(exchange(&platform, key).await, 200);

    let listed = run(&platform, &["key", "list"], None).await;
    let line = listed.lines.iter().find(|line| line.contains(id)).unwrap();
    assert!(
        line.contains("viewer") && line.contains("active") && line.contains("Wall"),
        "{line}"
    );
    assert!(
        !listed.lines.join("\n").contains(key),
        "the secret is shown again"
    );

    let set = [
        "key",
        "set",
        id,
        "--role",
        "analyst",
        "--project",
        "apollo",
        "--json",
    ];
    let set = run(&platform, &set, None).await.json();
    assert_eq!(
        (&set["role"], &set["projects"][0]),
        (&"analyst".into(), &"apollo".into())
    );

    let revoked = run(&platform, &["key", "revoke", id], None).await;
    assert_eq!(
        revoked.lines,
        [format!("revoked {id}")],
        "{}",
        revoked.stderr
    );
    assert_eq!(exchange(&platform, key).await, 401);
    let listed = run(&platform, &["key", "list", "--json"], None).await;
    let found = |line: &&String| line.contains(id);
    let listed: Value = serde_json::from_str(listed.lines.iter().find(found).unwrap()).unwrap();
    assert_eq!(listed["revoked"], true);

    let unknown = run(&platform, &["key", "revoke", "nope"], None).await;
    assert_eq!(
        (unknown.code, unknown.stderr.contains("no such key")),
        (Some(1), true)
    );
}

#[tokio::test]
async fn a_user_is_made_listed_changed_and_deleted() {
    let platform = Platform::start(0).await;
    let create = [
        "user", "create", "ada", "--role", "analyst", "--name", "Ada L",
    ];
    let short = run(&platform, &create, Some("short")).await;
    assert_eq!(short.code, Some(1));
    assert!(
        short.stderr.contains("field `password`"),
        "{}",
        short.stderr
    );
    let none = run(&platform, &create, None).await;
    assert_eq!(
        (none.code, none.stderr.contains("no password")),
        (Some(64), true)
    );

    let made = run(&platform, &create, Some(PASSWORD)).await;
    assert_eq!(made.lines, ["created ada"], "{}", made.stderr);
    let again = run(&platform, &create, Some(PASSWORD)).await;
    assert!(again.stderr.contains("already taken"), "{}", again.stderr);
    let banned = run(
        &platform,
        &["user", "set", "ada", "--disable", "--json"],
        None,
    )
    .await
    .json();
    assert_eq!(banned["disabled"], true);
    let listed = run(&platform, &["user", "list"], None).await;
    assert!(listed.lines[1].contains("ada") && listed.lines[1].contains("disabled"));
    let passwd = run(
        &platform,
        &["user", "passwd", "ada"],
        Some("another long password"),
    )
    .await;
    assert_eq!(passwd.lines, ["changed ada"], "{}", passwd.stderr);
    for command in ["revoke", "delete"] {
        let told = run(&platform, &["user", command, "ada"], None).await;
        assert_eq!(told.code, Some(0), "{}", told.stderr);
    }
    let listed = run(&platform, &["user", "list", "--json"], None).await;
    assert!(listed.lines.is_empty(), "{:?}", listed.lines);
    // The audit log tells who did it.
    let audit = platform
        .auth
        .process
        .wait_for_line("user deleted", DEADLINE)
        .await;
    assert!(
        audit.contains("actor=\"cli:") && audit.contains("user=ada"),
        "{audit}"
    );
}

#[tokio::test]
async fn other_users_of_the_bus_manage_nothing() {
    let platform = Platform::start(0).await;
    for user in [
        User::Producer,
        User::Gateway,
        User::Operator,
        User::Observer,
    ] {
        let mut command = signalbox();
        command
            .args(["key", "list"])
            .env("NATS_URL", platform.nats.url(user));
        let process = Process::spawn(command);
        assert_eq!(process.wait(DEADLINE).await.code(), Some(1));
        let stderr = process.stderr().lines().join("\n");
        assert!(stderr.contains("refuses this user"), "{user}: {stderr}");
    }
}

#[tokio::test]
async fn up_tells_its_tools_how_to_manage_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let mut up = signalbox();
    up.args([
        "up",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--data-dir",
        path,
    ]);
    let up = Process::spawn(up);
    let ready = up.stdout().wait_for_line("Signalbox is ready", DEADLINE);
    ready.await;
    let run = async |arguments: &[&str]| {
        let mut command = signalbox();
        command.args(arguments).args(["--data-dir", path]);
        let process = Process::spawn(command);
        let status = process.wait(DEADLINE).await;
        assert!(status.success(), "{}", process.stderr().lines().join("\n"));
        process.stdout().lines()
    };
    assert_eq!(run(&["key", "list", "--json"]).await.len(), 6);
    let rotated = run(&["key", "rotate"]).await.join("");
    let kid = rotated.split(' ').next().unwrap();
    up.wait_for_line(&format!("signing key published kid={kid}"), DEADLINE)
        .await;
    let keys = std::fs::read_dir(Path::new(path).join("signing-keys")).unwrap();
    assert_eq!(keys.count(), 2);
}

#[tokio::test]
async fn the_roles_are_printed_from_the_one_table() {
    let mut command = signalbox();
    command.args(["key", "roles"]);
    let process = Process::spawn(command);
    assert!(process.wait(DEADLINE).await.success());
    let lines = process.stdout().lines();
    let line = |role: &str| lines.iter().find(|line| line.starts_with(role)).unwrap();
    assert!(line("analyst").contains("chat_agents execute_actions"));
    assert!(!line("viewer").contains("read_debug") && line("operator").contains("read_debug"));
    assert_eq!(lines.len(), 6);
}
