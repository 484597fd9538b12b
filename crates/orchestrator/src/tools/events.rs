//! Tools over the event log: what happened, in which order, and what belongs
//! together. They read TOPICS from its end backwards, within bounds, and say how
//! far back they looked. A user is shown what is on the channels that it may read
//! and addressed to nobody in particular; every result names event ids.

mod arguments;
mod facts;
mod related;
mod search;
mod show;
mod timeline;
mod walk;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use signalbox_bus::{Bus, BusError};
use signalbox_protocol::catalogue::Channel;
use tracing::warn;

use self::walk::Walk;
use super::config::{BuiltIn, Definition};
use super::registry::Supplies;
use super::{Call, Limits, Outcome, Runner, Running};

/// What one call may take where nothing else is said.
const LIMITS: Limits = Limits {
    time: Duration::from_secs(20),
    result_bytes: super::DEFAULT_RESULT_BYTES,
};

/// `search_events`.
pub(super) const SEARCH: BuiltIn = BuiltIn {
    name: "search_events",
    description: "Searches the log of events that the user may read. All filters that are given \
        must match. Gives matching events with their ids, newest first unless order is oldest, \
        and says how far back it looked: with complete false there may be older matches.",
    parameters: include_str!("events/search.schema.json"),
    limits: LIMITS,
    approval: false,
    permission: None,
    addresses_agents: false,
    runner: |definition, supplies| EventTool::runner(definition, supplies, Job::Search),
};

/// `event_timeline`.
pub(super) const TIMELINE: BuiltIn = BuiltIn {
    name: "event_timeline",
    description: "Gives the events that name an incident, a resource or an address (any of those \
        given), in the order in which they happened: id, time, type and one line for each.",
    parameters: include_str!("events/timeline.schema.json"),
    limits: LIMITS,
    approval: false,
    permission: None,
    addresses_agents: false,
    runner: |definition, supplies| EventTool::runner(definition, supplies, Job::Timeline),
};

/// `related_incidents`.
pub(super) const RELATED: BuiltIn = BuiltIn {
    name: "related_incidents",
    description: "Finds other incidents that share addresses, hosts or users with an incident, \
        and names the events of both that show it.",
    parameters: include_str!("events/related.schema.json"),
    limits: LIMITS,
    approval: false,
    permission: None,
    addresses_agents: false,
    runner: |definition, supplies| EventTool::runner(definition, supplies, Job::Related),
};

/// What is done with the log.
#[derive(Clone, Copy, Debug)]
enum Job {
    Search,
    Timeline,
    Related,
}

/// One of the tools.
#[derive(Clone)]
struct EventTool {
    job: Job,
    bus: Bus,
    result_bytes: usize,
}

impl fmt::Debug for EventTool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EventTool").field(&self.job).finish()
    }
}

/// Why there is no result.
#[derive(Debug)]
enum Refusal {
    /// The arguments cannot be meant, in a sentence.
    Arguments(String),
    /// The log cannot be read.
    Bus(BusError),
}

impl From<BusError> for Refusal {
    fn from(error: BusError) -> Self {
        Self::Bus(error)
    }
}

impl EventTool {
    fn runner(definition: &Definition, supplies: &Supplies, job: Job) -> Arc<dyn Runner> {
        Arc::new(Self {
            job,
            bus: supplies.bus.clone(),
            result_bytes: definition.limits.result_bytes,
        })
    }

    async fn look(self, call: Call) -> Outcome {
        let channels: Vec<Channel> = call
            .channels
            .iter()
            .filter_map(|name| name.parse().ok())
            // Chats are no events.
            .filter(|channel| *channel != Channel::AgentChat)
            .collect();
        if channels.is_empty() {
            return Outcome::Error("the user who asks may read no events".to_owned());
        }
        let walk = Walk::new(&self.bus, channels, call.deadline);
        let result = tokio::select! {
            result = self.result(&call.arguments, walk) => result,
            () = call.cancel.wait() => return Outcome::Cancelled,
        };
        match result {
            Ok(value) => Outcome::Value(value),
            Err(Refusal::Arguments(sentence)) => Outcome::Error(sentence),
            Err(Refusal::Bus(cause)) => {
                warn!(%cause, tool = %call.name, "event log not read");
                Outcome::Error("the event log cannot be read now".to_owned())
            }
        }
    }

    async fn result(&self, arguments: &Value, walk: Walk<'_>) -> Result<Value, Refusal> {
        match self.job {
            Job::Search => search::search(arguments, walk, self.result_bytes).await,
            Job::Timeline => timeline::timeline(arguments, walk, self.result_bytes).await,
            Job::Related => related::related(arguments, walk, self.result_bytes).await,
        }
    }
}

impl Runner for EventTool {
    fn run(&self, call: Call) -> Running {
        Box::pin(self.clone().look(call))
    }

    /// Nothing is changed by looking twice.
    fn adopt(&self, call: Call) -> Option<Running> {
        Some(self.run(call))
    }
}

#[cfg(test)]
mod tests;
