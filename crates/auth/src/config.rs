//! Settings of the auth service.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, value_parser};
use signalbox_bus::{BusArgs, BusOptions};

use crate::back_off::BackOff;
use crate::error::Error;
use crate::issuers::{self, FetchTimes, IssuerSettings};
use crate::password::PasswordCost;

/// How long gateways may take to learn a new public key: they watch the bucket,
/// so a minute covers one whose watch is being set up again.
const KEY_PROPAGATION: Duration = Duration::from_secs(60);

/// Within how long a refresh token that was consumed gets its successor again:
/// a client whose answer was lost asks again soon.
const REFRESH_GRACE: Duration = Duration::from_secs(30);
/// How often the directory of signing keys is looked at.
const KEY_POLL: Duration = Duration::from_secs(5);

/// Where other systems reach the service unless told otherwise.
const GRPC: &str = "127.0.0.1:9091";

/// How much longer than its last token the public half of a key stays: clocks
/// differ.
const KEY_AFTERLIFE: Duration = Duration::from_secs(60);

/// Command line and environment of the auth service.
#[derive(Args, Clone, Debug)]
pub struct AuthArgs {
    /// The bus
    #[command(flatten)]
    pub bus: BusArgs,
    /// Keys and tokens
    #[command(flatten)]
    pub token: TokenArgs,
    /// gRPC
    #[command(flatten)]
    pub grpc: GrpcArgs,
    /// Bus address with the rights of a producer, for events over gRPC [default: that of --nats-url]
    #[arg(long, env = "SIGNALBOX_GRPC_NATS_URL", hide_env_values = true)]
    pub grpc_nats_url: Option<String>,
}

/// How other systems reach the service; the part that `up` shares.
#[derive(Args, Clone, Copy, Debug)]
pub struct GrpcArgs {
    /// Address for other systems (gRPC without TLS), or off
    #[arg(long, env = "SIGNALBOX_GRPC", default_value = GRPC, value_name = "ADDR")]
    pub grpc: GrpcAddress,
    /// Seconds that the bus may take to acknowledge the events of one gRPC call
    #[arg(long, env = "SIGNALBOX_GRPC_PATIENCE", default_value_t = 10, value_parser = value_parser!(u32).range(1..=25))]
    pub grpc_patience: u32,
}

/// Where gRPC is served, if it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrpcAddress {
    /// Nowhere.
    Off,
    /// Here.
    At(SocketAddr),
}

/// Text that is no such address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected an address such as {GRPC}, or off")]
pub struct InvalidGrpcAddress;

impl FromStr for GrpcAddress {
    type Err = InvalidGrpcAddress;

    fn from_str(text: &str) -> Result<Self, InvalidGrpcAddress> {
        if text == "off" {
            return Ok(Self::Off);
        }
        text.parse().map(Self::At).map_err(|_| InvalidGrpcAddress)
    }
}

/// How other systems reach the service, validated.
#[derive(Clone, Debug)]
pub struct GrpcOptions {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Whether a taken port gives way to a free one.
    pub gives_way: bool,
    /// The bus as producers reach it, for events; it takes a connection of its
    /// own. `None`: that of the service.
    pub events_bus: Option<BusOptions>,
    /// How long the events of one call may take to be acknowledged.
    pub patience: Duration,
}

impl GrpcOptions {
    /// The settings, unless gRPC is off.
    #[must_use]
    pub fn new(args: GrpcArgs, events_bus: Option<BusOptions>, gives_way: bool) -> Option<Self> {
        match args.grpc {
            GrpcAddress::Off => None,
            GrpcAddress::At(listen) => Some(Self {
                listen,
                gives_way,
                events_bus,
                patience: Duration::from_secs(args.grpc_patience.into()),
            }),
        }
    }
}

/// What tokens are signed with and say.
#[derive(Args, Clone, Debug)]
pub struct TokenArgs {
    /// Directory of the keys that sign access tokens: *.pem files with Ed25519 keys in PKCS#8; the newest signs
    #[arg(long, env = "SIGNALBOX_SIGNING_KEYS", value_name = "DIR")]
    pub signing_keys: PathBuf,
    /// Issuer that access tokens name
    #[arg(long, env = "SIGNALBOX_TOKEN_ISSUER", default_value = "signalbox")]
    pub token_issuer: String,
    /// Audience that access tokens name
    #[arg(long, env = "SIGNALBOX_TOKEN_AUDIENCE", default_value = "signalbox")]
    pub token_audience: String,
    /// How long tokens are valid
    #[command(flatten)]
    pub lifetime: LifetimeArgs,
    /// How repeated failures are answered
    #[command(flatten)]
    pub back_off: BackOffArgs,
    /// External issuers whose tokens are accepted: a JSON file, see docs/issuers.md
    #[arg(long, env = "SIGNALBOX_EXTERNAL_ISSUERS", value_name = "FILE")]
    pub external_issuers: Option<PathBuf>,
}

/// How long tokens are valid; the part that `up` shares.
#[derive(Args, Clone, Copy, Debug)]
pub struct LifetimeArgs {
    /// Seconds that an access token is valid when its holder asks for no other time
    #[arg(long, env = "SIGNALBOX_TOKEN_TTL", default_value_t = 900, value_parser = value_parser!(u32).range(1..))]
    pub token_ttl: u32,
    /// The most seconds that an access token may be valid
    #[arg(long, env = "SIGNALBOX_MAX_TOKEN_TTL", default_value_t = 86_400, value_parser = value_parser!(u32).range(1..))]
    pub max_token_ttl: u32,
    /// Seconds after a login during which tokens can be refreshed
    #[arg(long, env = "SIGNALBOX_REFRESH_TTL", default_value_t = 2_592_000, value_parser = value_parser!(u32).range(1..))]
    pub refresh_ttl: u32,
}

/// How repeated failures are answered.
#[derive(Args, Clone, Copy, Debug)]
pub struct BackOffArgs {
    /// Milliseconds by which the first failure beyond the free ones is answered later; doubles with each
    #[arg(long, env = "SIGNALBOX_FAILURE_DELAY_MS", default_value_t = 250, value_parser = value_parser!(u32).range(1..))]
    pub failure_delay_ms: u32,
    /// The most milliseconds by which a failure is answered later
    #[arg(long, env = "SIGNALBOX_MAX_FAILURE_DELAY_MS", default_value_t = 30_000, value_parser = value_parser!(u32).range(1..))]
    pub max_failure_delay_ms: u32,
}

impl Default for BackOffArgs {
    fn default() -> Self {
        Self {
            failure_delay_ms: 250,
            max_failure_delay_ms: 30_000,
        }
    }
}

impl From<BackOffArgs> for BackOff {
    fn from(args: BackOffArgs) -> Self {
        Self {
            first_delay: Duration::from_millis(args.failure_delay_ms.into()),
            longest_delay: Duration::from_millis(args.max_failure_delay_ms.into()),
            ..Self::default()
        }
    }
}

/// Settings of the auth service, validated.
#[derive(Clone, Debug)]
pub struct Options {
    /// The bus.
    pub bus: BusOptions,
    /// The directory of the private keys, as `*.pem` files.
    pub signing_keys: PathBuf,
    /// What tokens name as their issuer.
    pub issuer: String,
    /// Whom tokens are for.
    pub audience: String,
    /// How long a token is valid whose holder asks for no other time.
    pub token_ttl: Duration,
    /// The longest time for which a token is valid, whatever is asked for.
    pub max_token_ttl: Duration,
    /// How long the public half of a key is known before the key signs.
    pub key_propagation: Duration,
    /// How often the directory of signing keys is looked at.
    pub key_poll: Duration,
    /// How much longer than its last token the public half of a key stays.
    pub key_afterlife: Duration,
    /// How long after a login tokens can be refreshed.
    pub refresh_ttl: Duration,
    /// Within how long a consumed refresh token gets its successor again.
    pub refresh_grace: Duration,
    /// How much work a password takes.
    pub password_cost: PasswordCost,
    /// How repeated failures are answered.
    pub back_off: BackOff,
    /// External issuers whose tokens are accepted.
    pub issuers: Vec<IssuerSettings>,
    /// How their keys are kept up to date.
    pub fetch_times: FetchTimes,
    /// How other systems reach the service; `None`: not at all.
    pub grpc: Option<GrpcOptions>,
}

impl Options {
    /// The settings with this bus, without gRPC.
    ///
    /// # Errors
    /// When the file of external issuers cannot be used.
    pub fn new(bus: BusOptions, token: TokenArgs) -> Result<Self, Error> {
        let issuers = match &token.external_issuers {
            Some(path) => issuers::read(path)?,
            None => Vec::new(),
        };
        Ok(Self {
            bus,
            signing_keys: token.signing_keys,
            issuer: token.token_issuer,
            audience: token.token_audience,
            token_ttl: Duration::from_secs(token.lifetime.token_ttl.into()),
            max_token_ttl: Duration::from_secs(token.lifetime.max_token_ttl.into()),
            key_propagation: KEY_PROPAGATION,
            key_poll: KEY_POLL,
            key_afterlife: KEY_AFTERLIFE,
            refresh_ttl: Duration::from_secs(token.lifetime.refresh_ttl.into()),
            refresh_grace: REFRESH_GRACE,
            password_cost: PasswordCost::default(),
            back_off: token.back_off.into(),
            issuers,
            fetch_times: FetchTimes::default(),
            grpc: None,
        })
    }
}

impl TryFrom<AuthArgs> for Options {
    type Error = Error;

    fn try_from(args: AuthArgs) -> Result<Self, Error> {
        let bus = BusOptions::from(args.bus);
        let events_bus = args.grpc_nats_url.map(|url| BusOptions {
            url,
            wait: bus.wait,
        });
        let grpc = GrpcOptions::new(args.grpc, events_bus, false);
        Ok(Self {
            grpc,
            ..Self::new(bus, args.token)?
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        auth: AuthArgs,
    }

    #[test]
    fn the_defaults_are_those_of_the_help_text() {
        let cli = Cli::try_parse_from(["auth", "--signing-keys", "keys"]).unwrap();
        let options = Options::try_from(cli.auth).unwrap();
        assert_eq!(options.signing_keys, PathBuf::from("keys"));
        assert_eq!(
            (options.token_ttl, options.max_token_ttl),
            (Duration::from_secs(900), Duration::from_secs(86_400))
        );
        assert_eq!(
            (options.issuer.as_str(), options.audience.as_str()),
            ("signalbox", "signalbox")
        );
        assert_eq!(options.key_propagation, Duration::from_secs(60));
        assert_eq!(options.back_off, BackOff::default());
        assert_eq!(BackOff::from(BackOffArgs::default()), BackOff::default());
    }

    #[test]
    fn grpc_is_on_this_machine_or_elsewhere_or_off() {
        let parse = |arguments: &[&str]| {
            let all = ["auth", "--signing-keys", "k"].iter().chain(arguments);
            let cli = Cli::try_parse_from(all).ok()?;
            let options = Options::try_from(cli.auth).unwrap();
            Some(options.grpc.map(|grpc| grpc.listen.to_string()))
        };
        assert_eq!(parse(&[]), Some(Some("127.0.0.1:9091".to_owned())));
        assert_eq!(
            parse(&["--grpc", "[::1]:0"]),
            Some(Some("[::1]:0".to_owned()))
        );
        assert_eq!(parse(&["--grpc", "off"]), Some(None));
        assert_eq!(parse(&["--grpc", "localhost"]), None);
    }

    #[test]
    fn a_directory_is_required_and_lifetimes_are_positive() {
        assert!(Cli::try_parse_from(["auth"]).is_err());
        for flag in ["--token-ttl", "--max-token-ttl"] {
            assert!(Cli::try_parse_from(["auth", "--signing-keys", "k", flag, "0"]).is_err());
        }
    }
}
