//! Frames of dialect `workspace`: the arguments of its Socket.IO events and
//! acknowledgements, and the names of its rooms.

mod room;
pub mod shape;

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

pub use self::room::{InvalidRoom, Room};
use super::fields::{Complaint, Fields};
use super::socketio;
use crate::cursor::Cursor;
use crate::error_code::ErrorCode;
use crate::name::MAX_NAME_BYTES;
use crate::timestamp::Timestamp;

/// The event that greets.
pub const CONNECTION_ESTABLISHED: &str = "connection_established";
/// The event that says that something went wrong.
pub const CONNECTION_ERROR: &str = "connection_error";
/// The version of the API.
pub const PROTOCOL_VERSION: &str = "1.0";

/// The longest text that is repeated to whoever said it where a room's name
/// should be, in bytes: a little more than a room's name may have.
const MAX_REPEATED_BYTES: usize = 2 * MAX_NAME_BYTES;

/// What a client emits.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientEvent {
    /// Joins a room.
    Subscribe {
        /// Which.
        room: Room,
        /// The `seq` after which to go on.
        since: Option<Cursor>,
    },
    /// Leaves a room.
    Unsubscribe {
        /// Which.
        room: Room,
    },
    /// Asks for an acknowledgement.
    Ping,
}

impl ClientEvent {
    /// Reads an event.
    ///
    /// # Errors
    /// UNKNOWN_TYPE for another name, INVALID_ROOM where the room is missing or
    /// none, INVALID_MESSAGE with the name of another field.
    pub fn decode(name: &str, arguments: &[&RawValue]) -> Result<Self, Complaint> {
        match name {
            "subscribe" => {
                let mut fields = socketio::object(arguments)?;
                Ok(Self::Subscribe {
                    room: room(&mut fields)?,
                    since: fields.optional_cursor("since")?,
                })
            }
            "unsubscribe" => {
                let mut fields = socketio::object(arguments)?;
                Ok(Self::Unsubscribe {
                    room: room(&mut fields)?,
                })
            }
            // Whatever is sent along is of no interest.
            "ping" => Ok(Self::Ping),
            _ => Err(socketio::unknown(name, "subscribe, unsubscribe or ping")),
        }
    }
}

fn room(fields: &mut Fields) -> Result<Room, Complaint> {
    fields
        .optional_text("room", usize::MAX)
        .ok()
        .flatten()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Complaint {
            code: ErrorCode::InvalidRoom,
            ..Complaint::field("room", &InvalidRoom.to_string())
        })
}

/// What a client's event has where a room's name should be, to be repeated in
/// the answer; `None` for what is no text, or too long to be one by mistake.
#[must_use]
pub fn named_room(arguments: &[&RawValue]) -> Option<String> {
    let mut fields = socketio::object(arguments).ok()?;
    fields
        .optional_text("room", MAX_REPEATED_BYTES)
        .ok()
        .flatten()
}

/// The argument of `connection_established`.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename = "connection.established")]
pub struct ConnectionEstablished<'a> {
    /// When.
    pub timestamp: Timestamp,
    /// What it is.
    pub data: Connection<'a>,
}

/// A connection that was established.
#[derive(Clone, Debug, Serialize)]
pub struct Connection<'a> {
    /// The socket's id.
    pub connection_id: &'a str,
    /// Who it is.
    pub user_id: &'a str,
    /// [`PROTOCOL_VERSION`].
    pub protocol_version: &'a str,
    /// Every event behind this position will come.
    pub seq: Cursor,
    /// Whether all that was missed follows; absent for a client that is new.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovered: Option<bool>,
    /// The rooms that it is in, where they are more than those that every
    /// connection begins with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rooms: Option<Vec<String>>,
}

/// The argument of `connection_error`, and the `data` of a refused CONNECT.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename = "connection.error")]
pub struct ConnectionError<'a> {
    /// When.
    pub timestamp: Timestamp,
    /// What went wrong.
    pub data: Failure<'a>,
}

/// What went wrong.
#[derive(Clone, Debug, Serialize)]
pub struct Failure<'a> {
    /// Why.
    pub error_code: ErrorCode,
    /// For people.
    pub error_message: &'a str,
    /// The socket's id; null for one that was not let in.
    pub connection_id: Option<&'a str>,
    /// The room that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room: Option<&'a str>,
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
    pub const fn new(error_code: ErrorCode, error_message: &'a str) -> Self {
        Self {
            error_code,
            error_message,
            connection_id: None,
            room: None,
            field: None,
            retry_after: None,
            expires_at: None,
        }
    }
}

/// The argument of an acknowledgement.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Acknowledgement<'a> {
    /// The room was joined or left.
    Success {
        /// Which.
        room: &'a Room,
        /// Every event of the room behind this position will come; absent
        /// where it was left.
        #[serde(skip_serializing_if = "Option::is_none")]
        seq: Option<Cursor>,
        /// Whether all that was missed since `since` follows; absent without
        /// `since`.
        #[serde(skip_serializing_if = "Option::is_none")]
        recovered: Option<bool>,
    },
    /// It was not.
    Error {
        /// Why.
        error_code: ErrorCode,
        /// For people.
        error_message: &'a str,
        /// The room that was asked for, as [`named_room`] has it.
        room: Option<&'a str>,
        /// The field at fault, where it is not the room.
        #[serde(skip_serializing_if = "Option::is_none")]
        field: Option<&'a str>,
        /// When to try again, in milliseconds.
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_after: Option<u64>,
    },
    /// Answers `ping`.
    Pong,
}

/// The argument of an event, which is emitted under the same name as `type`.
#[derive(Clone, Debug, Serialize)]
pub struct EventPayload<'a> {
    /// The event's name.
    #[serde(rename = "type")]
    pub kind: &'a str,
    /// When it happened.
    pub timestamp: Timestamp,
    /// The producing service.
    pub source: &'a str,
    /// What happened.
    pub data: &'a Map<String, Value>,
    /// The producer's id.
    pub id: &'a str,
    /// The position behind it.
    pub seq: Cursor,
}
