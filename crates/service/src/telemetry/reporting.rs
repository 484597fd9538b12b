//! Exporters that tell of their failures once, and not at every attempt: a
//! collector that is away is no reason to fill the logs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::Temporality;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::{info, warn};

/// The shortest time between two lines about failed exports.
const WARNING_INTERVAL: Duration = Duration::from_secs(300);

/// What exports have come to. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Exports(Arc<State>);

#[derive(Debug, Default)]
struct State {
    spans: AtomicU64,
    lost_spans: AtomicU64,
    failing: AtomicBool,
    /// Whether exports are being given up, which is told elsewhere.
    abandoned: AtomicBool,
    warned: Mutex<Option<Instant>>,
}

impl Exports {
    /// Spans that the collector took.
    pub(crate) fn spans(&self) -> u64 {
        self.0.spans.load(Ordering::Relaxed)
    }

    /// Spans that it did not take, and that are gone.
    pub(crate) fn lost_spans(&self) -> u64 {
        self.0.lost_spans.load(Ordering::Relaxed)
    }

    /// From now on nothing is told: what is still on its way is cut off.
    pub(super) fn abandon(&self) {
        self.0.abandoned.store(true, Ordering::Relaxed);
    }

    fn note(&self, what: &'static str, outcome: &OTelSdkResult) {
        if self.0.abandoned.load(Ordering::Relaxed) {
            return;
        }
        let Err(error) = outcome else {
            if self.0.failing.swap(false, Ordering::Relaxed) {
                info!("the telemetry collector takes exports again");
            }
            return;
        };
        self.0.failing.store(true, Ordering::Relaxed);
        let now = Instant::now();
        let mut warned = self.0.warned.lock();
        if warned.is_none_or(|last| now.duration_since(last) >= WARNING_INTERVAL) {
            *warned = Some(now);
            warn!(what, %error, lost_spans = self.lost_spans(), "telemetry not exported, going on without");
        }
    }
}

/// An exporter whose failures are told once.
#[derive(Debug)]
pub(super) struct Reporting<E> {
    inner: E,
    exports: Exports,
}

impl<E> Reporting<E> {
    pub(super) const fn new(inner: E, exports: Exports) -> Self {
        Self { inner, exports }
    }
}

impl<E: SpanExporter> SpanExporter for Reporting<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len() as u64;
        let outcome = self.inner.export(batch).await;
        let counter = match outcome {
            Ok(()) => &self.exports.0.spans,
            Err(_) => &self.exports.0.lost_spans,
        };
        counter.fetch_add(count, Ordering::Relaxed);
        self.exports.note("spans", &outcome);
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl<E: PushMetricExporter> PushMetricExporter for Reporting<E> {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let outcome = self.inner.export(metrics).await;
        self.exports.note("metrics", &outcome);
        outcome
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.inner.temporality()
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_sdk::error::OTelSdkError;

    use super::*;
    use crate::captured::Captured;
    use crate::telemetry::LogArgs;

    #[tokio::test(start_paused = true)]
    async fn failures_are_told_once_and_their_end_as_well() {
        let (logs, _capturing) = Captured::start(&LogArgs::default());
        let exports = Exports::default();
        let lines = || logs.text().lines().count();
        let failed = Err(OTelSdkError::InternalFailure("refused".to_owned()));
        for _ in 0..100 {
            exports.note("spans", &failed);
        }
        assert_eq!(lines(), 1, "{}", logs.text());
        exports.note("spans", &Ok(()));
        exports.note("spans", &Ok(()));
        exports.note("spans", &failed);
        assert_eq!(lines(), 2, "{}", logs.text());
        tokio::time::advance(WARNING_INTERVAL).await;
        exports.note("metrics", &failed);
        assert_eq!(lines(), 3, "{}", logs.text());
        tokio::time::advance(WARNING_INTERVAL).await;
        exports.abandon();
        exports.note("metrics", &failed);
        assert_eq!(lines(), 3, "{}", logs.text());
    }
}
