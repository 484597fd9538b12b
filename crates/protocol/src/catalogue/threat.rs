//! Entries for dialect `threat`: detections, investigations, metrics and
//! responses.

use super::EventType;
use super::channel::Channel;
use super::field::{Field, Kind};
use super::route::Route;
use super::word::{ThreatBody, ThreatWord, Words};
use crate::domain::Domain;
use crate::event::Priority;

/// `data` with nothing moved out of it.
const NESTED: ThreatBody = ThreatBody::Nested { lifted: &[] };

/// Every event type of the domain.
pub const EVENTS: &[EventType] = &[
    EventType {
        domain: Domain::Threat,
        name: "threat_alert",
        summary: "A threat was detected.",
        fields: &[
            Field::required("incident_id", Kind::Id),
            Field::required("threat_type", Kind::Text),
            Field::required("severity", Kind::Text),
            Field::optional("confidence", Kind::Number),
            Field::optional("source_ip", Kind::Text),
            Field::optional("affected_resources", Kind::Texts),
            Field::optional("ai_summary", Kind::Text),
            Field::optional("recommended_actions", Kind::Texts),
            Field::optional("auto_response_available", Kind::Flag),
        ],
        route: Route::channel(Channel::ThreatAlerts),
        source: "threat_detector",
        priority: Priority::High,
        words: Words::threat(ThreatWord {
            kind: "threat_alert",
            body: NESTED,
        }),
    },
    EventType {
        domain: Domain::Threat,
        name: "investigation_update",
        summary: "An investigation moved on.",
        fields: &[
            Field::required("investigation_id", Kind::Id),
            Field::required("progress", Kind::Number),
            Field::required("status", Kind::Text),
            Field::optional("current_activity", Kind::Text),
            Field::optional("evidence_collected", Kind::Number),
            Field::optional("tools_executed", Kind::Texts),
            Field::optional("estimated_completion", Kind::Text),
            Field::optional("findings_preview", Kind::Texts),
            Field::optional("findings", Kind::List),
            Field::optional("agent_type", Kind::Text),
            Field::optional("session_id", Kind::Text),
            Field::optional("answer", Kind::Number),
        ],
        route: Route::object(Channel::InvestigationProgress, "investigation_id"),
        source: "investigation_service",
        priority: Priority::Medium,
        words: Words::threat(ThreatWord {
            kind: "investigation_update",
            body: ThreatBody::Nested {
                lifted: &["investigation_id"],
            },
        }),
    },
    EventType {
        domain: Domain::Threat,
        name: "investigation_collaboration",
        summary: "A user joined or left an investigation.",
        fields: &[
            Field::required("investigation_id", Kind::Id),
            Field::required("event", Kind::OneOf(&["USER_JOINED", "USER_LEFT"])),
            Field::required("user", Kind::Object),
        ],
        route: Route::object(Channel::InvestigationProgress, "investigation_id"),
        source: "investigation_service",
        priority: Priority::Low,
        words: Words::threat(ThreatWord {
            kind: "investigation_collaboration",
            body: ThreatBody::Flat {
                fields: &["investigation_id", "event", "user"],
            },
        }),
    },
    EventType {
        domain: Domain::Threat,
        name: "investigation_note_added",
        summary: "A user added a note to an investigation.",
        fields: &[
            Field::required("investigation_id", Kind::Id),
            Field::required("note", Kind::Object),
        ],
        route: Route::object(Channel::InvestigationProgress, "investigation_id"),
        source: "investigation_service",
        priority: Priority::Low,
        words: Words::threat(ThreatWord {
            kind: "investigation_note_added",
            body: ThreatBody::Flat {
                fields: &["investigation_id", "note"],
            },
        }),
    },
    EventType {
        domain: Domain::Threat,
        name: "metrics_update",
        summary: "Figures of the detection system changed; each key is a metric.",
        fields: &[],
        route: Route::channel(Channel::SystemMetrics),
        source: "metrics_collector",
        priority: Priority::Low,
        words: Words::threat(ThreatWord {
            kind: "metrics_update",
            body: NESTED,
        }),
    },
    EventType {
        domain: Domain::Threat,
        name: "action_update",
        summary: "A response action changed its state.",
        fields: &[
            Field::required("action_id", Kind::Id),
            Field::required("action_type", Kind::Text),
            Field::required("status", Kind::Text),
            Field::optional("incident_id", Kind::Text),
            Field::optional("progress", Kind::Number),
            Field::optional("target_resource", Kind::Text),
            Field::optional("estimated_completion", Kind::Text),
            Field::optional("execution_log", Kind::Texts),
            Field::optional("tool_name", Kind::Text),
            Field::optional("arguments", Kind::Object),
            Field::optional("arguments_hash", Kind::Text),
            Field::optional("requested_by", Kind::Text),
            Field::optional("session_id", Kind::Text),
            Field::optional("answer", Kind::Number),
            Field::optional("tool_call", Kind::Number),
            Field::optional("expires_at", Kind::Time),
        ],
        route: Route::object(Channel::ResponseActions, "action_id"),
        source: "response_service",
        priority: Priority::High,
        words: Words::threat(ThreatWord {
            kind: "action_update",
            body: NESTED,
        }),
    },
    EventType {
        domain: Domain::Threat,
        name: "action_decided",
        summary: "A user approved or rejected a response action.",
        fields: &[
            Field::required("action_id", Kind::Id),
            Field::required("decision", Kind::OneOf(&["approve", "reject"])),
            Field::required("decided_by", Kind::Text),
            Field::optional("action_type", Kind::Text),
            Field::optional("reason", Kind::Text),
            Field::optional("arguments_hash", Kind::Text),
        ],
        route: Route::object(Channel::ResponseActions, "action_id"),
        source: "response_service",
        priority: Priority::High,
        words: Words::threat(ThreatWord {
            kind: "action_decided",
            body: NESTED,
        }),
    },
];
