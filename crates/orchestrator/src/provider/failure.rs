//! Why a request to a provider failed, told apart by what to do about it.

use std::time::Duration;

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// No connection, or it broke before the answer began.
    Unreachable,
    /// Too many requests or tokens for this key.
    RateLimited,
    /// The provider has too much to do.
    Overloaded,
    /// The provider failed.
    ServerError,
    /// The key is missing, wrong or may not use the model.
    Auth,
    /// The provider does not understand the request, or does not know the model.
    BadRequest,
    /// The conversation is longer than the model can read.
    ContextExceeded,
    /// The stream ended without its end.
    Cut,
    /// No byte came for too long.
    Silent,
    /// The stream is not what the provider's API says.
    Garbled,
    /// A line or the answer is larger than we take.
    TooLarge,
}

/// A request that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", kind.sentence())]
pub struct Failure {
    /// What went wrong.
    pub kind: FailureKind,
    /// More for the log, without secrets and bounded in length. Not for users.
    pub detail: String,
    /// When the provider wants to be asked again.
    pub retry_after: Option<Duration>,
    /// Whether the provider itself forbids or invites another attempt.
    pub advice: Option<bool>,
}

impl Failure {
    /// A failure with what the log should have.
    #[must_use]
    pub fn new(kind: FailureKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            retry_after: None,
            advice: None,
        }
    }

    /// Whether the same request may be sent again, if nothing was visible yet.
    #[must_use]
    pub fn retryable(&self) -> bool {
        self.advice.unwrap_or(match self.kind {
            FailureKind::Unreachable
            | FailureKind::RateLimited
            | FailureKind::Overloaded
            | FailureKind::ServerError
            | FailureKind::Cut
            | FailureKind::Silent => true,
            FailureKind::Auth
            | FailureKind::BadRequest
            | FailureKind::ContextExceeded
            | FailureKind::Garbled
            | FailureKind::TooLarge => false,
        })
    }
}

impl FailureKind {
    /// What a user may read.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Unreachable => "the model cannot be reached",
            Self::RateLimited => "the model takes no more requests for now",
            Self::Overloaded => "the model is overloaded",
            Self::ServerError => "the model's provider failed",
            Self::Auth => "the model's provider refuses the configured key",
            Self::BadRequest => "the model's provider does not accept the request",
            Self::ContextExceeded => "the conversation is too long for the model",
            Self::Cut => "the model's answer was cut off",
            Self::Silent => "the model fell silent",
            Self::Garbled => "the model's answer cannot be read",
            Self::TooLarge => "the model's answer is too large",
        }
    }
}
