//! The event catalogue: one entry for each event type that Signalbox carries.
//!
//! Routers validate and route by it, gateways encode by it, and reference
//! documentation is generated from it. Adding an event type is adding one
//! entry; nothing else knows the types by name.

pub mod channel;
pub mod field;
pub mod mesh;
pub mod pipeline;
pub mod route;
pub mod threat;
pub mod word;
pub mod workspace;

use serde_json::{Map, Value};

pub use self::channel::Channel;
pub use self::field::{Field, FieldError, Kind};
pub use self::route::{Audience, Route, Slot, Topic};
pub use self::word::{
    Category, FleetWord, MeshWord, PipelineWord, ThreatBody, ThreatWord, Words, WorkspaceWord,
};
use crate::domain::Domain;
use crate::event::Priority;

/// Everything Signalbox knows of one event type.
#[derive(Debug, PartialEq)]
pub struct EventType {
    /// The domain that it is published in.
    pub domain: Domain,
    /// Its name within the domain: the rest of the producer's subject.
    pub name: &'static str,
    /// What it says, in one sentence, for the reference documentation.
    pub summary: &'static str,
    /// The fields of its data that are checked; others pass as they are.
    pub fields: &'static [Field],
    /// Which channel and rooms it goes to.
    pub route: Route,
    /// The source of events that name none.
    pub source: &'static str,
    /// The priority of events that name none.
    pub priority: Priority,
    /// How each dialect writes it.
    pub words: Words,
}

impl EventType {
    /// Checks an event's data against [`EventType::fields`].
    ///
    /// # Errors
    /// Names the first field that is missing or not of its kind.
    pub fn check(&self, data: &Map<String, Value>) -> Result<(), FieldError> {
        self.fields.iter().try_for_each(|field| field.check(data))
    }
}

/// All entries, grouped by the document that they come from.
const GROUPS: &[&[EventType]] = &[
    threat::EVENTS,
    mesh::EVENTS,
    pipeline::EVENTS,
    workspace::EVENTS,
];

/// Every event type.
pub fn all() -> impl Iterator<Item = &'static EventType> {
    GROUPS.iter().copied().flatten()
}

/// The event type published as `events.<domain>.<name>`.
#[must_use]
pub fn find(domain: Domain, name: &str) -> Option<&'static EventType> {
    all().find(|kind| kind.domain == domain && kind.name == name)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_entry_is_found_by_its_own_subject_and_no_other() {
        let mut seen = HashSet::new();
        for kind in all() {
            assert!(seen.insert((kind.domain, kind.name)), "{} twice", kind.name);
            assert!(std::ptr::eq(find(kind.domain, kind.name).unwrap(), kind));
        }
        assert!(find(Domain::Threat, "nope").is_none());
        assert!(find(Domain::Network, "threat_alert").is_none());
    }

    #[test]
    fn names_are_subject_tokens_and_routes_use_checked_fields() {
        for kind in all() {
            assert!(!kind.name.is_empty() && !kind.summary.is_empty());
            assert!(
                kind.name.bytes().all(|byte| byte.is_ascii_lowercase()
                    || byte.is_ascii_digit()
                    || b"_.".contains(&byte)),
                "{}",
                kind.name
            );
            assert_eq!(kind.route.channel.domain(), kind.domain, "{}", kind.name);
            for slot in [kind.route.object, kind.route.user] {
                let (Slot::Field(name) | Slot::GlobalUnless(name)) = slot else {
                    continue;
                };
                let field = kind.fields.iter().find(|field| field.name == name);
                assert!(
                    field.is_some_and(|field| matches!(field.kind, Kind::Id)),
                    "{}.{name}",
                    kind.name
                );
            }
        }
    }

    #[test]
    fn every_entry_has_a_word_in_some_dialect() {
        for kind in all() {
            assert_ne!(kind.words, Words::NONE, "{}", kind.name);
        }
    }
}
