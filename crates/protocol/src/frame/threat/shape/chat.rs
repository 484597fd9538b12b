//! The messages about chats with agents.

use super::{COUNT, Field, Kind, Message, WORD};
use crate::chat::{MAX_CONTEXT_BYTES, MAX_MESSAGE_BYTES, MAX_MESSAGE_ID_BYTES};
use crate::error_code::ErrorCode;
use crate::frame::threat::chat::{AgentErrorCode, ToolDecision, ToolOutcome};

const _: () = assert!(MAX_CONTEXT_BYTES == 64 * 1024, "the summaries say so");

/// Which answer of a chat.
const ANSWER: Kind = Kind::Integer {
    least: 1,
    most: u32::MAX,
};

const SESSION: Field = Field::required(
    "session_id",
    Kind::Id,
    "The chat, as `chat_session_started` named it.",
);
const LATEST: Field = Field::optional(
    "session_id",
    Kind::Id,
    "The chat; without it the one that was begun last on this connection.",
);
const NUMBERED: Field = Field::required("answer", ANSWER, "Which answer of the chat, from 1.");
const METADATA: Field = Field::required(
    "metadata",
    Kind::Object(&[
        Field::required(
            "processing_time",
            Kind::AnyText,
            "How long it took, in seconds.",
        ),
        Field::required(
            "tokens_used",
            Kind::Count,
            "Tokens read and written for it.",
        ),
    ]),
    "What it took.",
);

pub(super) const START: Message = Message::client(
    "start_chat",
    "Begins a chat with an agent. Needs the permission `chat_agents`, and counts against `agent_chats_per_hour`. The connection gets all that is written in the chat, without a subscription.",
    &[
        Field::required("agent_type", WORD, "Which agent."),
        Field::optional(
            "context",
            Kind::AnyObject,
            "What the chat is about, up to 64 KiB; the agent is given it with every message.",
        ),
    ],
    &["chat_session_started", "agent_error"],
    &[ErrorCode::Forbidden, ErrorCode::NotFound],
);

pub(super) const MESSAGE: Message = Message::client(
    "chat_message",
    "Says something to the agent, which then writes an answer. The connection gets that from then on. A chat has one answer at a time.",
    &[
        LATEST,
        Field::required(
            "message",
            Kind::Text {
                most: MAX_MESSAGE_BYTES,
            },
            "What is said.",
        ),
        Field::optional(
            "context",
            Kind::AnyObject,
            "What it is about, up to 64 KiB.",
        ),
        Field::optional(
            "message_id",
            Kind::Text {
                most: MAX_MESSAGE_ID_BYTES,
            },
            "Tells the message from others of the chat: sent again under the same id it is said once, and its answer follows as if it was resumed.",
        ),
    ],
    &["agent_response_chunk", "agent_error"],
    &[ErrorCode::Forbidden],
);

pub(super) const CANCEL: Message = Message::client(
    "cancel_chat",
    "Ends the answer that is being written; nothing else does, a lost connection least of all. Everyone who follows the chat gets `agent_response_cancelled`.",
    &[
        LATEST,
        Field::optional(
            "answer",
            ANSWER,
            "The answer that is meant; without it whichever is being written.",
        ),
    ],
    &["chat_cancelled", "agent_error"],
    &[ErrorCode::Forbidden],
);

pub(super) const RESUME: Message = Message::client(
    "resume_chat",
    "Goes on with a chat, on any connection: what was written behind the chunk follows, then what is being written, each once.",
    &[
        SESSION,
        Field::required(
            "after_chunk",
            COUNT,
            "The `chunk_id` of the last chunk that the client has; 0 for none.",
        ),
        Field::optional(
            "answer",
            ANSWER,
            "The answer that the chunk is of; without it the chat's last one.",
        ),
    ],
    &["chat_resumed", "agent_error"],
    &[ErrorCode::Forbidden, ErrorCode::RateLimit],
);

pub(super) const SESSION_STARTED: Message = Message::server(
    "chat_session_started",
    "The chat has begun.",
    &[
        Field::required("session_id", Kind::Id, "Names the chat."),
        Field::required("agent_type", WORD, "As it was asked for."),
        Field::required(
            "agent_info",
            Kind::Object(&[
                Field::required("name", Kind::AnyText, "The agent's name."),
                Field::required("model", Kind::AnyText, "The model behind it."),
                Field::required("capabilities", Kind::AnyTexts, "What it can do."),
            ]),
            "Who answers.",
        ),
    ],
);

pub(super) const RESPONSE_CHUNK: Message = Message::server(
    "agent_response_chunk",
    "Part of an answer, as soon as it is written.",
    &[
        SESSION,
        Field::required(
            "chunk_id",
            ANSWER,
            "Numbers the chunks of each answer, from 1.",
        ),
        Field::required("content", Kind::AnyText, "The part; the last may be empty."),
        Field::required("is_final", Kind::Flag, "Whether it is the last."),
        NUMBERED,
    ],
);

pub(super) const RESPONSE_COMPLETE: Message = Message::server(
    "agent_response_complete",
    "An answer as a whole, after its last chunk.",
    &[
        SESSION,
        Field::required("full_response", Kind::AnyText, "The chunks, joined."),
        Field::optional(
            "analysis",
            Kind::AnyObject,
            "What the agent concludes; there if agents of the type do, and then in the form that they are set up for.",
        ),
        METADATA,
        NUMBERED,
    ],
);

pub(super) const RESPONSE_CANCELLED: Message = Message::server(
    "agent_response_cancelled",
    "The answer was cancelled; nothing more is written of it.",
    &[
        SESSION,
        Field::required("partial_response", Kind::AnyText, "The chunks, joined."),
        METADATA,
        NUMBERED,
    ],
);

pub(super) const RESUMED: Message = Message::server(
    "chat_resumed",
    "What was asked for follows.",
    &[
        SESSION,
        Field::optional(
            "answer",
            ANSWER,
            "The answer that it goes on with; absent where nothing was asked yet.",
        ),
        Field::required(
            "after_chunk",
            COUNT,
            "The chunk of it behind which it goes on.",
        ),
        Field::required(
            "answering",
            Kind::Flag,
            "Whether the chat's last answer is still being written.",
        ),
    ],
);

pub(super) const CANCELLED: Message = Message::server(
    "chat_cancelled",
    "No answer of the chat is being written any more, or not the one that was meant.",
    &[
        SESSION,
        Field::optional(
            "answer",
            ANSWER,
            "The answer that was ended; absent where there was nothing to end.",
        ),
    ],
);

pub(super) const AGENT_ERROR: Message = Message::server(
    "agent_error",
    "Something about a chat failed: a request, which then had no effect, or an answer, which then has an `answer`.",
    &[
        Field::optional("session_id", Kind::Id, "The chat, where there is one."),
        Field::required(
            "error",
            Kind::Object(&[
                Field::required(
                    "code",
                    Kind::OneOf(AgentErrorCode::WORDS),
                    "Why, for programs.",
                ),
                Field::required("message", Kind::AnyText, "Why, for people."),
                Field::required(
                    "retry_available",
                    Kind::Flag,
                    "Whether the same again may succeed.",
                ),
            ]),
            "Why.",
        ),
        Field::optional("answer", ANSWER, "The answer that broke off."),
        Field::optional(
            "partial_response",
            Kind::AnyText,
            "What was written of it until then.",
        ),
    ],
);

const TOOL_CALL: Field = Field::required(
    "tool_call",
    ANSWER,
    "Which call of a tool in the answer, from 1.",
);
const TOOL_NAME: Field = Field::required("tool_name", Kind::AnyText, "The tool.");
const PARAMETERS: Field = Field::required("parameters", Kind::AnyObject, "What the tool is given.");
const ACTION: Field = Field::required(
    "action_id",
    Kind::Id,
    "What is decided on, by `action_decision`; it stands for this tool with these parameters.",
);

pub(super) const TOOL_EXECUTION: Message = Message::server(
    "agent_tool_execution",
    "The agent has a tool run, from now on.",
    &[
        SESSION,
        TOOL_NAME,
        Field::required("status", Kind::OneOf(&["EXECUTING"]), "It runs."),
        PARAMETERS,
        NUMBERED,
        TOOL_CALL,
    ],
);

pub(super) const TOOL_APPROVAL: Message = Message::server(
    "agent_tool_approval",
    "The agent would have a tool run, and waits until somebody who may `execute_actions` decides. Subscribers of `response_actions` are shown the same as an `action_update`.",
    &[
        SESSION,
        TOOL_NAME,
        PARAMETERS,
        NUMBERED,
        TOOL_CALL,
        ACTION,
        Field::required("action_type", Kind::AnyText, "What kind of action it is."),
        Field::required(
            "arguments_hash",
            Kind::AnyText,
            "SHA-256 of tool and parameters, to which a decision is bound.",
        ),
        Field::required("expires_at", Kind::Time, "When it is too late to decide."),
    ],
);

pub(super) const TOOL_DECISION: Message = Message::server(
    "agent_tool_decision",
    "Somebody decided on a tool that waited, or nobody did in time.",
    &[
        SESSION,
        TOOL_NAME,
        NUMBERED,
        TOOL_CALL,
        ACTION,
        Field::required(
            "decision",
            Kind::OneOf(ToolDecision::WORDS),
            "It runs if it was approved.",
        ),
        Field::optional(
            "decided_by",
            Kind::AnyText,
            "Who decided; absent where nobody did.",
        ),
        Field::optional("reason", Kind::AnyText, "Why."),
    ],
);

pub(super) const TOOL_TERMINAL: Message = Message::server(
    "agent_tool_terminal",
    "The tool runs a command on an agent. Dashboards of dialect `fleet` show its terminal live.",
    &[
        SESSION,
        NUMBERED,
        TOOL_CALL,
        Field::required("agent_id", Kind::AnyText, "The agent that runs it."),
        Field::required("command_id", Kind::AnyText, "The command."),
    ],
);

pub(super) const TOOL_RESULT: Message = Message::server(
    "agent_tool_result",
    "What became of a tool. Every call has one, whatever happens.",
    &[
        SESSION,
        TOOL_NAME,
        Field::required(
            "status",
            Kind::OneOf(&["COMPLETED", "FAILED"]),
            "Whether it gave something.",
        ),
        Field::required(
            "results",
            Kind::AnyObject,
            "What it gave: as it is if that is an object, else as `value`; or, as `error`, why it gave nothing. Written by others: to be shown, never to be trusted.",
        ),
        NUMBERED,
        TOOL_CALL,
        Field::required(
            "outcome",
            Kind::OneOf(ToolOutcome::WORDS),
            "What became of the call: `refused` never ran, `timed_out`, `cancelled` and `unknown` may have acted.",
        ),
        Field::optional(
            "truncated",
            Kind::Flag,
            "True where the tool gave more; `value` is then the beginning as text.",
        ),
    ],
);
