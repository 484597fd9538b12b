//! The product's own runner on a platform, and what dashboards see of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use signalbox_testkit::{DEADLINE, Process, WsClient, eventually, signalbox};
use tempfile::TempDir;

use crate::fleet_world::{World, decode, find, hear};

/// What has the runner send as fast as it can.
pub(crate) const UNPACED: [&str; 10] = [
    "--output-per-minute",
    "0",
    "--output-per-hour",
    "0",
    "--burst",
    "0",
    "--messages-per-minute",
    "0",
    "--messages-per-hour",
    "0",
];
/// A command may take a while on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(120);

/// A machine with a runner: its directories and its key.
pub(crate) struct Machine {
    dir: TempDir,
    pub(crate) id: String,
}

impl Machine {
    pub(crate) fn new(world: &World, id: &str) -> Self {
        let machine = Self {
            dir: tempfile::tempdir().unwrap(),
            id: id.to_owned(),
        };
        std::fs::create_dir(machine.workdir()).unwrap();
        machine.put_key(&world.platform.api_key("agent"));
        machine
    }

    /// Where commands start.
    pub(crate) fn workdir(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    pub(crate) fn spool(&self) -> PathBuf {
        self.dir.path().join("spool")
    }

    pub(crate) fn put_key(&self, key: &str) {
        // With the line end that editors leave.
        std::fs::write(self.dir.path().join("key"), format!("{key}\n")).unwrap();
    }

    /// The text of a file in the working directory; empty where there is none.
    pub(crate) fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.workdir().join(name)).unwrap_or_default()
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.workdir().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Starts the runner; it may not be connected yet.
    pub(crate) fn start(&self, gateway: SocketAddr, arguments: &[&str]) -> Process {
        let mut command = signalbox();
        command
            .arg("agent")
            .args(["--url", &format!("ws://{gateway}/ws"), "--id", &self.id])
            .arg("--key-file")
            .arg(self.dir.path().join("key"))
            .arg("--spool-dir")
            .arg(self.spool())
            .arg("--workdir")
            .arg(self.workdir())
            .args(arguments)
            .env("SIGNALBOX_LOG", "debug,hyper=info");
        Process::spawn(command)
    }

    /// Starts the runner and waits until it serves.
    pub(crate) async fn serve(&self, gateway: SocketAddr, arguments: &[&str]) -> Process {
        let process = self.start(gateway, arguments);
        process.wait_for_line("serving", DEADLINE).await;
        process
    }

    /// Starts a runner that runs anything and is not slowed down.
    pub(crate) async fn serve_all(&self, gateway: SocketAddr, arguments: &[&str]) -> Process {
        let arguments = [&["--shell"], &UNPACED[..], arguments].concat();
        self.serve(gateway, &arguments).await
    }
}

/// Asks for a command with its fields; gives its id.
pub(crate) async fn request(dashboard: &mut WsClient, agent: &str, mut fields: Value) -> String {
    fields["type"] = json!("command:request");
    fields["agentId"] = json!(agent);
    dashboard.send_json(&fields).await;
    let queued = find(dashboard, |message| {
        message["type"] == "command:queued" || message["type"] == "command:error"
    })
    .await;
    assert_eq!(queued["type"], "command:queued", "{queued}");
    queued["commandId"].as_str().unwrap().to_owned()
}

/// What a dashboard has of one command: each stream, byte for byte.
#[derive(Debug, Default)]
pub(crate) struct Sight {
    pub(crate) streams: BTreeMap<String, Vec<u8>>,
    pub(crate) gaps: Vec<(u64, Option<u64>)>,
    /// Up to where the output was looked through.
    looked: usize,
}

impl Sight {
    /// Takes in a message; true at the end of the command.
    pub(crate) fn see(&mut self, command: &str, message: &Value) -> bool {
        if message["commandId"] != command {
            return false;
        }
        match message["type"].as_str() {
            Some("terminal:output") => {
                let stream = message["stream"].as_str().unwrap().to_owned();
                let bytes = self.streams.entry(stream).or_default();
                if self.gaps.is_empty() {
                    assert_eq!(message["offset"], bytes.len() as u64, "{message}");
                }
                match message["output"]["raw"].as_str() {
                    Some(raw) => bytes.extend(decode(raw)),
                    None => {
                        bytes.extend(message["output"]["content"].as_str().unwrap().as_bytes());
                    }
                }
            }
            Some("terminal:gap") => {
                let from = message["from"].as_u64().unwrap();
                self.gaps.push((from, message["to"].as_u64()));
            }
            Some("command:complete") => return true,
            _ => {}
        }
        false
    }

    /// Watches until the command has ended; gives the message that says so.
    pub(crate) async fn watch(&mut self, client: &mut WsClient, command: &str) -> Value {
        loop {
            let message = client.next_json(LONG).await;
            if self.see(command, &message) {
                return message;
            }
        }
    }

    /// Watches until the text has come, behind what was waited for before.
    pub(crate) async fn until(&mut self, client: &mut WsClient, command: &str, text: &str) {
        loop {
            let new = String::from_utf8_lossy(&self.stdout()[self.looked..]).into_owned();
            if let Some(at) = new.find(text) {
                self.looked += at + text.len();
                return;
            }
            let message = client.next_json(DEADLINE).await;
            assert!(
                !self.see(command, &message),
                "no {text:?} in {}",
                self.text()
            );
        }
    }

    pub(crate) fn stdout(&self) -> &[u8] {
        self.streams.get("stdout").map_or(&[], Vec::as_slice)
    }

    pub(crate) fn stderr(&self) -> &[u8] {
        self.streams.get("stderr").map_or(&[], Vec::as_slice)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(self.stdout()).into_owned()
    }
}

/// Runs a command to its end; gives what was seen and how it ended.
pub(crate) async fn run_whole(
    dashboard: &mut WsClient,
    agent: &str,
    command: &str,
) -> (Sight, Value) {
    let id = request(dashboard, agent, json!({"command": command})).await;
    let mut sight = Sight::default();
    let end = sight.watch(dashboard, &id).await;
    (sight, end)
}

/// Types into a command.
pub(crate) async fn type_in(dashboard: &mut WsClient, command: &str, text: &str) {
    let input = json!({"type": "terminal:input", "commandId": command, "content": text});
    dashboard.send_json(&input).await;
}

/// Text as a terminal shows what was written.
pub(crate) fn in_terminal(text: &str) -> Vec<u8> {
    text.replace('\n', "\r\n").into_bytes()
}

/// How many processes have this word among their arguments.
pub(crate) fn processes_with(word: &str) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|process| std::fs::read(process.path().join("cmdline")).ok())
        .filter(|words| {
            words
                .split(|byte| *byte == 0)
                .any(|one| one == word.as_bytes())
        })
        .count()
}

/// Waits until no process has this word among its arguments.
pub(crate) async fn until_gone(word: &str) {
    eventually(&format!("the end of {word}"), DEADLINE, async || {
        (processes_with(word) == 0).then_some(())
    })
    .await;
}

/// How many descriptors a process has open.
pub(crate) fn descriptors(pid: u32) -> usize {
    let fds = Path::new("/proc").join(pid.to_string()).join("fd");
    std::fs::read_dir(fds).map_or(0, Iterator::count)
}

/// Waits until dashboards hear that the agent is there, or gone.
pub(crate) async fn hear_status(dashboard: &mut WsClient, agent: &str, status: &str) -> Value {
    loop {
        let message = hear(dashboard, "agent:status").await;
        if message["agentId"] == agent && message["status"] == status {
            return message;
        }
    }
}
