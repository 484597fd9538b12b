//! Every form of a producer's message, and every way to get one wrong.

use std::collections::HashMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::catalogue;
use crate::domain::Domain;

impl Headers for HashMap<&str, &str> {
    fn value(&self, name: &str) -> Option<&str> {
        self.get(name).copied()
    }
}

fn decode_alert(
    headers: &[(&'static str, &'static str)],
    payload: &[u8],
) -> Result<Event, Rejection> {
    let headers: HashMap<&str, &str> = headers.iter().copied().collect();
    decode(&Submission {
        kind: catalogue::find(Domain::Threat, "threat_alert").unwrap(),
        headers: &headers,
        payload,
        fallback_id: "seq/1-7",
        stored_at: Timestamp::parse("2024-01-01T00:00:00Z").unwrap(),
    })
}

fn alert() -> Value {
    json!({"incident_id": "t-1", "threat_type": "port_scanning", "severity": "HIGH"})
}

fn field_of(result: Result<Event, Rejection>) -> String {
    match result.unwrap_err() {
        Rejection::Field(error) => error.field,
        other => panic!("{other}"),
    }
}

#[test]
fn bare_json_takes_the_defaults() {
    let event = decode_alert(&[], alert().to_string().as_bytes()).unwrap();
    assert_eq!(event.id, "seq/1-7");
    assert_eq!(event.source, "threat_detector");
    assert_eq!(event.time.to_string(), "2024-01-01T00:00:00Z");
    assert_eq!(event.priority, Priority::High);
    assert_eq!(Value::Object(event.data), alert());
}

#[test]
fn each_header_is_honoured_by_itself() {
    let payload = alert().to_string();
    let with = |name, value| decode_alert(&[(name, value)], payload.as_bytes()).unwrap();
    assert_eq!(with(CE_ID, "e-1").id, "e-1");
    assert_eq!(with(CE_SOURCE, "ids").source, "ids");
    assert_eq!(
        with(CE_TIME, "2024-05-05T05:05:05+02:00").time.to_string(),
        "2024-05-05T03:05:05Z"
    );
    assert_eq!(with(CE_PRIORITY, "LOW").priority, Priority::Low);
    assert_eq!(
        with(CE_ID, "e-1").message_id(),
        "threat/threat_detector/e-1"
    );
}

#[test]
fn structured_cloudevents_are_known_by_content_type_or_shape() {
    let payload = json!({
        "specversion": "1.0", "type": "anything", "id": "e-2", "source": "ids",
        "time": "2024-05-05T05:05:05.5Z", "priority": "MEDIUM", "data": alert(),
    });
    for headers in [
        &[][..],
        &[(CONTENT_TYPE, "application/cloudevents+json; charset=utf-8")],
    ] {
        let event = decode_alert(headers, payload.to_string().as_bytes()).unwrap();
        assert_eq!((event.id.as_str(), event.source.as_str()), ("e-2", "ids"));
        assert_eq!(event.time.to_string(), "2024-05-05T05:05:05.500Z");
        assert_eq!(event.priority, Priority::Medium);
        assert_eq!(Value::Object(event.data), alert());
    }
}

#[test]
fn protobuf_events_are_known_by_content_type() {
    let message = wire::Event {
        id: "e-3".into(),
        data: alert().to_string().into(),
        ..wire::Event::default()
    };
    let event = decode_alert(&[(CONTENT_TYPE, PROTOBUF)], &message.encode_to_vec()).unwrap();
    assert_eq!(
        (event.id.as_str(), event.source.as_str()),
        ("e-3", "threat_detector")
    );
}

#[test]
fn refusals_name_the_field() {
    let payload = alert().to_string();
    let header = |name, value| field_of(decode_alert(&[(name, value)], payload.as_bytes()));
    assert_eq!(header(CE_ID, "a b"), "id");
    assert_eq!(header(CE_SOURCE, ""), "source");
    assert_eq!(header(CE_TIME, "noon"), "time");
    assert_eq!(header(CE_PRIORITY, "high"), "priority");
    let body = |value: Value| field_of(decode_alert(&[], value.to_string().as_bytes()));
    assert_eq!(
        body(json!({"incident_id": "t", "threat_type": "x"})),
        "severity"
    );
    assert_eq!(
        body(json!({"specversion": "0.3", "data": {}})),
        "specversion"
    );
    assert_eq!(body(json!({"specversion": "1.0", "data": [1]})), "data");
    assert_eq!(
        body(json!({"specversion": "1.0", "data": {}, "id": 5})),
        "id"
    );
}

#[test]
fn what_a_rejected_message_says_of_itself_is_read() {
    let says = |headers: &[(&'static str, &'static str)], payload: &[u8]| {
        let headers: HashMap<&str, &str> = headers.iter().copied().collect();
        let stated = stated(&headers, payload);
        (stated.id, stated.time)
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(says(&[], b"{\"id\":\"data\"}"), (None, None));
    assert_eq!(says(&[(CE_ID, "1")], b"{"), (some("1"), None));
    let cloud = json!({"specversion": "0.3", "data": [], "id": 5, "time": "noon"}).to_string();
    assert_eq!(says(&[], cloud.as_bytes()), (some("5"), some("noon")));
    assert_eq!(says(&[(CE_ID, "outer")], cloud.as_bytes()).0, some("outer"));
    let bare = json!({"id": "1"}).to_string();
    assert_eq!(
        says(&[(CONTENT_TYPE, STRUCTURED)], bare.as_bytes()),
        (some("1"), None)
    );
    let event = wire::Event {
        id: "p".into(),
        ..wire::Event::default()
    };
    assert_eq!(
        says(&[(CONTENT_TYPE, PROTOBUF)], &event.encode_to_vec()),
        (some("p"), None)
    );
    assert_eq!(says(&[(CONTENT_TYPE, PROTOBUF)], b"\xff"), (None, None));
}

#[test]
fn what_is_no_object_is_malformed() {
    for payload in [&b""[..], b"null", b"[]", b"{", b"\xff", b"{}{}"] {
        assert!(matches!(
            decode_alert(&[], payload),
            Err(Rejection::Malformed { .. })
        ));
    }
    let broken = decode_alert(&[(CONTENT_TYPE, PROTOBUF)], b"\xff\xff");
    assert!(matches!(broken, Err(Rejection::Malformed { .. })));
}

#[test]
fn size_and_depth_are_bounded() {
    let huge = vec![b' '; MAX_PAYLOAD_BYTES + 1];
    assert_eq!(
        decode_alert(&[], &huge),
        Err(Rejection::TooLarge(MAX_PAYLOAD_BYTES + 1))
    );
    let mut data = alert();
    data["deep"] = (0..31).fold(json!(1), |inner, _| json!([inner]));
    assert!(decode_alert(&[], data.to_string().as_bytes()).is_ok());
    data["deep"] = json!([data["deep"]]);
    assert_eq!(
        decode_alert(&[], data.to_string().as_bytes()),
        Err(Rejection::TooDeep)
    );
    let bomb = format!("{{\"a\":{}", "[".repeat(100_000));
    assert!(decode_alert(&[], bomb.as_bytes()).is_err());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(payload: Vec<u8>, form in 0..3) {
        let headers: &[_] = match form {
            0 => &[],
            1 => &[(CONTENT_TYPE, STRUCTURED)],
            _ => &[(CONTENT_TYPE, PROTOBUF)],
        };
        decode_alert(headers, &payload).ok();
    }
}
