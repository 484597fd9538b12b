//! What there is to judge by: the subject, its events by sort, and the figures
//! that people gave.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use serde_json::Value;

use super::super::{Message, Request};
use super::knowledge::Severity;
use crate::evidence::{Event, Subject};

/// The longest summary of an event that is repeated, in characters.
const MAX_SUMMARY_CHARS: usize = 160;

/// A case.
pub(super) struct Case<'r> {
    /// What it is about.
    pub(super) subject: Subject,
    /// Its events, oldest first.
    pub(super) own: Vec<&'r Event>,
    /// Others that share something with them, oldest first.
    pub(super) others: Vec<&'r Event>,
    /// What was said and given as context, in lower case, the latest first.
    pub(super) words: String,
    /// Numbers by name from the contexts, the latest first.
    figures: Vec<(String, f64)>,
}

impl<'r> Case<'r> {
    /// That of a request.
    pub(super) fn of(request: &'r Request) -> Self {
        let mut sorted: Vec<&Event> = request.events.iter().collect();
        sorted.sort_by_key(|event| event.seq);
        let mut subject = Subject::of(request, &sorted);
        let (mut own, mut others): (Vec<&Event>, Vec<&Event>) =
            sorted.iter().partition(|event| subject.names(event));
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

    /// Actions that are under way or done, the latest state of each.
    pub(super) fn actions(&self) -> Vec<&'r Event> {
        let mut seen = BTreeSet::new();
        let both = self.own.iter().chain(&self.others).copied();
        let mut updates: Vec<&Event> = both
            .filter(|event| event.event_type == "threat.action_update")
            .collect();
        updates.sort_by_key(|event| std::cmp::Reverse(event.seq));
        updates.retain(|event| seen.insert(event.text("action_id").unwrap_or(&event.id)));
        updates.reverse();
        updates
    }

    /// The addresses that it came from, as events and people name them.
    pub(super) fn sources(&self) -> Vec<String> {
        let mut sources: Vec<String> = Vec::new();
        let told = self.alerts().filter_map(|event| event.text("source_ip"));
        let named = self.subject.things.iter().map(String::as_str);
        for name in told.chain(named.filter(|name| name.parse::<IpAddr>().is_ok())) {
            if !sources.iter().any(|known| known == name) {
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
            let is_host = name.parse::<IpAddr>().is_err() && !name.starts_with("vpc-");
            if is_host && !hosts.iter().any(|known| known == name) {
                hosts.push(name.to_owned());
            }
        }
        hosts
    }
}

/// Whether an event says that a threat was detected.
pub(super) fn is_alert(event: &Event) -> bool {
    event.event_type.ends_with(".threat_alert")
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

/// An event in one line, without its time.
pub(super) fn summary(event: &Event) -> String {
    let name = event.event_type.rsplit('.').next().unwrap_or_default();
    let said = ["ai_summary", "current_activity", "status", "reason"]
        .iter()
        .find_map(|key| event.text(key))
        .unwrap_or("no details");
    let said: String = said
        .chars()
        .map(|char| if char.is_control() { ' ' } else { char })
        .take(MAX_SUMMARY_CHARS)
        .collect();
    let head = match name {
        "threat_alert" => {
            let severity = event.text("severity").unwrap_or("severity unknown");
            let kind = event.text("threat_type").unwrap_or("unknown");
            format!("alert {severity} {kind}")
        }
        "action_update" => {
            let action = event.text("action_type").unwrap_or("action");
            format!("action {action}")
        }
        "investigation_update" => "investigation".to_owned(),
        other => other.replace('_', " "),
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
