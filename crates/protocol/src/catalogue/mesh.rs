//! Entries for dialect `mesh`: the network, its consensus, its security and
//! its health. Types whose data the API leaves open have no checked fields.

use super::EventType;
use super::channel::Channel;
use super::field::{Field, Kind};
use super::route::Route;
use super::word::{MeshWord, Words};
use crate::domain::Domain;
use crate::event::Priority;

/// The `type` of frames on `network_events`.
const NETWORK: Words = Words::mesh(MeshWord {
    kind: "network_event",
});
/// The `type` of frames on `consensus_events`.
const CONSENSUS: Words = Words::mesh(MeshWord {
    kind: "consensus_event",
});
/// The `type` of frames on `security_events`.
const SECURITY: Words = Words::mesh(MeshWord {
    kind: "security_event",
});
/// The `type` of frames on `monitoring_events`.
const MONITORING: Words = Words::mesh(MeshWord {
    kind: "monitoring_event",
});

const fn network(
    name: &'static str,
    summary: &'static str,
    fields: &'static [Field],
    priority: Priority,
) -> EventType {
    EventType {
        domain: Domain::Network,
        name,
        summary,
        fields,
        route: Route::channel(Channel::NetworkEvents),
        source: "network_monitor",
        priority,
        words: NETWORK,
    }
}

const fn consensus(
    name: &'static str,
    summary: &'static str,
    fields: &'static [Field],
    priority: Priority,
) -> EventType {
    EventType {
        domain: Domain::Consensus,
        name,
        summary,
        fields,
        route: Route::channel(Channel::ConsensusEvents),
        source: "consensus_engine",
        priority,
        words: CONSENSUS,
    }
}

const fn security(
    name: &'static str,
    summary: &'static str,
    fields: &'static [Field],
    priority: Priority,
) -> EventType {
    EventType {
        domain: Domain::Security,
        name,
        summary,
        fields,
        route: Route::channel(Channel::SecurityEvents),
        source: "security_monitor",
        priority,
        words: SECURITY,
    }
}

const fn monitoring(
    name: &'static str,
    summary: &'static str,
    fields: &'static [Field],
    priority: Priority,
) -> EventType {
    EventType {
        domain: Domain::Monitoring,
        name,
        summary,
        fields,
        route: Route::channel(Channel::MonitoringEvents),
        source: "metrics_collector",
        priority,
        words: MONITORING,
    }
}

/// Every event type of the four domains.
pub const EVENTS: &[EventType] = &[
    network(
        "node_joined",
        "A node joined the mesh.",
        &[
            Field::required("node_id", Kind::Id),
            Field::optional("address", Kind::Text),
            Field::optional("timestamp", Kind::Time),
        ],
        Priority::Low,
    ),
    network("node_left", "A node left the mesh.", &[], Priority::Low),
    network(
        "network_partition",
        "The mesh fell into parts that do not reach each other.",
        &[],
        Priority::High,
    ),
    network(
        "consensus_reached",
        "The mesh agreed on something.",
        &[],
        Priority::Medium,
    ),
    consensus(
        "proposal_submitted",
        "A proposal was put to the vote.",
        &[],
        Priority::Medium,
    ),
    consensus(
        "consensus_phase",
        "A vote entered another phase.",
        &[],
        Priority::Low,
    ),
    consensus(
        "decision_executed",
        "What was decided has been carried out.",
        &[
            Field::required("proposal_id", Kind::Id),
            Field::required("decision", Kind::Object),
            Field::optional("executed_at", Kind::Time),
        ],
        Priority::Medium,
    ),
    consensus(
        "view_change",
        "Another node leads the votes.",
        &[],
        Priority::Medium,
    ),
    security(
        "intrusion_detected",
        "Someone broke in, or tried to.",
        &[
            Field::required("attack_type", Kind::Text),
            Field::optional("source_ip", Kind::Text),
            Field::optional("blocked", Kind::Flag),
            Field::optional("severity", Kind::Text),
        ],
        Priority::High,
    ),
    security(
        "attack_blocked",
        "An attack was fended off.",
        &[],
        Priority::High,
    ),
    security(
        "certificate_expired",
        "A node's certificate is no longer valid.",
        &[],
        Priority::Medium,
    ),
    security(
        "suspicious_activity",
        "Traffic looks unusual.",
        &[],
        Priority::Medium,
    ),
    monitoring(
        "metric_update",
        "A metric has a new value.",
        &[
            Field::required("metric", Kind::Text),
            Field::required("value", Kind::Number),
            Field::optional("threshold", Kind::Number),
            Field::optional("status", Kind::Text),
        ],
        Priority::Low,
    ),
    monitoring("alert_raised", "A limit was passed.", &[], Priority::High),
    monitoring(
        "performance_degradation",
        "Something became slower.",
        &[],
        Priority::Medium,
    ),
    monitoring(
        "resource_exhausted",
        "Something has run out.",
        &[],
        Priority::High,
    ),
];
