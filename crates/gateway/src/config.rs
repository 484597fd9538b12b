//! Settings of the gateway.

mod chat;
mod connection;
mod fleet;
mod presence;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use signalbox_bus::{BusArgs, BusOptions};
use signalbox_identity::Expectations;
use signalbox_limits::LimitsArgs;
use signalbox_transport::{HttpLimits, WebSocketOptions};

pub use self::chat::{ChatArgs, ChatOptions};
pub use self::connection::ConnectionArgs;
pub use self::fleet::{FleetArgs, FleetOptions, Rates};
pub use self::presence::{PresenceArgs, PresenceOptions};
use crate::admission::AdmissionLimits;
use crate::listener::ListenSpec;
use crate::origin::{ListedOrigin, Origin};
use crate::sockets::RefuseBy;

/// How far the clocks of auth and gateway may differ.
const CLOCK_LEEWAY: Duration = Duration::from_secs(5);

/// Command line and environment of the gateway.
#[derive(Args, Clone, Debug)]
pub struct GatewayArgs {
    /// The bus
    #[command(flatten)]
    pub bus: BusArgs,
    /// Settings that `up` shares
    #[command(flatten)]
    pub edge: EdgeArgs,
}

/// How clients are served.
#[derive(Args, Clone, Debug)]
pub struct EdgeArgs {
    /// Address to serve, with the dialects it serves; repeatable [default: 127.0.0.1:8080 with all, and 8000 and 3001 for the documents that name them]
    #[arg(
        long,
        env = "SIGNALBOX_LISTEN",
        value_delimiter = ' ',
        value_name = "ADDR[=DIALECT,...]"
    )]
    pub listen: Vec<ListenSpec>,
    /// Threads that serve connections, 0 = by the number of cores
    #[arg(long, env = "SIGNALBOX_SHARDS", default_value_t = 0)]
    pub shards: usize,
    /// Seconds over which clients are sent elsewhere at a stop
    #[arg(long, env = "SIGNALBOX_DRAIN_WINDOW", default_value_t = 2.0)]
    pub drain_window: f64,
    /// Seconds a connection may stay without a credential [default: as the dialect says]
    #[arg(long, env = "SIGNALBOX_AUTHENTICATION_TIMEOUT")]
    pub authentication_timeout: Option<f64>,
    /// Seconds before the end of a token in which a connection is told of it
    #[arg(long, env = "SIGNALBOX_EXPIRY_NOTICE", default_value_t = 30.0)]
    pub expiry_notice: f64,
    /// Seconds that the refusal of a bad credential is withheld at most; it grows with each failure of an address or credential. 0 = answer at once
    #[arg(long, env = "SIGNALBOX_LONGEST_REFUSAL_DELAY", default_value_t = 30.0)]
    pub longest_refusal_delay: f64,
    /// Seconds a connection may be silent before it is closed; half-way it is pinged
    #[arg(long, env = "SIGNALBOX_SILENCE", default_value_t = 60.0)]
    pub silence: f64,
    /// Origins whose pages may use this server beside its own, separated by commas, such as `https://app.example.com`
    #[arg(
        long,
        env = "CORS_ORIGINS",
        value_delimiter = ',',
        value_name = "ORIGIN"
    )]
    pub cors_origins: Vec<ListedOrigin>,
    /// Seconds that the bus may take to acknowledge the events of one HTTP request
    #[arg(long, env = "SIGNALBOX_INGEST_PATIENCE", default_value_t = 10.0)]
    pub ingest_patience: f64,
    /// What clients may take
    #[command(flatten)]
    pub connection: ConnectionArgs,
    /// Events of the time before its start that a gateway reads into memory, for clients that lost another one
    #[arg(long, env = "SIGNALBOX_RECENT_EVENTS", default_value_t = 16_384)]
    pub recent_events: u64,
    /// Messages that a connection may send in a minute, 0 = any number; where a credential has a limit for its user, that one holds instead
    #[arg(long, env = "SIGNALBOX_MESSAGES_PER_MINUTE", default_value_t = 600)]
    pub messages_per_minute: u32,
    /// How clients of dialect `workspace` without a good token are refused: let in, told and sent away, or not let in
    #[arg(long, env = "SIGNALBOX_REFUSE_BY", value_enum, default_value_t)]
    pub refuse_by: RefuseBy,
    /// Where limits of users are counted
    #[command(flatten)]
    pub limits: LimitsArgs,
    /// How dashboards and agents are served
    #[command(flatten)]
    pub fleet: FleetArgs,
    /// How chats are served
    #[command(flatten)]
    pub chat: ChatArgs,
    /// How it is told who is in investigations
    #[command(flatten)]
    pub investigation: PresenceArgs,
    /// Issuer that access tokens must name
    #[arg(long, env = "SIGNALBOX_TOKEN_ISSUER", default_value = "signalbox")]
    pub token_issuer: String,
    /// Audience that access tokens must name
    #[arg(long, env = "SIGNALBOX_TOKEN_AUDIENCE", default_value = "signalbox")]
    pub token_audience: String,
}

/// Settings of the gateway, validated.
#[derive(Clone, Debug)]
pub struct Options {
    /// The bus.
    pub bus: BusOptions,
    /// The listeners; at least one.
    pub listen: Vec<ListenSpec>,
    /// Threads that serve connections; 0 = by the number of cores.
    pub shards: usize,
    /// The time over which clients are sent elsewhere at a stop.
    pub drain_window: Duration,
    /// How long a connection may stay without a credential; `None` = as its
    /// dialect says.
    pub authentication: Option<Duration>,
    /// How long before the end of a token a connection is told of it.
    pub expiry_notice: Duration,
    /// How long the refusal of a bad credential is withheld at most; zero =
    /// never.
    pub longest_refusal_delay: Duration,
    /// Who may connect.
    pub admission: AdmissionLimits,
    /// Limits of a WebSocket connection.
    pub websocket: WebSocketOptions,
    /// Limits of an HTTP connection.
    pub http: HttpLimits,
    /// How long a connection may go without an upgrade; it then serves no
    /// further request.
    pub http_lifetime: Duration,
    /// Origins whose pages may use the listeners beside their own.
    pub origins: Arc<BTreeSet<Origin>>,
    /// Whether pages that this machine serves on any port may use listeners on
    /// loopback addresses.
    pub local_origins: bool,
    /// How long the bus may take to acknowledge the events of one HTTP request.
    pub ingest_patience: Duration,
    /// What access tokens must say.
    pub expectations: Expectations,
    /// Events of the time before its start that are read into memory.
    pub recent_events: u64,
    /// Messages that a connection may send in a minute; 0 = any number.
    pub messages_per_minute: u32,
    /// How clients of dialect `workspace` are refused that do not say how they
    /// want to be.
    pub refuse_by: RefuseBy,
    /// Where limits of users are counted.
    pub limits: LimitsArgs,
    /// How dashboards and agents are served.
    pub fleet: FleetOptions,
    /// How chats are served.
    pub chat: ChatOptions,
    /// How it is told who is in investigations.
    pub investigation: PresenceOptions,
}

/// A setting that cannot be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{setting}: expected {expected}")]
pub struct InvalidSetting {
    /// Its flag.
    pub setting: &'static str,
    /// What it must be.
    pub expected: &'static str,
}

impl Options {
    /// The settings with this bus.
    ///
    /// # Errors
    /// Names a setting that is out of range.
    pub fn new(bus: BusOptions, edge: EdgeArgs) -> Result<Self, InvalidSetting> {
        let listen = if edge.listen.is_empty() {
            ListenSpec::defaults()
        } else {
            edge.listen
        };
        let authentication = edge
            .authentication_timeout
            .map(|value| seconds("--authentication-timeout", value))
            .transpose()?;
        let silence = seconds("--silence", edge.silence)?;
        Ok(Self {
            bus,
            listen,
            shards: edge.shards,
            drain_window: seconds("--drain-window", edge.drain_window)?,
            authentication,
            expiry_notice: seconds("--expiry-notice", edge.expiry_notice)?,
            longest_refusal_delay: seconds("--longest-refusal-delay", edge.longest_refusal_delay)?,
            admission: edge.connection.admission()?,
            websocket: edge.connection.websocket(silence)?,
            http: edge.connection.http()?,
            http_lifetime: edge.connection.http_lifetime()?,
            origins: Arc::new(
                edge.cors_origins
                    .into_iter()
                    .filter_map(ListedOrigin::into_origin)
                    .collect(),
            ),
            local_origins: false,
            ingest_patience: seconds("--ingest-patience", edge.ingest_patience)?,
            expectations: Expectations {
                issuer: edge.token_issuer,
                audience: edge.token_audience,
                leeway: CLOCK_LEEWAY,
            },
            recent_events: edge.recent_events,
            messages_per_minute: edge.messages_per_minute,
            refuse_by: edge.refuse_by,
            limits: edge.limits,
            fleet: edge.fleet.options()?,
            chat: edge.chat.options()?,
            investigation: edge.investigation.options(),
        })
    }
}

impl TryFrom<GatewayArgs> for Options {
    type Error = InvalidSetting;

    fn try_from(args: GatewayArgs) -> Result<Self, InvalidSetting> {
        Self::new(args.bus.into(), args.edge)
    }
}

fn seconds(setting: &'static str, value: f64) -> Result<Duration, InvalidSetting> {
    let wrong = InvalidSetting {
        setting,
        expected: "seconds, not negative and at most a year",
    };
    if !(0.0..=31_536_000.0).contains(&value) {
        return Err(wrong);
    }
    Duration::try_from_secs_f64(value).map_err(|_| wrong)
}
