//! Frames of dialect `mesh`.

pub mod shape;

use serde::Serialize;
use serde_json::{Map, Value};

use super::fields::{Complaint, Fields, MAX_LIST_ENTRIES, MAX_TOKEN_BYTES};
use crate::cursor::Cursor;
use crate::error_code::ErrorCode;
use crate::name::MAX_NAME_BYTES;
use crate::timestamp::Timestamp;

/// The longest name of a type or channel, and the longest resume offset, in
/// bytes.
const MAX_WORD_BYTES: usize = MAX_NAME_BYTES;
/// The most fields of an event's data that a filter may look at.
pub(crate) const MAX_FILTER_FIELDS: usize = 16;

/// What a client sends.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientFrame {
    /// Goes on with a fresh credential of the same user.
    Authenticate {
        /// An API key or a JWT.
        token: String,
    },
    /// Asks for a channel's events, in place of what it asked for before.
    Subscribe(Subscribe),
    /// Asks for no more events of a channel.
    Unsubscribe {
        /// The channel's name.
        channel: String,
    },
    /// Asks for a `pong`.
    Ping,
}

/// A request for a channel's events.
#[derive(Clone, Debug, PartialEq)]
pub struct Subscribe {
    /// The channel's name.
    pub channel: String,
    /// Which events of it.
    pub filter: Filter,
    /// The `seq` after which to go on.
    pub since: Option<Cursor>,
}

/// A filter: `{"event": NAME, "FIELD": VALUE, ...}`.
///
/// `event` or `events` is one name or a list of them. Every other key is a
/// top-level field of the event's data; it must equal the value, or one of a
/// list of values. Values are strings, numbers, booleans or null; numbers are
/// compared by value, and null also matches a field that is not there. Keys
/// add up, values of a list are alternatives. Fields may also stand below
/// `data`, which is the only way to name a field that is itself called
/// `event`, `events` or `data`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// Accepted names, with the key that had them; `None` without a choice.
    pub events: Option<(&'static str, Vec<String>)>,
    /// Accepted values by field.
    pub fields: Vec<(String, Vec<Value>)>,
}

impl ClientFrame {
    /// Reads a text frame.
    ///
    /// # Errors
    /// INVALID_JSON, INVALID_MESSAGE with the field's name, or UNKNOWN_TYPE.
    pub fn decode(text: &str) -> Result<Self, Complaint> {
        let mut fields = Fields::parse(text)?;
        let kind = fields.text("type", MAX_WORD_BYTES)?;
        match kind.as_str() {
            "authenticate" => Ok(Self::Authenticate {
                token: fields.text("token", MAX_TOKEN_BYTES)?,
            }),
            "subscribe" => subscribe(fields).map(Self::Subscribe),
            "unsubscribe" => Ok(Self::Unsubscribe {
                channel: fields.text("channel", MAX_WORD_BYTES)?,
            }),
            "ping" => Ok(Self::Ping),
            _ => Err(Complaint {
                code: ErrorCode::UnknownType,
                message: format!(
                    "unknown type `{kind}`: expected authenticate, subscribe, unsubscribe or ping"
                ),
                field: Some("type".to_owned()),
            }),
        }
    }
}

fn subscribe(mut fields: Fields) -> Result<Subscribe, Complaint> {
    let channel = fields.text("channel", MAX_WORD_BYTES)?;
    let filter = match fields.optional_object("filter")? {
        None => Filter::default(),
        Some(filter) => Filter::read(filter.into_rest())?,
    };
    let since = fields.optional_cursor("since")?;
    Ok(Subscribe {
        channel,
        filter,
        since,
    })
}

impl Filter {
    fn read(mut object: Map<String, Value>) -> Result<Self, Complaint> {
        let mut filter = Self::default();
        for key in ["event", "events"] {
            let Some(value) = object.remove(key).filter(|value| !value.is_null()) else {
                continue;
            };
            let path = format!("filter.{key}");
            if filter.events.is_some() {
                return Err(Complaint::field(&path, "either `event` or `events`"));
            }
            let names = alternatives(value)
                .into_iter()
                .flatten()
                .map(|name| match name {
                    Value::String(name) if name.len() <= MAX_NAME_BYTES => Some(name),
                    _ => None,
                })
                .collect::<Option<Vec<String>>>()
                .filter(|names| !names.is_empty())
                .ok_or_else(|| Complaint::field(&path, "an event's name or a list of them"))?;
            filter.events = Some((key, names));
        }
        match object.remove("data") {
            None | Some(Value::Null) => {}
            Some(Value::Object(fields)) => filter.add(fields, "filter.data.")?,
            Some(_) => return Err(Complaint::field("filter.data", "an object of fields")),
        }
        filter.add(object, "filter.")?;
        if filter.fields.len() > MAX_FILTER_FIELDS {
            let most = format!("at most {MAX_FILTER_FIELDS} fields");
            return Err(Complaint::field("filter", &most));
        }
        Ok(filter)
    }

    fn add(&mut self, fields: Map<String, Value>, prefix: &str) -> Result<(), Complaint> {
        for (field, value) in fields {
            let values = alternatives(value)
                .filter(|values| field.len() <= MAX_NAME_BYTES && values.iter().all(is_scalar))
                .ok_or_else(|| {
                    Complaint::field(
                        &format!("{prefix}{field}"),
                        &format!(
                            "a string, number, boolean or null, or a list of 1 to {MAX_LIST_ENTRIES} of them"
                        ),
                    )
                })?;
            self.fields.push((field, values));
        }
        Ok(())
    }
}

/// The values that a filter names: one, or a list that is neither empty nor
/// too long.
fn alternatives(value: Value) -> Option<Vec<Value>> {
    match value {
        Value::Array(values) => (1..=MAX_LIST_ENTRIES)
            .contains(&values.len())
            .then_some(values),
        one => Some(vec![one]),
    }
}

fn is_scalar(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => true,
        Value::String(text) => text.len() <= MAX_NAME_BYTES,
        Value::Array(_) | Value::Object(_) => false,
    }
}

/// What a client is sent, apart from events.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerFrame<'a> {
    /// The fresh credential was accepted.
    Authenticated {
        /// What it is.
        data: Authenticated<'a>,
        /// When.
        timestamp: Timestamp,
    },
    /// Events of the channel follow.
    Subscribed {
        /// Which, and from where.
        data: Subscribed<'a>,
        /// When.
        timestamp: Timestamp,
    },
    /// No more events of the channel follow.
    Unsubscribed {
        /// Which.
        data: Unsubscribed<'a>,
        /// When.
        timestamp: Timestamp,
    },
    /// Answers `ping`.
    Pong,
    /// Something went wrong.
    Error {
        /// What.
        data: Failure<'a>,
        /// When.
        timestamp: Timestamp,
    },
}

/// The data of `authenticated`.
#[derive(Clone, Debug, Serialize)]
pub struct Authenticated<'a> {
    /// Names this connection in logs and support requests.
    pub session_id: &'a str,
    /// When the credential expires; absent when it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// The data of `subscribed`.
#[derive(Clone, Debug, Serialize)]
pub struct Subscribed<'a> {
    /// The channel's name.
    pub channel: &'a str,
    /// Every event behind this position will come.
    pub seq: Cursor,
    /// Whether all that was missed since `since` follows; absent without
    /// `since`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovered: Option<bool>,
}

/// The data of `unsubscribed`.
#[derive(Clone, Debug, Serialize)]
pub struct Unsubscribed<'a> {
    /// The channel's name.
    pub channel: &'a str,
}

/// The data of `error`.
#[derive(Clone, Debug, Serialize)]
pub struct Failure<'a> {
    /// Why.
    pub code: ErrorCode,
    /// For people.
    pub message: &'a str,
    /// The field at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<&'a str>,
    /// When to try again, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
    /// When the token expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

impl<'a> Failure<'a> {
    /// A failure with nothing else to say.
    #[must_use]
    pub const fn new(code: ErrorCode, message: &'a str) -> Self {
        Self {
            code,
            message,
            field: None,
            retry_after: None,
            expires_at: None,
        }
    }
}

/// An event.
#[derive(Debug, Serialize)]
pub struct EventFrame<'a> {
    /// The frame's type, one for each channel.
    #[serde(rename = "type")]
    pub kind: &'a str,
    /// The event's name.
    pub event: &'a str,
    /// What happened.
    pub data: &'a Map<String, Value>,
    /// When it happened.
    pub timestamp: Timestamp,
    /// The producer's id.
    pub id: &'a str,
    /// The position behind it.
    pub seq: Cursor,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn filter(text: &str) -> Result<Filter, Complaint> {
        let text = format!(r#"{{"type":"subscribe","channel":"c","filter":{text}}}"#);
        match ClientFrame::decode(&text)? {
            ClientFrame::Subscribe(subscribe) => Ok(subscribe.filter),
            _ => panic!(),
        }
    }

    #[test]
    fn filters_may_be_flat_or_nested() {
        let mut flat = filter(r#"{"event":"node_joined","severity":"high","n":[1,null]}"#).unwrap();
        flat.fields.sort_by(|one, other| one.0.cmp(&other.0));
        assert_eq!(flat.events, Some(("event", vec!["node_joined".to_owned()])));
        assert_eq!(
            flat.fields,
            [
                ("n".to_owned(), vec![json!(1), json!(null)]),
                ("severity".to_owned(), vec![json!("high")]),
            ]
        );
        let nested = filter(r#"{"events":["a","b"],"data":{"event":true}}"#).unwrap();
        assert_eq!(nested.events.unwrap().1, ["a", "b"]);
        assert_eq!(nested.fields, [("event".to_owned(), vec![json!(true)])]);
    }

    #[test]
    fn complaints_about_filters_name_the_field() {
        for (text, field) in [
            ("[]", "filter"),
            (r#"{"event":[]}"#, "filter.event"),
            (r#"{"event":7}"#, "filter.event"),
            (r#"{"event":"a","events":["b"]}"#, "filter.events"),
            (r#"{"data":7}"#, "filter.data"),
            (r#"{"data":{"a":{}}}"#, "filter.data.a"),
            (r#"{"a":[]}"#, "filter.a"),
            (r#"{"a":[[]]}"#, "filter.a"),
        ] {
            let complaint = filter(text).unwrap_err();
            assert_eq!(complaint.field.as_deref(), Some(field), "{text}");
            assert_eq!(complaint.code, ErrorCode::InvalidMessage, "{text}");
        }
    }
}
