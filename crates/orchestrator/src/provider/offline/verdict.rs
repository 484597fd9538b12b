//! Which kind of threat it is, how severe, and how sure: rules, each with the
//! evidence that made it apply.

use std::collections::BTreeSet;
use std::fmt;

use super::case::{self, Case};
use super::knowledge::{self, KINDS, Kind, Severity, UNKNOWN};
use crate::evidence::Event;

/// Rules are never surer than this, in percent.
const MOST_SURE: f64 = 95.0;
/// What a kind that is only spoken of is worth, in percent.
const BY_WORDS: f64 = 35.0;
/// How many events stand behind a reason in the text.
const SHOWN: usize = 3;

/// What speaks for a judgement.
pub(super) struct Reason {
    /// In a sentence without its full stop.
    pub(super) words: String,
    /// The events that show it; none where people said so.
    pub(super) events: Vec<String>,
}

impl Reason {
    fn said(words: String) -> Self {
        Self {
            words,
            events: Vec::new(),
        }
    }

    fn shown<'e>(words: String, events: impl IntoIterator<Item = &'e Event>) -> Self {
        Self {
            words,
            events: events.into_iter().map(|event| event.id.clone()).collect(),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)?;
        match &self.events[..self.events.len().min(SHOWN)] {
            [] => Ok(()),
            shown => write!(f, " [{}]", shown.join(", ")),
        }
    }
}

/// A judgement with its reasons.
pub(super) struct Verdict {
    /// The kind of threat.
    pub(super) kind: &'static Kind,
    /// Its name as the producer writes it, where there is no rule for it.
    pub(super) kind_name: String,
    /// How severe it is.
    pub(super) severity: Severity,
    /// How sure, in percent.
    pub(super) confidence: u8,
    /// What speaks for it.
    pub(super) reasons: Vec<Reason>,
    /// What speaks against it, or is missing.
    pub(super) doubts: Vec<String>,
}

impl Verdict {
    /// That of a case.
    pub(super) fn of(case: &Case<'_>) -> Self {
        let mut reasons = Vec::new();
        let mut doubts = Vec::new();
        let (kind, kind_name, others) = kind_of(case, &mut reasons);
        let severity = severity_of(case, kind, &others, &mut reasons);
        let confidence = confidence_of(case, kind, &others, &mut doubts);
        Self {
            kind,
            kind_name,
            severity,
            confidence,
            reasons,
            doubts,
        }
    }

    /// What speaks for it, in words with their evidence.
    pub(super) fn reasons(&self) -> Vec<String> {
        self.reasons.iter().map(Reason::to_string).collect()
    }

    /// The kind in a sentence.
    pub(super) fn phrase(&self) -> String {
        if self.kind == &UNKNOWN && self.kind_name != UNKNOWN.name {
            self.kind_name.replace('_', " ")
        } else {
            self.kind.phrase.to_owned()
        }
    }

    /// Whether there is nothing to judge by.
    pub(super) fn is_empty(&self) -> bool {
        self.confidence == 0
    }
}

/// The kind, its name, and the names of other kinds that alerts have.
fn kind_of(
    case: &Case<'_>,
    reasons: &mut Vec<Reason>,
) -> (&'static Kind, String, BTreeSet<String>) {
    let mut others: BTreeSet<String> = BTreeSet::new();
    // The worst alert names the kind; of several the latest.
    let worst = case.alerts().max_by_key(|event| case::severity_of(event));
    if let Some(worst) = worst {
        let name = worst.text("threat_type").unwrap_or(UNKNOWN.name).to_owned();
        let kinds = case.alerts().filter_map(|event| event.text("threat_type"));
        others.extend(kinds.filter(|other| *other != name).map(str::to_owned));
        reasons.push(Reason::shown(case::summary(worst), [worst]));
        return (
            knowledge::kind_named(&name).unwrap_or(&UNKNOWN),
            name,
            others,
        );
    }
    let spoken = knowledge::kinds_in(&case.words);
    let Some(kind) = spoken.first() else {
        return (&UNKNOWN, UNKNOWN.name.to_owned(), others);
    };
    others.extend(spoken[1..].iter().map(|kind| kind.name.to_owned()));
    let words = format!("what you say and give speaks of {}", kind.phrase);
    reasons.push(Reason::said(words));
    (kind, kind.name.to_owned(), others)
}

fn severity_of(
    case: &Case<'_>,
    kind: &'static Kind,
    others: &BTreeSet<String>,
    reasons: &mut Vec<Reason>,
) -> Severity {
    let told = case.alerts().filter_map(case::severity_of).max();
    let mut severity = kind.base;
    for (applies, reason) in aggravations(case, kind) {
        if applies {
            severity = severity.raised();
            reasons.push(reason);
        }
    }
    if let Some(told) = told {
        // Whoever detected it saw more than the log has.
        severity = severity.max(told);
    }
    if escalates(case) {
        let words = "the alerts of this case have become more severe one after the other";
        reasons.push(Reason::shown(words.to_owned(), case.alerts()));
    }
    let known = others
        .iter()
        .filter(|name| KINDS.iter().any(|kind| kind.name == **name));
    let stages: Vec<&str> = known.map(String::as_str).collect();
    if case.alerts().next().is_some() && !stages.is_empty() && told >= Some(Severity::High) {
        severity = severity.raised();
        let words = format!(
            "the same case also shows {}: several stages of one attack",
            stages.join(", ").replace('_', " ")
        );
        let is_stage = |event: &&Event| {
            let kind = event.text("threat_type");
            kind.is_some_and(|kind| stages.contains(&kind))
        };
        reasons.push(Reason::shown(words, case.alerts().filter(is_stage)));
    }
    severity
}

/// What makes a kind worse than it is by itself.
fn aggravations(case: &Case<'_>, kind: &Kind) -> Vec<(bool, Reason)> {
    let mut found = Vec::new();
    let source = case
        .sources()
        .into_iter()
        .find(|source| case::is_inside(source));
    if let (Some(source), "port_scanning" | "brute_force" | "data_exfiltration") =
        (source, kind.name)
    {
        let named = |event: &&Event| event.text("source_ip") == Some(&source);
        let words = format!("{source} is an inside address, so a host of yours may be taken over");
        found.push((true, Reason::shown(words, case.alerts().filter(named))));
    }
    if let Some(ports) = case.figure(&["ports_scanned", "port_count", "ports"]) {
        let window = case
            .figure(&["time_window", "window", "duration"])
            .filter(|time| *time > 0.0);
        let fast = window.is_some_and(|window| ports / window > 0.1);
        let within = window.map_or_else(String::new, |window| format!(" within {window} s"));
        let words = format!("{ports} ports{within}: that is a tool, not a person");
        let applies = ports >= 100.0 || (ports >= 10.0 && fast);
        found.push((applies, Reason::said(words)));
    }
    if let Some(failures) =
        case.figure(&["failed_logins", "login_failures", "failures", "attempts"])
    {
        let words = format!("{failures} failed attempts: that is a tool, not a person");
        found.push((failures >= 50.0, Reason::said(words)));
    }
    let succeeded = case.alerts().find(|event| {
        let said = event.text("ai_summary").unwrap_or_default().to_lowercase();
        kind.name == "brute_force"
            && ["succeeded", "privileged"]
                .iter()
                .any(|word| said.contains(word))
    });
    if let Some(event) = succeeded {
        let words = "an attempt succeeded".to_owned();
        found.push((true, Reason::shown(words, [event])));
    }
    let hosts = case.hosts().len();
    let hit = |event: &&Event| event.texts("affected_resources").any(case::is_host);
    let words = format!("{hosts} hosts are hit");
    found.push((hosts >= 5, Reason::shown(words, case.alerts().filter(hit))));
    found
}

fn escalates(case: &Case<'_>) -> bool {
    let severities: Vec<_> = case.alerts().filter_map(case::severity_of).collect();
    severities.len() > 1 && severities.is_sorted() && severities.first() != severities.last()
}

fn confidence_of(
    case: &Case<'_>,
    kind: &Kind,
    others: &BTreeSet<String>,
    doubts: &mut Vec<String>,
) -> u8 {
    let alerts = case.alerts().count();
    let mut sure = if alerts > 0 {
        let told = case
            .alerts()
            .filter_map(|event| event.data.get("confidence")?.as_f64());
        told.fold(50.0, f64::max)
    } else if kind != &UNKNOWN {
        doubts.push("no alert in the event log says so, only what you say and give".to_owned());
        BY_WORDS
    } else {
        doubts.push(
            "neither the event log nor what you say gives me anything to judge by".to_owned(),
        );
        return 0;
    };
    sure += 3.0 * (alerts.saturating_sub(1).min(4) as f64);
    if case
        .figure(&[
            "ports",
            "failed",
            "failures",
            "attempts",
            "bytes",
            "time_window",
        ])
        .is_some()
    {
        sure += 10.0;
    }
    if kind == &UNKNOWN {
        sure -= 20.0;
        doubts.push(
            "I have no rule for this kind; the alert's own judgement stands alone".to_owned(),
        );
    }
    if alerts == 0 && !others.is_empty() {
        sure -= 10.0;
        let names: Vec<String> = others.iter().map(|name| name.replace('_', " ")).collect();
        doubts.push(format!("it might as well be {}", names.join(" or ")));
    }
    if alerts == 1 {
        doubts.push("it rests on a single alert".to_owned());
    }
    if case.subject.assumed {
        sure -= 10.0;
        doubts
            .push("you named no incident, so I took the latest alert for what you mean".to_owned());
    }
    sure.clamp(5.0, MOST_SURE) as u8
}
