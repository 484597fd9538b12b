//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use signalbox_auth::{AuthArgs, BackOffArgs, GrpcArgs, LifetimeArgs, TokenArgs};
use signalbox_bus::BusArgs;
use signalbox_gateway::{EdgeArgs, GatewayArgs};
use signalbox_identity::Role;
use signalbox_orchestrator::{ChatArgs, OrchestratorArgs};
use signalbox_relay::{FleetArgs, RelayArgs};
use signalbox_router::{RouterArgs, RoutingArgs};
use signalbox_service::{LogArgs, OtlpArgs};

use crate::agent::AgentCommand;
use crate::ask::AskArgs;
use crate::bench::BenchCommand;
use crate::decide::DecideArgs;
use crate::dlq::DlqCommand;
use crate::key::KeyCommand;
use crate::recording::RecordingCommand;
use crate::user::UserCommand;
use crate::watch::WatchArgs;

/// Where `up` keeps its data unless told otherwise.
pub(crate) const DATA_DIR: &str = ".signalbox";
/// Where health is served unless told otherwise.
const ADMIN: &str = "127.0.0.1:9090";

/// Real-time events for browsers, apps and agents, in the dialect they speak
#[derive(Parser, Debug)]
#[command(
    name = "signalbox",
    version,
    propagate_version = true,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) logs: LogArgs,
    #[command(flatten)]
    pub(crate) otlp: OtlpArgs,
    /// Settings file (TOML): a table for each subcommand, keys as its long flags
    #[arg(long, env = "SIGNALBOX_CONFIG", global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Run everything in one process, with a NATS server of its own
    Up(Box<UpArgs>),
    /// Make or update the streams and buckets on a bus
    Init(InitArgs),
    /// Run the gateway: clients connect to it
    Gateway(GatewayCommand),
    /// Run the router: checks events and puts them in order
    Router(RouterCommand),
    /// Run the relay: keeps queues of commands for agents, and what they write
    Relay(RelayCommand),
    /// Run the orchestrator: holds chats with agents, and has models write the answers
    Orchestrator(OrchestratorCommand),
    /// Run the auth service: issues tokens, verifies API keys
    Auth(AuthCommand),
    /// Run an agent: executes commands on this machine that dashboards send
    Agent(Box<AgentCommand>),
    /// Export what a command wrote as an asciicast
    Recording(RecordingCommand),
    /// Publish events and wait for their acknowledgement
    Publish(PublishArgs),
    /// Show events as they are stored
    Tail(TailArgs),
    /// Watch agents and their output, and run commands on them
    Watch(WatchArgs),
    /// Ask an agent, and read the answer while it is written
    Ask(AskArgs),
    /// Decide on an action that waits for it
    Decide(DecideArgs),
    /// Print an access token
    Token(TokenCommand),
    /// Manage API keys and the keys that sign tokens
    #[command(subcommand)]
    Key(KeyCommand),
    /// Manage users
    #[command(subcommand)]
    User(UserCommand),
    /// List, show and replay refused events
    Dlq(DlqCommand),
    /// Measure a Signalbox under load, and account for every event
    Bench(BenchCommand),
    /// Check or print settings
    #[command(subcommand)]
    Config(ConfigCommand),
}

impl Command {
    /// What it is called in traces and metrics, if it tells any.
    pub(crate) const fn telemetry_name(&self) -> Option<&'static str> {
        match self {
            Self::Up(_) => Some("signalbox"),
            Self::Gateway(_) => Some("signalbox-gateway"),
            Self::Router(_) => Some("signalbox-router"),
            Self::Relay(_) => Some("signalbox-relay"),
            Self::Orchestrator(_) => Some("signalbox-orchestrator"),
            Self::Auth(_) => Some("signalbox-auth"),
            Self::Publish(_) => Some("signalbox-publish"),
            Self::Agent(_)
            | Self::Recording(_)
            | Self::Init(_)
            | Self::Tail(_)
            | Self::Watch(_)
            | Self::Ask(_)
            | Self::Decide(_)
            | Self::Token(_)
            | Self::Key(_)
            | Self::User(_)
            | Self::Dlq(_)
            | Self::Bench(_)
            | Self::Config(_) => None,
        }
    }

    /// Whether it runs until it is stopped and logs what it does.
    pub(crate) const fn is_service(&self) -> bool {
        match self {
            Self::Up(_)
            | Self::Init(_)
            | Self::Gateway(_)
            | Self::Router(_)
            | Self::Relay(_)
            | Self::Orchestrator(_)
            | Self::Agent(_)
            | Self::Auth(_) => true,
            Self::Publish(_)
            | Self::Recording(_)
            | Self::Tail(_)
            | Self::Watch(_)
            | Self::Ask(_)
            | Self::Decide(_)
            | Self::Token(_)
            | Self::Key(_)
            | Self::User(_)
            | Self::Dlq(_)
            | Self::Bench(_)
            | Self::Config(_) => false,
        }
    }
}

/// Where a service tells how it is.
#[derive(Args, Clone, Debug)]
pub(crate) struct AdminArgs {
    /// Address of /live, /ready and /metrics; a taken port gives way to a free one
    #[arg(long, env = "SIGNALBOX_ADMIN", default_value = ADMIN)]
    pub(crate) admin: SocketAddr,
    /// Seconds that a stop may take
    #[arg(long, env = "SIGNALBOX_SHUTDOWN_GRACE", default_value_t = 30)]
    pub(crate) shutdown_grace: u64,
}

/// Where `up` keeps, and tools find, what belongs to one installation.
#[derive(Args, Clone, Debug)]
pub(crate) struct DataArgs {
    /// Directory of the data, credentials and addresses of `up`
    #[arg(long, env = "SIGNALBOX_DATA_DIR", default_value = DATA_DIR, value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    /// Use this NATS server, with administrator's rights, instead of starting one
    #[arg(long, env = "NATS_URL", hide_env_values = true)]
    pub(crate) nats_url: Option<String>,
    #[command(flatten)]
    pub(crate) edge: EdgeArgs,
    #[command(flatten)]
    pub(crate) routing: RoutingArgs,
    #[command(flatten)]
    pub(crate) fleet: FleetArgs,
    #[command(flatten)]
    pub(crate) chat: ChatArgs,
    #[command(flatten)]
    pub(crate) lifetime: LifetimeArgs,
    #[command(flatten)]
    pub(crate) grpc: GrpcArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct InitArgs {
    #[command(flatten)]
    pub(crate) bus: BusArgs,
    /// Copies of each stream: 1 on one machine, 3 in a cluster
    #[arg(long, env = "SIGNALBOX_REPLICAS", default_value_t = 1)]
    pub(crate) replicas: usize,
    /// Hours that events can be resumed from
    #[arg(long, env = "SIGNALBOX_RETENTION_HOURS", default_value_t = 24)]
    pub(crate) retention_hours: u64,
    /// Seconds within which a repeated publish is recognised by its id
    #[arg(
        long,
        env = "SIGNALBOX_DUPLICATE_WINDOW",
        default_value_t = 600,
        value_name = "SECONDS"
    )]
    pub(crate) duplicate_window: u64,
    /// Make a signing key and API keys below this directory, unless they exist
    #[arg(long, value_name = "DIR")]
    pub(crate) credentials: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct GatewayCommand {
    #[command(flatten)]
    pub(crate) gateway: GatewayArgs,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct RouterCommand {
    #[command(flatten)]
    pub(crate) router: RouterArgs,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct RelayCommand {
    #[command(flatten)]
    pub(crate) relay: RelayArgs,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct OrchestratorCommand {
    #[command(flatten)]
    pub(crate) orchestrator: OrchestratorArgs,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct AuthCommand {
    #[command(flatten)]
    pub(crate) auth: AuthArgs,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct PublishArgs {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// The bus, with a producer's rights [default: that of a running `up`]
    #[arg(long, env = "NATS_URL", hide_env_values = true)]
    pub(crate) nats_url: Option<String>,
    /// The producing service [default: the event type's]
    #[arg(long)]
    pub(crate) source: Option<String>,
    /// The event's id, for one event [default: a new one]
    #[arg(long)]
    pub(crate) id: Option<String>,
    /// HIGH, MEDIUM or LOW [default: the event type's]
    #[arg(long)]
    pub(crate) priority: Option<String>,
    /// Sign the payload with this Ed25519 private key, a PEM file
    #[arg(long, value_name = "KEYFILE")]
    pub(crate) sign: Option<PathBuf>,
    /// What the router knows the key by [default: its RFC 7638 thumbprint]
    #[arg(long, requires = "sign", value_name = "ID")]
    pub(crate) key_id: Option<String>,
    /// Send even what a router would refuse
    #[arg(long)]
    pub(crate) unchecked: bool,
    /// Say nothing about events that were stored
    #[arg(long, short)]
    pub(crate) quiet: bool,
    /// Seconds to wait for each acknowledgement
    #[arg(long, default_value_t = 30)]
    pub(crate) patience: u64,
    /// Which type: DOMAIN.TYPE, such as threat.threat_alert; `-` reads CloudEvents, one JSON object per line, from standard input
    pub(crate) subject: String,
    /// The event's data; `-` or nothing reads one JSON object per line from standard input
    #[arg(default_value = "-")]
    pub(crate) data_json: String,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct TailArgs {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// The bus, with an observer's rights [default: that of a running `up`]
    #[arg(long, env = "NATS_URL", hide_env_values = true)]
    pub(crate) nats_url: Option<String>,
    /// Print one JSON object per event
    #[arg(long)]
    pub(crate) json: bool,
    /// Only these channels, separated by commas
    #[arg(long, value_delimiter = ',')]
    pub(crate) channel: Vec<String>,
    /// End after this many events
    #[arg(long)]
    pub(crate) count: Option<u64>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct TokenCommand {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// The role whose API key `up` made
    #[arg(
        long = "as",
        value_name = "ROLE",
        required_unless_present = "key",
        conflicts_with = "key"
    )]
    pub(crate) role: Option<Role>,
    /// The API key to exchange
    #[arg(long, env = "SIGNALBOX_API_KEY", hide_env_values = true)]
    pub(crate) key: Option<String>,
    /// Narrow the token to this project; repeatable
    #[arg(long, value_name = "ID")]
    pub(crate) project: Vec<String>,
    /// Bind the token to this agent
    #[arg(long, value_name = "ID")]
    pub(crate) agent_id: Option<String>,
    /// How long it lives, such as 15m or 12h
    #[arg(long, default_value = "12h")]
    pub(crate) ttl: String,
    /// The gateway, such as http://127.0.0.1:8080 [default: that of a running `up`]
    #[arg(long, env = "SIGNALBOX_URL")]
    pub(crate) url: Option<String>,
}

#[derive(Subcommand, Debug)]
pub(crate) enum ConfigCommand {
    /// Say what is wrong with a settings file, or a file of agents
    Check {
        /// The file [default: that of --config]
        file: Option<PathBuf>,
    },
    /// Print the settings that a subcommand would run with, and where each is from
    Print {
        /// The subcommand
        #[arg(default_value = "up")]
        command: String,
    },
}

/// The auth settings of `up`, which has no flags of its own for the rest.
pub(crate) fn token_args(args: &UpArgs, signing_keys: PathBuf) -> TokenArgs {
    TokenArgs {
        signing_keys,
        token_issuer: args.edge.token_issuer.clone(),
        token_audience: args.edge.token_audience.clone(),
        lifetime: args.lifetime,
        back_off: BackOffArgs::default(),
        external_issuers: None,
    }
}
