//! A platform with an orchestrator whose agents are a model that the test
//! scripts.

use std::path::PathBuf;

use serde_json::{Value, json};
use signalbox_testkit::{Arguments, FakeModel, Gate, Platform, Reply, Service, orchestrator};
use tempfile::TempDir;

/// What the model concludes.
pub(crate) fn analysis() -> Value {
    json!({
        "threat_classification": {
            "severity": "HIGH", "confidence": 95, "threat_type": "port_scanning",
        },
        "risk_factors": ["212 ports within 30 s"],
        "recommended_actions": ["isolate 10.4.7.19"],
    })
}

/// How a model hands that over.
pub(crate) fn handed_over() -> String {
    format!("\n\n```analysis\n{}\n```\n", analysis())
}

/// A file that makes the agents of a directory those of a model.
pub(crate) fn agents(directory: &TempDir, model: &FakeModel) -> PathBuf {
    agents_with(directory, model, "")
}

/// The same with further lines behind its one agent.
fn agents_with(directory: &TempDir, model: &FakeModel, more: &str) -> PathBuf {
    let path = directory.path().join("agents.toml");
    let text = format!(
        "[providers.scripted]\nkind = \"openai\"\nbase_url = \"{}\"\n\n\
         [agents.threat_classifier]\nname = \"Threat Classifier\"\nprovider = \"scripted\"\n\
         model = \"example-model\"\ncapabilities = [\"threat_analysis\"]\nevents = 0\n\
         analysis_by = \"fence\"\n{more}",
        model.openai_url()
    );
    std::fs::write(&path, text).unwrap();
    path
}

/// See the module.
pub(crate) struct World {
    pub(crate) platform: Platform,
    pub(crate) model: FakeModel,
    pub(crate) orchestrator: Service,
    agents: PathBuf,
    _directory: TempDir,
}

impl World {
    /// With so many gateways, which get these arguments.
    pub(crate) async fn start(gateways: usize, arguments: &[&str]) -> Self {
        Self::start_with(gateways, arguments, "").await
    }

    /// The same with further lines behind the agent of the file.
    pub(crate) async fn start_with(gateways: usize, arguments: &[&str], more: &str) -> Self {
        let arguments = Arguments {
            gateway: arguments,
            ..Arguments::default()
        };
        let platform = Platform::start_as(gateways, arguments).await;
        let model = FakeModel::start().await;
        let directory = tempfile::tempdir().unwrap();
        let path = agents_with(&directory, &model, more);
        let arguments = ["--agents", path.to_str().unwrap()];
        let orchestrator = orchestrator(&platform.nats, &arguments).await;
        Self {
            platform,
            model,
            orchestrator,
            agents: path,
            _directory: directory,
        }
    }

    /// Kills the orchestrator and starts another.
    pub(crate) async fn replace_orchestrator(&mut self) {
        self.orchestrator.process.kill9();
        let arguments = ["--agents", self.agents.to_str().unwrap()];
        self.orchestrator = orchestrator(&self.platform.nats, &arguments).await;
    }

    /// Has the model answer the next message in pieces, each of which waits for
    /// its gate; the last gate is the end's.
    pub(crate) fn reply_behind_gates(&self, pieces: &[&str]) -> Vec<Gate> {
        let gates: Vec<_> = (0..=pieces.len()).map(|_| Gate::new()).collect();
        let mut reply = Reply::new();
        for (piece, gate) in pieces.iter().zip(&gates) {
            reply = reply.wait(gate).text(piece);
        }
        let reply = reply.wait(&gates[pieces.len()]).text(&handed_over());
        self.model.reply(reply.usage(400, 50).end());
        gates
    }

    /// Has the model answer the next message without a pause.
    pub(crate) fn reply(&self, text: &str) {
        let words = text.split_inclusive(' ');
        let reply = words.fold(Reply::new(), Reply::text);
        let reply = reply.text(&handed_over());
        self.model.reply(reply.usage(400, 50).end());
    }
}
