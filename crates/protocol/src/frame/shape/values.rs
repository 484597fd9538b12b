//! Values that a field must accept and values that it must refuse, with what
//! the refusal says.

use serde_json::{Map, Value, json};

use super::{Field, Kind};
use crate::catalogue::Category;
use crate::error_code::ErrorCode;
use crate::frame::fields::{MAX_COUNT, MAX_LIST_ENTRIES, MAX_TOKEN_BYTES};
use crate::frame::mesh::MAX_FILTER_FIELDS;
use crate::frame::pipeline;
use crate::name::MAX_NAME_BYTES;

/// A value that a client's field may not have.
#[derive(Clone, Debug, PartialEq)]
pub struct Wrong {
    /// What is wrong with it.
    pub what: String,
    /// What stands in the field's place; `None` leaves the field out.
    pub value: Option<Value>,
    /// The code of the refusal.
    pub code: ErrorCode,
    /// The field that the refusal names.
    pub field: String,
    /// What the refusal says was expected; `None` where it depends on more
    /// than the kind.
    pub expected: Option<String>,
}

impl Field {
    /// Values that are refused, whatever the rest of the message says.
    #[must_use]
    pub fn wrong(&self) -> Vec<Wrong> {
        let mut all = Vec::new();
        if self.required {
            all.push(self.refused("missing", None));
            all.push(self.refused("null", Some(Value::Null)));
        }
        for (what, value) in self.kind.strangers() {
            all.push(self.refused(&what, Some(value)));
        }
        if let Kind::Channel(_) = self.kind {
            for word in ["nope", "THREAT_ALERTS", " ", "\u{0}"] {
                all.push(Wrong {
                    code: ErrorCode::UnknownChannel,
                    expected: None,
                    ..self.refused("unknown channel", Some(json!(word)))
                });
            }
        }
        let unknown = match self.kind {
            Kind::Categories => Some(ErrorCode::UnknownChannel),
            Kind::EventTypes => Some(ErrorCode::UnknownFilter),
            _ => None,
        };
        if let Some(code) = unknown {
            for word in ["nope", "", "pipeline", "threat_alert"] {
                all.push(Wrong {
                    code,
                    expected: None,
                    ..self.refused("unknown word", Some(json!([word])))
                });
            }
        }
        if let Kind::Object(fields) = self.kind {
            all.extend(fields.iter().flat_map(|inner| self.below(inner, fields)));
        }
        if let Kind::Choice(_) = self.kind {
            all.extend(self.bad_choices());
        }
        if let Kind::Filters(_) = self.kind {
            let list = Self::optional("key", Kind::Texts, "");
            all.extend(self.below(&list, &[]));
        }
        all
    }

    /// Filters of `mesh` that are refused.
    fn bad_choices(&self) -> Vec<Wrong> {
        let name = "an event's name or a list of them".to_owned();
        let scalar = format!(
            "a string, number, boolean or null, or a list of 1 to {MAX_LIST_ENTRIES} of them"
        );
        let long = "x".repeat(MAX_NAME_BYTES + 1);
        let many: Map<_, _> = (0..=MAX_FILTER_FIELDS)
            .map(|number| (format!("f{number}"), json!(1)))
            .collect();
        let mut cases = vec![
            (
                "filter.events",
                json!({"event": "a", "events": "b"}),
                "either `event` or `events`".to_owned(),
            ),
            (
                "filter",
                Value::Object(many),
                format!("at most {MAX_FILTER_FIELDS} fields"),
            ),
        ];
        for value in [
            json!(7),
            json!(true),
            json!({}),
            json!([]),
            json!(["a", 1]),
            json!(long),
        ] {
            cases.push(("filter.event", json!({"event": value}), name.clone()));
            cases.push(("filter.events", json!({"events": value}), name.clone()));
        }
        for value in [json!(7), json!("a"), json!([]), json!(true)] {
            cases.push((
                "filter.data",
                json!({"data": value}),
                "an object of fields".to_owned(),
            ));
        }
        for value in [
            json!({}),
            json!([]),
            json!([[]]),
            json!(long),
            json!(vec![1; MAX_LIST_ENTRIES + 1]),
        ] {
            cases.push(("filter.key", json!({"key": value}), scalar.clone()));
            cases.push((
                "filter.data.key",
                json!({"data": {"key": value}}),
                scalar.clone(),
            ));
        }
        let wrong = |(field, value, expected): (&str, Value, String)| Wrong {
            field: field.to_owned(),
            expected: Some(expected),
            ..self.refused(field, Some(value))
        };
        let mut all: Vec<_> = cases.into_iter().map(wrong).collect();
        for key in ["event", "events"] {
            all.push(Wrong {
                code: ErrorCode::UnknownFilter,
                field: format!("filter.{key}"),
                expected: None,
                ..self.refused("unknown event", Some(json!({key: ["nope"]})))
            });
        }
        all
    }

    /// Wrong values of a field below this one, beside what its siblings need.
    fn below(&self, inner: &Self, siblings: &[Self]) -> impl Iterator<Item = Wrong> {
        let wrong = inner.wrong().into_iter();
        let others: Map<_, _> = siblings
            .iter()
            .filter(|other| other.required && other.name != inner.name)
            .map(|other| (other.name.to_owned(), other.kind.samples().swap_remove(0)))
            .collect();
        wrong.map(move |wrong| Wrong {
            what: format!("{} {}", wrong.field, wrong.what),
            field: format!("{}.{}", self.name, wrong.field),
            value: Some({
                let mut object = others.clone();
                if let Some(value) = wrong.value {
                    object.insert(inner.name.to_owned(), value);
                }
                Value::Object(object)
            }),
            ..wrong
        })
    }

    /// Values that are accepted, null among them where it counts as absent.
    #[must_use]
    pub fn right(&self) -> Vec<Value> {
        let mut all = self.kind.samples();
        if !self.required {
            all.push(Value::Null);
        }
        all
    }

    fn refused(&self, what: &str, value: Option<Value>) -> Wrong {
        Wrong {
            what: what.to_owned(),
            value,
            code: match self.kind {
                Kind::Room => ErrorCode::InvalidRoom,
                _ => ErrorCode::InvalidMessage,
            },
            field: self.name.to_owned(),
            expected: Some(self.kind.expectation()),
        }
    }
}

impl Kind {
    /// Values that are not of this kind, null aside.
    #[must_use]
    pub fn strangers(self) -> Vec<(String, Value)> {
        let is_own = |value: &Value| match self {
            Self::Integer { .. } | Self::Number | Self::Count => value.is_number(),
            Self::Flag => value.is_boolean(),
            Self::Texts
            | Self::AnyTexts
            | Self::AnyList
            | Self::Categories
            | Self::EventTypes
            | Self::Messages
            | Self::List(_) => value.is_array(),
            Self::Any => true,
            Self::Filters(_)
            | Self::Choice(_)
            | Self::Object(_)
            | Self::AnyObject
            | Self::Data { .. } => value.is_object(),
            Self::Text { .. }
            | Self::Credential
            | Self::AnyText
            | Self::NullableText
            | Self::Id
            | Self::Cursor
            | Self::FleetCursor
            | Self::Channel(_)
            | Self::Code
            | Self::Time
            | Self::Room
            | Self::OneOf(_) => value.is_string(),
        };
        let types = [
            json!(true),
            json!(false),
            json!(0),
            json!(-7),
            json!(1.5),
            json!("text"),
            json!([]),
            json!(["text"]),
            json!({}),
            json!({"key": "text"}),
        ];
        let mut all: Vec<_> = types
            .into_iter()
            .filter(|value| !is_own(value))
            .map(|value| (value.to_string(), value))
            .collect();
        let mut add = |what: &str, value: Value| all.push((what.to_owned(), value));
        match self {
            Self::Text { most } => too_short_and_too_long(most, &mut add),
            Self::Credential => too_short_and_too_long(MAX_TOKEN_BYTES, &mut add),
            Self::Channel(_) => too_short_and_too_long(MAX_NAME_BYTES, &mut add),
            Self::Id => {
                too_short_and_too_long(MAX_NAME_BYTES, &mut add);
                for text in ["a b", " ", "a\n", "\u{0}", "\u{2003}"] {
                    add("white space or control characters", json!(text));
                }
            }
            Self::Cursor => {
                too_short_and_too_long(MAX_NAME_BYTES, &mut add);
                for text in ["x", "1", "-1", "1-", "01-1", "1-01", "A-1", "1-1-1", " 1-1"] {
                    add("no position", json!(text));
                }
            }
            Self::FleetCursor => {
                too_short_and_too_long(MAX_NAME_BYTES, &mut add);
                for text in [
                    "x",
                    "1-1",
                    "1-1.",
                    "1-1.01",
                    "A-1.1",
                    "1-1.1.0",
                    "1-1.1.1.1",
                ] {
                    add("no position", json!(text));
                }
            }
            Self::Count => {
                add("a fraction", json!(0.5));
                add("too much", json!(MAX_COUNT + 1));
                add("negative", json!(-1));
            }
            Self::Messages => {
                add("empty", json!([]));
                add(
                    "too many entries",
                    json!(vec![json!({}); MAX_LIST_ENTRIES + 1]),
                );
                for entry in [json!(null), json!(1), json!("x"), json!([])] {
                    add("an entry that is no object", json!([{"type": "x"}, entry]));
                }
            }
            Self::Integer { least, most } => {
                add("a fraction", json!(f64::from(least) + 0.5));
                add("too much", json!(u64::from(most) + 1));
                add("negative", json!(-1));
                if least > 0 {
                    add("too little", json!(least - 1));
                }
            }
            Self::Room => {
                for text in [
                    "",
                    "text",
                    "global ",
                    "GLOBAL",
                    "project",
                    "project:",
                    "Project:x",
                    "project: x",
                    "user:x\n",
                    "agent:\u{0}",
                    "team:x",
                ] {
                    add("no room", json!(text));
                }
                let long = "x".repeat(MAX_NAME_BYTES + 1);
                add("an id too long", json!(format!("project:{long}")));
            }
            Self::Texts | Self::Categories | Self::EventTypes => {
                add("empty", json!([]));
                add("too many entries", json!(vec!["x"; MAX_LIST_ENTRIES + 1]));
                add(
                    "an entry too long",
                    json!(["x", "x".repeat(MAX_NAME_BYTES + 1)]),
                );
                for entry in [json!(null), json!(1), json!(true), json!([]), json!({})] {
                    add("an entry that is no string", json!(["x", entry]));
                }
            }
            Self::AnyTexts => add("an entry that is no string", json!([1])),
            Self::OneOf(words) => {
                add("unknown word", json!("nope"));
                add("empty", json!(""));
                let other_case = words[0].to_ascii_uppercase();
                if !words.contains(&other_case.as_str()) {
                    add("another case", json!(other_case));
                }
            }
            Self::Time | Self::Code => add("no such text", json!("x")),
            Self::AnyText
            | Self::NullableText
            | Self::List(_)
            | Self::Number
            | Self::Flag
            | Self::AnyList
            | Self::Filters(_)
            | Self::Choice(_)
            | Self::Object(_)
            | Self::AnyObject
            | Self::Any
            | Self::Data { .. } => {}
        }
        all
    }

    /// Values of this kind, those at its bounds among them.
    #[must_use]
    pub fn samples(self) -> Vec<Value> {
        let upto = |most: usize| {
            let wide = "\u{fc}".repeat(most / 2);
            vec![json!("x"), json!("x".repeat(most)), json!(wide)]
        };
        match self {
            Self::Text { most } => upto(most),
            Self::Credential => upto(MAX_TOKEN_BYTES),
            Self::Id => upto(MAX_NAME_BYTES),
            Self::AnyText | Self::NullableText => vec![json!(""), json!("x")],
            Self::Cursor => vec![
                json!("1-0"),
                json!("61d1e0-17"),
                json!("ffffffffffffffff-18446744073709551615"),
            ],
            Self::FleetCursor => vec![json!("1-0.0"), json!("61d1e0-17.4"), json!("1-0.7.2")],
            Self::Count => vec![json!(0), json!(MAX_COUNT)],
            Self::Messages => vec![json!([{"type": "heartbeat:ping"}])],
            Self::Channel(offers) => offers
                .iter()
                .map(|offer| json!(offer.channel.name()))
                .collect(),
            Self::Code => ErrorCode::ALL.iter().map(|code| json!(code)).collect(),
            Self::Integer { least, most } => vec![json!(least), json!(most)],
            Self::Number => vec![json!(0), json!(-1.5)],
            Self::Flag => vec![json!(true), json!(false)],
            Self::Time => vec![
                json!("2024-12-19T21:30:00Z"),
                json!("2024-12-19T21:30:00.5+01:00"),
            ],
            Self::Texts => vec![
                json!([""]),
                json!(["a", "b", "a"]),
                json!(vec!["x".repeat(MAX_NAME_BYTES); MAX_LIST_ENTRIES]),
            ],
            Self::AnyTexts => vec![json!([]), json!(["x"])],
            Self::AnyList => vec![json!([]), json!(["x", 1])],
            Self::Any => vec![json!("x"), json!(0), json!({"key": [1]})],
            Self::Room => vec![
                json!("global"),
                json!("project:x"),
                json!("user:a:b"),
                json!(format!("agent:{}", "x".repeat(MAX_NAME_BYTES))),
            ],
            Self::Categories => vec![json!(["PIPELINE"]), json!(Category::WORDS)],
            Self::EventTypes => vec![json!(["system_alert"]), json!(pipeline::event_types())],
            Self::OneOf(words) => words.iter().map(|word| json!(word)).collect(),
            Self::Filters(_) => vec![json!({}), json!({"key": null}), json!({"key": ["x"]})],
            Self::Choice(_) => vec![
                json!({}),
                json!({"event": null, "events": null, "data": null}),
                json!({"key": ["x", 1, true, null], "other": -1.5}),
                json!({"data": {"event": true, "key": null}}),
            ],
            Self::Object(fields) => objects(fields),
            Self::List(fields) => vec![json!([]), Value::Array(objects(fields))],
            Self::AnyObject => vec![json!({}), json!({"key": [1]})],
            Self::Data { .. } => Vec::new(),
        }
    }
}

/// The object with the required fields alone, and one for each further value.
fn objects(fields: &[Field]) -> Vec<Value> {
    let mut bare = Map::new();
    for field in fields.iter().filter(|field| field.required) {
        bare.insert(field.name.to_owned(), field.kind.samples().swap_remove(0));
    }
    let varied = fields.iter().flat_map(|field| {
        field.right().into_iter().map(|value| {
            let mut object = bare.clone();
            object.insert(field.name.to_owned(), value);
            Value::Object(object)
        })
    });
    std::iter::once(Value::Object(bare.clone()))
        .chain(varied)
        .collect()
}

fn too_short_and_too_long(most: usize, add: &mut impl FnMut(&str, Value)) {
    add("empty", json!(""));
    add("one byte too long", json!("x".repeat(most + 1)));
    add("wide characters", json!("\u{fc}".repeat(most / 2 + 1)));
}
