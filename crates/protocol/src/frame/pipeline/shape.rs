//! The messages of dialect `pipeline` as data.

use super::{AUTH_ERROR, AUTHENTICATED, ERROR, OWN_FIELDS, PRIORITIES};
use crate::catalogue::{Category, Channel, EventType};
use crate::dialect::Dialect;
use crate::error_code::ErrorCode;
use crate::frame::shape::{Carrier, Fate, Field, Kind, Message, Offer, Refusal, Shape};

/// Dialect `pipeline`.
pub const SHAPE: Shape = Shape {
    dialect: Dialect::Pipeline,
    carrier: Carrier::SocketIo,
    path: "/socket.io/",
    summary: "Socket.IO, namespace `/ws`, for CI/CD dashboards.",
    client: CLIENT,
    server: SERVER,
    event,
    offers: OFFERS,
    errors: &["auth_error", "error", "acknowledgement.error"],
    refusals: REFUSALS,
    closes: &[],
};

const SEQ: &str = "The position behind it: say it in `since` to go on from there.";
const RECOVERED: Field = Field::optional(
    "recovered",
    Kind::Flag,
    "Whether all that came after `since` follows; there if `since` was given.",
);
const USER_ID: Field = Field::required("id", Kind::Id, "The user's stable id.");
const USER_NAME: Field = Field::required("name", Kind::AnyText, "The name shown to people.");
const USER_ROLE: Field = Field::optional("role", Kind::AnyText, "The user's role.");
const USER_PERMISSIONS: Field =
    Field::required("permissions", Kind::AnyTexts, "What the user may do.");

const CLIENT: &[Message] = &[
    Message::client_event(
        "authenticate",
        "Says who the client is: within 10 seconds, and again with a fresh token before the old one expires.",
        &[Field::required(
            "token",
            Kind::Credential,
            "An access token or an API key.",
        )],
        &["authenticated"],
        &[ErrorCode::AuthFailed, ErrorCode::Unavailable],
    ),
    Message::client_event(
        "subscribe",
        "Narrows which events come, in place of what was asked for before. Fields add up, entries of a list are alternatives; without fields everything comes that the permissions allow, as it does unasked.",
        &[
            Field::optional(
                "categories",
                Kind::Categories,
                "Events of these [categories](#categories).",
            ),
            Field::optional(
                "event_types",
                Kind::EventTypes,
                "Events of these [types](#events).",
            ),
            Field::optional(
                "min_priority",
                Kind::OneOf(PRIORITIES),
                "Events that are at least so urgent.",
            ),
            Field::optional(
                "since",
                Kind::Cursor,
                "The last `seq` that was received: what came after it follows.",
            ),
        ],
        &["acknowledgement.success"],
        &[
            ErrorCode::UnknownChannel,
            ErrorCode::UnknownFilter,
            ErrorCode::Forbidden,
            ErrorCode::AuthMissing,
            ErrorCode::RateLimit,
            ErrorCode::Unavailable,
        ],
    ),
];

const CODE: Field = Field::required("code", Kind::Code, "Why.");
const MESSAGE: Field = Field::required("message", Kind::AnyText, "The same for people.");
const FIELD: Field = Field::optional("field", Kind::AnyText, "The field at fault.");
const RETRY_AFTER: Field = Field::optional(
    "retry_after",
    Kind::Integer {
        least: 0,
        most: u32::MAX,
    },
    "When to try again, in milliseconds.",
);
const EXPIRES_AT: Field = Field::optional(
    "expires_at",
    Kind::Time,
    "With TOKEN_EXPIRING: when the token expires.",
);

const SERVER: &[Message] = &[
    Message::server_event(
        AUTHENTICATED,
        "The credential was accepted, and events follow. The user's fields stand at the top level and again under `user`.",
        &[
            USER_ID,
            USER_NAME,
            USER_ROLE,
            USER_PERMISSIONS,
            Field::required(
                "user",
                Kind::Object(&[USER_ID, USER_NAME, USER_ROLE, USER_PERMISSIONS]),
                "Who the client is.",
            ),
            Field::optional(
                "expires_at",
                Kind::Time,
                "When the credential expires; absent where it does not.",
            ),
            Field::required(
                "seq",
                Kind::Cursor,
                "Where the connection stands: every event behind this position comes.",
            ),
            RECOVERED,
        ],
    ),
    Message::server_event(
        AUTH_ERROR,
        "There is no good credential, or there soon is none.",
        &[CODE, MESSAGE, FIELD, RETRY_AFTER, EXPIRES_AT],
    ),
    Message::server_event(
        ERROR,
        "Something else is wrong with what the client emitted, and it asked for no acknowledgement.",
        &[CODE, MESSAGE, FIELD, RETRY_AFTER, EXPIRES_AT],
    ),
    Message::acknowledgement(
        "success",
        "The acknowledgement of `subscribe`, and, beside the event `authenticated`, of `authenticate`.",
        &[
            Field::required("status", Kind::OneOf(&["success"]), "That it was served."),
            Field::required(
                "seq",
                Kind::Cursor,
                "Where the connection stands: every event behind this position comes.",
            ),
            RECOVERED,
        ],
    ),
    Message::acknowledgement(
        "error",
        "The acknowledgement of an event that was refused.",
        &[
            Field::required("status", Kind::OneOf(&["error"]), "That it was not served."),
            CODE,
            MESSAGE,
            FIELD,
            RETRY_AFTER,
            EXPIRES_AT,
        ],
    ),
];

/// How an event type is written: the data's fields, unless the message has
/// others of their names, and then its own.
fn event(kind: &'static EventType) -> Option<Message> {
    let word = kind.words.pipeline?;
    let position = Category::ALL
        .iter()
        .position(|category| *category == word.category)?;
    let own = [
        Field::required(
            "data",
            Kind::Data {
                fields: kind.fields,
                without: &[],
            },
            "The same fields again, with whatever else the producer said.",
        ),
        Field::required(
            "event_type",
            Kind::OneOf(std::slice::from_ref(&kind.name)),
            "The event's name.",
        ),
        Field::required(
            "category",
            Kind::OneOf(&Category::WORDS[position..=position]),
            "What it is about.",
        ),
        Field::required("priority", Kind::OneOf(PRIORITIES), "How urgent it is."),
        Field::required(
            "timestamp",
            Kind::Time,
            "When it happened, by its producer's clock.",
        ),
        Field::required(
            "id",
            Kind::Id,
            "The producer's id, the same at every delivery.",
        ),
        Field::required("seq", Kind::Cursor, SEQ),
    ];
    let raised = kind
        .fields
        .iter()
        .filter(|field| !OWN_FIELDS.contains(&field.name))
        .map(|field| Field::from(*field));
    Some(Message {
        fields: raised.chain(own).collect::<Vec<_>>().into(),
        ..Message::server_event(kind.name, kind.summary, &[])
    })
}

const OFFERS: &[Offer] = &[
    offer(
        Channel::PipelineEvents,
        "Category `PIPELINE`: pipelines and their executions.",
        Some("read_pipelines"),
    ),
    offer(
        Channel::PipelineSecurity,
        "Category `SECURITY`: scans and vulnerabilities.",
        Some("read_scans"),
    ),
    offer(
        Channel::PipelineDebug,
        "Category `DEBUG`: debugging sessions, errors and patches.",
        Some("read_debug"),
    ),
    offer(
        Channel::PipelineSystem,
        "Category `SYSTEM`: status, metrics and alerts of the system.",
        Some("read_system"),
    ),
    offer(
        Channel::PipelineArchitecture,
        "Category `ARCHITECTURE`: diagrams of what is built.",
        Some("read_architecture"),
    ),
    offer(
        Channel::PipelineUserNotifications,
        "Category `USER`: what a single user is told, and nobody else.",
        None,
    ),
    offer(
        Channel::PipelineUserActions,
        "Category `USER`: what users do.",
        Some("admin"),
    ),
];

const fn offer(channel: Channel, summary: &'static str, permission: Option<&'static str>) -> Offer {
    Offer {
        channel,
        summary,
        permission,
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
        "The argument is no object; a required field is missing or null; a field is not what it must be; there is binary data.",
    ),
    Refusal::stays(
        ErrorCode::UnknownType,
        "No client event has this name; letters count as they are.",
    ),
    Refusal::stays(
        ErrorCode::UnknownChannel,
        "`subscribe` names a category that there is not.",
    ),
    Refusal::stays(
        ErrorCode::UnknownFilter,
        "`subscribe` names an event type that there is not.",
    ),
    Refusal::stays(
        ErrorCode::Forbidden,
        "`subscribe` names a category or an event type that the client may not have.",
    ),
    Refusal::stays(
        ErrorCode::AuthMissing,
        "`subscribe`, or an event of dialect `workspace`, before authentication.",
    ),
    Refusal::stays(
        ErrorCode::RateLimit,
        "More than 600 messages in a minute, or subscribing again and again while history is read. `retry_after` says when to go on. Does not count as a bad message.",
    ),
    Refusal::stays(
        ErrorCode::Unavailable,
        "`subscribe` with `since` while the bus is out of reach: send it again. Does not count as a bad message. In `auth_error`: credentials cannot be checked now, and the client loses its transport.",
    ),
    Refusal::stays(
        ErrorCode::TokenExpiring,
        "In `auth_error`: the token expires in 30 seconds, at `expires_at`: `authenticate` with a fresh one of the same user, and the connection stays. It answers nothing and does not count as a bad message.",
    ),
    Refusal {
        code: ErrorCode::AuthFailed,
        when: "In `auth_error`: the credential is bad, expired, an agent's or another user's than before, and the connection stays until the third time; or it was revoked; or none came within 10 seconds. Repeated refusals come later and later, up to 30 seconds.",
        fate: Fate::SentAway,
    },
    Refusal {
        code: ErrorCode::TokenExpired,
        when: "In `auth_error`: the token has expired, and no fresh one came.",
        fate: Fate::SentAway,
    },
];

#[cfg(test)]
mod tests;
