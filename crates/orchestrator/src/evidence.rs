//! Events as an agent sees them: what happened around the question. Read-only
//! and bounded; where they come from is the service's business.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The most events that are looked at for one answer.
pub const MAX_EVENTS: usize = 2_000;

/// An event of the log.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Event {
    /// The producer's id.
    pub id: String,
    /// Its position on the log, larger ones are later.
    pub seq: u64,
    /// Its type with its domain, such as `threat.threat_alert`.
    pub event_type: String,
    /// When it happened, RFC 3339.
    pub time: String,
    /// What happened.
    pub data: Value,
}
