//! What an investigation has established: statements, each with the events and
//! calls that show it, and what is still unknown. Nothing is concluded here that
//! the evidence does not show.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};

use serde_json::{Value, json};

use super::case::{self, Case};
use super::plan::{RELATED, SEARCH};
use super::related::Related;
use super::rounds::{Lookup, Outcome, Rounds};
use super::verdict::{Reason, Verdict};
use super::write;
use crate::evidence::Event;

/// The most findings; the schema has the same bound.
const MAX_FINDINGS: usize = 20;
/// The most evidence of one finding; the schema has the same bound.
const MAX_EVIDENCE: usize = 20;
/// How many ids stand behind a statement in the text.
const SHOWN: usize = 4;
/// Sources and hosts that have a statement of their own.
const MAX_NAMES: usize = 4;
/// A silence of the log that is worth a line, in seconds.
pub(super) const GAP_SECONDS: i64 = 600;
/// Silences that are told of.
const MAX_GAPS: usize = 3;

/// What shows something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Evidence {
    /// An event, by its id.
    Event(String),
    /// A call of a tool, by its number in the answer.
    Call(u32),
}

/// A statement and what shows it.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    /// In a sentence without its full stop.
    pub(super) statement: String,
    /// At least one.
    pub(super) evidence: Vec<Evidence>,
}

impl Finding {
    fn new(statement: String, events: impl IntoIterator<Item = String>, call: Option<u32>) -> Self {
        let events = events.into_iter().map(Evidence::Event);
        let call = call.map(Evidence::Call);
        Self {
            statement,
            evidence: call.into_iter().chain(events).take(MAX_EVIDENCE).collect(),
        }
    }

    /// As the analysis has it.
    pub(super) fn to_json(&self) -> Value {
        let evidence: Vec<Value> = self
            .evidence
            .iter()
            .map(|evidence| match evidence {
                Evidence::Event(id) => json!({"event_id": id}),
                Evidence::Call(number) => json!({"tool_call": number}),
            })
            .collect();
        json!({"statement": self.statement, "evidence": evidence})
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.statement)?;
        let shown: Vec<String> = self
            .evidence
            .iter()
            .take(SHOWN)
            .map(|evidence| match evidence {
                Evidence::Event(id) => id.clone(),
                Evidence::Call(number) => format!("call {number}"),
            })
            .collect();
        write!(f, " [{}", shown.join(", "))?;
        match self.evidence.len().saturating_sub(SHOWN) {
            0 => f.write_char(']'),
            more => write!(f, " and {more} more]"),
        }
    }
}

/// Statements with evidence, the most important first.
pub(super) fn known(case: &Case<'_>, verdict: &Verdict, rounds: &Rounds<'_>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = verdict
        .reasons
        .iter()
        .filter(|reason| !reason.events.is_empty())
        .map(|reason| Finding::new(reason.words.clone(), reason.events.clone(), None))
        .collect();
    let alerts: Vec<&Event> = case.alerts().collect();
    for source in case.sources().iter().take(MAX_NAMES) {
        let named = ids(alerts
            .iter()
            .filter(|event| event.text("source_ip") == Some(source)));
        if !named.is_empty() {
            let statement = format!("the alerts name {source} as the source");
            findings.push(Finding::new(statement, named, None));
        }
    }
    for host in case.hosts().iter().take(MAX_NAMES) {
        let has = |event: &&&Event| event.texts("affected_resources").any(|name| name == host);
        let named = ids(alerts.iter().filter(has));
        if !named.is_empty() {
            let statement = format!("the alerts name {host} as affected");
            findings.push(Finding::new(statement, named, None));
        }
    }
    for other in Related::of(rounds, case) {
        findings.extend(sharing(case, &other));
    }
    for update in case.actions() {
        let statement = write::state(update);
        findings.push(Finding::new(statement, [update.id.clone()], None));
    }
    findings.extend(nothing_related(case, rounds));
    findings.extend(nothing_else(case, rounds));
    findings.truncate(MAX_FINDINGS);
    findings
}

fn sharing(case: &Case<'_>, other: &Related) -> Option<Finding> {
    let of_it = |event: &&Event| event.text("incident_id") == Some(&other.id);
    let alerts = case.others.iter().copied().filter(of_it);
    let worst = alerts
        .filter(|event| case::severity_of(event).is_some())
        .max_by_key(|event| case::severity_of(event));
    let kind = worst.map_or_else(String::new, |event| {
        let text = |key| event.text(key).unwrap_or("unknown");
        case::plain(&format!(" ({} {})", text("severity"), text("threat_type")))
    });
    let statement = match other.shares.as_slice() {
        [] => format!("{}{kind} is related to it", other.id),
        shares => format!("{}{kind} shares {} with it", other.id, shares.join(", ")),
    };
    let is_shown = other.call.is_some() || !other.events.is_empty();
    is_shown.then(|| Finding::new(statement, other.events.clone(), other.call))
}

/// That a lookup found no other incident that shares anything.
fn nothing_related(case: &Case<'_>, rounds: &Rounds<'_>) -> Option<Finding> {
    let mut lookups = rounds.lookups.iter();
    let lookup = lookups.find(|lookup| lookup.name == RELATED && lookup.gave().is_some())?;
    let is_none = !lookup.has_more() && Related::of(rounds, case).is_empty();
    let back_to = lookup.looked_back_to();
    let back_to = back_to.map_or_else(String::new, |time| format!(" back to {time}"));
    is_none.then(|| Finding {
        statement: format!(
            "no other incident shares an address, a host or a user with {}{back_to}, as far as \
             you may read the log",
            lookup.about()
        ),
        evidence: vec![Evidence::Call(lookup.number)],
    })
}

/// That some lookups found no more than what is of the case itself.
fn nothing_else(case: &Case<'_>, rounds: &Rounds<'_>) -> Option<Finding> {
    let own: BTreeSet<&str> = case.own.iter().map(|event| &*event.id).collect();
    let lookups: Vec<&Lookup<'_>> = rounds
        .lookups
        .iter()
        .filter(|lookup| lookup.gave().is_some() && !lookup.has_more())
        .filter(|lookup| lookup.has_only(|id| own.contains(id)))
        // What belongs to the case itself is not looked for beyond it.
        .filter(|lookup| lookup.name == SEARCH && lookup.incident().is_none())
        .collect();
    let mut names: Vec<String> = lookups.iter().map(|lookup| lookup.about()).collect();
    names.sort();
    names.dedup();
    let back_to = lookups.iter().filter_map(|lookup| lookup.looked_back_to());
    let back_to = back_to
        .max()
        .map_or_else(String::new, |time| format!(" back to {time}"));
    (!lookups.is_empty()).then(|| Finding {
        statement: format!(
            "beyond this case the log has nothing about {}{back_to}, as far as you may read it",
            names.join(", ")
        ),
        evidence: lookups
            .iter()
            .map(|lookup| Evidence::Call(lookup.number))
            .collect(),
    })
}

/// What is not known, each with what shows that, where anything does.
pub(super) fn unknown(case: &Case<'_>, verdict: &Verdict, rounds: &Rounds<'_>) -> Vec<String> {
    let mut open = verdict.doubts.clone();
    for lookup in &rounds.lookups {
        if let Outcome::Failed { why, .. } = &lookup.outcome {
            open.push(format!(
                "what {} has about {}, for it gave nothing: {why} [call {}]",
                lookup.name,
                lookup.about(),
                lookup.number
            ));
        }
    }
    open.extend(not_all(rounds));
    open.extend(gaps(case));
    if case.sources().is_empty() {
        open.push("no source address is known".to_owned());
    }
    if case.hosts().is_empty() {
        open.push("no affected host is known".to_owned());
    }
    if case.actions().is_empty() {
        open.push("the log has no response to it yet".to_owned());
    }
    open.push(format!("to be found out: {}", verdict.kind.check));
    open
}

/// That lookups may have more than they gave, all in one line.
fn not_all(rounds: &Rounds<'_>) -> Option<String> {
    let is_short = |lookup: &&Lookup<'_>| lookup.has_more() || lookup.looked_back_to().is_some();
    let lookups: Vec<&Lookup<'_>> = rounds.lookups.iter().filter(is_short).collect();
    let calls: Vec<String> = lookups
        .iter()
        .map(|lookup| format!("call {}", lookup.number))
        .collect();
    let back_to = lookups.iter().filter_map(|lookup| lookup.looked_back_to());
    let back_to = back_to.max().map_or_else(String::new, |time| {
        format!(", for the log was read back to {time} only")
    });
    (!calls.is_empty()).then(|| {
        format!(
            "what else there is: not all matches were given{back_to} [{}]",
            calls.join(", ")
        )
    })
}

/// The longest silences between events of the case.
fn gaps(case: &Case<'_>) -> Vec<String> {
    let mut gaps: Vec<(i64, String)> = case
        .own
        .windows(2)
        .filter_map(|pair| {
            let (before, after) = (case::moment(pair[0])?, case::moment(pair[1])?);
            let seconds = (after - before).whole_seconds();
            (seconds >= GAP_SECONDS).then(|| {
                let words = format!(
                    "what happened in the {} minutes without any event of the case [{}, {}]",
                    seconds / 60,
                    pair[0].id,
                    pair[1].id
                );
                (seconds, words)
            })
        })
        .collect();
    gaps.sort_by_key(|(seconds, _)| std::cmp::Reverse(*seconds));
    gaps.into_iter()
        .take(MAX_GAPS)
        .map(|(_, words)| words)
        .collect()
}

/// What speaks for the verdict and is no event: what people said and gave.
pub(super) fn told(verdict: &Verdict) -> impl Iterator<Item = &Reason> {
    verdict
        .reasons
        .iter()
        .filter(|reason| reason.events.is_empty())
}

fn ids<'e>(events: impl Iterator<Item = &'e &'e Event>) -> Vec<String> {
    events.map(|event| event.id.clone()).collect()
}
