//! What the auth service measures.

use opentelemetry::metrics::Counter;
use opentelemetry::{KeyValue, global};
use signalbox_bus::{Bus, trace};

use crate::rejection::Rejection;

/// The scope of these metrics.
const SCOPE: &str = "signalbox.auth";
/// Requests answered, by operation and outcome.
const REQUESTS: &str = "signalbox.auth.requests";
/// How an accepted request is counted; others are by their error code.
const ACCEPTED: &str = "ACCEPTED";

/// The numbers of the auth service.
#[derive(Debug)]
pub(crate) struct Metrics {
    requests: Counter<u64>,
}

impl Metrics {
    /// Numbers that the process's meter collects.
    pub(crate) fn new() -> Self {
        let requests = global::meter(SCOPE)
            .u64_counter(REQUESTS)
            .with_unit("{request}")
            .with_description("Requests answered, by operation and outcome")
            .build();
        Self { requests }
    }

    /// Notes the answer to a request, also with its span.
    pub(crate) fn answered<T>(&self, operation: &'static str, outcome: &Result<T, Rejection>) {
        let outcome = match outcome {
            Ok(_) => ACCEPTED,
            Err(rejection) => rejection.code().as_str(),
        };
        self.requests.add(
            1,
            &[
                KeyValue::new("operation", operation),
                KeyValue::new("outcome", outcome),
            ],
        );
        trace::note("signalbox.outcome", outcome);
    }
}

/// Has the state of the connection to the bus collected as well.
pub(crate) fn observe_bus(bus: &Bus) {
    signalbox_bus::metrics::observe(&global::meter(SCOPE), bus, "auth");
}
