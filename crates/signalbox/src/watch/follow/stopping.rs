//! What ends a command before its time: somebody who wants it to, or input that
//! is not whole.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::{End, LEFT, Watch};
use crate::client::Message;
use crate::watch::errand::{self, INTERRUPT};
use crate::watch::typing::Typed;

/// The pause before a command that must not go on is interrupted again.
const PAUSE: Duration = Duration::from_secs(1);
/// One leaves with it where input into a command of others did not arrive.
const NOT_TYPED: u8 = 1;

impl Watch<'_> {
    /// Somebody wants it to stop: the command first, then `watch`.
    pub(super) async fn interrupt(&mut self, times: usize) -> Result<(), End> {
        self.interrupts += times;
        let command = match &self.errand {
            Some(errand) => errand.command().map(str::to_owned),
            None => self.typist(),
        };
        let has_command = self.errand.is_some() || command.is_some();
        if !has_command {
            return Err(End::Code(0));
        }
        let again = if self.args.input { "Ctrl-]" } else { "Ctrl-C" };
        if self.interrupts > 1 {
            if let Some(id) = command {
                self.notice(&format!("left; {id} goes on unless it was interrupted"))
                    .await?;
            }
            return Err(End::Code(LEFT));
        }
        self.is_interrupting = true;
        self.send_interrupt().await;
        self.notice(&format!(
            "interrupting the command, {again} again to leave it alone"
        ))
        .await
    }

    pub(super) async fn send_interrupt(&mut self) {
        let command = match &self.errand {
            Some(errand) => errand.command().map(str::to_owned),
            None => self.typist(),
        };
        if let Some(command) = command {
            let message = json!({
                "type": "command:interrupt",
                "commandId": command,
                "requestId": INTERRUPT,
            });
            self.link.send(&message).await;
        }
    }

    /// Says what came of what was typed.
    pub(super) async fn came_of(&mut self, typed: Typed, error: &str) -> Result<(), End> {
        match typed {
            Typed::Other | Typed::Fine => Ok(()),
            Typed::Unsure => {
                self.notice("what was typed last may not have arrived")
                    .await
            }
            Typed::Nobody => self.notice(&format!("not typed: {error}")).await,
            Typed::Incomplete if self.errand.is_none() => {
                let text = format!("the input is incomplete: {error}");
                self.notice(&text).await?;
                Err(End::Code(NOT_TYPED))
            }
            Typed::Incomplete => {
                let text = format!("the input is incomplete, interrupting the command: {error}");
                self.notice(&text).await?;
                self.is_interrupting = true;
                self.send_interrupt().await;
                Ok(())
            }
        }
    }

    /// The command was not interrupted: whether it will be asked to again. Where
    /// its input is incomplete, it must not go on unseen.
    pub(super) fn interrupts_again(&mut self, refusal: &Message) -> Result<bool, End> {
        self.is_interrupting = false;
        match refusal.text("code") {
            _ if !self.typing.is_broken() => Ok(false),
            Some("TIMEOUT" | "UNAVAILABLE" | "AGENT_OFFLINE" | "RATE_LIMIT") => {
                self.is_interrupting = true;
                self.interrupt_at = Some(Instant::now() + PAUSE);
                Ok(true)
            }
            // Its end is about to be told.
            Some("COMMAND_NOT_FOUND") => Ok(true),
            _ => Err(End::Code(errand::UNKNOWN)),
        }
    }

    /// The exit code that the end of our command stands for.
    pub(super) fn exit_code(&self, complete: &Message) -> u8 {
        match self.typing.is_broken() {
            true => errand::UNKNOWN,
            false => errand::exit_code(complete),
        }
    }
}
