//! Why a request is turned down: for the audit log in full, for the bearer of
//! the key as a code and a sentence.

use signalbox_identity::SigningError;
use signalbox_protocol::{ErrorCode, wire};

/// Why a request is turned down. Shown in full it is for our own logs.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Rejection {
    /// The text has not the form of a key.
    #[error("not an API key")]
    Malformed,
    /// No record has the key's id.
    #[error("unknown key")]
    Unknown,
    /// The record is of another key with that id, or of a revoked one.
    #[error("wrong secret or revoked key")]
    NotAccepted,
    /// Nobody can tell now whether the key is good.
    #[error("the key cannot be looked up")]
    NotLookedUp,
    /// A name that cannot be one of a project or agent.
    #[error("field {0}: not a name")]
    NotAName(&'static str),
    /// The key does not belong to this project, a valid name.
    #[error("the key has no access to project {0}")]
    ForeignProject(String),
    /// The key may not speak for the agent that was asked for.
    #[error("the key may not speak for this agent")]
    ForeignAgent,
    /// The token could not be signed.
    #[error(transparent)]
    NotSigned(#[from] SigningError),
}

impl Rejection {
    /// The code that the bearer sees.
    pub(crate) const fn code(&self) -> ErrorCode {
        match self {
            Self::Malformed | Self::Unknown | Self::NotAccepted => ErrorCode::AuthFailed,
            Self::NotLookedUp => ErrorCode::Unavailable,
            Self::NotAName(_) => ErrorCode::InvalidMessage,
            Self::ForeignProject(_) | Self::ForeignAgent => ErrorCode::Forbidden,
            Self::NotSigned(_) => ErrorCode::Internal,
        }
    }

    /// The sentence that the bearer sees.
    fn sentence(&self) -> String {
        match self {
            // One sentence for all three: it must not tell which ids exist.
            Self::Malformed | Self::Unknown | Self::NotAccepted => {
                "the API key is not valid".to_owned()
            }
            Self::NotLookedUp => "API keys cannot be checked now, try again".to_owned(),
            Self::NotAName(field) => {
                format!("field `{field}`: expected an id of 1 to 128 bytes without white space")
            }
            Self::ForeignProject(_) | Self::ForeignAgent => self.to_string(),
            Self::NotSigned(_) => "the token could not be signed".to_owned(),
        }
    }
}

impl From<&Rejection> for wire::Refusal {
    fn from(rejection: &Rejection) -> Self {
        Self {
            code: rejection.code().to_string(),
            message: rejection.sentence(),
            delay_ms: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_keys_are_refused_alike() {
        let seen = |rejection| wire::Refusal::from(&rejection);
        let unknown = seen(Rejection::Unknown);
        assert_eq!(unknown.code, "AUTH_FAILED");
        assert_eq!(seen(Rejection::NotAccepted), unknown);
        assert_eq!(seen(Rejection::Malformed), unknown);
        assert_ne!(seen(Rejection::NotLookedUp).code, unknown.code);
    }
}
