//! Clients written in Python on the libraries that people use.

use std::{path::PathBuf, process::Command, time::Duration};

use serde_json::Value;

use crate::{DEADLINE, process::Process};

const INSTALL: &str = "run: scripts/deps --test";

/// A running Python script of `crates/e2e/clients`, which prints one JSON value
/// per line; dropping it kills it.
#[derive(Debug)]
pub struct PythonClient {
    process: Process,
}

impl PythonClient {
    /// Runs a script with `arguments` as its only argument, in JSON.
    ///
    /// # Panics
    /// When Python or the script's libraries are not installed.
    #[must_use]
    pub fn start(script: &str, arguments: &Value) -> Self {
        let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        let libraries = root.join(".tools/python");
        assert!(
            libraries.is_dir(),
            "the python clients are not installed, {INSTALL}"
        );
        let mut command = Command::new("python3");
        command
            .current_dir(root.join("crates/e2e/clients"))
            .env("PYTHONPATH", libraries)
            .env("PYTHONDONTWRITEBYTECODE", "1")
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

    /// The next value, which must be an event of the client such as `connect`;
    /// gives the whole value.
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
}
