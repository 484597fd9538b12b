//! The record of a decision, and the event that it becomes.

use async_nats::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use signalbox_protocol::catalogue::{Audience, Channel, Topic};
use signalbox_protocol::decision::{Decision, Verdict};
use signalbox_protocol::domain::Domain;
use signalbox_protocol::envelope::{CE_ID, CE_SOURCE, CE_TIME};
use signalbox_protocol::timestamp::Timestamp;

use super::Ending;
use crate::publish::Outgoing;
use crate::subject;

/// The event that a decision becomes.
pub(super) const EVENT: &str = "action_decided";
/// Who it comes from.
const SOURCE: &str = "response_service";
/// Who decides where nobody does.
pub const SYSTEM: &str = "signalbox";
/// What is said of an action that nobody decided on in time.
const TOO_LATE: &str = "nobody decided in time";

/// Why an action ended without anybody's decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Settlement {
    /// Nobody decided in time.
    Expired,
    /// What it was for was given up.
    Cancelled,
}

/// What an action's event says for those who decide on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) action_type: Option<String>,
    pub(super) arguments_hash: Option<String>,
    /// The end of the time in which it can be decided on.
    pub(super) expires_at: Option<Timestamp>,
}

/// What is kept of a decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Its hash of arguments is the action's where the decider gave none.
    #[serde(flatten)]
    pub(super) decision: Decision,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    action_type: Option<String>,
    /// When it was made, by the clock of whoever wrote it.
    pub(super) at: Timestamp,
    /// When the bus stored it first; absent until it is written anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) stored: Option<Timestamp>,
    /// Until when the action could be decided on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) expires_at: Option<Timestamp>,
    /// Set where nobody decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) settled: Option<Settlement>,
    /// Whether its event is known to be on EVENTS.
    pub(super) published: bool,
}

impl Record {
    /// Somebody's decision.
    pub(super) fn of(mut decision: Decision, terms: Terms, at: Timestamp) -> Self {
        decision.arguments_hash = decision.arguments_hash.or(terms.arguments_hash);
        Self {
            decision,
            action_type: terms.action_type,
            at,
            stored: None,
            expires_at: terms.expires_at,
            settled: None,
            published: false,
        }
    }

    /// The end of an action on which nobody decided.
    pub(super) fn settled(ending: &Ending, at: Timestamp) -> Self {
        Self {
            decision: Decision {
                action_id: ending.action_id.clone(),
                verdict: Verdict::Reject,
                reason: Some(ending.reason.clone()),
                decided_by: SYSTEM.to_owned(),
                arguments_hash: None,
            },
            action_type: Some(ending.action_type.clone()),
            at,
            stored: None,
            expires_at: Some(ending.expires_at),
            settled: Some(ending.settlement),
            published: false,
        }
    }

    /// Makes of a decision that came too late what it is.
    pub(super) fn expire(&mut self) {
        self.settled = Some(Settlement::Expired);
        self.decision.verdict = Verdict::Reject;
        self.decision.reason = Some(TOO_LATE.to_owned());
        self.decision.decided_by = SYSTEM.to_owned();
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a record has nothing that JSON cannot express")
    }
}

/// What an event of an action says.
pub(super) fn terms(data: &Map<String, Value>) -> Terms {
    let text = |name: &str| data.get(name).and_then(Value::as_str);
    Terms {
        action_type: text("action_type").map(str::to_owned),
        arguments_hash: text("arguments_hash").map(str::to_owned),
        expires_at: text("expires_at").and_then(Timestamp::parse),
    }
}

/// Where the events of an action are.
pub(super) fn topic(action_id: &str) -> String {
    subject::topic(&Topic {
        channel: Channel::ResponseActions,
        object: Some(action_id.to_owned()),
        audience: Audience::Nobody,
    })
}

/// The event of a decision, the same whoever makes it.
pub(super) fn event(record: &Record) -> Outgoing {
    let id = format!("decision-{}", record.decision.action_id);
    let mut headers = HeaderMap::new();
    headers.insert(CE_ID, id.as_str());
    headers.insert(CE_SOURCE, SOURCE);
    headers.insert(CE_TIME, record.at.to_string());
    let decision = &record.decision;
    let mut data = json!({
        "action_id": decision.action_id,
        "decision": decision.verdict.as_str(),
        "decided_by": decision.decided_by,
    });
    let optional = [
        ("action_type", &record.action_type),
        ("reason", &decision.reason),
        ("arguments_hash", &decision.arguments_hash),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            data[name] = value.as_str().into();
        }
    }
    Outgoing {
        subject: subject::event(Domain::Threat, EVENT),
        message_id: format!("{}/{SOURCE}/{id}", Domain::Threat),
        headers,
        payload: data.to_string().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    fn decision() -> Decision {
        Decision {
            action_id: "a".to_owned(),
            verdict: Verdict::Approve,
            reason: None,
            decided_by: "ada".to_owned(),
            arguments_hash: None,
        }
    }

    #[test]
    fn an_event_tells_the_terms_of_its_action() {
        let data = json!({
            "action_type": "t", "arguments_hash": "h", "expires_at": "2024-12-19T22:30:00+01:00",
        });
        let expected = Terms {
            action_type: Some("t".to_owned()),
            arguments_hash: Some("h".to_owned()),
            expires_at: Some(at("2024-12-19T21:30:00Z")),
        };
        assert_eq!(terms(data.as_object().unwrap()), expected);
        assert_eq!(terms(&Map::new()), Terms::default());
    }

    #[test]
    fn a_decision_is_on_the_arguments_that_were_seen_or_else_on_the_actions() {
        let terms = Terms {
            arguments_hash: Some("of the action".to_owned()),
            ..Terms::default()
        };
        let record = Record::of(decision(), terms.clone(), at("2024-12-19T21:30:00Z"));
        assert_eq!(
            record.decision.arguments_hash.as_deref(),
            Some("of the action")
        );
        let seen = Decision {
            arguments_hash: Some("seen".to_owned()),
            ..decision()
        };
        let record = Record::of(seen, terms, at("2024-12-19T21:30:00Z"));
        assert_eq!(record.decision.arguments_hash.as_deref(), Some("seen"));
    }

    #[test]
    fn a_record_without_the_newer_fields_is_read() {
        let text = json!({
            "action_id": "a", "decision": "approve", "decided_by": "ada",
            "at": "2024-12-19T21:30:00Z", "published": false,
        });
        let record: Record = serde_json::from_value(text.clone()).unwrap();
        assert_eq!(
            record,
            Record::of(decision(), Terms::default(), at("2024-12-19T21:30:00Z"))
        );
        assert_eq!(serde_json::to_value(&record).unwrap(), text);
    }
}
