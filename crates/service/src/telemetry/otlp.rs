//! Sending spans and metrics to a collector by OTLP, and its settings, under
//! the names that OpenTelemetry gives them.
//!
//! The connection lives on a thread of its own: it needs a runtime that is
//! there before the service's and after it, and that a busy service does not
//! hold up. What waits to be sent is bounded; spans beyond it are dropped.

use std::io;
use std::sync::mpsc;

use clap::Args;
use opentelemetry_otlp::tonic_types::transport::ClientTlsConfig;
use opentelemetry_otlp::{
    ExporterBuildError, MetricExporter, SpanExporter, WithExportConfig as _, WithTonicConfig as _,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::own_thread;
use crate::telemetry::TelemetryError;
use crate::telemetry::sampler::Sampling;

/// The only protocol that is spoken.
const PROTOCOL: &str = "grpc";
/// The scheme of an endpoint with TLS.
const HTTPS: &str = "https:";

/// Where spans and metrics go and which, as arguments of a command.
///
/// `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_EXPORTER_OTLP_TIMEOUT`, `OTEL_BSP_*`,
/// `OTEL_METRIC_EXPORT_INTERVAL` and `OTEL_RESOURCE_ATTRIBUTES` are read from
/// the environment by the library.
#[derive(Args, Clone, Debug)]
pub struct OtlpArgs {
    /// OTLP collector that spans and metrics go to, such as http://127.0.0.1:4317 [default: none]
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_ENDPOINT",
        global = true,
        value_name = "URL"
    )]
    pub otlp_endpoint: Option<String>,
    /// Collector of spans, where it is another one
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        global = true,
        value_name = "URL"
    )]
    pub otlp_traces_endpoint: Option<String>,
    /// Collector of metrics, where it is another one
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
        global = true,
        value_name = "URL"
    )]
    pub otlp_metrics_endpoint: Option<String>,
    /// Protocol of the collector: grpc
    #[arg(long, env = "OTEL_EXPORTER_OTLP_PROTOCOL", default_value = PROTOCOL, global = true)]
    pub otlp_protocol: String,
    /// Which traces to record: always_on, always_off or traceidratio, each also with parentbased_ in front
    #[arg(
        long,
        env = "OTEL_TRACES_SAMPLER",
        default_value = "parentbased_always_on",
        global = true,
        value_name = "NAME"
    )]
    pub traces_sampler: String,
    /// The share of traces that traceidratio records, from 0 to 1 [default: 1]
    #[arg(
        long,
        env = "OTEL_TRACES_SAMPLER_ARG",
        global = true,
        value_name = "SHARE"
    )]
    pub traces_sampler_arg: Option<String>,
    /// What the process is called in traces and metrics [default: signalbox- and the subcommand]
    #[arg(long, env = "OTEL_SERVICE_NAME", global = true, value_name = "NAME")]
    pub service_name: Option<String>,
    /// Send nothing, wherever a collector is
    #[arg(long, env = "OTEL_SDK_DISABLED", default_value = "false", num_args = 0..=1,
        default_missing_value = "true", global = true)]
    pub otel_sdk_disabled: bool,
}

impl Default for OtlpArgs {
    fn default() -> Self {
        Self {
            otlp_endpoint: None,
            otlp_traces_endpoint: None,
            otlp_metrics_endpoint: None,
            otlp_protocol: PROTOCOL.to_owned(),
            traces_sampler: "parentbased_always_on".to_owned(),
            traces_sampler_arg: None,
            service_name: None,
            otel_sdk_disabled: false,
        }
    }
}

impl OtlpArgs {
    /// How traces are chosen.
    pub(super) fn sampling(&self) -> Result<Sampling, TelemetryError> {
        Sampling::parse(&self.traces_sampler, self.traces_sampler_arg.as_deref())
    }

    /// Where spans go.
    fn traces(&self) -> Option<&str> {
        self.endpoint(self.otlp_traces_endpoint.as_deref())
    }

    /// Where metrics go.
    fn metrics(&self) -> Option<&str> {
        self.endpoint(self.otlp_metrics_endpoint.as_deref())
    }

    fn endpoint<'a>(&'a self, own: Option<&'a str>) -> Option<&'a str> {
        // An empty variable is as good as none, says the specification.
        let set = |endpoint: &&str| !self.otel_sdk_disabled && !endpoint.is_empty();
        own.filter(set)
            .or(self.otlp_endpoint.as_deref().filter(set))
    }
}

/// The ways to the collectors.
#[derive(Default)]
pub(super) struct Exporters {
    /// Of spans; `None` when they go nowhere.
    pub(super) spans: Option<SpanExporter>,
    /// Of metrics; `None` when they go nowhere.
    pub(super) metrics: Option<MetricExporter>,
    /// Ends the thread of the connections when it is dropped.
    pub(super) link: Option<DropGuard>,
}

impl Exporters {
    /// Prepares to send; nothing is sent before there is something.
    ///
    /// # Errors
    /// When a setting is wrong or the thread cannot be started.
    pub(super) fn start(args: &OtlpArgs) -> Result<Self, TelemetryError> {
        let traces = args.traces().map(str::to_owned);
        let metrics = args.metrics().map(str::to_owned);
        if traces.is_none() && metrics.is_none() {
            return Ok(Self::default());
        }
        if args.otlp_protocol != PROTOCOL {
            return Err(TelemetryError::Protocol(args.otlp_protocol.clone()));
        }
        let (hand_over, handed_over) = mpsc::sync_channel(1);
        let end = CancellationToken::new();
        let ended = end.clone();
        let setup = move || {
            let built = build(traces, metrics);
            hand_over.send(built).map_err(io::Error::other)?;
            Ok(async move { ended.cancelled().await })
        };
        // Nothing joins it: its connections may hang, and the process ends.
        own_thread::spawn("otlp", setup).map_err(TelemetryError::Thread)?;
        let (spans, metrics) = handed_over
            .recv()
            .map_err(|error| TelemetryError::Thread(io::Error::other(error)))??;
        Ok(Self {
            spans,
            metrics,
            link: Some(end.drop_guard()),
        })
    }
}

/// Builds the exporters, within the runtime that their connections live in.
fn build(
    traces: Option<String>,
    metrics: Option<String>,
) -> Result<(Option<SpanExporter>, Option<MetricExporter>), ExporterBuildError> {
    let spans = traces.map(|endpoint| {
        let builder = SpanExporter::builder().with_tonic();
        match tls(&endpoint) {
            Some(tls) => builder.with_tls_config(tls),
            None => builder,
        }
        .with_endpoint(endpoint)
        .build()
    });
    let metrics = metrics.map(|endpoint| {
        let builder = MetricExporter::builder().with_tonic();
        match tls(&endpoint) {
            Some(tls) => builder.with_tls_config(tls),
            None => builder,
        }
        .with_endpoint(endpoint)
        .build()
    });
    Ok((spans.transpose()?, metrics.transpose()?))
}

/// With TLS, the system's certificates are what is trusted.
fn tls(endpoint: &str) -> Option<ClientTlsConfig> {
    endpoint
        .starts_with(HTTPS)
        .then(|| ClientTlsConfig::new().with_native_roots())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(endpoint: &str) -> OtlpArgs {
        OtlpArgs {
            otlp_endpoint: Some(endpoint.to_owned()),
            ..OtlpArgs::default()
        }
    }

    #[test]
    fn nothing_starts_without_an_endpoint() {
        let disabled = OtlpArgs {
            otel_sdk_disabled: true,
            ..args("http://127.0.0.1:4317")
        };
        for nowhere in [OtlpArgs::default(), args(""), disabled] {
            let exporters = Exporters::start(&nowhere).unwrap();
            assert!(exporters.spans.is_none() && exporters.metrics.is_none());
            assert!(exporters.link.is_none());
        }
    }

    #[test]
    fn spans_may_go_elsewhere_than_metrics() {
        let both = OtlpArgs {
            otlp_traces_endpoint: Some("http://b:1".to_owned()),
            ..args("http://a:1")
        };
        assert_eq!(
            (both.traces(), both.metrics()),
            (Some("http://b:1"), Some("http://a:1"))
        );
        let spans = OtlpArgs {
            otlp_traces_endpoint: Some("http://127.0.0.1:1".to_owned()),
            ..OtlpArgs::default()
        };
        let exporters = Exporters::start(&spans).unwrap();
        assert!(exporters.spans.is_some() && exporters.metrics.is_none());
    }

    #[test]
    fn what_cannot_be_is_an_error() {
        assert!(Exporters::start(&args("not a url")).is_err());
        let other = OtlpArgs {
            otlp_protocol: "http/protobuf".to_owned(),
            ..args("http://127.0.0.1:1")
        };
        let error = Exporters::start(&other).err().unwrap();
        assert!(error.to_string().contains("http/protobuf"), "{error}");
    }

    #[test]
    fn an_endpoint_with_tls_is_accepted() {
        assert!(Exporters::start(&args("https://collector.example:4317")).is_ok());
    }
}
