//! An event after validation: what routers store and gateways deliver.

use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value};

use crate::catalogue::{EventType, FieldError, Topic};
use crate::timestamp::Timestamp;

/// How urgent an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Priority {
    /// Of interest to those who look for it.
    Low,
    /// The ordinary case.
    Medium,
    /// Wants attention now.
    High,
}

impl Priority {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "LOW",
            Self::Medium => "MEDIUM",
            Self::High => "HIGH",
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is no priority.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("expected HIGH, MEDIUM or LOW")]
pub struct InvalidPriority;

impl FromStr for Priority {
    type Err = InvalidPriority;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "LOW" => Ok(Self::Low),
            "MEDIUM" => Ok(Self::Medium),
            "HIGH" => Ok(Self::High),
            _ => Err(InvalidPriority),
        }
    }
}

/// One event that passed the catalogue's checks.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its entry in the catalogue.
    pub kind: &'static EventType,
    /// Unique within domain and source; what clients see as `id`.
    pub id: String,
    /// The producing service.
    pub source: String,
    /// When it happened, by the producer's clock.
    pub time: Timestamp,
    /// How urgent it is.
    pub priority: Priority,
    /// What happened.
    pub data: Map<String, Value>,
}

impl Event {
    /// The id under which the bus recognises a repeated publish:
    /// `<domain>/<source>/<id>`.
    #[must_use]
    pub fn message_id(&self) -> String {
        format!("{}/{}/{}", self.kind.domain, self.source, self.id)
    }

    /// Whom the event is addressed to.
    ///
    /// # Errors
    /// When a field that routes it is no valid id.
    pub fn topic(&self) -> Result<Topic, FieldError> {
        self.kind.route.topic(&self.data)
    }
}
