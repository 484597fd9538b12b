//! What tests about tool servers share: the server of `mcp_server.py` on the
//! official Python SDK, read from a file as an orchestrator reads it, and calls
//! of its tools as the turn makes them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use signalbox_bus::assignment::Stop;
use signalbox_orchestrator::agents::{Agents, Source};
use signalbox_orchestrator::tools::mcp::{Servers, Timing};
use signalbox_orchestrator::tools::{Call, Outcome, Shelf as _, Tool, Toolbox};
use signalbox_service::{Shutdown, Tasks};
use signalbox_testkit::{DEADLINE, eventually, signalbox};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// The token that servers over HTTP ask for.
pub(crate) const TOKEN: &str = "token-of-the-test";

/// Times that tests have: short waits, so that what takes long is a fault.
pub(crate) const TIMING: Timing = Timing {
    begin: Duration::from_secs(20),
    first_wait: Duration::from_millis(20),
    longest_wait: Duration::from_millis(200),
    settled: Duration::from_secs(1),
    listing_pause: Duration::from_millis(10),
    patience: Duration::from_secs(10),
    write: Duration::from_secs(10),
    grace: Duration::from_secs(1),
};

/// Tool servers, and what an orchestrator has for them.
pub(crate) struct World {
    pub(crate) toolbox: Toolbox,
    pub(crate) servers: Arc<Servers>,
    tasks: Option<Tasks>,
    shutdown: Shutdown,
}

/// A directory for one server: what it writes down.
pub(crate) struct Journal {
    dir: TempDir,
}

impl Journal {
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("journal"), "").unwrap();
        Self { dir }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("journal")
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// How many lines begin so.
    pub(crate) fn count(&self, start: &str) -> usize {
        let lines = self.lines();
        lines.iter().filter(|line| line.starts_with(start)).count()
    }

    /// The processes that came up, in order.
    pub(crate) fn pids(&self) -> Vec<i32> {
        let lines = self.lines();
        let pids = lines.iter().filter_map(|line| line.strip_prefix("up "));
        pids.map(|pid| pid.parse().unwrap()).collect()
    }

    pub(crate) async fn wait_for(&self, start: &str) {
        eventually(start, DEADLINE, async || {
            (self.count(start) > 0).then_some(())
        })
        .await;
    }
}

/// Where the SDK of the servers is.
pub(crate) fn sdk() -> PathBuf {
    let libraries = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/python");
    assert!(
        libraries.join("mcp").is_dir(),
        "the SDK of tool servers is not installed, run: scripts/deps --test"
    );
    libraries
}

/// The table of a server that is a program, with these settings of the script.
pub(crate) fn program(name: &str, journal: &Journal, settings: &Value, more: &str) -> String {
    script(name, "mcp_server.py", journal, settings, more)
}

/// The table of a server that is this script.
pub(crate) fn script(
    name: &str,
    script: &str,
    journal: &Journal,
    settings: &Value,
    more: &str,
) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let libraries = sdk();
    let mut settings = settings.clone();
    settings["transport"] = json!("stdio");
    settings["journal"] = json!(journal.path());
    let settings = Value::String(settings.to_string());
    format!(
        "[mcp.{name}]\ncommand = \"python3\"\nargs = [\"{script}\", {settings}]\n\
         directory = {directory:?}\napproval = false\n\
         env = {{PYTHONPATH = {libraries:?}, PYTHONDONTWRITEBYTECODE = \"1\", GIVEN = {{from = \"GIVEN\"}}}}\n\
         {more}\n",
        directory = root.join("clients"),
    )
}

/// The table of a server at a port.
pub(crate) fn address(name: &str, port: u16, more: &str) -> String {
    format!(
        "[mcp.{name}]\nurl = \"http://127.0.0.1:{port}/mcp\"\ntoken = {{from = \"TOKEN\"}}\n\
         approval = false\n{more}\n"
    )
}

impl World {
    /// Starts the servers of a file.
    pub(crate) fn start(file: &str) -> Self {
        Self::with(file, TIMING)
    }

    pub(crate) fn with(file: &str, timing: Timing) -> Self {
        let source = Source {
            directory: Path::new("."),
            variable: &|name| match name {
                "GIVEN" => Some("given by us".to_owned()),
                "TOKEN" => Some(TOKEN.to_owned()),
                _ => None,
            },
            keys_required: true,
        };
        let (agents, problems) = Agents::parse(file, &source);
        let agents = agents.unwrap_or_else(|| panic!("{problems:?}"));
        let shutdown = Shutdown::new();
        let tasks = Tasks::new(shutdown.clone());
        let launcher = PathBuf::from(signalbox().get_program());
        let servers = agents.servers();
        let servers = Servers::start(servers, timing, Some(launcher), &tasks, &shutdown);
        let servers = Arc::new(servers);
        Self {
            toolbox: Toolbox::default().with(Arc::clone(&servers) as _),
            servers,
            tasks: Some(tasks),
            shutdown,
        }
    }

    /// The names that an agent with these tools is offered.
    pub(crate) fn offered(&self, names: &[&str]) -> Vec<String> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let offered = self.toolbox.offered(&names, &[]);
        offered.iter().map(|tool| tool.name.clone()).collect()
    }

    /// The tool of a name, once it is there.
    pub(crate) async fn tool(&self, name: &str) -> Arc<Tool> {
        eventually(name, DEADLINE, async || self.servers.find(name)).await
    }

    /// Calls a tool, with as much time as is needed.
    pub(crate) async fn call(&self, name: &str, arguments: Value) -> Outcome {
        let tool = self.tool(name).await;
        tool.runner.run(call(name, arguments, DEADLINE)).await
    }

    /// Ends all servers, as an orchestrator that stops does.
    pub(crate) async fn stop(mut self) {
        self.shutdown.trigger();
        let left = self.tasks.take().unwrap().drain(DEADLINE).await;
        assert_eq!(left, 0);
    }
}

/// A call as the turn makes it.
pub(crate) fn call(name: &str, arguments: Value, time: Duration) -> Call {
    let (note, _) = mpsc::channel(1);
    Call {
        user_id: "u-1".to_owned(),
        session_id: "chat-1".to_owned(),
        answer: 1,
        number: 1,
        name: name.to_owned(),
        arguments,
        channels: Vec::new(),
        permissions: Vec::new(),
        deadline: Instant::now() + time,
        cancel: Stop::default(),
        note,
        trace: None,
    }
}

/// Whether a process is there, zombies included; but for those of process 1,
/// which reaps in its own time, or never.
pub(crate) fn is_there(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let Some((_, rest)) = stat.rsplit_once(')') else {
        return false;
    };
    let mut fields = rest.split_ascii_whitespace();
    (fields.next(), fields.next()) != (Some("Z"), Some("1"))
}

/// Waits until none of these processes is there.
pub(crate) async fn all_gone(pids: &[i32]) {
    eventually("the end of all processes", DEADLINE, async || {
        (!pids.iter().any(|pid| is_there(*pid))).then_some(())
    })
    .await;
}
