//! `event_timeline`: the events around an incident, a resource or an address, in
//! the order in which they happened.

use serde_json::{Map, Value};

use super::arguments::{self, Timeline};
use super::walk::{Found, Keep, Looked, Walk};
use super::{Refusal, facts, show};

/// How many events are given where nothing is said.
const LIMIT: usize = 50;

/// Puts events in order.
pub(super) async fn timeline(
    arguments: &Value,
    walk: Walk<'_>,
    result_bytes: usize,
) -> Result<Value, Refusal> {
    let asked: Timeline = arguments::read(arguments)?;
    let (incident, resource, source) = (&asked.incident_id, &asked.resource, &asked.source_ip);
    if incident.is_none() && resource.is_none() && source.is_none() {
        let sentence = "expected incident_id, resource or source_ip";
        return Err(Refusal::Arguments(sentence.to_owned()));
    }
    let limit = asked.limit.unwrap_or(LIMIT);
    let pick = |found: Found| {
        let event = &found.event;
        let is_about = incident
            .as_ref()
            .is_some_and(|id| facts::belongs_to(event, id))
            || resource
                .as_ref()
                .is_some_and(|name| facts::names(event, name))
            || source.as_ref().is_some_and(|ip| facts::is_from(event, ip));
        is_about.then(|| show::entry(event))
    };
    let keep = Keep::Newest(limit + 1);
    let (picked, looked) = walk.back(asked.period()?, keep, pick).await?;
    let is_more = picked.len() > limit;
    // The latest stay, where not all fit.
    let latest = picked.into_iter().rev().take(limit);
    let (mut entries, is_cut) = show::fitted(latest.map(|one| (one.item, None)), result_bytes);
    entries.reverse();
    let mut own = Map::new();
    own.insert("entries".to_owned(), entries.into());
    let looked = Looked {
        complete: looked.complete && !is_more,
        ..looked
    };
    Ok(show::result(&looked, is_more || is_cut, own))
}
