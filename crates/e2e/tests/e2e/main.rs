//! End-to-end tests, one module per behaviour.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, too"
)]

mod clients;
mod commands;
mod dead_letters;
mod events;
mod floods;
mod hostile_bytes;
mod raw;
mod resume;
mod slow_readers;
mod threat;
mod trace;
mod up;
