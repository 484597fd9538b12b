//! Shapes as JSON Schema (draft 7, which AsyncAPI builds on).

use serde_json::{Map, Value, json};

use super::{Field, Kind, Message, Offer};
use crate::catalogue::{self, Category, EventType};
use crate::frame::fields::{MAX_COUNT, MAX_LIST_ENTRIES, MAX_TOKEN_BYTES};
use crate::frame::pipeline;
use crate::name::MAX_NAME_BYTES;

impl Message {
    /// The schema of this message. Fields that it does not list are allowed:
    /// servers ignore them, and clients must expect new ones.
    #[must_use]
    pub fn schema(&self) -> Value {
        let kind = json!({"type": "string", "const": self.kind});
        let mut schema = object(self.fields.iter().copied(), self.is_tagged.then_some(kind));
        schema["description"] = json!(self.summary);
        schema
    }
}

/// An object with these fields, and a `type` where one is given.
fn object(fields: impl Iterator<Item = Field>, kind: Option<Value>) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    if let Some(kind) = kind {
        properties.insert("type".to_owned(), kind);
        required.push("type");
    }
    for field in fields {
        properties.insert(field.name.to_owned(), field.schema());
        if field.required {
            required.push(field.name);
        }
    }
    let mut schema = json!({"type": "object", "properties": properties});
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

impl Field {
    /// The schema of this field's value.
    #[must_use]
    pub fn schema(&self) -> Value {
        let mut schema = self.kind.schema();
        if !self.summary.is_empty() {
            schema["description"] = json!(self.summary);
        }
        schema
    }
}

impl Kind {
    /// The schema of a value of this kind. Lengths are bounded in characters
    /// here and in bytes by the decoders, which is stricter.
    #[must_use]
    pub fn schema(self) -> Value {
        let text = |most: usize| json!({"type": "string", "minLength": 1, "maxLength": most});
        match self {
            Self::Text { most } => text(most),
            Self::Credential => {
                let mut schema = text(MAX_TOKEN_BYTES);
                schema["format"] = json!("password");
                schema
            }
            Self::AnyText => json!({"type": "string"}),
            Self::NullableText => json!({"type": ["string", "null"]}),
            Self::Id => {
                let mut schema = text(MAX_NAME_BYTES);
                schema["pattern"] = json!("^\\S+$");
                schema
            }
            Self::Cursor | Self::FleetCursor => text(MAX_NAME_BYTES),
            Self::Count => json!({"type": "integer", "minimum": 0, "maximum": MAX_COUNT}),
            Self::Messages => json!({
                "type": "array", "minItems": 1, "maxItems": MAX_LIST_ENTRIES,
                "items": {"type": "object"},
            }),
            Self::Channel(offers) => json!({"type": "string", "enum": names(offers)}),
            // An enum would break clients that are generated from this when a
            // code is added.
            Self::Code => json!({"type": "string", "pattern": "^[A-Z_]+$"}),
            Self::Integer { least, most } => {
                json!({"type": "integer", "minimum": least, "maximum": most})
            }
            Self::Number => json!({"type": "number"}),
            Self::Flag => json!({"type": "boolean"}),
            Self::Time => json!({"type": "string", "format": "date-time"}),
            Self::Texts => json!({
                "type": "array", "minItems": 1, "maxItems": MAX_LIST_ENTRIES,
                "items": {"type": "string", "maxLength": MAX_NAME_BYTES},
            }),
            Self::AnyTexts => json!({"type": "array", "items": {"type": "string"}}),
            Self::AnyList => json!({"type": "array"}),
            Self::Any => json!({"type": ["string", "number", "boolean", "array", "object"]}),
            Self::Room => json!({
                "type": "string", "pattern": "^(global|(project|user|agent):\\S+)$",
            }),
            Self::Categories => words(Category::WORDS),
            Self::EventTypes => words(&pipeline::event_types()),
            Self::OneOf(words) => json!({"type": "string", "enum": words}),
            Self::Filters(offers) => filters(offers),
            Self::Choice(offers) => choice(offers),
            Self::List(fields) => {
                json!({"type": "array", "items": object(fields.iter().copied(), None)})
            }
            Self::Object(fields) => object(fields.iter().copied(), None),
            Self::AnyObject => json!({"type": "object"}),
            Self::Data { fields, without } => {
                let kept = fields
                    .iter()
                    .filter(|field| !without.contains(&field.name))
                    .map(|field| Field::from(*field));
                let mut schema = object(kept.clone(), None);
                // A producer's null stands for absent, and passes as it is.
                for field in kept.filter(|field| !field.required) {
                    allow_null(&mut schema["properties"][field.name]);
                }
                schema
            }
        }
    }
}

/// Makes null fit a schema, too.
fn allow_null(schema: &mut Value) {
    let mut types = match schema["type"].take() {
        Value::Array(types) => types,
        one => vec![one],
    };
    types.push(json!("null"));
    schema["type"] = Value::Array(types);
    if let Some(words) = schema.get_mut("enum").and_then(Value::as_array_mut) {
        words.push(Value::Null);
    }
}

/// A list of words of a closed list.
fn words(words: &[&str]) -> Value {
    json!({
        "type": "array", "minItems": 1, "maxItems": MAX_LIST_ENTRIES,
        "items": {"type": "string", "enum": words},
    })
}

fn names(offers: &[Offer]) -> Vec<&'static str> {
    offers.iter().map(|offer| offer.channel.name()).collect()
}

/// The filter keys of all channels; which of them a channel has is said in
/// words.
fn filters(offers: &[Offer]) -> Value {
    let mut properties = Map::new();
    for offer in offers {
        for filter in offer.filters {
            let mut schema = Kind::Texts.schema();
            schema["description"] = json!(format!("`{}`: {}", offer.channel, filter.summary));
            properties.insert(filter.key.to_owned(), schema);
        }
    }
    json!({"type": "object", "properties": properties, "additionalProperties": false})
}

/// One or several names of events, and scalars for any other key.
fn choice(offers: &[Offer]) -> Value {
    let offered = |kind: &&EventType| {
        offers
            .iter()
            .any(|offer| offer.channel == kind.route.channel)
    };
    let names: Vec<_> = catalogue::all()
        .filter(offered)
        .map(|kind| kind.name)
        .collect();
    let name = json!({"type": "string", "enum": names});
    let events = json!({"anyOf": [name, {
        "type": "array", "minItems": 1, "maxItems": MAX_LIST_ENTRIES, "items": name,
    }]});
    let scalar = json!({"type": ["string", "number", "boolean", "null"]});
    let value = json!({"anyOf": [scalar, {
        "type": "array", "minItems": 1, "maxItems": MAX_LIST_ENTRIES, "items": scalar,
    }]});
    json!({
        "type": "object",
        "properties": {
            "event": events,
            "events": events,
            "data": {"type": "object", "additionalProperties": value},
        },
        "additionalProperties": value,
    })
}
