//! Whether a message that was written is what its shape says.

use serde_json::{Map, Value};

use super::{Field, Kind, Message};
use crate::catalogue::Category;
use crate::error_code::ErrorCode;
use crate::frame::fields::{MAX_COUNT, MAX_LIST_ENTRIES, MAX_TOKEN_BYTES};
use crate::frame::pipeline;
use crate::frame::workspace::Room;
use crate::name::{self, MAX_NAME_BYTES};
use crate::timestamp::Timestamp;

/// In what a message differs from its shape.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Misfit {
    /// The value is no object, or its type or event is another.
    #[error("expected a message `{0}`")]
    Other(String),
    /// A required field is missing.
    #[error("field `{0}` is missing")]
    Missing(String),
    /// A field is there that the shape does not have.
    #[error("field `{0}` is not in the shape")]
    Unlisted(String),
    /// A field's value is not of its kind.
    #[error("field `{0}`: expected {1}")]
    Kind(String, String),
}

impl Message {
    /// Checks that a message has the fields of this shape and no others.
    ///
    /// # Errors
    /// The first difference.
    pub fn check(&self, value: &Value) -> Result<(), Misfit> {
        let is_own = |fields: &Map<String, Value>| {
            !self.is_tagged || fields.get("type").is_some_and(|kind| kind == self.kind)
        };
        let fields = value
            .as_object()
            .filter(|fields| is_own(fields))
            .ok_or_else(|| Misfit::Other(self.name()))?;
        let besides: &[&str] = if self.is_tagged { &["type"] } else { &[] };
        check_fields("", &self.fields, fields, besides)
    }
}

fn check_fields(
    path: &str,
    shape: &[Field],
    fields: &Map<String, Value>,
    besides: &[&str],
) -> Result<(), Misfit> {
    for field in shape {
        let name = format!("{path}{}", field.name);
        match fields.get(field.name) {
            None if field.required => return Err(Misfit::Missing(name)),
            None => {}
            Some(value) => field.kind.check(&name, value)?,
        }
    }
    let listed = |key: &str| besides.contains(&key) || shape.iter().any(|field| field.name == key);
    match fields.keys().find(|key| !listed(key)) {
        Some(key) => Err(Misfit::Unlisted(format!("{path}{key}"))),
        None => Ok(()),
    }
}

/// Whether all entries of a list are among these words.
fn all_of(list: &Value, words: &[&str]) -> bool {
    let entries = list.as_array().into_iter().flatten();
    entries
        .map(|entry| entry.as_str().unwrap_or_default())
        .all(|entry| words.contains(&entry))
}

impl Kind {
    fn check(self, name: &str, value: &Value) -> Result<(), Misfit> {
        let wrong = || Misfit::Kind(name.to_owned(), self.expectation());
        match (self, value) {
            (Self::Object(shape), Value::Object(fields)) => {
                check_fields(&format!("{name}."), shape, fields, &[])
            }
            (Self::Data { fields, without }, Value::Object(data)) => {
                for field in fields {
                    let moved = without.contains(&field.name);
                    if moved && data.contains_key(field.name) {
                        return Err(Misfit::Unlisted(format!("{name}.{}", field.name)));
                    }
                    if !moved && field.check(data).is_err() {
                        let expected = field.kind.expectation();
                        return Err(Misfit::Kind(format!("{name}.{}", field.name), expected));
                    }
                }
                Ok(())
            }
            (Self::List(shape), Value::Array(items)) => {
                let object = Self::Object(shape);
                let mut items = items.iter();
                items.try_for_each(|item| object.check(&format!("{name}[]"), item))
            }
            _ if self.fits(value) => Ok(()),
            _ => Err(wrong()),
        }
    }

    /// Whether a value is of this kind, as far as a simple value can be.
    fn fits(self, value: &Value) -> bool {
        let text = value.as_str();
        let sized = |most: usize| text.is_some_and(|text| (1..=most).contains(&text.len()));
        let texts = |most: usize| {
            value.as_array().is_some_and(|items| {
                items
                    .iter()
                    .all(|item| item.as_str().is_some_and(|text| text.len() <= most))
            })
        };
        match self {
            Self::Text { most } => sized(most),
            Self::Credential => sized(MAX_TOKEN_BYTES),
            Self::AnyText => text.is_some(),
            Self::NullableText => text.is_some() || value.is_null(),
            Self::Id => text.is_some_and(name::is_valid),
            Self::Cursor | Self::FleetCursor => sized(MAX_NAME_BYTES),
            Self::Count => value.as_u64().is_some_and(|number| number <= MAX_COUNT),
            Self::Messages => value.as_array().is_some_and(|items| {
                (1..=MAX_LIST_ENTRIES).contains(&items.len()) && items.iter().all(Value::is_object)
            }),
            Self::Channel(offers) => offers
                .iter()
                .any(|offer| Some(offer.channel.name()) == text),
            Self::Code => text.and_then(ErrorCode::parse).is_some(),
            Self::Integer { least, most } => value
                .as_u64()
                .is_some_and(|number| (u64::from(least)..=u64::from(most)).contains(&number)),
            Self::Number => value.is_number(),
            Self::Flag => value.is_boolean(),
            Self::Time => text.and_then(Timestamp::parse).is_some(),
            Self::Texts => {
                texts(MAX_NAME_BYTES)
                    && value
                        .as_array()
                        .is_some_and(|items| (1..=MAX_LIST_ENTRIES).contains(&items.len()))
            }
            Self::AnyTexts => texts(usize::MAX),
            Self::AnyList => value.is_array(),
            Self::Any => !value.is_null(),
            Self::Room => text.is_some_and(|text| text.parse::<Room>().is_ok()),
            Self::Categories => Self::Texts.fits(value) && all_of(value, Category::WORDS),
            Self::EventTypes => Self::Texts.fits(value) && all_of(value, &pipeline::event_types()),
            Self::OneOf(words) => text.is_some_and(|text| words.contains(&text)),
            Self::Filters(_) => value
                .as_object()
                .is_some_and(|lists| lists.values().all(|list| Self::Texts.fits(list))),
            Self::List(_) => value.is_array(),
            Self::Choice(_) | Self::Object(_) | Self::AnyObject | Self::Data { .. } => {
                value.is_object()
            }
        }
    }
}
