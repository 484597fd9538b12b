//! `[tools.NAME]`: a tool that a responder on the bus answers, or what is to be
//! different with a tool that is built in.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use signalbox_identity::Permission;

use super::document::{FlagOrTable, Placed, Problems, Section};
use super::schema_field;
use crate::analysis::Schema;
use crate::provider::ANALYSIS_TOOL;
use crate::tools::config::{self, BuiltIn, Definition};
use crate::tools::{
    Approval, DEFAULT_EXPIRY, DEFAULT_RESULT_BYTES, DEFAULT_TIME, Limits, MAX_RESULT_BYTES,
};

/// The longest description, in bytes.
const MAX_DESCRIPTION_BYTES: usize = 4 * 1024;
/// The longest name or pattern, in bytes.
const MAX_NAME_BYTES: usize = 64;
/// The least that a result may be bounded to, in bytes.
const MIN_RESULT_BYTES: u64 = 256;
/// The longest time that a call may have.
pub(super) const MAX_TIME: Duration = config::MAX_TIME;
/// The longest time that people may have to decide.
pub(super) const MAX_EXPIRY: Duration = Duration::from_secs(24 * 3600);
/// Agents that a tool may address, as patterns.
const MAX_AGENTS: usize = 128;
/// What stands between a server and its tool in the name of an MCP tool.
const SERVER_MARK: &str = "__";
/// The fields with the schema of the arguments, and with the name of its file.
const SCHEMA_FIELDS: [&str; 2] = ["parameters", "parameters_file"];

/// A tool as the file has it.
#[derive(Clone, Debug)]
pub(super) struct ToolDraft {
    description: Option<String>,
    schema: Option<Arc<Schema>>,
    time: Option<Duration>,
    result_bytes: Option<usize>,
    approval: Option<ApprovalDraft>,
    permission: Option<String>,
    agents: Vec<String>,
}

/// Whether people decide on each call.
#[derive(Clone, Debug)]
pub(super) enum ApprovalDraft {
    /// They do not.
    No,
    /// They do.
    Yes {
        action_type: Option<String>,
        expires_in: Option<Duration>,
    },
}

impl ApprovalDraft {
    /// What it says of the tool of this name.
    pub(super) fn build(&self, name: &str) -> Option<Approval> {
        match self {
            Self::No => None,
            Self::Yes {
                action_type,
                expires_in,
            } => Some(Approval {
                action_type: action_type.clone().unwrap_or_else(|| name.to_owned()),
                expires_in: expires_in.unwrap_or(DEFAULT_EXPIRY),
            }),
        }
    }
}

/// The names that an agent's list of tools may have.
pub(super) struct KnownTools {
    /// Tools that are built in or have a table, whatever is wrong with it.
    tools: BTreeSet<String>,
    /// MCP servers, whose tools are not known before they are asked.
    servers: BTreeSet<String>,
}

impl KnownTools {
    /// Of these tables, and what is built in.
    pub(super) fn new(
        tables: &BTreeMap<String, ToolDraft>,
        servers: impl IntoIterator<Item = String>,
    ) -> Self {
        let built_in = config::BUILT_IN.iter().map(|tool| tool.name.to_owned());
        Self {
            tools: tables.keys().cloned().chain(built_in).collect(),
            servers: servers.into_iter().collect(),
        }
    }

    /// Whether a name of a list stands for anything.
    ///
    /// # Errors
    /// Says what was expected.
    pub(super) fn check(&self, name: &str) -> Result<(), String> {
        let of_server = name.split_once(SERVER_MARK);
        let is_known = match of_server {
            Some((server, tool)) => {
                self.servers.contains(server) && (tool == "*" || is_tool_name(tool))
            }
            None => self.tools.contains(name),
        };
        if is_known {
            return Ok(());
        }
        let mut known: Vec<String> = self.tools.iter().cloned().collect();
        known.extend(self.servers.iter().map(|server| format!("{server}__*")));
        Err(format!(
            "there is no tool `{name}`; expected {}, or one with a table [tools.NAME]",
            known.join(", ")
        ))
    }
}

/// Whether models and the bus can have a tool of this name.
fn is_tool_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(fits)
}

/// Reads a table.
pub(super) fn read(
    (name, place): (&str, &Range<usize>),
    mut section: Section<'_>,
    directory: &Path,
    problems: &mut Problems,
) -> ToolDraft {
    if !is_tool_name(name) || name.contains(SERVER_MARK) {
        let message = format!(
            "expected a name of letters, digits, `_` and `-`, at most {MAX_NAME_BYTES} bytes, \
             without `{SERVER_MARK}`, which tools of MCP servers have"
        );
        problems.error(place, &section.path, message);
    } else if name == ANALYSIS_TOOL {
        let message = "expected another name: models hand over their analysis by this one";
        problems.error(place, &section.path, message);
    }
    let built_in = config::built_in(name);
    if built_in.is_none() {
        require(place, &section, problems);
    }
    let draft = ToolDraft {
        description: section
            .bounded_text("description", MAX_DESCRIPTION_BYTES, problems)
            .map(|(text, _)| text.to_owned()),
        schema: read_schema(&mut section, built_in, directory, problems),
        time: value(section.seconds("timeout", MAX_TIME, problems)),
        result_bytes: value(section.count(
            "result_bytes",
            MIN_RESULT_BYTES..MAX_RESULT_BYTES as u64 + 1,
            problems,
        ))
        .map(|count| count as usize),
        approval: read_approval(&mut section, problems),
        permission: read_permission(&mut section, built_in, problems),
        agents: match built_in {
            Some(built_in) if built_in.addresses_agents => read_agents(&mut section, problems),
            _ => Vec::new(),
        },
    };
    section.finish(problems);
    draft
}

/// Says what a tool of a responder cannot be without.
fn require(place: &Range<usize>, section: &Section<'_>, problems: &mut Problems) {
    if section.place_of("description").is_none() {
        let message = "expected what the tool does and when to use it, for the model";
        problems.error(place, &section.field("description"), message);
    }
    let is_given = |key: &&str| section.place_of(key).is_some();
    if !SCHEMA_FIELDS.iter().any(is_given) {
        let message = "expected a JSON schema of the arguments, or parameters_file";
        problems.error(place, &section.field(SCHEMA_FIELDS[0]), message);
    }
}

fn read_schema(
    section: &mut Section<'_>,
    built_in: Option<&BuiltIn>,
    directory: &Path,
    problems: &mut Problems,
) -> Option<Arc<Schema>> {
    if built_in.is_none() {
        return schema_field::read(section, SCHEMA_FIELDS, directory, problems);
    }
    for key in SCHEMA_FIELDS {
        if let Some(place) = section.place_of(key) {
            let message = "expected none: what this tool is given is built in";
            problems.error(&place, &section.field(key), message);
            section.forget(key);
        }
    }
    None
}

/// Takes whether people decide on calls.
pub(super) fn read_approval(
    section: &mut Section<'_>,
    problems: &mut Problems,
) -> Option<ApprovalDraft> {
    let mut table = match section.flag_or_table("approval", problems)? {
        FlagOrTable::Flag(false) => return Some(ApprovalDraft::No),
        FlagOrTable::Flag(true) => {
            return Some(ApprovalDraft::Yes {
                action_type: None,
                expires_in: None,
            });
        }
        FlagOrTable::Table(table) => table,
    };
    let approval = ApprovalDraft::Yes {
        action_type: table
            .bounded_text("action_type", MAX_NAME_BYTES, problems)
            .map(|(text, _)| text.to_owned()),
        expires_in: value(table.seconds("expires_in", MAX_EXPIRY, problems)),
    };
    table.finish(problems);
    Some(approval)
}

fn read_permission(
    section: &mut Section<'_>,
    built_in: Option<&BuiltIn>,
    problems: &mut Problems,
) -> Option<String> {
    let (word, place) = section.text("permission", problems)?;
    let field = section.field("permission");
    if let Some(needed) = built_in.and_then(|built_in| built_in.permission) {
        let message = format!("expected none: this tool always needs {needed}");
        problems.error(&place, &field, message);
    } else if word.parse::<Permission>().is_err() {
        let message =
            "expected a permission, such as read_threats; `signalbox key roles` lists them";
        problems.error(&place, &field, message);
    }
    Some(word.to_owned())
}

fn read_agents(section: &mut Section<'_>, problems: &mut Problems) -> Vec<String> {
    let patterns = section.texts("agents", MAX_AGENTS, problems);
    let mut agents = Vec::new();
    for (number, (pattern, place)) in patterns.into_iter().flatten().enumerate() {
        if pattern.len() > 2 * MAX_NAME_BYTES || pattern.contains(char::is_whitespace) {
            let field = format!("{}[{number}]", section.field("agents"));
            let message = "expected an agent's id or a pattern such as web-*";
            problems.error(&place, &field, message);
        }
        agents.push(pattern.to_owned());
    }
    agents
}

/// Makes the tools: those that are built in, and those of tables, but for what is
/// too wrong.
pub(super) fn build(mut drafts: BTreeMap<String, ToolDraft>) -> Vec<Definition> {
    let mut tools: Vec<Definition> = config::BUILT_IN
        .iter()
        .map(|built_in| {
            let tool = Definition::of(built_in);
            match drafts.remove(built_in.name) {
                Some(draft) => draft.adjust(tool),
                None => tool,
            }
        })
        .collect();
    let served = drafts
        .into_iter()
        .filter_map(|(name, draft)| draft.build(name));
    tools.extend(served);
    tools.sort_by(|a, b| a.name.cmp(&b.name));
    tools
}

impl ToolDraft {
    /// The tool that is built in, with what is set here.
    fn adjust(self, tool: Definition) -> Definition {
        Definition {
            description: self.description.unwrap_or(tool.description),
            limits: Limits {
                time: self.time.unwrap_or(tool.limits.time),
                result_bytes: self.result_bytes.unwrap_or(tool.limits.result_bytes),
            },
            approval: match &self.approval {
                Some(approval) => approval.build(&tool.name),
                None => tool.approval,
            },
            permission: tool.permission.or(self.permission),
            agents: self.agents,
            ..tool
        }
    }

    /// A tool that a responder answers.
    fn build(self, name: String) -> Option<Definition> {
        Some(Definition {
            approval: self.approval.and_then(|approval| approval.build(&name)),
            name,
            description: self.description?,
            schema: self.schema?,
            limits: Limits {
                time: self.time.unwrap_or(DEFAULT_TIME),
                result_bytes: self.result_bytes.unwrap_or(DEFAULT_RESULT_BYTES),
            },
            permission: self.permission,
            agents: Vec::new(),
            built_in: None,
        })
    }
}

fn value<T>(placed: Option<Placed<T>>) -> Option<T> {
    placed.map(|(value, _)| value)
}

#[cfg(test)]
mod tests;
