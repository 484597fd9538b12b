//! What a process inherits: a short list, and what `--env-allow` names.

/// Variables for processes. `Environment::new(std::env::vars_os(), &["CARGO_*"])`.
#[derive(Clone, Debug, Default)]
pub struct Environment {}
