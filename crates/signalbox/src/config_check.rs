//! What is wrong with a file of agents: every mistake on a line of its own,
//! with the file's line, the field and what was expected there.

use std::path::Path;

use signalbox_orchestrator::agents::{Agents, Severity, Source};
use signalbox_service::ExitError;

use crate::output;

/// Checks the text of a file of agents and prints what there is to say. Keys
/// that are not there are warnings: they may be where the agents will run.
///
/// # Errors
/// The file cannot be used.
pub(crate) fn agents(path: &Path, text: &str) -> Result<(), ExitError> {
    let source = Source {
        directory: path.parent().unwrap_or(Path::new(".")),
        variable: &|name| std::env::var(name).ok(),
        keys_required: false,
    };
    let (agents, problems) = Agents::parse(text, &source);
    let shown = path.display();
    for problem in &problems {
        if !output::line(format_args!("{shown}: {problem}"))? {
            break;
        }
    }
    let Some(agents) = agents else {
        let errors = problems
            .iter()
            .filter(|problem| problem.severity == Severity::Error)
            .count();
        let word = if errors == 1 { "mistake" } else { "mistakes" };
        return Err(ExitError::config(format!("{shown}: {errors} {word}")));
    };
    for agent_type in agents.types() {
        if let Some(agent) = agents.find(agent_type) {
            output::line(format_args!(
                "{agent_type}: {}, {}",
                agent.name, agent.model
            ))?;
        }
    }
    output::line(format_args!("{shown}: no mistakes"))?;
    Ok(())
}
