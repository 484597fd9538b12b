//! What the dialects over Socket.IO share: one namespace, and events whose
//! first argument is an object.

use serde_json::value::RawValue;

use super::fields::{Complaint, Fields};
use super::{pipeline, workspace};
use crate::dialect::Dialect;
use crate::error_code::ErrorCode;
use crate::name::MAX_NAME_BYTES;

/// The namespace of both dialects.
pub const NAMESPACE: &str = "/ws";

/// What a client of either dialect says.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientEvent {
    /// In dialect `pipeline`.
    Pipeline(pipeline::ClientEvent),
    /// In dialect `workspace`.
    Workspace(workspace::ClientEvent),
}

impl ClientEvent {
    /// Reads an event of a connection whose own dialect is `own`, in the
    /// dialect that [`dialect_of`] finds.
    ///
    /// # Errors
    /// As the decoder of that dialect, or of `own` for events of neither.
    pub fn decode(own: Dialect, name: &str, arguments: &[&RawValue]) -> Result<Self, Complaint> {
        match dialect_of(own, name, arguments).unwrap_or(own) {
            Dialect::Workspace => {
                workspace::ClientEvent::decode(name, arguments).map(Self::Workspace)
            }
            _ => pipeline::ClientEvent::decode(name, arguments).map(Self::Pipeline),
        }
    }
}

/// The dialect, of the two, that a client's event is of; `None` for events of
/// neither.
///
/// Names alone tell, but for `subscribe`, which both have: with a room it is
/// `workspace`'s, with something to narrow events by it is `pipeline`'s, and
/// with neither it is of the connection's `own` dialect.
#[must_use]
pub fn dialect_of(own: Dialect, name: &str, arguments: &[&RawValue]) -> Option<Dialect> {
    match name {
        "authenticate" => Some(Dialect::Pipeline),
        "unsubscribe" | "ping" => Some(Dialect::Workspace),
        "subscribe" => {
            let names_any = |keys: &[&str]| {
                let object = object(arguments).ok();
                object.is_some_and(|object| keys.iter().any(|key| object.names(key)))
            };
            if names_any(&["room"]) {
                Some(Dialect::Workspace)
            } else if names_any(&["categories", "event_types", "min_priority"]) {
                Some(Dialect::Pipeline)
            } else {
                Some(own)
            }
        }
        _ => None,
    }
}

/// The object that an event has as its first argument; an empty one where the
/// argument is absent or null. Further arguments are ignored.
///
/// # Errors
/// INVALID_MESSAGE when it is no object, INVALID_JSON when it nests too deeply
/// to be read.
pub(crate) fn object(arguments: &[&RawValue]) -> Result<Fields, Complaint> {
    match arguments.first().map(|argument| argument.get()) {
        None | Some("null") => Fields::parse("{}"),
        Some(text) => Fields::parse(text).map_err(|complaint| Complaint {
            message: "expected a JSON object as the event's argument".to_owned(),
            ..complaint
        }),
    }
}

/// The complaint about an event that its dialect does not have.
pub(crate) fn unknown(name: &str, expected: &str) -> Complaint {
    let named = if name.len() <= MAX_NAME_BYTES {
        format!(" `{name}`")
    } else {
        String::new()
    };
    Complaint::plain(
        ErrorCode::UnknownType,
        format!("unknown event{named}: expected {expected}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn subscribe_is_told_apart_by_its_keys() {
        use Dialect::{Pipeline, Workspace};
        for own in [Pipeline, Workspace] {
            for (text, dialect) in [
                (r#"{"room": "global"}"#, Workspace),
                (r#"{"room": null}"#, Workspace),
                (r#"{"room": 7, "categories": ["DEBUG"]}"#, Workspace),
                (r#"{"categories": ["DEBUG"], "since": "1-1"}"#, Pipeline),
                (r#"{"event_types": null}"#, Pipeline),
                (r#"{"min_priority": 7}"#, Pipeline),
                (r#"{"since": "1-1"}"#, own),
                ("{}", own),
                ("null", own),
                ("7", own),
                (r#"["room"]"#, own),
            ] {
                let found = dialect_of(own, "subscribe", &[&raw(text)]);
                assert_eq!(found, Some(dialect), "{text} of {own}");
            }
            assert_eq!(dialect_of(own, "subscribe", &[]), Some(own));
            assert_eq!(dialect_of(own, "authenticate", &[]), Some(Pipeline));
            assert_eq!(dialect_of(own, "unsubscribe", &[]), Some(Workspace));
            assert_eq!(dialect_of(own, "ping", &[]), Some(Workspace));
            assert_eq!(dialect_of(own, "message", &[]), None);
        }
    }

    #[test]
    fn what_is_of_neither_is_answered_in_the_connections_own_words() {
        let complain = |own, name: &str| ClientEvent::decode(own, name, &[]).unwrap_err();
        let complaint = complain(Dialect::Pipeline, "nope");
        assert_eq!(complaint.code, ErrorCode::UnknownType);
        assert_eq!(
            complaint.message,
            "unknown event `nope`: expected authenticate or subscribe"
        );
        let complaint = complain(Dialect::Workspace, &"x".repeat(1_000));
        assert_eq!(
            complaint.message,
            "unknown event: expected subscribe, unsubscribe or ping"
        );
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in ["7", "[]", "\"x\"", "true"] {
            let complaint = object(&[&raw(text)]).unwrap_err();
            assert_eq!(complaint.code, ErrorCode::InvalidMessage, "{text}");
        }
        let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
        let complaint = object(&[&raw(&deep)]).unwrap_err();
        assert_eq!(complaint.code, ErrorCode::InvalidJson);
        assert_eq!(
            complaint.message,
            "expected a JSON object as the event's argument"
        );
    }
}
