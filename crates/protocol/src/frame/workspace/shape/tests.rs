//! The codec of dialect `workspace` is what its shape says.

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::super::{
    Acknowledgement, ClientEvent, Connection, ConnectionError, ConnectionEstablished, EventPayload,
    Failure, Room, named_room,
};
use super::*;
use crate::cursor::{Cursor, Epoch};
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

fn raw(argument: &str) -> Box<RawValue> {
    RawValue::from_string(argument.to_owned()).unwrap()
}

fn decode(name: &str, argument: &str) -> Result<ClientEvent, Complaint> {
    ClientEvent::decode(name, &[&raw(argument)])
}

#[test]
fn the_decoder_agrees() {
    decoder_agrees(&SHAPE, of_frames(ClientEvent::decode));
}

#[test]
fn events_of_clients_are_read() {
    assert_eq!(
        decode("subscribe", r#"{"room": "project:p-1", "since": "a-7"}"#),
        Ok(ClientEvent::Subscribe {
            room: Room::Project("p-1".to_owned()),
            since: Some(SEQ),
        })
    );
    assert_eq!(
        decode("unsubscribe", r#"{"room": "global", "since": 7}"#),
        Ok(ClientEvent::Unsubscribe { room: Room::Global })
    );
    for argument in ["{}", "null", "7", "[]"] {
        assert_eq!(decode("ping", argument), Ok(ClientEvent::Ping));
    }
    assert_eq!(ClientEvent::decode("ping", &[]), Ok(ClientEvent::Ping));
}

#[test]
fn every_bad_event_is_answered_with_a_code_and_its_field() {
    use ErrorCode::{InvalidMessage, InvalidRoom, UnknownType};
    let room = Some("room");
    for name in ["subscribe", "unsubscribe"] {
        for argument in [
            "{}",
            "null",
            r#"{"room": null}"#,
            r#"{"room": 7}"#,
            r#"{"room": ["global"]}"#,
            r#"{"room": "projects"}"#,
            r#"{"room": {"_placeholder": true, "num": 0}}"#,
        ] {
            let complaint = decode(name, argument).expect_err(argument);
            assert_eq!(complaint.code, InvalidRoom, "{name} {argument}");
            assert_eq!(complaint.field.as_deref(), room, "{name} {argument}");
        }
        for argument in ["7", "\"global\"", "[]"] {
            let complaint = decode(name, argument).expect_err(argument);
            assert_eq!(complaint.code, InvalidMessage, "{name} {argument}");
        }
        assert!(ClientEvent::decode(name, &[]).is_err());
    }
    let complaint = decode("subscribe", r#"{"room": "global", "since": 7}"#).unwrap_err();
    assert_eq!(complaint.code, InvalidMessage);
    assert_eq!(complaint.field.as_deref(), Some("since"));
    for name in ["Ping", "authenticate", "project.updated", ""] {
        assert_eq!(decode(name, "{}").unwrap_err().code, UnknownType, "{name}");
    }
}

#[test]
fn rooms_are_repeated_as_they_were_written_unless_they_are_endless() {
    let named = |argument: &str| named_room(&[&raw(argument)]);
    assert_eq!(named(r#"{"room": "team:x y"}"#), Some("team:x y".into()));
    assert_eq!(named(r#"{"room": 7}"#), None);
    assert_eq!(named("7"), None);
    assert_eq!(named_room(&[]), None);
    let long = format!(r#"{{"room": "{}"}}"#, "x".repeat(1_000));
    assert_eq!(named(&long), None);
    let longest = format!("project:{}", "x".repeat(128));
    let argument = json!({"room": longest}).to_string();
    assert_eq!(named(&argument), Some(longest));
}

/// Every message of the server, with all that may be absent or without it.
fn messages(full: bool) -> Vec<(&'static str, Value)> {
    let options = full.then_some(());
    let established = ConnectionEstablished {
        timestamp: time(),
        data: Connection {
            connection_id: "abc",
            user_id: "u-1",
            protocol_version: PROTOCOL_VERSION,
            seq: SEQ,
            recovered: options.map(|()| false),
            rooms: options.map(|()| vec!["global".to_owned()]),
        },
    };
    let error = ConnectionError {
        timestamp: time(),
        data: Failure {
            error_code: ErrorCode::RoomAccessDenied,
            error_message: "m",
            connection_id: options.map(|()| "abc"),
            room: options.map(|()| "user:u-2"),
            field: options.map(|()| "room"),
            retry_after: options.map(|()| 1_000),
            expires_at: options.map(|()| time()),
        },
    };
    let success = Acknowledgement::Success {
        room: &Room::Agent("a-1".to_owned()),
        seq: options.map(|()| SEQ),
        recovered: options.map(|()| true),
    };
    let refusal = Acknowledgement::Error {
        error_code: ErrorCode::InvalidRoom,
        error_message: "m",
        room: options.map(|()| "x"),
        field: options.map(|()| "f"),
        retry_after: options.map(|()| 1_000),
    };
    vec![
        ("connection_established", json!(established)),
        ("connection_error", json!(error)),
        ("acknowledgement.success", json!(success)),
        ("acknowledgement.error", json!(refusal)),
        ("acknowledgement.pong", json!(Acknowledgement::Pong)),
    ]
}

#[test]
fn messages_have_the_fields_of_their_shapes() {
    payloads_agree(&SHAPE, &messages(true), &messages(false));
    let scant = messages(false);
    // Documented as always there, also where there is nothing to say.
    assert_eq!(scant[1].1["data"].get("connection_id"), Some(&Value::Null));
    assert_eq!(scant[4].1, json!({"status": "pong"}));
}

#[test]
fn events_have_the_fields_of_their_shapes() {
    let mut count = 0;
    for (kind, message) in SHAPE.events() {
        let data = data_of(kind);
        let word = kind.words.workspace.unwrap();
        assert_eq!(word.event, format!("{}.{}", kind.domain, kind.name));
        let payload = json!(EventPayload {
            kind: word.event,
            timestamp: time(),
            source: kind.source,
            data: &data,
            id: "e-1",
            seq: SEQ,
        });
        message.check(&payload).unwrap();
        let keys = payload.as_object().unwrap().len();
        assert_eq!(keys, message.fields.len(), "{payload}");
        count += 1;
    }
    assert_eq!(count, 17);
}
