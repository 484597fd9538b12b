//! The messages of each dialect as data: what reference documentation, the
//! AsyncAPI document and the tests of malformed messages are generated from.
//!
//! Decoders and encoders are written by hand, beside these tables; tests hold
//! the two together. The kinds also give the words in which decoders complain.

mod check;
mod schema;
mod values;

use std::borrow::Cow;

pub use self::check::Misfit;
pub use self::values::Wrong;
use super::fields::{MAX_COUNT, MAX_LIST_ENTRIES, MAX_TOKEN_BYTES};
use super::workspace::InvalidRoom;
use crate::catalogue::{self, Channel, EventType};
use crate::dialect::Dialect;
use crate::error_code::ErrorCode;
use crate::name::MAX_NAME_BYTES;

/// The shapes of the dialects that have them, in the order of documentation.
pub const ALL: &[&Shape] = &[
    &super::threat::shape::SHAPE,
    &super::mesh::shape::SHAPE,
    &super::pipeline::shape::SHAPE,
    &super::workspace::shape::SHAPE,
    &super::fleet::shape::SHAPE,
];

/// One dialect's conversation.
#[derive(Debug)]
pub struct Shape {
    /// The dialect.
    pub dialect: Dialect,
    /// What carries its messages.
    pub carrier: Carrier,
    /// Where clients connect.
    pub path: &'static str,
    /// Who it is for, in one sentence.
    pub summary: &'static str,
    /// What clients may send.
    pub client: &'static [Message],
    /// What clients are sent, apart from events.
    pub server: &'static [Message],
    /// How an event type is written, if the dialect has a word for it.
    pub event: fn(&'static EventType) -> Option<Message>,
    /// What can be subscribed to.
    pub offers: &'static [Offer],
    /// The names of the server's messages that say that something is wrong.
    pub errors: &'static [&'static str],
    /// The codes in them.
    pub refusals: &'static [Refusal],
    /// The codes with which connections are closed.
    pub closes: &'static [Close],
}

/// What carries a dialect's messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// A message is a text frame of a WebSocket.
    WebSocket,
    /// A message is the argument of an event or an acknowledgement.
    SocketIo,
}

/// One message. Over WebSocket its `type` stands in it, over Socket.IO it is
/// the event's name and stands beside.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// The value of `type`, or the name of the Socket.IO event.
    pub kind: &'static str,
    /// What tells it from others of the same type, where there are any: the
    /// value of `event`, or the kind of acknowledgement.
    pub event: Option<&'static str>,
    /// Whether the type stands in the message.
    pub is_tagged: bool,
    /// What it is for, in one sentence.
    pub summary: &'static str,
    /// Its fields, beside `type` where it is tagged.
    pub fields: Cow<'static, [Field]>,
    /// The types of the messages that answer it, if anything does.
    pub answers: &'static [&'static str],
    /// The codes of the errors that may answer it instead, apart from those
    /// that may answer anything.
    pub refusals: &'static [ErrorCode],
}

/// One field of a message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Field {
    /// Its key.
    pub name: &'static str,
    /// What its value must be.
    pub kind: Kind,
    /// Whether it is always there. Where it is not, clients may also say null.
    pub required: bool,
    /// What it is for: half a sentence or one.
    pub summary: &'static str,
}

/// What a value must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A string that is not empty.
    Text {
        /// The most bytes that it may have.
        most: usize,
    },
    /// An API key or a token.
    Credential,
    /// Any string.
    AnyText,
    /// Any string, or null.
    NullableText,
    /// A string that identifies something.
    Id,
    /// A position in the stream of events.
    Cursor,
    /// A position in the streams of events and logs.
    FleetCursor,
    /// A whole number of any size that JSON has in every language.
    Count,
    /// Messages of the same direction.
    Messages,
    /// The name of a channel that is offered.
    Channel(&'static [Offer]),
    /// The name of a room of dialect `workspace`.
    Room,
    /// A list of categories of dialect `pipeline`.
    Categories,
    /// A list of the event types of dialect `pipeline`.
    EventTypes,
    /// Lists of accepted values by the filter keys of the channel.
    Filters(&'static [Offer]),
    /// Names of events and values of their data's fields, as `mesh` filters.
    Choice(&'static [Offer]),
    /// A word of an open list: the code of an error.
    Code,
    /// A whole number.
    Integer {
        /// The least that it may be.
        least: u32,
        /// The most that it may be.
        most: u32,
    },
    /// A number.
    Number,
    /// A boolean.
    Flag,
    /// A timestamp, in UTC where we write it.
    Time,
    /// A list of strings with bounds.
    Texts,
    /// A list of strings.
    AnyTexts,
    /// A list of anything.
    AnyList,
    /// One word of a closed list.
    OneOf(&'static [&'static str]),
    /// An object with these fields.
    Object(&'static [Field]),
    /// Any object.
    AnyObject,
    /// Anything but null.
    Any,
    /// A list of objects with these fields.
    List(&'static [Field]),
    /// An event's data.
    Data {
        /// The fields that the catalogue checks; others pass.
        fields: &'static [catalogue::Field],
        /// Those that stand elsewhere in the message.
        without: &'static [&'static str],
    },
}

/// A channel as a dialect offers it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Offer {
    /// The channel.
    pub channel: Channel,
    /// What it carries, in one sentence.
    pub summary: &'static str,
    /// The permission that it needs, if it needs one.
    pub permission: Option<&'static str>,
    /// The keys that may stand in `filters`.
    pub filters: &'static [Filter],
    /// The fields of `subscribe` that are for this channel.
    pub fields: &'static [&'static str],
}

/// A key of `filters`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Filter {
    /// The key.
    pub key: &'static str,
    /// Which events it lets through.
    pub summary: &'static str,
}

/// An error code in a dialect.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Refusal {
    /// The code.
    pub code: ErrorCode,
    /// What provokes it.
    pub when: &'static str,
    /// What becomes of the connection.
    pub fate: Fate,
}

impl Refusal {
    /// An error after which the connection stays.
    #[must_use]
    pub const fn stays(code: ErrorCode, when: &'static str) -> Self {
        Self {
            code,
            when,
            fate: Fate::Stays,
        }
    }
}

/// What becomes of a connection after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It stays.
    Stays,
    /// The WebSocket is closed with one of these codes.
    Closed(&'static [u16]),
    /// The client is sent away from the Socket.IO namespace, and stock clients
    /// do not come back by themselves.
    SentAway,
}

/// A close code in a dialect.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Close {
    /// The code of RFC 6455.
    pub code: u16,
    /// What provokes it.
    pub when: &'static str,
    /// What the client should do then.
    pub then: &'static str,
}

impl Shape {
    /// How each event type that the dialect has a word for is written.
    pub fn events(&self) -> impl Iterator<Item = (&'static EventType, Message)> {
        catalogue::all().filter_map(|kind| Some((kind, (self.event)(kind)?)))
    }

    /// The client's message of this type.
    #[must_use]
    pub fn client(&self, kind: &str) -> Option<&'static Message> {
        self.client.iter().find(|message| message.kind == kind)
    }

    /// The server's message with this [`Message::name`], events included.
    #[must_use]
    pub fn server(&self, name: &str) -> Option<Message> {
        let own = self.server.iter().find(|message| message.name() == name);
        own.cloned().or_else(|| {
            self.events()
                .map(|(_, message)| message)
                .find(|message| message.name() == name)
        })
    }
}

impl Message {
    /// A client's message.
    #[must_use]
    pub const fn client(
        kind: &'static str,
        summary: &'static str,
        fields: &'static [Field],
        answers: &'static [&'static str],
        refusals: &'static [ErrorCode],
    ) -> Self {
        Self {
            kind,
            event: None,
            is_tagged: true,
            summary,
            fields: Cow::Borrowed(fields),
            answers,
            refusals,
        }
    }

    /// A Socket.IO event that clients emit.
    #[must_use]
    pub const fn client_event(
        kind: &'static str,
        summary: &'static str,
        fields: &'static [Field],
        answers: &'static [&'static str],
        refusals: &'static [ErrorCode],
    ) -> Self {
        Self {
            kind,
            event: None,
            is_tagged: false,
            summary,
            fields: Cow::Borrowed(fields),
            answers,
            refusals,
        }
    }

    /// A Socket.IO event that clients are sent.
    #[must_use]
    pub const fn server_event(
        kind: &'static str,
        summary: &'static str,
        fields: &'static [Field],
    ) -> Self {
        Self::client_event(kind, summary, fields, &[], &[])
    }

    /// A kind of acknowledgement of a client's event.
    #[must_use]
    pub const fn acknowledgement(
        outcome: &'static str,
        summary: &'static str,
        fields: &'static [Field],
    ) -> Self {
        Self {
            kind: "acknowledgement",
            event: Some(outcome),
            is_tagged: false,
            summary,
            fields: Cow::Borrowed(fields),
            answers: &[],
            refusals: &[],
        }
    }

    /// A server's message.
    #[must_use]
    pub const fn server(
        kind: &'static str,
        summary: &'static str,
        fields: &'static [Field],
    ) -> Self {
        Self::client(kind, summary, fields, &[], &[])
    }

    /// Its name among the messages of its dialect and direction.
    #[must_use]
    pub fn name(&self) -> String {
        match self.event {
            None => self.kind.to_owned(),
            Some(event) => format!("{}.{event}", self.kind),
        }
    }
}

impl Field {
    /// A field that is always there.
    #[must_use]
    pub const fn required(name: &'static str, kind: Kind, summary: &'static str) -> Self {
        Self {
            name,
            kind,
            required: true,
            summary,
        }
    }

    /// A field that may be absent.
    #[must_use]
    pub const fn optional(name: &'static str, kind: Kind, summary: &'static str) -> Self {
        Self {
            required: false,
            ..Self::required(name, kind, summary)
        }
    }
}

impl Kind {
    /// What was expected, in the words of complaints and documentation.
    #[must_use]
    pub fn expectation(self) -> String {
        match self {
            Self::Text { most } => format!("a string of 1 to {most} bytes"),
            Self::Credential => format!("a string of 1 to {MAX_TOKEN_BYTES} bytes"),
            Self::Channel(_) => format!("a string of 1 to {MAX_NAME_BYTES} bytes"),
            Self::AnyText => "a string".to_owned(),
            Self::NullableText => "a string or null".to_owned(),
            Self::Id => format!("an id of 1 to {MAX_NAME_BYTES} bytes without white space"),
            Self::Cursor | Self::FleetCursor => "a `seq` that this server gave out".to_owned(),
            Self::Count => format!("a whole number from 0 to {MAX_COUNT}"),
            Self::List(_) => "a list of objects".to_owned(),
            Self::Messages => format!("a list of 1 to {MAX_LIST_ENTRIES} messages"),
            Self::Code => "an error code".to_owned(),
            Self::Integer { least, most } => format!("a whole number from {least} to {most}"),
            Self::Number => "a number".to_owned(),
            Self::Flag => "a boolean".to_owned(),
            Self::Time => "an RFC 3339 timestamp".to_owned(),
            Self::Room => InvalidRoom.to_string(),
            Self::Texts | Self::Categories | Self::EventTypes => format!(
                "a list of 1 to {MAX_LIST_ENTRIES} strings of at most {MAX_NAME_BYTES} bytes"
            ),
            Self::AnyTexts => "a list of strings".to_owned(),
            Self::AnyList => "a list".to_owned(),
            Self::Any => "a value".to_owned(),
            Self::OneOf(words) => format!("one of {}", words.join(", ")),
            Self::Filters(_)
            | Self::Choice(_)
            | Self::Object(_)
            | Self::AnyObject
            | Self::Data { .. } => "an object".to_owned(),
        }
    }
}

impl From<catalogue::Kind> for Kind {
    fn from(kind: catalogue::Kind) -> Self {
        match kind {
            catalogue::Kind::Text => Self::AnyText,
            catalogue::Kind::Id => Self::Id,
            catalogue::Kind::Number => Self::Number,
            catalogue::Kind::Flag => Self::Flag,
            catalogue::Kind::Time => Self::Time,
            catalogue::Kind::Texts => Self::AnyTexts,
            catalogue::Kind::List => Self::AnyList,
            catalogue::Kind::Object => Self::AnyObject,
            catalogue::Kind::Any => Self::Any,
            catalogue::Kind::OneOf(words) => Self::OneOf(words),
        }
    }
}

impl From<catalogue::Field> for Field {
    fn from(field: catalogue::Field) -> Self {
        Self {
            name: field.name,
            kind: field.kind.into(),
            required: field.required,
            summary: "",
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
