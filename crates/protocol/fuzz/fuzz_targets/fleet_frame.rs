//! Feeds `entry::fleet_frame`.

#![no_main]
#![allow(dead_code, reason = "each target uses a part of the entry functions")]

#[path = "../entry.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entry::fleet_frame(bytes));
