//! What the router measures. Workers count, whoever collects reads.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::metrics::Histogram;
use opentelemetry::{KeyValue, global};
use signalbox_bus::Bus;
use signalbox_protocol::domain::Domain;
use signalbox_service::metrics::{About, Count, counter, gauge};

/// The scope of these metrics.
const SCOPE: &str = "signalbox.router";
/// The label of a domain.
const DOMAIN: &str = "signalbox.domain";
/// Bounds of the store latency's buckets, in seconds.
const STORE_BOUNDS: [f64; 12] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0,
];

const ROUTED: About = About {
    name: "signalbox.router.events.routed",
    unit: "{event}",
    text: "Events stored on TOPICS by this router",
};
const INVALID: About = About {
    name: "signalbox.router.events.invalid",
    unit: "{event}",
    text: "Events that the catalogue refuses",
};
const DEAD_LETTERS: About = About {
    name: "signalbox.router.dead_letters",
    unit: "{event}",
    text: "Refused events that DLQ has taken",
};
const DUPLICATES: About = About {
    name: "signalbox.router.events.duplicate",
    unit: "{event}",
    text: "Events found stored already and not stored again",
};
const REDELIVERED: About = About {
    name: "signalbox.router.events.redelivered",
    unit: "{event}",
    text: "Deliveries of events that this router held already",
};
const REFUSALS: About = About {
    name: "signalbox.router.stores.fenced",
    unit: "{attempt}",
    text: "Attempts to store that the fence refused, to be tried again",
};
const RETRIES: About = About {
    name: "signalbox.router.stores.failed",
    unit: "{attempt}",
    text: "Attempts to store that failed otherwise, to be tried again",
};
const HELD: About = About {
    name: "signalbox.router.events.held",
    unit: "{event}",
    text: "Events taken and not acknowledged yet",
};
const ASSIGNED: About = About {
    name: "signalbox.router.assigned",
    unit: "",
    text: "Whether this router works on the domain (1) or not (0)",
};
const STORE_DURATION: About = About {
    name: "signalbox.router.store.duration",
    unit: "s",
    text: "Time from the first attempt to store an event to its acknowledgement",
};

/// Picks one of a domain's numbers.
type Which = fn(&DomainCounts) -> &Count;

/// What is counted of one domain.
#[derive(Debug, Default)]
pub(crate) struct DomainCounts {
    /// Events stored.
    pub(crate) routed: Count,
    /// Events refused.
    pub(crate) invalid: Count,
    /// Refused events kept on DLQ.
    pub(crate) dead_letters: Count,
    /// Events that were stored before.
    pub(crate) duplicates: Count,
    /// Deliveries of held events.
    pub(crate) redelivered: Count,
    /// Attempts refused by the fence.
    pub(crate) fenced: Count,
    /// Attempts without success for other reasons.
    pub(crate) failed: Count,
    /// Events held now.
    pub(crate) held: Count,
    /// 1 while there is a worker.
    pub(crate) assigned: Count,
}

/// The router's metrics. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    domains: Arc<[DomainCounts; Domain::ALL.len()]>,
    store_duration: Histogram<f64>,
}

impl Metrics {
    /// Has the process's meter collect them.
    pub(crate) fn new() -> Self {
        let meter = global::meter(SCOPE);
        let domains: Arc<[DomainCounts; Domain::ALL.len()]> = Arc::default();
        let counters: [(About, Which); 7] = [
            (ROUTED, |counts| &counts.routed),
            (INVALID, |counts| &counts.invalid),
            (DEAD_LETTERS, |counts| &counts.dead_letters),
            (DUPLICATES, |counts| &counts.duplicates),
            (REDELIVERED, |counts| &counts.redelivered),
            (REFUSALS, |counts| &counts.fenced),
            (RETRIES, |counts| &counts.failed),
        ];
        for (about, which) in counters {
            let domains = Arc::clone(&domains);
            counter(&meter, about, move |observe| {
                for (domain, counts) in Domain::ALL.iter().zip(domains.iter()) {
                    observe(which(counts).get(), &[label(*domain)]);
                }
            });
        }
        let gauges: [(About, Which); 2] = [
            (HELD, |counts| &counts.held),
            (ASSIGNED, |counts| &counts.assigned),
        ];
        for (about, which) in gauges {
            let domains = Arc::clone(&domains);
            gauge(&meter, about, move |observe| {
                for (domain, counts) in Domain::ALL.iter().zip(domains.iter()) {
                    observe(which(counts).get(), &[label(*domain)]);
                }
            });
        }
        let store_duration = meter
            .f64_histogram(STORE_DURATION.name)
            .with_unit(STORE_DURATION.unit)
            .with_description(STORE_DURATION.text)
            .with_boundaries(STORE_BOUNDS.to_vec())
            .build();
        Self {
            domains,
            store_duration,
        }
    }

    /// Has the state of the connection collected as well.
    pub(crate) fn observe_bus(&self, bus: &Bus) {
        signalbox_bus::metrics::observe(&global::meter(SCOPE), bus, "router");
    }

    /// What is counted of a domain.
    pub(crate) fn of(&self, domain: Domain) -> &DomainCounts {
        &self.domains[domain as usize]
    }

    /// Notes how long an event took to be stored.
    pub(crate) fn stored_after(&self, time: Duration) {
        self.store_duration.record(time.as_secs_f64(), &[]);
    }
}

fn label(domain: Domain) -> KeyValue {
    KeyValue::new(DOMAIN, domain.token())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_domain_has_counts_of_its_own() {
        let metrics = Metrics::new();
        for domain in Domain::ALL {
            metrics.of(domain).routed.add(1);
        }
        assert!(
            metrics
                .domains
                .iter()
                .all(|counts| counts.routed.get() == 1)
        );
    }
}
