//! What dialect `threat` reads and writes (T1-T6 at the level of frames).

use serde_json::{Value, json};
use signalbox_protocol::catalogue;
use signalbox_protocol::cursor::Epoch;
use signalbox_protocol::domain::Domain;
use signalbox_protocol::event::{Event, Priority};
use signalbox_protocol::timestamp::Timestamp;

use super::*;

fn event(name: &str, data: Value) -> HubEvent {
    let kind = catalogue::find(Domain::Threat, name).unwrap();
    let Value::Object(data) = data else {
        panic!("not an object")
    };
    kind.check(&data).unwrap();
    let topic = kind.route.topic(&data).unwrap();
    let event = Event {
        kind,
        id: "e-1".into(),
        source: kind.source.into(),
        time: Timestamp::parse("2024-12-19T21:30:00Z").unwrap(),
        priority: Priority::High,
        data,
    };
    HubEvent {
        sequence: 7,
        topic,
        event,
        trace: None,
        weight: 0,
    }
}

fn written(event: &HubEvent, metrics: Option<Vec<String>>) -> Option<Value> {
    let cursor = Cursor {
        epoch: Epoch::from_unix_micros(0xa),
        sequence: 7,
    };
    let frame = encode(event, cursor, &Projection::new(metrics))?;
    let bytes = frame.as_bytes();
    let payload = match bytes[1] {
        126 => &bytes[4..],
        _ => &bytes[2..],
    };
    Some(serde_json::from_slice(payload).unwrap())
}

fn complaint(frame: &str) -> (ErrorCode, String) {
    let complaint = Threat.decode(frame).unwrap_err();
    (complaint.code, complaint.message)
}

#[test]
fn nested_events_keep_the_documented_shape() {
    let data = json!({"incident_id": "t", "threat_type": "x", "severity": "HIGH", "more": [1]});
    assert_eq!(
        written(&event("threat_alert", data.clone()), None).unwrap(),
        json!({
            "type": "threat_alert", "channel": "threat_alerts", "timestamp": "2024-12-19T21:30:00Z",
            "data": data, "id": "e-1", "seq": "a-7",
        })
    );
}

#[test]
fn an_investigations_id_stands_beside_its_data() {
    let update = event(
        "investigation_update",
        json!({"investigation_id": "i", "progress": 1, "status": "S"}),
    );
    let frame = written(&update, None).unwrap();
    assert_eq!(frame["investigation_id"], "i");
    assert_eq!(frame["data"], json!({"progress": 1, "status": "S"}));
}

#[test]
fn flat_events_have_their_fields_at_the_top() {
    let user = json!({"id": "u", "name": "U", "role": "R"});
    let joined = event(
        "investigation_collaboration",
        json!({"investigation_id": "i", "event": "USER_JOINED", "user": user, "type": "forged"}),
    );
    let frame = written(&joined, None).unwrap();
    assert_eq!(frame["type"], "investigation_collaboration");
    assert_eq!(
        (&frame["event"], &frame["user"]),
        (&json!("USER_JOINED"), &user)
    );
    assert_eq!(frame.get("data"), None);
}

#[test]
fn metrics_are_narrowed_to_the_keys_asked_for() {
    let update = event("metrics_update", json!({"a": 1, "b": {"c": 2}}));
    let narrowed = |keys: &[&str]| {
        written(
            &update,
            Some(keys.iter().map(ToString::to_string).collect()),
        )
    };
    assert_eq!(
        narrowed(&["b", "nope"]).unwrap()["data"],
        json!({"b": {"c": 2}})
    );
    assert_eq!(narrowed(&["nope"]), None);
    assert_eq!(
        written(&update, None).unwrap()["data"],
        json!({"a": 1, "b": {"c": 2}})
    );
}

#[test]
fn unknown_channels_and_filters_are_named() {
    let (code, message) = complaint(r#"{"type":"subscribe","channel":"nope"}"#);
    assert_eq!(code, ErrorCode::UnknownChannel);
    assert!(message.contains("`nope`") && message.contains("threat_alerts"));
    let (code, message) =
        complaint(r#"{"type":"subscribe","channel":"threat_alerts","filters":{"colour":["red"]}}"#);
    assert_eq!(code, ErrorCode::UnknownFilter);
    assert!(message.contains("`colour`") && message.contains("severity, threat_types, resources"));
    let (code, _) = complaint(
        r#"{"type":"subscribe","channel":"system_metrics","filters":{"severity":["x"]}}"#,
    );
    assert_eq!(code, ErrorCode::UnknownFilter);
    let (code, _) = complaint(r#"{"type":"subscribe","channel":"threat_alerts","metrics":["x"]}"#);
    assert_eq!(code, ErrorCode::InvalidMessage);
}
