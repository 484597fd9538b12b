//! Why a request is turned down: for the audit log in full, for whoever asked
//! as a code and a sentence.

use std::time::Duration;

use signalbox_identity::SigningError;
use signalbox_protocol::{ErrorCode, wire};

/// Why a request is turned down. Shown in full it is for our own logs.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Rejection {
    /// The API key is not, or no longer, good.
    #[error("API key: {0}")]
    BadKey(&'static str),
    /// The user or the password is not good.
    #[error("login: {0}")]
    BadLogin(&'static str),
    /// The refresh token is not, or no longer, good.
    #[error("refresh token: {0}")]
    BadRefresh(&'static str),
    /// The access token is not, or no longer, good.
    #[error("access token: {0}")]
    BadToken(String),
    /// Too many failures a short time ago; not even looked at.
    #[error("withheld for {0:?}")]
    Withheld(Duration),
    /// Nobody can tell now.
    #[error("records cannot be read or written")]
    Unavailable,
    /// Too many passwords are being hashed.
    #[error("too many wait")]
    Busy,
    /// A name that cannot be one.
    #[error("field {0}: not a name")]
    NotAName(&'static str),
    /// Another field that cannot be what it is.
    #[error("field {field}: expected {expected}")]
    Unfit {
        /// The field.
        field: &'static str,
        /// What it would have to be.
        expected: &'static str,
    },
    /// Somebody has this name already.
    #[error("field {0}: taken")]
    Taken(&'static str),
    /// What is to be changed does not exist.
    #[error("no such {0}")]
    NotFound(&'static str),
    /// There is no access to this project, a valid name.
    #[error("no access to project {0}")]
    ForeignProject(String),
    /// The agent that was asked for may not be spoken for.
    #[error("no right to speak for this agent")]
    ForeignAgent,
    /// Nothing is left of what a token was narrowed to.
    #[error("no access to any of the token's projects any more")]
    NothingLeft,
    /// The right to administer is missing.
    #[error("not an administrator")]
    NotAdmin,
    /// The token could not be signed.
    #[error(transparent)]
    NotSigned(#[from] SigningError),
    /// Our own fault.
    #[error("internal")]
    Internal,
}

impl Rejection {
    /// The code that the bearer sees.
    pub(crate) const fn code(&self) -> ErrorCode {
        match self {
            Self::BadKey(_) | Self::BadLogin(_) | Self::BadRefresh(_) | Self::BadToken(_) => {
                ErrorCode::AuthFailed
            }
            Self::Withheld(_) => ErrorCode::RateLimit,
            Self::Unavailable | Self::Busy => ErrorCode::Unavailable,
            Self::NotAName(_) | Self::Unfit { .. } => ErrorCode::InvalidMessage,
            Self::Taken(_) => ErrorCode::AlreadyExists,
            Self::NotFound(_) => ErrorCode::NotFound,
            Self::ForeignProject(_) | Self::ForeignAgent | Self::NothingLeft | Self::NotAdmin => {
                ErrorCode::Forbidden
            }
            Self::NotSigned(_) | Self::Internal => ErrorCode::Internal,
        }
    }

    /// The field of the request that is at fault.
    const fn field(&self) -> &'static str {
        match self {
            Self::NotAName(field) | Self::Unfit { field, .. } | Self::Taken(field) => field,
            Self::BadKey(_)
            | Self::BadLogin(_)
            | Self::BadRefresh(_)
            | Self::BadToken(_)
            | Self::Withheld(_)
            | Self::Unavailable
            | Self::Busy
            | Self::NotFound(_)
            | Self::ForeignProject(_)
            | Self::ForeignAgent
            | Self::NothingLeft
            | Self::NotAdmin
            | Self::NotSigned(_)
            | Self::Internal => "",
        }
    }

    /// Whether it may have been a guess, which counts.
    pub(crate) const fn is_failure(&self) -> bool {
        matches!(self.code(), ErrorCode::AuthFailed)
    }

    /// The sentence that the bearer sees. What is wrong with a credential is
    /// not told: it must not tell which ids and names exist.
    fn sentence(&self) -> String {
        match self {
            Self::BadKey(_) => "the API key is not valid".to_owned(),
            Self::BadLogin(_) => "the username or the password is wrong".to_owned(),
            Self::BadRefresh(_) => "the refresh token is not valid, log in again".to_owned(),
            Self::BadToken(_) => "the access token is not valid".to_owned(),
            Self::Withheld(_) => "too many failures, try again later".to_owned(),
            Self::Unavailable => "credentials cannot be checked now, try again".to_owned(),
            Self::Busy => "too many logins at once, try again".to_owned(),
            Self::NotAName(field) => {
                format!("field `{field}`: expected an id of 1 to 128 bytes without white space")
            }
            Self::Unfit { field, expected } => format!("field `{field}`: expected {expected}"),
            Self::Taken(field) => format!("field `{field}`: already taken"),
            Self::NotFound(_)
            | Self::ForeignProject(_)
            | Self::ForeignAgent
            | Self::NothingLeft
            | Self::NotAdmin => self.to_string(),
            Self::NotSigned(_) => "the token could not be signed".to_owned(),
            Self::Internal => "internal error".to_owned(),
        }
    }

    /// The answer, to be withheld for so long.
    pub(crate) fn refusal(&self, delay: Duration) -> wire::Refusal {
        let delay = match self {
            Self::Withheld(rest) => *rest,
            _ => delay,
        };
        wire::Refusal {
            code: self.code().to_string(),
            message: self.sentence(),
            delay_ms: u32::try_from(delay.as_millis()).unwrap_or(u32::MAX),
            field: self.field().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_credentials_are_refused_alike() {
        let seen = |rejection: Rejection| rejection.refusal(Duration::ZERO);
        let unknown = seen(Rejection::BadKey("unknown"));
        assert_eq!(unknown.code, "AUTH_FAILED");
        assert_eq!(seen(Rejection::BadKey("revoked")), unknown);
        assert_eq!(
            seen(Rejection::BadLogin("unknown user")),
            seen(Rejection::BadLogin("wrong password"))
        );
        assert_ne!(seen(Rejection::Unavailable).code, unknown.code);
    }
}
