//! Both APIs against a server that speaks their published shapes and
//! misbehaves: what an answer comes to, which failures are told apart, what is
//! sent again, and that nothing incomplete is ever handed over.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "provider/answers.rs"]
mod answers;
#[path = "provider/faults.rs"]
mod faults;
#[path = "provider/setting.rs"]
mod setting;
#[path = "provider/tls.rs"]
mod tls;
#[path = "provider/tools.rs"]
mod tools;
