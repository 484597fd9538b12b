//! Every metric of the gateway by name, read from the counts of `counts`
//! whenever somebody collects.

use std::sync::Arc;

use opentelemetry::metrics::Meter;
use opentelemetry::{KeyValue, global};
use signalbox_bus::Bus;
use signalbox_protocol::Dialect;
use signalbox_service::metrics::{About, Count, Observe, counter, gauge};

use crate::authority::Authority;
use crate::chat::Chats;
use crate::counts::{End, FeedCounts, RefusalCounts, ShardCounts, Source};

/// The scope of these metrics.
const SCOPE: &str = "signalbox.gateway";
/// The label of a dialect.
const DIALECT: &str = "signalbox.dialect";
/// What a millisecond is in seconds.
const MILLISECOND: f64 = 1e-3;

const CONNECTIONS: About = About {
    name: "signalbox.gateway.connections",
    unit: "{connection}",
    text: "Open connections",
};
const OPENED: About = About {
    name: "signalbox.gateway.connections.opened",
    unit: "{connection}",
    text: "Connections that were opened",
};
const ENDED: About = About {
    name: "signalbox.gateway.connections.ended",
    unit: "{connection}",
    text: "Connections that ended, by who or what ended them",
};
const REFUSED: About = About {
    name: "signalbox.gateway.connections.refused",
    unit: "{connection}",
    text: "Connections refused at the door",
};
const SUBSCRIPTIONS: About = About {
    name: "signalbox.gateway.subscriptions",
    unit: "{subscription}",
    text: "Subscriptions of open connections",
};
const FILTERS: About = About {
    name: "signalbox.gateway.filters",
    unit: "{filter}",
    text: "Distinct filters in use",
};
const RECEIVED: About = About {
    name: "signalbox.gateway.events.received",
    unit: "{event}",
    text: "Events read from TOPICS",
};
const SKIPPED: About = About {
    name: "signalbox.gateway.events.skipped",
    unit: "{event}",
    text: "Events of types that this version does not know",
};
const LARGE: About = About {
    name: "signalbox.gateway.events.large",
    unit: "{event}",
    text: "Events whose payload has more than 100 KB",
};
const MATCHED: About = About {
    name: "signalbox.gateway.events.matched",
    unit: "{event}",
    text: "Times that a live event was for a connection",
};
const FILTERED: About = About {
    name: "signalbox.gateway.events.filtered",
    unit: "{event}",
    text: "Times that a filter kept a live event from a subscription",
};
const DELIVERED: About = About {
    name: "signalbox.gateway.events.delivered",
    unit: "{event}",
    text: "Frames of live events that sockets took at once (written) or that had to wait (queued)",
};
const DROPPED: About = About {
    name: "signalbox.gateway.events.dropped",
    unit: "{event}",
    text: "Frames of live events for connections that were closing or too slow",
};
const ENCODED: About = About {
    name: "signalbox.gateway.events.encoded",
    unit: "{event}",
    text: "Times that an event was written in some encoding",
};
const EVALUATED: About = About {
    name: "signalbox.gateway.filters.evaluated",
    unit: "{evaluation}",
    text: "Times that a filter was evaluated on an event",
};
const BYTES: About = About {
    name: "signalbox.gateway.sent",
    unit: "By",
    text: "Bytes that the sockets of clients took",
};
const QUEUED_BYTES: About = About {
    name: "signalbox.gateway.queue.size",
    unit: "By",
    text: "Bytes that wait for the sockets of clients",
};
const BEHIND: About = About {
    name: "signalbox.gateway.queue.connections",
    unit: "{connection}",
    text: "Connections that something waits for",
};
const QUEUE_AGE: About = About {
    name: "signalbox.gateway.queue.age",
    unit: "s",
    text: "How long the connection that is behind the longest has been so",
};
const REPLAYS: About = About {
    name: "signalbox.gateway.replays",
    unit: "{replay}",
    text: "Times that a part of what a subscription had missed was sent",
};
const REPLAYED: About = About {
    name: "signalbox.gateway.events.replayed",
    unit: "{event}",
    text: "Events sent to subscriptions that had missed them",
};
const RING_EVENTS: About = About {
    name: "signalbox.gateway.memory.events",
    unit: "{event}",
    text: "Recent events held in memory, by all shards together",
};
const RING_BYTES: About = About {
    name: "signalbox.gateway.memory.size",
    unit: "By",
    text: "About what they take in memory",
};
const LAG: About = About {
    name: "signalbox.gateway.reader.lag",
    unit: "{event}",
    text: "Events that TOPICS had behind the last one read",
};
const CHAT_USERS: About = About {
    name: "signalbox.gateway.chats.users",
    unit: "{user}",
    text: "Users whose chats are followed here",
};
const VERDICTS: About = About {
    name: "signalbox.gateway.authentications",
    unit: "{authentication}",
    text: "Credentials checked, by verdict",
};

/// What a number is told apart by.
type Labels = Vec<KeyValue>;
/// Reads a number of a shard.
type Read = Box<dyn Fn(&ShardCounts) -> u64 + Send + Sync>;

/// The gateway's numbers.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// One for each shard.
    pub(crate) shards: Vec<Arc<ShardCounts>>,
    pub(crate) feed: FeedCounts,
    pub(crate) refusals: RefusalCounts,
}

impl Metrics {
    /// Numbers for so many shards, collected by the process's meter.
    pub(crate) fn new(shards: usize) -> Arc<Self> {
        let metrics = Arc::new(Self {
            shards: (0..shards).map(|_| Arc::default()).collect(),
            feed: FeedCounts::default(),
            refusals: RefusalCounts::default(),
        });
        let meter = global::meter(SCOPE);
        metrics.observe_connections(&meter);
        metrics.observe_events(&meter);
        metrics.observe_queues(&meter);
        metrics.observe_feed(&meter);
        metrics
    }

    /// Has the state of a connection to the bus collected as well.
    pub(crate) fn observe_bus(bus: &Bus, name: &'static str) {
        signalbox_bus::metrics::observe(&global::meter(SCOPE), bus, name);
    }

    /// Has the number of users whose chats are followed collected as well.
    pub(crate) fn observe_chats(chats: &Arc<Chats>) {
        let chats = Arc::clone(chats);
        gauge(&global::meter(SCOPE), CHAT_USERS, move |observe| {
            observe(chats.followed() as u64, &[]);
        });
    }

    /// Has the verdicts on credentials collected as well.
    pub(crate) fn observe_authority(authority: &Arc<Authority>) {
        let authority = Arc::clone(authority);
        let labels = ["accepted", "refused", "unavailable"].map(outcome);
        counter(&global::meter(SCOPE), VERDICTS, move |observe| {
            let counts = authority.counts();
            let numbers = [&counts.accepted, &counts.refused, &counts.unavailable];
            for (number, label) in numbers.into_iter().zip(&labels) {
                observe(number.get(), label);
            }
        });
    }

    fn observe_connections(self: &Arc<Self>, meter: &Meter) {
        let by_dialect = |which: fn(&ShardCounts) -> &[Count]| {
            Dialect::ALL
                .into_iter()
                .map(|dialect| (label(DIALECT, dialect.name()), at(which, dialect as usize)))
                .collect()
        };
        self.level(meter, CONNECTIONS, by_dialect(|shard| &shard.open));
        self.total(meter, OPENED, by_dialect(|shard| &shard.opened));
        let by_end = End::ALL
            .into_iter()
            .map(|end| {
                let of = label("by", end.name());
                (of, at(|shard| &shard.ended, end as usize))
            })
            .collect();
        self.total(meter, ENDED, by_end);
        self.level(meter, SUBSCRIPTIONS, alone(|shard| &shard.subscriptions));
        self.level(meter, FILTERS, alone(|shard| &shard.filters));
        let metrics = Arc::clone(self);
        let reasons = ["full", "connect_rate", "unauthenticated"].map(|it| label("reason", it));
        counter(meter, REFUSED, move |observe| {
            let RefusalCounts {
                full,
                too_fast,
                unauthenticated,
            } = &metrics.refusals;
            for (number, reason) in [full, too_fast, unauthenticated].into_iter().zip(&reasons) {
                observe(number.get(), reason);
            }
        });
    }

    fn observe_events(self: &Arc<Self>, meter: &Meter) {
        self.total(meter, MATCHED, alone(|shard| &shard.matched));
        self.total(meter, FILTERED, alone(|shard| &shard.filtered));
        self.total(meter, EVALUATED, alone(|shard| &shard.evaluated));
        self.total(meter, ENCODED, alone(|shard| &shard.encoded));
        let mut delivered = Vec::new();
        for (name, which) in [
            (
                "written",
                (|shard| &shard.written) as fn(&ShardCounts) -> &Count,
            ),
            ("queued", |shard| &shard.queued),
        ] {
            let read: Read = Box::new(move |shard| which(shard).get());
            delivered.push((outcome(name), read));
        }
        self.total(meter, DELIVERED, delivered);
        self.total(meter, DROPPED, alone(|shard| &shard.dropped));
        let by_source = |which: fn(&ShardCounts) -> &[Count]| {
            Source::ALL
                .into_iter()
                .map(|source| (label("source", source.name()), at(which, source as usize)))
                .collect()
        };
        self.total(meter, REPLAYS, by_source(|shard| &shard.replays));
        self.total(meter, REPLAYED, by_source(|shard| &shard.replayed));
        self.level(meter, RING_EVENTS, alone(|shard| &shard.ring_events));
        self.level(meter, RING_BYTES, alone(|shard| &shard.ring_bytes));
    }

    fn observe_queues(self: &Arc<Self>, meter: &Meter) {
        self.total(meter, BYTES, alone(|shard| &shard.bytes_sent));
        self.level(meter, QUEUED_BYTES, alone(|shard| &shard.queued_bytes));
        self.level(meter, BEHIND, alone(|shard| &shard.behind));
        let metrics = Arc::clone(self);
        meter
            .f64_observable_gauge(QUEUE_AGE.name)
            .with_unit(QUEUE_AGE.unit)
            .with_description(QUEUE_AGE.text)
            .with_callback(move |observer| {
                let ages = metrics.shards.iter().map(|shard| shard.queue_age_ms.get());
                observer.observe(ages.max().unwrap_or(0) as f64 * MILLISECOND, &[]);
            })
            .build();
    }

    fn observe_feed(self: &Arc<Self>, meter: &Meter) {
        let metrics = Arc::clone(self);
        counter(meter, RECEIVED, move |observe| {
            observe(metrics.feed.received.get(), &[]);
        });
        let metrics = Arc::clone(self);
        counter(meter, SKIPPED, move |observe| {
            observe(metrics.feed.skipped.get(), &[]);
        });
        let metrics = Arc::clone(self);
        counter(meter, LARGE, move |observe| {
            observe(metrics.feed.large.get(), &[]);
        });
        let metrics = Arc::clone(self);
        gauge(meter, LAG, move |observe| {
            observe(metrics.feed.lag.get(), &[]);
        });
    }

    /// Has the sums of numbers that only grow collected, over all shards.
    fn total(self: &Arc<Self>, meter: &Meter, about: About, reads: Vec<(Labels, Read)>) {
        let metrics = Arc::clone(self);
        counter(meter, about, move |observe| metrics.sums(&reads, observe));
    }

    /// Has the sums of numbers that go up and down collected, over all shards.
    fn level(self: &Arc<Self>, meter: &Meter, about: About, reads: Vec<(Labels, Read)>) {
        let metrics = Arc::clone(self);
        gauge(meter, about, move |observe| metrics.sums(&reads, observe));
    }

    fn sums(&self, reads: &[(Labels, Read)], observe: Observe<'_>) {
        for (labels, read) in reads {
            let sum = self.shards.iter().map(|shard| read(shard)).sum();
            observe(sum, labels);
        }
    }
}

fn label(key: &'static str, value: &'static str) -> Labels {
    vec![KeyValue::new(key, value)]
}

fn outcome(name: &'static str) -> Labels {
    label("outcome", name)
}

/// Reads one of a row of numbers.
fn at(which: fn(&ShardCounts) -> &[Count], place: usize) -> Read {
    Box::new(move |shard| which(shard).get(place).map_or(0, Count::get))
}

/// A number without labels.
fn alone(which: fn(&ShardCounts) -> &Count) -> Vec<(Labels, Read)> {
    vec![(Vec::new(), Box::new(move |shard| which(shard).get()))]
}
