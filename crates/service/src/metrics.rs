//! What every service measures of itself, the counts that hot paths keep, and
//! `GET /metrics`.
//!
//! A number that changes with every event is a [`Count`]: the thread that has
//! the event adds to it, and whoever collects reads it, without a lock between
//! them. An instrument that is called for every event would look up its labels
//! each time.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use opentelemetry::metrics::Meter;
use opentelemetry::{KeyValue, global};
use prometheus::{Encoder as _, TextEncoder};
use tracing::error;

use crate::health::Health;
use crate::telemetry::Exports;

pub use prometheus::Registry;

/// The scope of these metrics.
const SCOPE: &str = "signalbox.service";
/// What a microsecond is in seconds.
const MICROSECOND: f64 = 1e-6;

/// CPU time that the process has used.
const CPU_TIME: &str = "process.cpu.time";
/// Memory that the process has in use.
const MEMORY: &str = "process.memory.usage";
/// Files and sockets that it has open.
const DESCRIPTORS: &str = "process.unix.file_descriptor.count";
/// How long it has been running.
const UPTIME: &str = "process.uptime";
/// Whether a readiness condition holds.
const READY: &str = "signalbox.ready";
/// Spans that the collector took, or that were lost on the way.
const SPANS: &str = "signalbox.telemetry.spans";

/// A number that threads add to and collectors read.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds, from any thread.
    #[inline]
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// Adds, from the one thread that ever changes this count; costs no more
    /// than an addition of plain numbers.
    #[inline]
    pub fn add_alone(&self, more: u64) {
        self.set(self.get() + more);
    }

    /// Takes away, from the one thread that ever changes this count.
    #[inline]
    pub fn take_alone(&self, less: u64) {
        self.set(self.get().saturating_sub(less));
    }

    /// Takes away, from any thread; no more than was added.
    #[inline]
    pub fn take(&self, less: u64) {
        self.0.fetch_sub(less, Ordering::Relaxed);
    }

    /// Puts another number in its place.
    #[inline]
    pub fn set(&self, number: u64) {
        self.0.store(number, Ordering::Relaxed);
    }

    /// The number now.
    #[inline]
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Takes a number with its labels.
pub type Observe<'a> = &'a dyn Fn(u64, &[KeyValue]);

/// What a metric is called and about.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// Its name, as in `signalbox.gateway.connections`.
    pub name: &'static str,
    /// Its unit by UCUM, `{event}` and the like for things that are counted.
    pub unit: &'static str,
    /// One sentence for people.
    pub text: &'static str,
}

/// Has `meter` collect a number that only grows.
pub fn counter(meter: &Meter, about: About, read: impl Fn(Observe<'_>) + Send + Sync + 'static) {
    meter
        .u64_observable_counter(about.name)
        .with_unit(about.unit)
        .with_description(about.text)
        .with_callback(move |observer| read(&|number, labels| observer.observe(number, labels)))
        .build();
}

/// Has `meter` collect a number that goes up and down.
pub fn gauge(meter: &Meter, about: About, read: impl Fn(Observe<'_>) + Send + Sync + 'static) {
    meter
        .u64_observable_gauge(about.name)
        .with_unit(about.unit)
        .with_description(about.text)
        .with_callback(move |observer| read(&|number, labels| observer.observe(number, labels)))
        .build();
}

/// Has the process's own metrics collected.
pub(crate) fn observe_process(exports: &Exports) {
    let meter = global::meter(SCOPE);
    let modes = ["user", "system"].map(|mode| [KeyValue::new("cpu.mode", mode)]);
    meter
        .f64_observable_counter(CPU_TIME)
        .with_unit("s")
        .with_description("CPU time that the process has used")
        .with_callback(move |observer| {
            if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
                let times = [usage.user_time(), usage.system_time()];
                for (time, mode) in times.iter().zip(&modes) {
                    observer.observe(time.num_microseconds() as f64 * MICROSECOND, mode);
                }
            }
        })
        .build();
    let about = About {
        name: MEMORY,
        unit: "By",
        text: "Physical memory that the process has in use",
    };
    gauge(&meter, about, |observe| {
        if let Some(bytes) = resident_bytes() {
            observe(bytes, &[]);
        }
    });
    let about = About {
        name: DESCRIPTORS,
        unit: "{file_descriptor}",
        text: "Files and sockets that the process has open",
    };
    gauge(&meter, about, |observe| {
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            observe(open.count() as u64, &[]);
        }
    });
    let began = Instant::now();
    meter
        .f64_observable_gauge(UPTIME)
        .with_unit("s")
        .with_description("How long the process has been running")
        .with_callback(move |observer| observer.observe(began.elapsed().as_secs_f64(), &[]))
        .build();
    let about = About {
        name: SPANS,
        unit: "{span}",
        text: "Spans given to the collector (sent) or refused by it (lost)",
    };
    let exports = exports.clone();
    let outcomes = ["sent", "lost"].map(|outcome| [KeyValue::new("outcome", outcome)]);
    counter(&meter, about, move |observe| {
        let numbers = [exports.spans(), exports.lost_spans()];
        for (number, outcome) in numbers.into_iter().zip(&outcomes) {
            observe(number, outcome);
        }
    });
}

/// Has the readiness conditions of `health` collected.
pub fn observe_health(health: &Health) {
    let about = About {
        name: READY,
        unit: "",
        text: "Whether a condition of readiness holds (1) or not (0)",
    };
    let health = health.clone();
    gauge(&global::meter(SCOPE), about, move |observe| {
        for condition in health.snapshot().conditions {
            let label = KeyValue::new("condition", condition.name);
            observe(condition.ready.into(), &[label]);
        }
    });
}

/// Memory in use, as the system says.
fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// `GET /metrics`, in the text format of Prometheus.
pub fn routes(registry: Registry) -> Router {
    Router::new()
        .route("/metrics", get(serve))
        .with_state(registry)
}

async fn serve(State(registry): State<Registry>) -> Response {
    let encoder = TextEncoder::new();
    let mut text = Vec::new();
    match encoder.encode(&registry.gather(), &mut text) {
        Ok(()) => {
            let kind = [(header::CONTENT_TYPE, encoder.format_type().to_owned())];
            (kind, text).into_response()
        }
        Err(error) => {
            error!(%error, "metrics not written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up_and_never_go_below_zero() {
        let count = Count::default();
        count.add(2);
        count.add_alone(3);
        count.take_alone(1);
        assert_eq!(count.get(), 4);
        count.take_alone(9);
        assert_eq!(count.get(), 0);
    }

    #[test]
    fn the_system_tells_how_much_memory_is_in_use() {
        assert!(resident_bytes().unwrap() > 100 * 1024);
    }
}
