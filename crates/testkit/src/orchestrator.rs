//! Orchestrators around a NATS server of their own, with agents whose model is
//! scripted.

use std::path::PathBuf;

use signalbox_bus::server::User;
use tempfile::TempDir;

use crate::model::FakeModel;
use crate::platform::{command, spawn};
use crate::{NatsServer, RelayBus, Service};

/// A bus that `init` has prepared, a scripted model, and a file with agents:
/// `tester` speaks with the model, the shipped ones are offline.
#[derive(Debug)]
pub struct ChatBus {
    /// The bus.
    pub bus: RelayBus,
    /// What agent `tester` speaks with.
    pub model: FakeModel,
    agents: PathBuf,
    _dir: TempDir,
}

impl ChatBus {
    /// Starts bus and model; `settings` are further lines of the table of agent
    /// `tester`.
    ///
    /// # Panics
    /// When they do not start.
    pub async fn start(settings: &str) -> Self {
        let model = FakeModel::start().await;
        let dir = TempDir::new().expect("a directory can be made");
        let agents = dir.path().join("agents.toml");
        let text = format!(
            r#"
[providers.scripted]
kind = "openai"
base_url = "{url}"

[providers.slow]
kind = "offline"
pace = 0.02

[agents.threat_classifier]
provider = "slow"

[agents.tester]
name = "Tester"
provider = "scripted"
model = "scripted-1"
instructions = "Answer."
capabilities = ["testing"]
analysis_schema = '{{"type": "object", "required": ["verdict"]}}'
{settings}
"#,
            url = model.openai_url()
        );
        std::fs::write(&agents, text).expect("the file can be written");
        Self {
            bus: RelayBus::start().await,
            model,
            agents,
            _dir: dir,
        }
    }

    /// Starts an orchestrator, with a short lease and these arguments; the caller
    /// keeps it.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn orchestrator(&self, arguments: &[&str]) -> Service {
        let agents = self.agents.to_str().expect("the path is text");
        let arguments = [&["--agents", agents], arguments].concat();
        orchestrator(&self.bus.nats, &arguments).await
    }
}

/// Starts an orchestrator beside whatever else is on the bus, with a short lease
/// and these arguments.
///
/// # Panics
/// When it does not start.
pub async fn orchestrator(nats: &NatsServer, arguments: &[&str]) -> Service {
    let mut orchestrator = command(nats, User::Orchestrator, "orchestrator");
    orchestrator.env("SIGNALBOX_LEASE_TTL", "1").args(arguments);
    spawn(orchestrator).await
}
