//! Frames of dialect `pipeline`: the arguments of its Socket.IO events.

pub mod shape;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::fields::{Complaint, Fields, MAX_TOKEN_BYTES};
use super::socketio;
use crate::catalogue::{self, Category, EventType};
use crate::cursor::Cursor;
use crate::error_code::ErrorCode;
use crate::event::Priority;
use crate::timestamp::Timestamp;

/// The event that says that the credential was accepted.
pub const AUTHENTICATED: &str = "authenticated";
/// The event that says that there is no good credential.
pub const AUTH_ERROR: &str = "auth_error";
/// The event that says that something else went wrong.
pub const ERROR: &str = "error";

/// What an event's argument has at its top level beside the event's data.
/// Where the data has a field of one of these names, that field stands under
/// `data` alone.
pub const OWN_FIELDS: [&str; 7] = [
    "data",
    "event_type",
    "category",
    "priority",
    "timestamp",
    "id",
    "seq",
];

/// What a client emits.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientEvent {
    /// Says who it is: first, and again with a fresh credential.
    Authenticate {
        /// An API key or a JWT.
        token: String,
    },
    /// Narrows which events come, in place of what it asked for before.
    Subscribe(Subscribe),
}

/// Which events a client wants. What is absent narrows nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Subscribe {
    /// Accepted categories.
    pub categories: Option<Vec<Category>>,
    /// Accepted types.
    pub event_types: Option<Vec<&'static EventType>>,
    /// The least priority.
    pub min_priority: Option<Priority>,
    /// The `seq` after which to go on.
    pub since: Option<Cursor>,
}

/// The words of `min_priority`.
const PRIORITIES: &[&str] = &[
    Priority::High.as_str(),
    Priority::Medium.as_str(),
    Priority::Low.as_str(),
];

impl ClientEvent {
    /// Reads an event.
    ///
    /// # Errors
    /// UNKNOWN_TYPE for another name, INVALID_MESSAGE with the field's name,
    /// UNKNOWN_CHANNEL for a category and UNKNOWN_FILTER for an event type
    /// that there is not.
    pub fn decode(name: &str, arguments: &[&RawValue]) -> Result<Self, Complaint> {
        match name {
            "authenticate" => Ok(Self::Authenticate {
                token: socketio::object(arguments)?.text("token", MAX_TOKEN_BYTES)?,
            }),
            "subscribe" => subscribe(socketio::object(arguments)?).map(Self::Subscribe),
            _ => Err(socketio::unknown(name, "authenticate or subscribe")),
        }
    }
}

fn subscribe(mut fields: Fields) -> Result<Subscribe, Complaint> {
    let categories = fields.optional_texts("categories")?;
    let event_types = fields.optional_texts("event_types")?;
    let min_priority = if fields.has("min_priority") {
        let word = fields.word("min_priority", PRIORITIES)?;
        let wrong = |_| Complaint::field("min_priority", "a priority");
        Some(word.parse().map_err(wrong)?)
    } else {
        None
    };
    let since = fields.optional_cursor("since")?;
    let categories = categories.map(|words| words.iter().map(|word| category(word)).collect());
    let event_types = event_types.map(|names| names.iter().map(|name| event_type(name)).collect());
    Ok(Subscribe {
        categories: categories.transpose()?,
        event_types: event_types.transpose()?,
        min_priority,
        since,
    })
}

fn category(word: &str) -> Result<Category, Complaint> {
    Category::parse(word).ok_or_else(|| Complaint {
        code: ErrorCode::UnknownChannel,
        message: format!(
            "unknown category `{word}`: expected {}",
            Category::WORDS.join(", ")
        ),
        field: Some("categories".to_owned()),
    })
}

/// The names of all event types that the dialect has a word for.
#[must_use]
pub fn event_types() -> Vec<&'static str> {
    catalogue::all()
        .filter(|kind| kind.words.pipeline.is_some())
        .map(|kind| kind.name)
        .collect()
}

fn event_type(name: &str) -> Result<&'static EventType, Complaint> {
    catalogue::all()
        .find(|kind| kind.words.pipeline.is_some() && kind.name == name)
        .ok_or_else(|| Complaint {
            code: ErrorCode::UnknownFilter,
            message: format!("unknown event type `{name}`"),
            field: Some("event_types".to_owned()),
        })
}

/// The argument of `authenticated`. The user's fields stand under `user` and
/// at the top level.
#[derive(Clone, Debug, PartialEq)]
pub struct Authenticated<'a> {
    /// Who it is.
    pub user: User<'a>,
    /// When the credential expires; absent when it does not.
    pub expires_at: Option<Timestamp>,
    /// Every event behind this position will come.
    pub seq: Cursor,
    /// Whether all that was missed follows; absent where nothing was asked
    /// for.
    pub recovered: Option<bool>,
}

/// An authenticated user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct User<'a> {
    /// The stable id.
    pub id: &'a str,
    /// The name shown to people.
    pub name: &'a str,
    /// The role; absent where this version does not know it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'a str>,
    /// What it may do.
    pub permissions: Vec<String>,
}

impl Serialize for Authenticated<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Both<'a> {
            user: &'a User<'a>,
            #[serde(flatten)]
            fields: &'a User<'a>,
            #[serde(skip_serializing_if = "Option::is_none")]
            expires_at: Option<Timestamp>,
            seq: Cursor,
            #[serde(skip_serializing_if = "Option::is_none")]
            recovered: Option<bool>,
        }
        let both = Both {
            user: &self.user,
            fields: &self.user,
            expires_at: self.expires_at,
            seq: self.seq,
            recovered: self.recovered,
        };
        both.serialize(serializer)
    }
}

/// The argument of `auth_error` and of `error`, and what a refused request has
/// in its acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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

impl<'a> From<&'a Complaint> for Failure<'a> {
    fn from(complaint: &'a Complaint) -> Self {
        Self {
            field: complaint.field.as_deref(),
            ..Self::new(complaint.code, &complaint.message)
        }
    }
}

/// The argument of an acknowledgement.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Acknowledgement<'a> {
    /// The request was served.
    Success {
        /// Every event behind this position will come.
        seq: Cursor,
        /// Whether all that was missed since `since` follows; absent without
        /// `since`.
        #[serde(skip_serializing_if = "Option::is_none")]
        recovered: Option<bool>,
    },
    /// The request was not served.
    Error(Failure<'a>),
}

/// The argument of an event, which is emitted under its type's own name.
#[derive(Clone, Debug)]
pub struct EventPayload<'a> {
    /// The type's name.
    pub event_type: &'a str,
    /// The category that it belongs to.
    pub category: Category,
    /// How urgent it is.
    pub priority: Priority,
    /// What happened.
    pub data: &'a Map<String, Value>,
    /// When it happened.
    pub timestamp: Timestamp,
    /// The producer's id.
    pub id: &'a str,
    /// The position behind it.
    pub seq: Cursor,
}

impl Serialize for EventPayload<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in self.data {
            if !OWN_FIELDS.contains(&name.as_str()) {
                map.serialize_entry(name, value)?;
            }
        }
        map.serialize_entry("data", self.data)?;
        map.serialize_entry("event_type", self.event_type)?;
        map.serialize_entry("category", self.category.as_str())?;
        map.serialize_entry("priority", self.priority.as_str())?;
        map.serialize_entry("timestamp", &self.timestamp)?;
        map.serialize_entry("id", self.id)?;
        map.serialize_entry("seq", &self.seq)?;
        map.end()
    }
}
