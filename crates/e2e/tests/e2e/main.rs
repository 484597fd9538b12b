//! End-to-end tests, one module per behaviour.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, too"
)]

mod bus_absence;
mod clients;
mod commands;
mod dead_letters;
mod dlq;
mod events;
mod faults;
mod floods;
mod hostile_bytes;
mod planted;
mod raw;
mod resume;
mod routers;
mod slow_readers;
mod socketio;
mod threat;
mod trace;
mod up;
