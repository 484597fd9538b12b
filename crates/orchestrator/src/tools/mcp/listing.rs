//! What a server says it has, as tools. All of it is untrusted: it is bounded,
//! a tool that cannot be used is left out with a warning and the others stay,
//! and what a server claims about its tools (that they only read, say) changes
//! nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;
use tracing::warn;

use super::config::ServerConfig;
use super::schema::compile;
use super::wire;
use crate::tools::{Runner, Tool, contain_text};

/// The most tools of one server; more are left out.
pub const MAX_TOOLS: usize = 128;
/// The longest description that models are told, in bytes; a longer one is cut.
pub const MAX_DESCRIPTION_BYTES: usize = 2048;
/// The longest schema of arguments, in bytes of JSON.
pub const MAX_SCHEMA_BYTES: usize = 16 * 1024;
/// The longest name of a tool as the server has it, in bytes.
const MAX_OWN_NAME_BYTES: usize = 256;
/// The longest name that models may be told, in bytes.
const MAX_NAME_BYTES: usize = 64;

/// The tools of a server, by the names that models know.
pub(super) type Listing = BTreeMap<String, Arc<Tool>>;

/// A listing that is being read, page by page: what cannot be used of a page is
/// not kept.
pub(super) struct Reading<'a, F> {
    config: &'a ServerConfig,
    runner: F,
    tools: Listing,
    /// The names that several tools come out with.
    twice: BTreeSet<String>,
    skipped: usize,
}

impl<'a, F: Fn(&str) -> Arc<dyn Runner>> Reading<'a, F> {
    /// `runner` makes what calls a tool, given the server's own name of it.
    pub(super) const fn new(config: &'a ServerConfig, runner: F) -> Self {
        Self {
            config,
            runner,
            tools: Listing::new(),
            twice: BTreeSet::new(),
            skipped: 0,
        }
    }

    /// Makes tools of what a server lists.
    pub(super) fn page(&mut self, listed: &[Value]) {
        for entry in listed {
            let own = entry
                .get("name")
                .and_then(Value::as_str)
                .unwrap_or_default();
            if !self.config.has(own) {
                continue;
            }
            if self.tools.len() == MAX_TOOLS {
                self.skipped += 1;
                continue;
            }
            match tool(self.config, own, entry, &self.runner) {
                Ok(tool) => self.take(own, tool),
                Err(reason) => {
                    let shown = wire::line(own);
                    warn!(server = %self.config.name, tool = shown, reason, "leaving a tool out");
                }
            }
        }
    }

    fn take(&mut self, own: &str, tool: Tool) {
        if self.twice.contains(&tool.name) {
            return;
        }
        if self.tools.remove(&tool.name).is_none() {
            self.tools.insert(tool.name.clone(), Arc::new(tool));
            return;
        }
        // Which of them would be meant is not to depend on their order.
        let shown = wire::line(own);
        warn!(server = %self.config.name, tool = shown, name = tool.name,
            "leaving out tools that come out with one name");
        self.twice.insert(tool.name);
    }

    /// All that was read.
    pub(super) fn end(self) -> Listing {
        let skipped = self.skipped;
        if skipped > 0 {
            warn!(server = %self.config.name, skipped, most = MAX_TOOLS, "leaving out tools beyond the limit");
        }
        self.tools
    }
}

fn tool(
    config: &ServerConfig,
    own: &str,
    entry: &Value,
    runner: &impl Fn(&str) -> Arc<dyn Runner>,
) -> Result<Tool, String> {
    if own.is_empty() || own.len() > MAX_OWN_NAME_BYTES {
        return Err(format!(
            "expected a name of 1 to {MAX_OWN_NAME_BYTES} bytes"
        ));
    }
    let name = name_for_models(&config.name, own);
    if name.len() > MAX_NAME_BYTES {
        return Err(format!(
            "its name would be longer than {MAX_NAME_BYTES} bytes"
        ));
    }
    let schema = entry.get("inputSchema").unwrap_or(&Value::Null);
    let size = schema.to_string().len();
    if size > MAX_SCHEMA_BYTES {
        return Err(format!(
            "its schema is longer than {MAX_SCHEMA_BYTES} bytes"
        ));
    }
    let schema = compile(schema)?;
    let text = |key: &str| entry.get(key).and_then(Value::as_str);
    let description = text("description")
        .or_else(|| text("title"))
        .unwrap_or_default();
    Ok(Tool {
        description: description_for_models(description),
        schema: Arc::new(schema),
        limits: config.limits,
        approval: config.approval(own, &name),
        permission: config.permission.clone(),
        runner: runner(own),
        name,
    })
}

/// `server__tool`, with `_` for what names may not have.
pub(super) fn name_for_models(server: &str, own: &str) -> String {
    let fitting = own.chars().map(|char| match char {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '-' => char,
        _ => '_',
    });
    format!("{server}__{}", fitting.collect::<String>())
}

/// Bounded, and without characters that steer terminals or readers.
fn description_for_models(text: &str) -> String {
    let mut clean = contain_text(text, MAX_DESCRIPTION_BYTES + 1);
    if clean.len() > MAX_DESCRIPTION_BYTES {
        clean.truncate(clean.floor_char_boundary(MAX_DESCRIPTION_BYTES));
        clean.push('…');
    }
    clean
}

#[cfg(test)]
mod tests;
