//! Dialect `workspace`: rooms, and events under their dotted names as
//! `{type, timestamp, source, data}`.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use signalbox_identity::{Permission, Principal};
use signalbox_protocol::ErrorCode;
use signalbox_protocol::catalogue::{Audience, Channel};
use signalbox_protocol::cursor::Cursor;
use signalbox_protocol::frame::fields::Complaint;
use signalbox_protocol::frame::socketio::NAMESPACE;
use signalbox_protocol::frame::workspace::{
    Acknowledgement, CONNECTION_ERROR, CONNECTION_ESTABLISHED, Connection, ConnectionError,
    ConnectionEstablished, EventPayload, Failure, PROTOCOL_VERSION, Room,
};
use signalbox_socketio::Packet;
use signalbox_transport::Frame;
use time::OffsetDateTime;

use super::{EXPIRING, millis, packet};
use crate::hub::{Channels, HubEvent, Selection};

/// The channels of the dialect.
const CHANNELS: Channels = Channels::of(&[
    Channel::ProjectEvents,
    Channel::AgentEvents,
    Channel::WorkflowEvents,
    Channel::PrEvents,
    Channel::IssueEvents,
    Channel::AiEvents,
]);
/// Those whose events have a project as their object.
const PROJECT_CHANNELS: Channels = Channels::of(&[
    Channel::ProjectEvents,
    Channel::WorkflowEvents,
    Channel::PrEvents,
    Channel::IssueEvents,
    Channel::AiEvents,
]);

/// Why a client is not, or no longer, let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// AUTH_MISSING, AUTH_FAILED or TOKEN_EXPIRED.
    pub(crate) code: ErrorCode,
    /// For people.
    pub(crate) message: &'static str,
}

/// The events that a room brings.
pub(crate) fn selection(room: &Room) -> Selection {
    match room {
        Room::Project(id) => Selection {
            object: Some(id.clone()),
            ..Selection::of(PROJECT_CHANNELS)
        },
        Room::Agent(id) => Selection {
            object: Some(id.clone()),
            ..Selection::of(Channel::AgentEvents)
        },
        Room::User(id) => Selection {
            audience: Some(Audience::User(id.clone())),
            ..Selection::of(CHANNELS)
        },
        Room::Global => Selection {
            audience: Some(Audience::Everyone),
            ..Selection::of(CHANNELS)
        },
    }
}

/// Whether somebody may be in a room.
pub(crate) fn may_enter(principal: &Principal, room: &Room) -> bool {
    match room {
        Room::Global => true,
        Room::User(id) => id == principal.subject.as_str(),
        Room::Project(id) => principal.may_access_project(id),
        Room::Agent(_) => principal.permissions.contains(Permission::ReadAgents),
    }
}

/// The rooms that every client begins in.
pub(crate) fn first_rooms(principal: &Principal) -> [Room; 2] {
    [
        Room::User(principal.subject.as_str().to_owned()),
        Room::Global,
    ]
}

/// The greeting.
pub(crate) fn established(
    connection_id: &str,
    user_id: &str,
    seq: Cursor,
    recovered: Option<bool>,
    rooms: Option<Vec<String>>,
) -> Packet {
    say(
        CONNECTION_ESTABLISHED,
        &ConnectionEstablished {
            timestamp: OffsetDateTime::now_utc().into(),
            data: Connection {
                connection_id,
                user_id,
                protocol_version: PROTOCOL_VERSION,
                seq,
                recovered,
                rooms,
            },
        },
    )
}

/// Why a client is not let in, or has to leave.
pub(crate) fn refusal(refused: &Refused) -> Packet {
    error(Failure::new(refused.code, refused.message))
}

/// The same as the `data` of a refused CONNECT.
pub(crate) fn refusal_data(refused: &Refused) -> Value {
    json(&failed(Failure::new(refused.code, refused.message)))
}

/// What is wrong with what a client asked for, where it wants no
/// acknowledgement.
pub(crate) fn complaint(
    complaint: &Complaint,
    connection_id: &str,
    room: Option<&str>,
    retry_after: Option<Duration>,
) -> Packet {
    error(Failure {
        connection_id: Some(connection_id),
        room,
        field: complaint.field.as_deref().filter(|field| *field != "room"),
        retry_after: retry_after.map(millis),
        ..Failure::new(complaint.code, &complaint.message)
    })
}

/// The token is about to expire.
pub(crate) fn expiring(connection_id: &str, expires_at: OffsetDateTime) -> Packet {
    error(Failure {
        connection_id: Some(connection_id),
        expires_at: Some(expires_at.into()),
        ..Failure::new(ErrorCode::TokenExpiring, EXPIRING)
    })
}

/// The acknowledgement of a room that was joined (with `seq`) or left.
pub(crate) fn success(room: &Room, seq: Option<Cursor>, recovered: Option<bool>) -> Value {
    json(&Acknowledgement::Success {
        room,
        seq,
        recovered,
    })
}

/// The acknowledgement of what was not done.
pub(crate) fn failure(
    complaint: &Complaint,
    room: Option<&str>,
    retry_after: Option<Duration>,
) -> Value {
    json(&Acknowledgement::Error {
        error_code: complaint.code,
        error_message: &complaint.message,
        room,
        field: complaint.field.as_deref().filter(|field| *field != "room"),
        retry_after: retry_after.map(millis),
    })
}

/// The acknowledgement of `ping`.
pub(crate) fn pong() -> Value {
    json(&Acknowledgement::Pong)
}

/// The frame for an event, with its offset as a further argument or without;
/// `None` when the dialect has no word for its type.
pub(crate) fn encode(event: &HubEvent, cursor: Cursor, offset: bool) -> Option<Frame> {
    let inner = &event.event;
    let word = inner.kind.words.workspace?;
    let payload = EventPayload {
        kind: word.event,
        timestamp: inner.time,
        source: &inner.source,
        data: &inner.data,
        id: &inner.id,
        seq: cursor,
    };
    packet(word.event, &payload, offset.then_some(cursor))
        .single_frame()
        .cloned()
}

fn error(failure: Failure<'_>) -> Packet {
    say(CONNECTION_ERROR, &failed(failure))
}

fn failed(data: Failure<'_>) -> ConnectionError<'_> {
    ConnectionError {
        timestamp: OffsetDateTime::now_utc().into(),
        data,
    }
}

fn say(name: &str, argument: &impl Serialize) -> Packet {
    packet(name, argument, None)
}

/// # Panics
/// Never: every value written here has string keys.
fn json(value: &impl Serialize) -> Value {
    serde_json::to_value(value).expect("frames have string keys and finite numbers")
}

/// The refusal of every other namespace.
pub(crate) fn other_namespace() -> String {
    format!("connect to namespace {NAMESPACE}, as in io(\"http://host:port{NAMESPACE}\")")
}

#[cfg(test)]
mod tests;
