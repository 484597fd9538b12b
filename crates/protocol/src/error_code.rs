//! The error codes that clients see, and the only tables from them to HTTP,
//! gRPC and WebSocket statuses.

use std::fmt;

use serde::Serialize;

/// Why a request was not served, as every dialect spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ErrorCode {
    /// The frame is not JSON.
    InvalidJson,
    /// A field is missing or of the wrong kind; the message names it.
    InvalidMessage,
    /// The frame's `type` is not one that the dialect knows.
    UnknownType,
    /// The channel does not exist.
    UnknownChannel,
    /// The filter key does not exist on that channel.
    UnknownFilter,
    /// The frame or body is larger than it may be.
    TooLarge,
    /// The body is of a media type that is not read.
    UnsupportedMediaType,
    /// The path is not served to this HTTP method.
    MethodNotAllowed,
    /// The permission is missing.
    Forbidden,
    /// What the frame refers to does not exist.
    NotFound,
    /// Somebody decided before; the answer says who.
    AlreadyDecided,
    /// The time in which it could be done is over.
    Expired,
    /// Something of this name exists already.
    AlreadyExists,
    /// No agent of this id is known.
    AgentNotFound,
    /// The agent is not connected.
    AgentOffline,
    /// The agent has too many commands waiting.
    QueueFull,
    /// All agents are stopped.
    EmergencyStop,
    /// The command never was, or has ended.
    CommandNotFound,
    /// There was no answer in time, and nothing was done.
    Timeout,
    /// Too many requests.
    RateLimit,
    /// The credential is missing, bad or expired.
    AuthFailed,
    /// No credential was given, where a dialect tells that apart.
    AuthMissing,
    /// Whoever asks may not be in the room.
    RoomAccessDenied,
    /// The room's name is none.
    InvalidRoom,
    /// The token is about to expire; a fresh one keeps the connection.
    TokenExpiring,
    /// The token has expired, and the connection ends.
    TokenExpired,
    /// The server cannot serve the connection now; the client may return.
    ConnectionFailed,
    /// The service that decides is out of reach; the same request may succeed
    /// later.
    Unavailable,
    /// Our own fault.
    Internal,
}

impl ErrorCode {
    /// Every code.
    pub const ALL: [Self; 29] = [
        Self::InvalidJson,
        Self::InvalidMessage,
        Self::UnknownType,
        Self::UnknownChannel,
        Self::UnknownFilter,
        Self::TooLarge,
        Self::UnsupportedMediaType,
        Self::MethodNotAllowed,
        Self::Forbidden,
        Self::NotFound,
        Self::AlreadyDecided,
        Self::Expired,
        Self::AlreadyExists,
        Self::AgentNotFound,
        Self::AgentOffline,
        Self::QueueFull,
        Self::EmergencyStop,
        Self::CommandNotFound,
        Self::Timeout,
        Self::RateLimit,
        Self::AuthFailed,
        Self::AuthMissing,
        Self::RoomAccessDenied,
        Self::InvalidRoom,
        Self::TokenExpiring,
        Self::TokenExpired,
        Self::ConnectionFailed,
        Self::Unavailable,
        Self::Internal,
    ];

    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidJson => "INVALID_JSON",
            Self::InvalidMessage => "INVALID_MESSAGE",
            Self::UnknownType => "UNKNOWN_TYPE",
            Self::UnknownChannel => "UNKNOWN_CHANNEL",
            Self::UnknownFilter => "UNKNOWN_FILTER",
            Self::TooLarge => "TOO_LARGE",
            Self::UnsupportedMediaType => "UNSUPPORTED_MEDIA_TYPE",
            Self::MethodNotAllowed => "METHOD_NOT_ALLOWED",
            Self::Forbidden => "FORBIDDEN",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyDecided => "ALREADY_DECIDED",
            Self::Expired => "EXPIRED",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::AgentNotFound => "AGENT_NOT_FOUND",
            Self::AgentOffline => "AGENT_OFFLINE",
            Self::QueueFull => "QUEUE_FULL",
            Self::EmergencyStop => "EMERGENCY_STOP",
            Self::CommandNotFound => "COMMAND_NOT_FOUND",
            Self::Timeout => "TIMEOUT",
            Self::RateLimit => "RATE_LIMIT",
            Self::AuthFailed => "AUTH_FAILED",
            Self::AuthMissing => "AUTH_MISSING",
            Self::RoomAccessDenied => "ROOM_ACCESS_DENIED",
            Self::InvalidRoom => "INVALID_ROOM",
            Self::TokenExpiring => "TOKEN_EXPIRING",
            Self::TokenExpired => "TOKEN_EXPIRED",
            Self::ConnectionFailed => "CONNECTION_FAILED",
            Self::Unavailable => "UNAVAILABLE",
            Self::Internal => "INTERNAL",
        }
    }

    /// The code behind a word, if there is one.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == word)
    }

    /// The HTTP status of an answer that carries this code.
    #[must_use]
    pub const fn http_status(self) -> u16 {
        match self {
            Self::InvalidJson
            | Self::InvalidMessage
            | Self::UnknownType
            | Self::UnknownChannel
            | Self::UnknownFilter
            | Self::InvalidRoom => 400,
            Self::AuthFailed | Self::AuthMissing | Self::TokenExpiring | Self::TokenExpired => 401,
            Self::Forbidden | Self::RoomAccessDenied => 403,
            Self::NotFound | Self::AgentNotFound | Self::CommandNotFound => 404,
            Self::AlreadyDecided
            | Self::AlreadyExists
            | Self::AgentOffline
            | Self::EmergencyStop => 409,
            Self::MethodNotAllowed => 405,
            Self::Expired => 410,
            Self::TooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::RateLimit | Self::QueueFull => 429,
            Self::Timeout => 504,
            Self::Internal => 500,
            Self::ConnectionFailed | Self::Unavailable => 503,
        }
    }

    /// The number of the gRPC status of a call that fails with this code.
    #[must_use]
    pub const fn grpc_code(self) -> i32 {
        match self {
            // INVALID_ARGUMENT
            Self::InvalidJson
            | Self::InvalidMessage
            | Self::UnknownType
            | Self::UnknownChannel
            | Self::UnknownFilter
            | Self::InvalidRoom
            | Self::UnsupportedMediaType => 3,
            // NOT_FOUND
            Self::NotFound | Self::AgentNotFound | Self::CommandNotFound => 5,
            // DEADLINE_EXCEEDED
            Self::Timeout => 4,
            // ALREADY_EXISTS
            Self::AlreadyExists => 6,
            // PERMISSION_DENIED
            Self::Forbidden | Self::RoomAccessDenied => 7,
            // RESOURCE_EXHAUSTED, which is also what gRPC calls a large message
            Self::TooLarge | Self::RateLimit | Self::QueueFull => 8,
            // FAILED_PRECONDITION
            Self::AlreadyDecided | Self::Expired | Self::AgentOffline | Self::EmergencyStop => 9,
            // UNIMPLEMENTED
            Self::MethodNotAllowed => 12,
            // INTERNAL
            Self::Internal => 13,
            // UNAVAILABLE
            Self::ConnectionFailed | Self::Unavailable => 14,
            // UNAUTHENTICATED
            Self::AuthFailed | Self::AuthMissing | Self::TokenExpiring | Self::TokenExpired => 16,
        }
    }

    /// The WebSocket close code (RFC 6455, 7.4) of a connection that ends for
    /// this reason.
    #[must_use]
    pub const fn close_code(self) -> u16 {
        match self {
            Self::InvalidJson
            | Self::InvalidMessage
            | Self::UnknownType
            | Self::UnknownChannel
            | Self::UnknownFilter
            | Self::UnsupportedMediaType
            | Self::MethodNotAllowed
            | Self::Forbidden
            | Self::NotFound
            | Self::AlreadyDecided
            | Self::Expired
            | Self::AlreadyExists
            | Self::AgentNotFound
            | Self::AgentOffline
            | Self::QueueFull
            | Self::EmergencyStop
            | Self::CommandNotFound
            | Self::RateLimit
            | Self::AuthFailed
            | Self::AuthMissing
            | Self::RoomAccessDenied
            | Self::InvalidRoom
            | Self::TokenExpiring
            | Self::TokenExpired => 1008,
            Self::TooLarge => 1009,
            Self::Internal => 1011,
            Self::ConnectionFailed | Self::Unavailable | Self::Timeout => 1013,
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_match_serde_and_round_trip() {
        for code in ErrorCode::ALL {
            let json = serde_json::to_value(code).unwrap();
            assert_eq!(json, code.as_str());
            assert_eq!(ErrorCode::parse(code.as_str()), Some(code));
        }
        assert_eq!(ErrorCode::parse("NOPE"), None);
    }
}
