//! One line starts an agent beside a running `up`, and `recording` exports what
//! its commands wrote, for players that are not ours.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use signalbox_testkit::{DEADLINE, Process, WsClient, api_key, signalbox};

use crate::agent_world::{Sight, request, type_in};
use crate::fleet_world::{connect, join};
use crate::up::{listener, up};

fn tool(dir: &Path, arguments: &[&str]) -> Process {
    let mut command = signalbox();
    command.args(arguments).arg("--data-dir").arg(dir);
    Process::spawn(command)
}

async fn dashboard(dir: &Path, runtime: &Value) -> WsClient {
    let key = api_key(&dir.join("credentials.json"), "operator");
    let mut client = connect(listener(runtime), &key).await;
    join(&mut client, json!({})).await;
    client
}

/// The lines of a cast: the header, then the events.
async fn recording(dir: &Path, id: &str, arguments: &[&str]) -> Vec<Value> {
    let arguments = [&["recording", id][..], arguments].concat();
    let process = tool(dir, &arguments);
    let status = process.wait(DEADLINE).await;
    assert!(status.success(), "{:?}", process.stderr().lines());
    let lines = process.stdout().lines();
    let parsed = lines.iter().map(|line| serde_json::from_str(line).unwrap());
    parsed.collect()
}

#[tokio::test]
async fn one_line_starts_an_agent_whose_commands_are_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let (_up, runtime) = up(dir.path()).await;
    let work = dir.path().display().to_string();
    let arguments = ["agent", "--id", "here", "--shell", "--workdir", &work];
    let agent = tool(dir.path(), &arguments);
    agent.wait_for_line("serving", DEADLINE).await;
    let mut client = dashboard(dir.path(), &runtime).await;
    let command = "printf 'bold \\033[1mgrün\\033[0m\\n'; read word; echo \"said $word\"; exit 4";
    let id = request(&mut client, "here", json!({"command": command})).await;
    let mut sight = Sight::default();
    sight.until(&mut client, &id, "\r\n").await;
    type_in(&mut client, &id, "hello\r").await;
    let end = sight.watch(&mut client, &id).await;
    assert_eq!(end["exitCode"], 4);
    let lines = recording(dir.path(), &id, &["--size", "132x43"]).await;
    let (header, events) = lines.split_first().unwrap();
    assert_eq!(header["version"], 2);
    assert_eq!(
        (&header["width"], &header["height"]),
        (&json!(132), &json!(43))
    );
    assert!(header["timestamp"].as_u64().unwrap() > 1_700_000_000);
    assert_eq!(header["title"], command);
    let (mut text, mut last) = (String::new(), 0.0);
    for event in events {
        let event = event.as_array().unwrap();
        assert_eq!(event.len(), 3);
        let at = event[0].as_f64().unwrap();
        assert!(at >= last && at < 600.0, "time goes on: {event:?}");
        last = at;
        match event[1].as_str().unwrap() {
            "o" => text.push_str(event[2].as_str().unwrap()),
            "m" => assert_eq!(event[2], "failed, exit code 4"),
            other => panic!("{other}"),
        }
    }
    assert_eq!(text.as_bytes(), sight.stdout());
    // As the player of asciinema reads it.
    let cast = dir.path().join("one.cast");
    let arguments = ["recording", &id, "--output", cast.to_str().unwrap()];
    assert!(tool(dir.path(), &arguments).wait(DEADLINE).await.success());
    let libraries = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.tools/python");
    let mut player = Command::new("python3");
    player
        .args(["-m", "asciinema", "cat"])
        .arg(&cast)
        .env("PYTHONPATH", libraries)
        .env("LC_ALL", "C.UTF-8")
        .env("HOME", dir.path());
    let shown = player.output().unwrap();
    let error = String::from_utf8_lossy(&shown.stderr);
    assert!(shown.status.success(), "run: scripts/deps --test\n{error}");
    assert_eq!(shown.stdout, sight.stdout());
    agent.sigterm();
    assert_eq!(agent.wait(DEADLINE).await.code(), Some(0));
    for (id, code) in [("cmd-00000000000000000000000000000000", 1), ("nope", 64)] {
        let process = tool(dir.path(), &["recording", id]);
        assert_eq!(process.wait(DEADLINE).await.code(), Some(code), "{id}");
        assert_eq!(process.stderr().lines().len(), 1);
    }
}
