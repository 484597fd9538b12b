//! Settings of investigations.

use std::time::Duration;

use clap::{Args, value_parser};

/// How investigations are treated.
#[derive(Args, Clone, Debug)]
pub struct InvestigationArgs {
    /// Milliseconds that a user may be gone from an investigation before the others are told: a reload, or a return to another gateway, takes less
    #[arg(long, env = "SIGNALBOX_PRESENCE_GRACE", default_value_t = 3_000, value_name = "MS",
        value_parser = value_parser!(u64).range(..=600_000))]
    pub presence_grace: u64,
    /// Seconds after its last change for which an investigation's notes are kept
    #[arg(long, env = "SIGNALBOX_INVESTIGATION_AGE", default_value_t = 30 * 24 * 60 * 60,
        value_name = "SECONDS", value_parser = value_parser!(u64).range(1..=10 * 366 * 24 * 60 * 60))]
    pub investigation_age: u64,
}

/// How investigations are treated, validated.
#[derive(Clone, Copy, Debug)]
pub struct InvestigationOptions {
    /// How long a user may be gone before the others are told.
    pub grace: Duration,
    /// How long an investigation is kept after its last change.
    pub age: Duration,
}

impl InvestigationArgs {
    /// The settings.
    pub(crate) const fn options(&self) -> InvestigationOptions {
        InvestigationOptions {
            grace: Duration::from_millis(self.presence_grace),
            age: Duration::from_secs(self.investigation_age),
        }
    }
}
