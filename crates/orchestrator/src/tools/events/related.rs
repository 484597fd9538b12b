//! `related_incidents`: incidents that share addresses, hosts or users with one,
//! and the events that show it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use signalbox_protocol::timestamp::Timestamp;

use super::arguments::{self, Period, Related};
use super::facts::{self, Fact};
use super::walk::{Found, Keep, Picked, Walk};
use super::{Refusal, show};

/// How many incidents are given where nothing is said.
const LIMIT: usize = 10;
/// The most events that are named for one fact, on either side.
const IDS: usize = 3;
/// The most events of the incident itself that are named.
const OWN_IDS: usize = 20;
/// The most facts that are given for one incident.
const SHARED: usize = 10;
/// What is remembered of events on one channel, which bounds what a call holds.
const REMEMBERED: usize = 20_000;
/// The most facts that one event is taken to name.
const FACTS: usize = 64;

/// What is remembered of an event.
struct Trace {
    incident: String,
    event_id: String,
    severity: Option<String>,
    facts: Vec<Fact>,
}

/// Events that name a fact.
type Shown = BTreeMap<Fact, Vec<String>>;

/// What is known of another incident.
#[derive(Default)]
struct Other {
    shown: Shown,
    events: usize,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
    severity: Option<String>,
}

/// Relates.
pub(super) async fn related(
    arguments: &Value,
    walk: Walk<'_>,
    result_bytes: usize,
) -> Result<Value, Refusal> {
    let asked: Related = arguments::read(arguments)?;
    let keep = Keep::Newest(REMEMBERED);
    let (traces, looked) = walk.back(Period::default(), keep, trace).await?;
    let (own, others): (Vec<_>, Vec<_>) = traces
        .into_iter()
        .partition(|trace| trace.item.incident == asked.incident_id);
    let mut shown = Shown::new();
    for trace in &own {
        note(&mut shown, &trace.item);
    }
    let facts: BTreeSet<&Fact> = shown.keys().collect();
    let mut incidents: Vec<(String, Other)> = gathered(others, &facts).into_iter().collect();
    incidents.sort_by_key(|(_, other)| Reverse((other.shown.len(), other.last)));
    let limit = asked.limit.unwrap_or(LIMIT);
    let is_more = incidents.len() > limit;
    let entries = incidents.iter().take(limit);
    let entries = entries.map(|(id, other)| (entry(id, other, &shown), None));
    let own_ids = own.iter().rev().take(OWN_IDS);
    let own_ids: Vec<&str> = own_ids.map(|trace| trace.item.event_id.as_str()).collect();
    // What is said of the incident itself takes from the room for the others.
    let taken = json!(own_ids).to_string().len() + asked.incident_id.len();
    let (entries, is_cut) = show::fitted(entries, result_bytes.saturating_sub(taken));
    let mut fields = Map::new();
    fields.insert("incident_id".to_owned(), asked.incident_id.into());
    fields.insert("event_ids".to_owned(), json!(own_ids));
    fields.insert("related".to_owned(), entries.into());
    Ok(show::result(&looked, is_more || is_cut, fields))
}

/// What is remembered of an event of an incident.
fn trace(found: Found) -> Option<Trace> {
    let event = &found.event;
    let incident = event.text("incident_id")?.to_owned();
    let mut facts = facts::facts(event);
    facts.truncate(FACTS);
    Some(Trace {
        incident,
        event_id: event.id.clone(),
        severity: event.text("severity").map(str::to_owned),
        facts,
    })
}

/// Notes that an event names its facts, the latest events first.
fn note(shown: &mut Shown, trace: &Trace) {
    for fact in &trace.facts {
        let ids = shown.entry(fact.clone()).or_default();
        ids.insert(0, trace.event_id.clone());
        ids.truncate(IDS);
    }
}

/// The incidents that have any of these facts, of events in the order of times.
fn gathered(traces: Vec<Picked<Trace>>, facts: &BTreeSet<&Fact>) -> BTreeMap<String, Other> {
    let mut others: BTreeMap<String, Other> = BTreeMap::new();
    for Picked { time, item, .. } in traces {
        let other = others.entry(item.incident.clone()).or_default();
        other.events += 1;
        other.first = other.first.or(Some(time));
        other.last = Some(time);
        other.severity = item.severity.clone().or(other.severity.take());
        let shared = item.facts.iter().filter(|fact| facts.contains(fact));
        let shared = Trace {
            facts: shared.cloned().collect(),
            ..item
        };
        note(&mut other.shown, &shared);
    }
    others.retain(|_, other| !other.shown.is_empty());
    others
}

fn entry(id: &str, other: &Other, own: &Shown) -> Map<String, Value> {
    let shared = other.shown.iter().take(SHARED).map(|(fact, ids)| {
        json!({
            "kind": fact.kind.word(),
            "name": fact.name,
            "event_ids": ids,
            "own_event_ids": own.get(fact),
        })
    });
    let mut entry = Map::new();
    entry.insert("incident_id".to_owned(), id.into());
    entry.insert("severity".to_owned(), json!(other.severity));
    entry.insert("first".to_owned(), json!(other.first));
    entry.insert("last".to_owned(), json!(other.last));
    entry.insert("events".to_owned(), other.events.into());
    entry.insert("shared".to_owned(), shared.collect::<Vec<_>>().into());
    entry
}
