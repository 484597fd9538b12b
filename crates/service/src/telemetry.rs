//! What a process tells of itself: structured logs on standard error, spans
//! and metrics to a collector by OTLP, metrics to whoever asks `/metrics`.
//!
//! Spans and metrics are made with the API of OpenTelemetry wherever the work
//! is done; this module decides where they go. Metrics are always collected,
//! for `/metrics`; spans only when there is a collector.

mod log;
mod otlp;
mod reporting;
mod sampler;
mod trace_id;

use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use opentelemetry::{KeyValue, global};
use opentelemetry_otlp::ExporterBuildError;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use prometheus::Registry;
use signalbox_protocol::trace::Recording;
use tokio_util::sync::DropGuard;
use tracing::{info, warn};
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::util::TryInitError;

#[cfg(test)]
pub(crate) use self::log::subscriber;
pub use self::log::{LogArgs, LogFormat};
use self::otlp::Exporters;
pub use self::otlp::OtlpArgs;
pub(crate) use self::reporting::Exports;
use self::reporting::Reporting;
use crate::metrics;

/// How long the last spans and metrics may take to reach the collector.
const FLUSH_GRACE: Duration = Duration::from_secs(3);
/// How long the library may take to end its threads, within that.
const PROVIDER_GRACE: Duration = Duration::from_secs(2);

/// Telemetry that could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter's directives cannot be read.
    #[error("invalid log filter")]
    Filter(#[from] ParseError),
    /// The process logs already.
    #[error("logging is set up twice")]
    Twice(#[from] TryInitError),
    /// There is no sampler of that name.
    #[error(
        "OTEL_TRACES_SAMPLER: `{0}` is not one of always_on, always_off, traceidratio and parentbased_ of these"
    )]
    Sampler(String),
    /// The sampler's argument is no share.
    #[error("OTEL_TRACES_SAMPLER_ARG: expected a number from 0 to 1, got `{0}`")]
    SamplerArgument(String),
    /// Another protocol than the one that is spoken was asked for.
    #[error("OTEL_EXPORTER_OTLP_PROTOCOL: only grpc is spoken, got `{0}`")]
    Protocol(String),
    /// The exporter cannot be made of the settings.
    #[error("cannot export telemetry")]
    Exporter(#[from] ExporterBuildError),
    /// Metrics cannot be collected.
    #[error("cannot collect metrics: {0}")]
    Metrics(String),
    /// The thread of the connections cannot be started.
    #[error("cannot start the exporter")]
    Thread(#[source] io::Error),
}

/// Starts logging to standard error for the whole process.
///
/// # Errors
/// [`TelemetryError`] when the filter is invalid or logging was started before.
pub fn init(args: &LogArgs) -> Result<(), TelemetryError> {
    log::init(args)
}

/// The process's spans and metrics, on their way out. Dropping it without
/// [`Telemetry::flush`] loses what has not been sent.
pub struct Telemetry {
    tracer: Option<SdkTracerProvider>,
    meter: SdkMeterProvider,
    registry: Registry,
    exports: Exports,
    /// Dropped last: the exporters' connections.
    _link: Option<DropGuard>,
}

impl Telemetry {
    /// Starts collecting for the whole process, which is called `service`
    /// unless the settings say otherwise, and exporting where they name a
    /// collector.
    ///
    /// # Errors
    /// [`TelemetryError`] when a setting is wrong.
    pub fn start(args: &OtlpArgs, service: &str) -> Result<Self, TelemetryError> {
        let sampling = args.sampling()?;
        let Exporters {
            spans,
            metrics,
            link,
        } = Exporters::start(args)?;
        let resource = resource(args.service_name.as_deref().unwrap_or(service));
        let exports = Exports::default();
        let registry = Registry::new();
        let prometheus = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .build()
            .map_err(|error| TelemetryError::Metrics(error.to_string()))?;
        let mut meter = SdkMeterProvider::builder()
            .with_reader(prometheus)
            .with_resource(resource.clone());
        if let Some(exporter) = metrics {
            meter = meter.with_periodic_exporter(Reporting::new(exporter, exports.clone()));
        }
        let meter = meter.build();
        global::set_meter_provider(meter.clone());
        metrics::observe_process(&exports);
        let tracer = spans.map(|exporter| {
            SdkTracerProvider::builder()
                .with_sampler(sampling.sampler)
                .with_resource(resource)
                .with_batch_exporter(Reporting::new(exporter, exports.clone()))
                .build()
        });
        if let Some(tracer) = &tracer {
            global::set_tracer_provider(tracer.clone());
            sampling.recording.set();
            info!(sampler = %args.traces_sampler, "recording traces");
        }
        Ok(Self {
            tracer,
            meter,
            registry,
            exports,
            _link: link,
        })
    }

    /// Where metrics are read.
    #[must_use]
    pub fn registry(&self) -> Registry {
        self.registry.clone()
    }

    /// Sends what is left, for a bounded time, and stops. Blocks: not to be
    /// called on a thread of a runtime.
    pub fn flush(self) {
        Recording::Nothing.set();
        let (report, outcome) = mpsc::sync_channel(1);
        let (tracer, meter) = (self.tracer, self.meter);
        // Beside the caller, since the library does not keep every deadline;
        // what hangs then ends with the process.
        let flushing = thread::Builder::new()
            .name("flush".to_owned())
            .spawn(move || {
                // Failures have been told by whoever exports.
                if let Some(tracer) = tracer {
                    tracer.shutdown_with_timeout(PROVIDER_GRACE).ok();
                }
                meter.shutdown_with_timeout(PROVIDER_GRACE).ok();
                report.send(()).ok();
            });
        if flushing.is_ok() && outcome.recv_timeout(FLUSH_GRACE).is_err() {
            // The connections end with this value, and exports fail with them.
            self.exports.abandon();
            warn!(grace = ?FLUSH_GRACE, "the last telemetry was left behind");
        }
    }
}

/// Who speaks; with what `OTEL_RESOURCE_ATTRIBUTES` adds.
fn resource(service: &str) -> Resource {
    Resource::builder()
        .with_service_name(service.to_owned())
        .with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("process.pid", i64::from(std::process::id())),
        ])
        .build()
}
