//! Reads `agents.toml` on top of what is shipped. Every mistake is found at
//! once, with its line.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use toml::de::DeTable;

use super::agent_table::{self, AgentDraft};
use super::document::{Problem, Problems, Section};
use super::mcp_table::{self, ServerDraft};
use super::provider_table::{self, ProviderDraft};
use super::tool_table::{self, KnownTools, ToolDraft};
use super::{Agents, Severity};
use crate::analysis::Schema;
use crate::provider::http::Client;

/// The agents that are shipped.
const SHIPPED: &str = include_str!("shipped.toml");
/// What an analysis must look like where nothing else is said.
const SCHEMA: &str = include_str!("analysis.schema.json");
/// The agent whose analysis has findings with evidence, and what it must look like.
const INVESTIGATOR: &str = "investigation_agent";
const INVESTIGATION_SCHEMA: &str = include_str!("investigation.schema.json");

/// Where a file's values come from.
pub struct Source<'a> {
    /// The directory in which files named by the file are.
    pub directory: &'a Path,
    /// Looks a variable of the environment up.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// Whether a key that is not there is an error instead of a warning.
    pub keys_required: bool,
}

/// Whether a TOML text is meant to be a file of agents.
#[must_use]
pub fn is_agents_file(text: &str) -> bool {
    let (table, _) = DeTable::parse_recoverable(text);
    let mut keys = table.get_ref().keys();
    let known = ["agents", "providers", "tools", "mcp"];
    keys.any(|key| known.contains(&key.get_ref().as_ref()))
}

impl Agents {
    /// The agents that are shipped. They need no key and no network.
    ///
    /// # Panics
    /// Never: what is shipped is tested.
    #[must_use]
    pub fn shipped() -> Self {
        let source = Source {
            directory: Path::new("."),
            variable: &|_| None,
            keys_required: true,
        };
        let (agents, _) = Self::parse("", &source);
        agents.expect("the shipped agents are valid")
    }

    /// Reads a file on top of the shipped agents, for a service that is about
    /// to use them: keys must be there.
    ///
    /// # Errors
    /// All mistakes, each with its line.
    pub fn load(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).map_err(|error| format!("{shown}: {error}"))?;
        let source = Source {
            directory: path.parent().unwrap_or(Path::new(".")),
            variable: &|name| std::env::var(name).ok(),
            keys_required: true,
        };
        let (agents, problems) = Self::parse(&text, &source);
        agents.ok_or_else(|| {
            let lines: Vec<String> = problems
                .iter()
                .filter(|problem| problem.severity == Severity::Error)
                .map(|problem| format!("{shown}: {problem}"))
                .collect();
            lines.join("\n")
        })
    }

    /// Reads the text of a file on top of the shipped agents. There are none if
    /// any problem is an error.
    #[must_use]
    pub fn parse(text: &str, source: &Source<'_>) -> (Option<Self>, Vec<Problem>) {
        let mut problems = Problems::new(text);
        let mut none = Problems::new(SHIPPED);
        let (table, errors) = DeTable::parse_recoverable(SHIPPED);
        let shipped = Drafts::read(table.get_ref(), source.directory, &mut none);
        debug_assert!(
            errors.is_empty() && !none.has_errors(),
            "{none:?} {errors:?}"
        );
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            problems.error(&error.span().unwrap_or(0..0), "", error.message());
        }
        let drafts = Drafts::read(table.get_ref(), source.directory, &mut problems);
        let agents = shipped.with(drafts).build(source, &mut problems);
        let agents = (!problems.has_errors()).then_some(agents);
        (agents, problems.into_sorted())
    }
}

/// What one file, or several together, have.
#[derive(Debug, Default)]
struct Drafts {
    providers: BTreeMap<String, ProviderDraft>,
    agents: BTreeMap<String, AgentDraft>,
    tools: BTreeMap<String, ToolDraft>,
    mcp: BTreeMap<String, ServerDraft>,
    /// The names of all tables in `mcp`, whatever is wrong with them.
    servers: BTreeSet<String>,
}

impl Drafts {
    fn read(table: &DeTable<'_>, directory: &Path, problems: &mut Problems) -> Self {
        let mut file = Section::of(table);
        let mut drafts = Self::default();
        let providers = file.section("providers", problems);
        for ((name, _), section) in providers.sections(problems) {
            if let Some(draft) = provider_table::read(section, directory, problems) {
                drafts.providers.insert(name.to_owned(), draft);
            }
        }
        let agents = file.section("agents", problems);
        for ((name, place), section) in agents.sections(problems) {
            if !agent_table::is_type(name) {
                let message = "expected a type of small letters, digits and `_`, such as \
                               threat_classifier, at most 64 bytes";
                problems.error(&place, &section.path, message);
            }
            let draft = agent_table::read(section, directory, problems);
            drafts.agents.insert(name.to_owned(), draft);
        }
        let tools = file.section("tools", problems);
        for ((name, place), section) in tools.sections(problems) {
            let draft = tool_table::read((name, &place), section, directory, problems);
            drafts.tools.insert(name.to_owned(), draft);
        }
        let servers = file.section("mcp", problems);
        for ((name, place), section) in servers.sections(problems) {
            drafts.servers.insert(name.to_owned());
            if let Some(draft) = mcp_table::read((name, &place), section, directory, problems) {
                drafts.mcp.insert(name.to_owned(), draft);
            }
        }
        file.finish(problems);
        drafts
    }

    fn with(mut self, later: Self) -> Self {
        self.providers.extend(provider_table::shipped());
        self.providers.extend(later.providers);
        self.tools.extend(later.tools);
        self.mcp.extend(later.mcp);
        self.servers.extend(later.servers);
        for (name, draft) in later.agents {
            let before = self.agents.remove(&name).unwrap_or_default();
            self.agents.insert(name, before.with(draft));
        }
        self
    }

    fn build(self, source: &Source<'_>, problems: &mut Problems) -> Agents {
        let client = Client::new();
        let (schema, investigation) = (schema(SCHEMA), schema(INVESTIGATION_SCHEMA));
        let known = KnownTools::new(&self.tools, self.servers);
        let tools = tool_table::build(self.tools);
        let mut built = BTreeMap::new();
        let mut agents = BTreeMap::new();
        for (agent_type, draft) in self.agents {
            let field = format!("agents.{agent_type}");
            draft.check_tools(&field, &known, problems);
            if !draft.is_enabled() {
                continue;
            }
            let Some((name, provider)) = draft.provider(&field, &self.providers, problems) else {
                continue;
            };
            let (kind, used) = (provider.kind, draft.provider_place());
            // A provider that nobody uses needs no key.
            let provider = built
                .entry(name.to_owned())
                .or_insert_with(|| provider.build(&client, source, &used, problems));
            let provider = Arc::clone(provider);
            let schema = match agent_type.as_str() {
                INVESTIGATOR => &investigation,
                _ => &schema,
            };
            let agent = draft.build(&agent_type, kind, provider, schema, problems);
            agents.insert(agent_type, Arc::new(agent));
        }
        if agents.is_empty() && !problems.has_errors() {
            problems.error(
                &(0..0),
                "agents",
                "expected at least one agent that is enabled",
            );
        }
        let servers = self.mcp.into_iter();
        let servers = servers.filter_map(|(name, draft)| draft.build(&name, source, problems));
        Agents {
            agents,
            tools,
            servers: servers.collect(),
        }
    }
}

fn schema(text: &str) -> Arc<Schema> {
    let value: Value = serde_json::from_str(text).expect("the built-in schema is JSON");
    Arc::new(Schema::compile(value).expect("the built-in schema is valid"))
}

#[cfg(test)]
mod tests;
