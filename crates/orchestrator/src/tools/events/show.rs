//! How events are shown to models: an id, a time, a type, one line, and as much
//! of the data as there is room for.

use serde_json::{Map, Value, json};
use signalbox_protocol::catalogue::Channel;

use super::facts;
use super::walk::Looked;
use crate::evidence::Event;

/// The longest line, in characters.
const LINE_CHARS: usize = 200;
/// The longest string of shown data, in characters.
const TEXT_CHARS: usize = 300;
/// The most items of a list in shown data.
const ITEMS: usize = 20;
/// How deep shown data goes.
const DEPTH: usize = 5;
/// The largest data that is shown, in bytes of JSON.
const DATA_BYTES: usize = 2 * 1024;
/// What is left for everything beside the entries of a result, in bytes.
pub(super) const FRAME_BYTES: usize = 1_024;

/// Fields that say what kind of thing happened, the first is taken.
const KINDS: &[&str] = &[
    "threat_type",
    "attack_type",
    "action_type",
    "metric",
    "event",
    "title",
    "name",
];
/// Fields that say how it stands.
const STATES: &[&str] = &["status", "decision", "state"];
/// Fields that tell the story, the first is taken.
const STORIES: &[&str] = &[
    "ai_summary",
    "summary",
    "message",
    "description",
    "current_activity",
    "reason",
];

/// An event as an entry of a result.
pub(super) fn entry(event: &Event) -> Map<String, Value> {
    let mut entry = Map::new();
    entry.insert("event_id".to_owned(), cut(&event.id, TEXT_CHARS).into());
    entry.insert("time".to_owned(), event.time.clone().into());
    entry.insert("type".to_owned(), event.event_type.clone().into());
    entry.insert("line".to_owned(), line(event).into());
    entry
}

/// An event's data, shortened; `None` where that is still too much.
pub(super) fn data(event: &Event) -> Option<Value> {
    let data = shortened(&event.data, DEPTH);
    (data.to_string().len() <= DATA_BYTES).then_some(data)
}

/// What happened, in one line.
fn line(event: &Event) -> String {
    let first = |keys: &[&str]| keys.iter().find_map(|key| event.text(key));
    let mut line = String::new();
    let mut add = |before: &str, text: &str| {
        if !line.is_empty() {
            line.push_str(before);
        }
        line.push_str(text);
    };
    for word in [event.text("severity"), first(KINDS), first(STATES)] {
        add(" ", word.unwrap_or_default());
    }
    if let Some(source) = event.text("source_ip") {
        add(" from ", source);
    }
    let source = event.text("source_ip");
    let mut resources: Vec<&str> = facts::resources(event)
        .filter(|name| Some(*name) != source)
        .collect();
    resources.dedup();
    if !resources.is_empty() {
        add(" on ", &resources.join(", "));
    }
    let note = || event.data.get("note")?.get("content")?.as_str();
    if let Some(story) = first(STORIES).or_else(note) {
        add(": ", story);
    }
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.is_empty() {
        cut(&shortened(&event.data, 2).to_string(), LINE_CHARS)
    } else {
        cut(&line, LINE_CHARS)
    }
}

/// As many entries as fit, and whether some do not. Of those that fit, the first
/// get their data, for half of the room.
pub(super) fn fitted(
    entries: impl IntoIterator<Item = (Map<String, Value>, Option<Value>)>,
    result_bytes: usize,
) -> (Vec<Value>, bool) {
    let room = result_bytes.saturating_sub(FRAME_BYTES.min(result_bytes / 4));
    let mut taken = 0;
    let mut shown = Vec::new();
    for (mut entry, data) in entries {
        let data_bytes = data.as_ref().map_or(0, |data| data.to_string().len());
        let bytes = Value::Object(entry.clone()).to_string().len() + 1;
        if taken + bytes > room {
            return (shown, true);
        }
        taken += bytes;
        if let Some(data) = data
            && taken + data_bytes <= room / 2
        {
            taken += data_bytes;
            entry.insert("data".to_owned(), data);
        }
        shown.push(entry.into());
    }
    (shown, false)
}

/// A result: what every one says, and then its own.
pub(super) fn result(looked: &Looked, more: bool, own: Map<String, Value>) -> Value {
    let channels = looked.channels.iter().copied().map(Channel::name);
    let mut result = json!({
        "complete": looked.complete,
        "searched_back_to": looked.back_to,
        "channels": channels.collect::<Vec<_>>(),
        "more": more,
    });
    if let Some(fields) = result.as_object_mut() {
        fields.extend(own);
    }
    result
}

fn shortened(value: &Value, depth: usize) -> Value {
    match value {
        Value::String(text) => cut(text, TEXT_CHARS).into(),
        Value::Array(_) | Value::Object(_) if depth == 0 => "…".into(),
        Value::Array(items) => {
            let mut shown: Vec<Value> = items
                .iter()
                .take(ITEMS)
                .map(|item| shortened(item, depth - 1))
                .collect();
            if items.len() > ITEMS {
                shown.push(format!("… {} more", items.len() - ITEMS).into());
            }
            shown.into()
        }
        Value::Object(fields) => {
            let shown = fields
                .iter()
                .map(|(key, field)| (cut(key, TEXT_CHARS), shortened(field, depth - 1)));
            Value::Object(shown.collect())
        }
        other => other.clone(),
    }
}

fn cut(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}…", &text[..at]),
    }
}
