//! What an answer's records say of how far it is. Pure: records in, the data of
//! events out.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use signalbox_protocol::wire::{ToolOutcome, chat_record::Record};

use crate::evidence::{found, is_of_an_agent};

/// How far an answer is that has begun, in percent.
const BEGUN: u32 = 5;
/// How far the lookups of an answer can bring it; each brings it on by a fifth of
/// what is left until there, so that it never goes back, whatever is still to come.
const LOOKED_UP: u32 = 90;
/// Ids of events that are counted.
const MAX_EVIDENCE: usize = 10_000;
/// Names of tools that are told.
const MAX_TOOLS: usize = 64;
/// Findings of a preview.
const PREVIEW: usize = 5;
/// The longest statement of a preview, in characters.
const PREVIEW_CHARS: usize = 200;

/// Something that happened in an answer and is worth telling.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// The answer has begun.
    Began,
    /// Another orchestrator goes on with it; told to nobody.
    Taken,
    /// A tool is run.
    ToolBegan {
        /// Which call.
        call: u32,
        /// The tool.
        name: String,
    },
    /// A tool was run, or is never to be.
    ToolEnded {
        /// Which call.
        call: u32,
        /// The tool.
        name: String,
        /// What became of it.
        outcome: ToolOutcome,
        /// The events that it has found.
        found: BTreeSet<String>,
    },
    /// The answer has ended.
    Ended {
        /// How, in the words of investigations.
        status: &'static str,
        /// For people.
        activity: String,
        /// What it has established, where it is complete.
        analysis: Option<Value>,
    },
}

impl Step {
    /// What a record says, if that is worth telling.
    pub(super) fn of(record: &Record) -> Option<Self> {
        let ended = |status, activity: &str, analysis| {
            Some(Self::Ended {
                status,
                activity: activity.to_owned(),
                analysis,
            })
        };
        match record {
            Record::CallStarted(started) if started.call == 1 => Some(Self::Began),
            Record::Taken(_) => Some(Self::Taken),
            Record::ToolStarted(started) => Some(Self::ToolBegan {
                call: started.tool_call,
                name: started.tool_name.clone(),
            }),
            Record::ToolEnded(ended) => Some(Self::ToolEnded {
                call: ended.tool_call,
                name: ended.tool_name.clone(),
                outcome: ended.outcome(),
                found: match ended.outcome() {
                    ToolOutcome::Value => found::ids(&found::values(&ended.result))
                        .into_iter()
                        .filter(|id| !is_of_an_agent(id))
                        .collect(),
                    _ => BTreeSet::new(),
                },
            }),
            Record::Answered(answered) => ended(
                "COMPLETED",
                "The report is written",
                serde_json::from_str(&answered.analysis).ok(),
            ),
            Record::Failed(failed) => ended("FAILED", &failed.message, None),
            Record::Stopped(_) => ended("CANCELLED", "The agent was told to stop", None),
            Record::CallStarted(_)
            | Record::CallSettled(_)
            | Record::Chunk(_)
            | Record::Opened(_)
            | Record::Asked(_)
            | Record::ToolPlanned(_)
            | Record::ToolHeld(_)
            | Record::ToolDecided(_)
            | Record::ToolNoted(_) => None,
        }
    }
}

/// How far an answer is.
#[derive(Debug, Default)]
pub(super) struct State {
    progress: u32,
    tools: Vec<String>,
    evidence: BTreeSet<String>,
    open: BTreeSet<u32>,
}

impl State {
    /// Takes a step; gives what is told of it.
    pub(super) fn take(&mut self, step: &Step) -> Option<Value> {
        match step {
            Step::Taken => None,
            Step::Began => {
                self.progress = BEGUN;
                Some(self.data("COLLECTING_EVIDENCE", "Reading what was asked"))
            }
            Step::ToolBegan { call, name } => {
                self.open.insert(*call);
                Some(self.data("COLLECTING_EVIDENCE", &format!("Running {name}")))
            }
            Step::ToolEnded {
                call,
                name,
                outcome,
                found,
            } => {
                self.open.remove(call);
                self.progress += LOOKED_UP.saturating_sub(self.progress) / 5;
                let room = MAX_EVIDENCE.saturating_sub(self.evidence.len());
                self.evidence.extend(found.iter().take(room).cloned());
                if *outcome != ToolOutcome::Refused
                    && self.tools.len() < MAX_TOOLS
                    && !self.tools.contains(name)
                {
                    self.tools.push(name.clone());
                }
                let status = match self.open.is_empty() {
                    true => "ANALYZING_EVIDENCE",
                    false => "COLLECTING_EVIDENCE",
                };
                Some(self.data(status, &ending(name, *outcome, found.len())))
            }
            Step::Ended {
                status,
                activity,
                analysis,
            } => {
                if analysis.is_some() {
                    self.progress = 100;
                }
                let mut data = self.data(status, activity);
                if let Some(analysis) = analysis {
                    data["findings_preview"] = preview(analysis).into();
                    if let Some(findings @ Value::Array(_)) = analysis.get("findings") {
                        data["findings"] = findings.clone();
                    }
                }
                Some(data)
            }
        }
    }

    fn data(&self, status: &str, activity: &str) -> Value {
        json!({
            "progress": self.progress,
            "status": status,
            "current_activity": activity,
            "evidence_collected": self.evidence.len(),
            "tools_executed": self.tools,
        })
    }
}

fn ending(name: &str, outcome: ToolOutcome, found: usize) -> String {
    match (outcome, found) {
        (ToolOutcome::Value, 0) => format!("{name} gave a result without events"),
        (ToolOutcome::Value, 1) => format!("{name} gave a result with 1 event"),
        (ToolOutcome::Value, found) => format!("{name} gave a result with {found} events"),
        (ToolOutcome::Error, _) => format!("{name} has failed"),
        (ToolOutcome::TimedOut, _) => format!("{name} took too long"),
        (ToolOutcome::Cancelled, _) => format!("{name} was told to stop"),
        (ToolOutcome::Refused, _) => format!("{name} was not run"),
        (ToolOutcome::Unknown | ToolOutcome::Unspecified, _) => {
            format!("What became of {name} is unknown")
        }
    }
}

/// What was established, shortened: the findings, or else the risks.
fn preview(analysis: &Value) -> Vec<String> {
    let list = |key: &str| analysis.get(key).and_then(Value::as_array);
    let findings = list("findings").into_iter().flatten();
    let mut texts: Vec<&str> = findings
        .filter_map(|finding| finding.get("statement")?.as_str())
        .collect();
    if texts.is_empty() {
        let risks = list("risk_factors").into_iter().flatten();
        texts = risks.filter_map(Value::as_str).collect();
    }
    let short = |text: &str| match text.char_indices().nth(PREVIEW_CHARS) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    };
    texts.into_iter().take(PREVIEW).map(short).collect()
}
