//! Administration of a running system through its auth service, over the bus,
//! as a user of it that may do nothing else.

use std::time::Duration;

use anyhow::{anyhow, bail};
use clap::Args;
use signalbox_bus::{Bus, BusOptions, rpc, subject};
use signalbox_protocol::wire::manage_reply::Outcome;
use signalbox_protocol::wire::manage_request::Operation;
use signalbox_protocol::wire::{self, revocation_target};
use signalbox_service::{ExitError, run as run_service};

use crate::cli::DataArgs;
use crate::runtime::Runtime;

/// How long the bus is waited for.
const BUS_WAIT: Duration = Duration::from_secs(5);
/// How long the auth service may take; a password takes it a while.
const PATIENCE: Duration = Duration::from_secs(15);

/// Which system to administer.
#[derive(Args, Clone, Debug)]
pub(crate) struct SystemArgs {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// The bus, with a registrar's rights [default: that of a running `up`]
    #[arg(long, env = "NATS_URL", hide_env_values = true)]
    pub(crate) nats_url: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// The auth service, as an administrator reaches it.
pub(crate) struct Administration {
    bus: Bus,
    actor: String,
}

impl Administration {
    /// Has one thing done.
    pub(crate) async fn ask(&self, operation: Operation) -> anyhow::Result<Outcome> {
        let request = wire::ManageRequest {
            context: None,
            credential: String::new(),
            actor: self.actor.clone(),
            operation: Some(operation),
        };
        let reply: wire::ManageReply =
            rpc::call(&self.bus, subject::ADMIN_MANAGE, &request, None, PATIENCE)
                .await
                .map_err(|error| anyhow!("auth service: {error}"))?;
        match reply.outcome {
            Some(Outcome::Refusal(refusal)) => bail!("{}", refusal.message),
            Some(outcome) => Ok(outcome),
            None => Err(unexpected()),
        }
    }

    /// Ends something.
    pub(crate) async fn revoke(&self, target: revocation_target::Target) -> anyhow::Result<()> {
        let target = wire::RevocationTarget {
            target: Some(target),
        };
        self.ask(Operation::Revoke(target)).await.map(drop)
    }
}

/// Runs `work` with the system that the arguments name.
pub(crate) fn run(
    name: &'static str,
    system: &SystemArgs,
    work: impl AsyncFnOnce(&Administration) -> anyhow::Result<()>,
) -> Result<(), ExitError> {
    let url = match &system.nats_url {
        Some(url) => url.clone(),
        None => Runtime::read(&system.data.data_dir)?.registrar_url,
    };
    run_service(name, Duration::ZERO, async |_shutdown| {
        let options = BusOptions {
            url,
            wait: BUS_WAIT,
        };
        let administration = Administration {
            bus: Bus::connect(&options, "signalbox-administration").await?,
            actor: std::env::var("USER").unwrap_or_else(|_| "unknown".to_owned()),
        };
        work(&administration).await?;
        administration.bus.drain().await;
        Ok::<_, anyhow::Error>(())
    })
}

/// An answer that fits no question.
pub(crate) fn unexpected() -> anyhow::Error {
    anyhow!("auth service: it answered something else; is it of another version?")
}

/// Lines with columns as wide as what they hold.
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths);
        let cells = cells.map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        line.trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// A cell of text that others chose, fit for a terminal.
pub(crate) fn cell(text: &str) -> String {
    let shown = text
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c });
    match text {
        "" => "-".to_owned(),
        _ => shown.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_they_hold() {
        let rows = [["a", "bb", ""], ["ccc", "\u{1b}[1m", "x"]];
        let rows = rows.map(|row| row.map(cell));
        assert_eq!(table(&rows), ["a    bb    -", "ccc  \u{fffd}[1m  x"]);
    }
}
