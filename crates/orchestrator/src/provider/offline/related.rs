//! Other incidents that share something with a case: those that a tool names, and
//! those that show in the events.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::case::{self, Case};
use super::plan::RELATED;
use super::rounds::Rounds;

/// The most that are told of.
const MAX_RELATED: usize = 6;
/// How deep results are looked into.
const MAX_DEPTH: usize = 12;
/// What an incident is told to share that is not worth telling.
const MAX_SHARES: usize = 4;

/// An incident that shares something with the case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Related {
    /// Its id.
    pub(super) id: String,
    /// What it shares, in the words of whoever says so.
    pub(super) shares: Vec<String>,
    /// The call that says so; `None` where the events do.
    pub(super) call: Option<u32>,
    /// The events that show it.
    pub(super) events: Vec<String>,
}

impl Related {
    /// Those of a case, what tools name first.
    pub(super) fn of(rounds: &Rounds<'_>, case: &Case<'_>) -> Vec<Self> {
        let mut found: Vec<Self> = Vec::new();
        for lookup in rounds.lookups.iter().filter(|one| one.name == RELATED) {
            for value in lookup.gave().into_iter().flatten() {
                collect(value, lookup.number, MAX_DEPTH, &mut found);
            }
        }
        for (id, (shares, events)) in shown(case) {
            match found.iter_mut().find(|one| one.id == id) {
                Some(known) => {
                    if known.shares.is_empty() {
                        known.shares = shares;
                    }
                    known.events = events;
                }
                None => found.push(Self {
                    id,
                    shares,
                    call: None,
                    events,
                }),
            }
        }
        found.retain(|one| !case.subject.cases.contains(&one.id));
        found.truncate(MAX_RELATED);
        found
    }
}

/// Takes the incidents in what a tool gave: objects with an `incident_id` that are
/// no events.
fn collect(value: &Value, call: u32, depth: usize, found: &mut Vec<Related>) {
    if depth == 0 {
        return;
    }
    match value {
        Value::Object(fields) => {
            if let Some(id) = fields.get("incident_id").and_then(Value::as_str)
                && case::is_name(id)
                && !fields.contains_key("data")
            {
                let is_new = found.iter().all(|one| one.id != id);
                if is_new {
                    found.push(Related {
                        id: id.to_owned(),
                        shares: shares(fields),
                        call: Some(call),
                        events: Vec::new(),
                    });
                }
            }
            for value in fields.values() {
                collect(value, call, depth - 1, found);
            }
        }
        Value::Array(items) => {
            for item in items {
                collect(item, call, depth - 1, found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// What an incident is said to share: names below `shares`, `shared` or alike.
fn shares(fields: &Map<String, Value>) -> Vec<String> {
    let keys = [
        "shares",
        "shared",
        "shared_with",
        "in_common",
        "common",
        "via",
    ];
    let mut names = BTreeSet::new();
    for value in keys.iter().filter_map(|key| fields.get(*key)) {
        texts(value, MAX_DEPTH, &mut names);
    }
    names.into_iter().take(MAX_SHARES).collect()
}

fn texts(value: &Value, depth: usize, names: &mut BTreeSet<String>) {
    if depth == 0 {
        return;
    }
    match value {
        Value::String(name) if case::is_name(name) => {
            names.insert(name.clone());
        }
        Value::Array(items) => items.iter().for_each(|item| texts(item, depth - 1, names)),
        // As objects of a kind and a name, or as lists by kind.
        Value::Object(fields) => {
            let named = ["value", "name", "id"]
                .iter()
                .find_map(|key| fields.get(*key));
            match named {
                Some(value) => texts(value, depth - 1, names),
                None => fields
                    .values()
                    .for_each(|item| texts(item, depth - 1, names)),
            }
        }
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The incidents that the events themselves show to share an address or a host
/// with the case, each with what it shares and the events that have it.
fn shown(case: &Case<'_>) -> BTreeMap<String, (Vec<String>, Vec<String>)> {
    let own: BTreeSet<String> = case.sources().into_iter().chain(case.hosts()).collect();
    let mut found: BTreeMap<String, (Vec<String>, Vec<String>)> = BTreeMap::new();
    for event in &case.others {
        let Some(id) = event.text("incident_id").filter(|id| case::is_name(id)) else {
            continue;
        };
        let single = ["source_ip", "target_resource", "host"]
            .iter()
            .filter_map(|key| event.text(key));
        let names = single.chain(event.texts("affected_resources"));
        let shared: Vec<&str> = names.filter(|name| own.contains(*name)).collect();
        if shared.is_empty() {
            continue;
        }
        let (shares, events) = found.entry(id.to_owned()).or_default();
        for name in shared {
            if shares.len() < MAX_SHARES && !shares.iter().any(|known| known == name) {
                shares.push(name.to_owned());
            }
        }
        events.push(event.id.clone());
    }
    found
}
