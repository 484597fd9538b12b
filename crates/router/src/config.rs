//! Settings of the router.

use std::time::Duration;

use clap::{Args, value_parser};
use signalbox_bus::{BusArgs, BusOptions};

use crate::signatures::{Requirement, Signatures, UnusableKeyFile};

/// How long publishes in flight may take to end after a stop was asked for.
const DRAIN: Duration = Duration::from_secs(5);
/// How long a router's lease of a domain lasts without renewal.
const LEASE_TTL: Duration = Duration::from_secs(10);
/// The longest that it may be set to last, in seconds.
const LONGEST_LEASE_TTL: u64 = 3_600;

/// Command line and environment of the router.
#[derive(Args, Clone, Debug)]
pub struct RouterArgs {
    /// The bus
    #[command(flatten)]
    pub bus: BusArgs,
    /// Settings that `up` shares
    #[command(flatten)]
    pub routing: RoutingArgs,
    /// Seconds after which another router takes over from one that is gone
    #[arg(long, env = "SIGNALBOX_LEASE_TTL", default_value_t = LEASE_TTL.as_secs(),
        value_name = "SECONDS", value_parser = value_parser!(u64).range(1..=LONGEST_LEASE_TTL))]
    pub lease_ttl: u64,
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
    /// Event type whose payload must be signed, and the PEM file of an Ed25519 public key that may sign it; repeatable, several keys per type
    #[arg(
        long,
        env = "SIGNALBOX_REQUIRE_SIGNATURE",
        value_delimiter = ',',
        value_name = "DOMAIN.TYPE=KEYFILE"
    )]
    pub require_signature: Vec<Requirement>,
}

/// Settings of the router, validated.
#[derive(Clone, Debug)]
pub struct Options {
    /// The bus.
    pub bus: BusOptions,
    /// Names of fields that are removed from every event, at any depth.
    pub redact_fields: Vec<String>,
    /// Which events must be signed, and by whom.
    pub signatures: Signatures,
    /// How long the lease of a domain lasts without renewal, in whole seconds.
    pub lease_ttl: Duration,
    /// How long publishes in flight may take to end after a stop was asked
    /// for; what is left then comes again to the next router.
    pub drain: Duration,
}

impl Options {
    /// The settings with this bus.
    ///
    /// # Errors
    /// Names a key file that cannot be used.
    pub fn new(bus: BusOptions, routing: RoutingArgs) -> Result<Self, UnusableKeyFile> {
        Ok(Self {
            bus,
            redact_fields: routing.redact_fields,
            signatures: Signatures::read(&routing.require_signature)?,
            lease_ttl: LEASE_TTL,
            drain: DRAIN,
        })
    }
}

impl TryFrom<RouterArgs> for Options {
    type Error = UnusableKeyFile;

    fn try_from(args: RouterArgs) -> Result<Self, UnusableKeyFile> {
        Ok(Self {
            lease_ttl: Duration::from_secs(args.lease_ttl),
            ..Self::new(args.bus.into(), args.routing)?
        })
    }
}
