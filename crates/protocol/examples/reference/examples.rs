//! The examples of messages: fixtures that end-to-end tests compare with what
//! goes over the wire.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// Lines longer than this are broken.
const WIDTH: usize = 96;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

fn read(file: &Path) -> Value {
    let text = std::fs::read_to_string(file)
        .unwrap_or_else(|error| panic!("an example is missing: {}: {error}", file.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The data of an event as its producer publishes it.
pub(crate) fn of_event(domain: &str, name: &str) -> Value {
    read(&folder("events").join(format!("{domain}.{name}.json")))
}

/// The examples of a message: its own first, then its variations by name. Files
/// have a dot where types have a colon.
pub(crate) fn of_message(dialect: &str, side: &str, name: &str) -> Vec<(String, Value)> {
    let folder = folder(&format!("{dialect}/{side}"));
    let name = &name.replace(':', ".");
    let own = folder.join(format!("{name}.json"));
    let mut variations: Vec<_> = std::fs::read_dir(&folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|file| file.starts_with(&format!("{name}-")))
        .collect();
    variations.sort();
    std::iter::once((name.to_owned(), read(&own)))
        .chain(variations.into_iter().map(|file| {
            let value = read(&folder.join(&file));
            (file.trim_end_matches(".json").to_owned(), value)
        }))
        .collect()
}

/// JSON for people: on one line where it fits, else one line for each entry.
pub(crate) fn pretty(value: &Value) -> String {
    let mut text = String::new();
    write(value, 0, 0, &mut text);
    text
}

fn write(value: &Value, indent: usize, before: usize, text: &mut String) {
    let line = inline(value);
    if before + line.len() <= WIDTH {
        text.push_str(&line);
        return;
    }
    let pad = " ".repeat(indent + 2);
    let end = format!("\n{}", " ".repeat(indent));
    match value {
        Value::Object(fields) => {
            text.push('{');
            for (number, (key, value)) in fields.iter().enumerate() {
                text.push_str(if number == 0 { "\n" } else { ",\n" });
                let key = format!("{}: ", Value::from(key.as_str()));
                text.push_str(&format!("{pad}{key}"));
                write(value, indent + 2, indent + 2 + key.len(), text);
            }
            text.push_str(&end);
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            let mut column = WIDTH;
            for (number, item) in items.iter().enumerate() {
                let item = inline(item);
                if number > 0 {
                    text.push(',');
                }
                if column + item.len() + 2 > WIDTH {
                    text.push_str(&format!("\n{pad}{item}"));
                    column = indent + 2 + item.len();
                } else {
                    text.push_str(&format!(" {item}"));
                    column += item.len() + 2;
                }
            }
            text.push_str(&end);
            text.push(']');
        }
        _ => text.push_str(&line),
    }
}

fn inline(value: &Value) -> String {
    match value {
        Value::Object(fields) if fields.is_empty() => "{}".to_owned(),
        Value::Object(fields) => {
            let entries = fields
                .iter()
                .map(|(key, value)| format!("{}: {}", Value::from(key.as_str()), inline(value)));
            format!("{{ {} }}", entries.collect::<Vec<_>>().join(", "))
        }
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(inline).collect();
            format!("[{}]", items.join(", "))
        }
        other => other.to_string(),
    }
}
