//! The messages of dialect `mesh` as data.

use crate::catalogue::{Channel, EventType};
use crate::dialect::Dialect;
use crate::error_code::ErrorCode;
use crate::frame::shape::{Carrier, Close, Fate, Field, Kind, Message, Offer, Refusal, Shape};

/// Dialect `mesh`.
pub const SHAPE: Shape = Shape {
    dialect: Dialect::Mesh,
    carrier: Carrier::WebSocket,
    path: "/api/v1/ws",
    summary: "JSON text over WebSocket, for network operators.",
    client: CLIENT,
    server: SERVER,
    event,
    offers: OFFERS,
    errors: &["error"],
    refusals: REFUSALS,
    closes: CLOSES,
};

const CHANNEL: Field = Field::required("channel", Kind::Channel(OFFERS), "The channel.");
const TIMESTAMP: Field = Field::required("timestamp", Kind::Time, "When it was sent.");

const CLIENT: &[Message] = &[
    Message::client(
        "authenticate",
        "Goes on with a fresh token of the same user, before the old one expires.",
        &[Field::required(
            "token",
            Kind::Credential,
            "An access token or an API key.",
        )],
        &["authenticated"],
        &[ErrorCode::AuthFailed, ErrorCode::ConnectionFailed],
    ),
    Message::client(
        "subscribe",
        "Asks for a channel's events. A connection has one subscription per channel: subscribing again replaces it.",
        &[
            CHANNEL,
            Field::optional(
                "filter",
                Kind::Choice(OFFERS),
                "Which events of it; without, all.",
            ),
            Field::optional(
                "since",
                Kind::Cursor,
                "The `seq` of the last message that was received on this channel: what came after it follows.",
            ),
        ],
        &["subscribed"],
        &[
            ErrorCode::UnknownChannel,
            ErrorCode::UnknownFilter,
            ErrorCode::Forbidden,
            ErrorCode::RateLimit,
            ErrorCode::Unavailable,
        ],
    ),
    Message::client(
        "unsubscribe",
        "Asks for no more events of a channel.",
        &[CHANNEL],
        &["unsubscribed"],
        &[ErrorCode::UnknownChannel, ErrorCode::NotFound],
    ),
    Message::client(
        "ping",
        "Asks whether the other end is there; for browsers, which cannot send WebSocket pings.",
        &[],
        &["pong"],
        &[],
    ),
];

const SERVER: &[Message] = &[
    Message::server(
        "authenticated",
        "The fresh credential was accepted. The one at the upgrade is not confirmed.",
        &[
            Field::required(
                "data",
                Kind::Object(&[
                    Field::required(
                        "session_id",
                        Kind::AnyText,
                        "Names this connection in logs and support requests.",
                    ),
                    Field::optional(
                        "expires_at",
                        Kind::Time,
                        "When the credential expires; absent where it does not.",
                    ),
                ]),
                "What it is.",
            ),
            TIMESTAMP,
        ],
    ),
    Message::server(
        "subscribed",
        "Events follow: first those that were missed, in order, then live ones.",
        &[
            Field::required(
                "data",
                Kind::Object(&[
                    CHANNEL,
                    Field::required(
                        "seq",
                        Kind::Cursor,
                        "Where the subscription stands: every event behind this position comes.",
                    ),
                    Field::optional(
                        "recovered",
                        Kind::Flag,
                        "Whether all that came after `since` follows; there if `since` was given.",
                    ),
                ]),
                "Which channel, and from where.",
            ),
            TIMESTAMP,
        ],
    ),
    Message::server(
        "unsubscribed",
        "No more events of the channel come.",
        &[
            Field::required("data", Kind::Object(&[CHANNEL]), "Which channel."),
            TIMESTAMP,
        ],
    ),
    Message::server("pong", "Answers `ping`.", &[]),
    Message::server(
        "error",
        "Something went wrong; `code` says what, and the table of codes whether the connection stays.",
        &[
            Field::required(
                "data",
                Kind::Object(&[
                    Field::required("code", Kind::Code, "Why, for programs."),
                    Field::required("message", Kind::AnyText, "Why, for people."),
                    Field::optional(
                        "field",
                        Kind::AnyText,
                        "The field at fault; fields of objects with a dot, as in `filter.event`.",
                    ),
                    Field::optional(
                        "retry_after",
                        Kind::Integer {
                            least: 0,
                            most: u32::MAX,
                        },
                        "When to try again, in milliseconds.",
                    ),
                    Field::optional(
                        "expires_at",
                        Kind::Time,
                        "With TOKEN_EXPIRING: when the token expires.",
                    ),
                ]),
                "What.",
            ),
            TIMESTAMP,
        ],
    ),
];

/// How an event type is written.
fn event(kind: &'static EventType) -> Option<Message> {
    let word = kind.words.mesh?;
    let data = Kind::Data {
        fields: kind.fields,
        without: &[],
    };
    let fields = vec![
        Field::required(
            "event",
            Kind::OneOf(std::slice::from_ref(&kind.name)),
            "What kind of event.",
        ),
        Field::required(
            "data",
            data,
            "What happened, with whatever else the producer said.",
        ),
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
        Field::required(
            "seq",
            Kind::Cursor,
            "The position behind it: say it in `since` to go on from there.",
        ),
    ];
    Some(Message {
        event: Some(kind.name),
        fields: fields.into(),
        ..Message::server(word.kind, kind.summary, &[])
    })
}

const OFFERS: &[Offer] = &[
    offer(
        Channel::NetworkEvents,
        "Nodes and links of the mesh.",
        "read_network",
    ),
    offer(
        Channel::ConsensusEvents,
        "Proposals and decisions of the mesh.",
        "read_consensus",
    ),
    offer(
        Channel::SecurityEvents,
        "Intrusions and certificates of the mesh.",
        "read_security",
    ),
    offer(
        Channel::MonitoringEvents,
        "Metrics and alerts of the mesh.",
        "read_monitoring",
    ),
];

const fn offer(channel: Channel, summary: &'static str, permission: &'static str) -> Offer {
    Offer {
        channel,
        summary,
        permission: Some(permission),
        filters: &[],
        fields: &[],
    }
}

const REFUSALS: &[Refusal] = &[
    Refusal::stays(ErrorCode::InvalidJson, "The text is not JSON."),
    Refusal::stays(
        ErrorCode::InvalidMessage,
        "The JSON is no object; a required field is missing or null; a field is not what it must be.",
    ),
    Refusal::stays(
        ErrorCode::UnknownType,
        "No client message has this `type`; letters count as they are.",
    ),
    Refusal::stays(ErrorCode::UnknownChannel, "No channel has this name."),
    Refusal::stays(
        ErrorCode::UnknownFilter,
        "The channel has no event of the name that `filter` asks for.",
    ),
    Refusal::stays(
        ErrorCode::Forbidden,
        "`subscribe` without the channel's permission. Also unasked, when the permission was taken away: once for each subscription that ends, before its `unsubscribed`.",
    ),
    Refusal::stays(
        ErrorCode::NotFound,
        "`unsubscribe` for a channel that the connection has not subscribed to.",
    ),
    Refusal::stays(
        ErrorCode::RateLimit,
        "More than 600 messages in a minute, or subscribing again and again while history is read. `retry_after` says when to go on. Does not count as a bad message.",
    ),
    Refusal::stays(
        ErrorCode::Unavailable,
        "`subscribe` with `since` while the bus is out of reach: send it again. Does not count as a bad message.",
    ),
    Refusal {
        code: ErrorCode::AuthFailed,
        when: "`authenticate` with a bad credential or another user's; or the credential was revoked. Repeated refusals come later and later, up to 30 seconds.",
        fate: Fate::Closed(&[1008]),
    },
    Refusal::stays(
        ErrorCode::TokenExpiring,
        "The token expires in 30 seconds, at `expires_at`: `authenticate` with a fresh one of the same user, and the connection stays. It answers nothing and does not count as a bad message.",
    ),
    Refusal {
        code: ErrorCode::TokenExpired,
        when: "The token has expired, and no fresh one came.",
        fate: Fate::Closed(&[1008]),
    },
    Refusal {
        code: ErrorCode::ConnectionFailed,
        when: "The gateway is stopping (1001), or cannot check credentials now or the client reads too slowly (1013). `retry_after` says when to come back.",
        fate: Fate::Closed(&[1001, 1013]),
    },
];

const CLOSES: &[Close] = &[
    Close {
        code: 1000,
        when: "The client left; its own code comes back.",
        then: "Nothing.",
    },
    Close {
        code: 1001,
        when: "The gateway is stopping.",
        then: "Come back, to any gateway, with `since`.",
    },
    Close {
        code: 1002,
        when: "The bytes are not WebSocket.",
        then: "Correct the client.",
    },
    Close {
        code: 1003,
        when: "A binary message.",
        then: "Send text.",
    },
    Close {
        code: 1007,
        when: "Text that is not UTF-8.",
        then: "Correct the client.",
    },
    Close {
        code: 1008,
        when: "The credential at the upgrade is missing, bad or expired, and the close's reason says so; AUTH_FAILED; TOKEN_EXPIRED; or ten bad messages in a row.",
        then: "Get a fresh token, or correct the client; do not come back unchanged.",
    },
    Close {
        code: 1009,
        when: "A message over 1 MiB.",
        then: "Send less.",
    },
    Close {
        code: 1013,
        when: "The client read too slowly and its queue overflowed, or credentials cannot be checked now.",
        then: "Come back after `retry_after`, with `since`.",
    },
];

#[cfg(test)]
mod tests;
