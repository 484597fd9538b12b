//! What a subscription wants, and where on the bus that lies.

use signalbox_protocol::catalogue::{Audience, Topic};

use super::channels::Channels;
use super::filter::Filter;

#[cfg(test)]
pub(super) mod tests;

/// What a subscription wants: events that satisfy all parts.
///
/// A room is a selection: a project is its channels and the project as object,
/// a user's own room is the user as audience, everyone's is
/// [`Audience::Everyone`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selection {
    /// The channels that they may come on.
    pub(crate) channels: Channels,
    /// Only events of this object.
    pub(crate) object: Option<String>,
    /// Only events that are addressed to these users' rooms; `None` whomever
    /// they are addressed to.
    pub(crate) audience: Option<Audience>,
    /// Only events that match.
    pub(crate) filter: Option<Filter>,
}

impl Selection {
    /// Everything on these channels.
    pub(crate) fn of(channels: impl Into<Channels>) -> Self {
        Self {
            channels: channels.into(),
            object: None,
            audience: None,
            filter: None,
        }
    }
}

/// The part of a selection that the bus knows: to whom events are addressed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Address {
    /// The channels that they may come on.
    pub(crate) channels: Channels,
    /// Only this object.
    pub(crate) object: Option<String>,
    /// Only to these users' rooms.
    pub(crate) audience: Option<Audience>,
}

impl Address {
    /// Whether an event on `topic` is addressed here.
    pub(crate) fn covers(&self, topic: &Topic) -> bool {
        self.channels.contains(topic.channel)
            && (self.object.is_none() || self.object == topic.object)
            && self
                .audience
                .as_ref()
                .is_none_or(|audience| *audience == topic.audience)
    }
}
