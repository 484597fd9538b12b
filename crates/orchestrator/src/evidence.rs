//! Events as an agent sees them: what happened around the question, and which
//! of it bears on the question. Read-only and bounded; where events come from
//! is the service's business.

pub mod found;
mod subject;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use signalbox_protocol::chat;

pub use self::subject::Subject;
pub(crate) use self::subject::{cases, is_network, things};
use crate::provider::Request;

/// The most events that are looked at for one answer.
pub const MAX_EVENTS: usize = 2_000;
/// The largest event that is looked at, its data as JSON in bytes; larger ones are
/// left out.
pub const MAX_EVENT_BYTES: usize = 16 * 1024;
/// The most data that goes with one question, in bytes; what does not fit any
/// more is left out.
pub const MAX_BYTES: usize = 128 * 1024;

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

impl Event {
    /// A string of its data.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        self.data.get(key).and_then(Value::as_str)
    }

    /// The strings of a list of its data.
    pub fn texts(&self, key: &str) -> impl Iterator<Item = &str> {
        let items = self.data.get(key).and_then(Value::as_array);
        items.into_iter().flatten().filter_map(Value::as_str)
    }
}

/// Whether an event of this id is what an agent tells of its own progress, which is
/// no evidence of anything: it is named by its chat.
pub(crate) fn is_of_an_agent(id: &str) -> bool {
    chat::is_session_id(id.split('/').next().unwrap_or_default())
}

/// Those of `recent` events, at most `most`, that bear on a request, oldest
/// first: what its subject names, then what shares an address, a host or an
/// incident with that. Where the request names nothing, the newest alert is
/// its subject. The same arguments always give the same events. What is larger
/// than [`MAX_EVENT_BYTES`], or does not fit into [`MAX_BYTES`], is left out.
#[must_use]
pub fn related(recent: &[Event], request: &Request, most: usize) -> Vec<Event> {
    let mut sorted: Vec<&Event> = recent.iter().collect();
    sorted.sort_by_key(|event| event.seq);
    let subject = Subject::of(request, &sorted);
    let mut chosen: Vec<&Event> = Vec::new();
    let mut left = MAX_BYTES;
    let mut fits = |event: &Event| {
        let bytes = event.data.to_string().len();
        let fits = bytes <= left.min(MAX_EVENT_BYTES);
        left -= if fits { bytes } else { 0 };
        fits
    };
    let direct = sorted.iter().rev().filter(|event| subject.names(event));
    chosen.extend(direct.filter(|event| fits(event)).take(most));
    let wider = subject.widened(&chosen);
    let indirect = sorted
        .iter()
        .rev()
        .filter(|event| !subject.names(event) && wider.names(event));
    let room = most - chosen.len();
    chosen.extend(indirect.filter(|event| fits(event)).take(room));
    chosen.sort_by_key(|event| event.seq);
    chosen.into_iter().cloned().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::provider::Message;

    fn alert(seq: u64, incident: &str, source: &str, host: &str) -> Event {
        Event {
            id: format!("e{seq}"),
            seq,
            event_type: "threat.threat_alert".to_owned(),
            time: format!("2026-01-01T00:00:{seq:02}Z"),
            data: json!({"incident_id": incident, "source_ip": source,
                "affected_resources": [host, "vpc-1"], "severity": "LOW"}),
        }
    }

    fn asking(text: &str) -> Request {
        Request {
            messages: vec![Message::User {
                text: text.to_owned(),
                context: None,
            }],
            ..Request::default()
        }
    }

    fn ids(events: &[Event]) -> Vec<&str> {
        events.iter().map(|event| event.id.as_str()).collect()
    }

    #[test]
    fn what_shares_an_address_or_a_host_is_related_and_a_network_is_not_enough() {
        let events = [
            alert(4, "t-2", "10.0.0.9", "i-b"),
            alert(1, "t-1", "10.0.0.7", "i-a"),
            alert(2, "t-2", "10.0.0.7", "i-b"),
            alert(3, "t-3", "10.0.0.8", "i-c"),
            alert(5, "t-4", "10.0.0.8", "i-a"),
        ];
        let request = asking("What about t-1?");
        assert_eq!(ids(&related(&events, &request, 10)), ["e1", "e2", "e5"]);
        // The subject's own come first where there is no room.
        assert_eq!(ids(&related(&events, &request, 1)), ["e1"]);
        assert_eq!(ids(&related(&events, &request, 0)), [""; 0]);
    }

    #[test]
    fn what_is_too_large_is_left_out() {
        let mut events: Vec<Event> = (1..=20)
            .map(|seq| alert(seq, "t-1", "10.0.0.7", "i-a"))
            .collect();
        for event in &mut events {
            event.data["ai_summary"] = json!("x".repeat(MAX_BYTES / 10));
        }
        let chosen = related(&events, &asking("t-1"), 100);
        assert_eq!(ids(&chosen).first(), Some(&"e12"), "the newest stay");
        events[19].data["ai_summary"] = json!("x".repeat(MAX_EVENT_BYTES));
        assert_eq!(ids(&related(&events, &asking("t-1"), 2)), ["e18", "e19"]);
    }

    #[test]
    fn without_a_name_the_newest_alert_is_meant() {
        let events = [
            alert(1, "t-1", "10.0.0.7", "i-a"),
            alert(2, "t-2", "10.0.0.8", "i-b"),
        ];
        assert_eq!(
            ids(&related(&events, &asking("What is going on?"), 10)),
            ["e2"]
        );
    }
}
