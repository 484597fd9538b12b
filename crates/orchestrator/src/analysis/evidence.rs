//! Whether what an analysis cites is there: events that the model was given or
//! that a tool has found for it, and calls of tools that gave something. What
//! the evidence is worth is not judged here.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{MAX_PROBLEMS, shortened};
use crate::evidence::found;
use crate::provider::{Message, Request};

/// Where a schema says that findings have evidence.
const PLACE: &str = "/properties/findings/items/properties/evidence";

/// What can be cited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// Ids of events.
    pub events: BTreeSet<String>,
    /// Calls of tools that gave a value, by their number in the answer.
    pub calls: BTreeSet<u32>,
}

impl Given {
    /// What the request for an answer shows: its events, and the calls and results
    /// behind its question. Calls count from 1 over all rounds of the answer.
    #[must_use]
    pub fn of(request: &Request) -> Self {
        let mut given = Self {
            events: request.events.iter().map(|one| one.id.clone()).collect(),
            calls: BTreeSet::new(),
        };
        let question = request
            .messages
            .iter()
            .rposition(|message| matches!(message, Message::User { .. }));
        let rounds = question.map_or(&[][..], |at| &request.messages[at + 1..]);
        let mut number = 0;
        let mut asked: BTreeMap<&str, u32> = BTreeMap::new();
        for message in rounds {
            match message {
                Message::User { .. } => {}
                Message::Agent { calls, .. } => {
                    asked.clear();
                    for call in calls {
                        number += 1;
                        asked.insert(&call.id, number);
                    }
                }
                Message::Results { results } => {
                    for result in results.iter().filter(|result| !result.failed) {
                        if let Some(number) = asked.get(result.call_id.as_str()) {
                            given.calls.insert(*number);
                            given
                                .events
                                .extend(found::ids(&found::values(&result.content)));
                        }
                    }
                }
            }
        }
        given
    }
}

/// Whether an analysis of this schema cites evidence that can be checked.
#[must_use]
pub fn is_cited(schema: &Value) -> bool {
    schema.pointer(PLACE).is_some()
}

/// What an analysis that fits such a schema cites and is not there, each with its
/// place; empty when all of it is.
#[must_use]
pub fn problems(analysis: &Value, given: &Given) -> Vec<String> {
    let mut problems = Vec::new();
    for (number, finding) in items(analysis, "findings") {
        let mut cited = 0;
        for (at, evidence) in items(finding, "evidence") {
            let place = format!("/findings/{number}/evidence/{at}");
            cited += 1;
            match (evidence.get("event_id"), evidence.get("tool_call")) {
                (Some(id), None) => event(id, given, &format!("{place}/event_id"), &mut problems),
                (None, Some(call)) => {
                    tool_call(call, given, &format!("{place}/tool_call"), &mut problems);
                }
                _ => problems.push(format!("{place}: expected either event_id or tool_call")),
            }
        }
        if cited == 0 {
            problems.push(format!("/findings/{number}/evidence: there is none"));
        }
    }
    for (at, id) in items(analysis, "evidence") {
        event(id, given, &format!("/evidence/{at}"), &mut problems);
    }
    problems.truncate(MAX_PROBLEMS);
    problems
}

fn items<'v>(value: &'v Value, key: &str) -> impl Iterator<Item = (usize, &'v Value)> {
    let items = value.get(key).and_then(Value::as_array);
    items.into_iter().flatten().enumerate()
}

fn event(id: &Value, given: &Given, place: &str, problems: &mut Vec<String>) {
    let is_given = id.as_str().is_some_and(|id| given.events.contains(id));
    if !is_given {
        problems.push(shortened(&format!(
            "{place}: {id} is no event that you were given or that a tool gave"
        )));
    }
}

fn tool_call(call: &Value, given: &Given, place: &str, problems: &mut Vec<String>) {
    let number = call.as_u64().and_then(|number| u32::try_from(number).ok());
    if number.is_some_and(|number| given.calls.contains(&number)) {
        return;
    }
    let known: Vec<String> = given.calls.iter().map(u32::to_string).collect();
    let known = match known.as_slice() {
        [] => "none of your calls gave anything".to_owned(),
        known => format!("these did: {}", known.join(", ")),
    };
    problems.push(shortened(&format!(
        "{place}: {call} is no call of yours that gave something; {known}"
    )));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::evidence::Event;
    use crate::provider::{ToolCall, ToolResult};

    fn user(text: &str) -> Message {
        Message::User {
            text: text.to_owned(),
            context: None,
        }
    }

    fn round(calls: &[(&str, Option<Value>)]) -> [Message; 2] {
        let named = |id: &str| ToolCall {
            id: id.to_owned(),
            name: "t".to_owned(),
            arguments: Ok(json!({})),
        };
        let results = calls.iter().map(|(id, value)| ToolResult {
            call_id: (*id).to_owned(),
            content: value
                .as_ref()
                .map_or_else(|| "it said event e-9".to_owned(), Value::to_string),
            failed: value.is_none(),
        });
        [
            Message::Agent {
                text: String::new(),
                calls: calls.iter().map(|(id, _)| named(id)).collect(),
            },
            Message::Results {
                // The order of results is not that of calls.
                results: results.rev().collect(),
            },
        ]
    }

    fn request() -> Request {
        let found = json!({"events": [{"id": "e-2", "time": "t"}]});
        let mut messages = vec![user("before")];
        messages.extend(round(&[("a", Some(json!({"id": "e-0"})))]));
        messages.push(user("now"));
        messages.extend(round(&[("a", Some(found)), ("b", None)]));
        // Some models name calls alike in each round.
        messages.extend(round(&[("a", None), ("b", Some(json!([])))]));
        Request {
            messages,
            events: Arc::new([Event {
                id: "e-1".to_owned(),
                seq: 1,
                event_type: "threat.threat_alert".to_owned(),
                time: String::new(),
                data: json!({}),
            }]),
            ..Request::default()
        }
    }

    #[test]
    fn what_this_answer_was_given_and_what_its_calls_gave_can_be_cited() {
        let given = Given::of(&request());
        let events: Vec<&str> = given.events.iter().map(String::as_str).collect();
        assert_eq!(events, ["e-1", "e-2"]);
        assert_eq!(given.calls, BTreeSet::from([1, 4]));
        assert_eq!(Given::of(&Request::default()), Given::default());
    }

    fn analysis() -> Value {
        json!({
            "findings": [
                {"statement": "a", "evidence": [{"event_id": "e-1"}, {"tool_call": 4}]},
                {"statement": "b", "evidence": [{"event_id": "e-2"}]},
            ],
            "evidence": ["e-1", "e-2"],
        })
    }

    #[test]
    fn every_change_to_what_is_cited_is_found() {
        let given = Given::of(&request());
        assert_eq!(problems(&analysis(), &given), [""; 0]);
        let mutations = [
            ("/findings/0/evidence/0/event_id", json!("e-0")),
            ("/findings/0/evidence/0/event_id", json!("e-9")),
            ("/findings/0/evidence/0/event_id", json!("E-1")),
            ("/findings/0/evidence/0/event_id", json!("")),
            ("/findings/0/evidence/0/event_id", json!(null)),
            ("/findings/0/evidence/1/tool_call", json!(0)),
            ("/findings/0/evidence/1/tool_call", json!(2)),
            ("/findings/0/evidence/1/tool_call", json!(3)),
            ("/findings/0/evidence/1/tool_call", json!(5)),
            ("/findings/0/evidence/1/tool_call", json!(4.5)),
            ("/findings/0/evidence/1/tool_call", json!(4_294_967_300_u64)),
            ("/findings/1/evidence/0", json!({})),
            (
                "/findings/1/evidence/0",
                json!({"event_id": "e-1", "tool_call": 1}),
            ),
            ("/findings/1/evidence", json!([])),
            ("/evidence/1", json!("e-3")),
            ("/evidence/0", json!(1)),
        ];
        for (place, value) in mutations {
            let mut changed = analysis();
            *changed.pointer_mut(place).unwrap() = value.clone();
            let problems = problems(&changed, &given);
            assert_eq!(problems.len(), 1, "{place} {value}: {problems:?}");
            assert!(problems[0].starts_with(place), "{place}: {problems:?}");
        }
    }

    #[test]
    fn problems_are_bounded() {
        let findings: Vec<Value> = (0..100)
            .map(|_| json!({"statement": "s", "evidence": [{"event_id": "x".repeat(9999)}]}))
            .collect();
        let problems = problems(&json!({"findings": findings}), &Given::default());
        assert_eq!(problems.len(), MAX_PROBLEMS);
        assert!(problems.iter().all(|one| one.chars().count() < 400));
    }
}
