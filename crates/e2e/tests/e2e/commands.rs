//! The command line: what it says when something is wrong, and its settings.

use signalbox_bus::server::User;
use signalbox_testkit::{DEADLINE, NatsServer, Process, signalbox};

/// Runs `signalbox`; gives its exit code and what it printed.
async fn run(arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let mut command = signalbox();
    command.args(arguments).envs(environment.iter().copied());
    let process = Process::spawn(command);
    let status = process.wait(DEADLINE).await;
    (
        status.code(),
        process.stdout().lines().join("\n"),
        process.stderr().lines().join("\n"),
    )
}

#[tokio::test]
async fn wrong_use_is_one_line_and_exit_code_64() {
    for (arguments, told) in [
        (&["publish", "nope.x", "{}"][..], "expected <domain>.<type>"),
        (
            &["up", "--listen", "localhost"],
            "`localhost` is no address",
        ),
        (
            &["tail", "--data-dir", "/nonexistent"],
            "start `signalbox up`",
        ),
        (
            &["token", "--as", "analyst", "--ttl", "soon"],
            "--ttl `soon`",
        ),
        (&["gateway", "--drain-window=-1"], "--drain-window"),
        (&["up", "--log-filter", "=,="], "invalid log filter"),
    ] {
        let (code, _, stderr) = run(arguments, &[]).await;
        assert_eq!(code, Some(64), "{arguments:?}: {stderr}");
        assert!(stderr.contains(told), "{arguments:?}: {stderr}");
        assert!(stderr.starts_with("signalbox: "), "{stderr}");
    }
}

#[tokio::test]
async fn a_bus_that_is_not_there_or_not_made_ready_is_named() {
    let (code, _, stderr) = run(
        &["router", "--bus-wait", "1", "--admin", "127.0.0.1:0"],
        &[("NATS_URL", "nats://u:hush@127.0.0.1:9")],
    )
    .await;
    assert_eq!(code, Some(1));
    assert!(
        stderr.contains("no NATS server at nats://u@127.0.0.1:9") && !stderr.contains("hush"),
        "{stderr}"
    );
    let nats = NatsServer::start().await;
    let url = nats.url(User::Router);
    let (code, _, stderr) = run(&["router", "--admin", "127.0.0.1:0"], &[("NATS_URL", &url)]).await;
    assert_eq!(code, Some(1));
    assert!(
        stderr.contains("stream EVENTS") && stderr.contains("run `signalbox init`"),
        "{stderr}"
    );
}

#[tokio::test]
async fn events_that_a_router_would_refuse_are_refused_at_once() {
    let nats = NatsServer::start().await;
    let url = nats.url(User::Admin);
    let environment = [("NATS_URL", url.as_str())];
    assert_eq!(run(&["init"], &environment).await.0, Some(0));
    let (code, _, stderr) = run(
        &["publish", "threat.threat_alert", r#"{"incident_id":"t"}"#],
        &environment,
    )
    .await;
    assert_eq!(code, Some(1));
    assert!(
        stderr.contains("field `threat_type`: expected a string"),
        "{stderr}"
    );
    let (code, _, stderr) = run(&["publish", "threat.nope", "{}"], &environment).await;
    assert_eq!(code, Some(1));
    assert!(
        stderr.contains("no event type `nope`, only: threat_alert"),
        "{stderr}"
    );
    let (code, stdout, _) = run(
        &["publish", "--unchecked", "--id", "1", "threat.nope", "{}"],
        &environment,
    )
    .await;
    assert_eq!(
        (code, stdout.starts_with("stored events.threat.nope id=1")),
        (Some(0), true),
        "{stdout}"
    );
    let (code, stdout, _) = run(
        &["publish", "--unchecked", "--id", "1", "threat.nope", "{}"],
        &environment,
    )
    .await;
    assert_eq!(
        (code, stdout.starts_with("known already")),
        (Some(0), true),
        "{stdout}"
    );
    // A service's user may not do what init does.
    let auth = nats.url(User::Auth);
    let (code, _, stderr) = run(
        &["publish", "--unchecked", "threat.nope", "{}"],
        &[("NATS_URL", &auth)],
    )
    .await;
    assert_eq!(code, Some(1));
    assert!(
        stderr.contains("the bus refuses this user subject `events.threat.nope`"),
        "{stderr}"
    );
}

#[tokio::test]
async fn settings_come_from_file_environment_and_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("signalbox.toml");
    std::fs::write(
        &path,
        "[gateway]\nshards = 3\nsilence = 20\nnats-url = 'nats://u:hush@h:1'\n",
    )
    .unwrap();
    let file = path.to_str().unwrap();
    let (code, stdout, stderr) = run(
        &["--config", file, "config", "print", "gateway"],
        &[("SIGNALBOX_SILENCE", "30")],
    )
    .await;
    assert_eq!(code, Some(0), "{stderr}");
    for line in [
        "shards = 3  # file",
        "silence = 30  # environment",
        "drain-window = 2  # default",
        "nats-url = \"nats://u@h:1\"  # file",
    ] {
        assert!(stdout.contains(line), "{line} is missing in:\n{stdout}");
    }
    assert!(!stdout.contains("hush"), "{stdout}");
    let (code, stdout, _) = run(&["config", "check", file], &[]).await;
    assert_eq!(
        (code, stdout.contains("no problems")),
        (Some(0), true),
        "{stdout}"
    );
    std::fs::write(&path, "[gateway]\nshards = 'many'\nshrads = 1\n[nope]\n").unwrap();
    let (code, _, stderr) = run(&["config", "check", file], &[]).await;
    assert_eq!(code, Some(64));
    for told in [
        "shrads: there is no such setting",
        "[nope]: there is no such subcommand",
        "'many'",
    ] {
        assert!(stderr.contains(told), "{told} is missing in: {stderr}");
    }
    let (code, _, stderr) = run(&["--config", file, "gateway"], &[]).await;
    assert_eq!(code, Some(64), "{stderr}");
}
