//! Removes secrets from what processes write.

/// What is removed. `Redaction::new(&[Secret])`, `Redaction::none()`; clones share.
#[derive(Clone, Debug)]
pub struct Redaction {}

/// One `--redact`: `FromStr`: `env:NAME` (that variable's value), `re:REGEX`
/// (of bounded length), or the secret itself; at least 6 bytes.
#[derive(Clone)]
pub enum Secret {}
