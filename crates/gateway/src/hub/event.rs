//! An event as the hub holds it.

use signalbox_protocol::catalogue::Topic;
use signalbox_protocol::event::Event;
use signalbox_protocol::trace::TraceId;

/// An event of TOPICS.
#[derive(Debug)]
pub(crate) struct HubEvent {
    /// Its sequence in TOPICS.
    pub(crate) sequence: u64,
    /// Whom it is addressed to.
    pub(crate) topic: Topic,
    /// What it says.
    pub(crate) event: Event,
    /// The trace that it belongs to.
    pub(crate) trace: Option<TraceId>,
    /// About how much memory it takes, in bytes.
    pub(crate) weight: usize,
}
