//! From an event's data to the topic that addresses all of its rooms at once.

use serde_json::{Map, Value};

use super::channel::Channel;
use super::field::{FieldError, Kind};
use crate::name;

/// How an event type's topic is derived. One slot for each kind of room, so
/// that one stored message addresses every room it goes to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Route {
    /// The channel.
    pub channel: Channel,
    /// The object's room: an investigation, a project, an agent.
    pub object: Slot,
    /// The user's room, or everyone's.
    pub user: Slot,
}

/// Where a slot's value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// The type has no room of this kind.
    Empty,
    /// Everyone's room; in user slots only.
    Global,
    /// A field of the data; without it the room is left out.
    Field(&'static str),
    /// Everyone's room, unless this field of the data names the object that
    /// the event is for; in user slots only.
    GlobalUnless(&'static str),
}

/// An address on TOPICS.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Topic {
    /// The channel.
    pub channel: Channel,
    /// The id of the object's room.
    pub object: Option<String>,
    /// The users addressed by their own rooms.
    pub audience: Audience,
}

/// The user slot of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Audience {
    /// No user's room.
    Nobody,
    /// Everyone's room.
    Everyone,
    /// One user's room.
    User(String),
}

impl Route {
    /// A route that addresses the channel alone.
    #[must_use]
    pub const fn channel(channel: Channel) -> Self {
        Self {
            channel,
            object: Slot::Empty,
            user: Slot::Empty,
        }
    }

    /// A route that addresses the channel, and in it the object that `field`
    /// names.
    #[must_use]
    pub const fn object(channel: Channel, field: &'static str) -> Self {
        Self {
            channel,
            object: Slot::Field(field),
            user: Slot::Empty,
        }
    }

    /// The topic of an event with this data.
    ///
    /// # Errors
    /// When a field that routes is there but is no valid id.
    pub fn topic(&self, data: &Map<String, Value>) -> Result<Topic, FieldError> {
        let object = match self.object {
            Slot::Empty | Slot::Global | Slot::GlobalUnless(_) => None,
            Slot::Field(field) => id(data, field)?,
        };
        let audience = match self.user {
            Slot::Empty => Audience::Nobody,
            Slot::Global => Audience::Everyone,
            Slot::Field(field) => id(data, field)?.map_or(Audience::Nobody, Audience::User),
            Slot::GlobalUnless(field) => match id(data, field)? {
                None => Audience::Everyone,
                Some(_) => Audience::Nobody,
            },
        };
        Ok(Topic {
            channel: self.channel,
            object,
            audience,
        })
    }
}

fn id(data: &Map<String, Value>, field: &'static str) -> Result<Option<String>, FieldError> {
    match data.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if name::is_valid(text) => Ok(Some(text.clone())),
        Some(_) => Err(FieldError {
            field: field.to_owned(),
            expected: Kind::Id.expectation(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn topic(route: Route, data: Value) -> Result<Topic, FieldError> {
        route.topic(data.as_object().unwrap())
    }

    #[test]
    fn absent_and_null_fields_leave_their_room_out() {
        let route = Route {
            channel: Channel::ThreatAlerts,
            object: Slot::Field("o"),
            user: Slot::Field("u"),
        };
        let bare = topic(route, json!({"o": null})).unwrap();
        assert_eq!((bare.object, bare.audience), (None, Audience::Nobody));
        let full = topic(route, json!({"o": "1", "u": "2"})).unwrap();
        assert_eq!(
            (full.object, full.audience),
            (Some("1".into()), Audience::User("2".into()))
        );
        assert_eq!(topic(route, json!({"o": 1})).unwrap_err().field, "o");
        assert_eq!(topic(route, json!({"u": "a b"})).unwrap_err().field, "u");
    }

    #[test]
    fn everyone_hears_what_is_for_no_object() {
        let route = Route {
            channel: Channel::WorkflowEvents,
            object: Slot::Field("o"),
            user: Slot::GlobalUnless("o"),
        };
        for bare in [json!({}), json!({"o": null})] {
            let bare = topic(route, bare).unwrap();
            assert_eq!((bare.object, bare.audience), (None, Audience::Everyone));
        }
        let narrow = topic(route, json!({"o": "1"})).unwrap();
        assert_eq!(
            (narrow.object, narrow.audience),
            (Some("1".into()), Audience::Nobody)
        );
        assert_eq!(topic(route, json!({"o": 1})).unwrap_err().field, "o");
    }
}
