//! What an event names: incidents, addresses, hosts and users. Sharing a whole
//! network means nothing and is no fact.

use std::net::IpAddr;

use serde_json::Value;

use crate::evidence::{Event, cases, is_network, things};

/// Further fields that name one host or node.
const HOSTS: &[&str] = &[
    "node_id",
    "hostname",
    "agent_id",
    "agentId",
    "instance_id",
    "device_id",
];
/// Fields that name a user. Where they hold an object it is an analyst who looks
/// on, not somebody whom an event is about.
const USERS: &[&str] = &["user", "username", "user_name", "user_id", "account"];

/// Something that two incidents may have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fact {
    pub(super) kind: Kind,
    pub(super) name: String,
}

/// What kind of thing it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Address,
    Host,
    User,
}

impl Kind {
    /// Its word in results.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Host => "host",
            Self::User => "user",
        }
    }
}

/// Whether an event belongs to an incident, investigation or action.
pub(super) fn belongs_to(event: &Event, case: &str) -> bool {
    cases(event).any(|one| one == case)
}

/// Whether an event names a resource.
pub(super) fn names(event: &Event, resource: &str) -> bool {
    resources(event).any(|one| one.eq_ignore_ascii_case(resource))
}

/// Whether an event came from an address.
pub(super) fn is_from(event: &Event, address: &str) -> bool {
    let parsed = address.parse::<IpAddr>();
    event.text("source_ip").is_some_and(|source| {
        source == address || parsed.is_ok() && source.parse::<IpAddr>() == parsed
    })
}

/// Everything with a name that an event is about.
pub(super) fn resources(event: &Event) -> impl Iterator<Item = &str> {
    things(event).chain(HOSTS.iter().filter_map(|key| event.text(key)))
}

/// What an event could have in common with others.
pub(super) fn facts(event: &Event) -> Vec<Fact> {
    let fact = |kind, name: &str| Fact {
        kind,
        name: name.to_owned(),
    };
    let resources = resources(event).filter(|name| !is_network(name));
    let mut facts: Vec<Fact> = resources
        .map(|name| match name.parse::<IpAddr>() {
            Ok(address) => fact(Kind::Address, &address.to_string()),
            Err(_) => fact(Kind::Host, name),
        })
        .collect();
    let users = USERS.iter().filter_map(|key| event.text(key));
    facts.extend(users.map(|name| fact(Kind::User, name)));
    facts.retain(|fact| !fact.name.trim().is_empty());
    facts.sort();
    facts.dedup();
    facts
}

/// Whether all words are somewhere in an event's type or in what it says.
pub(super) fn says(event: &Event, words: &[String]) -> bool {
    let mut text = event.event_type.to_lowercase();
    gather(&event.data, &mut text);
    words.iter().all(|word| text.contains(word))
}

fn gather(value: &Value, text: &mut String) {
    match value {
        Value::String(said) => {
            text.push('\n');
            text.push_str(&said.to_lowercase());
        }
        Value::Number(number) => {
            text.push('\n');
            text.push_str(&number.to_string());
        }
        Value::Array(items) => items.iter().for_each(|item| gather(item, text)),
        Value::Object(fields) => fields.values().for_each(|field| gather(field, text)),
        Value::Null | Value::Bool(_) => {}
    }
}
