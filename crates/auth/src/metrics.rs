//! What the auth service measures.

use opentelemetry::metrics::Counter;
use opentelemetry::{KeyValue, global};
use signalbox_bus::{Bus, trace};
use tonic::Code;

use crate::rejection::Rejection;

/// The scope of these metrics.
const SCOPE: &str = "signalbox.auth";
/// Requests answered, by operation and outcome.
const REQUESTS: &str = "signalbox.auth.requests";
/// gRPC calls, by method and status.
const CALLS: &str = "signalbox.auth.grpc.calls";
/// How an accepted request is counted; others are by their error code.
const ACCEPTED: &str = "ACCEPTED";

/// The numbers of the auth service.
#[derive(Debug)]
pub(crate) struct Metrics {
    requests: Counter<u64>,
    calls: Counter<u64>,
}

/// A gRPC call, which is counted when this is dropped: as cancelled, unless it
/// ended otherwise.
#[must_use]
pub(crate) struct Call<'a> {
    calls: &'a Counter<u64>,
    method: &'static str,
    code: Code,
}

impl Call<'_> {
    /// Says how it ended.
    pub(crate) fn ended(&mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let outcome = word(self.code);
        self.calls.add(
            1,
            &[
                KeyValue::new("method", self.method),
                KeyValue::new("outcome", outcome),
            ],
        );
    }
}

impl Metrics {
    /// Numbers that the process's meter collects.
    pub(crate) fn new() -> Self {
        let meter = global::meter(SCOPE);
        let requests = meter
            .u64_counter(REQUESTS)
            .with_unit("{request}")
            .with_description("Requests answered, by operation and outcome")
            .build();
        let calls = meter
            .u64_counter(CALLS)
            .with_unit("{call}")
            .with_description("gRPC calls that ended, by method and status")
            .build();
        Self { requests, calls }
    }

    /// Begins to count a gRPC call.
    pub(crate) const fn call(&self, method: &'static str) -> Call<'_> {
        Call {
            calls: &self.calls,
            method,
            code: Code::Cancelled,
        }
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
pub(crate) fn observe_bus(bus: &Bus, connection: &'static str) {
    signalbox_bus::metrics::observe(&global::meter(SCOPE), bus, connection);
}

/// The word of a gRPC status.
const fn word(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
