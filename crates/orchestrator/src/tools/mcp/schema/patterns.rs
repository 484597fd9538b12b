//! Regular expressions of a stranger are not run: matching one may take hours,
//! and no bound that an engine has holds for all of them. What is checked here
//! is a schema that takes whatever the stranger's own takes; the server, which
//! checks its arguments itself, says what is wrong with the rest.

use serde_json::{Map, Value, json};

use super::{holds_names, is_literal};

/// Keywords that are left out beside patterns. With them, taking more in one place
/// may come to taking less as a whole.
const LEFT_OUT: [&str; 5] = [
    "not",
    "if",
    "maxContains",
    "unevaluatedProperties",
    "unevaluatedItems",
];
/// Keywords whose schemas are not where they were.
const MOVED: [&str; 2] = ["oneOf", "patternProperties"];

/// The schema without its patterns, which takes all that it takes. `None` if it
/// has none.
pub(super) fn without(schema: &Value) -> Option<Value> {
    has_patterns(schema).then(|| copy(schema, false))
}

/// Whether there is a pattern, or what looks like one.
fn has_patterns(value: &Value) -> bool {
    match value {
        Value::Object(fields) => {
            fields.get("pattern").is_some_and(Value::is_string)
                || fields.contains_key("patternProperties")
                || fields.values().any(has_patterns)
        }
        Value::Array(items) => items.iter().any(has_patterns),
        _ => false,
    }
}

/// Names of properties are no keywords.
fn copy(value: &Value, names: bool) -> Value {
    match value {
        Value::Object(fields) => {
            let copied = fields.iter().map(|(key, inner)| {
                let inner = match !names && is_literal(key) {
                    true => inner.clone(),
                    false => copy(inner, !names && holds_names(key)),
                };
                (key.clone(), inner)
            });
            let mut copied: Map<String, Value> = copied.collect();
            if !names {
                loosen(&mut copied);
            }
            Value::Object(copied)
        }
        Value::Array(items) => items.iter().map(|item| copy(item, false)).collect(),
        _ => value.clone(),
    }
}

fn loosen(schema: &mut Map<String, Value>) {
    schema.remove("pattern");
    for key in LEFT_OUT {
        schema.remove(key);
    }
    if let Some(schemas) = schema.remove("oneOf") {
        schema.entry("anyOf").or_insert(schemas);
    }
    if let Some(names) = schema.get_mut("patternProperties") {
        // Any name may be one of these, and not an additional one.
        *names = json!({"": true});
    }
    let reference = schema.get("$ref").and_then(Value::as_str);
    if reference.is_some_and(is_lost) {
        // With all else: beside a reference, older drafts do not have it hold.
        schema.clear();
    }
}

/// Whether a reference may lead to what is left out.
fn is_lost(reference: &str) -> bool {
    reference
        .split('/')
        .any(|part| LEFT_OUT.contains(&part) || MOVED.contains(&part))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::analysis::Schema;
    use crate::tools::mcp::schema::compile;

    fn object(property: Value) -> Value {
        json!({"type": "object", "properties": {"a": property}})
    }

    /// Nobody could wait for the end of these.
    #[test]
    fn patterns_that_never_end_are_not_run() {
        let word = format!("{}!", "x".repeat(36));
        let long = "x".repeat(60_000);
        let schemas = [
            (
                object(json!({"pattern": "(x?){50000}y"})),
                json!({"a": long}),
            ),
            (
                object(json!({"pattern": "(?=x)(x?){2000}y"})),
                json!({"a": long}),
            ),
            (
                object(json!({"items": {"pattern": "^(x+x+)+(?=y)$"}})),
                json!({"a": vec![word; 1_500]}),
            ),
            (
                json!({"type": "object", "patternProperties": {"(?=x)(x?){2000}y": false}}),
                json!({long: 1}),
            ),
            // Nor are these made ready.
            (
                object(json!({"pattern": r"\s".repeat(5_000)})),
                json!({"a": ""}),
            ),
        ];
        let (done, waiting) = std::sync::mpsc::channel();
        let checks = schemas.len();
        std::thread::spawn(move || {
            for (schema, arguments) in schemas {
                let schema = compile(&schema).unwrap();
                done.send(schema.problems(&arguments)).unwrap();
            }
        });
        for _ in 0..checks {
            let problems = waiting.recv_timeout(Duration::from_secs(60)).unwrap();
            assert_eq!(problems, Vec::<String>::new());
        }
    }

    #[test]
    fn models_are_shown_the_patterns_and_the_rest_is_checked() {
        let source = json!({
            "type": "object",
            "properties": {
                "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 3},
                "pattern": {"type": "string"},
                "which": {"enum": [{"pattern": "x"}]},
                "one": {"oneOf": [{"type": "string"}, {"type": "integer"}]},
            },
            "required": ["name"],
            "additionalProperties": false,
        });
        let schema = compile(&source).unwrap();
        assert_eq!(schema.source(), &source);
        let fits = json!({"name": "A", "pattern": "x", "which": {"pattern": "x"}, "one": 1});
        assert_eq!(schema.problems(&fits), Vec::<String>::new());
        for wrong in [
            json!({}),
            json!({"name": "abcd"}),
            json!({"name": 1}),
            json!({"name": "a", "pattern": 1}),
            json!({"name": "a", "which": {}}),
            json!({"name": "a", "one": []}),
            json!({"name": "a", "more": 1}),
        ] {
            assert_ne!(schema.problems(&wrong), Vec::<String>::new(), "{wrong}");
        }
    }

    #[test]
    fn what_fits_with_patterns_fits_without() {
        let a = |value: Value| json!({"a": value});
        let digits = json!({"pattern": "^[0-9]$"});
        for (schema, fits) in [
            (json!({"not": digits}), json!("x")),
            (json!({"if": digits, "then": {"maxLength": 0}}), json!("x")),
            (
                json!({"oneOf": [digits, {"pattern": "^[a-z]$"}]}),
                json!("x"),
            ),
            (
                json!({"oneOf": [digits, {"pattern": "^[a-z]$"}], "anyOf": [{"type": "string"}]}),
                json!("x"),
            ),
            (
                json!({"contains": digits, "maxContains": 1}),
                json!(["1", "x"]),
            ),
            (json!({"propertyNames": digits}), json!({"1": 1})),
            (
                json!({"patternProperties": {"^[0-9]$": {}}, "additionalProperties": false}),
                json!({"1": 1}),
            ),
            (
                json!({"anyOf": [{"patternProperties": {"^[0-9]$": {}}}], "unevaluatedProperties": false}),
                json!({"1": 1}),
            ),
            (
                json!({"if": {"properties": {"b": digits}}, "unevaluatedProperties": false}),
                json!({"b": "1"}),
            ),
            (
                json!({"prefixItems": [{"not": digits}, {"$ref": "#/properties/a/prefixItems/0/not"}]}),
                json!(["x", "1"]),
            ),
        ] {
            let source = object(schema);
            let strict = Schema::compile(source.clone()).unwrap();
            let loose = compile(&source).unwrap();
            let fits = a(fits);
            assert_eq!(strict.problems(&fits), Vec::<String>::new(), "{source}");
            assert_eq!(loose.problems(&fits), Vec::<String>::new(), "{source}");
        }
    }

    #[test]
    fn what_stands_beside_a_reference_does_not_come_to_hold() {
        let mut source = object(json!({
            "oneOf": [{"pattern": "x"}],
            "items": {"$ref": "#/properties/a/oneOf/0", "type": "array"},
        }));
        source["$schema"] = json!("http://json-schema.org/draft-07/schema#");
        let schema = compile(&source).unwrap();
        assert_eq!(schema.problems(&json!({"a": ["x"]})), Vec::<String>::new());
    }

    #[test]
    fn schemas_without_patterns_are_as_they_are() {
        let source = object(json!({"not": {"type": "string"}, "unevaluatedItems": false}));
        assert_eq!(without(&source), None);
        let schema = compile(&source).unwrap();
        assert_ne!(schema.problems(&json!({"a": "x"})), Vec::<String>::new());
    }

    #[test]
    fn what_is_left_out_must_be_a_schema_all_the_same() {
        for wrong in [json!({"pattern": 7}), json!({"pattern": "x", "not": 7})] {
            compile(&object(wrong)).unwrap_err();
        }
        let mut unknown = object(json!({"pattern": "x"}));
        unknown["$schema"] = json!("https://example.com/own");
        compile(&unknown).unwrap_err();
    }
}
