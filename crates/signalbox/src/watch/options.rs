//! The command line of `signalbox watch`.

use clap::{Args, ValueEnum};

use crate::client::escapes::Escapes;
use signalbox_identity::Role;
use signalbox_protocol::Dialect;
use signalbox_service::ExitError;

use crate::client::{ConnectArgs, Target};

/// `signalbox watch`.
///
/// With `-- COMMAND`, it ends with the command's exit code: 128+n where signal
/// n ended it, 130 where it was interrupted before it began, and 255 where it
/// has none or nobody knows it.
#[derive(Args, Clone, Debug)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    pub(super) connect: ConnectArgs,
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
    /// Where to connect.
    ///
    /// # Errors
    /// When the arguments contradict each other.
    pub(super) fn target(&self) -> Result<Target, ExitError> {
        let acts = !self.run.is_empty() || self.input || self.interrupt.is_some();
        // No more than what is asked for needs.
        let role = match acts {
            true => Role::Operator,
            false => Role::Viewer,
        };
        Target::new(&self.connect, Dialect::Fleet, role)
    }
}
