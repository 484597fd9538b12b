//! Bounds and redaction for JSON that comes from outside.

use serde_json::{Map, Value};

/// The deepest nesting that an event's data may have; an object of scalars
/// has depth 1.
pub const MAX_DEPTH: usize = 32;

/// Whether an object nests no deeper than `limit`.
#[must_use]
pub fn is_within_depth(object: &Map<String, Value>, limit: usize) -> bool {
    fn fits(value: &Value, left: usize) -> bool {
        match value {
            Value::Array(items) => left > 0 && items.iter().all(|item| fits(item, left - 1)),
            Value::Object(fields) => left > 0 && fields.values().all(|item| fits(item, left - 1)),
            _ => true,
        }
    }
    limit > 0 && object.values().all(|value| fits(value, limit - 1))
}

/// Removes every field whose name is listed, at any depth.
pub fn redact(object: &mut Map<String, Value>, names: &[String]) {
    fn visit(value: &mut Value, names: &[String]) {
        match value {
            Value::Array(items) => items.iter_mut().for_each(|item| visit(item, names)),
            Value::Object(fields) => redact(fields, names),
            _ => {}
        }
    }
    if names.is_empty() {
        return;
    }
    object.retain(|name, _| !names.iter().any(|listed| listed == name));
    object.values_mut().for_each(|value| visit(value, names));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(fields) => fields,
            _ => panic!("not an object"),
        }
    }

    #[test]
    fn depth_counts_objects_and_arrays() {
        let flat = object(json!({"a": 1}));
        assert!(is_within_depth(&flat, 1));
        let nested = object(json!({"a": [{"b": []}]}));
        assert!(is_within_depth(&nested, 4));
        assert!(!is_within_depth(&nested, 3));
    }

    #[test]
    fn redaction_reaches_every_depth() {
        let mut data = object(json!({"token": 1, "a": [{"token": 2, "b": {"token": 3, "c": 4}}]}));
        redact(&mut data, &["token".to_owned()]);
        assert_eq!(Value::Object(data), json!({"a": [{"b": {"c": 4}}]}));
    }
}
