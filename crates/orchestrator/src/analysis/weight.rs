//! What checking a value against a schema takes, known before it is done: a
//! validator has no bounds of its own, and few lines of a schema can ask for more
//! than any machine has, by parts that are applied twice each, level by level.
//! It counts what may be applied, rather too much than too little.

use serde_json::{Map, Value};

/// The most steps of a check: schemas that are applied, their keywords and what
/// these list, and texts that are read. Each may come to be a problem, which is
/// kept.
const MAX_STEPS: usize = 100_000;
/// How many schemas may be applied within each other: each takes of the stack.
const MAX_NESTED: usize = 256;
/// How much of a reference is followed in a step, in bytes.
const REFERENCE_BYTES: usize = 64;
/// How much of a text is read in a step, in bytes.
const TEXT_BYTES: usize = 256;

/// A check that takes too much.
#[derive(Debug)]
pub(crate) struct TooMuch;

/// Whether a value can be checked against a schema.
///
/// # Errors
/// It takes too much.
pub(crate) fn check(schema: &Value, value: &Value) -> Result<(), TooMuch> {
    let mut weight = Weight {
        root: schema,
        steps: 0,
        nested: 0,
    };
    weight.apply(schema, value)
}

struct Weight<'a> {
    root: &'a Value,
    steps: usize,
    nested: usize,
}

impl<'a> Weight<'a> {
    fn take(&mut self, steps: usize) -> Result<(), TooMuch> {
        self.steps = self.steps.saturating_add(steps);
        match self.steps > MAX_STEPS {
            true => Err(TooMuch),
            false => Ok(()),
        }
    }

    fn apply(&mut self, schema: &'a Value, value: &Value) -> Result<(), TooMuch> {
        self.take(1 + read(value))?;
        let Some(fields) = schema.as_object() else {
            return self.take(listed(schema));
        };
        self.nested += 1;
        if self.nested > MAX_NESTED {
            return Err(TooMuch);
        }
        for (key, inner) in fields {
            match (key.as_str(), inner) {
                ("$defs" | "definitions", _) => {}
                // Each item is compared as a whole.
                ("uniqueItems", Value::Bool(true)) => self.take(size(value))?,
                _ => self.take(listed(inner))?,
            }
        }
        let parts = listed_once(value);
        let unevaluated = ["unevaluatedProperties", "unevaluatedItems"];
        // To learn what is left for these, all else is applied again for each part.
        let again = match unevaluated.iter().any(|key| fields.contains_key(*key)) {
            true => 2 * parts,
            false => 0,
        };
        for _ in 0..=again {
            self.apply_in_place(fields, value)?;
        }
        match value {
            Value::Object(values) => self.apply_to_properties(fields, values)?,
            Value::Array(values) => self.apply_to_items(fields, values)?,
            _ => {}
        }
        self.nested -= 1;
        Ok(())
    }

    /// What is applied to the same value.
    fn apply_in_place(
        &mut self,
        fields: &'a Map<String, Value>,
        value: &Value,
    ) -> Result<(), TooMuch> {
        self.take(fields.len())?;
        for (key, inner) in fields {
            match (key.as_str(), inner) {
                ("$ref", Value::String(reference)) => {
                    self.take(reference.len() / REFERENCE_BYTES)?;
                    if let Some(schema) = target(self.root, reference) {
                        self.apply(schema, value)?;
                    }
                }
                ("allOf" | "anyOf" | "oneOf", Value::Array(schemas)) => {
                    for schema in schemas {
                        self.apply(schema, value)?;
                    }
                }
                ("dependentSchemas" | "dependencies", Value::Object(schemas)) => {
                    for schema in schemas.values() {
                        self.apply(schema, value)?;
                    }
                }
                ("not" | "if" | "then" | "else", schema) => self.apply(schema, value)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn apply_to_properties(
        &mut self,
        fields: &'a Map<String, Value>,
        values: &Map<String, Value>,
    ) -> Result<(), TooMuch> {
        let named = fields.get("properties").and_then(Value::as_object);
        for (name, schema) in named.into_iter().flatten() {
            if let Some(value) = values.get(name) {
                self.apply(schema, value)?;
            }
        }
        // Whichever names they match.
        let patterns = fields.get("patternProperties").and_then(Value::as_object);
        for schema in patterns.into_iter().flat_map(Map::values) {
            self.apply_to_all(schema, values.values())?;
        }
        for key in ["additionalProperties", "unevaluatedProperties"] {
            if let Some(schema) = fields.get(key) {
                let others = values.iter().filter(|(name, _)| {
                    named.is_none_or(|named| !named.contains_key(name.as_str()))
                });
                self.apply_to_all(schema, others.map(|(_, value)| value))?;
            }
        }
        if let Some(schema) = fields.get("propertyNames") {
            for name in values.keys() {
                self.apply(schema, &Value::from(name.as_str()))?;
            }
        }
        Ok(())
    }

    fn apply_to_items(
        &mut self,
        fields: &'a Map<String, Value>,
        values: &[Value],
    ) -> Result<(), TooMuch> {
        let mut first = 0;
        for key in ["prefixItems", "items"] {
            if let Some(Value::Array(schemas)) = fields.get(key) {
                first = schemas.len().min(values.len());
                for (schema, value) in schemas.iter().zip(values) {
                    self.apply(schema, value)?;
                }
            }
        }
        for key in ["items", "additionalItems", "unevaluatedItems"] {
            match fields.get(key) {
                Some(Value::Array(_)) | None => {}
                Some(schema) => self.apply_to_all(schema, &values[first..])?,
            }
        }
        match fields.get("contains") {
            Some(schema) => self.apply_to_all(schema, values),
            None => Ok(()),
        }
    }

    fn apply_to_all<'v>(
        &mut self,
        schema: &'a Value,
        values: impl IntoIterator<Item = &'v Value>,
    ) -> Result<(), TooMuch> {
        for value in values {
            self.apply(schema, value)?;
        }
        Ok(())
    }
}

/// How much a keyword lists: names that are required, values that may be.
fn listed(value: &Value) -> usize {
    match value {
        Value::Object(fields) => fields.values().map(|inner| 1 + listed_once(inner)).sum(),
        _ => listed_once(value),
    }
}

fn listed_once(value: &Value) -> usize {
    match value {
        Value::Object(fields) => fields.len(),
        Value::Array(items) => items.len(),
        _ => 0,
    }
}

/// The steps of reading a text, in whatever way.
const fn read(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() / TEXT_BYTES,
        _ => 0,
    }
}

/// The steps of reading a value with all its parts, and their names.
fn size(value: &Value) -> usize {
    let parts: usize = match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, part)| name.len() / TEXT_BYTES + size(part))
            .sum(),
        Value::Array(items) => items.iter().map(size).sum(),
        _ => 0,
    };
    1 + read(value) + parts
}

/// What a reference within a schema stands for.
pub(crate) fn target<'a>(root: &'a Value, reference: &str) -> Option<&'a Value> {
    let pointer = reference.strip_prefix('#')?;
    root.pointer(&pointer.replace("%24", "$"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::analysis::{Schema, TOO_MUCH};

    /// Definitions `a0` to `a(count)`, each made of a reference to the next.
    fn chain(count: usize, link: impl Fn(Value) -> Value, last: Value) -> Value {
        let next = |number: usize| json!({"$ref": format!("#/$defs/a{}", number + 1)});
        let mut links: Map<String, Value> = (0..count)
            .map(|number| (format!("a{number}"), link(next(number))))
            .collect();
        links.insert(format!("a{count}"), last);
        json!({"type": "object", "properties": {"x": {"$ref": "#/$defs/a0"}}, "$defs": links})
    }

    fn nested(levels: usize) -> Value {
        let value = (0..levels).fold(json!(1), |inner, _| json!([inner]));
        json!({"x": value})
    }

    fn problems(schema: Value, value: &Value) -> Vec<String> {
        Schema::compile(schema).unwrap().problems(value)
    }

    #[test]
    fn what_would_take_too_much_is_not_begun() {
        let again = json!({"$ref": "#/$defs/a0"});
        let twice = |key: &str| {
            let next = json!({key: again});
            chain(0, |next| next, json!({"allOf": [next, next]}))
        };
        let names: Vec<String> = (0..500).map(|number| number.to_string()).collect();
        let required =
            json!({"type": "object", "properties": {"x": {"items": {"required": names}}}});
        let unevaluated = |next| json!({"unevaluatedProperties": false, "anyOf": [next]});
        let doubled = |next| json!({"allOf": [next, next]});
        let item = json!({"items": again, "contains": again});
        let text = "x".repeat(60_000);
        let email = json!({"format": "email"});
        let unique = json!({"uniqueItems": true});
        let numbers = Value::from_iter(0..10_000);
        for (schema, value) in [
            // Few steps, each of which reads much.
            (chain(10, doubled, email.clone()), json!({"x": text})),
            (
                chain(10, doubled, json!({"propertyNames": email})),
                json!({"x": {text: 1}}),
            ),
            (chain(5, doubled, unique.clone()), json!({"x": numbers})),
            (chain(5, doubled, unique), json!({"x": [numbers]})),
            (
                chain(17, doubled, json!({"type": "string"})),
                json!({"x": 1}),
            ),
            (
                chain(15, unevaluated, json!({"required": ["a"]})),
                json!({"x": {"a": 1}}),
            ),
            (twice("items"), nested(18)),
            (twice("contains"), nested(18)),
            (chain(0, |next| next, item), nested(18)),
            (required, json!({"x": vec![json!({}); 300]})),
            // Each level by itself is little: it is the stack that has an end.
            (chain(50, |next| next, json!({"items": again})), nested(120)),
        ] {
            assert_eq!(problems(schema, &value), [TOO_MUCH]);
        }
    }

    #[test]
    fn what_people_write_is_checked() {
        let tree = |next: Value| json!({"properties": {"left": next, "right": next}});
        let tree = chain(
            1,
            tree,
            json!({"anyOf": [{"type": "integer"}, {"$ref": "#/$defs/a0"}]}),
        );
        let node = |inner: Value| json!({"left": inner, "right": inner});
        let trees = (0..9).fold(json!(1), |inner, _| node(inner));
        let filter = |next: Value| {
            let more = |key: &str| json!({"properties": {key: {"items": next}}, "required": [key]});
            json!({"anyOf": [more("all"), more("any"), {"required": ["field"]}]})
        };
        let filter = chain(1, filter, json!({"$ref": "#/$defs/a0"}));
        let filters = (0..6).fold(
            json!({"field": "a"}),
            |inner, _| json!({"all": [inner, inner]}),
        );
        let x = |schema| json!({"type": "object", "properties": {"x": schema}});
        let numbers = x(json!({"items": {"type": "integer"}, "uniqueItems": true}));
        let others = (0..100).map(|number| json!({"const": number}));
        let text =
            x(json!({"anyOf": others.chain([json!({"maxLength": 70_000})]).collect::<Value>()}));
        for (schema, value) in [
            (tree, trees),
            (filter, filters),
            (numbers, Value::from_iter(0..30_000)),
            (text, Value::from("x".repeat(60_000))),
        ] {
            assert_eq!(problems(schema, &json!({"x": value})), Vec::<String>::new());
        }
    }

    #[test]
    fn the_deepest_nesting_fits_the_stack() {
        // As applicators go in turn, by the way of problems: nothing fits.
        let link = |next| json!({"anyOf": [{"if": true, "then": {"oneOf": [next]}}]});
        let schema = chain(
            1,
            link,
            json!({"items": {"$ref": "#/$defs/a0"}, "type": "array"}),
        );
        let schema = Schema::compile(schema).unwrap();
        let fits = (1..120).take_while(|levels| check(schema.source(), &nested(*levels)).is_ok());
        let deepest = fits.last().unwrap();
        let checked = std::thread::Builder::new().stack_size(2 * 1024 * 1024);
        let checked = checked.spawn(move || schema.problems(&nested(deepest)));
        assert_ne!(checked.unwrap().join().unwrap(), Vec::<String>::new());
    }
}
