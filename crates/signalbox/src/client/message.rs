//! Messages of a gateway, as far as people at a terminal are shown them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

/// A message.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Message(Map<String, Value>);

impl Message {
    /// The messages in a text frame: several where it is a batch.
    ///
    /// # Errors
    /// When it is no JSON object.
    pub(crate) fn read(text: &str) -> Result<Vec<Self>, serde_json::Error> {
        let mut object: Map<String, Value> = serde_json::from_str(text)?;
        if object.get("type").and_then(Value::as_str) != Some("batch") {
            return Ok(vec![Self(object)]);
        }
        let Some(Value::Array(members)) = object.remove("messages") else {
            return Ok(Vec::new());
        };
        let members = members.into_iter().filter_map(|member| match member {
            Value::Object(object) => Some(Self(object)),
            _ => None,
        });
        Ok(members.collect())
    }

    /// What kind of message it is.
    pub(crate) fn kind(&self) -> &str {
        self.text("type").unwrap_or_default()
    }

    /// A text in it.
    pub(crate) fn text(&self, field: &str) -> Option<&str> {
        self.0.get(field).and_then(Value::as_str)
    }

    /// A number in it that counts something.
    pub(crate) fn count(&self, field: &str) -> Option<u64> {
        self.0.get(field).and_then(Value::as_u64)
    }

    /// Whether something is said to be so.
    pub(crate) fn is(&self, field: &str) -> bool {
        self.flag(field) == Some(true)
    }

    /// Whether something is said to be so, or not to be.
    pub(crate) fn flag(&self, field: &str) -> Option<bool> {
        self.0.get(field).and_then(Value::as_bool)
    }

    /// Anything in it.
    pub(crate) fn value(&self, field: &str) -> Option<&Value> {
        self.0.get(field)
    }

    /// A list in it; empty where there is none.
    pub(crate) fn list(&self, field: &str) -> &[Value] {
        let list = self.0.get(field).and_then(Value::as_array);
        list.map_or(&[], Vec::as_slice)
    }

    /// The exact bytes of `terminal:output`.
    pub(crate) fn output(&self) -> Vec<u8> {
        let output = self.0.get("output");
        let text = |field: &str| output.and_then(|output| output.get(field)?.as_str());
        let raw = text("raw").and_then(|raw| STANDARD.decode(raw).ok());
        raw.unwrap_or_else(|| text("content").unwrap_or_default().as_bytes().to_vec())
    }

    /// The size of the text in it, about.
    pub(crate) fn weight(&self) -> usize {
        let output = self.0.get("output");
        let content = output.and_then(|output| output.get("content")?.as_str());
        size_of::<Self>() + content.map_or(256, str::len)
    }

    /// Its position, where that says that everything before it was told.
    ///
    /// That is so for what is read from the logs of commands. A message about
    /// an agent or a place in a queue may overtake them, and has the position
    /// of its sender then: to go on from there would leave something out.
    pub(crate) fn position(&self) -> Option<&str> {
        let is_of_a_log = match self.kind() {
            "agent:list" | "terminal:output" | "terminal:gap" | "command:complete" => true,
            "command:status" => {
                self.text("status") != Some("queued") || self.text("command").is_some()
            }
            _ => false,
        };
        is_of_a_log.then(|| self.text("seq")).flatten()
    }

    /// It as one line of JSON. Characters that some terminals obey are escaped
    /// as JSON allows it: they can only stand in strings.
    pub(crate) fn line(&self) -> String {
        let text = serde_json::to_string(&self.0).unwrap_or_default();
        if !text.chars().any(is_control) {
            return text;
        }
        let mut line = String::with_capacity(text.len());
        for letter in text.chars() {
            if is_control(letter) {
                line.push_str(&format!("\\u{:04x}", u32::from(letter)));
            } else {
                line.push(letter);
            }
        }
        line
    }
}

/// A control character that JSON lets stand.
fn is_control(letter: char) -> bool {
    ('\u{7f}'..='\u{9f}').contains(&letter)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn message(value: Value) -> Message {
        Message::read(&value.to_string()).unwrap().remove(0)
    }

    #[test]
    fn a_batch_is_its_members() {
        let batch =
            json!({"type": "batch", "count": 2, "messages": [{"type": "a"}, {"type": "b"}]});
        let read = Message::read(&batch.to_string()).unwrap();
        let kinds: Vec<&str> = read.iter().map(Message::kind).collect();
        assert_eq!(kinds, ["a", "b"]);
        assert!(Message::read("[]").is_err());
    }

    #[test]
    fn only_what_the_logs_say_is_a_position() {
        let at = |value: Value| message(value).position().map(str::to_owned);
        let seq = Some("a-0.7".to_owned());
        assert_eq!(at(json!({"type": "terminal:output", "seq": "a-0.7"})), seq);
        assert_eq!(at(json!({"type": "agent:status", "seq": "a-0.7"})), None);
        assert_eq!(at(json!({"type": "terminal:clear", "seq": "a-0.7"})), None);
        let moved = json!({"type": "command:status", "status": "queued", "seq": "a-0.7"});
        assert_eq!(at(moved.clone()), None);
        let mut accepted = moved;
        accepted["command"] = json!("make");
        assert_eq!(at(accepted), seq);
    }

    #[test]
    fn exact_bytes_go_before_text() {
        let output = json!({"content": "\u{fffd}!", "raw": "/yE="});
        assert_eq!(message(json!({"output": output})).output(), b"\xff!");
        assert_eq!(
            message(json!({"output": {"content": "é"}})).output(),
            "é".as_bytes()
        );
    }

    #[test]
    fn a_line_moves_no_terminal() {
        let hostile = json!({"type": "x", "text": "\u{1b}[2J\u{9b}2J\u{7f}\n"});
        let line = message(hostile.clone()).line();
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), hostile);
    }
}
