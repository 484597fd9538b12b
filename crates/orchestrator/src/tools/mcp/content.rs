//! What a server answers to a call, as what became of it. Text is taken as it
//! is, for the turn to contain; what is no text is replaced by a short line
//! that says what it was.

use serde_json::{Map, Value, json};

use crate::tools::Outcome;

/// The longest word of a server within a line about what is left out, in
/// characters.
const MAX_WORD_CHARS: usize = 200;

/// What the result of a call, as JSON, says.
pub(super) fn outcome(result: &Value) -> Outcome {
    let Some(result) = result.as_object() else {
        return unreadable();
    };
    let items = result.get("content").and_then(Value::as_array);
    let structured = result
        .get("structuredContent")
        .filter(|value| !value.is_null());
    if items.is_none() && structured.is_none() {
        return unreadable();
    }
    let texts: Vec<String> = items.into_iter().flatten().map(text_of).collect();
    let text = texts.join("\n");
    if result.get("isError").and_then(Value::as_bool) == Some(true) {
        return Outcome::Error(match (text.is_empty(), structured) {
            (true, Some(structured)) => structured.to_string(),
            (true, None) => "the tool failed and did not say why".to_owned(),
            (false, _) => text,
        });
    }
    Outcome::Value(match structured {
        // Servers repeat it as text for clients that know no other form.
        Some(structured) if is_repeated(structured, &text) => structured.clone(),
        Some(structured) => json!({"structured": structured, "text": text}),
        None => Value::String(text),
    })
}

fn unreadable() -> Outcome {
    Outcome::Error("the server's answer is not the result of a tool".to_owned())
}

fn is_repeated(structured: &Value, text: &str) -> bool {
    text.is_empty()
        || serde_json::from_str::<Value>(text).is_ok_and(|value| {
            value == *structured
                // A value that is no object is wrapped to be one.
                || structured.get("result") == Some(&value)
        })
        || structured.get("result").and_then(Value::as_str) == Some(text)
}

/// One piece of a result as text.
fn text_of(item: &Value) -> String {
    let word = |key: &str| item.get(key).and_then(Value::as_str).unwrap_or_default();
    match word("type") {
        "text" => word("text").to_owned(),
        kind @ ("image" | "audio") => left_out(kind, word("mimeType"), word("data"), ""),
        "resource" => {
            let empty = Map::new();
            let resource = item.get("resource").and_then(Value::as_object);
            let resource = resource.unwrap_or(&empty);
            let word = |key: &str| resource.get(key).and_then(Value::as_str);
            let address = word("uri").unwrap_or_default();
            match word("text") {
                Some(text) => format!("[{}]\n{text}", short(address)),
                None => left_out(
                    "resource",
                    word("mimeType").unwrap_or_default(),
                    word("blob").unwrap_or_default(),
                    address,
                ),
            }
        }
        "resource_link" => format!("[link: {} {}]", short(word("uri")), short(word("name"))),
        other => format!("[{}: not shown]", short(other)),
    }
}

/// A line in the place of base64.
fn left_out(kind: &str, media: &str, base64: &str, address: &str) -> String {
    let padding = base64
        .bytes()
        .rev()
        .take_while(|byte| *byte == b'=')
        .count();
    let bytes = (base64.len() / 4 * 3).saturating_sub(padding.min(2));
    let address = match address {
        "" => String::new(),
        address => format!(" {}", short(address)),
    };
    let media = match media {
        "" => "unknown type".to_owned(),
        media => short(media),
    };
    format!("[{kind}{address}: {media}, {bytes} bytes, not shown]")
}

fn short(text: &str) -> String {
    text.chars().take(MAX_WORD_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(result: Value) -> Value {
        match outcome(&result) {
            Outcome::Value(value) => value,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn texts_are_joined_and_what_is_none_is_described() {
        let result = json!({"content": [
            {"type": "text", "text": "one"},
            {"type": "image", "mimeType": "image/png", "data": "QUJDRA=="},
            {"type": "resource", "resource": {"uri": "file:///a", "text": "two"}},
            {"type": "resource", "resource": {"uri": "file:///b", "blob": "QUJD"}},
            {"type": "resource_link", "uri": "file:///c", "name": "c"},
            {"type": "hologram", "data": "x"},
        ]});
        assert_eq!(
            value(result),
            "one\n[image: image/png, 4 bytes, not shown]\n[file:///a]\ntwo\n\
             [resource file:///b: unknown type, 3 bytes, not shown]\n[link: file:///c c]\n\
             [hologram: not shown]"
        );
    }

    #[test]
    fn structured_content_is_the_value_and_is_not_said_twice() {
        let text = |text: &str| json!([{"type": "text", "text": text}]);
        let repeated = json!({"content": text("{\"a\": 1}"), "structuredContent": {"a": 1}});
        assert_eq!(value(repeated), json!({"a": 1}));
        let wrapped = json!({"content": text("hello"), "structuredContent": {"result": "hello"}});
        assert_eq!(value(wrapped), json!({"result": "hello"}));
        let both = json!({"content": text("see below"), "structuredContent": {"a": 1}});
        assert_eq!(
            value(both),
            json!({"structured": {"a": 1}, "text": "see below"})
        );
    }

    #[test]
    fn errors_and_nonsense_are_errors() {
        let failed = json!({"content": [{"type": "text", "text": "no"}], "isError": true});
        assert_eq!(outcome(&failed), Outcome::Error("no".to_owned()));
        for wrong in [
            json!({}),
            json!(null),
            json!({"content": "text"}),
            json!({"tools": []}),
        ] {
            assert_eq!(outcome(&wrong), unreadable(), "{wrong}");
        }
        assert_eq!(value(json!({"content": []})), "");
    }
}
