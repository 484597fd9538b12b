//! The command line of `signalbox bench`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::dialect::DialectName;
use super::floor::FloorArgs;
use super::workload::TerminalArgs;

/// `signalbox bench`.
#[derive(Args, Clone, Debug)]
pub(crate) struct BenchCommand {
    /// What to measure
    #[command(subcommand)]
    pub(super) workload: Workload,
}

/// What is measured.
#[derive(Subcommand, Clone, Debug)]
pub(super) enum Workload {
    /// Every event goes to every client: CPU per delivery, latency, highest rate
    Fanout(FanoutArgs),
    /// Every client has a topic of its own: CPU per delivery, latency
    Topics(TopicsArgs),
    /// Clients that only stay: memory and CPU of each
    Idle(IdleArgs),
    /// Handshakes and authentications per second and per CPU second
    Connect(ConnectArgs),
    /// All clients return at once after their gateway was killed
    Resume(ResumeArgs),
    /// Clients come and go while events flow
    Jitter(JitterArgs),
    /// Dialect fleet, from dashboards through gateway and relay to agents and back: echo, lines a second
    Terminal(TerminalArgs),
    /// From publish through the router to one client: latency, highest rate
    Ingest(IngestArgs),
    /// Answers of agents: from the model's token to the client, with one and with many at once
    Chat(ChatArgs),
    /// The process that writes to sockets and does nothing else
    #[command(hide = true)]
    Floor(FloorArgs),
}

/// How clients authenticate with a Signalbox that the run started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Credential {
    /// An access token, which the gateway verifies by itself
    #[default]
    Jwt,
    /// An API key, which auth verifies
    Key,
}

/// What is measured, and by which clients.
#[derive(Args, Clone, Debug)]
pub(super) struct TargetArgs {
    /// What clients speak
    #[arg(long, value_enum, default_value = "threat")]
    pub(super) dialect: DialectName,
    /// Measure this gateway, such as ws://127.0.0.1:8080 [default: start one]
    #[arg(long)]
    pub(super) url: Option<String>,
    /// Its bus, with a producer's rights
    #[arg(long, requires = "url")]
    pub(super) nats_url: Option<String>,
    /// Its processes, whose CPU and memory are added up; repeatable
    #[arg(long, requires = "url", value_name = "PID")]
    pub(super) pid: Vec<u32>,
    /// The clients' credential there
    #[arg(
        long,
        requires = "url",
        env = "SIGNALBOX_BENCH_TOKEN",
        hide_env_values = true
    )]
    pub(super) token: Option<String>,
    /// A file with the clients' credential there
    #[arg(long, requires = "url", value_name = "FILE")]
    pub(super) key_file: Option<PathBuf>,
    /// How clients authenticate with a gateway that was started here
    #[arg(long, value_enum, default_value = "jwt")]
    pub(super) credential: Credential,
    /// An argument for the gateway that is started here; repeatable
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub(super) gateway_arg: Vec<String>,
    /// Threads that hold the clients
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) threads: u16,
    /// Connections in the making at once
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) opening: u32,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub(super) json: bool,
    /// Runs, each with processes of its own; the report has median, least and most
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) repeat: u32,
}

#[derive(Args, Clone, Debug)]
pub(super) struct FanoutArgs {
    #[command(flatten)]
    pub(super) target: TargetArgs,
    /// Clients
    #[arg(long, default_value_t = 1_000, value_parser = clients)]
    pub(super) connections: usize,
    #[command(flatten)]
    pub(super) load: LoadArgs,
    /// Events a second
    #[arg(long, default_value_t = 100.0, value_parser = rate)]
    pub(super) rate: f64,
    /// Find the highest rate without loss or growing backlog instead, in steps from --rate
    #[arg(long)]
    pub(super) search: bool,
}

#[derive(Args, Clone, Debug)]
pub(super) struct TopicsArgs {
    #[command(flatten)]
    pub(super) target: TargetArgs,
    /// Clients, each with a topic of its own
    #[arg(long, default_value_t = 5_000, value_parser = clients)]
    pub(super) connections: usize,
    #[command(flatten)]
    pub(super) load: LoadArgs,
    /// Events a second, over all topics
    #[arg(long, default_value_t = 5_000.0, value_parser = rate)]
    pub(super) rate: f64,
}

/// What flows, for how long.
#[derive(Args, Clone, Debug)]
pub(super) struct LoadArgs {
    /// Seconds of events
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    pub(super) seconds: f64,
    /// Bytes of each event's data
    #[arg(long, default_value_t = 256)]
    pub(super) bytes: usize,
    /// Leave out the comparison with bare writes
    #[arg(long)]
    pub(super) no_floor: bool,
}

#[derive(Args, Clone, Debug)]
pub(super) struct IdleArgs {
    #[command(flatten)]
    pub(super) target: TargetArgs,
    /// Clients
    #[arg(long, default_value_t = 10_000, value_parser = clients)]
    pub(super) connections: usize,
    /// Seconds for which they stay
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    pub(super) seconds: f64,
}

#[derive(Args, Clone, Debug)]
pub(super) struct ConnectArgs {
    #[command(flatten)]
    pub(super) target: TargetArgs,
    /// Connections to make
    #[arg(long, default_value_t = 10_000, value_parser = clients)]
    pub(super) connections: usize,
    /// Subscribe, too
    #[arg(long)]
    pub(super) subscribe: bool,
}

#[derive(Args, Clone, Debug)]
pub(super) struct ResumeArgs {
    #[command(flatten)]
    pub(super) target: TargetArgs,
    /// Clients
    #[arg(long, default_value_t = 5_000, value_parser = clients)]
    pub(super) connections: usize,
    /// Events published while they are away
    #[arg(long, default_value_t = 200)]
    pub(super) missed: u64,
    /// Bytes of each event's data
    #[arg(long, default_value_t = 256)]
    pub(super) bytes: usize,
    /// Have a second gateway ready instead of starting the first again
    #[arg(long)]
    pub(super) second: bool,
}

#[derive(Args, Clone, Debug)]
pub(super) struct JitterArgs {
    #[command(flatten)]
    pub(super) target: TargetArgs,
    /// Clients
    #[arg(long, default_value_t = 10_000, value_parser = clients)]
    pub(super) connections: usize,
    /// Seconds for which a client stays
    #[arg(long, default_value_t = 15.0, value_parser = seconds)]
    pub(super) every: f64,
    /// Seconds for which it is away
    #[arg(long, default_value_t = 0.5, value_parser = seconds)]
    pub(super) away: f64,
    /// Events a second
    #[arg(long, default_value_t = 5.0, value_parser = rate)]
    pub(super) rate: f64,
    /// Seconds of events
    #[arg(long, default_value_t = 30.0, value_parser = seconds)]
    pub(super) seconds: f64,
    /// Bytes of each event's data
    #[arg(long, default_value_t = 256)]
    pub(super) bytes: usize,
}

#[derive(Args, Clone, Debug)]
pub(super) struct IngestArgs {
    #[command(flatten)]
    pub(super) target: TargetArgs,
    /// Objects that events are about in the first part; the second has one channel
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) objects: u32,
    /// Events a second at which latency is measured
    #[arg(long, default_value_t = 1_000.0, value_parser = rate)]
    pub(super) rate: f64,
    /// Seconds of events there
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    pub(super) seconds: f64,
    /// Bytes of each event's data
    #[arg(long, default_value_t = 256)]
    pub(super) bytes: usize,
    /// Leave out the search for the highest rate
    #[arg(long)]
    pub(super) no_search: bool,
}

#[derive(Args, Clone, Debug)]
pub(super) struct ChatArgs {
    #[command(flatten)]
    pub(super) target: TargetArgs,
    /// Answers that are written at once in the second part, each for a user of its own; the first part has one
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) streams: u32,
    /// Tokens of each answer
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) tokens: u32,
    /// Tokens a second of each answer
    #[arg(long, default_value_t = 5.0, value_parser = rate)]
    pub(super) rate: f64,
    /// An argument for the orchestrator that is started here; repeatable
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub(super) orchestrator_arg: Vec<String>,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
        _ => Err("expected a number above 0".to_owned()),
    }
}

pub(super) fn rate(text: &str) -> Result<f64, String> {
    positive(text)
}

pub(super) fn seconds(text: &str) -> Result<f64, String> {
    positive(text).and_then(|seconds| {
        Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?;
        Ok(seconds)
    })
}

pub(super) fn clients(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number > 0 && u32::try_from(number).is_ok() => Ok(number),
        _ => Err("expected a number of clients above 0".to_owned()),
    }
}
