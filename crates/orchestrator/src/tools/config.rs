//! What `agents.toml` says of tools, before anything runs them, and the table of
//! those that are built in. Adding a built-in tool is adding an entry to it.

use std::sync::Arc;
use std::time::Duration;

use super::registry::Supplies;
use super::{Approval, DEFAULT_EXPIRY, Limits, Runner, events, run_command};
use crate::analysis::Schema;

/// The longest time that a call may have. Answers of responders are let through
/// by the bus for this long.
pub const MAX_TIME: Duration = signalbox_bus::server::ANSWER_WITHIN;

/// A tool as the file has it.
#[derive(Clone, Debug)]
pub struct Definition {
    /// What models call it.
    pub name: String,
    /// What it does, for models.
    pub description: String,
    /// What its arguments must be.
    pub schema: Arc<Schema>,
    /// What one call may take.
    pub limits: Limits,
    /// Whether people decide on each call.
    pub approval: Option<Approval>,
    /// What the user who asks must be permitted, by name.
    pub permission: Option<String>,
    /// The agents on remote machines that it may address, as patterns; of tools
    /// that address none, nothing.
    pub agents: Vec<String>,
    /// What it is, where it is built in; others are answered by responders.
    pub built_in: Option<&'static BuiltIn>,
}

/// A tool that is there without a table.
#[derive(Debug)]
pub struct BuiltIn {
    /// What models call it.
    pub name: &'static str,
    /// What it does, for models.
    pub description: &'static str,
    /// The JSON schema of its arguments.
    pub parameters: &'static str,
    /// What one call may take where the file says nothing else.
    pub limits: Limits,
    /// Whether people decide on each call where the file says nothing else.
    pub approval: bool,
    /// What every user who asks must be permitted, whatever the file says.
    pub permission: Option<&'static str>,
    /// Whether its table has `agents`.
    pub addresses_agents: bool,
    /// Makes what runs it.
    pub runner: fn(&Definition, &Supplies) -> Arc<dyn Runner>,
}

/// The tools that are built in.
pub const BUILT_IN: &[BuiltIn] = &[
    events::SEARCH,
    events::TIMELINE,
    events::RELATED,
    run_command::RUN_COMMAND,
];

/// The built-in tool of a name.
#[must_use]
pub fn built_in(name: &str) -> Option<&'static BuiltIn> {
    BUILT_IN.iter().find(|built_in| built_in.name == name)
}

impl Definition {
    /// A built-in tool as it is without a table.
    ///
    /// # Panics
    /// Never: what is built in is tested.
    #[must_use]
    pub fn of(built_in: &'static BuiltIn) -> Self {
        let schema = serde_json::from_str(built_in.parameters)
            .map_err(|error| error.to_string())
            .and_then(Schema::compile);
        Self {
            name: built_in.name.to_owned(),
            description: built_in.description.to_owned(),
            schema: Arc::new(schema.expect("the schemas that are built in are valid")),
            limits: built_in.limits,
            approval: built_in.approval.then(|| Approval {
                action_type: built_in.name.to_owned(),
                expires_in: DEFAULT_EXPIRY,
            }),
            permission: built_in.permission.map(str::to_owned),
            agents: Vec::new(),
            built_in: Some(built_in),
        }
    }
}
