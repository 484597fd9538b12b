//! Entries for dialect `workspace`: projects, agents, workflows, pull
//! requests, issues and what models say of them.
//!
//! An event goes to the rooms of the ids that its data has; a room whose id is
//! absent or null is left out, and what is for no project is for everyone
//! where the domain says so. Types whose data the API leaves open have the
//! fields of their domain, and just the id that routes them is required.

use super::EventType;
use super::channel::Channel;
use super::field::{Field, Kind};
use super::route::{Route, Slot};
use super::word::Words;
use crate::domain::Domain;
use crate::event::Priority;

/// What an agent may be.
const AGENT_STATUS: Kind = Kind::OneOf(&["online", "offline", "busy", "idle", "error"]);
/// What a workflow may be.
const WORKFLOW_STATUS: Kind =
    Kind::OneOf(&["pending", "running", "completed", "failed", "cancelled"]);
/// What an issue may be.
const ISSUE_STATUS: Kind = Kind::OneOf(&["open", "in_progress", "closed", "blocked"]);
/// How urgent an issue may be.
const ISSUE_PRIORITY: Kind = Kind::OneOf(&["low", "medium", "high", "critical"]);
/// What a suggestion may be for.
const AI_TARGET: Kind = Kind::OneOf(&["issue", "pr", "code"]);
/// What a suggestion may be about.
const AI_CATEGORY: Kind = Kind::OneOf(&[
    "optimization",
    "refactor",
    "bug_fix",
    "security",
    "performance",
    "maintainability",
]);
/// How much a suggestion may matter.
const AI_SEVERITY: Kind = Kind::OneOf(&["info", "warning", "critical"]);

const fn agent(
    name: &'static str,
    event: &'static str,
    summary: &'static str,
    fields: &'static [Field],
    priority: Priority,
) -> EventType {
    EventType {
        domain: Domain::Agent,
        name,
        summary,
        fields,
        route: Route {
            channel: Channel::AgentEvents,
            object: Slot::Field("agent_id"),
            user: Slot::Global,
        },
        source: "agent_service",
        priority,
        words: Words::workspace(event),
    }
}

const fn workflow(
    name: &'static str,
    event: &'static str,
    summary: &'static str,
    fields: &'static [Field],
    priority: Priority,
) -> EventType {
    EventType {
        domain: Domain::Workflow,
        name,
        summary,
        fields,
        route: project_or_everyone(Channel::WorkflowEvents),
        source: "workflow_service",
        priority,
        words: Words::workspace(event),
    }
}

const fn pr(
    name: &'static str,
    event: &'static str,
    summary: &'static str,
    fields: &'static [Field],
    priority: Priority,
) -> EventType {
    EventType {
        domain: Domain::Pr,
        name,
        summary,
        fields,
        route: Route::object(Channel::PrEvents, "project_id"),
        source: "github_service",
        priority,
        words: Words::workspace(event),
    }
}

const fn issue(
    name: &'static str,
    event: &'static str,
    summary: &'static str,
    fields: &'static [Field],
    priority: Priority,
) -> EventType {
    EventType {
        domain: Domain::Issue,
        name,
        summary,
        fields,
        route: project_and_user(Channel::IssueEvents, "assigned_to"),
        source: "github_service",
        priority,
        words: Words::workspace(event),
    }
}

const fn ai(
    name: &'static str,
    event: &'static str,
    summary: &'static str,
    fields: &'static [Field],
    priority: Priority,
) -> EventType {
    EventType {
        domain: Domain::Ai,
        name,
        summary,
        fields,
        route: project_or_everyone(Channel::AiEvents),
        source: "ai_dock_service",
        priority,
        words: Words::workspace(event),
    }
}

const fn project_and_user(channel: Channel, user: &'static str) -> Route {
    Route {
        channel,
        object: Slot::Field("project_id"),
        user: Slot::Field(user),
    }
}

const fn project_or_everyone(channel: Channel) -> Route {
    Route {
        channel,
        object: Slot::Field("project_id"),
        user: Slot::GlobalUnless("project_id"),
    }
}

const AGENT: &[Field] = &[
    Field::required("agent_id", Kind::Id),
    Field::optional("agent_name", Kind::Text),
    Field::optional("status", AGENT_STATUS),
    Field::optional("availability", Kind::Number),
    Field::optional("metadata", Kind::Object),
];
const WORKFLOW: &[Field] = &[
    Field::optional("workflow_id", Kind::Id),
    Field::optional("project_id", Kind::Id),
    Field::optional("status", WORKFLOW_STATUS),
    Field::optional("progress", Kind::Number),
    Field::optional("current_step", Kind::Text),
    Field::optional("total_steps", Kind::Number),
    Field::optional("estimated_time_remaining", Kind::Number),
    Field::optional("logs", Kind::List),
    Field::optional("errors", Kind::List),
];
const ISSUE: &[Field] = &[
    Field::optional("issue_id", Kind::Id),
    Field::required("project_id", Kind::Id),
    Field::optional("title", Kind::Text),
    Field::optional("description", Kind::Text),
    Field::optional("status", ISSUE_STATUS),
    Field::optional("priority", ISSUE_PRIORITY),
    Field::optional("assigned_to", Kind::Id),
    Field::optional("updated_at", Kind::Time),
];

/// Every event type of the six domains.
pub const EVENTS: &[EventType] = &[
    EventType {
        domain: Domain::Project,
        name: "updated",
        summary: "A project changed.",
        fields: &[
            Field::required("project_id", Kind::Id),
            Field::optional("project_name", Kind::Text),
            Field::optional("repository_url", Kind::Text),
            Field::optional("status", Kind::Text),
            Field::optional("updated_by", Kind::Id),
            Field::optional("changes", Kind::Object),
        ],
        route: project_and_user(Channel::ProjectEvents, "updated_by"),
        source: "project_service",
        priority: Priority::Low,
        words: Words::workspace("project.updated"),
    },
    EventType {
        domain: Domain::Project,
        name: "deleted",
        summary: "A project is gone.",
        fields: &[
            Field::required("project_id", Kind::Id),
            Field::optional("deleted_by", Kind::Id),
        ],
        route: project_and_user(Channel::ProjectEvents, "deleted_by"),
        source: "project_service",
        priority: Priority::High,
        words: Words::workspace("project.deleted"),
    },
    agent(
        "status_changed",
        "agent.status_changed",
        "An agent is in another state.",
        &[
            Field::required("agent_id", Kind::Id),
            Field::required("status", AGENT_STATUS),
            Field::optional("agent_name", Kind::Text),
            Field::optional("availability", Kind::Number),
            Field::optional("metadata", Kind::Object),
        ],
        Priority::Low,
    ),
    agent(
        "connected",
        "agent.connected",
        "An agent is there.",
        AGENT,
        Priority::Low,
    ),
    agent(
        "disconnected",
        "agent.disconnected",
        "An agent has left, or is out of reach.",
        AGENT,
        Priority::Medium,
    ),
    workflow(
        "progress",
        "workflow.progress",
        "A running workflow moved on.",
        &[
            Field::required("workflow_id", Kind::Id),
            Field::required("status", WORKFLOW_STATUS),
            Field::required("progress", Kind::Number),
            Field::optional("project_id", Kind::Id),
            Field::optional("current_step", Kind::Text),
            Field::optional("total_steps", Kind::Number),
            Field::optional("estimated_time_remaining", Kind::Number),
            Field::optional("logs", Kind::List),
            Field::optional("errors", Kind::List),
        ],
        Priority::Low,
    ),
    workflow(
        "started",
        "workflow.started",
        "A workflow began to run.",
        WORKFLOW,
        Priority::Low,
    ),
    workflow(
        "completed",
        "workflow.completed",
        "A workflow reached its end.",
        WORKFLOW,
        Priority::Medium,
    ),
    workflow(
        "failed",
        "workflow.failed",
        "A workflow did not reach its end.",
        WORKFLOW,
        Priority::High,
    ),
    pr(
        "created",
        "pr.created",
        "Someone asks for a change to be merged.",
        &[
            Field::required("pr_id", Kind::Id),
            Field::required("project_id", Kind::Id),
            Field::required("title", Kind::Text),
            Field::optional("description", Kind::Text),
            Field::optional("author", Kind::Text),
            Field::optional("branch", Kind::Text),
            Field::optional("github_url", Kind::Text),
            Field::optional("status", Kind::Text),
            Field::optional("created_at", Kind::Time),
        ],
        Priority::Medium,
    ),
    pr(
        "updated",
        "pr.updated",
        "A pull request changed.",
        &[
            Field::required("pr_id", Kind::Id),
            Field::required("project_id", Kind::Id),
            Field::optional("title", Kind::Text),
            Field::optional("status", Kind::Text),
        ],
        Priority::Low,
    ),
    pr(
        "closed",
        "pr.closed",
        "A pull request is done with.",
        &[
            Field::optional("pr_id", Kind::Id),
            Field::required("project_id", Kind::Id),
            Field::optional("title", Kind::Text),
            Field::optional("status", Kind::Text),
        ],
        Priority::Medium,
    ),
    issue(
        "updated",
        "issue.updated",
        "An issue changed.",
        // It may be in no project: then its assignee hears of it.
        &[
            Field::required("issue_id", Kind::Id),
            Field::optional("project_id", Kind::Id),
            Field::optional("title", Kind::Text),
            Field::optional("description", Kind::Text),
            Field::optional("status", ISSUE_STATUS),
            Field::optional("priority", ISSUE_PRIORITY),
            Field::optional("assigned_to", Kind::Id),
            Field::optional("updated_at", Kind::Time),
        ],
        Priority::Low,
    ),
    issue(
        "created",
        "issue.created",
        "Something is to be done.",
        ISSUE,
        Priority::Medium,
    ),
    issue(
        "closed",
        "issue.closed",
        "Something is done, or will not be.",
        ISSUE,
        Priority::Low,
    ),
    ai(
        "suggestion",
        "ai.suggestion",
        "A model suggests a change.",
        &[
            Field::required("suggestion_id", Kind::Id),
            Field::required("target_type", AI_TARGET),
            Field::required("category", AI_CATEGORY),
            Field::required("title", Kind::Text),
            Field::required("severity", AI_SEVERITY),
            Field::optional("target_id", Kind::Text),
            Field::optional("project_id", Kind::Id),
            Field::optional("description", Kind::Text),
            Field::optional("confidence", Kind::Number),
            Field::optional("suggested_action", Kind::Text),
            Field::optional("metadata", Kind::Object),
        ],
        Priority::Medium,
    ),
    ai(
        "analysis_complete",
        "ai.analysis_complete",
        "A model has looked at something.",
        &[
            Field::optional("suggestion_id", Kind::Id),
            Field::optional("target_type", AI_TARGET),
            Field::optional("target_id", Kind::Text),
            Field::optional("project_id", Kind::Id),
            Field::optional("category", AI_CATEGORY),
            Field::optional("title", Kind::Text),
            Field::optional("description", Kind::Text),
            Field::optional("severity", AI_SEVERITY),
            Field::optional("confidence", Kind::Number),
            Field::optional("suggested_action", Kind::Text),
            Field::optional("metadata", Kind::Object),
        ],
        Priority::Medium,
    ),
];
