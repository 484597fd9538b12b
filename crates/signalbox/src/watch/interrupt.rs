//! `signalbox watch --interrupt`: ends a command, and says whether it could.

use std::time::Duration;

use anyhow::{anyhow, bail};
use serde_json::json;
use signalbox_service::ExitError;
use tokio::time::timeout;

use super::errand::INTERRUPT;
use super::link::{Link, News};
use super::options::WatchArgs;
use crate::client::Target;
use crate::client::plain;
use crate::output;

/// Interrupts a command.
///
/// # Errors
/// When there is none to interrupt, or nobody to tell.
pub(super) async fn interrupt(args: &WatchArgs, command: &str) -> Result<u8, ExitError> {
    let target = args.target()?;
    let patience = args.connect.patience();
    let told = timeout(patience, tell(target, patience, command)).await;
    told.unwrap_or_else(|_| Err(anyhow!("no answer within {} s", patience.as_secs())))
        .map_err(ExitError::runtime)?;
    output::line(format_args!("interrupted {}", plain(command)))?;
    Ok(0)
}

async fn tell(target: Target, patience: Duration, command: &str) -> anyhow::Result<()> {
    let mut link = Link::open(target, patience).await?;
    let message = json!({
        "type": "command:interrupt",
        "commandId": command,
        "requestId": INTERRUPT,
    });
    loop {
        match link.next().await? {
            // Once for each connection: to interrupt twice does no harm.
            News::Here { .. } => {
                link.send(&message).await;
            }
            News::Message(answer) if answer.text("requestId") == Some(INTERRUPT) => {
                if answer.kind() != "request:done" {
                    bail!(plain(answer.text("error").unwrap_or_default()));
                }
                link.leave().await;
                return Ok(());
            }
            News::Message(_) | News::Lost(_) => {}
        }
    }
}
