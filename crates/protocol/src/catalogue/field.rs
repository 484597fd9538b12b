//! Fields of an event's data and what each must be.

use serde_json::{Map, Value};

use crate::name;
use crate::timestamp::Timestamp;

/// A field that the catalogue checks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Field {
    /// Its key in the event's data.
    pub name: &'static str,
    /// What its value must be.
    pub kind: Kind,
    /// Whether an event without it is refused. `null` counts as absent.
    pub required: bool,
}

/// What a value must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A string.
    Text,
    /// A string that identifies something: 1 to 128 bytes without white space.
    Id,
    /// A number.
    Number,
    /// A boolean.
    Flag,
    /// An RFC 3339 timestamp.
    Time,
    /// A list of strings.
    Texts,
    /// A list of anything.
    List,
    /// An object.
    Object,
    /// Anything.
    Any,
    /// One word of a closed list.
    OneOf(&'static [&'static str]),
}

impl Field {
    /// A field that must be there.
    #[must_use]
    pub const fn required(name: &'static str, kind: Kind) -> Self {
        Self {
            name,
            kind,
            required: true,
        }
    }

    /// A field that is checked when it is there.
    #[must_use]
    pub const fn optional(name: &'static str, kind: Kind) -> Self {
        Self {
            name,
            kind,
            required: false,
        }
    }

    /// Checks this field of `data`.
    ///
    /// # Errors
    /// When it is required and absent, or not of its kind.
    pub fn check(&self, data: &Map<String, Value>) -> Result<(), FieldError> {
        let accepted = match data.get(self.name) {
            None | Some(Value::Null) => !self.required,
            Some(value) => self.kind.accepts(value),
        };
        if accepted {
            Ok(())
        } else {
            Err(FieldError {
                field: self.name.to_owned(),
                expected: self.kind.expectation(),
            })
        }
    }
}

impl Kind {
    fn accepts(self, value: &Value) -> bool {
        match self {
            Self::Text => value.is_string(),
            Self::Id => value.as_str().is_some_and(name::is_valid),
            Self::Number => value.is_number(),
            Self::Flag => value.is_boolean(),
            Self::Time => value.as_str().and_then(Timestamp::parse).is_some(),
            Self::Texts => value
                .as_array()
                .is_some_and(|items| items.iter().all(Value::is_string)),
            Self::List => value.is_array(),
            Self::Object => value.is_object(),
            Self::Any => true,
            Self::OneOf(words) => value.as_str().is_some_and(|text| words.contains(&text)),
        }
    }

    /// What a refusal says was expected.
    #[must_use]
    pub fn expectation(self) -> String {
        match self {
            Self::Text => "a string".to_owned(),
            Self::Id => format!(
                "an id of 1 to {} bytes without white space",
                name::MAX_NAME_BYTES
            ),
            Self::Number => "a number".to_owned(),
            Self::Flag => "a boolean".to_owned(),
            Self::Time => "an RFC 3339 timestamp".to_owned(),
            Self::Texts => "a list of strings".to_owned(),
            Self::List => "a list".to_owned(),
            Self::Object => "an object".to_owned(),
            Self::Any => "a value".to_owned(),
            Self::OneOf(words) => format!("one of {}", words.join(", ")),
        }
    }
}

/// A field that is missing or not what it must be.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("field `{field}`: expected {expected}")]
pub struct FieldError {
    /// The field's name.
    pub field: String,
    /// What it must be.
    pub expected: String,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(field: Field, data: Value) -> bool {
        field.check(data.as_object().unwrap()).is_ok()
    }

    #[test]
    fn each_kind_accepts_its_values_and_no_others() {
        let cases = [
            (Kind::Text, json!(""), json!(1)),
            (Kind::Id, json!("a"), json!("a b")),
            (Kind::Number, json!(1.5), json!("1")),
            (Kind::Flag, json!(true), json!("true")),
            (Kind::Time, json!("2024-12-19T21:30:00Z"), json!("now")),
            (Kind::Texts, json!(["a"]), json!(["a", 1])),
            (Kind::List, json!([1, "a"]), json!({})),
            (Kind::Object, json!({}), json!([])),
            (Kind::OneOf(&["a", "b"]), json!("b"), json!("c")),
        ];
        for (kind, good, bad) in cases {
            assert!(
                check(Field::required("f", kind), json!({"f": good})),
                "{kind:?}"
            );
            assert!(
                !check(Field::required("f", kind), json!({"f": bad})),
                "{kind:?}"
            );
            assert!(
                !check(Field::optional("f", kind), json!({"f": bad})),
                "{kind:?}"
            );
            assert!(
                !check(Field::required("f", kind), json!({"f": null})),
                "{kind:?}"
            );
            assert!(!check(Field::required("f", kind), json!({})), "{kind:?}");
            assert!(
                check(Field::optional("f", kind), json!({"f": null})),
                "{kind:?}"
            );
            assert!(check(Field::optional("f", kind), json!({})), "{kind:?}");
        }
    }

    #[test]
    fn anything_is_not_nothing() {
        let field = Field::required("f", Kind::Any);
        for value in [json!(0), json!(false), json!(""), json!([]), json!({})] {
            assert!(check(field, json!({"f": value})));
        }
        assert!(!check(field, json!({"f": null})));
        assert!(!check(field, json!({})));
    }

    #[test]
    fn a_refusal_names_the_field_and_what_was_expected() {
        let field = Field::required("decision", Kind::OneOf(&["approve", "reject"]));
        let error = field.check(&Map::new()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "field `decision`: expected one of approve, reject"
        );
    }
}
