//! An event as the hub holds it.

use signalbox_protocol::catalogue::Topic;
use signalbox_protocol::event::Event;
use signalbox_protocol::trace::TraceParent;

use super::tally::Tally;

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
    pub(crate) trace: Option<EventTrace>,
    /// About how much memory it takes, in bytes.
    pub(crate) weight: usize,
}

/// The trace that an event belongs to.
#[derive(Debug)]
pub(crate) struct EventTrace {
    /// Where the event stands in it.
    pub(crate) parent: TraceParent,
    /// What becomes of the event here, where that is recorded.
    pub(crate) tally: Option<Box<Tally>>,
}

impl From<TraceParent> for EventTrace {
    fn from(parent: TraceParent) -> Self {
        Self {
            parent,
            tally: None,
        }
    }
}

impl HubEvent {
    /// Where to note what becomes of the event, if somebody records it.
    #[inline]
    pub(crate) fn tally(&self) -> Option<&Tally> {
        self.trace.as_ref()?.tally.as_deref()
    }
}
