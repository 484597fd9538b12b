//! Settings of who is in investigations.

use std::time::Duration;

use clap::{Args, value_parser};

/// How it is told who is in investigations.
#[derive(Args, Clone, Debug)]
#[group(id = "presence_at_the_gateway")]
pub struct PresenceArgs {
    /// Seconds after which a gateway that gives no sign of life counts as gone, and with it its users in investigations; it gives one at every third of that
    #[arg(long, env = "SIGNALBOX_PRESENCE_TTL", default_value_t = 5, value_name = "SECONDS",
        value_parser = value_parser!(u64).range(1..=3_600))]
    pub presence_ttl: u64,
}

/// How it is told who is in investigations, validated.
#[derive(Clone, Copy, Debug)]
pub struct PresenceOptions {
    /// How long a sign of life lasts, in whole seconds.
    pub ttl: Duration,
}

impl PresenceArgs {
    pub(super) const fn options(&self) -> PresenceOptions {
        PresenceOptions {
            ttl: Duration::from_secs(self.presence_ttl),
        }
    }
}
