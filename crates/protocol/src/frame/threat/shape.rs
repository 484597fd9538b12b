//! The messages of dialect `threat` as data, those about chats and investigations
//! in modules. One file, since tables are read from top to bottom.

mod chat;
mod investigation;

use std::borrow::Cow;

use super::{MAX_REASON_BYTES, MAX_WORD_BYTES};
use crate::catalogue::{Channel, EventType, ThreatBody};
use crate::decision::Verdict;
use crate::dialect::Dialect;
use crate::error_code::ErrorCode;
use crate::frame::shape::{
    Carrier, Close, Fate, Field, Filter, Kind, Message, Offer, Refusal, Shape,
};
use crate::name::MAX_NAME_BYTES;

/// Dialect `threat`.
pub const SHAPE: Shape = Shape {
    dialect: Dialect::Threat,
    carrier: Carrier::WebSocket,
    path: "/v1/ws",
    summary: "JSON text over WebSocket, for security dashboards.",
    client: CLIENT,
    server: SERVER,
    event,
    offers: OFFERS,
    errors: &["error"],
    refusals: REFUSALS,
    closes: CLOSES,
};

const LABEL: Kind = Kind::Text {
    most: MAX_NAME_BYTES,
};
const WORD: Kind = Kind::Text {
    most: MAX_WORD_BYTES,
};
const VERDICT: Kind = Kind::OneOf(Verdict::WORDS);
const SEQ: &str = "The position behind it: say it in `since` to go on from there.";

const CLIENT: &[Message] = &[
    Message::client(
        "authenticate",
        "Says who the client is: first, and again with a fresh token before the old one expires.",
        &[
            Field::required("token", Kind::Credential, "An API key or an access token."),
            Field::optional(
                "client_info",
                Kind::Object(&[
                    Field::optional("name", LABEL, "The program, for logs."),
                    Field::optional("version", LABEL, "Its version."),
                    Field::optional(
                        "user_id",
                        LABEL,
                        "Whom it says it serves; a label, never an identity.",
                    ),
                ]),
                "What the client says of itself.",
            ),
        ],
        &["auth_success"],
        &[ErrorCode::AuthFailed, ErrorCode::ConnectionFailed],
    ),
    Message::client(
        "subscribe",
        "Asks for a channel's events. A connection may hold several subscriptions, also to one channel; an event that matches several comes once.",
        &[
            Field::required("channel", Kind::Channel(OFFERS), "The channel."),
            Field::optional(
                "filters",
                Kind::Filters(OFFERS),
                "Accepted values by filter key: between keys all must match, within a list one.",
            ),
            Field::optional(
                "investigation_id",
                Kind::Id,
                "On `investigation_progress`: this investigation only. The user is in it while a subscription names it, and the others there are told; `investigation_state` follows the confirmation unless everything since `since` does.",
            ),
            Field::optional("session_id", Kind::Id, "On `agent_chat`: this chat only."),
            Field::optional(
                "metrics",
                Kind::Texts,
                "On `system_metrics`: these keys of the data only. Unknown ones are no error; an update that is left with none is not sent.",
            ),
            Field::optional(
                "since",
                Kind::Cursor,
                "The `seq` of the last message that was received on this channel: what came after it follows. On `agent_chat` nothing does, and `recovered` says so: `resume_chat` goes on there.",
            ),
        ],
        &[
            "subscription_confirmed",
            "investigation_state",
            "agent_error",
        ],
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
        "Ends one subscription.",
        &[Field::required(
            "subscription_id",
            WORD,
            "As the confirmation named it.",
        )],
        &["unsubscription_confirmed"],
        &[ErrorCode::NotFound],
    ),
    Message::client(
        "action_decision",
        "Decides whether a response action is carried out: once, for everyone. Needs the permission `execute_actions`; the decision reaches all subscribers of `response_actions` as `action_decided`.",
        &[
            Field::required(
                "action_id",
                Kind::Id,
                "The action, of which there was an `action_update`.",
            ),
            Field::required("decision", VERDICT, "What is to become of it."),
            Field::optional(
                "reason",
                Kind::Text {
                    most: MAX_REASON_BYTES,
                },
                "Why, for those who read it later.",
            ),
            Field::optional(
                "arguments_hash",
                WORD,
                "As the action's `action_update` has it: the decision is on those arguments, and refused if the action has others.",
            ),
        ],
        &["action_decision_recorded"],
        &[
            ErrorCode::Forbidden,
            ErrorCode::NotFound,
            ErrorCode::AlreadyDecided,
            ErrorCode::Expired,
            ErrorCode::Unavailable,
        ],
    ),
    chat::START,
    chat::MESSAGE,
    chat::CANCEL,
    chat::RESUME,
    investigation::ADD_NOTE,
    Message::client(
        "ping",
        "Asks whether the other end is there, also before authentication; for browsers, which cannot send WebSocket pings.",
        &[],
        &["pong"],
        &[],
    ),
];

const SERVER: &[Message] = &[
    Message::server(
        "auth_success",
        "The credential was accepted. Comes unasked where it came with the upgrade.",
        &[
            Field::required(
                "session_id",
                Kind::AnyText,
                "Names this connection in logs and support requests.",
            ),
            Field::required("permissions", Kind::AnyTexts, "What the user may do."),
            Field::required(
                "rate_limits",
                Kind::Object(&[
                    Field::required(
                        "messages_per_minute",
                        COUNT,
                        "Messages that the user may send a minute.",
                    ),
                    Field::required(
                        "agent_chats_per_hour",
                        COUNT,
                        "Chats that the user may start an hour.",
                    ),
                ]),
                "What the user may do how often.",
            ),
        ],
    ),
    Message::server(
        "subscription_confirmed",
        "Events follow: first those that were missed, in order, then live ones.",
        &[
            Field::required("channel", Kind::Channel(OFFERS), "The channel."),
            Field::required("subscription_id", WORD, "For `unsubscribe`."),
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
        ],
    ),
    Message::server(
        "unsubscription_confirmed",
        "No more events come of this subscription.",
        &[
            Field::required("channel", Kind::Channel(OFFERS), "The channel."),
            Field::required("subscription_id", WORD, "The subscription that ended."),
        ],
    ),
    Message::server(
        "action_decision_recorded",
        "The decision stands, and is on its way to those who act on it.",
        &[
            Field::required("action_id", Kind::Id, "The action."),
            Field::required("decision", VERDICT, "What is to become of it."),
        ],
    ),
    Message::server(
        "rate_limit_exceeded",
        "The message was one too many and was not processed; the connection stays. `messages_per_minute` may answer any message but `ping`, `agent_chats_per_hour` a `start_chat`.",
        &[
            Field::required(
                "limit_type",
                Kind::AnyText,
                "The limit, by its name in `auth_success`.",
            ),
            Field::required(
                "current_usage",
                Kind::AnyText,
                "Messages, or chats begun, in the current window, refused ones included, and how many are served.",
            ),
            Field::required("reset_time", Kind::Time, "When the window ends."),
        ],
    ),
    chat::SESSION_STARTED,
    chat::RESPONSE_CHUNK,
    chat::RESPONSE_COMPLETE,
    chat::RESPONSE_CANCELLED,
    chat::RESUMED,
    chat::CANCELLED,
    chat::TOOL_EXECUTION,
    chat::TOOL_APPROVAL,
    chat::TOOL_DECISION,
    chat::TOOL_TERMINAL,
    chat::TOOL_RESULT,
    chat::AGENT_ERROR,
    investigation::STATE,
    investigation::NOTE_RECORDED,
    Message::server("pong", "Answers `ping`.", &[]),
    Message::server(
        "error",
        "Something went wrong; `code` says what, and the table of codes whether the connection stays.",
        &[
            Field::required("code", Kind::Code, "Why, for programs."),
            Field::required("message", Kind::AnyText, "Why, for people."),
            Field::optional(
                "field",
                Kind::AnyText,
                "The field at fault; fields of objects with a dot, as in `filters.severity`.",
            ),
            Field::optional(
                "retry_after",
                Kind::Integer {
                    least: 0,
                    most: u32::MAX,
                },
                "When to come back, in milliseconds.",
            ),
            Field::optional(
                "expires_at",
                Kind::Time,
                "With TOKEN_EXPIRING: when the token expires. With EXPIRED: until when the action could be decided on.",
            ),
            Field::optional(
                "decided_by",
                Kind::AnyText,
                "With ALREADY_DECIDED: who did.",
            ),
            Field::optional(
                "decision",
                VERDICT,
                "With ALREADY_DECIDED: what was decided.",
            ),
        ],
    ),
];

const COUNT: Kind = Kind::Integer {
    least: 0,
    most: u32::MAX,
};

/// The fields that every event has.
const EVERY_EVENT: [Field; 3] = [
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

/// How an event type is written.
fn event(kind: &'static EventType) -> Option<Message> {
    let word = kind.words.threat?;
    let checked = |names: &[&str]| {
        let listed = kind.fields.iter().copied();
        let listed = listed.filter(|field| names.contains(&field.name));
        listed.map(Field::from).collect::<Vec<_>>()
    };
    let mut fields = match word.body {
        ThreatBody::Flat { fields } => checked(fields),
        ThreatBody::Nested { lifted } => {
            let channel = std::slice::from_ref(offer(kind.route.channel)?);
            let mut fields = vec![Field::required(
                "channel",
                Kind::Channel(channel),
                "The channel.",
            )];
            fields.extend(checked(lifted));
            let data = Kind::Data {
                fields: kind.fields,
                without: lifted,
            };
            fields.push(Field::required(
                "data",
                data,
                "What happened, with whatever else the producer said.",
            ));
            fields
        }
    };
    fields.extend(EVERY_EVENT);
    Some(Message {
        event: None,
        fields: Cow::Owned(fields),
        ..Message::server(word.kind, kind.summary, &[])
    })
}

fn offer(channel: Channel) -> Option<&'static Offer> {
    OFFERS.iter().find(|offer| offer.channel == channel)
}

const READ_THREATS: &str = "read_threats";

const OFFERS: &[Offer] = &[
    Offer {
        channel: Channel::ThreatAlerts,
        summary: "Detections.",
        permission: Some(READ_THREATS),
        filters: &[
            Filter {
                key: "severity",
                summary: "alerts of these severities, in any case of letters.",
            },
            Filter {
                key: "threat_types",
                summary: "alerts whose `threat_type` is one of these.",
            },
            Filter {
                key: "resources",
                summary: "alerts whose `affected_resources` have one of these.",
            },
        ],
        fields: &[],
    },
    Offer {
        channel: Channel::InvestigationProgress,
        summary: "Progress, presence and notes of investigations.",
        permission: Some(READ_THREATS),
        filters: &[],
        fields: &["investigation_id"],
    },
    Offer {
        channel: Channel::SystemMetrics,
        summary: "Figures of the detection system.",
        permission: Some(READ_THREATS),
        filters: &[],
        fields: &["metrics"],
    },
    Offer {
        channel: Channel::ResponseActions,
        summary: "Automated responses, and decisions on them.",
        permission: Some(READ_THREATS),
        filters: &[
            Filter {
                key: "action_types",
                summary: "actions whose `action_type` is one of these.",
            },
            Filter {
                key: "approval_status",
                summary: "actions whose `status` is one of these.",
            },
        ],
        fields: &[],
    },
    Offer {
        channel: Channel::AgentChat,
        summary: "The user's own chats with agents, as messages and not as events: `chat_session_started`, `agent_response_chunk`, `agent_response_complete`, `agent_response_cancelled` and `agent_error`.",
        permission: Some("chat_agents"),
        filters: &[],
        fields: &["session_id"],
    },
];

const REFUSALS: &[Refusal] = &[
    Refusal::stays(ErrorCode::InvalidJson, "The text is not JSON."),
    Refusal::stays(
        ErrorCode::InvalidMessage,
        "The JSON is no object; a required field is missing or null; a field is not what it must be, or not for this channel.",
    ),
    Refusal::stays(
        ErrorCode::UnknownType,
        "No client message has this `type`; letters count as they are.",
    ),
    Refusal::stays(ErrorCode::UnknownChannel, "No channel has this name."),
    Refusal::stays(
        ErrorCode::UnknownFilter,
        "The channel has no filter with this key.",
    ),
    Refusal::stays(
        ErrorCode::Forbidden,
        "`subscribe`, `action_decision` or a message about chats before authentication, or without the permission. Also unasked, when the permission was taken away: once for each subscription that ends, before its `unsubscription_confirmed`, and once when chats without a subscription stop.",
    ),
    Refusal::stays(
        ErrorCode::NotFound,
        "`unsubscribe` for a subscription that the connection does not hold, `action_decision` for an action that nobody announced, `start_chat` for an agent that there is not; the message names those that there are.",
    ),
    Refusal::stays(
        ErrorCode::AlreadyDecided,
        "`action_decision` on an action that was decided before, by someone else or otherwise; `decided_by` and `decision` say by whom and how. Does not count as a bad message.",
    ),
    Refusal::stays(
        ErrorCode::Expired,
        "`action_decision` on an action whose last update says `expires_at`, at that moment or later: nothing is carried out. `expires_at` says when that was. Does not count as a bad message.",
    ),
    Refusal::stays(
        ErrorCode::RateLimit,
        "More than 1,024 subscriptions on one connection, or too many chats resumed at once. Does not count as a bad message.",
    ),
    Refusal::stays(
        ErrorCode::Unavailable,
        "`subscribe` with `since`, or `action_decision`, while the bus is out of reach: send it again. Does not count as a bad message.",
    ),
    Refusal {
        code: ErrorCode::AuthFailed,
        when: "The credential is bad, expired, an agent's, or another user's than before; or it was revoked; or none came within 30 seconds. Repeated refusals come later and later, up to 30 seconds.",
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
        when: "AUTH_FAILED, TOKEN_EXPIRED, or ten bad messages in a row.",
        then: "Get a fresh token, or correct the client; do not come back unchanged.",
    },
    Close {
        code: 1009,
        when: "A message over 1 MiB, or over 64 KiB before authentication.",
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
