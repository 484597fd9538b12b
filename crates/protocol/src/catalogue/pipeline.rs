//! Entries for dialect `pipeline`: builds, scans, debugging, health and
//! structure of a CI/CD system, and what its users are told and do. Each
//! category has a channel of its own, since each needs another permission.

use super::EventType;
use super::channel::Channel;
use super::field::{Field, Kind};
use super::route::{Route, Slot};
use super::word::{Category, Words};
use crate::domain::Domain;
use crate::event::Priority;

/// An event for all who may see its category.
const fn shared(
    category: Category,
    channel: Channel,
    source: &'static str,
    name: &'static str,
    summary: &'static str,
    fields: &'static [Field],
    priority: Priority,
) -> EventType {
    EventType {
        domain: Domain::Pipeline,
        name,
        summary,
        fields,
        route: Route::channel(channel),
        source,
        priority,
        words: Words::pipeline(category),
    }
}

const fn pipeline(
    name: &'static str,
    summary: &'static str,
    fields: &'static [Field],
    priority: Priority,
) -> EventType {
    shared(
        Category::Pipeline,
        Channel::PipelineEvents,
        "pipeline_service",
        name,
        summary,
        fields,
        priority,
    )
}

const fn security(
    name: &'static str,
    summary: &'static str,
    fields: &'static [Field],
    priority: Priority,
) -> EventType {
    shared(
        Category::Security,
        Channel::PipelineSecurity,
        "security_scanner",
        name,
        summary,
        fields,
        priority,
    )
}

const fn debug(
    name: &'static str,
    summary: &'static str,
    fields: &'static [Field],
    priority: Priority,
) -> EventType {
    shared(
        Category::Debug,
        Channel::PipelineDebug,
        "debug_service",
        name,
        summary,
        fields,
        priority,
    )
}

const fn system(
    name: &'static str,
    summary: &'static str,
    fields: &'static [Field],
    priority: Priority,
) -> EventType {
    shared(
        Category::System,
        Channel::PipelineSystem,
        "system_monitor",
        name,
        summary,
        fields,
        priority,
    )
}

const PIPELINE: &[Field] = &[
    Field::required("pipelineId", Kind::Id),
    Field::required("pipeline", Kind::Object),
];
const EXECUTION: &[Field] = &[
    Field::required("executionId", Kind::Id),
    Field::required("pipelineId", Kind::Id),
    Field::required("execution", Kind::Object),
];
const VULNERABILITY: &[Field] = &[
    Field::required("vulnerabilityId", Kind::Id),
    Field::required("vulnerability", Kind::Object),
];
const SCAN: &[Field] = &[
    Field::required("scanId", Kind::Id),
    Field::required("scan", Kind::Object),
];
const SESSION: &[Field] = &[
    Field::required("sessionId", Kind::Id),
    Field::required("session", Kind::Object),
];
const PATCH_RESULT: &[Field] = &[
    Field::required("sessionId", Kind::Id),
    Field::required("patchId", Kind::Id),
    Field::required("result", Kind::Object),
];

/// Every event type of the domain.
pub const EVENTS: &[EventType] = &[
    pipeline(
        "pipeline_created",
        "A pipeline was set up.",
        PIPELINE,
        Priority::Low,
    ),
    pipeline(
        "pipeline_updated",
        "A pipeline's definition changed.",
        PIPELINE,
        Priority::Low,
    ),
    pipeline(
        "pipeline_deleted",
        "A pipeline is gone.",
        &[Field::required("pipelineId", Kind::Id)],
        Priority::Medium,
    ),
    pipeline(
        "pipeline_execution_started",
        "A pipeline began to run.",
        EXECUTION,
        Priority::Medium,
    ),
    pipeline(
        "pipeline_execution_updated",
        "A running pipeline moved on.",
        EXECUTION,
        Priority::Low,
    ),
    pipeline(
        "pipeline_execution_completed",
        "A run of a pipeline ended, well or not.",
        EXECUTION,
        Priority::Medium,
    ),
    security(
        "security_vulnerability_detected",
        "A scan found a vulnerability.",
        VULNERABILITY,
        Priority::High,
    ),
    security(
        "security_vulnerability_updated",
        "More is known of a vulnerability, or it was dealt with.",
        VULNERABILITY,
        Priority::Medium,
    ),
    security(
        "security_scan_started",
        "A scan began.",
        SCAN,
        Priority::Low,
    ),
    security(
        "security_scan_updated",
        "A scan moved on.",
        SCAN,
        Priority::Low,
    ),
    security(
        "security_scan_completed",
        "A scan ended.",
        SCAN,
        Priority::Medium,
    ),
    debug(
        "debug_session_created",
        "Someone began to look for a fault.",
        SESSION,
        Priority::Low,
    ),
    debug(
        "debug_session_updated",
        "A debugging session moved on.",
        SESSION,
        Priority::Low,
    ),
    debug(
        "debug_error_detected",
        "A debugging session came upon an error.",
        &[
            Field::required("sessionId", Kind::Id),
            Field::required("errorId", Kind::Id),
            Field::required("error", Kind::Object),
        ],
        Priority::High,
    ),
    debug(
        "debug_ml_classification",
        "A model says what kind of error it is.",
        &[
            Field::required("sessionId", Kind::Id),
            Field::required("errorId", Kind::Id),
            Field::required("classifications", Kind::Object),
        ],
        Priority::Low,
    ),
    debug(
        "debug_patch_generated",
        "There is a patch for an error.",
        &[
            Field::required("sessionId", Kind::Id),
            Field::required("patchId", Kind::Id),
            Field::required("patch", Kind::Object),
        ],
        Priority::Medium,
    ),
    debug(
        "debug_patch_applied",
        "A patch was applied.",
        PATCH_RESULT,
        Priority::Medium,
    ),
    debug(
        "debug_patch_rollback",
        "A patch was taken back.",
        PATCH_RESULT,
        Priority::High,
    ),
    system(
        "system_status_update",
        "A part of the system is in another state.",
        &[Field::required("status", Kind::Object)],
        Priority::Medium,
    ),
    system(
        "system_metrics_update",
        "Figures of the system changed.",
        &[Field::required("metrics", Kind::Object)],
        Priority::Low,
    ),
    system(
        "system_alert",
        "The system needs someone's attention.",
        &[
            Field::required("alertId", Kind::Id),
            Field::required("alert", Kind::Object),
        ],
        Priority::High,
    ),
    shared(
        Category::Architecture,
        Channel::PipelineArchitecture,
        "architecture_service",
        "architecture_diagram_update",
        "A diagram of the architecture was drawn anew.",
        &[
            Field::required("diagramId", Kind::Id),
            Field::required("diagram", Kind::Object),
        ],
        Priority::Low,
    ),
    EventType {
        domain: Domain::Pipeline,
        name: "user_notification",
        summary: "One user is told something.",
        fields: &[
            Field::required("userId", Kind::Id),
            Field::required("notification", Kind::Any),
        ],
        route: Route {
            channel: Channel::PipelineUserNotifications,
            object: Slot::Empty,
            user: Slot::Field("userId"),
        },
        source: "user_service",
        priority: Priority::Medium,
        words: Words::pipeline(Category::User),
    },
    shared(
        Category::User,
        Channel::PipelineUserActions,
        "user_service",
        "user_action",
        "A user did something, for administrators to see.",
        &[
            Field::required("userId", Kind::Id),
            Field::required("action", Kind::Any),
        ],
        Priority::Low,
    ),
];
