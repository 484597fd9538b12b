//! Puts the toolbox together: from what `agents.toml` says of each tool to what
//! runs it. Once per orchestrator, at its start.

use std::sync::Arc;

use signalbox_bus::Bus;

use super::config::Definition;
use super::responder::Responder;
use super::{Tool, Toolbox};
use crate::agents::Agents;

/// What runners are made of.
#[derive(Clone)]
pub struct Supplies {
    /// The bus, as the orchestrator's user.
    pub bus: Bus,
}

/// All tools that there are.
#[must_use]
pub fn toolbox(agents: &Agents, supplies: &Supplies) -> Toolbox {
    let tools = agents.tools().iter();
    Toolbox::new(tools.map(|definition| tool(definition, supplies)))
}

fn tool(definition: &Definition, supplies: &Supplies) -> Tool {
    Tool {
        name: definition.name.clone(),
        description: definition.description.clone(),
        schema: Arc::clone(&definition.schema),
        limits: definition.limits,
        approval: definition.approval.clone(),
        permission: definition.permission.clone(),
        runner: match definition.built_in {
            Some(built_in) => (built_in.runner)(definition, supplies),
            None => Arc::new(Responder::new(&definition.name, supplies.bus.clone())),
        },
    }
}
