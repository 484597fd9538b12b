//! The messages of dialect `fleet` as data. One file, since the messages refer
//! to each other's fields.

use crate::catalogue::EventType;
use crate::dialect::Dialect;
use crate::error_code::ErrorCode;
use crate::frame::shape::{Carrier, Close, Fate, Field, Kind, Message, Refusal, Shape};
use crate::name::MAX_NAME_BYTES;

use super::{
    AGENT_STATUSES, ALGORITHMS, COMMAND_STATUSES, MAX_CELLS, MAX_COMMAND_BYTES, MAX_CONCURRENCY,
    MAX_EXIT_CODE, MAX_REASON_BYTES, PRIORITIES, REPORTED_STATUSES, STREAMS,
};

/// Dialect `fleet`.
pub const SHAPE: Shape = Shape {
    carrier: Carrier::WebSocket,
    errors: &["command:error", "connection:error", "validation:error"],
    dialect: Dialect::Fleet,
    path: "/ws",
    summary: "JSON text over WebSocket, for dashboards that run commands on agents, and for the agents.",
    client: CLIENT,
    server: SERVER,
    event,
    offers: &[],
    refusals: REFUSALS,
    closes: CLOSES,
};

/// Nothing of the catalogue is written in this dialect: it tells what relays
/// know of agents and commands.
const fn event(_: &'static EventType) -> Option<Message> {
    None
}

const NAME: Kind = Kind::Text {
    most: MAX_NAME_BYTES,
};
const AGENT: Field = Field::required("agentId", Kind::Id, "The agent.");
const COMMAND: Field = Field::required("commandId", Kind::Id, "The command.");
const REQUEST: Field = Field::optional(
    "requestId",
    Kind::Id,
    "Any id: the direct answer has it, too.",
);
const CAPABILITIES: Field = Field::optional(
    "capabilities",
    Kind::AnyTexts,
    "What the client understands beyond plain messages; unknown words are ignored.",
);
const EXIT_CODE: Field = Field::optional(
    "exitCode",
    Kind::Integer {
        least: 0,
        most: MAX_EXIT_CODE,
    },
    "What the command returned; 128+n where signal n ended it.",
);
const SIGNAL: Field = Field::optional("signal", Kind::Id, "The signal that ended it.");
const DURATION: Field =
    Field::optional("duration", Kind::Count, "For how many milliseconds it ran.");
const REASON: Field = Field::optional(
    "reason",
    Kind::Text {
        most: MAX_REASON_BYTES,
    },
    "Why it failed, where exit code and signal do not say it.",
);
const INCOMPLETE: Field =
    Field::optional("incomplete", Kind::Flag, "Whether output may be missing.");

const USAGE: Field = Field::optional(
    "usage",
    Kind::Object(&[
        Field::optional(
            "cpuTime",
            Kind::Count,
            "For how many milliseconds processors were busy with it.",
        ),
        Field::optional(
            "peakMemory",
            Kind::Count,
            "The most memory that it had at a time, in bytes.",
        ),
    ]),
    "What it took of its machine, with all processes that it began.",
);

/// What may answer any verb about agents and commands.
const VERB: &[ErrorCode] = &[
    ErrorCode::Forbidden,
    ErrorCode::CommandNotFound,
    ErrorCode::Timeout,
];
const DONE: &[&str] = &["request:done"];

const CLIENT: &[Message] = &[
    Message::client(
        "dashboard:connect",
        "Says that the connection is a dashboard's. The first message of one, and once.",
        &[
            Field::required(
                "dashboardId",
                Kind::Id,
                "A label; two connections may have the same.",
            ),
            CAPABILITIES,
            Field::optional(
                "resumeFrom",
                Kind::FleetCursor,
                "The `seq` of the last message that was received: what came after it follows.",
            ),
            REQUEST,
        ],
        &["agent:list"],
        &[ErrorCode::Forbidden, ErrorCode::Unavailable],
    ),
    Message::client(
        "dashboard:disconnect",
        "Leaves. The connection is closed with 1000.",
        &[
            Field::optional("dashboardId", Kind::Id, "The label."),
            REQUEST,
        ],
        &[],
        &[],
    ),
    Message::client(
        "agent:connect",
        "Says that the connection is an agent's. The first message of one, and once.",
        &[
            AGENT,
            Field::required("agentType", NAME, "What kind of agent it is."),
            Field::required("version", NAME, "Its own version; nothing depends on it."),
            CAPABILITIES,
            Field::optional(
                "concurrency",
                Kind::Integer {
                    least: 1,
                    most: MAX_CONCURRENCY,
                },
                "How many commands it runs at once; 1 unless it says so.",
            ),
            Field::optional(
                "running",
                Kind::AnyTexts,
                "With capability `journal`: the commands that it runs.",
            ),
            Field::optional(
                "ended",
                Kind::AnyTexts,
                "With capability `journal`: the commands whose end it has not got confirmed.",
            ),
            REQUEST,
        ],
        &["agent:connected"],
        &[ErrorCode::Forbidden],
    ),
    Message::client(
        "agent:disconnect",
        "Leaves: the agent is offline at once. The connection is closed with 1000.",
        &[AGENT, REQUEST],
        &[],
        &[],
    ),
    Message::client(
        "agent:status",
        "How the agent is.",
        &[
            AGENT,
            Field::required("status", Kind::OneOf(AGENT_STATUSES), "How it is."),
            Field::optional(
                "metrics",
                Kind::AnyObject,
                "Whatever it measures; absent = as before.",
            ),
            REQUEST,
        ],
        &[],
        &[],
    ),
    Message::client(
        "command:request",
        "Asks an agent to run a command. Needs the permission `run_commands`.",
        &[
            AGENT,
            Field::required(
                "command",
                Kind::Text {
                    most: MAX_COMMAND_BYTES,
                },
                "What to run.",
            ),
            Field::optional("args", Kind::AnyTexts, "What is appended to it, as it is."),
            Field::optional(
                "priority",
                Kind::OneOf(PRIORITIES),
                "How urgent it is; `normal` unless it says so.",
            ),
            Field::optional(
                "idempotencyKey",
                Kind::Id,
                "The same key of the same user for the same agent is the same command, not another.",
            ),
            Field::optional(
                "queueIfOffline",
                Kind::Flag,
                "Whether it may wait for an agent that is not connected.",
            ),
            REQUEST,
        ],
        &["command:queued"],
        &[
            ErrorCode::AgentNotFound,
            ErrorCode::AgentOffline,
            ErrorCode::QueueFull,
            ErrorCode::EmergencyStop,
            ErrorCode::Forbidden,
            ErrorCode::Timeout,
        ],
    ),
    Message::client(
        "command:interrupt",
        "Ends a command: one that waits is removed, one that runs is told to stop. Needs `run_commands`.",
        &[COMMAND, REQUEST],
        DONE,
        VERB,
    ),
    Message::client(
        "command:status",
        "From an agent: the command runs, or how it ended.",
        &[
            COMMAND,
            Field::optional("agentId", Kind::Id, "The agent itself."),
            Field::required("status", Kind::OneOf(REPORTED_STATUSES), "How it is."),
            EXIT_CODE,
            SIGNAL,
            DURATION,
            REASON,
            INCOMPLETE,
            REQUEST,
        ],
        DONE,
        &[ErrorCode::CommandNotFound],
    ),
    Message::client(
        "command:complete",
        "From an agent: the command has ended, and all of its output was sent before.",
        &[
            COMMAND,
            Field::optional("agentId", Kind::Id, "The agent itself."),
            Field::optional(
                "status",
                Kind::OneOf(REPORTED_STATUSES),
                "How it ended; without, exit code and signal say it.",
            ),
            EXIT_CODE,
            SIGNAL,
            DURATION,
            REASON,
            INCOMPLETE,
            Field::optional(
                "streams",
                Kind::List(&[
                    Field::required("stream", Kind::OneOf(STREAMS), "The stream."),
                    Field::required(
                        "bytes",
                        Kind::Count,
                        "Bytes that were written to it in all.",
                    ),
                    Field::optional(
                        "sha256",
                        Kind::AnyText,
                        "Their SHA-256 in 64 hexadecimal digits.",
                    ),
                ]),
                "What it has written. Without `incomplete`, the end is taken once as much is stored.",
            ),
            USAGE,
            REQUEST,
        ],
        DONE,
        &[ErrorCode::CommandNotFound],
    ),
    Message::client(
        "terminal:output",
        "From an agent: what a command has written.",
        &[
            AGENT,
            COMMAND,
            Field::required(
                "output",
                Kind::Object(&[
                    Field::required("type", Kind::OneOf(STREAMS), "Where it wrote it to."),
                    Field::required("content", Kind::AnyText, "The text."),
                    Field::optional(
                        "timestamp",
                        Kind::AnyText,
                        "When; the gateway's time where it is none of RFC 3339.",
                    ),
                    Field::optional(
                        "raw",
                        Kind::AnyText,
                        "The exact bytes in base64, in place of `content`.",
                    ),
                ]),
                "What.",
            ),
            Field::optional(
                "offset",
                Kind::Count,
                "Of its first byte, in its stream; without, the gateway counts.",
            ),
            Field::optional(
                "afterLoss",
                Kind::Flag,
                "Whether what is missing in front of it is lost for good.",
            ),
            REQUEST,
        ],
        &[],
        &[ErrorCode::CommandNotFound],
    ),
    Message::client(
        "terminal:clear",
        "Clears an agent's terminal for all dashboards; what was written stays on record. From the agent, or with `run_commands`.",
        &[AGENT, REQUEST],
        DONE,
        VERB,
    ),
    Message::client(
        "terminal:input",
        "Types into a command's terminal. Needs `run_commands`. Not sent again by the gateway, so that nothing is typed twice.",
        &[
            COMMAND,
            Field::required("content", Kind::AnyText, "The text."),
            Field::optional(
                "raw",
                Kind::AnyText,
                "The exact bytes in base64, in place of `content`.",
            ),
            REQUEST,
        ],
        DONE,
        VERB,
    ),
    Message::client(
        "terminal:resize",
        "Changes the size of a command's terminal. Needs `run_commands`.",
        &[
            COMMAND,
            Field::required(
                "columns",
                Kind::Integer {
                    least: 1,
                    most: MAX_CELLS,
                },
                "Its width.",
            ),
            Field::required(
                "rows",
                Kind::Integer {
                    least: 1,
                    most: MAX_CELLS,
                },
                "Its height.",
            ),
            REQUEST,
        ],
        DONE,
        VERB,
    ),
    Message::client(
        "heartbeat:ping",
        "Asks whether the other end is there; for browsers, which cannot send WebSocket pings.",
        &[REQUEST],
        &["heartbeat:pong"],
        &[],
    ),
    Message::client(
        "heartbeat:pong",
        "Answers the server's `heartbeat:ping`.",
        &[REQUEST],
        &[],
        &[],
    ),
    Message::client(
        "system:emergency-stop",
        "Stops all agents: what runs is interrupted, what waits is removed, and nothing new is accepted until `system:resume`. Needs `emergency_stop`.",
        &[
            Field::optional(
                "reason",
                Kind::Text {
                    most: MAX_REASON_BYTES,
                },
                "Why, for people.",
            ),
            REQUEST,
        ],
        DONE,
        &[ErrorCode::Forbidden, ErrorCode::Timeout],
    ),
    Message::client(
        "system:resume",
        "Lifts the emergency stop. Needs `emergency_stop`.",
        &[REQUEST],
        DONE,
        &[ErrorCode::Forbidden, ErrorCode::Timeout],
    ),
    Message::client(
        "system:emergency-confirmed",
        "From an agent: it has stopped all that it ran.",
        &[
            Field::required("stopId", Kind::Id, "The stop that it obeyed."),
            REQUEST,
        ],
        &[],
        &[],
    ),
    Message::client(
        "auth:refresh-token",
        "Goes on with fresh tokens of the same user. A `token` that is valid and expires later is adopted; only otherwise is `refreshToken` used.",
        &[
            Field::optional("token", Kind::Credential, "An access token."),
            Field::optional(
                "refreshToken",
                Kind::Credential,
                "What the next pair of tokens is issued for.",
            ),
            REQUEST,
        ],
        &["auth:refresh-success", "auth:refresh-failed"],
        &[],
    ),
    Message::client(
        "batch",
        "Several messages, each handled and counted as if it came alone.",
        &[
            Field::required(
                "messages",
                Kind::Messages,
                "The messages; none may be a `batch` or `compressed`.",
            ),
            Field::required("count", Kind::Count, "How many they are."),
            REQUEST,
        ],
        &[],
        &[],
    ),
    Message::client(
        "compressed",
        "A message, or a `batch` of them, compressed.",
        &[
            Field::required("algorithm", Kind::OneOf(ALGORITHMS), "How."),
            Field::required("originalType", NAME, "The type of what is compressed."),
            Field::required(
                "originalSize",
                Kind::Count,
                "Its size in bytes, at most 1 MiB.",
            ),
            Field::required(
                "compressedSize",
                Kind::Count,
                "The size of the compressed bytes.",
            ),
            Field::required("data", Kind::AnyText, "The compressed bytes in base64."),
            REQUEST,
        ],
        &[],
        &[],
    ),
];

const TIMESTAMP: Field = Field::required("timestamp", Kind::Time, "When.");
const SEQ: Field = Field::required(
    "seq",
    Kind::FleetCursor,
    "The position behind it: say it in `resumeFrom` to go on from there.",
);
const REPLAY: Field = Field::optional(
    "replay",
    Kind::Flag,
    "True for what happened before the dashboard came.",
);
const ANSWERED: Field = Field::optional(
    "requestId",
    Kind::AnyText,
    "That of the message which this answers.",
);
const TOLD_AGENT: Field = Field::required("agentId", Kind::AnyText, "The agent.");
const TOLD_COMMAND: Field = Field::required("commandId", Kind::AnyText, "The command.");
const TOLD_EXIT_CODE: Field = Field::optional(
    "exitCode",
    Kind::Number,
    "Once it has ended: what it returned; 128+n where signal n ended it.",
);
const TOLD_SIGNAL: Field = Field::optional("signal", Kind::AnyText, "The signal that ended it.");
const TOLD_REASON: Field = Field::optional(
    "reason",
    Kind::AnyText,
    "Why it failed: `agent_lost`, `outcome_unknown`, `emergency_stop`, or the agent's words.",
);
const TOLD_METRICS: Field = Field::optional("metrics", Kind::AnyObject, "Whatever it measures.");
const TOLD_BY: Field = Field::required("by", Kind::AnyText, "Who.");
const STOP: Field = Field::required("stopId", Kind::AnyText, "Names the stop.");
const USED: &[Field] = &[
    Field::required("used", Kind::Count, "Messages, refused ones included."),
    Field::required("limit", Kind::Count, "How many are served."),
];

const SERVER: &[Message] = &[
    Message::server(
        "connection:error",
        "The connection, or what it asked for, is refused; `code` says why, and the table of codes whether the connection stays.",
        &[
            Field::required("error", Kind::AnyText, "Why, for people."),
            Field::required("code", Kind::Code, "Why, for programs."),
            Field::optional("retryAfter", Kind::Count, "When to try again, in seconds."),
            Field::optional(
                "limits",
                Kind::Object(&[
                    Field::required("perMinute", Kind::Object(USED), "The running minute."),
                    Field::optional("perHour", Kind::Object(USED), "The running hour."),
                ]),
                "With RATE_LIMIT: what was used of which limits.",
            ),
            ANSWERED,
            TIMESTAMP,
        ],
    ),
    Message::server(
        "validation:error",
        "A message is not as it must be.",
        &[
            Field::required("error", Kind::AnyText, "What is wrong, for people."),
            Field::optional(
                "field",
                Kind::AnyText,
                "The field at fault; fields of objects with a dot, as in `output.type`.",
            ),
            Field::required("code", Kind::Code, "What is wrong, for programs."),
            ANSWERED,
            TIMESTAMP,
        ],
    ),
    Message::server(
        "agent:list",
        "To dashboards: every agent that is connected now. What follows is live, behind what was missed.",
        &[
            Field::required(
                "agents",
                Kind::List(&[
                    TOLD_AGENT,
                    Field::required("agentType", Kind::AnyText, "What kind of agent it is."),
                    Field::required("status", Kind::OneOf(AGENT_STATUSES), "How it is."),
                    Field::required("connectedAt", Kind::Time, "Since when it is connected."),
                    Field::required("version", Kind::AnyText, "Its own version."),
                    Field::required("running", Kind::AnyTexts, "The commands that it runs."),
                    TOLD_METRICS,
                ]),
                "The agents.",
            ),
            Field::optional(
                "recovered",
                Kind::Flag,
                "Whether all that came after `resumeFrom` follows; there if that was given.",
            ),
            SEQ,
            ANSWERED,
            TIMESTAMP,
        ],
    ),
    Message::server(
        "agent:connected",
        "To agents: the connection is the agent's.",
        &[
            TOLD_AGENT,
            Field::required(
                "heartbeatInterval",
                Kind::Count,
                "In milliseconds; a connection that is silent for three of them is ended.",
            ),
            Field::optional(
                "offsets",
                Kind::List(&[
                    TOLD_COMMAND,
                    Field::required("stream", Kind::OneOf(STREAMS), "The stream."),
                    Field::required("offset", Kind::Count, "Everything before it is stored."),
                ]),
                "What is stored of the commands that the agent still has: go on from there.",
            ),
            Field::optional(
                "abandoned",
                Kind::AnyTexts,
                "Commands that were given up: end them, and report them no more.",
            ),
            ANSWERED,
            TIMESTAMP,
        ],
    ),
    Message::server(
        "agent:status",
        "To dashboards: how an agent is now.",
        &[
            TOLD_AGENT,
            Field::required("status", Kind::OneOf(AGENT_STATUSES), "How it is."),
            TOLD_METRICS,
            Field::required("agentType", Kind::AnyText, "What kind of agent it is."),
            Field::optional("connectedAt", Kind::Time, "Since when it is connected."),
            SEQ,
            TIMESTAMP,
        ],
    ),
    Message::server(
        "command:queued",
        "The command was accepted, and no fault loses it any more.",
        &[
            TOLD_COMMAND,
            TOLD_AGENT,
            Field::required(
                "position",
                Kind::Count,
                "Its place among those that wait for the agent, from 1; 0 where it waits no more.",
            ),
            Field::required(
                "estimatedWait",
                Kind::Count,
                "How long it is going to wait, in milliseconds.",
            ),
            ANSWERED,
            TIMESTAMP,
        ],
    ),
    Message::server(
        "command:error",
        "What was asked of agents or commands is not done.",
        &[
            Field::required("error", Kind::AnyText, "Why, for people."),
            Field::required("code", Kind::Code, "Why, for programs."),
            Field::optional("agentId", Kind::AnyText, "The agent."),
            Field::optional("commandId", Kind::AnyText, "The command."),
            ANSWERED,
            TIMESTAMP,
        ],
    ),
    Message::server(
        "command:execute",
        "To agents: run this command.",
        &[
            TOLD_COMMAND,
            Field::required("command", Kind::AnyText, "What to run."),
            Field::required("args", Kind::AnyTexts, "What is appended to it, as it is."),
            Field::required(
                "attempt",
                Kind::Count,
                "From 1; greater where it is known that no earlier one reached the agent.",
            ),
            TIMESTAMP,
        ],
    ),
    Message::server(
        "command:status",
        "To dashboards: how a command is now.",
        &[
            TOLD_COMMAND,
            TOLD_AGENT,
            Field::required("status", Kind::OneOf(COMMAND_STATUSES), "How it is."),
            Field::optional(
                "position",
                Kind::Count,
                "While it waits: its place, from 1.",
            ),
            Field::optional(
                "estimatedWait",
                Kind::Count,
                "While it waits: for how long, in milliseconds.",
            ),
            Field::optional("command", Kind::AnyText, "When it is queued: what is run."),
            Field::optional(
                "args",
                Kind::AnyTexts,
                "When it is queued: what is appended to it.",
            ),
            Field::optional(
                "priority",
                Kind::OneOf(PRIORITIES),
                "When it is queued: how urgent it is.",
            ),
            Field::optional("by", Kind::AnyText, "When it is queued: who asked for it."),
            TOLD_EXIT_CODE,
            DURATION,
            TOLD_SIGNAL,
            TOLD_REASON,
            INCOMPLETE,
            REPLAY,
            SEQ,
            TIMESTAMP,
        ],
    ),
    Message::server(
        "command:interrupt",
        "To agents: end this command.",
        &[
            TOLD_COMMAND,
            Field::optional(
                "by",
                Kind::AnyText,
                "Who asked; absent at an emergency stop.",
            ),
            TIMESTAMP,
        ],
    ),
    Message::server(
        "command:complete",
        "To dashboards: the command has ended. The last message about it, behind all of its output.",
        &[
            TOLD_COMMAND,
            TOLD_AGENT,
            Field::required("status", Kind::OneOf(COMMAND_STATUSES), "How it ended."),
            TOLD_EXIT_CODE,
            DURATION,
            TOLD_SIGNAL,
            TOLD_REASON,
            INCOMPLETE,
            Field::optional(
                "streams",
                Kind::List(&[
                    Field::required("stream", Kind::OneOf(STREAMS), "The stream."),
                    Field::required(
                        "bytes",
                        Kind::Count,
                        "Bytes that the command has written, as far as is known.",
                    ),
                    Field::required("recorded", Kind::Count, "Those of them that are recorded."),
                    Field::optional(
                        "sha256",
                        Kind::AnyText,
                        "The SHA-256 of what is recorded, in hexadecimal digits.",
                    ),
                    Field::optional(
                        "writtenSha256",
                        Kind::AnyText,
                        "The SHA-256 of what the command has written, where its agent says it.",
                    ),
                ]),
                "The streams that have anything.",
            ),
            USAGE,
            REPLAY,
            SEQ,
            TIMESTAMP,
        ],
    ),
    Message::server(
        "terminal:output",
        "To dashboards: what a command has written.",
        &[
            TOLD_AGENT,
            TOLD_COMMAND,
            Field::required(
                "output",
                Kind::Object(&[
                    Field::required("type", Kind::OneOf(STREAMS), "Where it wrote it to."),
                    Field::required(
                        "content",
                        Kind::AnyText,
                        "The text; bytes that are no UTF-8 are U+FFFD.",
                    ),
                    Field::required("timestamp", Kind::Time, "When it was written."),
                    Field::optional(
                        "raw",
                        Kind::AnyText,
                        "The exact bytes in base64, where they are no UTF-8.",
                    ),
                ]),
                "What.",
            ),
            Field::required("stream", Kind::OneOf(STREAMS), "Where it wrote it to."),
            Field::required("offset", Kind::Count, "Of its first byte, in the stream."),
            REPLAY,
            SEQ,
            TIMESTAMP,
        ],
    ),
    Message::server(
        "terminal:gap",
        "To dashboards: output that is missing for good.",
        &[
            TOLD_AGENT,
            TOLD_COMMAND,
            Field::required("stream", Kind::OneOf(STREAMS), "The stream."),
            Field::required("from", Kind::Count, "The offset of its first byte."),
            Field::optional(
                "to",
                Kind::Count,
                "The offset behind its last byte; absent where all that follows is missing.",
            ),
            Field::required(
                "reason",
                Kind::OneOf(&["lost", "capped"]),
                "Lost on the way, or more than is recorded.",
            ),
            REPLAY,
            SEQ,
            TIMESTAMP,
        ],
    ),
    Message::server(
        "terminal:clear",
        "To dashboards: an agent's terminal was cleared.",
        &[
            TOLD_AGENT,
            Field::optional(
                "by",
                Kind::AnyText,
                "Who cleared it; absent where the agent itself did.",
            ),
            SEQ,
            TIMESTAMP,
        ],
    ),
    Message::server(
        "terminal:ack",
        "To agents with capability `ack`: so much of a command's output is stored.",
        &[
            TOLD_COMMAND,
            Field::required("stream", Kind::OneOf(STREAMS), "The stream."),
            Field::required("offset", Kind::Count, "Everything before it is stored."),
            TIMESTAMP,
        ],
    ),
    Message::server(
        "terminal:input",
        "To agents: what somebody types.",
        &[
            TOLD_COMMAND,
            Field::required("content", Kind::AnyText, "The text."),
            Field::optional(
                "raw",
                Kind::AnyText,
                "The exact bytes in base64, where they are no UTF-8.",
            ),
            TIMESTAMP,
        ],
    ),
    Message::server(
        "terminal:resize",
        "To agents: the terminal has another size.",
        &[
            TOLD_COMMAND,
            Field::required("columns", Kind::Count, "Its width."),
            Field::required("rows", Kind::Count, "Its height."),
            TIMESTAMP,
        ],
    ),
    Message::server(
        "heartbeat:ping",
        "To clients with capability `heartbeat`: asks for a `heartbeat:pong`.",
        &[TIMESTAMP],
    ),
    Message::server(
        "heartbeat:pong",
        "Answers `heartbeat:ping`.",
        &[ANSWERED, TIMESTAMP],
    ),
    Message::server(
        "system:emergency-stop",
        "All agents stop.",
        &[
            Field::required("reason", Kind::AnyText, "Why, for people; may be empty."),
            TOLD_BY,
            STOP,
            TIMESTAMP,
        ],
    ),
    Message::server(
        "system:resume",
        "The emergency stop is lifted.",
        &[TOLD_BY, STOP, TIMESTAMP],
    ),
    Message::server(
        "system:emergency-status",
        "To dashboards: how far the emergency stop is obeyed; after each change, and to those that connect during one.",
        &[
            Field::required(
                "agents",
                Kind::List(&[
                    TOLD_AGENT,
                    Field::required(
                        "state",
                        Kind::OneOf(&["confirmed", "unreachable"]),
                        "Whether it is known to have stopped.",
                    ),
                ]),
                "The agents of which it is known.",
            ),
            Field::required("reason", Kind::AnyText, "Why, for people; may be empty."),
            TOLD_BY,
            STOP,
            TIMESTAMP,
        ],
    ),
    Message::server(
        "auth:refresh-needed",
        "The token expires soon: `auth:refresh-token` with fresh ones, and the connection stays.",
        &[
            Field::required("expiresAt", Kind::Time, "When it expires."),
            TIMESTAMP,
        ],
    ),
    Message::server(
        "auth:refresh-success",
        "The connection goes on with the fresh token.",
        &[
            Field::optional(
                "token",
                Kind::AnyText,
                "The access token, where `refreshToken` was used.",
            ),
            Field::optional(
                "refreshToken",
                Kind::AnyText,
                "The next refresh token, where `refreshToken` was used.",
            ),
            Field::optional(
                "expiresAt",
                Kind::Time,
                "When the connection's token expires; absent where it does not.",
            ),
            ANSWERED,
            TIMESTAMP,
        ],
    ),
    Message::server(
        "auth:refresh-failed",
        "The connection stays with the token that it has.",
        &[
            Field::required("error", Kind::AnyText, "Why, for people."),
            ANSWERED,
            TIMESTAMP,
        ],
    ),
    Message::server(
        "request:done",
        "What was asked is done; only where the message had a `requestId`.",
        &[
            Field::required(
                "requestId",
                Kind::AnyText,
                "That of the message which this answers.",
            ),
            TIMESTAMP,
        ],
    ),
    Message::server(
        "batch",
        "Several messages; to dashboards with capability `batch`.",
        &[
            Field::required("messages", Kind::Messages, "The messages, in order."),
            Field::required("count", Kind::Count, "How many they are."),
            TIMESTAMP,
        ],
    ),
    Message::server(
        "compressed",
        "A message, or a `batch` of them, of more than 1 KB; to dashboards with capability `compressed`.",
        &[
            Field::required("algorithm", Kind::OneOf(ALGORITHMS), "How."),
            Field::required(
                "originalType",
                Kind::AnyText,
                "The type of what is compressed.",
            ),
            Field::required("originalSize", Kind::Count, "Its size in bytes."),
            Field::required(
                "compressedSize",
                Kind::Count,
                "The size of the compressed bytes.",
            ),
            Field::required("data", Kind::AnyText, "The compressed bytes in base64."),
            TIMESTAMP,
        ],
    ),
];

const REFUSALS: &[Refusal] = &[
    Refusal::stays(
        ErrorCode::InvalidJson,
        "`validation:error`: the text is not JSON.",
    ),
    Refusal::stays(
        ErrorCode::InvalidMessage,
        "`validation:error`: the JSON is no object; a required field is missing or null; a field is not what it must be, such as a `count` or a size that is not true.",
    ),
    Refusal::stays(
        ErrorCode::UnknownType,
        "`validation:error`: no client message has this `type`; letters count as they are.",
    ),
    Refusal::stays(
        ErrorCode::Forbidden,
        "The permission is missing; the message is for another role, or comes before `dashboard:connect` or `agent:connect`; the `agentId` is not the token's.",
    ),
    Refusal::stays(
        ErrorCode::RateLimit,
        "Too many messages; `limits` says of which, `retryAfter` when to go on. Does not count as a bad message.",
    ),
    Refusal::stays(
        ErrorCode::AgentNotFound,
        "`command:error`: no agent of this id has ever connected.",
    ),
    Refusal::stays(
        ErrorCode::AgentOffline,
        "`command:error`: the agent is not connected, and the request does not say `queueIfOffline`.",
    ),
    Refusal::stays(
        ErrorCode::QueueFull,
        "`command:error`: too many commands wait for the agent.",
    ),
    Refusal::stays(
        ErrorCode::EmergencyStop,
        "`command:error`: all agents are stopped.",
    ),
    Refusal::stays(
        ErrorCode::CommandNotFound,
        "`command:error`: the command never was, or it has ended, or it is another agent's.",
    ),
    Refusal::stays(
        ErrorCode::Timeout,
        "`command:error`: no answer within 5 seconds; nothing was executed.",
    ),
    Refusal::stays(
        ErrorCode::Unavailable,
        "The bus is out of reach: send it again. Does not count as a bad message.",
    ),
    Refusal {
        code: ErrorCode::AuthFailed,
        when: "`connection:error`: the credential was revoked, or no longer grants what the connection is for.",
        fate: Fate::Closed(&[1008]),
    },
    Refusal {
        code: ErrorCode::TokenExpired,
        when: "`connection:error`: the token has expired, and no fresh one came.",
        fate: Fate::Closed(&[1008]),
    },
    Refusal {
        code: ErrorCode::ConnectionFailed,
        when: "`connection:error`: the gateway is stopping (1001), or cannot check credentials now or the client reads too slowly (1013). `retryAfter` says when to come back.",
        fate: Fate::Closed(&[1001, 1013]),
    },
];

const CLOSES: &[Close] = &[
    Close {
        code: 1000,
        when: "`dashboard:disconnect` or `agent:disconnect`; or the client closed, and its own code comes back.",
        then: "Nothing.",
    },
    Close {
        code: 1001,
        when: "The gateway is stopping.",
        then: "Come back, to any gateway, with `resumeFrom`.",
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
        when: "The credential at the upgrade is missing, bad or expired, and the close's reason says so; AUTH_FAILED; TOKEN_EXPIRED; neither role was taken within 5 minutes; another connection took the agent's place (`replaced`); or ten bad messages in a row.",
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
        then: "Come back after `retryAfter`, with `resumeFrom`.",
    },
];

#[cfg(test)]
mod tests;
