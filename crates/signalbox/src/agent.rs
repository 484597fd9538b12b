//! `signalbox agent`: executes commands on this machine for a gateway.

use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, value_parser};
use signalbox_agent::address::Address;
use signalbox_agent::environment::{Allowed, Environment};
use signalbox_agent::executor::{self, Executor, Graces, Stop};
use signalbox_agent::journal;
use signalbox_agent::pace::Rates;
use signalbox_agent::policy::{Pattern, Policy};
use signalbox_agent::presence;
use signalbox_agent::process::{Mode, Size};
use signalbox_agent::redact::{Redaction, Secret};
use signalbox_agent::spool;
use signalbox_agent::{Error, KeySource};
use signalbox_auth::bootstrap::Credentials;
use signalbox_identity::{AgentId, Role};
use signalbox_service::{ExitError, run as run_service};
use tracing::{info, warn};

use crate::cli::DataArgs;
use crate::runtime::Runtime;
use crate::services::CREDENTIALS;

/// Directory of the agents on this machine, below the data directory of `up`.
const AGENTS: &str = "agents";
const MIB: u64 = 1024 * 1024;
/// Places for commands that end while others begin.
const SPARE_PLACES: usize = 8;
/// How much input may wait for a command, in bytes; more is refused.
const INPUT_BYTES: usize = 1024 * 1024;
/// How many commands that are over are remembered, so that none runs twice.
const REMEMBERED: usize = 100_000;
/// For how long.
const REMEMBERED_FOR: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// From SIGKILL until a process is left behind.
const KILL_GRACE: Duration = Duration::from_secs(5);

#[derive(Args, Clone, Debug)]
pub(crate) struct AgentCommand {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// The gateway, such as wss://fleet.example/ws [default: that of a running `up`]
    #[arg(long, env = "SIGNALBOX_URL")]
    pub(crate) url: Option<String>,
    /// Who the agent is [default: the name of the machine]
    #[arg(long, env = "SIGNALBOX_AGENT_ID", value_name = "ID")]
    pub(crate) id: Option<String>,
    /// What kind of agent it is, for people
    #[arg(
        long,
        env = "SIGNALBOX_AGENT_TYPE",
        default_value = "runner",
        value_name = "WORD"
    )]
    pub(crate) agent_type: String,
    /// File with an API key of role agent [default: the key that a running `up` made]
    #[arg(long, env = "SIGNALBOX_KEY_FILE", value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// File with certificates (PEM) of authorities to trust beside the system's
    #[arg(long, env = "SIGNALBOX_CA_FILE", value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Seconds that access tokens are asked for [default: what the gateway issues]
    #[arg(long, value_name = "SECONDS", value_parser = value_parser!(u64).range(2..=31_536_000))]
    pub(crate) token_ttl: Option<u64>,
    #[command(flatten)]
    pub(crate) allowed: AllowedArgs,
    #[command(flatten)]
    pub(crate) execution: ExecutionArgs,
    #[command(flatten)]
    pub(crate) patience: PatienceArgs,
    #[command(flatten)]
    pub(crate) pace: PaceArgs,
}

/// What may be run; nothing, unless it is named here.
#[derive(Args, Clone, Debug)]
pub(crate) struct AllowedArgs {
    /// Allow commands whose words match this pattern, such as 'cargo test **'; repeatable, or several with `;` between them
    #[arg(
        long,
        env = "SIGNALBOX_AGENT_ALLOW",
        value_name = "PATTERN",
        value_delimiter = ';'
    )]
    pub(crate) allow: Vec<String>,
    /// Allow everything, by `sh -c`: whoever may send commands may do what this user may
    #[arg(long, env = "SIGNALBOX_AGENT_SHELL", conflicts_with = "allow")]
    pub(crate) shell: bool,
    /// Remove this from output: a text, env:NAME for a variable's value, or re:REGEX; repeatable
    #[arg(
        long,
        env = "SIGNALBOX_AGENT_REDACT",
        hide_env_values = true,
        value_name = "PATTERN"
    )]
    pub(crate) redact: Vec<String>,
}

/// How commands are executed.
#[derive(Args, Clone, Debug)]
pub(crate) struct ExecutionArgs {
    /// Where commands start
    #[arg(
        long,
        env = "SIGNALBOX_AGENT_WORKDIR",
        default_value = ".",
        value_name = "DIR"
    )]
    pub(crate) workdir: PathBuf,
    /// Let commands inherit these variables, such as `CARGO_*`, beside a short list of harmless ones
    #[arg(
        long,
        env = "SIGNALBOX_AGENT_ENV_ALLOW",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub(crate) env_allow: Vec<String>,
    /// Run commands in a terminal; the default
    #[arg(long, conflicts_with = "pipes")]
    pub(crate) pty: bool,
    /// Run commands with pipes: standard output and standard error apart, nothing interactive
    #[arg(long, env = "SIGNALBOX_AGENT_PIPES")]
    pub(crate) pipes: bool,
    /// The size of terminals, until a dashboard changes it
    #[arg(long, default_value = "80x24", value_name = "COLUMNSxROWS")]
    pub(crate) size: CellSize,
    /// Commands that run at once; further ones wait at the relay
    #[arg(long, env = "SIGNALBOX_AGENT_CONCURRENCY", default_value_t = 1, value_name = "NUMBER",
        value_parser = value_parser!(u32).range(1..=1_024))]
    pub(crate) concurrency: u32,
    /// Where journal and unacknowledged output are; one agent at a time
    /// [default: DATA_DIR/agents/ID, or below $XDG_STATE_HOME with --url]
    #[arg(long, env = "SIGNALBOX_SPOOL_DIR", value_name = "DIR")]
    pub(crate) spool_dir: Option<PathBuf>,
    /// MiB of unacknowledged output that one command may have on disk
    #[arg(long, default_value_t = 1_024, value_name = "MIB", value_parser = value_parser!(u64).range(1..))]
    pub(crate) spool_mib: u64,
    /// MiB of unacknowledged output that all commands may have on disk
    #[arg(long, default_value_t = 4_096, value_name = "MIB", value_parser = value_parser!(u64).range(1..))]
    pub(crate) spool_total_mib: u64,
    /// Seconds that a command waits in a full spool before its output is dropped, with a gap
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    pub(crate) spool_patience: u64,
}

/// How long commands are given.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct PatienceArgs {
    /// Milliseconds from SIGINT to SIGTERM, where a command is interrupted
    #[arg(long, default_value_t = 7_500, value_name = "MS")]
    pub(crate) interrupt_grace: u64,
    /// Milliseconds from SIGTERM to SIGKILL
    #[arg(long, default_value_t = 2_500, value_name = "MS")]
    pub(crate) terminate_grace: u64,
    /// Milliseconds that something may hold the output open after the command's end
    #[arg(long, default_value_t = 5_000, value_name = "MS")]
    pub(crate) drain_grace: u64,
    /// Seconds that commands may go on once the agent is asked to stop; then they are interrupted
    #[arg(
        long,
        env = "SIGNALBOX_AGENT_STOP_GRACE",
        default_value_t = 30,
        value_name = "SECONDS"
    )]
    pub(crate) stop_grace: u64,
    /// Seconds that what is left may take to be handed over after that
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    pub(crate) hand_over: u64,
}

/// What the gateway allows; 0 = any number. They are its own defaults.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct PaceArgs {
    /// The gateway's limit of terminal:output in a minute, 0 = none
    #[arg(long, default_value_t = 1_000, value_name = "NUMBER")]
    pub(crate) output_per_minute: u32,
    /// The gateway's limit of terminal:output in an hour, 0 = none
    #[arg(long, default_value_t = 10_000, value_name = "NUMBER")]
    pub(crate) output_per_hour: u32,
    /// The gateway's limit of other messages in a second, 0 = none
    #[arg(long, default_value_t = 10, value_name = "NUMBER")]
    pub(crate) burst: u32,
    /// The gateway's limit of other messages in a minute, 0 = none
    #[arg(long, default_value_t = 100, value_name = "NUMBER")]
    pub(crate) messages_per_minute: u32,
    /// The gateway's limit of other messages in an hour, 0 = none
    #[arg(long, default_value_t = 1_000, value_name = "NUMBER")]
    pub(crate) messages_per_hour: u32,
    /// Seconds between reports of CPU and memory
    #[arg(long, default_value_t = 15, value_name = "SECONDS", value_parser = value_parser!(u64).range(1..))]
    pub(crate) status_interval: u64,
    /// Compress output of more than 1 KB: for slow lines, at the cost of CPU time
    #[arg(long, env = "SIGNALBOX_AGENT_COMPRESS")]
    pub(crate) compress: bool,
}

/// The size of a terminal, as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CellSize {
    pub(crate) columns: u16,
    pub(crate) rows: u16,
}

impl FromStr for CellSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('x').and_then(|(columns, rows)| {
            let cells = |text: &str| text.parse::<NonZeroU16>().ok().map(NonZeroU16::get);
            Some((cells(columns)?, cells(rows)?))
        });
        let (columns, rows) = parsed.ok_or("expected columns and rows, such as 80x24")?;
        Ok(Self { columns, rows })
    }
}

/// Runs until a signal, and then until its commands have ended.
pub(crate) fn run(command: AgentCommand) -> Result<(), ExitError> {
    let id = name(&command)?;
    let presence = connection(&command, &id)?;
    let execution = execution(&command, &id)?;
    let patience = command.patience;
    // What the ladder may take for those that do not end by themselves.
    let ladder = Duration::from_millis(
        patience.interrupt_grace + patience.terminate_grace + patience.drain_grace,
    ) + KILL_GRACE;
    let grace = presence.stop_grace + presence.hand_over + ladder + KILL_GRACE;
    run_service("agent", grace, async |shutdown| {
        info!(agent = id, gateway = %presence.address, directory = %execution.directory.display(), "starting");
        tell_allowed(&execution.policy);
        // It ends what a former runner has left, and waits for that.
        let opening = tokio::task::spawn_blocking(move || Executor::open(execution));
        let executor = opening
            .await
            .map_err(ExitError::runtime)?
            .map_err(ExitError::config)?;
        let outcome = presence::run(presence, executor.clone(), shutdown).await;
        // Nothing runs on unseen.
        executor.stop(Stop::Interrupt).await;
        outcome.map_err(|error| match error {
            // Starting again is no use with any of them.
            Error::Replaced(_) | Error::KeyRefused(_) | Error::Authorities(_) => {
                ExitError::config(error)
            }
        })
    })
}

/// Who the agent is.
fn name(command: &AgentCommand) -> Result<String, ExitError> {
    let id = match &command.id {
        Some(id) => id.clone(),
        None => std::fs::read_to_string("/proc/sys/kernel/hostname")
            .map(|name| name.trim().to_owned())
            .map_err(|_| ExitError::config("--id: the machine has no name, give the agent one"))?,
    };
    AgentId::new(&id).map_err(|error| ExitError::config(format!("--id `{id}`: {error}")))?;
    Ok(id)
}

/// Where the gateway is, and how to get in.
fn connection(command: &AgentCommand, id: &str) -> Result<presence::Options, ExitError> {
    let data_dir = &command.data.data_dir;
    let url = match &command.url {
        Some(url) => url.clone(),
        None => Runtime::read(data_dir)?
            .url()
            .ok_or_else(|| ExitError::config("the running gateway has no listener"))?,
    };
    let address =
        Address::parse(&url).map_err(|error| ExitError::config(format!("--url: {error}")))?;
    let key = match &command.key_file {
        Some(path) => KeySource::File(path.clone()),
        None if command.url.is_some() && !data_dir.join(CREDENTIALS).is_file() => {
            return Err(ExitError::config(
                "name the file with the agent's API key with --key-file; \
                 `signalbox key create --role agent` makes one",
            ));
        }
        None => KeySource::Known(local_key(data_dir)?),
    };
    let (patience, pace) = (command.patience, command.pace);
    Ok(presence::Options {
        address,
        agent_id: id.to_owned(),
        agent_type: command.agent_type.clone(),
        key,
        authorities: command.ca_file.clone(),
        token_ttl: command.token_ttl.map(Duration::from_secs),
        concurrency: command.execution.concurrency,
        output_rates: Rates {
            second: 0,
            minute: pace.output_per_minute,
            hour: pace.output_per_hour,
        },
        message_rates: Rates {
            second: pace.burst,
            minute: pace.messages_per_minute,
            hour: pace.messages_per_hour,
        },
        status_interval: Duration::from_secs(pace.status_interval),
        compress: pace.compress,
        stop_grace: Duration::from_secs(patience.stop_grace),
        hand_over: Duration::from_secs(patience.hand_over),
    })
}

/// The key of role agent that `up` made.
fn local_key(data_dir: &Path) -> Result<signalbox_identity::ApiKey, ExitError> {
    let path = data_dir.join(CREDENTIALS);
    let credentials = Credentials::read(&path).map_err(|error| {
        ExitError::config(format!(
            "{}: {error}; start `signalbox up`, or name a key with --key-file",
            path.display()
        ))
    })?;
    let key = credentials.key(Role::Agent).ok_or_else(|| {
        ExitError::config(format!("{}: it has no key for role agent", path.display()))
    })?;
    Ok(key.clone())
}

/// What may be run, and how.
fn execution(command: &AgentCommand, id: &str) -> Result<executor::Options, ExitError> {
    let (args, allowed, patience) = (&command.execution, &command.allowed, command.patience);
    let policy = if allowed.shell {
        Policy::Shell
    } else if allowed.allow.is_empty() {
        Policy::Nothing
    } else {
        Policy::Matching(parsed::<Pattern>("--allow", &allowed.allow)?)
    };
    let redaction = Redaction::new(&secrets(&allowed.redact)?)
        .map_err(|error| ExitError::config(format!("--redact: {error}")))?;
    let inherited = parsed::<Allowed>("--env-allow", &args.env_allow)?;
    let workdir = std::fs::canonicalize(&args.workdir).map_err(|error| {
        ExitError::config(format!("--workdir {}: {error}", args.workdir.display()))
    })?;
    Ok(executor::Options {
        directory: directory(command, id)?,
        policy,
        workdir,
        environment: Environment::new(std::env::vars_os(), &inherited),
        mode: if args.pipes {
            Mode::Pipes
        } else {
            Mode::Terminal(Size {
                columns: args.size.columns,
                rows: args.size.rows,
            })
        },
        redaction,
        // The relay keeps to the number. Beyond it come those that it has given
        // up, for as long as they take to end.
        concurrency: usize::try_from(args.concurrency)
            .unwrap_or(usize::MAX)
            .saturating_mul(2)
            .saturating_add(SPARE_PLACES),
        spool: spool::Bounds {
            command_bytes: args.spool_mib.saturating_mul(MIB),
            total_bytes: args.spool_total_mib.saturating_mul(MIB),
            patience: Duration::from_secs(args.spool_patience),
        },
        journal: journal::Bounds {
            age: REMEMBERED_FOR,
            count: REMEMBERED,
        },
        graces: Graces {
            interrupt: Duration::from_millis(patience.interrupt_grace),
            terminate: Duration::from_millis(patience.terminate_grace),
            kill: KILL_GRACE,
            drain: Duration::from_millis(patience.drain_grace),
        },
        input_bytes: INPUT_BYTES,
    })
}

/// Where journal and spool are.
fn directory(command: &AgentCommand, id: &str) -> Result<PathBuf, ExitError> {
    if let Some(directory) = &command.execution.spool_dir {
        return Ok(directory.clone());
    }
    if command.url.is_none() {
        return Ok(command.data.data_dir.join(AGENTS).join(folder(id)));
    }
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    let state = state
        .or(home)
        .ok_or_else(|| ExitError::config("--spool-dir: name a directory for journal and output"))?;
    Ok(state.join("signalbox").join(AGENTS).join(folder(id)))
}

/// The name of an agent's directory: ids may have what leads elsewhere.
fn folder(id: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    id.bytes()
        .map(|byte| match plain(byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02x}"),
        })
        .collect()
}

fn secrets(texts: &[String]) -> Result<Vec<Secret>, ExitError> {
    texts
        .iter()
        .enumerate()
        // The text may be the secret itself.
        .map(|(place, text)| {
            text.parse().map_err(|error| {
                ExitError::config(format!("--redact, number {}: {error}", place + 1))
            })
        })
        .collect()
}

fn parsed<T>(flag: &str, texts: &[String]) -> Result<Vec<T>, ExitError>
where
    T: FromStr,
    T::Err: std::fmt::Display,
{
    texts
        .iter()
        .map(|text| {
            text.parse()
                .map_err(|error| ExitError::config(format!("{flag} `{text}`: {error}")))
        })
        .collect()
}

fn tell_allowed(policy: &Policy) {
    match policy {
        Policy::Nothing => warn!(
            "nothing is allowed, every command is refused: allow some with --allow 'cargo test **', or all with --shell"
        ),
        Policy::Shell => warn!("everything is allowed to whoever may send commands"),
        Policy::Matching(patterns) => info!(patterns = patterns.len(), "commands are allowed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_lead_nowhere_else() {
        assert_eq!(folder("build-1_a"), "build-1_a");
        assert_eq!(folder("../é"), "%2e%2e%2f%c3%a9");
    }

    #[test]
    fn sizes_are_columns_and_rows() {
        let size = CellSize {
            columns: 120,
            rows: 40,
        };
        assert_eq!("120x40".parse(), Ok(size));
        for wrong in ["", "120", "0x40", "120x", "120x70000", "axb"] {
            assert!(wrong.parse::<CellSize>().is_err(), "{wrong}");
        }
    }
}
