//! Events around a question, read back from TOPICS: those that name what the
//! question or its context names. Bounded in reading and in time, and limited to
//! what the user may read.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use signalbox_bus::{Bus, BusError, history, stored_event, stream};
use signalbox_protocol::catalogue::Audience;
use signalbox_protocol::wire::ChatAsked;
use tokio::time::timeout;
use tracing::debug;

use crate::evidence::{Event, MAX_EVENTS};
use crate::provider::{Message, Request};

/// How long reading may take; an answer is better than all events.
const PATIENCE: Duration = Duration::from_secs(2);
/// Events that are read at once.
const PAGE: usize = 256;
/// The shortest word that is looked for: shorter ones are in every event.
const SHORTEST_TERM: usize = 4;
/// Words that are looked for.
const TERMS: usize = 64;

/// Reads events.
#[derive(Clone)]
pub(crate) struct EvidenceLog {
    bus: Bus,
}

impl EvidenceLog {
    pub(crate) const fn new(bus: Bus) -> Self {
        Self { bus }
    }

    /// The position up to which a question that is asked now is answered.
    pub(crate) async fn position(&self) -> u64 {
        match timeout(PATIENCE, stream::state(&self.bus, stream::TOPICS)).await {
            Ok(Ok(state)) => state.last,
            Ok(Err(_)) | Err(_) => 0,
        }
    }

    /// Up to `most` events that bear on a question, oldest first.
    pub(crate) async fn gather(
        &self,
        asked: &ChatAsked,
        request: &Request,
        most: usize,
    ) -> Arc<[Event]> {
        if most == 0 || asked.channels.is_empty() || asked.events_until == 0 {
            return Arc::new([]);
        }
        let terms = terms(request);
        match timeout(PATIENCE, self.read(asked, &terms, most)).await {
            Ok(Ok(events)) => events.into(),
            Ok(Err(cause)) => {
                debug!(%cause, "no events read");
                Arc::new([])
            }
            Err(_) => {
                debug!("no events read in time");
                Arc::new([])
            }
        }
    }

    async fn read(
        &self,
        asked: &ChatAsked,
        terms: &BTreeSet<String>,
        most: usize,
    ) -> Result<Vec<Event>, BusError> {
        let until = asked.events_until;
        let mut from = until.saturating_sub(MAX_EVENTS as u64 - 1).max(1);
        let mut events = Vec::new();
        while from <= until {
            let page = history::page(&self.bus, stream::TOPICS, "topics.>", from, PAGE).await?;
            let Some(last) = page.messages.last() else {
                break;
            };
            from = last.sequence + 1;
            for delivery in &page.messages {
                if delivery.sequence > until {
                    break;
                }
                if let Some(event) = stored_event::decode(delivery).filter(|event| {
                    // What is addressed to one person is nobody else's.
                    !matches!(event.topic.audience, Audience::User(_))
                        && asked
                            .channels
                            .iter()
                            .any(|channel| channel == event.topic.channel.name())
                }) {
                    let data = Value::Object(event.event.data);
                    if mentions(&data, terms) {
                        events.push(Event {
                            id: event.event.id,
                            seq: event.sequence,
                            event_type: format!(
                                "{}.{}",
                                event.event.kind.domain, event.event.kind.name
                            ),
                            time: event.event.time.to_string(),
                            data,
                        });
                    }
                }
            }
            if page.is_last {
                break;
            }
        }
        let extra = events.len().saturating_sub(most);
        events.drain(..extra);
        Ok(events)
    }
}

/// What a request names: the strings of its contexts, and the words of the
/// question that look like a name of something.
fn terms(request: &Request) -> BTreeSet<String> {
    let mut terms = BTreeSet::new();
    if let Some(context) = &request.context {
        collect(context, &mut terms);
    }
    if let Some(Message::User { text, context }) = request.messages.last() {
        if let Some(context) = context {
            collect(context, &mut terms);
        }
        let words = text.split(|letter: char| {
            !(letter.is_alphanumeric() || matches!(letter, '-' | '_' | '.' | ':'))
        });
        for word in words {
            let word = word.trim_matches(|letter: char| !letter.is_alphanumeric());
            insert(word, &mut terms);
        }
    }
    terms
}

fn collect(value: &Value, terms: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => insert(text, terms),
        Value::Array(values) => values.iter().for_each(|value| collect(value, terms)),
        Value::Object(fields) => fields.values().for_each(|value| collect(value, terms)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Adds a word that names something: names have digits, while words without are
/// severities, roles and the like, which half of all events have.
fn insert(word: &str, terms: &mut BTreeSet<String>) {
    let is_name = word.chars().any(|letter| letter.is_ascii_digit());
    if is_name && word.len() >= SHORTEST_TERM && terms.len() < TERMS {
        terms.insert(word.to_owned());
    }
}

/// Whether a string of an event is one of these.
fn mentions(value: &Value, terms: &BTreeSet<String>) -> bool {
    match value {
        Value::String(text) => terms.contains(text),
        Value::Array(values) => values.iter().any(|value| mentions(value, terms)),
        Value::Object(fields) => fields.values().any(|value| mentions(value, terms)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_question_names_what_has_digits_and_what_its_context_says() {
        let request = Request {
            context: Some(json!({"incident_id": "threat-001", "user_role": "analyst"})),
            messages: vec![Message::User {
                text: "Can you analyze 192.168.1.100, please? And i-12ab!".to_owned(),
                context: Some(json!({"anomaly": {"ports": 25, "target": ["vpc-1"]}})),
            }],
            ..Request::default()
        };
        let terms: Vec<String> = terms(&request).into_iter().collect();
        assert_eq!(terms, ["192.168.1.100", "i-12ab", "threat-001", "vpc-1"]);
    }

    #[test]
    fn an_event_is_mentioned_by_a_whole_string() {
        let terms = BTreeSet::from(["i-1".to_owned()]);
        assert!(mentions(&json!({"a": {"b": ["i-1"]}}), &terms));
        assert!(!mentions(&json!({"a": "i-12", "b": 1}), &terms));
    }
}
