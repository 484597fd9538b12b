//! `search_events`: events that match all filters.

use serde_json::{Map, Value};
use signalbox_protocol::catalogue::{self, Channel, EventType};

use super::arguments::{self, Order, Search};
use super::walk::{Found, Keep, Looked, Walk};
use super::{Refusal, facts, show};

/// How many events are given where nothing is said.
const LIMIT: usize = 20;

/// Searches.
pub(super) async fn search(
    arguments: &Value,
    mut walk: Walk<'_>,
    result_bytes: usize,
) -> Result<Value, Refusal> {
    let asked: Search = arguments::read(arguments)?;
    let period = asked.period()?;
    let kinds = kinds(asked.event_types.as_deref())?;
    let not_readable: Vec<String> = kinds
        .iter()
        .flatten()
        .filter(|kind| !walk.has(kind.route.channel))
        .map(|kind| name(kind))
        .collect();
    if let Some(kinds) = &kinds {
        let wanted = |channel: Channel| kinds.iter().any(|kind| kind.route.channel == channel);
        walk.narrow(wanted);
    }
    let limit = asked.limit.unwrap_or(LIMIT);
    let keep = match asked.order {
        Order::Newest => Keep::Newest(limit + 1),
        Order::Oldest => Keep::Oldest(limit + 1),
    };
    let filter = Filter::new(&asked, kinds.as_deref());
    let pick = |found: Found| {
        let event = &found.event;
        let is_wanted = filter.matches(&found);
        is_wanted.then(|| (show::entry(event), show::data(event)))
    };
    let (mut picked, looked) = walk.back(period, keep, pick).await?;
    if asked.order == Order::Newest {
        picked.reverse();
    }
    let is_more = picked.len() > limit;
    let entries = picked.into_iter().take(limit).map(|one| one.item);
    let (events, is_cut) = show::fitted(entries, result_bytes);
    let mut own = Map::new();
    if !not_readable.is_empty() {
        own.insert("not_readable".to_owned(), not_readable.into());
    }
    own.insert("events".to_owned(), events.into());
    let looked = Looked {
        // Stopped where there was enough, which may hide more.
        complete: looked.complete && !is_more,
        ..looked
    };
    Ok(show::result(&looked, is_more || is_cut, own))
}

/// The types of these names; `None` for all.
fn kinds(names: Option<&[String]>) -> Result<Option<Vec<&'static EventType>>, Refusal> {
    let Some(names) = names else { return Ok(None) };
    let mut kinds = Vec::new();
    for wanted in names {
        let before = kinds.len();
        kinds.extend(catalogue::all().filter(|kind| kind.name == wanted || name(kind) == *wanted));
        if kinds.len() == before {
            let sentence = format!(
                "there is no event type {wanted}; types are such as threat.threat_alert, \
                 security.intrusion_detected or network.node_joined"
            );
            return Err(Refusal::Arguments(sentence));
        }
    }
    Ok(Some(kinds))
}

fn name(kind: &EventType) -> String {
    format!("{}.{}", kind.domain, kind.name)
}

/// What an event must be.
struct Filter<'a> {
    asked: &'a Search,
    words: Vec<String>,
    kinds: Option<Vec<String>>,
}

impl<'a> Filter<'a> {
    fn new(asked: &'a Search, kinds: Option<&[&EventType]>) -> Self {
        let text = asked.text.as_deref().unwrap_or_default().to_lowercase();
        Self {
            asked,
            words: text.split_whitespace().map(str::to_owned).collect(),
            kinds: kinds.map(|kinds| kinds.iter().map(|kind| name(kind)).collect()),
        }
    }

    fn matches(&self, found: &Found) -> bool {
        let (event, asked) = (&found.event, self.asked);
        let is = |wanted: &Option<String>, fits: &dyn Fn(&str) -> bool| {
            wanted.as_deref().is_none_or(fits)
        };
        self.kinds
            .as_ref()
            .is_none_or(|kinds| kinds.contains(&event.event_type))
            && asked.severity.as_ref().is_none_or(|wanted| {
                let severity = event.text("severity").unwrap_or_default();
                wanted.iter().any(|one| one.eq_ignore_ascii_case(severity))
            })
            && is(&asked.incident_id, &|id| facts::belongs_to(event, id))
            && is(&asked.source_ip, &|ip| facts::is_from(event, ip))
            && is(&asked.resource, &|name| facts::names(event, name))
            && (self.words.is_empty() || facts::says(event, &self.words))
    }
}
