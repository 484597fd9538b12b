//! What is to become of the tools that a model asks for: which run, which never do
//! and why. All of it is in the log before any of them runs.

use serde_json::{Map, Value};
use signalbox_protocol::wire::{ChatToolPlanned, chat_record::Record};

use super::{MAX_ROUNDS, Turn};
use crate::agents::Agent;
use crate::chat_log::Lost;
use crate::provider::ToolCall;
use crate::tools::{arguments_hash, canonical, contain_text};

/// The longest name of a tool, in characters of the kinds that models may use.
const NAME_BYTES: usize = 64;
/// The longest of the model's own names for a call.
const CALL_ID_BYTES: usize = 256;
/// The largest arguments that a tool is given, in bytes of JSON. A call with larger
/// ones is refused, and the log has it without them.
const ARGUMENTS_BYTES: usize = 64 * 1024;
/// The longest reason why a call is refused.
pub(super) const REASON_BYTES: usize = 4 * 1024;

impl Turn {
    /// Plans the calls that a model has asked for at the end of provider call `call`.
    pub(super) async fn plan(
        &mut self,
        agent: &Agent,
        call: u32,
        asked: &[ToolCall],
    ) -> Result<(), Lost> {
        for asked in asked {
            let planned = self.planned(agent, call, asked);
            self.append(Record::ToolPlanned(planned)).await?;
        }
        Ok(())
    }

    fn planned(&self, agent: &Agent, call: u32, asked: &ToolCall) -> ChatToolPlanned {
        let tool_call = self.answer.tool_calls + 1;
        let arguments = self.arguments_of(agent, asked);
        let (arguments, refusal) = match arguments {
            Ok(arguments) => (arguments, String::new()),
            Err(refusal) => {
                let shown = asked.arguments.clone().ok();
                let shown = shown.filter(|shown| shown.to_string().len() <= ARGUMENTS_BYTES);
                let refusal = contain_text(&refusal, REASON_BYTES);
                (shown.unwrap_or_else(|| Map::new().into()), refusal)
            }
        };
        let tool_name = named(&asked.name);
        let arguments = canonical(&arguments);
        ChatToolPlanned {
            tool_call,
            call,
            model_call_id: self.call_id(&asked.id, tool_call),
            arguments_hash: arguments_hash(&tool_name, &arguments),
            arguments: arguments.to_string(),
            tool_name,
            refusal,
        }
    }

    /// The model's name for a call; one of ours where it has given it twice, which
    /// no model understands.
    fn call_id(&self, id: &str, tool_call: u32) -> String {
        let mut calls = self.answer.called().iter();
        let is_taken = calls.any(|call| call.planned.model_call_id == id);
        if is_taken || id.is_empty() || id.len() > CALL_ID_BYTES {
            return format!("tool_call_{tool_call}");
        }
        id.to_owned()
    }

    /// What a tool is to be given, or why it is never to run, for the model.
    fn arguments_of(&self, agent: &Agent, asked: &ToolCall) -> Result<Value, String> {
        let arguments = asked.arguments.clone()?;
        if self.answer.rounds.len() >= MAX_ROUNDS {
            return Err("no further tools are run for this answer; \
                        answer with what there is"
                .to_owned());
        }
        if self.answer.tool_calls >= self.meter.tool_calls() {
            return Err("the answer has used up its calls of tools; \
                        answer with what there is"
                .to_owned());
        }
        let tool = self.tool(&asked.name).ok_or_else(|| {
            if self.lacks_permission(agent, &asked.name) {
                return "the user who asks is not permitted to use this tool".to_owned();
            }
            let known: Vec<&str> = self.request.tools.iter().map(|one| &*one.name).collect();
            match known.is_empty() {
                true => "there is no such tool; there are none".to_owned(),
                false => format!("there is no such tool; there are {}", known.join(", ")),
            }
        })?;
        if arguments.to_string().len() > ARGUMENTS_BYTES {
            let most = ARGUMENTS_BYTES;
            return Err(format!("the arguments are larger than {most} bytes"));
        }
        let problems = tool.schema.problems(&arguments);
        if !problems.is_empty() {
            let problems = problems.join("; ");
            return Err(format!("the arguments do not fit the tool: {problems}"));
        }
        match tool.runner.refusal(&arguments) {
            Some(refusal) => Err(refusal),
            None => Ok(arguments),
        }
    }

    fn lacks_permission(&self, agent: &Agent, name: &str) -> bool {
        let toolbox = &self.means.toolbox;
        let permission = toolbox.find(name).and_then(|tool| tool.permission.clone());
        permission.is_some_and(|permission| {
            let offered = toolbox.offered(&agent.tools, &[permission]);
            offered.iter().any(|offered| offered.name == name)
        })
    }
}

/// A tool's name in the characters that models may use: one that does not exist may
/// be any text at all, and goes back to the model.
fn named(name: &str) -> String {
    let chars = name.chars().take(NAME_BYTES);
    let named: String = chars
        .map(|char| match char {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '-' => char,
            _ => '_',
        })
        .collect();
    match named.is_empty() {
        true => "unnamed".to_owned(),
        false => named,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_models_may_call_a_tool() {
        assert_eq!(named("files__read-1"), "files__read-1");
        assert_eq!(named("rm -rf \u{1b}[2J/"), "rm_-rf___2J_");
        assert_eq!(named(""), "unnamed");
        assert_eq!(named(&"ü".repeat(100)), "_".repeat(NAME_BYTES));
    }
}
