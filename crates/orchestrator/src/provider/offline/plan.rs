//! What is to be looked up next: which tools are asked, for what, and the sentence
//! that tells people so. Three rounds at most: what was asked about, then what the
//! rounds before have found; whatever has failed once may be asked once more.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::super::{Request, Tool, ToolCall};
use super::Job;
use super::case::{self, Case};
use super::related::Related;
use super::rounds::{Lookup, Outcome, Rounds};

/// Finds events by what they name.
pub(super) const SEARCH: &str = "search_events";
/// Gives the events of a case in order.
pub(super) const TIMELINE: &str = "event_timeline";
/// Gives the incidents that share something with one.
pub(super) const RELATED: &str = "related_incidents";
/// Rounds of an investigation.
const ROUNDS: usize = 3;
/// Calls of one round.
const MAX_CALLS: usize = 6;
/// Names of one kind that are searched for in one round.
const MAX_NAMES: usize = 2;
/// Events that are asked for at once.
const LIMIT: u64 = 50;

/// What a lookup is to be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum About<'a> {
    /// An incident or an investigation.
    Case(&'a str),
    /// An address.
    Address(&'a str),
    /// A host.
    Host(&'a str),
    /// The latest alerts, whatever they are about.
    Latest,
}

/// A round of calls.
#[derive(Debug)]
pub(super) struct Plan {
    /// What is looked up and why, for people.
    pub(super) words: String,
    /// The calls, at least one.
    pub(super) calls: Vec<ToolCall>,
}

/// The next round, if there is to be one.
pub(super) fn next(
    job: Job,
    request: &Request,
    rounds: &Rounds<'_>,
    case: &Case<'_>,
) -> Option<Plan> {
    let mut round = Round::new(request, rounds);
    match (job, rounds.count) {
        (Job::Investigate, 0) => round.investigate(case),
        (Job::Investigate, count) if count < ROUNDS => round.follow_up(case),
        (Job::Classify | Job::Advise, 0) => round.search_once(case),
        _ => {}
    }
    round.finished()
}

/// A round that is being made up.
struct Round<'r> {
    request: &'r Request,
    rounds: &'r Rounds<'r>,
    calls: Vec<ToolCall>,
    sentences: Vec<String>,
}

impl<'r> Round<'r> {
    const fn new(request: &'r Request, rounds: &'r Rounds<'r>) -> Self {
        Self {
            request,
            rounds,
            calls: Vec::new(),
            sentences: Vec::new(),
        }
    }

    fn finished(self) -> Option<Plan> {
        (!self.calls.is_empty()).then(|| Plan {
            words: self.sentences.join(" "),
            calls: self.calls,
        })
    }

    /// What was asked about.
    fn investigate(&mut self, case: &Case<'_>) {
        let incident = main_case(case);
        let (addresses, hosts) = named(case);
        if let Some(incident) = incident {
            let about = About::Case(incident);
            let mut parts = Vec::new();
            if self.ask(TIMELINE, about) {
                parts.push("what happened in it and in which order");
            }
            // Investigations share nothing by themselves.
            if !is_investigation(incident) && self.ask(RELATED, about) {
                parts.push("which other incidents share something with it");
            }
            if parts.is_empty() && self.ask(SEARCH, about) {
                parts.push("what the log has about it");
            }
            self.say(&parts, &format!("I look up {incident}"));
        }
        let mut searched = Vec::new();
        for about in addresses.iter().chain(&hosts) {
            // Without an incident, what happened there is the story.
            let tool = if incident.is_none() && self.has(TIMELINE) {
                TIMELINE
            } else {
                SEARCH
            };
            if self.ask(tool, *about) {
                searched.push(about.name());
            }
        }
        if !searched.is_empty() {
            let searched = searched.join(", ");
            self.sentences.push(format!(
                "I search the log for {searched}, since you name it."
            ));
        }
        if incident.is_none()
            && addresses.is_empty()
            && hosts.is_empty()
            && self.ask(SEARCH, About::Latest)
        {
            self.sentences.push(
                "You name no incident, address or host, so I look at the latest alerts.".to_owned(),
            );
        }
    }

    /// What the rounds before have found, and once more what has failed.
    fn follow_up(&mut self, case: &Case<'_>) {
        self.ask_again();
        let is_short = case.own.iter().any(|event| case::is_short(event));
        if let Some(incident) = main_case(case).filter(|_| is_short)
            && self.ask(SEARCH, About::Case(incident))
        {
            self.sentences.push(format!(
                "The timeline has a line for each event, so I read what {incident} has in full."
            ));
        }
        let sources = case.sources();
        let hosts = case.hosts();
        let mut searched = Vec::new();
        let sources = sources.iter().take(MAX_NAMES);
        let hosts = hosts.iter().take(MAX_NAMES);
        let names: Vec<About<'_>> = sources
            .map(|name| About::Address(name))
            .chain(hosts.map(|name| About::Host(name)))
            .collect();
        for about in names {
            if self.ask(SEARCH, about) {
                searched.push(about.name());
            }
        }
        if !searched.is_empty() {
            let searched = searched.join(", ");
            self.sentences.push(format!(
                "The events name {searched}, so I look for what else happened there."
            ));
        }
        let own: BTreeSet<&str> = case.subject.all().collect();
        let related = Related::of(self.rounds, case);
        for other in related
            .iter()
            .filter(|one| !own.contains(&*one.id))
            .take(MAX_NAMES)
        {
            if self.ask(TIMELINE, About::Case(&other.id)) {
                let why = match other.shares.as_slice() {
                    [] => "is said to be related".to_owned(),
                    shares => format!("shares {} with it", shares.join(", ")),
                };
                self.sentences.push(format!(
                    "{} {why}, so I read what happened there.",
                    other.id
                ));
            }
        }
    }

    /// One search, where nothing is known of what is named.
    fn search_once(&mut self, case: &Case<'_>) {
        if !case.own.is_empty() || case.subject.is_empty() {
            return;
        }
        let (addresses, hosts) = named(case);
        let incident = main_case(case).map(About::Case);
        let names: Vec<About<'_>> = incident
            .into_iter()
            .chain(addresses)
            .chain(hosts)
            .take(MAX_NAMES)
            .collect();
        let mut searched = Vec::new();
        for about in names {
            if self.ask(SEARCH, about) {
                searched.push(about.name());
            }
        }
        if !searched.is_empty() {
            let searched = searched.join(", ");
            self.sentences.push(format!(
                "I was given no event about {searched}, so I search the log."
            ));
        }
    }

    /// Asks once more for what has failed and may do better.
    fn ask_again(&mut self) {
        let rounds = self.rounds;
        for lookup in &rounds.lookups {
            let Outcome::Failed { why, passing: true } = &lookup.outcome else {
                continue;
            };
            let is_same = |other: &&Lookup<'_>| {
                other.name == lookup.name && other.arguments == lookup.arguments
            };
            let times = rounds.lookups.iter().filter(is_same).count();
            if times > 1
                || !lookup.arguments.is_object()
                || !self.push(lookup.name, lookup.arguments.clone())
            {
                continue;
            }
            self.sentences.push(format!(
                "{} about {} gave nothing ({why}) [call {}], so I ask once more.",
                lookup.name,
                lookup.about(),
                lookup.number
            ));
        }
    }

    fn say(&mut self, parts: &[&str], opening: &str) {
        if !parts.is_empty() {
            self.sentences
                .push(format!("{opening}: {}.", parts.join(", and ")));
        }
    }

    fn tool(&self, name: &str) -> Option<&'r Tool> {
        self.request.tools.iter().find(|tool| tool.name == name)
    }

    fn has(&self, name: &str) -> bool {
        self.tool(name).is_some()
    }

    /// Asks a tool about something, unless it is not offered, cannot be asked that,
    /// or was asked it before.
    fn ask(&mut self, tool: &str, about: About<'_>) -> bool {
        let Some(offered) = self.tool(tool) else {
            return false;
        };
        let Some(arguments) = arguments(offered, about) else {
            return false;
        };
        let is_same = |lookup: &Lookup<'_>| lookup.name == tool && *lookup.arguments == arguments;
        !self.rounds.lookups.iter().any(is_same) && self.push(tool, arguments)
    }

    fn push(&mut self, tool: &str, arguments: Value) -> bool {
        let arguments = Ok(arguments);
        let mut asked = self.calls.iter();
        if self.calls.len() == MAX_CALLS
            || !self.has(tool)
            || asked.any(|call| call.name == tool && call.arguments == arguments)
        {
            return false;
        }
        self.calls.push(ToolCall {
            id: format!("lookup_{}_{}", self.rounds.count + 1, self.calls.len() + 1),
            name: tool.to_owned(),
            arguments,
        });
        true
    }
}

impl<'a> About<'a> {
    fn name(self) -> &'a str {
        match self {
            Self::Case(name) | Self::Address(name) | Self::Host(name) => name,
            Self::Latest => "the latest alerts",
        }
    }

    /// What a tool may call this, the best first.
    const fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Case(_) => &[
                "incident_id",
                "investigation_id",
                "case",
                "subject",
                "about",
                "entity",
                "query",
                "text",
                "contains",
                "id",
            ],
            Self::Address(_) => &[
                "source_ip",
                "address",
                "ip",
                "subject",
                "about",
                "entity",
                "resource",
                "query",
                "text",
                "contains",
            ],
            Self::Host(_) => &[
                "resource",
                "host",
                "resources",
                "affected_resources",
                "subject",
                "about",
                "entity",
                "query",
                "text",
                "contains",
            ],
            Self::Latest => &["event_types", "types", "event_type", "type"],
        }
    }
}

/// The arguments by which a tool is asked about something, as far as its schema
/// has words for that; `None` where it has none, or requires more.
fn arguments(tool: &Tool, about: About<'_>) -> Option<Value> {
    let properties = tool.parameters.get("properties")?.as_object()?;
    let mut arguments = Map::new();
    let wanted = match about {
        About::Latest => "threat.threat_alert",
        about => about.name(),
    };
    let mut keys = about.keys().iter().copied();
    // An investigation is not an incident where a tool has words for both.
    let key = keys.find(|key| {
        let is_other = is_investigation(wanted) && *key == "incident_id";
        properties.contains_key(*key) && !(is_other && properties.contains_key("investigation_id"))
    });
    if let Some(key) = key {
        arguments.insert(key.to_owned(), shaped(wanted, &properties[key])?);
    } else if about != About::Latest {
        return None;
    }
    for key in ["limit", "most", "max_events"] {
        if let Some(property) = properties.get(key) {
            let most = property.get("maximum").and_then(Value::as_u64);
            arguments.insert(
                key.to_owned(),
                json!(most.map_or(LIMIT, |most| most.min(LIMIT))),
            );
        }
    }
    let required = tool.parameters.get("required").and_then(Value::as_array);
    let mut required = required.into_iter().flatten().filter_map(Value::as_str);
    required
        .all(|key| arguments.contains_key(key))
        .then_some(Value::Object(arguments))
}

/// A word as a property wants it; `None` where it wants another one.
fn shaped(word: &str, property: &Value) -> Option<Value> {
    let is_list = property.get("type").and_then(Value::as_str) == Some("array");
    let of = match is_list {
        true => property.get("items").unwrap_or(&Value::Null),
        false => property,
    };
    let words = of.get("enum").and_then(Value::as_array);
    let short = word.rsplit('.').next().unwrap_or(word);
    let word = match words {
        None => word,
        Some(words) => [word, short]
            .into_iter()
            .find(|word| words.iter().any(|known| known == word))?,
    };
    Some(if is_list { json!([word]) } else { json!(word) })
}

/// The incident that is asked about, or failing one an investigation.
fn main_case<'c>(case: &'c Case<'_>) -> Option<&'c str> {
    let cases = || case.subject.cases.iter().map(String::as_str);
    let usable = || cases().filter(|name| case::is_name(name) && !name.starts_with("action-"));
    usable()
        .find(|name| !is_investigation(name))
        .or_else(|| usable().next())
}

fn is_investigation(case: &str) -> bool {
    case.starts_with("inv-")
}

/// The addresses and hosts that people named.
fn named<'c>(case: &'c Case<'_>) -> (Vec<About<'c>>, Vec<About<'c>>) {
    let names = || case.subject.things.iter().map(String::as_str);
    let addresses = names().filter(|name| name.parse::<std::net::IpAddr>().is_ok());
    let hosts = names().filter(|name| case::is_host(name));
    (
        addresses.take(MAX_NAMES).map(About::Address).collect(),
        hosts.take(MAX_NAMES).map(About::Host).collect(),
    )
}
