//! Settings of chats with agents.

use std::time::Duration;

use clap::Args;

use super::{InvalidSetting, seconds};

/// How chats are served.
#[derive(Args, Clone, Debug)]
#[group(id = "chat_at_the_gateway")]
pub struct ChatArgs {
    /// Seconds that a client waits for an orchestrator before it is told that agents are out of reach
    #[arg(long, env = "SIGNALBOX_CHAT_PATIENCE", default_value_t = 5.0)]
    pub chat_patience: f64,
}

/// How chats are served, validated.
#[derive(Clone, Copy, Debug)]
pub struct ChatOptions {
    /// How long a client waits for an orchestrator.
    pub patience: Duration,
}

impl ChatArgs {
    /// The settings.
    ///
    /// # Errors
    /// Names a setting that is out of range.
    pub(super) fn options(&self) -> Result<ChatOptions, InvalidSetting> {
        Ok(ChatOptions {
            patience: seconds("--chat-patience", self.chat_patience)?,
        })
    }
}
