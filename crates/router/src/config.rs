//! Settings of the router.

use std::time::Duration;

use clap::Args;
use signalbox_bus::{BusArgs, BusOptions};

/// How long publishes in flight may take to end after a stop was asked for.
const DRAIN: Duration = Duration::from_secs(5);

/// Command line and environment of the router.
#[derive(Args, Clone, Debug)]
pub struct RouterArgs {
    /// The bus
    #[command(flatten)]
    pub bus: BusArgs,
    /// Settings that `up` shares
    #[command(flatten)]
    pub routing: RoutingArgs,
}

/// What is routed how.
#[derive(Args, Clone, Debug, Default)]
pub struct RoutingArgs {
    /// Fields removed from every event before it is stored, at any depth, separated by commas
    #[arg(
        long,
        env = "SIGNALBOX_REDACT_FIELDS",
        value_delimiter = ',',
        value_name = "NAME"
    )]
    pub redact_fields: Vec<String>,
}

/// Settings of the router, validated.
#[derive(Clone, Debug)]
pub struct Options {
    /// The bus.
    pub bus: BusOptions,
    /// Names of fields that are removed from every event, at any depth.
    pub redact_fields: Vec<String>,
    /// How long publishes in flight may take to end after a stop was asked
    /// for; what is left then comes again to the next router.
    pub drain: Duration,
}

impl Options {
    /// The settings with this bus.
    #[must_use]
    pub fn new(bus: BusOptions, routing: RoutingArgs) -> Self {
        Self {
            bus,
            redact_fields: routing.redact_fields,
            drain: DRAIN,
        }
    }
}

impl From<RouterArgs> for Options {
    fn from(args: RouterArgs) -> Self {
        Self::new(args.bus.into(), args.routing)
    }
}
