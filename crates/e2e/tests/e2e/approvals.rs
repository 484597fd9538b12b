//! Calls of tools that people decide on, from the chat to the responder: what
//! those who chat, those who decide and those who look on see, and what is run.
//! T6, T7, T10.

use serde_json::{Value, json};
use signalbox_bus::server::User;
use signalbox_protocol::timestamp::Timestamp;
use signalbox_testkit::{DEADLINE, Platform, WsClient};
use time::{Duration, OffsetDateTime};

use crate::approval_world::{Observer, World, decision, hears, results};
use crate::events::send;

/// The system where it decides.
const SYSTEM: &str = "signalbox";

fn host() -> Value {
    json!({"host": "10.4.7.19"})
}

#[tokio::test]
async fn a_call_waits_for_somebody_on_another_gateway_and_runs_once() {
    let world = World::start(2).await;
    let mut all = world.observer(0).await;
    let waiting = json!({"action_types": ["isolation"], "approval_status": ["PENDING"]});
    let mut decider = world.observer_of(1, waiting).await;
    let others = json!({"action_types": ["isolation"], "approval_status": ["EXPIRED"]});
    let mut uninvolved = world.observer_of(1, others).await;
    world.script(&[("isolate_host", host())]);
    let (mut ada, session) = world.ask().await;

    let asked = hears(&mut ada, "agent_tool_approval").await;
    let action = decider.pending().await;
    let id = action["action_id"].as_str().unwrap().to_owned();
    for (name, value) in [
        ("action_type", json!("isolation")),
        ("tool_name", json!("isolate_host")),
        ("arguments", host()),
        ("requested_by", json!("ada")),
        ("session_id", json!(session)),
        ("answer", json!(1)),
        ("tool_call", json!(1)),
    ] {
        assert_eq!(action[name], value, "{action}");
    }
    for name in ["action_id", "action_type", "arguments_hash", "expires_at"] {
        assert_eq!(asked[name], action[name], "{name}");
    }
    assert_eq!(asked["parameters"], host());
    assert_eq!(world.hand.done(), []);

    decider.decides(&action, "approve").await;
    let decided = hears(&mut ada, "agent_tool_decision").await;
    assert_eq!(decided["decision"], "approve", "{decided}");
    assert_eq!(decided["decided_by"], "operator@local");
    assert_eq!(decided["reason"], "checked");
    let started = hears(&mut ada, "agent_tool_execution").await;
    assert_eq!(started["parameters"], host());
    let result = hears(&mut ada, "agent_tool_result").await;
    assert_eq!(result["status"], "COMPLETED", "{result}");
    assert_eq!(result["results"], json!({"done": true}));
    hears(&mut ada, "agent_response_complete").await;
    assert_eq!(world.hand.done(), [("isolate_host".to_owned(), host())]);

    // Each once, and in order.
    for word in ["PENDING", "approve", "EXECUTING", "COMPLETED"] {
        let frame = all.sees(&id, word).await;
        assert_eq!(frame["data"]["arguments_hash"], action["arguments_hash"]);
    }
    all.sees_nothing().await;
    decider.sees_nothing().await;
    uninvolved.sees_nothing().await;

    // The second learns who was first, and who wanted what is on record.
    let key = world.platform.api_key("analyst");
    let mut second = Observer::connect(&world.platform.gateways[0], &key, json!({})).await;
    let error = second.decide(&action, "reject").await;
    assert_eq!(error["code"], "ALREADY_DECIDED", "{error}");
    assert_eq!(error["decided_by"], "operator@local");
    assert_eq!(error["decision"], "approve");
    for (gateway, words) in [
        (1, ["audit: decided", "operator@local"]),
        (0, ["not decided, somebody was first", "analyst@local"]),
    ] {
        let process = &world.platform.gateways[gateway].process;
        let line = process.wait_for_line(words[0], DEADLINE).await;
        assert!(line.contains(words[1]) && line.contains(&id), "{line}");
    }
}

#[tokio::test]
async fn a_rejected_call_never_runs_and_the_model_is_told_why() {
    let world = World::start(1).await;
    let mut decider = world.observer(0).await;
    world.script(&[("isolate_host", host())]);
    let (mut ada, _) = world.ask().await;
    let action = decider.pending().await;
    let id = action["action_id"].as_str().unwrap();
    hears(&mut ada, "agent_tool_approval").await;
    decider.decides(&action, "reject").await;
    let decided = hears(&mut ada, "agent_tool_decision").await;
    assert_eq!(decided["decision"], "reject");
    let result = hears(&mut ada, "agent_tool_result").await;
    assert_eq!(
        (&result["status"], &result["outcome"]),
        (&json!("FAILED"), &json!("refused"))
    );
    hears(&mut ada, "agent_response_complete").await;
    for word in ["reject", "REJECTED"] {
        decider.sees(id, word).await;
    }
    decider.sees_nothing().await;
    assert_eq!(world.hand.done(), []);
    let told = results(&world.model.received(2).await.body)[0].to_string();
    assert!(
        told.contains("operator@local") && told.contains("checked"),
        "{told}"
    );
}

#[tokio::test]
async fn a_call_that_nobody_decides_on_expires() {
    let world = World::start(1).await;
    let mut decider = world.observer(0).await;
    world.script(&[("hurry", json!({}))]);
    let (mut ada, _) = world.ask().await;
    let action = decider.pending().await;
    let id = action["action_id"].as_str().unwrap();
    assert_eq!(action["action_type"], "hurry");
    hears(&mut ada, "agent_tool_approval").await;
    let decided = hears(&mut ada, "agent_tool_decision").await;
    assert_eq!(decided["decision"], "expired", "{decided}");
    let result = hears(&mut ada, "agent_tool_result").await;
    assert_eq!(result["outcome"], "refused", "{result}");
    hears(&mut ada, "agent_response_complete").await;
    let settled = decider.sees(id, "reject").await;
    assert_eq!(settled["data"]["decided_by"], SYSTEM);
    decider.sees(id, "EXPIRED").await;
    // To be late is no mistake: twice as often as bad messages would be allowed.
    for verdict in ["approve", "reject"].repeat(10) {
        let error = decider.decide(&action, verdict).await;
        assert_eq!(error["code"], "EXPIRED", "{error}");
        assert_eq!(error["expires_at"], action["expires_at"]);
    }
    decider.sees_nothing().await;
    assert_eq!(world.hand.done(), []);
}

#[tokio::test]
async fn cancelling_the_chat_decides_on_what_it_waits_for() {
    let world = World::start(1).await;
    let mut decider = world.observer(0).await;
    world.script(&[("isolate_host", host())]);
    let (mut ada, session) = world.ask().await;
    let action = decider.pending().await;
    let id = action["action_id"].as_str().unwrap();
    hears(&mut ada, "agent_tool_approval").await;
    let cancel = json!({"type": "cancel_chat", "session_id": session});
    ada.socket.send_json(&cancel).await;
    let decided = hears(&mut ada, "agent_tool_decision").await;
    assert_eq!(decided["decision"], "reject", "{decided}");
    assert_eq!(decided["reason"], "the chat was cancelled");
    let settled = decider.sees(id, "reject").await;
    assert_eq!(settled["data"]["decided_by"], SYSTEM);
    assert_eq!(settled["data"]["reason"], "the chat was cancelled");
    decider.sees(id, "CANCELLED").await;
    let error = decider.decide(&action, "approve").await;
    assert_eq!(error["code"], "ALREADY_DECIDED", "{error}");
    assert_eq!(error["decided_by"], SYSTEM);
    decider.sees_nothing().await;
    assert_eq!(world.hand.done(), []);
}

#[tokio::test]
async fn nobody_decides_without_permission_or_on_other_arguments() {
    let world = World::start(1).await;
    let mut decider = world.observer(0).await;
    world.script(&[("isolate_host", host())]);
    let (mut ada, _) = world.ask().await;
    let action = decider.pending().await;
    hears(&mut ada, "agent_tool_approval").await;
    let key = world.platform.api_key("viewer");
    let mut viewer = Observer::connect(&world.platform.gateways[0], &key, json!({})).await;
    let error = viewer.decide(&action, "approve").await;
    assert_eq!(error["code"], "FORBIDDEN", "{error}");
    let mut other = decision(&action, "approve");
    other["arguments_hash"] = json!("0".repeat(64));
    let error = decider.send(&other).await;
    assert_eq!(error["code"], "INVALID_MESSAGE", "{error}");
    assert_eq!(error["field"], "arguments_hash");
    assert_eq!(world.hand.done(), []);
    // Who says nothing of the arguments decides on those of the action.
    other.as_object_mut().unwrap().remove("arguments_hash");
    let answer = decider.send(&other).await;
    assert_eq!(answer["type"], "action_decision_recorded", "{answer}");
    hears(&mut ada, "agent_tool_decision").await;
    hears(&mut ada, "agent_tool_execution").await;
    hears(&mut ada, "agent_tool_result").await;
    assert_eq!(world.hand.done(), [("isolate_host".to_owned(), host())]);
}

#[tokio::test]
async fn calls_of_one_round_are_decided_on_one_by_one() {
    let world = World::start(1).await;
    let mut decider = world.observer(0).await;
    let port = |number| json!({"port": number});
    world.script(&[
        ("block_port", port(22)),
        ("block_port", port(443)),
        ("block_port", port(22)),
    ]);
    let (mut ada, session) = world.ask().await;
    let mut actions = Vec::new();
    for _ in 0..3 {
        actions.push(decider.pending().await);
    }
    actions.sort_by_key(|action| action["tool_call"].as_u64());
    // The same call again is another action.
    assert_eq!(actions[0]["arguments_hash"], actions[2]["arguments_hash"]);
    assert_ne!(actions[0]["action_id"], actions[2]["action_id"]);
    for (action, verdict) in actions.iter().zip(["reject", "approve", "reject"]) {
        decider.decides(action, verdict).await;
    }
    ada.hear_out(&session, 1).await;
    assert_eq!(world.hand.done(), [("block_port".to_owned(), port(443))]);
    let results = results(&world.model.received(2).await.body);
    assert_eq!(results[1], json!({"done": true}), "{results:?}");
    for refused in [&results[0], &results[2]] {
        assert_eq!(refused["outcome"], "refused", "{results:?}");
    }
}

/// Any producer may say until when its action can be decided on.
#[tokio::test]
async fn actions_of_others_expire_as_well() {
    let platform = Platform::start(1).await;
    let bus = platform.bus(User::Producer).await;
    let key = platform.api_key("analyst");
    let mut decider = Observer::connect(&platform.gateways[0], &key, json!({})).await;
    let now = OffsetDateTime::now_utc();
    let at = |time: OffsetDateTime| Timestamp::from(time).to_string();
    for (id, expires_at, is_over) in [
        ("over", at(now - Duration::SECOND), true),
        ("open", at(now + Duration::HOUR), false),
    ] {
        let data = json!({
            "action_id": id, "action_type": "isolate_instance", "status": "PENDING",
            "expires_at": expires_at,
        });
        send(&bus, "action_update", id, &data).await;
        let action = decider.pending().await;
        let answer = decider.decide(&action, "approve").await;
        let expected = if is_over {
            json!("EXPIRED")
        } else {
            Value::Null
        };
        assert_eq!(answer["code"], expected, "{answer}");
    }
    // Its end is not put off by a decision on it, but by its producer.
    let data = json!({
        "action_id": "over", "action_type": "isolate_instance", "status": "PENDING",
        "expires_at": at(now + Duration::HOUR),
    });
    decider.sees("open", "approve").await;
    send(&bus, "action_update", "over-again", &data).await;
    let action = decider.pending().await;
    decider.decides(&action, "approve").await;
    let mut stranger = WsClient::connect(&platform.gateways[0].threat_url(), &[]).await;
    stranger.send_json(&decision(&action, "approve")).await;
    assert_eq!(stranger.expect("error").await["code"], "FORBIDDEN");
}
