//! Schemas that a stranger wrote, and whether they may be compiled and used: a
//! validator follows references as they stand, and one that leads back to where
//! it began without going into the value would never end. What ends after too
//! long is found when there is a value to check: [`weight`].

mod patterns;

use std::collections::HashSet;

use serde_json::Value;

use crate::analysis::{Schema, weight};

/// Keywords whose schemas are applied to the same value.
const IN_PLACE: [&str; 9] = [
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "if",
    "then",
    "else",
    "dependentSchemas",
    "dependencies",
];
/// What changes what references within stand for.
const IDS: [&str; 2] = ["$id", "id"];
/// Keywords that providers of models refuse at the top, and with them all
/// requests that offer the tool.
const NOT_AT_TOP: [&str; 3] = ["allOf", "anyOf", "oneOf"];

/// Compiles a schema; its patterns are for models only.
///
/// # Errors
/// Says why it is not to be used.
pub(super) fn compile(schema: &Value) -> Result<Schema, String> {
    check(schema)?;
    match patterns::without(schema) {
        None => Schema::compile(schema.clone()),
        Some(checked) => Schema::compile_as(schema.clone(), &checked),
    }
}

fn check(schema: &Value) -> Result<(), String> {
    let refused = |key: &&&str| schema.get(**key).is_some();
    if let Some(key) = NOT_AT_TOP.iter().find(refused) {
        return Err(format!("its schema has {key} at the top"));
    }
    let mut walk = Walk {
        root: schema,
        path: Vec::new(),
        done: HashSet::new(),
    };
    walk.everywhere(schema, false)
}

struct Walk<'a> {
    root: &'a Value,
    /// The schemas that are being applied to one value, outermost first.
    path: Vec<*const Value>,
    /// Those that were found to end.
    done: HashSet<*const Value>,
}

impl<'a> Walk<'a> {
    /// Checks all schemas of a value. Names of properties are no keywords.
    fn everywhere(&mut self, value: &'a Value, names: bool) -> Result<(), String> {
        match value {
            Value::Object(fields) => {
                if !names {
                    self.ends(value)?;
                }
                for (key, inner) in fields {
                    if names || !is_literal(key) {
                        self.everywhere(inner, !names && holds_names(key))?;
                    }
                }
                Ok(())
            }
            Value::Array(items) => {
                for item in items {
                    self.everywhere(item, false)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Checks that what a schema applies to the same value comes to an end.
    fn ends(&mut self, schema: &'a Value) -> Result<(), String> {
        let place: *const Value = schema;
        if self.path.contains(&place) {
            return Err("its schema refers to itself without an end".to_owned());
        }
        let Some(fields) = schema.as_object() else {
            return Ok(());
        };
        if !self.done.insert(place) {
            return Ok(());
        }
        let names = |key: &&&str| fields.get(**key).is_some_and(Value::is_string);
        // At the root an id changes nothing for references within.
        if !std::ptr::eq(schema, self.root)
            && let Some(key) = IDS.iter().find(names)
        {
            return Err(format!("its schema has {key}"));
        }
        self.path.push(place);
        for key in ["$dynamicRef", "$recursiveRef"] {
            if fields.contains_key(key) {
                return Err(format!("its schema has {key}"));
            }
        }
        if let Some(reference) = fields.get("$ref") {
            self.ends(self.target(reference)?)?;
        }
        for key in IN_PLACE {
            match fields.get(key) {
                Some(Value::Array(schemas)) => {
                    for schema in schemas {
                        self.ends(schema)?;
                    }
                }
                Some(Value::Object(schemas))
                    if matches!(key, "dependentSchemas" | "dependencies") =>
                {
                    for schema in schemas.values() {
                        self.ends(schema)?;
                    }
                }
                Some(schema) => self.ends(schema)?,
                None => {}
            }
        }
        self.path.pop();
        Ok(())
    }

    /// What a reference stands for.
    fn target(&self, reference: &Value) -> Result<&'a Value, String> {
        let text = reference.as_str().unwrap_or_default();
        let found = weight::target(self.root, text);
        found.ok_or_else(|| "its schema refers to something that is not in it".to_owned())
    }
}

/// Whether a keyword's value is an object of names and their schemas.
fn holds_names(keyword: &str) -> bool {
    matches!(
        keyword,
        "properties"
            | "patternProperties"
            | "$defs"
            | "definitions"
            | "dependentSchemas"
            | "dependencies"
    )
}

/// Whether a keyword's value is no schema, whatever it looks like.
fn is_literal(keyword: &str) -> bool {
    matches!(keyword, "enum" | "const" | "default" | "examples")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn schemas_that_end_are_fine() {
        let tree = json!({
            "type": "object",
            "properties": {"root": {"$ref": "#/$defs/node"}, "id": {"type": "string"}},
            "$defs": {"node": {
                "type": "object",
                "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
                "anyOf": [{"required": ["children"]}, {"$ref": "#/$defs/leaf"}],
            }, "leaf": {"type": "object"}},
        });
        for schema in [json!({"type": "object"}), tree] {
            check(&schema).unwrap();
            let schema = Schema::compile(schema).unwrap();
            let _ = schema.problems(&json!({"root": {"children": [{"children": []}]}}));
        }
    }

    #[test]
    fn schemas_that_do_not_end_or_lead_outside_are_not() {
        let with =
            |key: &str, value: Value| json!({"type": "object", "properties": {"a": {key: value}}});
        for schema in [
            with("$ref", json!("#/properties/a")),
            with("allOf", json!([{"$ref": "#/properties/a"}])),
            with(
                "not",
                json!({"anyOf": [{"if": {"$ref": "#/properties/a"}}]}),
            ),
            with("dependentSchemas", json!({"x": {"$ref": "#/properties/a"}})),
            with("dependencies", json!({"x": {"$ref": "#/properties/a"}})),
            with("$ref", json!("https://example.com/x")),
            with("$ref", json!("#/nowhere")),
            with("$ref", json!(7)),
            with("$dynamicRef", json!("#a")),
            json!({"type": "object", "$ref": "#"}),
            json!({"type": "object", "oneOf": []}),
            json!({"type": "object", "$defs": {
                "a": {"$ref": "#/$defs/b"}, "b": {"anyOf": [{"$ref": "#/$defs/a"}]},
            }}),
        ] {
            check(&schema).unwrap_err();
        }
    }

    #[test]
    fn what_looks_like_a_keyword_and_is_none_is_fine() {
        let schema = json!({
            "type": "object",
            "properties": {"$ref": {"type": "string"}, "id": {"enum": [{"$ref": "x"}]}},
        });
        check(&schema).unwrap();
    }
}
