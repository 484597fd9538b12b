//! What a server says it has, as tools. All of it is untrusted: it is bounded,
//! a tool that cannot be used is left out with a warning and the others stay,
//! and what a server claims about its tools (that they only read, say) changes
//! nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;
use tracing::warn;

use super::config::ServerConfig;
use super::schema::check;
use super::wire;
use crate::analysis::Schema;
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

/// Makes tools of what a server lists; `runner` makes what calls one, given the
/// server's own name of it.
pub(super) fn read(
    config: &ServerConfig,
    listed: &[Value],
    runner: impl Fn(&str) -> Arc<dyn Runner>,
) -> Listing {
    let mut tools = Listing::new();
    let mut twice = BTreeSet::new();
    let mut skipped = 0_usize;
    for entry in listed {
        let own = entry
            .get("name")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if !config.has(own) {
            continue;
        }
        if tools.len() == MAX_TOOLS {
            skipped += 1;
            continue;
        }
        let shown = wire::line(own);
        match tool(config, own, entry, &runner) {
            Err(reason) => {
                warn!(server = %config.name, tool = shown, reason, "leaving a tool out");
            }
            Ok(tool) if twice.contains(&tool.name) => {}
            Ok(tool) if tools.contains_key(&tool.name) => {
                // Which of them would be meant is not to depend on their order.
                warn!(server = %config.name, tool = shown, name = tool.name,
                    "leaving out tools that come out with one name");
                tools.remove(&tool.name);
                twice.insert(tool.name);
            }
            Ok(tool) => {
                tools.insert(tool.name.clone(), Arc::new(tool));
            }
        }
    }
    if skipped > 0 {
        warn!(server = %config.name, skipped, most = MAX_TOOLS, "leaving out tools beyond the limit");
    }
    tools
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
    check(schema)?;
    let schema = Schema::compile(schema.clone())?;
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
fn name_for_models(server: &str, own: &str) -> String {
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
