//! The messages of dialect `workspace` as data.

use super::{CONNECTION_ERROR, CONNECTION_ESTABLISHED, PROTOCOL_VERSION};
use crate::catalogue::{Channel, EventType};
use crate::dialect::Dialect;
use crate::error_code::ErrorCode;
use crate::frame::shape::{Carrier, Fate, Field, Kind, Message, Offer, Refusal, Shape};

/// Dialect `workspace`.
pub const SHAPE: Shape = Shape {
    dialect: Dialect::Workspace,
    carrier: Carrier::SocketIo,
    path: "/socket.io/",
    summary: "Socket.IO, namespace `/ws`, for web and mobile apps.",
    client: CLIENT,
    server: SERVER,
    event,
    offers: OFFERS,
    errors: &["connection_error", "acknowledgement.error"],
    refusals: REFUSALS,
    closes: &[],
};

const ROOM: Field = Field::required("room", Kind::Room, "The room.");

const CLIENT: &[Message] = &[
    Message::client_event(
        "subscribe",
        "Joins a room. Joining again changes nothing.",
        &[
            ROOM,
            Field::optional(
                "since",
                Kind::Cursor,
                "The last `seq` that was received of this room: what came after it follows.",
            ),
        ],
        &["acknowledgement.success"],
        &[
            ErrorCode::InvalidRoom,
            ErrorCode::RoomAccessDenied,
            ErrorCode::RateLimit,
            ErrorCode::Unavailable,
            ErrorCode::AuthFailed,
            ErrorCode::AuthMissing,
        ],
    ),
    Message::client_event(
        "unsubscribe",
        "Leaves a room. Leaving one that was not joined changes nothing.",
        &[ROOM],
        &["acknowledgement.success"],
        &[
            ErrorCode::InvalidRoom,
            ErrorCode::AuthFailed,
            ErrorCode::AuthMissing,
        ],
    ),
    Message::client_event(
        "ping",
        "Asks whether the other end is there.",
        &[],
        &["acknowledgement.pong"],
        &[ErrorCode::AuthFailed, ErrorCode::AuthMissing],
    ),
];

const TIMESTAMP: Field = Field::required("timestamp", Kind::Time, "When it was sent.");
const ERROR_CODE: Field = Field::required("error_code", Kind::Code, "Why.");
const ERROR_MESSAGE: Field =
    Field::required("error_message", Kind::AnyText, "The same for people.");
const FIELD: Field = Field::optional(
    "field",
    Kind::AnyText,
    "The field at fault, where it is one's.",
);
const RETRY_AFTER: Field = Field::optional(
    "retry_after",
    Kind::Integer {
        least: 0,
        most: u32::MAX,
    },
    "When to try again, in milliseconds.",
);

const SERVER: &[Message] = &[
    Message::server_event(
        CONNECTION_ESTABLISHED,
        "The client is in, and in its first rooms. It comes at every CONNECT, recovered ones too.",
        &[
            Field::required(
                "type",
                Kind::OneOf(&["connection.established"]),
                "The message's name, again.",
            ),
            TIMESTAMP,
            Field::required(
                "data",
                Kind::Object(&[
                    Field::required("connection_id", Kind::AnyText, "The socket's id."),
                    Field::required("user_id", Kind::Id, "Who the client is."),
                    Field::required(
                        "protocol_version",
                        Kind::OneOf(&[PROTOCOL_VERSION]),
                        "The version of this API.",
                    ),
                    Field::required(
                        "seq",
                        Kind::Cursor,
                        "Where the connection stands: every event behind this position comes.",
                    ),
                    Field::optional(
                        "recovered",
                        Kind::Flag,
                        "Whether all that was missed came or follows; there for a client that returns.",
                    ),
                    Field::optional(
                        "rooms",
                        Kind::AnyTexts,
                        "The rooms that were joined again for a client that returns.",
                    ),
                ]),
                "What it is.",
            ),
        ],
    ),
    Message::server_event(
        CONNECTION_ERROR,
        "Something went wrong, and no acknowledgement says so. A refused CONNECT has the same in `data`.",
        &[
            Field::required(
                "type",
                Kind::OneOf(&["connection.error"]),
                "The message's name, again.",
            ),
            TIMESTAMP,
            Field::required(
                "data",
                Kind::Object(&[
                    ERROR_CODE,
                    ERROR_MESSAGE,
                    Field::required(
                        "connection_id",
                        Kind::NullableText,
                        "The socket's id; null for a client that was not let in.",
                    ),
                    Field::optional("room", Kind::AnyText, "The room that was asked for."),
                    FIELD,
                    RETRY_AFTER,
                    Field::optional(
                        "expires_at",
                        Kind::Time,
                        "With TOKEN_EXPIRING: when the token expires.",
                    ),
                ]),
                "What.",
            ),
        ],
    ),
    Message::acknowledgement(
        "success",
        "The acknowledgement of `subscribe` and `unsubscribe`.",
        &[
            Field::required("status", Kind::OneOf(&["success"]), "That it was served."),
            ROOM,
            Field::optional(
                "seq",
                Kind::Cursor,
                "Of `subscribe`: every event of the room behind this position comes.",
            ),
            Field::optional(
                "recovered",
                Kind::Flag,
                "Whether all that came after `since` follows; there if `since` was given.",
            ),
        ],
    ),
    Message::acknowledgement(
        "error",
        "The acknowledgement of an event that was refused.",
        &[
            Field::required("status", Kind::OneOf(&["error"]), "That it was not served."),
            ERROR_CODE,
            ERROR_MESSAGE,
            Field::required(
                "room",
                Kind::NullableText,
                "The room that was asked for; null where none can be made out.",
            ),
            FIELD,
            RETRY_AFTER,
        ],
    ),
    Message::acknowledgement(
        "pong",
        "The acknowledgement of `ping`.",
        &[Field::required(
            "status",
            Kind::OneOf(&["pong"]),
            "That the other end is there.",
        )],
    ),
];

/// How an event type is written.
fn event(kind: &'static EventType) -> Option<Message> {
    let word = kind.words.workspace.as_ref()?;
    let data = Kind::Data {
        fields: kind.fields,
        without: &[],
    };
    let fields = vec![
        Field::required(
            "type",
            Kind::OneOf(std::slice::from_ref(&word.event)),
            "The event's name.",
        ),
        Field::required(
            "timestamp",
            Kind::Time,
            "When it happened, by its producer's clock.",
        ),
        Field::required("source", Kind::Id, "The service that says so."),
        Field::required(
            "data",
            data,
            "What happened, with whatever else the producer said.",
        ),
        Field::required(
            "id",
            Kind::Id,
            "The producer's id, the same at every delivery.",
        ),
        Field::required(
            "seq",
            Kind::Cursor,
            "The position behind it: say it in `since` to go on from there.",
        ),
    ];
    Some(Message {
        fields: fields.into(),
        ..Message::server_event(word.event, kind.summary, &[])
    })
}

const OFFERS: &[Offer] = &[
    offer(Channel::ProjectEvents, "Projects."),
    offer(Channel::AgentEvents, "Agents and how they are."),
    offer(Channel::WorkflowEvents, "Workflows and their progress."),
    offer(Channel::PrEvents, "Pull requests."),
    offer(Channel::IssueEvents, "Issues."),
    offer(Channel::AiEvents, "Suggestions and analyses of models."),
];

const fn offer(channel: Channel, summary: &'static str) -> Offer {
    Offer {
        channel,
        summary,
        permission: None,
        filters: &[],
        fields: &[],
    }
}

const REFUSALS: &[Refusal] = &[
    Refusal::stays(
        ErrorCode::InvalidJson,
        "The argument nests too deeply to be read.",
    ),
    Refusal::stays(
        ErrorCode::InvalidMessage,
        "The argument is no object; a field beside `room` is not what it must be; there is binary data.",
    ),
    Refusal::stays(
        ErrorCode::UnknownType,
        "No client event has this name; letters count as they are.",
    ),
    Refusal::stays(
        ErrorCode::InvalidRoom,
        "The room is missing, or its name is none.",
    ),
    Refusal::stays(
        ErrorCode::RoomAccessDenied,
        "The client may not be in the room: another user's, that of a project it has no part in, or an agent's without the permission `read_agents`. Also unasked, when the right was taken away.",
    ),
    Refusal::stays(
        ErrorCode::RateLimit,
        "More than 512 rooms, subscribing again and again while history is read, or more messages than the gateway's configuration allows, which is any number by default. Does not count as a bad message.",
    ),
    Refusal::stays(
        ErrorCode::Unavailable,
        "`subscribe` with `since` while the bus is out of reach: send it again. Does not count as a bad message.",
    ),
    Refusal::stays(
        ErrorCode::TokenExpiring,
        "The token expires in 30 seconds, at `expires_at`: emit `authenticate {token}` with a fresh one of the same user, and the connection stays. It answers nothing and does not count as a bad message.",
    ),
    Refusal {
        code: ErrorCode::AuthFailed,
        when: "The token is bad, expired, an agent's, or was revoked. Repeated refusals come later and later, up to 30 seconds.",
        fate: Fate::SentAway,
    },
    Refusal {
        code: ErrorCode::AuthMissing,
        when: "The client has no token.",
        fate: Fate::SentAway,
    },
    Refusal {
        code: ErrorCode::TokenExpired,
        when: "The token has expired, and no fresh one came.",
        fate: Fate::SentAway,
    },
];

#[cfg(test)]
mod tests;
