//! Structured logs on standard error. A line that is written while a recorded
//! span is at work names the trace, so that either leads to the other.

use std::io::{self, IsTerminal};

use clap::{Args, ValueEnum};
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::{FilterExt as _, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::{DefaultFields, Format, JsonFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry};

use crate::telemetry::TelemetryError;
use crate::telemetry::trace_id::WithTraceId;

/// What is logged when nothing is configured: the client library of the bus
/// tells at `info` what the services say themselves, and that of tool servers
/// what those send, which is theirs to choose and not for logs.
const DEFAULT_FILTER: &str = "info,async_nats=warn,rmcp=error";

/// What the targets of our own lines begin with.
const OUR_TARGETS: [&str; 2] = ["signalbox", "audit"];

/// How logs are written, as arguments of a command.
#[derive(Args, Clone, Debug)]
pub struct LogArgs {
    /// What to log: a level, or directives such as `info,signalbox_bus=debug`
    ///
    /// Services log at `info` unless told otherwise, tools nothing.
    #[arg(long, env = "SIGNALBOX_LOG", global = true)]
    pub log_filter: Option<String>,
    /// How to write logs
    #[arg(
        long,
        env = "SIGNALBOX_LOG_FORMAT",
        default_value = "text",
        value_enum,
        global = true
    )]
    pub log_format: LogFormat,
}

impl Default for LogArgs {
    fn default() -> Self {
        Self {
            log_filter: None,
            log_format: LogFormat::Text,
        }
    }
}

/// The form of a log line.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people, coloured on a terminal
    Text,
    /// One JSON object per line
    Json,
}

/// What the targets of the telemetry library's own lines begin with. It says
/// at every failed export what is said once in [`super::otlp`].
const TELEMETRY_TARGET: &str = "opentelemetry";

/// Starts logging to standard error for the whole process.
///
/// # Errors
/// [`TelemetryError`] when the filter is invalid or logging was started before.
pub(super) fn init(args: &LogArgs) -> Result<(), TelemetryError> {
    let coloured = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    subscriber(args, coloured, io::stderr)?.try_init()?;
    Ok(())
}

/// The registry of layers that `args` ask for, writing lines to `writer`.
pub(crate) fn subscriber<W>(
    args: &LogArgs,
    coloured: bool,
    writer: W,
) -> Result<impl Subscriber + Send + Sync, TelemetryError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(args.log_filter.as_deref().unwrap_or(DEFAULT_FILTER))?;
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines = match args.log_format {
        LogFormat::Text => lines
            .with_ansi(coloured)
            .fmt_fields(DefaultFields::new())
            .event_format(WithTraceId::text(Format::default().with_ansi(coloured)))
            .boxed(),
        LogFormat::Json => lines
            .with_ansi(false)
            .fmt_fields(JsonFields::new())
            .event_format(WithTraceId::json(
                Format::default().json().flatten_event(true),
            ))
            .boxed(),
    };
    let lines = lines.with_filter(filter.and(filter_fn(is_harmless)));
    Ok(Registry::default().with(lines))
}

/// Whether a line cannot hold what clients and services send each other:
/// libraries log payloads, and with them credentials, at `trace`.
fn is_harmless(metadata: &Metadata<'_>) -> bool {
    let ours = OUR_TARGETS
        .iter()
        .any(|prefix| metadata.target().starts_with(prefix));
    let theirs = metadata.target().starts_with(TELEMETRY_TARGET);
    ours || !theirs && *metadata.level() < Level::TRACE
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::Value;
    use tracing::{debug, info, info_span, warn};

    use super::*;
    use crate::captured::Captured;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        log: LogArgs,
    }

    fn logged(filter: &str, log_format: LogFormat, emit: impl FnOnce()) -> String {
        let (logs, _capturing) = Captured::start(&LogArgs {
            log_filter: Some(filter.to_owned()),
            log_format,
        });
        emit();
        logs.text()
    }

    #[test]
    fn json_is_one_object_per_line_with_rfc_3339_time() {
        let text = logged("info", LogFormat::Json, || {
            let _span = info_span!("turn", session = "s1").entered();
            info!(count = 3, "line\nbreak");
            warn!("second");
        });
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["message"], "line\nbreak");
        assert_eq!(lines[0]["count"], 3);
        assert_eq!(lines[0]["level"], "INFO");
        assert_eq!(lines[0]["span"]["session"], "s1");
        let stamp = lines[0]["timestamp"].as_str().unwrap();
        assert_eq!(
            (&stamp[10..11], stamp.ends_with('Z')),
            ("T", true),
            "{stamp}"
        );
    }

    #[test]
    fn the_filter_decides_what_is_logged() {
        let emit = || {
            debug!("detail");
            debug!(target: "other", "noise");
        };
        assert_eq!(logged("info", LogFormat::Text, emit), "");
        let text = logged("info,signalbox_service=debug", LogFormat::Text, emit);
        assert!(text.contains("detail") && !text.contains("noise"), "{text}");
    }

    #[test]
    fn libraries_never_log_payloads() {
        let text = logged("trace", LogFormat::Text, || {
            tracing::trace!(target: "async_nats::connection", "sbk_secret");
            tracing::debug!(target: "async_nats::connection", "reconnecting");
            tracing::trace!(target: "signalbox_bus::reader", "own detail");
        });
        assert!(!text.contains("sbk_secret"), "{text}");
        assert!(
            text.contains("reconnecting") && text.contains("own detail"),
            "{text}"
        );
    }

    #[test]
    fn a_bad_filter_is_an_error() {
        let args = LogArgs {
            log_filter: Some("info,=,".to_owned()),
            ..LogArgs::default()
        };
        assert!(matches!(init(&args), Err(TelemetryError::Filter(_))));
    }

    #[test]
    fn arguments_set_filter_and_format() {
        let cli = Cli::parse_from(["x", "--log-filter", "warn", "--log-format", "json"]);
        assert_eq!(cli.log.log_filter.as_deref(), Some("warn"));
        assert_eq!(cli.log.log_format, LogFormat::Json);
        assert!(Cli::try_parse_from(["x", "--log-format", "xml"]).is_err());
    }
}
