//! The event types of dialects `pipeline` and `workspace`, against a table that
//! was written from their documents: what is required, where an event goes,
//! which words are refused, what it has by default, and how clients see it
//! (P2, P3, W7, W8).

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, too"
)]

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value, json};
use signalbox_protocol::catalogue::{self, Audience, Category, EventType, Kind, Topic};
use signalbox_protocol::cursor::{Cursor, Epoch};
use signalbox_protocol::envelope::{self, CE_PRIORITY, Headers, Rejection, Submission};
use signalbox_protocol::event::{Event, Priority};
use signalbox_protocol::frame::{pipeline, workspace};
use signalbox_protocol::timestamp::Timestamp;

/// What a type of `pipeline` must be.
struct OfPipeline {
    name: &'static str,
    category: &'static str,
    required: &'static [&'static str],
    priority: Priority,
}

const fn of_pipeline(
    name: &'static str,
    category: &'static str,
    required: &'static [&'static str],
    priority: Priority,
) -> OfPipeline {
    OfPipeline {
        name,
        category,
        required,
        priority,
    }
}

use Priority::{High, Low, Medium};

#[rustfmt::skip]
const PIPELINE: &[OfPipeline] = &[
    of_pipeline("pipeline_created", "PIPELINE", &["pipelineId", "pipeline"], Low),
    of_pipeline("pipeline_updated", "PIPELINE", &["pipelineId", "pipeline"], Low),
    of_pipeline("pipeline_deleted", "PIPELINE", &["pipelineId"], Medium),
    of_pipeline("pipeline_execution_started", "PIPELINE", &["executionId", "pipelineId", "execution"], Medium),
    of_pipeline("pipeline_execution_updated", "PIPELINE", &["executionId", "pipelineId", "execution"], Low),
    of_pipeline("pipeline_execution_completed", "PIPELINE", &["executionId", "pipelineId", "execution"], Medium),
    of_pipeline("security_vulnerability_detected", "SECURITY", &["vulnerabilityId", "vulnerability"], High),
    of_pipeline("security_vulnerability_updated", "SECURITY", &["vulnerabilityId", "vulnerability"], Medium),
    of_pipeline("security_scan_started", "SECURITY", &["scanId", "scan"], Low),
    of_pipeline("security_scan_updated", "SECURITY", &["scanId", "scan"], Low),
    of_pipeline("security_scan_completed", "SECURITY", &["scanId", "scan"], Medium),
    of_pipeline("debug_session_created", "DEBUG", &["sessionId", "session"], Low),
    of_pipeline("debug_session_updated", "DEBUG", &["sessionId", "session"], Low),
    of_pipeline("debug_error_detected", "DEBUG", &["sessionId", "errorId", "error"], High),
    of_pipeline("debug_ml_classification", "DEBUG", &["sessionId", "errorId", "classifications"], Low),
    of_pipeline("debug_patch_generated", "DEBUG", &["sessionId", "patchId", "patch"], Medium),
    of_pipeline("debug_patch_applied", "DEBUG", &["sessionId", "patchId", "result"], Medium),
    of_pipeline("debug_patch_rollback", "DEBUG", &["sessionId", "patchId", "result"], High),
    of_pipeline("system_status_update", "SYSTEM", &["status"], Medium),
    of_pipeline("system_metrics_update", "SYSTEM", &["metrics"], Low),
    of_pipeline("system_alert", "SYSTEM", &["alertId", "alert"], High),
    of_pipeline("architecture_diagram_update", "ARCHITECTURE", &["diagramId", "diagram"], Low),
    of_pipeline("user_notification", "USER", &["userId", "notification"], Medium),
    of_pipeline("user_action", "USER", &["userId", "action"], Low),
];

/// What a type of `workspace` must be; rooms by the fields that name them.
struct OfWorkspace {
    name: &'static str,
    source: &'static str,
    required: &'static [&'static str],
    object: &'static str,
    audience: To,
}

/// Whom an event reaches beside its object's room.
#[derive(Clone, Copy)]
enum To {
    Nobody,
    User(&'static str),
    Everyone,
    EveryoneWithoutProject,
}

const fn of_workspace(
    name: &'static str,
    source: &'static str,
    required: &'static [&'static str],
    object: &'static str,
    audience: To,
) -> OfWorkspace {
    OfWorkspace {
        name,
        source,
        required,
        object,
        audience,
    }
}

#[rustfmt::skip]
const WORKSPACE: &[OfWorkspace] = &[
    of_workspace("project.updated", "project_service", &["project_id"], "project_id", To::User("updated_by")),
    of_workspace("project.deleted", "project_service", &["project_id"], "project_id", To::User("deleted_by")),
    of_workspace("agent.status_changed", "agent_service", &["agent_id", "status"], "agent_id", To::Everyone),
    of_workspace("agent.connected", "agent_service", &["agent_id"], "agent_id", To::Everyone),
    of_workspace("agent.disconnected", "agent_service", &["agent_id"], "agent_id", To::Everyone),
    of_workspace("workflow.progress", "workflow_service", &["workflow_id", "status", "progress"], "project_id", To::EveryoneWithoutProject),
    of_workspace("workflow.started", "workflow_service", &[], "project_id", To::EveryoneWithoutProject),
    of_workspace("workflow.completed", "workflow_service", &[], "project_id", To::EveryoneWithoutProject),
    of_workspace("workflow.failed", "workflow_service", &[], "project_id", To::EveryoneWithoutProject),
    of_workspace("pr.created", "github_service", &["pr_id", "project_id", "title"], "project_id", To::Nobody),
    of_workspace("pr.updated", "github_service", &["pr_id", "project_id"], "project_id", To::Nobody),
    of_workspace("pr.closed", "github_service", &["project_id"], "project_id", To::Nobody),
    of_workspace("issue.updated", "github_service", &["issue_id"], "project_id", To::User("assigned_to")),
    of_workspace("issue.created", "github_service", &["project_id"], "project_id", To::User("assigned_to")),
    of_workspace("issue.closed", "github_service", &["project_id"], "project_id", To::User("assigned_to")),
    of_workspace("ai.suggestion", "ai_dock_service", &["suggestion_id", "target_type", "category", "title", "severity"], "project_id", To::EveryoneWithoutProject),
    of_workspace("ai.analysis_complete", "ai_dock_service", &[], "project_id", To::EveryoneWithoutProject),
];

/// The closed lists, by the domain and the field that has them.
#[rustfmt::skip]
const LISTS: &[(&str, &str, &[&str])] = &[
    ("agent", "status", &["online", "offline", "busy", "idle", "error"]),
    ("workflow", "status", &["pending", "running", "completed", "failed", "cancelled"]),
    ("issue", "status", &["open", "in_progress", "closed", "blocked"]),
    ("issue", "priority", &["low", "medium", "high", "critical"]),
    ("ai", "target_type", &["issue", "pr", "code"]),
    ("ai", "category", &["optimization", "refactor", "bug_fix", "security", "performance", "maintainability"]),
    ("ai", "severity", &["info", "warning", "critical"]),
];

const SEQ: Cursor = Cursor {
    epoch: Epoch::from_unix_micros(0xa),
    sequence: 7,
};

struct Given(Option<&'static str>);

impl Headers for Given {
    fn value(&self, name: &str) -> Option<&str> {
        self.0.filter(|_| name == CE_PRIORITY)
    }
}

/// The type that producers publish on this subject.
fn published(subject: &str) -> &'static EventType {
    let (domain, name) = subject.split_once('.').unwrap();
    catalogue::find(domain.parse().unwrap(), name).unwrap_or_else(|| panic!("{subject}"))
}

fn decode_with(
    kind: &'static EventType,
    data: &Map<String, Value>,
    priority: Option<&'static str>,
) -> Result<Event, Rejection> {
    let payload = Value::Object(data.clone()).to_string();
    envelope::decode(&Submission {
        kind,
        headers: &Given(priority),
        payload: payload.as_bytes(),
        fallback_id: "seq/1-1",
        stored_at: Timestamp::parse("2026-03-02T09:14:07Z").unwrap(),
    })
}

fn decode(kind: &'static EventType, data: &Map<String, Value>) -> Result<Event, Rejection> {
    decode_with(kind, data, None)
}

/// The field that an event is refused for.
fn refused(kind: &'static EventType, data: &Map<String, Value>) -> String {
    match decode(kind, data) {
        Err(Rejection::Field(error)) => error.field,
        other => panic!("{}: {other:?}", kind.name),
    }
}

fn fixture(path: &str) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let text = std::fs::read_to_string(folder.join(path)).unwrap_or_else(|_| panic!("{path}"));
    serde_json::from_str(&text).unwrap()
}

fn data(subject: &str) -> Map<String, Value> {
    let value = fixture(&format!("events/{subject}.json"));
    value.as_object().unwrap().clone()
}

/// Data with an id in every field that routes.
fn routed(subject: &str) -> Map<String, Value> {
    let mut data = data(subject);
    for field in published(subject).fields {
        if matches!(field.kind, Kind::Id) {
            data.insert(field.name.to_owned(), json!(format!("the-{}", field.name)));
        }
    }
    data
}

/// Asserts that just these fields are required, and null counts as absent.
fn assert_required(subject: &str, required: &[&str]) {
    let kind = published(subject);
    for field in kind.fields {
        for null in [false, true] {
            let mut without = routed(subject);
            if null {
                without.insert(field.name.to_owned(), Value::Null);
            } else {
                without.remove(field.name);
            }
            if required.contains(&field.name) {
                assert_eq!(refused(kind, &without), field.name, "{subject}");
            } else {
                assert!(decode(kind, &without).is_ok(), "{subject}.{}", field.name);
            }
        }
        let mut wrong = routed(subject);
        let strange = if field.kind == Kind::List {
            json!({})
        } else {
            json!([1])
        };
        wrong.insert(field.name.to_owned(), strange);
        if field.kind != Kind::Any {
            assert_eq!(refused(kind, &wrong), field.name, "{subject}");
        }
    }
    let listed = |name: &&str| kind.fields.iter().any(|field| field.name == *name);
    assert!(required.iter().all(listed), "{subject}");
}

#[test]
fn the_tables_are_complete() {
    let known = |is_spoken: fn(&EventType) -> bool| -> BTreeSet<String> {
        let kinds = catalogue::all().filter(|kind| is_spoken(kind));
        kinds
            .map(|kind| format!("{}.{}", kind.domain, kind.name))
            .collect()
    };
    let of_pipeline = PIPELINE.iter().map(|row| format!("pipeline.{}", row.name));
    assert_eq!(PIPELINE.len(), 24);
    assert_eq!(
        of_pipeline.collect::<BTreeSet<_>>(),
        known(|kind| kind.words.pipeline.is_some())
    );
    let of_workspace = WORKSPACE.iter().map(|row| row.name.to_owned());
    assert_eq!(WORKSPACE.len(), 17);
    assert_eq!(
        of_workspace.collect::<BTreeSet<_>>(),
        known(|kind| kind.words.workspace.is_some())
    );
}

#[test]
fn events_of_pipeline_are_checked_and_addressed() {
    for row in PIPELINE {
        let subject = format!("pipeline.{}", row.name);
        let kind = published(&subject);
        let category = Category::parse(row.category).unwrap();
        assert_eq!(kind.words.pipeline.unwrap().category, category, "{subject}");
        assert!(
            category.channels().contains(&kind.route.channel),
            "{subject}"
        );
        assert_required(&subject, row.required);
        let event = decode(kind, &routed(&subject)).unwrap();
        assert_eq!(event.priority, row.priority, "{subject}");
        for word in ["HIGH", "MEDIUM", "LOW"] {
            let event = decode_with(kind, &event.data, Some(word)).unwrap();
            assert_eq!(event.priority.as_str(), word, "{subject}");
        }
        let audience = if row.name == "user_notification" {
            Audience::User("the-userId".to_owned())
        } else {
            Audience::Nobody
        };
        let expected = Topic {
            channel: kind.route.channel,
            object: None,
            audience,
        };
        assert_eq!(event.topic(), Ok(expected), "{subject}");
    }
    // What is for one user and what is for administrators are kept apart.
    let [notice, action] = ["user_notification", "user_action"]
        .map(|name| published(&format!("pipeline.{name}")).route.channel);
    assert_ne!(notice, action);
}

#[test]
fn events_of_workspace_are_checked_and_addressed() {
    for row in WORKSPACE {
        let kind = published(row.name);
        assert_required(row.name, row.required);
        let event = decode(kind, &routed(row.name)).unwrap();
        assert_eq!(event.source, row.source, "{}", row.name);
        let topic = |without: &[&str]| {
            let mut data = event.data.clone();
            data.retain(|field, _| !without.contains(&field.as_str()));
            let event = Event {
                data,
                ..event.clone()
            };
            let topic = event.topic().unwrap();
            assert_eq!(topic.channel, kind.route.channel);
            (topic.object, topic.audience)
        };
        let object = Some(format!("the-{}", row.object));
        let user = |field: &str| Audience::User(format!("the-{field}"));
        match row.audience {
            To::Nobody => assert_eq!(topic(&[]), (object, Audience::Nobody)),
            To::Everyone => assert_eq!(topic(&[]), (object, Audience::Everyone)),
            To::User(field) => {
                assert_eq!(topic(&[]), (object.clone(), user(field)), "{}", row.name);
                assert_eq!(topic(&[field]), (object, Audience::Nobody), "{}", row.name);
                assert_eq!(topic(&[row.object]), (None, user(field)), "{}", row.name);
            }
            To::EveryoneWithoutProject => {
                assert_eq!(topic(&[]), (object, Audience::Nobody), "{}", row.name);
                let global = (None, Audience::Everyone);
                assert_eq!(topic(&[row.object]), global, "{}", row.name);
            }
        }
    }
}

#[test]
fn an_issue_without_a_project_is_its_assignees() {
    let kind = published("issue.updated");
    let event = json!({"issue_id": "i-1", "project_id": null, "assigned_to": "u-1"});
    let topic = decode(kind, event.as_object().unwrap())
        .unwrap()
        .topic()
        .unwrap();
    assert_eq!(topic.object, None);
    assert_eq!(topic.audience, Audience::User("u-1".to_owned()));
}

#[test]
fn closed_lists_are_closed_and_others_open() {
    let mut tried = BTreeSet::new();
    for row in WORKSPACE {
        let kind = published(row.name);
        let (domain, _) = row.name.split_once('.').unwrap();
        for field in kind.fields {
            let list = LISTS
                .iter()
                .find(|(of, name, _)| *of == domain && *name == field.name);
            let with = |word: &str| {
                let mut data = routed(row.name);
                data.insert(field.name.to_owned(), json!(word));
                data
            };
            let Some((_, _, words)) = list else {
                assert!(!matches!(field.kind, Kind::OneOf(_)), "{}", row.name);
                continue;
            };
            tried.insert((domain, field.name));
            assert_eq!(field.kind, Kind::OneOf(words), "{}", row.name);
            for word in *words {
                assert!(decode(kind, &with(word)).is_ok(), "{} {word}", row.name);
                let shouted = with(&word.to_uppercase());
                assert_eq!(refused(kind, &shouted), field.name, "{}", row.name);
            }
            for word in ["", "nope", " ", "open "] {
                assert_eq!(refused(kind, &with(word)), field.name, "{}", row.name);
            }
        }
    }
    assert_eq!(tried.len(), LISTS.len());
    for subject in ["pr.created", "pr.updated", "pr.closed", "project.updated"] {
        let mut data = routed(subject);
        data.insert("status".to_owned(), json!("anything at all"));
        assert!(decode(published(subject), &data).is_ok(), "{subject}");
    }
}

#[test]
fn clients_see_events_as_the_fixtures_have_them() {
    for row in PIPELINE {
        let kind = published(&format!("pipeline.{}", row.name));
        let mut example = fixture(&format!("pipeline/event/{}.json", row.name));
        let event = decode(kind, example["data"].as_object().unwrap()).unwrap();
        let mut payload = json!(pipeline::EventPayload {
            event_type: kind.name,
            category: kind.words.pipeline.unwrap().category,
            priority: event.priority,
            data: &event.data,
            timestamp: Timestamp::parse(example["time"].as_str().unwrap()).unwrap(),
            id: &format!("{}-1", kind.name),
            seq: SEQ,
        });
        payload["seq"] = example["frame"]["seq"].clone();
        assert_eq!(payload, example["frame"].take(), "{}", row.name);
    }
    for row in WORKSPACE {
        let kind = published(row.name);
        let mut example = fixture(&format!("workspace/event/{}.json", row.name));
        let event = decode(kind, example["data"].as_object().unwrap()).unwrap();
        let mut payload = json!(workspace::EventPayload {
            kind: kind.words.workspace.unwrap().event,
            timestamp: Timestamp::parse(example["time"].as_str().unwrap()).unwrap(),
            source: &event.source,
            data: &event.data,
            id: &format!("{}-1", kind.name),
            seq: SEQ,
        });
        payload["seq"] = example["frame"]["seq"].clone();
        assert_eq!(payload, example["frame"].take(), "{}", row.name);
    }
}
