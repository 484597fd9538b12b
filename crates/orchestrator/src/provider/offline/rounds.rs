//! What was looked up so far for the question that is being answered, as the
//! request shows it: each call with what became of it.

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde_json::Value;

use super::super::{Message, Request, ToolCall, ToolResult};
use super::case;
use crate::evidence::found;

/// Outcomes of calls, in the words of results, that a second call cannot change.
const FINAL: &[&str] = &["refused", "cancelled"];

/// What was looked up so far.
#[derive(Debug)]
pub(super) struct Rounds<'r> {
    /// How many rounds of calls there were.
    pub(super) count: usize,
    /// The calls, in order.
    pub(super) lookups: Vec<Lookup<'r>>,
    /// Whether the chat has no earlier answer.
    pub(super) is_first: bool,
}

/// A call and what became of it.
#[derive(Debug)]
pub(super) struct Lookup<'r> {
    /// Its number in the answer, from 1.
    pub(super) number: u32,
    /// The tool.
    pub(super) name: &'r str,
    /// What it was given; nothing where that was unusable.
    pub(super) arguments: &'r Value,
    /// What became of it.
    pub(super) outcome: Outcome,
    /// The ids of the events that it gave.
    ids: BTreeSet<String>,
}

/// What became of a call.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It gave this.
    Gave {
        /// What can be read of it.
        values: Vec<Value>,
        /// Whether it was cut, so that there may be more.
        cut: bool,
    },
    /// It gave nothing.
    Failed {
        /// Why, on one line.
        why: String,
        /// Whether it may do better a second time.
        passing: bool,
    },
}

impl Lookup<'_> {
    /// What it gave, if anything.
    pub(super) fn gave(&self) -> Option<&[Value]> {
        match &self.outcome {
            Outcome::Gave { values, .. } => Some(values),
            Outcome::Failed { .. } => None,
        }
    }

    /// The incident that it was about, if it was about one.
    pub(super) fn incident(&self) -> Option<&str> {
        self.arguments.get("incident_id").and_then(Value::as_str)
    }

    /// Whether each event that it gave is one of these.
    pub(super) fn has_only(&self, mut known: impl FnMut(&str) -> bool) -> bool {
        self.ids.iter().all(|id| known(id))
    }

    /// Whether it may have more than it gave.
    pub(super) fn has_more(&self) -> bool {
        let Outcome::Gave { values, cut } = &self.outcome else {
            return false;
        };
        let flag = |value: &Value, key: &str| value.get(key).and_then(Value::as_bool);
        *cut || values.iter().any(|value| {
            flag(value, "more") == Some(true) || flag(value, "truncated") == Some(true)
        })
    }

    /// How far back it has looked, where it could not look at everything.
    pub(super) fn looked_back_to(&self) -> Option<&str> {
        self.gave()?.iter().find_map(|value| {
            let is_all = value.get("complete").and_then(Value::as_bool) != Some(false);
            let back_to = value.get("searched_back_to").and_then(Value::as_str);
            back_to.filter(|text| !is_all && case::is_name(text))
        })
    }

    /// What it was about, in words: the texts among its arguments.
    pub(super) fn about(&self) -> String {
        let mut names = Vec::new();
        texts(self.arguments, &mut names);
        names.retain(|name| case::is_name(name));
        names.dedup();
        names.truncate(3);
        if names.is_empty() {
            "the latest events".to_owned()
        } else {
            names.join(", ")
        }
    }
}

/// The request itself, or, where it asks for a better analysis of an answer, the
/// one that had that answer written: the complaint is no question.
pub(super) fn asked(request: &Request) -> Cow<'_, Request> {
    let is_repair = request.analysis.as_ref().is_some_and(|it| it.only);
    if !is_repair {
        return Cow::Borrowed(request);
    }
    let mut request = request.clone();
    if matches!(request.messages.last(), Some(Message::User { .. })) {
        let complaint = request.messages.pop();
        let is_answer =
            |message: &Message| matches!(message, Message::Agent { calls, .. } if calls.is_empty());
        if request.messages.last().is_some_and(is_answer) {
            request.messages.pop();
        }
        if request.messages.is_empty() {
            request.messages.extend(complaint);
        }
    }
    Cow::Owned(request)
}

impl<'r> Rounds<'r> {
    /// Those of a request.
    pub(super) fn of(request: &'r Request) -> Self {
        let is_user = |message: &Message| matches!(message, Message::User { .. });
        let question = request.messages.iter().rposition(is_user);
        let (before, since) = match question {
            Some(at) => request.messages.split_at(at + 1),
            None => (&[][..], &request.messages[..]),
        };
        let mut rounds = Self {
            count: 0,
            lookups: Vec::new(),
            is_first: !before
                .iter()
                .any(|message| matches!(message, Message::Agent { .. })),
        };
        let mut number = 0;
        for (at, message) in since.iter().enumerate() {
            let Message::Agent { calls, .. } = message else {
                continue;
            };
            let results: &[ToolResult] = match since.get(at + 1) {
                Some(Message::Results { results }) => results,
                _ => &[],
            };
            rounds.count += usize::from(!calls.is_empty());
            for call in calls {
                number += 1;
                let result = results.iter().find(|result| result.call_id == call.id);
                rounds.lookups.push(lookup(number, call, result));
            }
        }
        rounds
    }
}

fn lookup<'r>(number: u32, call: &'r ToolCall, result: Option<&ToolResult>) -> Lookup<'r> {
    let outcome = match (&call.arguments, result) {
        (Err(why), _) => failed(why, false),
        (_, None) => failed("there is no result", true),
        (_, Some(result)) if result.failed => failure(&result.content),
        (_, Some(result)) => Outcome::Gave {
            values: found::values(&result.content),
            cut: !matches!(
                serde_json::from_str(&result.content),
                Ok(Value::Object(_) | Value::Array(_))
            ),
        },
    };
    let ids = match &outcome {
        Outcome::Gave { values, .. } => found::ids(values),
        Outcome::Failed { .. } => BTreeSet::new(),
    };
    Lookup {
        number,
        name: &call.name,
        arguments: call.arguments.as_ref().unwrap_or(&Value::Null),
        outcome,
        ids,
    }
}

/// What the result of a call that failed says: a sentence, or an object that has
/// one beside the outcome.
fn failure(content: &str) -> Outcome {
    let told: Value = serde_json::from_str(content).unwrap_or_else(|_| content.into());
    let text = |key: &str| told.get(key).and_then(Value::as_str);
    let outcome = text("outcome");
    let is_final = outcome.is_some_and(|outcome| FINAL.contains(&outcome));
    let sentence = ["error", "message", "reason"].into_iter().find_map(text);
    let why = sentence
        .or_else(|| told.as_str())
        .or(outcome)
        .unwrap_or(content);
    failed(why, !is_final)
}

fn failed(why: &str, passing: bool) -> Outcome {
    let why = case::plain(why.trim());
    Outcome::Failed {
        passing,
        why: if why.is_empty() {
            "no reason was given".to_owned()
        } else {
            why
        },
    }
}

fn texts<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Array(items) => items.iter().for_each(|item| texts(item, found)),
        Value::Object(fields) => fields.values().for_each(|item| texts(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
