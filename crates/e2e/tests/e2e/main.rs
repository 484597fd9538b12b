//! End-to-end tests, one module per behaviour.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, too"
)]

mod browser;
mod bus_absence;
mod clients;
mod commands;
mod dead_letters;
mod decisions;
mod dlq;
mod events;
mod every_event;
mod faults;
mod floods;
mod hostile_bytes;
mod ingest;
mod ingest_faults;
mod limits;
mod mesh;
mod openapi;
mod origins;
mod planted;
mod publishing;
mod raw;
mod resume;
mod routers;
mod signed;
mod slow_readers;
mod threat;
mod trace;
mod unions;
mod up;
