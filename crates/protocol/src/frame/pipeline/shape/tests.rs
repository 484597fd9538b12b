//! The codec of dialect `pipeline` is what its shape says.

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::super::{
    Acknowledgement, Authenticated, ClientEvent, EventPayload, Failure, Subscribe, User,
    event_types,
};
use super::*;
use crate::cursor::{Cursor, Epoch};
use crate::event::Priority;
use crate::frame::fields::Complaint;
use crate::frame::shape::tests::{data_of, decoder_agrees, of_frames, payloads_agree};
use crate::timestamp::Timestamp;

const SEQ: Cursor = Cursor {
    epoch: Epoch::from_unix_micros(0xa),
    sequence: 7,
};

fn time() -> Timestamp {
    Timestamp::parse("2024-12-19T21:30:00Z").unwrap()
}

fn decode(name: &str, argument: &str) -> Result<ClientEvent, Complaint> {
    let argument = RawValue::from_string(argument.to_owned()).unwrap();
    ClientEvent::decode(name, &[&argument])
}

#[test]
fn the_decoder_agrees() {
    decoder_agrees(&SHAPE, of_frames(ClientEvent::decode));
}

#[test]
fn events_of_clients_are_read() {
    assert_eq!(
        decode("authenticate", r#"{"token": "k", "more": 1}"#),
        Ok(ClientEvent::Authenticate {
            token: "k".to_owned()
        })
    );
    let everything = Ok(ClientEvent::Subscribe(Subscribe::default()));
    assert_eq!(ClientEvent::decode("subscribe", &[]), everything);
    assert_eq!(decode("subscribe", "null"), everything);
    assert_eq!(
        decode("subscribe", r#"{"categories": null, "min_priority": null}"#),
        everything
    );
    let Ok(ClientEvent::Subscribe(narrow)) = decode(
        "subscribe",
        r#"{"categories": ["DEBUG", "USER"], "event_types": ["system_alert"], "min_priority": "MEDIUM", "since": "a-7"}"#,
    ) else {
        panic!()
    };
    assert_eq!(
        narrow.categories,
        Some(vec![Category::Debug, Category::User])
    );
    assert_eq!(narrow.event_types.unwrap()[0].name, "system_alert");
    assert_eq!(narrow.min_priority, Some(Priority::Medium));
    assert_eq!(narrow.since, Some(SEQ));
}

#[test]
fn every_bad_event_is_answered_with_a_code_and_its_field() {
    use ErrorCode::{InvalidMessage, UnknownChannel, UnknownFilter, UnknownType};
    for (name, argument, code, field) in [
        ("authenticate", "{}", InvalidMessage, Some("token")),
        ("authenticate", "\"token\"", InvalidMessage, None),
        (
            "authenticate",
            r#"{"token": {"_placeholder": true, "num": 0}}"#,
            InvalidMessage,
            Some("token"),
        ),
        (
            "authenticate",
            r#"{"token": ""}"#,
            InvalidMessage,
            Some("token"),
        ),
        ("subscribe", "[]", InvalidMessage, None),
        (
            "subscribe",
            r#"{"categories": "DEBUG"}"#,
            InvalidMessage,
            Some("categories"),
        ),
        (
            "subscribe",
            r#"{"categories": []}"#,
            InvalidMessage,
            Some("categories"),
        ),
        (
            "subscribe",
            r#"{"categories": ["debug"]}"#,
            UnknownChannel,
            Some("categories"),
        ),
        (
            "subscribe",
            r#"{"event_types": [null]}"#,
            InvalidMessage,
            Some("event_types"),
        ),
        (
            "subscribe",
            r#"{"event_types": ["project.updated"]}"#,
            UnknownFilter,
            Some("event_types"),
        ),
        (
            "subscribe",
            r#"{"event_types": ["updated"]}"#,
            UnknownFilter,
            Some("event_types"),
        ),
        (
            "subscribe",
            r#"{"min_priority": "high"}"#,
            InvalidMessage,
            Some("min_priority"),
        ),
        (
            "subscribe",
            r#"{"min_priority": 2}"#,
            InvalidMessage,
            Some("min_priority"),
        ),
        (
            "subscribe",
            r#"{"since": "yesterday"}"#,
            InvalidMessage,
            Some("since"),
        ),
        ("Subscribe", "{}", UnknownType, None),
        ("pipeline_created", "{}", UnknownType, None),
    ] {
        let complaint = decode(name, argument).expect_err(argument);
        assert_eq!(complaint.code, code, "{name} {argument}");
        assert_eq!(complaint.field.as_deref(), field, "{name} {argument}");
    }
    let complaint = ClientEvent::decode("authenticate", &[]).unwrap_err();
    assert_eq!(complaint.field.as_deref(), Some("token"));
}

/// Every message of the server, with all that may be absent or without it.
fn messages(full: bool) -> Vec<(&'static str, Value)> {
    let options = full.then_some(());
    let failure = Failure {
        code: ErrorCode::InvalidMessage,
        message: "m",
        field: options.map(|()| "f"),
        retry_after: options.map(|()| 1_000),
        expires_at: options.map(|()| time()),
    };
    let authenticated = Authenticated {
        user: User {
            id: "u-1",
            name: "Ada",
            role: options.map(|()| "viewer"),
            permissions: vec!["read_scans".to_owned()],
        },
        expires_at: options.map(|()| time()),
        seq: SEQ,
        recovered: options.map(|()| true),
    };
    let success = Acknowledgement::Success {
        seq: SEQ,
        recovered: options.map(|()| false),
    };
    vec![
        ("authenticated", json!(authenticated)),
        ("auth_error", json!(failure)),
        ("error", json!(failure)),
        ("acknowledgement.success", json!(success)),
        (
            "acknowledgement.error",
            json!(Acknowledgement::Error(failure)),
        ),
    ]
}

#[test]
fn messages_have_the_fields_of_their_shapes() {
    payloads_agree(&SHAPE, &messages(true), &messages(false));
    let (_, authenticated) = messages(true).swap_remove(0);
    for field in ["id", "name", "role", "permissions"] {
        assert_eq!(authenticated[field], authenticated["user"][field]);
    }
}

#[test]
fn events_have_the_fields_of_their_shapes() {
    let mut count = 0;
    for (kind, message) in SHAPE.events() {
        let data = data_of(kind);
        let word = kind.words.pipeline.unwrap();
        let payload = json!(EventPayload {
            event_type: kind.name,
            category: word.category,
            priority: kind.priority,
            data: &data,
            timestamp: time(),
            id: "e-1",
            seq: SEQ,
        });
        message.check(&payload).unwrap();
        assert_eq!(message.kind, kind.name);
        let keys = payload.as_object().unwrap().len();
        assert_eq!(keys, message.fields.len(), "{payload}");
        for (name, value) in &data {
            assert_eq!(payload[name], *value, "{name}");
            assert_eq!(payload["data"][name], *value, "{name}");
        }
        count += 1;
    }
    assert_eq!(count, 24);
    assert_eq!(event_types().len(), 24);
}

#[test]
fn fields_of_an_event_never_hide_those_of_the_message() {
    let data = json!({
        "data": 1, "event_type": 2, "category": 3, "priority": 4, "timestamp": 5,
        "id": 6, "seq": 7, "other": 8,
    });
    let payload = EventPayload {
        event_type: "system_alert",
        category: Category::System,
        priority: Priority::High,
        data: data.as_object().unwrap(),
        timestamp: time(),
        id: "e-1",
        seq: SEQ,
    };
    // As text, since a name that stands there twice would not be seen else.
    let text = serde_json::to_string(&payload).unwrap();
    let own = json!({
        "other": 8, "data": data, "event_type": "system_alert", "category": "SYSTEM",
        "priority": "HIGH", "timestamp": "2024-12-19T21:30:00Z", "id": "e-1", "seq": "a-7",
    });
    assert_eq!(text, own.to_string());
}
