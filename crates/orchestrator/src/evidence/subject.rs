//! What a question is about: the incidents, addresses and hosts that it, its
//! context or, failing these, the chat so far names.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use super::Event;
use crate::provider::{Message, Request};

/// The most names of one kind; a context may be a whole inventory.
const MAX_NAMES: usize = 64;
/// Fields of events that name what an event belongs to.
const CASES: &[&str] = &["incident_id", "investigation_id", "action_id"];
/// Fields that name one host or address.
const THINGS: &[&str] = &[
    "source_ip",
    "target_resource",
    "resource",
    "host",
    "destination_ip",
];
/// The field that names several.
const RESOURCES: &str = "affected_resources";
/// How names begin that cover so much that sharing one means nothing.
const NETWORKS: &[&str] = &["vpc-", "subnet-"];
/// How the names of single things begin.
const PREFIXES: &[&str] = &["i-", "sg-", "eni-", "vol-"];

/// What a question is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// Incidents, investigations and actions.
    pub cases: BTreeSet<String>,
    /// Addresses, hosts, networks.
    pub things: BTreeSet<String>,
    /// Nobody named it: it is that of the newest alert.
    pub assumed: bool,
}

impl Subject {
    /// What a request is about, given the events that there are, oldest first.
    #[must_use]
    pub fn of(request: &Request, events: &[&Event]) -> Self {
        let known = Known::of(events);
        let mut users = request
            .messages
            .iter()
            .rev()
            .filter_map(|message| match message {
                Message::User { text, context } => Some((text, context)),
                Message::Agent { .. } | Message::Results { .. } => None,
            });
        let mut subject = Self::default();
        if let Some((text, context)) = users.next() {
            known.read(text, &mut subject);
            subject.take(context.as_ref(), &known);
        }
        if subject.cases.is_empty() {
            subject.take(request.context.as_ref(), &known);
        }
        for (text, context) in users {
            if !subject.is_empty() {
                break;
            }
            known.read(text, &mut subject);
            subject.take(context.as_ref(), &known);
        }
        if subject.is_empty() {
            subject.assume(events);
        }
        subject
    }

    /// Whether it is about nothing that has a name.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cases.is_empty() && self.things.is_empty()
    }

    /// Whether an event belongs to it.
    #[must_use]
    pub fn names(&self, event: &Event) -> bool {
        cases(event).any(|case| self.cases.contains(case))
            || things(event).any(|thing| self.things.contains(thing))
    }

    /// Itself with all that its events name, but for whole networks.
    #[must_use]
    pub fn widened(&self, events: &[&Event]) -> Self {
        let mut wider = self.clone();
        for event in events {
            let narrow = things(event).filter(|thing| !is_network(thing));
            wider.things.extend(narrow.map(str::to_owned));
            wider.cases.extend(cases(event).map(str::to_owned));
        }
        wider
    }

    /// All names, cases first.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        self.cases.iter().chain(&self.things).map(String::as_str)
    }

    fn assume(&mut self, events: &[&Event]) {
        let alerts = events
            .iter()
            .rev()
            .filter(|event| event.event_type.ends_with(".threat_alert"));
        for event in alerts.take(1) {
            self.cases.extend(cases(event).map(str::to_owned));
            self.assumed = true;
        }
    }

    fn take(&mut self, context: Option<&Value>, known: &Known<'_>) {
        let Some(context) = context else { return };
        match context {
            Value::Object(fields) => {
                for (key, value) in fields {
                    match value {
                        Value::String(text) if CASES.contains(&key.as_str()) => {
                            insert(&mut self.cases, text);
                        }
                        Value::String(text) if THINGS.contains(&key.as_str()) => {
                            insert(&mut self.things, text);
                        }
                        value => self.take(Some(value), known),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| self.take(Some(item), known)),
            Value::String(text) => known.read(text, self),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

/// The names that events have, by which words of a text are recognised.
struct Known<'e> {
    cases: BTreeSet<&'e str>,
    things: BTreeSet<&'e str>,
}

impl<'e> Known<'e> {
    fn of(events: &[&'e Event]) -> Self {
        Self {
            cases: events.iter().copied().flat_map(cases).collect(),
            things: events.iter().copied().flat_map(things).collect(),
        }
    }

    fn read(&self, text: &str, subject: &mut Subject) {
        let inside = |char: char| char.is_alphanumeric() || matches!(char, '-' | '_' | '.' | ':');
        for word in text.split(|char| !inside(char)) {
            let word = word.trim_matches(['.', ':', '-']);
            if self.cases.contains(word) || looks_like_case(word) {
                insert(&mut subject.cases, word);
            } else if self.things.contains(word) || looks_like_thing(word) {
                insert(&mut subject.things, word);
            }
        }
    }
}

fn looks_like_case(word: &str) -> bool {
    let prefixes = ["threat-", "inv-", "action-", "incident-"];
    has_prefix(word, &prefixes) && word.bytes().any(|byte| byte.is_ascii_digit())
}

fn looks_like_thing(word: &str) -> bool {
    word.parse::<IpAddr>().is_ok()
        || (has_prefix(word, PREFIXES) || is_network(word))
            && word.bytes().any(|byte| byte.is_ascii_digit())
}

fn has_prefix(word: &str, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| word.starts_with(prefix))
}

/// Whether a name covers so much that sharing it means nothing.
pub(crate) fn is_network(word: &str) -> bool {
    has_prefix(word, NETWORKS)
}

fn insert(names: &mut BTreeSet<String>, name: &str) {
    if !name.is_empty() && names.len() < MAX_NAMES {
        names.insert(name.to_owned());
    }
}

/// The incidents, investigations and actions that an event names.
pub(crate) fn cases(event: &Event) -> impl Iterator<Item = &str> {
    CASES.iter().filter_map(|key| event.text(key))
}

/// The hosts, addresses and networks that an event names.
pub(crate) fn things(event: &Event) -> impl Iterator<Item = &str> {
    let single = THINGS.iter().filter_map(|key| event.text(key));
    single.chain(event.texts(RESOURCES))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn user(text: &str, context: Value) -> Message {
        Message::User {
            text: text.to_owned(),
            context: Some(context),
        }
    }

    fn names(request: &Request) -> Vec<String> {
        Subject::of(request, &[]).all().map(str::to_owned).collect()
    }

    #[test]
    fn question_context_and_chat_are_asked_in_turn() {
        let mut request = Request {
            context: Some(json!({"incident_id": "threat-001", "user_role": "analyst"})),
            messages: vec![user("Hello", json!({"a": {"source_ip": "192.168.1.100"}}))],
            ..Request::default()
        };
        assert_eq!(names(&request), ["threat-001", "192.168.1.100"]);
        request
            .messages
            .push(user("And threat-002, i-0ab1?", Value::Null));
        assert_eq!(names(&request), ["threat-002", "i-0ab1"]);
        request.context = None;
        request.messages.push(user("Why?", Value::Null));
        assert_eq!(names(&request), ["threat-002", "i-0ab1"]);
    }

    #[test]
    fn addresses_are_found_in_a_sentence() {
        let request = Request {
            messages: vec![user(
                "Is 10.0.0.7. (or fe80::1) bad? I-1, i-x, 1.2",
                Value::Null,
            )],
            ..Request::default()
        };
        assert_eq!(names(&request), ["10.0.0.7", "fe80::1"]);
    }
}
