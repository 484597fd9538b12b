//! The events of dialects `pipeline` and `workspace` through a real router:
//! each is stored once, addressed to all of its rooms at once (P2, W7), and
//! one with a word that a closed list does not have is kept with the reason
//! (W8).

use serde_json::{Value, json};
use signalbox_bus::publish::{Outgoing, publish};
use signalbox_bus::server::User;
use signalbox_bus::stream::{DLQ, TOPICS};
use signalbox_bus::{Bus, HeaderMap, header, history, stored_event};
use signalbox_protocol::envelope::CE_ID;
use signalbox_testkit::{DEADLINE, Platform, eventually};

use crate::fixtures::event;

/// The project of the fixtures.
const PROJECT: &str = "=3f0c7a52-7f6e-4c58-9a39-6f0f4d9e2b11";

/// What producers publish, and where it must be stored: `PROJECT` stands for
/// the fixtures' project.
const EVENTS: &[(&str, &str)] = &[
    ("pipeline.pipeline_created", "pipeline_events.-.-"),
    ("pipeline.pipeline_updated", "pipeline_events.-.-"),
    ("pipeline.pipeline_deleted", "pipeline_events.-.-"),
    ("pipeline.pipeline_execution_started", "pipeline_events.-.-"),
    ("pipeline.pipeline_execution_updated", "pipeline_events.-.-"),
    (
        "pipeline.pipeline_execution_completed",
        "pipeline_events.-.-",
    ),
    (
        "pipeline.security_vulnerability_detected",
        "pipeline_security.-.-",
    ),
    (
        "pipeline.security_vulnerability_updated",
        "pipeline_security.-.-",
    ),
    ("pipeline.security_scan_started", "pipeline_security.-.-"),
    ("pipeline.security_scan_updated", "pipeline_security.-.-"),
    ("pipeline.security_scan_completed", "pipeline_security.-.-"),
    ("pipeline.debug_session_created", "pipeline_debug.-.-"),
    ("pipeline.debug_session_updated", "pipeline_debug.-.-"),
    ("pipeline.debug_error_detected", "pipeline_debug.-.-"),
    ("pipeline.debug_ml_classification", "pipeline_debug.-.-"),
    ("pipeline.debug_patch_generated", "pipeline_debug.-.-"),
    ("pipeline.debug_patch_applied", "pipeline_debug.-.-"),
    ("pipeline.debug_patch_rollback", "pipeline_debug.-.-"),
    ("pipeline.system_status_update", "pipeline_system.-.-"),
    ("pipeline.system_metrics_update", "pipeline_system.-.-"),
    ("pipeline.system_alert", "pipeline_system.-.-"),
    (
        "pipeline.architecture_diagram_update",
        "pipeline_architecture.-.-",
    ),
    (
        "pipeline.user_notification",
        "pipeline_user_notifications.-.=u-ada",
    ),
    ("pipeline.user_action", "pipeline_user_actions.-.-"),
    ("project.updated", "project_events.PROJECT.=u-ada"),
    ("project.deleted", "project_events.=p-legacy.=u-ada"),
    ("agent.status_changed", "agent_events.=ag-17.global"),
    ("agent.connected", "agent_events.=ag-17.global"),
    ("agent.disconnected", "agent_events.=ag-17.global"),
    ("workflow.progress", "workflow_events.PROJECT.-"),
    ("workflow.started", "workflow_events.-.global"),
    ("workflow.completed", "workflow_events.PROJECT.-"),
    ("workflow.failed", "workflow_events.-.global"),
    ("pr.created", "pr_events.PROJECT.-"),
    ("pr.updated", "pr_events.PROJECT.-"),
    ("pr.closed", "pr_events.PROJECT.-"),
    ("issue.updated", "issue_events.PROJECT.=u-ada"),
    ("issue.created", "issue_events.PROJECT.-"),
    ("issue.closed", "issue_events.PROJECT.=u-ada"),
    ("ai.suggestion", "ai_events.PROJECT.-"),
    ("ai.analysis_complete", "ai_events.-.global"),
];

/// Events whose closed lists are violated: the field and the word.
const WRONG: &[(&str, &str, &str)] = &[
    ("agent.status_changed", "status", "sleeping"),
    ("agent.connected", "status", "Online"),
    ("workflow.progress", "status", "paused"),
    ("issue.updated", "status", "done"),
    ("issue.created", "priority", "urgent"),
    ("ai.suggestion", "target_type", "file"),
    ("ai.suggestion", "category", "style"),
    ("ai.suggestion", "severity", "error"),
];

async fn produce(bus: &Bus, subject: &str, data: &Value) {
    let (domain, _) = subject.split_once('.').unwrap();
    let mut headers = HeaderMap::new();
    headers.insert(CE_ID, subject);
    let message = Outgoing {
        subject: format!("events.{subject}"),
        message_id: format!("{domain}/test/{subject}/{data}"),
        headers,
        payload: data.to_string().into(),
    };
    publish(bus, &message, DEADLINE).await.unwrap();
}

#[tokio::test]
async fn every_event_is_stored_once_for_all_of_its_rooms() {
    let platform = Platform::start(0).await;
    let (producer, admin) = (
        platform.bus(User::Producer).await,
        platform.bus(User::Admin).await,
    );
    for (subject, _) in EVENTS {
        produce(&producer, subject, &event(subject)).await;
    }
    let stored = eventually("all events stored", DEADLINE, async || {
        let page = history::page(&admin, TOPICS, "topics.>", 1, 100).await;
        let messages = page.unwrap().messages;
        (messages.len() >= EVENTS.len()).then_some(messages)
    })
    .await;
    let mut found: Vec<_> = stored
        .iter()
        .map(|message| {
            let decoded = stored_event::decode(message).unwrap();
            (decoded.event.id, message.subject.to_string())
        })
        .collect();
    let mut expected: Vec<_> = EVENTS
        .iter()
        .map(|(subject, topic)| {
            let topic = topic.replace("PROJECT", PROJECT);
            ((*subject).to_owned(), format!("topics.{topic}"))
        })
        .collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn words_outside_closed_lists_are_kept_with_the_reason() {
    let platform = Platform::start(0).await;
    let (producer, admin) = (
        platform.bus(User::Producer).await,
        platform.bus(User::Admin).await,
    );
    for (subject, field, word) in WRONG {
        let mut data = event(subject);
        data[*field] = json!(word);
        produce(&producer, subject, &data).await;
    }
    let refused = eventually("all events refused", DEADLINE, async || {
        let page = history::page(&admin, DLQ, "dlq.>", 1, 100).await;
        let messages = page.unwrap().messages;
        (messages.len() >= WRONG.len()).then_some(messages)
    })
    .await;
    let mut told: Vec<_> = refused
        .iter()
        .map(|message| {
            let headers = message.headers.as_ref().unwrap();
            let reason = header::value(headers, header::REASON).unwrap();
            let (start, _) = reason.split_once(" one of ").unwrap();
            let origin = header::value(headers, header::ORIGIN).unwrap();
            (origin.to_owned(), start.to_owned())
        })
        .collect();
    let mut expected: Vec<_> = WRONG
        .iter()
        .map(|(subject, field, _)| {
            let start = format!("field `{field}`: expected");
            (format!("events.{subject}"), start)
        })
        .collect();
    told.sort();
    expected.sort();
    assert_eq!(told, expected);
    let page = history::page(&admin, TOPICS, "topics.>", 1, 100).await;
    assert!(page.unwrap().messages.is_empty());
}
