//! What there is to judge by: the subject, its events by sort, and the figures
//! that people gave. Events are those given with the question and those that were
//! looked up for it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use serde_json::Value;
use signalbox_protocol::name;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::super::{Message, Request};
use super::knowledge::Severity;
use super::plan::TIMELINE;
use super::rounds::{Lookup, Rounds};
use crate::evidence::{Event, Subject, found, is_of_an_agent};

/// The longest text of others that is repeated, in characters.
const MAX_TEXT_CHARS: usize = 160;
/// What tools call an event's one line where they leave its data out.
const LINE: &str = "line";
/// Where an event says which incident it is of.
const INCIDENT: &str = "incident_id";
/// Where an event says in words what happened, the best first.
const WORDS: &[&str] = &[
    "ai_summary",
    "current_activity",
    "summary",
    "status",
    "reason",
    "decision",
];

/// A case.
pub(super) struct Case<'r> {
    /// What it is about.
    pub(super) subject: Subject,
    /// Its events, oldest first.
    pub(super) own: Vec<&'r Event>,
    /// Others that share something with them, oldest first.
    pub(super) others: Vec<&'r Event>,
    /// Both, oldest first.
    pub(super) all: Vec<&'r Event>,
    /// What was said and given as context, in lower case, the latest first.
    pub(super) words: String,
    /// Numbers by name from the contexts, the latest first.
    figures: Vec<(String, f64)>,
}

impl<'r> Case<'r> {
    /// That of a request, with all events that are known for it, oldest first.
    pub(super) fn of(request: &Request, events: &'r [Event]) -> Self {
        let given: Vec<&Event> = request.events.iter().collect();
        let all: Vec<&Event> = events.iter().collect();
        // What is looked up must not change what is meant, only help where nothing is.
        let mut subject = Subject::of(request, &given);
        if subject.is_empty() {
            subject = Subject::of(request, &all);
        }
        let (mut own, mut others): (Vec<&Event>, Vec<&Event>) =
            all.iter().partition(|event| subject.names(event));
        if own.is_empty() && !others.is_empty() && subject.is_empty() {
            own = std::mem::take(&mut others);
            subject.assumed = true;
        }
        let mut words = String::new();
        let mut figures = Vec::new();
        for message in request.messages.iter().rev() {
            if let Message::User { text, context } = message {
                let _ = writeln!(words, "{}", text.to_lowercase());
                read(context.as_ref(), &mut words, &mut figures);
            }
        }
        read(request.context.as_ref(), &mut words, &mut figures);
        Self {
            subject,
            own,
            others,
            all,
            words,
            figures,
        }
    }

    /// A number by the beginning of its name.
    pub(super) fn figure(&self, names: &[&str]) -> Option<f64> {
        let mut figures = self.figures.iter();
        let found = figures.find(|(name, _)| names.iter().any(|known| name.starts_with(known)));
        found.map(|(_, number)| *number)
    }

    /// The alerts of the case, oldest first.
    pub(super) fn alerts(&self) -> impl Iterator<Item = &'r Event> + '_ {
        self.own.iter().copied().filter(|event| is_alert(event))
    }

    /// Actions of the case or on its hosts that are under way or done, the latest
    /// state of each.
    pub(super) fn actions(&self) -> Vec<&'r Event> {
        let hosts = self.hosts();
        let is_here = |event: &&Event| {
            let target = event.text("target_resource");
            target.is_some_and(|target| hosts.iter().any(|host| host == target))
        };
        let is_own = |event: &&Event| self.own.iter().any(|own| own.id == event.id);
        let mut seen = BTreeSet::new();
        let mut latest: Vec<&Event> = self
            .all
            .iter()
            .rev()
            .copied()
            .filter(|event| name_of(event) == "action_update" && !is_short(event))
            .filter(|event| is_own(event) || is_here(event))
            .filter(|event| seen.insert(event.text("action_id").unwrap_or(&event.id)))
            .collect();
        latest.reverse();
        latest
    }

    /// The addresses that it came from, as events and people name them.
    pub(super) fn sources(&self) -> Vec<String> {
        let mut sources: Vec<String> = Vec::new();
        let told = self.alerts().filter_map(|event| event.text("source_ip"));
        let named = self.subject.things.iter().map(String::as_str);
        for name in told.chain(named.filter(|name| name.parse::<IpAddr>().is_ok())) {
            if is_name(name) && !sources.iter().any(|known| known == name) {
                sources.push(name.to_owned());
            }
        }
        sources
    }

    /// The hosts that it hit.
    pub(super) fn hosts(&self) -> Vec<String> {
        let mut hosts: Vec<String> = Vec::new();
        let told = self
            .alerts()
            .flat_map(|event| event.texts("affected_resources"));
        let named = self.subject.things.iter().map(String::as_str);
        for name in told.chain(named) {
            if is_host(name) && !hosts.iter().any(|known| known == name) {
                hosts.push(name.to_owned());
            }
        }
        hosts
    }
}

/// All events that are known for a request, oldest first, each once: those given
/// with it and those that were looked up. What agents tell of their own progress is
/// no evidence, and who came and went is none either.
pub(super) fn events_of(request: &Request, rounds: &Rounds<'_>) -> Vec<Event> {
    let found = rounds.lookups.iter().flat_map(found_by);
    let mut events: Vec<Event> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for event in request.events.iter().cloned().chain(found) {
        match places.get(&event.id) {
            // One tool gives a line of it, another one the whole.
            Some(at) if is_short(&events[*at]) && !is_short(&event) => events[*at] = event,
            Some(_) => {}
            None if is_evidence(&event) => {
                places.insert(event.id.clone(), events.len());
                events.push(event);
            }
            None => {}
        }
    }
    if events.iter().all(|event| event.seq > 0) {
        events.sort_by_key(|event| event.seq);
    } else {
        events.sort_by_key(|event| (moment(event), event.seq));
    }
    events
}

/// Whether only one line is known of an event.
pub(super) fn is_short(event: &Event) -> bool {
    let fields = event.data.as_object();
    fields.is_some_and(|fields| fields.keys().all(|key| key == LINE || key == INCIDENT))
}

/// The events that a lookup gave. Where it is the timeline of an incident they are
/// of that, also where only a line of each is there.
fn found_by(lookup: &Lookup<'_>) -> Vec<Event> {
    let mut events = found::events(lookup.gave().unwrap_or_default());
    let incident = lookup.incident().filter(|_| lookup.name == TIMELINE);
    if let Some(incident) = incident {
        for event in events.iter_mut().filter(|event| is_short(event)) {
            event.data[INCIDENT] = incident.into();
        }
    }
    events
}

fn is_evidence(event: &Event) -> bool {
    match name_of(event) {
        "investigation_collaboration" => false,
        "investigation_update" => event.text("session_id").is_none() && !is_of_an_agent(&event.id),
        _ => true,
    }
}

/// An event's type without its domain; tools may leave that out.
pub(super) fn name_of(event: &Event) -> &str {
    event.event_type.rsplit('.').next().unwrap_or_default()
}

/// When an event happened; `None` where it does not say so.
pub(super) fn moment(event: &Event) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(&event.time, &Rfc3339).ok()
}

/// Whether an event says that a threat was detected.
pub(super) fn is_alert(event: &Event) -> bool {
    name_of(event) == "threat_alert"
}

/// The severity that an alert has.
pub(super) fn severity_of(event: &Event) -> Option<Severity> {
    Severity::parse(event.text("severity")?)
}

/// Whether an address is one of the inside.
pub(super) fn is_inside(address: &str) -> bool {
    match address.parse() {
        Ok(IpAddr::V4(address)) => address.is_private() || address.is_loopback(),
        Ok(IpAddr::V6(address)) => address.is_unique_local() || address.is_loopback(),
        Err(_) => false,
    }
}

/// Whether a text is fit to stand as a name in a sentence; events may have any.
pub(super) fn is_name(text: &str) -> bool {
    name::is_valid(text)
}

/// Whether a name is that of a host, not of an address or a whole network.
pub(super) fn is_host(name: &str) -> bool {
    let is_network = ["vpc-", "subnet-"]
        .iter()
        .any(|start| name.starts_with(start));
    is_name(name) && !is_network && name.parse::<IpAddr>().is_err()
}

/// Others' words on one line, not too many.
pub(super) fn plain(text: &str) -> String {
    text.chars()
        .map(|char| if char.is_control() { ' ' } else { char })
        .take(MAX_TEXT_CHARS)
        .collect()
}

/// An event in one line, without its time.
pub(super) fn summary(event: &Event) -> String {
    let name = name_of(event);
    if is_short(event) {
        let line = event.text(LINE).unwrap_or("no details");
        let name = match name {
            "threat_alert" => "alert",
            "action_update" => "action",
            name => name,
        };
        return plain(&format!("{} {line}", name.replace('_', " ")));
    }
    let note = event.data.get("note").and_then(|note| note.get("content"));
    let said = WORDS
        .iter()
        .find_map(|key| event.text(key))
        .or_else(|| note.and_then(Value::as_str))
        .unwrap_or("no details");
    let said = plain(said);
    let head = match name {
        "threat_alert" => {
            let severity = event.text("severity").unwrap_or("severity unknown");
            let kind = event.text("threat_type").unwrap_or("unknown");
            plain(&format!("alert {severity} {kind}"))
        }
        "action_update" => {
            let action = event.text("action_type").unwrap_or("action");
            plain(&format!("action {action}"))
        }
        "investigation_update" => "investigation".to_owned(),
        "investigation_note_added" => "note".to_owned(),
        "" => "event".to_owned(),
        other => plain(&other.replace('_', " ")),
    };
    format!("{head}: {said}")
}

/// The words and numbers of a context.
fn read(context: Option<&Value>, words: &mut String, figures: &mut Vec<(String, f64)>) {
    match context {
        Some(Value::Object(fields)) => {
            for (key, value) in fields {
                let key = key.to_lowercase();
                let number = match value {
                    Value::Number(number) => number.as_f64(),
                    // Such as `60s`.
                    Value::String(text) => text.trim_end_matches(['s', '%']).parse().ok(),
                    _ => None,
                };
                let _ = writeln!(words, "{key}");
                match number {
                    Some(number) => figures.push((key, number)),
                    None => read(Some(value), words, figures),
                }
            }
        }
        Some(Value::Array(items)) => {
            items
                .iter()
                .for_each(|item| read(Some(item), words, figures));
        }
        Some(Value::String(text)) => {
            let _ = writeln!(words, "{}", text.to_lowercase());
        }
        Some(Value::Null | Value::Bool(_) | Value::Number(_)) | None => {}
    }
}
