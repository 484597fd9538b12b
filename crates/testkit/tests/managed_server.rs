//! The managed server as seen from outside its process: it ends with its
//! parent however that ends, comes back after a crash with port and data, and
//! shares its directory with nobody.

// Only there does a child end with its parent, and is there a /proc to look into.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::Path, process::Command};

use async_nats::{
    ConnectOptions,
    jetstream::{self, stream},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, getpgid},
};
use serde_json::Value;
use signalbox_bus::server::DataDir;
use signalbox_testkit::{DEADLINE, Process, eventually};
use tempfile::TempDir;
use tokio::net::TcpStream;

/// A process that owns a managed server.
struct Owner {
    process: Process,
    port: u16,
    server: Pid,
    password: String,
}

impl Owner {
    fn spawn(dir: &Path) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_managed-nats-server"));
        command.arg(dir);
        Process::spawn(command)
    }

    async fn start(dir: &Path) -> Self {
        let process = Self::spawn(dir);
        let line = process.wait_for_line("\"pid\"", DEADLINE).await;
        let ready: Value = serde_json::from_str(&line).unwrap();
        Self {
            process,
            port: ready["port"].as_u64().unwrap().try_into().unwrap(),
            server: Pid::from_raw(ready["pid"].as_i64().unwrap().try_into().unwrap()),
            password: ready["password"].as_str().unwrap().to_owned(),
        }
    }

    async fn accepts_clients(&self) -> bool {
        TcpStream::connect(("127.0.0.1", self.port)).await.is_ok()
    }

    async fn jetstream(&self) -> jetstream::Context {
        let client = eventually("the server to accept clients", DEADLINE, async || {
            let options =
                ConnectOptions::with_user_and_password("admin".to_owned(), self.password.clone());
            options
                .connect(format!("127.0.0.1:{}", self.port))
                .await
                .ok()
        });
        jetstream::new(client.await)
    }
}

#[tokio::test]
async fn server_ends_with_a_parent_that_is_killed() {
    let dir = TempDir::new().unwrap();
    let owner = Owner::start(dir.path()).await;
    assert!(owner.accepts_clients().await);

    owner.process.kill9();
    // The server holds the lock to its very end.
    eventually("the lock", DEADLINE, async || {
        DataDir::lock(dir.path()).ok()
    })
    .await;
    assert!(!owner.accepts_clients().await);
}

#[tokio::test]
async fn server_holds_the_lock_of_the_directory_itself() {
    let dir = TempDir::new().unwrap();
    let owner = Owner::start(dir.path()).await;
    // It is to outlast our own hold of the lock, in a server slow to end.
    let stdin = fs::read_to_string(format!("/proc/{}/fdinfo/0", owner.server)).unwrap();
    assert!(stdin.contains("FLOCK"), "{stdin}");
}

#[tokio::test]
async fn successor_of_a_killed_process_starts_on_the_same_data() {
    let dir = TempDir::new().unwrap();
    let owner = Owner::start(dir.path()).await;
    let config = stream::Config {
        name: "KEPT".to_owned(),
        ..stream::Config::default()
    };
    owner.jetstream().await.create_stream(config).await.unwrap();

    owner.process.kill9();
    let successor = Owner::start(dir.path()).await;
    successor
        .jetstream()
        .await
        .get_stream("KEPT")
        .await
        .unwrap();
    // Passwords are not kept.
    assert_ne!(owner.password, successor.password);
}

#[tokio::test]
async fn crashed_server_is_back_on_its_port_with_its_data() {
    let dir = TempDir::new().unwrap();
    let owner = Owner::start(dir.path()).await;
    let jetstream = owner.jetstream().await;
    let config = stream::Config {
        name: "KEPT".to_owned(),
        subjects: vec!["kept.>".to_owned()],
        ..stream::Config::default()
    };
    jetstream.create_stream(config).await.unwrap();
    let ack = jetstream
        .publish("kept.one", "acknowledged".into())
        .await
        .unwrap();
    ack.await.unwrap();

    kill(owner.server, Signal::SIGKILL).unwrap();
    eventually("the killed server to be gone", DEADLINE, async || {
        kill(owner.server, None).is_err().then_some(())
    })
    .await;

    let stream = owner.jetstream().await.get_stream("KEPT").await.unwrap();
    assert_eq!(
        stream.get_raw_message(1).await.unwrap().payload,
        "acknowledged"
    );
    assert_eq!(owner.process.exit_status(), None);
}

#[tokio::test]
async fn directory_in_use_is_refused_with_a_sentence() {
    let dir = TempDir::new().unwrap();
    let _owner = Owner::start(dir.path()).await;

    let second = Owner::spawn(dir.path());
    assert!(!second.wait(DEADLINE).await.success());
    let path = dir.path().canonicalize().unwrap();
    let sentence = format!(
        "the data directory {} is in use by another process",
        path.display()
    );
    second.wait_for_line(&sentence, DEADLINE).await;
}

#[tokio::test]
async fn server_stops_when_its_supervisor_is_told() {
    let dir = TempDir::new().unwrap();
    let owner = Owner::start(dir.path()).await;
    // Its own group: a Ctrl-C must reach our process only.
    assert_eq!(getpgid(Some(owner.server)).unwrap(), owner.server);

    owner.process.close_stdin();
    assert!(owner.process.wait(DEADLINE).await.success());
    assert!(!owner.accepts_clients().await);
    let log = fs::read_to_string(dir.path().join("nats/server.log")).unwrap();
    assert!(log.contains("Server Exiting"), "{log}");
}
