//! A platform whose agent has commands run on a machine with the product's own
//! runner: a scripted model asks, people watch and decide.

use std::path::PathBuf;

use serde_json::{Value, json};
use signalbox_bus::server::User as BusUser;
use signalbox_identity::UserId;
use signalbox_testkit::{
    DEADLINE, FakeModel, Finish, Platform, Process, Reply, Service, WsClient, orchestrator, relay,
    signalbox,
};
use tempfile::TempDir;

use crate::agent_world::{Machine, Sight};
use crate::chat_client::Chatter;
use crate::fleet_world::World as Fleet;

/// The agent of the chats.
pub(crate) const HELPER: &str = "helper";
/// The agent that runs commands.
pub(crate) const WEB: &str = "web-1";

/// See the module.
pub(crate) struct World {
    pub(crate) fleet: Fleet,
    pub(crate) model: FakeModel,
    pub(crate) orchestrator: Service,
    pub(crate) machine: Machine,
    _runner: Process,
    directory: TempDir,
}

impl World {
    /// With these lines in the table of the tool, beside the agents that it may
    /// address.
    pub(crate) async fn start(settings: &str) -> Self {
        let fleet = Fleet::start(1).await;
        let model = FakeModel::start().await;
        let directory = tempfile::tempdir().unwrap();
        let text = format!(
            "[providers.scripted]\nkind = \"openai\"\nbase_url = \"{}\"\n\n\
             [agents.{HELPER}]\nname = \"Helper\"\nprovider = \"scripted\"\n\
             model = \"example-model\"\ncapabilities = [\"commands\"]\nevents = 0\n\
             analysis_by = \"fence\"\nanalysis_schema = '{{\"type\": \"object\"}}'\n\
             instructions = \"Answer.\"\ntools = [\"run_command\"]\n\n\
             [tools.run_command]\nagents = [\"web-*\"]\n{settings}\n",
            model.openai_url()
        );
        std::fs::write(file_of(&directory), text).unwrap();
        let orchestrator = started(&fleet.platform, &directory).await;
        let machine = Machine::new(&fleet, WEB);
        let gateway = fleet.platform.gateways[0].listener();
        let runner = machine.serve_all(gateway, &["--pipes"]).await;
        Self {
            fleet,
            model,
            orchestrator,
            machine,
            _runner: runner,
            directory,
        }
    }

    /// Kills the orchestrator, and starts another.
    pub(crate) async fn replace_orchestrator(&mut self) {
        self.orchestrator.process.kill9();
        self.orchestrator = started(&self.fleet.platform, &self.directory).await;
    }

    /// Kills the relay, and starts another.
    pub(crate) async fn replace_relay(&mut self) {
        self.fleet.relay.process.kill9();
        self.fleet.relay = relay(&self.fleet.platform.nats, &[]).await;
    }

    /// Has the model ask for a command next.
    pub(crate) fn asks_for(&self, command: &str) {
        let arguments = json!({"agent_id": WEB, "command": command});
        self.asks_with(&[arguments]);
    }

    /// Has the model make these calls next, all in one round.
    pub(crate) fn asks_with(&self, calls: &[Value]) {
        let mut reply = Reply::new();
        for (number, arguments) in calls.iter().enumerate() {
            let id = format!("call-{number}");
            reply = reply.call(&id, "run_command", &[&arguments.to_string()]);
        }
        self.model
            .reply(reply.usage(400, 50).end_with(Finish::Tools));
    }

    /// Has the model conclude next.
    pub(crate) fn concludes(&self, text: &str) {
        let reply = Reply::new().text(text).text("\n\n```analysis\n{}\n```\n");
        self.model.reply(reply.usage(400, 50).end());
    }

    /// A token of a user of this name and role, whom no limit holds back.
    pub(crate) fn token(&self, role: &str, user: &str) -> String {
        let platform = &self.fleet.platform;
        let mut claims = platform.claims(role);
        claims.sub = UserId::new(user).unwrap();
        let token = platform.signing_key().sign(&claims);
        token.unwrap().expose().to_owned()
    }

    /// A user in a chat of their own; gives its session too.
    pub(crate) async fn chat(&self, role: &str, user: &str) -> (Chatter, String) {
        let token = self.token(role, user);
        let mut chatter = Chatter::connect(&self.fleet.platform.gateways[0], &token).await;
        let session = chatter.start(HELPER).await;
        (chatter, session)
    }

    /// Somebody who hears of actions.
    pub(crate) async fn decider(&self, role: &str, user: &str) -> WsClient {
        let url = self.fleet.platform.gateways[0].threat_url();
        let mut client = WsClient::connect(&url, &[]).await;
        client.authenticate(&self.token(role, user)).await;
        let subscription = json!({"channel": "response_actions"});
        client.subscribe(subscription).await;
        client
    }

    /// `signalbox watch`, of the agent that runs commands.
    pub(crate) fn watch_terminal(&self) -> Process {
        let platform = &self.fleet.platform;
        let url = format!("http://{}", platform.gateways[0].listener());
        let mut command = signalbox();
        command
            .args(["watch", WEB, "--url", &url])
            .env("SIGNALBOX_TOKEN", platform.api_key("viewer"));
        Process::spawn(command)
    }

    /// What `signalbox recording` gives of a command.
    pub(crate) async fn recording(&self, command_id: &str) -> String {
        let url = self.fleet.platform.nats.url(BusUser::Observer);
        let mut command = signalbox();
        command.args(["recording", command_id, "--nats-url", &url]);
        let process = Process::spawn(command);
        let status = process.wait(DEADLINE).await;
        assert!(status.success(), "{:?}", process.stderr().lines());
        process.stdout().lines().join("\n")
    }

    /// How often the command has begun that writes a line into `ran`.
    pub(crate) fn runs(&self) -> usize {
        self.machine.text("ran").lines().count()
    }
}

fn file_of(directory: &TempDir) -> PathBuf {
    directory.path().join("agents.toml")
}

async fn started(platform: &Platform, directory: &TempDir) -> Service {
    let path = file_of(directory);
    orchestrator(&platform.nats, &["--agents", path.to_str().unwrap()]).await
}

/// The next frame of a chat of this type; others are passed over.
pub(crate) async fn frame(chatter: &mut Chatter, kind: &str) -> Value {
    loop {
        let frame = chatter.next().await;
        if frame["type"] == kind {
            return frame;
        }
        let ends = ["agent_error", "agent_response_complete", "error"];
        let is_end = ends.iter().any(|end| frame["type"] == *end);
        assert!(!is_end, "no {kind}: {frame}");
    }
}

/// The next update of an action with this status.
pub(crate) async fn action(client: &mut WsClient, status: &str) -> Value {
    loop {
        let frame = client.next_json(DEADLINE).await;
        if frame["type"] == "action_update" && frame["data"]["status"] == status {
            return frame["data"].clone();
        }
    }
}

/// What a dashboard sees of a command up to its end; gives its end too.
pub(crate) async fn seen_whole(dashboard: &mut WsClient, command: &str) -> (Sight, Value) {
    let mut sight = Sight::default();
    let end = sight.watch(dashboard, command).await;
    (sight, end)
}
