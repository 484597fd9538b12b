//! Clients written in JavaScript on the libraries that people use, run by node.

use std::{
    path::PathBuf,
    process::{Command, ExitStatus},
    time::Duration,
};

use serde_json::Value;

use crate::{DEADLINE, process::Process};

const INSTALL: &str = "run: scripts/deps --test";

/// A running script of `crates/e2e/clients`, which prints one JSON value per
/// line; dropping it kills it.
#[derive(Debug)]
pub struct NodeClient {
    process: Process,
}

impl NodeClient {
    /// Runs a script with `arguments` as its only argument, in JSON.
    ///
    /// # Panics
    /// When node or the script's libraries are not installed.
    #[must_use]
    pub fn start(script: &str, arguments: &Value) -> Self {
        let clients = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../e2e/clients"));
        let libraries = clients.join("node_modules");
        assert!(
            libraries.is_dir(),
            "the test clients are not installed, {INSTALL}"
        );
        let found = Command::new("node").arg("--version").output();
        assert!(
            found.is_ok_and(|output| output.status.success()),
            "node cannot be run, {INSTALL}"
        );
        let mut command = Command::new("node");
        command
            .current_dir(&clients)
            .arg(script)
            .arg(arguments.to_string());
        Self {
            process: Process::spawn(command),
        }
    }

    /// The next value that the script prints.
    ///
    /// # Panics
    /// When none comes within `deadline`, the script ends, or it is not JSON.
    pub async fn next(&self, deadline: Duration) -> Value {
        let line = self.process.stdout().next_line(deadline).await;
        let line = line.unwrap_or_else(|| {
            panic!(
                "the script ended\n{}",
                self.process.stderr().lines().join("\n")
            )
        });
        serde_json::from_str(&line).unwrap_or_else(|err| panic!("{err} in {line:?}"))
    }

    /// The next value, which must be a received frame of the given type; gives
    /// the frame.
    ///
    /// # Panics
    /// When anything else comes, or nothing within [`DEADLINE`].
    pub async fn expect_frame(&self, kind: &str) -> Value {
        let mut value = self.next(DEADLINE).await;
        assert_eq!(value["frame"]["type"], kind, "{value}");
        value["frame"].take()
    }

    /// The next value, which must be an event of the client such as `open` or
    /// `close`; gives the whole value.
    ///
    /// # Panics
    /// When anything else comes, or nothing within [`DEADLINE`].
    pub async fn expect_event(&self, kind: &str) -> Value {
        let value = self.next(DEADLINE).await;
        assert_eq!(value["event"], kind, "{value}");
        value
    }

    /// The process that runs the script.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Waits for the script to end by itself.
    ///
    /// # Panics
    /// When it still runs after `deadline`.
    pub async fn wait(&self, deadline: Duration) -> ExitStatus {
        self.process.wait(deadline).await
    }
}
