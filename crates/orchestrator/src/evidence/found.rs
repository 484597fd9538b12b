//! Events within what tools gave. Tools are of many makers, so this reads any
//! JSON: what has an id and a time is taken for an event, wherever it stands. A
//! result that was cut is read as far as it is whole. Knows no tool.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::Event;

/// Keys under which an event's id stands.
const IDS: [&str; 2] = ["event_id", "id"];
/// Keys under which the ids of several stand.
const ID_LISTS: [&str; 3] = ["event_ids", "own_event_ids", "events"];
/// Keys under which its time stands.
const TIMES: [&str; 3] = ["time", "timestamp", "at"];
/// Keys under which its type stands.
const TYPES: [&str; 3] = ["event_type", "type", "name"];
/// Keys under which its position stands.
const POSITIONS: [&str; 2] = ["seq", "sequence"];
/// How deep results are looked into.
const MAX_DEPTH: usize = 16;
/// Objects that are read from a result that was cut.
const MAX_SALVAGED: usize = 1_000;
/// The longest id.
const MAX_ID_BYTES: usize = 256;

/// What a tool gave, as JSON: one value, or the objects that are whole where it
/// was cut.
#[must_use]
pub fn values(content: &str) -> Vec<Value> {
    match serde_json::from_str(content) {
        Ok(Value::String(text)) => values_in(&text),
        Ok(value) => vec![value],
        Err(_) => salvaged(content),
    }
}

/// The events in what a tool gave, in its order.
#[must_use]
pub fn events(values: &[Value]) -> Vec<Event> {
    let mut found = Vec::new();
    for value in values {
        collect(value, MAX_DEPTH, &mut found);
    }
    found
}

/// All ids of events that what a tool gave has.
#[must_use]
pub fn ids(values: &[Value]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for value in values {
        collect_ids(value, MAX_DEPTH, &mut found);
    }
    found
}

/// JSON that is a text within JSON, as some tools hand it over.
fn values_in(text: &str) -> Vec<Value> {
    if !text.trim_start().starts_with(['{', '[']) {
        return Vec::new();
    }
    match serde_json::from_str(text) {
        Ok(value) => vec![value],
        Err(_) => salvaged(text),
    }
}

/// The outermost objects that are whole in the beginning of a JSON text.
fn salvaged(text: &str) -> Vec<Value> {
    let mut found = Vec::new();
    let mut rest = text;
    while found.len() < MAX_SALVAGED {
        let Some(start) = rest.find('{') else { break };
        rest = &rest[start..];
        let mut stream = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
        let read = match stream.next() {
            Some(Ok(value)) => {
                found.push(value);
                stream.byte_offset()
            }
            _ => 1,
        };
        rest = &rest[read..];
    }
    found
}

fn collect(value: &Value, depth: usize, found: &mut Vec<Event>) {
    if depth == 0 {
        return;
    }
    match value {
        Value::Object(fields) => match event(fields) {
            Some(event) => found.push(event),
            None => {
                for value in fields.values() {
                    collect(value, depth - 1, found);
                }
            }
        },
        Value::Array(items) => {
            for item in items {
                collect(item, depth - 1, found);
            }
        }
        Value::String(text) => {
            for value in values_in(text) {
                collect(&value, depth - 1, found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn collect_ids(value: &Value, depth: usize, found: &mut BTreeSet<String>) {
    if depth == 0 {
        return;
    }
    match value {
        Value::Object(fields) => {
            found.extend(text(fields, &IDS).filter(|id| is_id(id)).map(str::to_owned));
            for key in ID_LISTS {
                let items = fields.get(key).and_then(Value::as_array);
                let ids = items.into_iter().flatten().filter_map(Value::as_str);
                found.extend(ids.filter(|id| is_id(id)).map(str::to_owned));
            }
            for value in fields.values() {
                collect_ids(value, depth - 1, found);
            }
        }
        Value::Array(items) => {
            for item in items {
                collect_ids(item, depth - 1, found);
            }
        }
        Value::String(text) => {
            for value in values_in(text) {
                collect_ids(&value, depth - 1, found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The event that an object is, if it is one. What stands beside its data is
/// taken for data, too.
fn event(fields: &Map<String, Value>) -> Option<Event> {
    let id = text(fields, &IDS).find(|id| is_id(id))?;
    let time = text(fields, &TIMES).next()?;
    let event_type = text(fields, &TYPES).next().unwrap_or_default();
    let mut data = match fields.get("data") {
        Some(Value::Object(data)) => data.clone(),
        _ => Map::new(),
    };
    let known = [&IDS[..], &TIMES, &TYPES, &POSITIONS, &["data"]].concat();
    for (key, value) in fields {
        if !known.contains(&key.as_str()) && !data.contains_key(key) {
            data.insert(key.clone(), value.clone());
        }
    }
    Some(Event {
        id: id.to_owned(),
        seq: POSITIONS
            .iter()
            .find_map(|key| position(fields.get(*key)?))
            .unwrap_or(0),
        event_type: event_type.to_owned(),
        time: time.to_owned(),
        data: Value::Object(data),
    })
}

/// A position as a number, or as clients are told it: `<epoch>-<n>`.
fn position(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.rsplit('-').next()?.parse().ok(),
        _ => None,
    }
}

fn text<'v>(fields: &'v Map<String, Value>, keys: &[&str]) -> impl Iterator<Item = &'v str> {
    keys.iter()
        .filter_map(|key| fields.get(*key)?.as_str())
        .collect::<Vec<_>>()
        .into_iter()
}

fn is_id(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_ID_BYTES
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn found(value: &Value) -> Vec<Event> {
        events(&values(&value.to_string()))
    }

    #[test]
    fn an_event_is_found_wherever_it_stands() {
        let whole = json!({"id": "e-1", "seq": "9x-12", "type": "threat.threat_alert",
            "time": "2026-01-01T00:00:00Z", "data": {"severity": "LOW"}});
        let short = json!({"event_id": "e-2", "at": "2026-01-01T00:00:00Z", "seq": 13,
            "event_type": "threat.action_update", "summary": "s"});
        let nested = json!({"text": json!({"entries": [whole, short]}).to_string()});
        for value in [
            json!([whole, short]),
            json!({"a": [{"b": {"events": [whole, [short]]}}], "more": true}),
            json!({"content": [nested]}),
        ] {
            let events = found(&value);
            assert_eq!(events.len(), 2, "{value}");
            assert_eq!((&*events[0].id, events[0].seq), ("e-1", 12));
            assert_eq!(events[0].text("severity"), Some("LOW"));
            assert_eq!((&*events[1].id, events[1].seq), ("e-2", 13));
            assert_eq!(events[1].text("summary"), Some("s"));
            let both = BTreeSet::from(["e-1".to_owned(), "e-2".to_owned()]);
            assert_eq!(ids(&values(&value.to_string())), both);
        }
    }

    #[test]
    fn what_is_no_event_is_none() {
        for value in [
            json!(null),
            json!(7),
            json!("text"),
            json!({"id": 1, "time": "t"}),
            json!({"id": "", "time": "t"}),
            json!({"id": "x".repeat(300), "time": "t"}),
        ] {
            assert_eq!(found(&value), [], "{value}");
        }
        // An id is enough to be cited, and lists of ids are, too.
        let value = json!({"event_ids": ["a", 1], "incidents": [{"events": ["b"], "id": "c"}]});
        let ids: Vec<String> = ids(&[value]).into_iter().collect();
        assert_eq!(ids, ["a", "b", "c"]);
    }

    #[test]
    fn a_result_that_was_cut_is_read_as_far_as_it_is_whole() {
        let one = |id: &str| json!({"id": id, "time": "t", "data": {"a": "{\"id\": \"no\"}"}});
        let whole = json!({"events": [one("e-1"), one("e-2"), one("e-3")]}).to_string();
        let cut = Value::from(&whole[..whole.len() - 9]).to_string();
        let ids: Vec<String> = events(&values(&cut))
            .into_iter()
            .map(|event| event.id)
            .collect();
        assert_eq!(ids, ["e-1", "e-2"]);
    }

    proptest! {
        #[test]
        fn anything_is_read_to_its_end(text in "[\\{\\}\\[\\]\",:a-z0-9 \\\\]{0,400}") {
            let values = values(&text);
            let named = ids(&values);
            prop_assert!(events(&values).iter().all(|event| named.contains(&event.id)));
        }
    }
}
