//! Two of the jobs in words, and what all have in common: each answers another
//! question about the same case, and hands over an analysis of the default shape
//! with fields of its own.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::case::{self, Case};
use super::knowledge::{Action, Severity};
use super::verdict::Verdict;
use crate::evidence::Event;

/// What stands above the first answer of a chat.
const INTRODUCTION: &str = "I am the offline analyst: fixed rules over this chat and the event \
    log, not a language model. I recognise names, addresses, figures and key words, and I \
    conclude nothing beyond what I show.";
/// The most items of each list of an analysis; the schema has the same bound.
const MAX_ITEMS: usize = 20;

/// Says what kind of threat it is and how severe.
pub(super) fn classification(case: &Case<'_>, verdict: &Verdict, opening: &str) -> (String, Value) {
    let mut text = opening.to_owned();
    if verdict.is_empty() {
        nothing(case, &mut text);
    } else {
        let _ = writeln!(
            text,
            "{}: {}, {} % sure. {}",
            verdict.severity.name(),
            verdict.phrase(),
            verdict.confidence,
            about(case)
        );
        list(&mut text, "Why", &verdict.reasons());
        list(&mut text, "What speaks against it", &verdict.doubts);
        let checks = [
            format!("Settles it: {}.", verdict.kind.check),
            format!("If it is real, expect next: {}.", verdict.kind.next),
        ];
        list(&mut text, "What would change this", &checks);
    }
    (finished(text), analysis(case, verdict))
}

/// Says what to do, in which order and why.
pub(super) fn advice(case: &Case<'_>, verdict: &Verdict, opening: &str) -> (String, Value) {
    let mut text = opening.to_owned();
    let under_way = case.actions();
    let steps = steps(case, verdict, &under_way);
    if verdict.is_empty() && under_way.is_empty() {
        nothing(case, &mut text);
    } else {
        let _ = writeln!(
            text,
            "For {} ({}, {}, {} % sure) I advise {} steps, most urgent first.",
            names(case),
            verdict.phrase(),
            verdict.severity.name(),
            verdict.confidence,
            steps.len()
        );
        text.push('\n');
        numbered(&steps, &mut text);
        let done: Vec<String> = under_way
            .iter()
            .map(|event| format!("{} [{}]", state(event), event.id))
            .collect();
        list(&mut text, "Under way or done, so not advised again", &done);
        let checks = [
            format!("It worked if this does not follow: {}.", verdict.kind.next),
            format!(
                "Before the steps that interrupt: find out {}.",
                verdict.kind.check
            ),
        ];
        list(&mut text, "How to tell", &checks);
        list(&mut text, "What makes me unsure", &verdict.doubts);
    }
    let mut result = analysis(case, verdict);
    result["actions"] = steps
        .iter()
        .map(|(action, what)| {
            json!({"action_type": action.name, "what": what, "reason": action.why,
                "needs_approval": action.disruptive})
        })
        .collect();
    result["recommended_actions"] = steps.iter().map(|(_, what)| json!(what)).collect();
    (finished(text), result)
}

/// The part that all analyses have.
pub(super) fn analysis(case: &Case<'_>, verdict: &Verdict) -> Value {
    let actions: Vec<String> = steps(case, verdict, &case.actions())
        .into_iter()
        .map(|(_, what)| what)
        .take(MAX_ITEMS)
        .collect();
    let evidence: Vec<&str> = case
        .own
        .iter()
        .rev()
        .take(MAX_ITEMS)
        .map(|event| event.id.as_str())
        .collect();
    json!({
        "threat_classification": {
            "severity": verdict.severity.name(),
            "confidence": verdict.confidence,
            "threat_type": verdict.kind_name,
        },
        "risk_factors": verdict.reasons().into_iter().take(MAX_ITEMS).collect::<Vec<_>>(),
        "recommended_actions": actions,
        "evidence": evidence,
    })
}

/// What is to be done and is not under way, with its words filled in.
pub(super) fn steps(
    case: &Case<'_>,
    verdict: &Verdict,
    under_way: &[&Event],
) -> Vec<(Action, String)> {
    let sources = case.sources();
    let hosts = case.hosts();
    let filled = |list: &[String], what: &str| match list {
        [] => format!("the {what}, which I was not told"),
        names => names.iter().take(3).cloned().collect::<Vec<_>>().join(", "),
    };
    let source = filled(&sources, "source");
    let host = filled(&hosts, "affected host");
    let is_inside = sources.iter().any(|source| case::is_inside(source));
    verdict
        .kind
        .actions
        .iter()
        .filter(|action| {
            let mut others = under_way
                .iter()
                .filter_map(|event| event.text("action_type"));
            !others.any(|name| name == action.name)
        })
        .filter(|action| is_inside || action.name != "investigate_compromise")
        // What interrupts is too much for what is not severe.
        .filter(|action| !action.disruptive || verdict.severity >= Severity::Medium)
        .map(|action| {
            let what = action
                .what
                .replace("{source}", &source)
                .replace("{host}", &host);
            (*action, what)
        })
        .collect()
}

/// What stands above an answer.
pub(super) fn opening(is_first: bool) -> String {
    if is_first {
        format!("{INTRODUCTION}\n\n")
    } else {
        String::new()
    }
}

/// That there is nothing to judge by, and what would help.
pub(super) fn nothing(case: &Case<'_>, text: &mut String) {
    let _ = write!(text, "INFO: I cannot judge this. ");
    if case.subject.is_empty() {
        text.push_str("You name no incident, address or host, and the event log has no alert. ");
    } else {
        let _ = write!(
            text,
            "I found no event about {}, and no word that I have a rule for. ",
            names(case)
        );
    }
    text.push_str(
        "Give me an incident id, an address or a host as an alert names it, or figures such as \
         ports_scanned, failed_logins and time_window in the context.\n",
    );
}

fn about(case: &Case<'_>) -> String {
    let events = case.own.len() + case.others.len();
    let word = if events == 1 { "event" } else { "events" };
    format!(
        "This is about {}; {events} {word} of the log bear on it.",
        names(case)
    )
}

/// What a case is called in a sentence.
pub(super) fn names(case: &Case<'_>) -> String {
    let names: Vec<&str> = case.subject.all().take(4).collect();
    match names.as_slice() {
        [] => "what you describe".to_owned(),
        names if case.subject.assumed => format!("the latest alert ({})", names.join(", ")),
        names => names.join(", "),
    }
}

/// A list with its title, if it has items.
pub(super) fn list(text: &mut String, title: &str, items: &[String]) {
    if items.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{title}:");
    for item in items {
        let _ = writeln!(text, "- {item}");
    }
}

/// Steps, one a line.
pub(super) fn numbered(steps: &[(Action, String)], text: &mut String) {
    for (number, (action, what)) in steps.iter().enumerate() {
        let care = if action.disruptive {
            " It interrupts what runs there, so a person decides."
        } else {
            ""
        };
        let _ = writeln!(
            text,
            "{}. {what} ({}): {}.{care}",
            number + 1,
            action.name,
            action.why
        );
    }
}

/// How far an action is.
pub(super) fn state(event: &Event) -> String {
    let action = event.text("action_type").unwrap_or("an action");
    let status = event.text("status").unwrap_or("state unknown");
    let target = event
        .text("target_resource")
        .map(|target| format!(" on {target}"));
    case::plain(&format!("{action}{}: {status}", target.unwrap_or_default()))
}

/// A text without the white space at its end.
pub(super) fn finished(text: String) -> String {
    text.trim_end().to_owned()
}
