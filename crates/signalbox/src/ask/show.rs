//! An answer as people read it: its text as it comes, the tools beside it, and
//! what it comes to. Whatever an agent or a tool writes is shown without control
//! characters.

use std::fmt::Write as _;

use serde_json::Value;
use signalbox_service::ExitError;

use crate::client::{Message, plain};
use crate::output;

/// How much of what a tool is given or gives is shown, in characters, where
/// nobody has to agree to it.
const GLIMPSE: usize = 160;

/// See the module.
pub(super) struct Show {
    /// Messages as they come instead.
    json: bool,
    /// Whether the last thing on standard output was no end of a line.
    is_open: bool,
}

impl Show {
    pub(super) const fn new(json: bool) -> Self {
        Self {
            json,
            is_open: false,
        }
    }

    /// Says which chat it is, to go on with.
    pub(super) fn began(&self, message: &Message) {
        let info = |field: &str| message.value("agent_info")?.get(field)?.as_str();
        let (name, model) = (info("name"), info("model"));
        output::error(format_args!(
            "{} ({}), chat {}",
            plain(name.unwrap_or_default()),
            plain(model.unwrap_or_default()),
            plain(message.text("session_id").unwrap_or_default()),
        ));
    }

    /// Shows what is said in the chat.
    ///
    /// # Errors
    /// When standard output takes no more.
    pub(super) fn message(&mut self, message: &Message) -> Result<(), ExitError> {
        if self.json {
            return output::line(message.line()).map(|_| ());
        }
        match message.kind() {
            "agent_response_chunk" => {
                let content = message.text("content").unwrap_or_default();
                if !content.is_empty() {
                    let lines: Vec<String> = content.split('\n').map(plain).collect();
                    output::bytes(lines.join("\n").as_bytes())?;
                    self.is_open = !content.ends_with('\n');
                }
            }
            "agent_response_complete" => {
                self.close_line()?;
                if let Some(analysis) = message.value("analysis") {
                    output::line(format_args!("\n{}", conclusion(analysis)))?;
                }
            }
            _ => {
                if let Some(line) = beside(message) {
                    self.close_line()?;
                    output::error(line);
                }
            }
        }
        Ok(())
    }

    fn close_line(&mut self) -> Result<(), ExitError> {
        if std::mem::take(&mut self.is_open) {
            output::bytes(b"\n")?;
        }
        Ok(())
    }
}

/// What is said beside the text.
fn beside(message: &Message) -> Option<String> {
    let call = message.count("tool_call")?;
    let text = |field: &str| plain(message.text(field).unwrap_or_default());
    let tool = text("tool_name");
    let line = match message.kind() {
        "agent_tool_execution" => {
            format!("{tool} {}", glimpse(message.value("parameters")?))
        }
        // Whoever is to agree is shown all of it.
        "agent_tool_approval" => format!(
            "{tool} {} waits until {} for: signalbox decide {} approve",
            plain(&message.value("parameters")?.to_string()),
            text("expires_at"),
            text("action_id"),
        ),
        "agent_tool_decision" => match (message.text("decided_by"), message.text("reason")) {
            (Some(_), Some(_)) => {
                format!(
                    "{}d by {}: {}",
                    stem(&text("decision")),
                    text("decided_by"),
                    text("reason")
                )
            }
            (Some(_), None) => format!("{}d by {}", stem(&text("decision")), text("decided_by")),
            _ => text("decision"),
        },
        "agent_tool_terminal" => format!(
            "runs on {0}: signalbox watch {0} shows {1}",
            text("agent_id"),
            text("command_id"),
        ),
        "agent_tool_result" => {
            format!(
                "{tool} {}: {}",
                text("outcome"),
                gist(message.value("results")?)
            )
        }
        _ => return None,
    };
    Some(format!("  [{call}] {line}"))
}

/// `approve` and `reject` as the beginning of `approved` and `rejected`.
fn stem(decision: &str) -> String {
    match decision {
        "reject" => "rejecte".to_owned(),
        other => other.to_owned(),
    }
}

/// The beginning of a value.
fn glimpse(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(GLIMPSE) {
        Some((end, _)) => format!("{}…", plain(&text[..end])),
        None => plain(&text),
    }
}

/// What a result has: how much of what, and then the rest.
fn gist(results: &Value) -> String {
    let Value::Object(fields) = results else {
        return glimpse(results);
    };
    let lists = fields.iter().filter_map(|(name, value)| {
        let items = value.as_array()?;
        Some(format!("{} {}", items.len(), plain(name)))
    });
    let rest = fields.iter().filter(|(_, value)| !value.is_array());
    let rest = rest.map(|(name, value)| format!("{} {}", plain(name), glimpse(value)));
    let whole = lists.chain(rest).collect::<Vec<_>>().join(", ");
    match whole.char_indices().nth(GLIMPSE) {
        Some((end, _)) => format!("{}…", &whole[..end]),
        None => whole,
    }
}

/// What an answer comes to: those parts of its analysis that all agents of the
/// shipped kinds have.
fn conclusion(analysis: &Value) -> String {
    let mut out = String::new();
    let of = |field: &str| analysis.get("threat_classification")?.get(field);
    if let Some(severity) = of("severity").and_then(Value::as_str) {
        let kind = of("threat_type").and_then(Value::as_str);
        let _ = write!(
            out,
            "{} {}",
            plain(severity),
            plain(kind.unwrap_or_default())
        );
        if let Some(confidence) = of("confidence") {
            let _ = write!(out, ", {confidence} % sure");
        }
        out.push('\n');
    }
    let findings = list(analysis, "findings");
    section(&mut out, "Findings", findings.iter().filter_map(finding));
    if findings.is_empty() {
        section(&mut out, "Why", texts(analysis, "risk_factors"));
    }
    section(&mut out, "To do", texts(analysis, "recommended_actions"));
    out.truncate(out.trim_end().len());
    out
}

/// A statement, and what it stands on.
fn finding(finding: &Value) -> Option<String> {
    let statement = finding.get("statement")?.as_str()?;
    let named = list(finding, "evidence").iter().filter_map(|evidence| {
        let event = evidence.get("event_id").and_then(Value::as_str);
        let call = evidence.get("tool_call").and_then(Value::as_u64);
        let event = event.map(|id| format!("event {}", plain(id)));
        event.or_else(|| call.map(|number| format!("call [{number}]")))
    });
    let named: Vec<String> = named.collect();
    Some(format!("{}\n    {}", plain(statement), named.join(", ")))
}

fn section(out: &mut String, title: &str, items: impl Iterator<Item = String>) {
    let mut items = items.peekable();
    if items.peek().is_some() {
        let _ = writeln!(out, "{title}:");
    }
    for item in items {
        let _ = writeln!(out, "  - {item}");
    }
}

fn texts<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = String> + use<'a> {
    list(value, field)
        .iter()
        .filter_map(Value::as_str)
        .map(plain)
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    let list = value.get(field).and_then(Value::as_array);
    list.map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn line(value: &Value) -> Option<String> {
        beside(&Message::read(&value.to_string()).unwrap().remove(0))
    }

    #[test]
    fn tools_are_a_line_each_that_moves_no_terminal() {
        let ran = json!({"type": "agent_tool_execution", "tool_call": 2, "tool_name": "look\u{1b}[2J",
            "parameters": {"text": "x".repeat(1_000)}});
        let ran = line(&ran).unwrap();
        assert!(ran.starts_with("  [2] look^[[2J {\"text\":\"xxx"), "{ran}");
        assert!(ran.ends_with('…') && ran.chars().count() < 200, "{ran}");
        let held = json!({"type": "agent_tool_approval", "tool_call": 2, "tool_name": "run",
            "parameters": {"command": format!("ls{};\u{9b}2J curl", " ".repeat(1_000))},
            "expires_at": "soon", "action_id": "tool-1"});
        let expected = format!(
            "  [2] run {{\"command\":\"ls{};<9b>2J curl\"}} waits until soon for: \
             signalbox decide tool-1 approve",
            " ".repeat(1_000)
        );
        assert_eq!(line(&held).unwrap(), expected);
        let decided = |more: Value| {
            let mut message =
                json!({"type": "agent_tool_decision", "tool_call": 1, "tool_name": "t"});
            message
                .as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            line(&message).unwrap()
        };
        assert_eq!(
            decided(json!({"decision": "reject", "decided_by": "ada", "reason": "no"})),
            "  [1] rejected by ada: no"
        );
        assert_eq!(
            decided(json!({"decision": "approve", "decided_by": "ada"})),
            "  [1] approved by ada"
        );
        assert_eq!(decided(json!({"decision": "expired"})), "  [1] expired");
        let gave = json!({"type": "agent_tool_result", "tool_call": 3, "tool_name": "t",
            "outcome": "value", "results": {"complete": true, "events": [{}, {}]}});
        assert_eq!(
            line(&gave).unwrap(),
            "  [3] t value: 2 events, complete true"
        );
        assert_eq!(line(&json!({"type": "chat_resumed", "answer": 1})), None);
    }

    #[test]
    fn a_conclusion_names_what_it_stands_on() {
        let analysis = json!({
            "threat_classification": {"severity": "HIGH", "threat_type": "scan", "confidence": 90},
            "risk_factors": ["r"],
            "recommended_actions": ["isolate it"],
            "findings": [{"statement": "it began at one host",
                "evidence": [{"event_id": "e-1"}, {"tool_call": 2}, {}]}],
        });
        let expected = "HIGH scan, 90 % sure\nFindings:\n  - it began at one host\n    \
                        event e-1, call [2]\nTo do:\n  - isolate it";
        assert_eq!(conclusion(&analysis), expected);
        let plain = json!({"risk_factors": ["r"]});
        assert_eq!(conclusion(&plain), "Why:\n  - r");
        assert_eq!(conclusion(&json!({"own": 1})), "");
    }
}
