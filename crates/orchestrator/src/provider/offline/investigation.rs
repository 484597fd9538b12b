//! The report of an investigation: what happened in order, what connects it, what
//! is known and what is not, and what to do. Every statement has its evidence in
//! brackets, ids of events and numbers of calls; the analysis has the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::case::{self, Case};
use super::findings::{self, GAP_SECONDS};
use super::rounds::Rounds;
use super::verdict::Verdict;
use super::write;
use crate::evidence::Event;

/// The most lines of a timeline.
const MAX_LINES: usize = 30;
/// Of these, lines for events of others that only share something.
const MAX_OTHERS: usize = 10;
/// The most names that tie events together.
const MAX_TIES: usize = 10;
/// How many ids stand behind a tie in the text.
const SHOWN: usize = 4;
/// Fields that name one thing that events may share.
const SHARED: [&str; 2] = ["source_ip", "target_resource"];

/// Writes the report and its analysis.
pub(super) fn report(
    case: &Case<'_>,
    verdict: &Verdict,
    rounds: &Rounds<'_>,
    opening: &str,
) -> (String, Value) {
    let mut text = opening.to_owned();
    let lines = lines(case);
    let ties = ties(case);
    let known = findings::known(case, verdict, rounds);
    headline(case, verdict, &mut text);
    if !lines.is_empty() {
        timeline(case, &lines, &mut text);
        let tied: Vec<String> = ties.iter().map(tie).collect();
        write::list(&mut text, "What connects it", &tied);
    }
    let mut statements: Vec<String> = known.iter().map(ToString::to_string).collect();
    statements
        .extend(findings::told(verdict).map(|reason| format!("{} [as you say]", reason.words)));
    write::list(&mut text, "What is known", &statements);
    let unknown = findings::unknown(case, verdict, rounds);
    write::list(&mut text, "What is not known", &unknown);
    if !verdict.is_empty() {
        what_to_do(case, verdict, &mut text);
    }
    let mut analysis = write::analysis(case, verdict);
    analysis["findings"] = known.iter().map(findings::Finding::to_json).collect();
    analysis["timeline"] = lines
        .iter()
        .map(|event| json!({"time": event.time, "event_id": event.id, "summary": case::summary(event)}))
        .collect();
    analysis["correlations"] = ties
        .iter()
        .map(|(thing, ids)| json!({"shared": thing, "event_ids": ids}))
        .collect();
    (write::finished(text), analysis)
}

fn headline(case: &Case<'_>, verdict: &Verdict, text: &mut String) {
    if verdict.is_empty() {
        if case.all.is_empty() {
            write::nothing(case, text);
            return;
        }
        let _ = writeln!(text, "INFO: no alert, and nothing that I have a rule for.");
    } else {
        let _ = writeln!(
            text,
            "{}: {}, {} % sure.",
            verdict.severity.name(),
            verdict.phrase(),
            verdict.confidence
        );
    }
    if case.all.is_empty() {
        let _ = writeln!(
            text,
            "The event log has nothing about {}: this rests on what you say alone, and there is \
             no timeline to draw from that.",
            write::names(case)
        );
        return;
    }
    let _ = writeln!(
        text,
        "{} bear on {}: {} of it, {} that share an address, a host or a case with it.",
        count(case.all.len()),
        write::names(case),
        case.own.len(),
        case.others.len()
    );
}

/// The events that have a line, oldest first: those of the case before those that
/// only share something with it, the latest before earlier ones.
fn lines<'e>(case: &Case<'e>) -> Vec<&'e Event> {
    let spare = MAX_LINES.saturating_sub(case.own.len()).max(MAX_OTHERS);
    // What was done about other cases is no part of the story.
    let others = case
        .others
        .iter()
        .rev()
        .filter(|event| case::is_alert(event));
    let others: Vec<&&Event> = others.take(spare).collect();
    let own = case.own.iter().rev();
    let room = MAX_LINES - others.len();
    let chosen: BTreeSet<&str> = own
        .take(room)
        .chain(others)
        .map(|event| &*event.id)
        .collect();
    let all = case.all.iter().copied();
    all.filter(|event| chosen.contains(&*event.id)).collect()
}

fn timeline(case: &Case<'_>, lines: &[&Event], text: &mut String) {
    let _ = writeln!(text, "\nWhat happened, in order:");
    let left_out = case.all.len() - lines.len();
    if left_out > 0 {
        let _ = writeln!(text, "- ({left_out} more are left out here)");
    }
    let mut before: Option<OffsetDateTime> = None;
    for event in lines {
        let time = case::moment(event);
        if let (Some(before), Some(time)) = (before, time) {
            let gap = (time - before).whole_seconds();
            if gap >= GAP_SECONDS {
                let _ = writeln!(text, "- (nothing for {} minutes)", gap / 60);
            }
        }
        before = time.or(before);
        let is_own = case.own.iter().any(|own| own.id == event.id);
        let of = event
            .text("incident_id")
            .filter(|id| !is_own && case::is_name(id))
            .map_or_else(String::new, |id| format!("{id}, "));
        let _ = writeln!(
            text,
            "- {} {of}{} [{}]",
            case::plain(&event.time),
            case::summary(event),
            event.id
        );
    }
}

/// The addresses and hosts of the case that more than one event has, with the
/// events that have them, the most common first.
fn ties(case: &Case<'_>) -> Vec<(String, Vec<String>)> {
    let named: BTreeSet<&str> = case.own.iter().flat_map(|event| things(event)).collect();
    let mut shared: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for event in &case.all {
        for name in things(event).filter(|name| named.contains(name)) {
            let ids = shared.entry(name).or_default();
            if ids.last() != Some(&event.id) {
                ids.push(event.id.clone());
            }
        }
    }
    let mut shared: Vec<(String, Vec<String>)> = shared
        .into_iter()
        .filter(|(_, ids)| ids.len() > 1)
        .map(|(name, ids)| (name.to_owned(), ids))
        .collect();
    shared.sort_by_key(|(_, ids)| std::cmp::Reverse(ids.len()));
    shared.truncate(MAX_TIES);
    shared
}

/// The addresses and hosts that an event names; a whole network says nothing.
fn things(event: &Event) -> impl Iterator<Item = &str> {
    let single = SHARED.iter().filter_map(|key| event.text(key));
    let all = single.chain(event.texts("affected_resources"));
    all.filter(|name| case::is_host(name) || name.parse::<IpAddr>().is_ok())
}

fn tie((thing, ids): &(String, Vec<String>)) -> String {
    let shown = ids[..ids.len().min(SHOWN)].join(", ");
    let more = match ids.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{thing}: {} [{shown}{more}]", count(ids.len()))
}

fn what_to_do(case: &Case<'_>, verdict: &Verdict, text: &mut String) {
    let steps = write::steps(case, verdict, &case.actions());
    if steps.is_empty() {
        return;
    }
    let _ = writeln!(text, "\nWhat to do, most urgent first:");
    write::numbered(&steps, text);
}

fn count(events: usize) -> String {
    match events {
        1 => "1 event".to_owned(),
        events => format!("{events} events"),
    }
}
