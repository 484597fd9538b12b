//! The command line of `signalbox watch`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::escapes::Escapes;
use crate::cli::DataArgs;

/// `signalbox watch`.
///
/// With `-- COMMAND`, it ends with the command's exit code: 128+n where signal
/// n ended it, 130 where it was interrupted before it began, and 255 where it
/// has none or nobody knows it.
#[derive(Args, Clone, Debug)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    pub(super) data: DataArgs,
    /// Follow what this agent's commands write [default: all agents, and what happens]
    pub(super) agent: Option<String>,
    /// Have the agent run this, follow it, and end with its exit code
    #[arg(last = true, requires = "agent", value_name = "COMMAND")]
    pub(super) run: Vec<String>,
    /// Interrupt this command, and end
    #[arg(long, value_name = "COMMAND_ID", conflicts_with_all = ["agent", "run", "once"])]
    pub(super) interrupt: Option<String>,
    /// Type into the command; Ctrl-] in place of Ctrl-C is for `watch` then
    #[arg(long, short, requires = "agent")]
    pub(super) input: bool,
    /// How urgent the command is
    #[arg(long, value_enum, requires = "run")]
    pub(super) priority: Option<Priority>,
    /// Let the command wait for an agent that is not connected
    #[arg(long, requires = "run")]
    pub(super) queue_if_offline: bool,
    /// List the agents that are connected, and end
    #[arg(long, conflicts_with = "agent")]
    pub(super) once: bool,
    /// Print messages as they come, one JSON object a line
    #[arg(long)]
    pub(super) json: bool,
    /// Which control characters of output reach standard output [default: safe on a terminal, all elsewhere]
    #[arg(long, value_enum)]
    pub(super) escapes: Option<Escapes>,
    /// The gateway, such as http://127.0.0.1:8080 or wss://HOST [default: that of a running `up`]
    #[arg(long, env = "SIGNALBOX_URL")]
    pub(super) url: Option<String>,
    /// An access token or API key [default: a key that `up` made]
    #[arg(
        long,
        env = "SIGNALBOX_TOKEN",
        hide_env_values = true,
        conflicts_with = "key_file"
    )]
    pub(super) token: Option<String>,
    /// A file with the access token or API key, read at each connect
    #[arg(long, value_name = "FILE")]
    pub(super) key_file: Option<PathBuf>,
    /// Seconds to try to return for once the connection is lost
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    pub(super) patience: u64,
}

/// How urgent a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Priority {
    /// Ahead of others
    High,
    /// In its turn
    Normal,
    /// Behind others, but not for ever
    Low,
}

impl Priority {
    /// The word on the wire.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }
}

impl WatchArgs {
    /// Whether it does more than look.
    pub(super) fn acts(&self) -> bool {
        !self.run.is_empty() || self.input || self.interrupt.is_some()
    }
}
