//! End-to-end tests, one module per behaviour.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, too"
)]

mod auth_replicas;
mod bench;
mod browser;
mod bus_absence;
mod clients;
mod collector;
mod commands;
mod conversations;
mod dead_letters;
mod decisions;
mod dlq;
mod events;
mod faults;
mod fixtures;
mod floods;
mod grpc;
mod grpc_faults;
mod hostile_bytes;
mod ingest;
mod ingest_faults;
mod keys;
mod limits;
mod malformed;
mod mesh;
mod metrics;
mod mutated;
mod openapi;
mod origins;
mod planted;
mod publishing;
mod raw;
mod resume;
mod routers;
mod slow_readers;
mod speech;
mod telemetry;
mod threat;
mod trace;
mod up;
