//! The command line of `signalbox bench terminal`.

use std::path::PathBuf;

use clap::Args;

use super::text::LEAST_LINE_BYTES;
use crate::bench::options::{TargetArgs, clients, rate, seconds};

/// The fewest and the most bytes of a line.
const LINE_BYTES: std::ops::RangeInclusive<i64> = LEAST_LINE_BYTES as i64..=4_096;

/// `signalbox bench terminal`.
#[derive(Args, Clone, Debug)]
pub(in crate::bench) struct TerminalArgs {
    #[command(flatten)]
    pub(in crate::bench) target: TargetArgs,
    /// With --url: a file with an API key of role agent, to get the agents' tokens for
    #[arg(long, requires = "url", value_name = "FILE")]
    pub(super) agent_key_file: Option<PathBuf>,
    /// Agents, each with a command that runs
    #[arg(long, default_value_t = 100, value_parser = clients)]
    pub(in crate::bench) sessions: usize,
    /// Dashboards, among which the sessions are shared out; every dashboard hears all of them
    #[arg(long, default_value_t = 1, value_parser = clients)]
    pub(in crate::bench) dashboards: usize,
    /// Lines typed a second, over all sessions, while echo is measured
    #[arg(long, default_value_t = 100.0, value_parser = rate)]
    pub(in crate::bench) keys: f64,
    /// Lines written a second, over all writers, while output is measured
    #[arg(long, default_value_t = 100_000.0, value_parser = rate)]
    pub(in crate::bench) lines: f64,
    /// Sessions that write while output is measured [default: up to 4]
    #[arg(long, value_parser = clients)]
    pub(super) writers: Option<usize>,
    /// Lines in a message of an agent
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(in crate::bench) batch: u32,
    /// Bytes of a line, its end included
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(LINE_BYTES))]
    pub(in crate::bench) line_bytes: u32,
    /// Seconds of each part
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    pub(in crate::bench) seconds: f64,
    /// Leave out the search for the highest rate of lines
    #[arg(long)]
    pub(super) no_search: bool,
}

impl TerminalArgs {
    /// How many sessions write at once.
    pub(super) fn writers(&self) -> usize {
        let writers = self.writers.unwrap_or(4);
        writers.min(self.sessions)
    }
}
