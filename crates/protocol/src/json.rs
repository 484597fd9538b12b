//! Bounds and redaction for JSON that comes from outside.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
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

/// Whether a field of a listed name is anywhere in a JSON text, also where a
/// later field of the same name hides it. What cannot be read to its end has
/// one.
#[must_use]
pub fn names_any(text: &[u8], names: &[String]) -> bool {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let clean = Unlisted(names).deserialize(&mut reader);
    clean.and_then(|()| reader.end()).is_err()
}

/// Reads any value, and fails at a field of a listed name.
#[derive(Clone, Copy)]
struct Unlisted<'a>(&'a [String]);

impl<'de> DeserializeSeed<'de> for Unlisted<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unlisted<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without the listed fields")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        while let Some(name) = fields.next_key::<String>()? {
            if self.0.contains(&name) {
                return Err(A::Error::custom("a listed field"));
            }
            fields.next_value_seed(self)?;
        }
        Ok(())
    }
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

    #[test]
    fn listed_fields_are_seen_wherever_they_hide() {
        let names = ["token".to_owned()];
        for text in [
            r#"{"token": 1}"#,
            r#"{"a": [{"b": {"token": null}}]}"#,
            r#"{"a": {"token": 1}, "a": 2}"#,
            r#"{"t\u006fken": 1}"#,
            r#"{"a": 1} {"token": 1}"#,
            r#"{"a": "#,
        ] {
            assert!(names_any(text.as_bytes(), &names), "{text}");
        }
        let text = r#"{"a": ["token", 1, -1, 0.5, true, null, {"tokens": {}}]}"#;
        assert!(!names_any(text.as_bytes(), &names));
        assert!(!names_any(text.as_bytes(), &[]));
    }
}
