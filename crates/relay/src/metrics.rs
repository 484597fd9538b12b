//! What the relay measures. Its tasks count, whoever collects reads.

use std::sync::Arc;

use opentelemetry::{KeyValue, global};
use signalbox_bus::Bus;
use signalbox_protocol::fleet::Shard;
use signalbox_service::metrics::{About, Count, counter, gauge};

/// The scope of these metrics.
const SCOPE: &str = "signalbox.relay";
/// The label of a shard.
const SHARD: &str = "signalbox.shard";

const ACCEPTED: About = About {
    name: "signalbox.relay.commands.accepted",
    unit: "{command}",
    text: "Commands that were accepted and stored",
};
const REFUSED: About = About {
    name: "signalbox.relay.commands.refused",
    unit: "{command}",
    text: "Requests for commands that were turned down",
};
const ENDED: About = About {
    name: "signalbox.relay.commands.ended",
    unit: "{command}",
    text: "Commands whose end is in their logs",
};
const RECORDS: About = About {
    name: "signalbox.relay.log.records",
    unit: "{record}",
    text: "Records appended to the logs of commands",
};
const OUTPUT: About = About {
    name: "signalbox.relay.output.stored",
    unit: "By",
    text: "Output of commands appended to their logs",
};
const REPEATED: About = About {
    name: "signalbox.relay.output.repeated",
    unit: "By",
    text: "Output of commands that came again and was dropped",
};
const PUSHED_BACK: About = About {
    name: "signalbox.relay.output.pushed_back",
    unit: "{report}",
    text: "Reports of output that there was no memory for, to come again",
};
const DELIVERIES: About = About {
    name: "signalbox.relay.deliveries",
    unit: "{delivery}",
    text: "What agents were told through their gateways",
};
const REDELIVERIES: About = About {
    name: "signalbox.relay.deliveries.repeated",
    unit: "{attempt}",
    text: "Attempts to tell an agent something that were not answered",
};
const FENCED: About = About {
    name: "signalbox.relay.fenced",
    unit: "{agent}",
    text: "Agents that this relay has left because another holds them",
};
const HELD: About = About {
    name: "signalbox.relay.assigned",
    unit: "",
    text: "Whether this relay holds the shard (1) or not (0)",
};
const AGENTS: About = About {
    name: "signalbox.relay.agents",
    unit: "{agent}",
    text: "Agents that are connected",
};
const WAITING: About = About {
    name: "signalbox.relay.commands.waiting",
    unit: "{command}",
    text: "Commands that wait for an agent",
};
const RUNNING: About = About {
    name: "signalbox.relay.commands.running",
    unit: "{command}",
    text: "Commands that agents have, and whose end is not in their logs",
};

/// What is counted.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Commands accepted.
    pub(crate) accepted: Count,
    /// Commands turned down.
    pub(crate) refused: Count,
    /// Commands over.
    pub(crate) ended: Count,
    /// Records appended.
    pub(crate) records: Count,
    /// Bytes of output appended.
    pub(crate) output_bytes: Count,
    /// Bytes of output dropped as known.
    pub(crate) repeated_bytes: Count,
    /// Reports of output put off.
    pub(crate) pushed_back: Count,
    /// Things told.
    pub(crate) deliveries: Count,
    /// Attempts without an answer.
    pub(crate) redeliveries: Count,
    /// Agents left to others.
    pub(crate) fenced: Count,
    shards: [ShardCounts; Shard::COUNT],
}

/// How one shard is.
#[derive(Debug, Default)]
pub(crate) struct ShardCounts {
    /// 1 while it is held.
    pub(crate) held: Count,
    /// Agents connected.
    pub(crate) agents: Count,
    /// Commands in queues.
    pub(crate) waiting: Count,
    /// Commands beyond them.
    pub(crate) running: Count,
}

/// The relay's metrics. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Metrics(Arc<Counts>);

impl std::ops::Deref for Metrics {
    type Target = Counts;

    fn deref(&self) -> &Counts {
        &self.0
    }
}

/// Picks one of the numbers.
type Which = fn(&Counts) -> &Count;
/// Picks one of a shard's numbers.
type WhichOfShard = fn(&ShardCounts) -> &Count;

impl Metrics {
    /// Has the process's meter collect them.
    pub(crate) fn new() -> Self {
        let meter = global::meter(SCOPE);
        let metrics = Self(Arc::default());
        let counters: [(About, Which); 10] = [
            (ACCEPTED, |counts| &counts.accepted),
            (REFUSED, |counts| &counts.refused),
            (ENDED, |counts| &counts.ended),
            (RECORDS, |counts| &counts.records),
            (OUTPUT, |counts| &counts.output_bytes),
            (REPEATED, |counts| &counts.repeated_bytes),
            (PUSHED_BACK, |counts| &counts.pushed_back),
            (DELIVERIES, |counts| &counts.deliveries),
            (REDELIVERIES, |counts| &counts.redeliveries),
            (FENCED, |counts| &counts.fenced),
        ];
        for (about, which) in counters {
            let counts = Arc::clone(&metrics.0);
            counter(&meter, about, move |observe| {
                observe(which(&counts).get(), &[]);
            });
        }
        let gauges: [(About, WhichOfShard); 4] = [
            (HELD, |counts| &counts.held),
            (AGENTS, |counts| &counts.agents),
            (WAITING, |counts| &counts.waiting),
            (RUNNING, |counts| &counts.running),
        ];
        for (about, which) in gauges {
            let counts = Arc::clone(&metrics.0);
            gauge(&meter, about, move |observe| {
                for (shard, counts) in Shard::all().zip(&counts.shards) {
                    let label = KeyValue::new(SHARD, shard.to_string());
                    observe(which(counts).get(), &[label]);
                }
            });
        }
        metrics
    }

    /// Has the state of the connection collected as well.
    pub(crate) fn observe_bus(bus: &Bus) {
        signalbox_bus::metrics::observe(&global::meter(SCOPE), bus, "relay");
    }

    /// What is counted of a shard.
    pub(crate) fn of(&self, shard: Shard) -> &ShardCounts {
        &self.0.shards[usize::from(shard.number())]
    }
}
