//! All forms, and every complaint by the field that it names.

use http::{HeaderName, HeaderValue};
use serde_json::Value;
use signalbox_bus::intake::MAX_BATCH_EVENTS;
use signalbox_bus::subject;
use signalbox_protocol::ErrorCode;
use signalbox_protocol::catalogue;
use signalbox_protocol::domain::Domain;
use signalbox_protocol::envelope::{self, Submission};

use super::draft::BATCH;
use super::*;

const GOOD: &str = r#"{"incident_id":"t-1","threat_type":"x","severity":"HIGH"}"#;
const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

type Headers<'a> = &'a [(&'a str, &'a str)];

fn post(headers: Headers<'_>, query: &str, body: &str) -> Result<Vec<Ready>, Complaint> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let name: HeaderName = name.parse().unwrap();
        map.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    read(&Posted {
        headers: &map,
        query,
        body: body.as_bytes(),
        permissions: Permissions::of(&[Permission::Publish(Domain::Threat)]),
        now: Timestamp::from_unix_millis(0).unwrap(),
    })
}

fn one(headers: &[(&str, &str)], query: &str, body: &str) -> Ready {
    let mut events = post(headers, query, body).unwrap();
    assert_eq!(events.len(), 1);
    events.remove(0)
}

/// What a router reads.
fn routed(ready: &Ready) -> signalbox_protocol::Event {
    let (domain, name) = subject::parse_event(&ready.message.subject).unwrap();
    envelope::decode(&Submission {
        kind: catalogue::find(domain, name).unwrap(),
        headers: &bus_header::MessageHeaders(Some(&ready.message.headers)),
        payload: &ready.message.payload,
        fallback_id: "-",
        stored_at: Timestamp::from_unix_millis(0).unwrap(),
    })
    .unwrap()
}

fn cloud_event(extra: &str) -> String {
    format!(r#"{{"specversion":"1.0","type":"threat.threat_alert",{extra}"data":{GOOD}}}"#)
}

const STRUCTURED_FORM: (&str, &str) = (
    "content-type",
    "Application/CloudEvents+JSON; charset=utf-8",
);
const BATCH_FORM: (&str, &str) = ("content-type", BATCH);
const BINARY: [(&str, &str); 2] = [
    ("ce-specversion", "1.0"),
    ("ce-type", "threat.threat_alert"),
];

#[test]
fn all_forms_say_the_same() {
    let inside = cloud_event(
        r#""id":"a","source":"ids","time":"2024-12-19T22:30:00+01:00","priority":"LOW","#,
    );
    let mut binary = BINARY.to_vec();
    binary.extend([
        ("ce-id", "%61"),
        ("ce-source", "ids"),
        ("ce-time", "2024-12-19T21:30:00Z"),
        ("ce-priority", "LOW"),
    ]);
    let batch = format!("[{inside}]");
    for (headers, body) in [
        (vec![STRUCTURED_FORM], inside.as_str()),
        (vec![], inside.as_str()),
        (vec![("content-type", "application/json")], inside.as_str()),
        (binary, GOOD),
        (vec![BATCH_FORM], batch.as_str()),
    ] {
        let ready = one(&headers, "", body);
        assert_eq!(ready.message.subject, "events.threat.threat_alert");
        assert_eq!(ready.message.message_id, "threat/ids/a");
        let event = routed(&ready);
        assert_eq!((event.id.as_str(), event.source.as_str()), ("a", "ids"));
        assert_eq!(event.time.to_string(), "2024-12-19T21:30:00Z");
        assert_eq!(event.priority.as_str(), "LOW");
        assert_eq!(Value::Object(event.data).to_string(), GOOD);
    }
    let bare = one(&[], "type=threat.threat_alert&id=a&source=%69ds", GOOD);
    assert_eq!(bare.message.message_id, "threat/ids/a");
    let bare = post(&[], "type=threat.threat_alert&source=i%20ds", GOOD);
    assert_eq!(bare.unwrap_err().field.as_deref(), Some("source"));
}

#[test]
fn data_that_looks_like_an_event_stays_data() {
    let data = r#"{"specversion":"1.0","data":{"id":"inner"}}"#;
    let body = format!(
        r#"{{"specversion":"1.0","id":"outer","type":"threat.metrics_update","data":{data}}}"#
    );
    let event = routed(&one(&[STRUCTURED_FORM], "", &body));
    assert_eq!(event.id, "outer");
    assert_eq!(Value::Object(event.data).to_string(), data);
}

#[test]
fn ids_come_from_the_event_or_the_key_or_nowhere() {
    let key = |value| ("Idempotency-Key", value);
    assert_eq!(one(&[key("k")], "type=threat.threat_alert", GOOD).id, "k");
    assert_eq!(
        one(&[key("\"k\"")], "type=threat.threat_alert", GOOD).id,
        "k"
    );
    assert_eq!(
        one(&[key("k")], "type=threat.threat_alert&id=i", GOOD).id,
        "i"
    );
    let batch = format!("[{},{}]", cloud_event(""), cloud_event(r#""id":"i","#));
    let events = post(&[BATCH_FORM, key("k")], "", &batch).unwrap();
    assert_eq!((events[0].id.as_str(), events[1].id.as_str()), ("k.0", "i"));
    let made = |_| one(&[], "type=threat.threat_alert", GOOD).id;
    assert_ne!(made(0), made(1));
}

#[test]
fn traces_go_on() {
    let of = |ready: &Ready| ready.message.headers.get(TRACEPARENT).unwrap().to_string();
    let request = ("traceparent", TRACE);
    let ready = one(&[request], "type=threat.threat_alert", GOOD);
    assert_eq!(of(&ready)[..35], TRACE[..35]);
    assert_ne!(of(&ready), TRACE, "the span is another");
    assert!(of(&ready).ends_with("-01"));
    let other = TRACE.replace("4bf", "aaa");
    let own = cloud_event(&format!(r#""traceparent":"{other}","#));
    assert_eq!(
        of(&one(&[request, STRUCTURED_FORM], "", &own))[..35],
        other[..35]
    );
    for bad in ["", "nonsense", "00-0-0-00"] {
        let ready = one(&[("traceparent", bad)], "type=threat.threat_alert", GOOD);
        assert!(of(&ready).parse::<TraceParent>().is_ok());
    }
}

#[test]
fn an_empty_batch_is_no_mistake() {
    assert!(post(&[BATCH_FORM], "", "[]").unwrap().is_empty());
}

#[test]
fn complaints_name_the_field() {
    let query = "type=threat.threat_alert";
    let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(40), "]".repeat(40));
    let bad_data = cloud_event("").replace("\"HIGH\"", "7");
    let third = format!("[{0},{0},{bad_data}]", cloud_event(""));
    let twice = format!("[{0},{0}]", cloud_event(r#""id":"a","#));
    let many = format!(
        "[{}]",
        vec![cloud_event(""); MAX_BATCH_EVENTS + 1].join(",")
    );
    let long = "x".repeat(129);
    let long_query = format!("{query}&id={long}");
    let structured: &[(&str, &str)] = &[STRUCTURED_FORM];
    let batch: &[(&str, &str)] = &[BATCH_FORM];
    let with = |extra: &str| cloud_event(extra);
    let (time, id, number) = (
        with(r#""time":"now","#),
        with(r#""id":"a b","#),
        with(r#""source":5,"#),
    );
    let (form, priority) = (
        with(r#""datacontenttype":"text/xml","#),
        with(r#""priority":"URGENT","#),
    );
    let old = cloud_event("").replace("1.0", "0.3");
    let encoded = r#"{"specversion":"1.0","type":"threat.threat_alert","data_base64":"e30="}"#;
    let cases: &[(Headers<'_>, &str, &str, ErrorCode, Option<&str>)] = &[
        (&[], query, "{", ErrorCode::InvalidJson, None),
        (&[], query, "", ErrorCode::InvalidJson, None),
        (&[], query, "[]", ErrorCode::InvalidMessage, Some("data")),
        (&[], "", GOOD, ErrorCode::InvalidMessage, Some("type")),
        (
            &[],
            "type=a&type=b",
            GOOD,
            ErrorCode::InvalidMessage,
            Some("type"),
        ),
        (
            &[],
            "type=threat",
            GOOD,
            ErrorCode::UnknownType,
            Some("type"),
        ),
        (
            &[],
            "type=threat.nope",
            GOOD,
            ErrorCode::UnknownType,
            Some("type"),
        ),
        (
            &[],
            "type=nope.x",
            GOOD,
            ErrorCode::UnknownType,
            Some("type"),
        ),
        (
            &[],
            "type=threat.threat_alert.x",
            GOOD,
            ErrorCode::UnknownType,
            Some("type"),
        ),
        (
            &[],
            &long_query,
            GOOD,
            ErrorCode::InvalidMessage,
            Some("id"),
        ),
        (
            &[],
            query,
            r#"{"incident_id":"t"}"#,
            ErrorCode::InvalidMessage,
            Some("data.threat_type"),
        ),
        (
            &[],
            query,
            &GOOD.replace("t-1", "t 1"),
            ErrorCode::InvalidMessage,
            Some("data.incident_id"),
        ),
        (
            &[],
            "type=threat.metrics_update",
            &deep,
            ErrorCode::InvalidMessage,
            Some("data"),
        ),
        (
            &[("idempotency-key", "a b")],
            query,
            GOOD,
            ErrorCode::InvalidMessage,
            Some("Idempotency-Key"),
        ),
        (
            &[("idempotency-key", "a"), ("idempotency-key", "b")],
            query,
            GOOD,
            ErrorCode::InvalidMessage,
            Some("idempotency-key"),
        ),
        (
            &[("content-type", "text/plain")],
            query,
            GOOD,
            ErrorCode::UnsupportedMediaType,
            Some("Content-Type"),
        ),
        (
            &[("content-type", "application/x-www-form-urlencoded")],
            query,
            GOOD,
            ErrorCode::UnsupportedMediaType,
            Some("Content-Type"),
        ),
        (
            &[("content-type", "application/cloudevents+avro")],
            "",
            GOOD,
            ErrorCode::UnsupportedMediaType,
            Some("Content-Type"),
        ),
        (
            structured,
            query,
            &cloud_event(""),
            ErrorCode::InvalidMessage,
            Some("type"),
        ),
        (structured, "", "[]", ErrorCode::InvalidMessage, None),
        (
            structured,
            "",
            &old,
            ErrorCode::InvalidMessage,
            Some("specversion"),
        ),
        (
            structured,
            "",
            encoded,
            ErrorCode::InvalidMessage,
            Some("data"),
        ),
        (
            structured,
            "",
            &time,
            ErrorCode::InvalidMessage,
            Some("time"),
        ),
        (structured, "", &id, ErrorCode::InvalidMessage, Some("id")),
        (
            structured,
            "",
            &number,
            ErrorCode::InvalidMessage,
            Some("source"),
        ),
        (
            structured,
            "",
            &form,
            ErrorCode::InvalidMessage,
            Some("datacontenttype"),
        ),
        (
            structured,
            "",
            &priority,
            ErrorCode::InvalidMessage,
            Some("priority"),
        ),
        (
            structured,
            "",
            &bad_data,
            ErrorCode::InvalidMessage,
            Some("data.severity"),
        ),
        (
            &[("ce-type", "threat.threat_alert")],
            "",
            GOOD,
            ErrorCode::InvalidMessage,
            Some("specversion"),
        ),
        (
            &[BINARY[0]],
            "",
            GOOD,
            ErrorCode::InvalidMessage,
            Some("type"),
        ),
        (
            &[BINARY[0], BINARY[1], ("ce-id", "%ff")],
            "",
            GOOD,
            ErrorCode::InvalidMessage,
            Some("ce-id"),
        ),
        (
            &[BINARY[0], BINARY[1], ("ce-id", "a%0Ab")],
            "",
            GOOD,
            ErrorCode::InvalidMessage,
            Some("id"),
        ),
        (
            &[BINARY[0], BINARY[1], ("ce-id", "a"), ("ce-id", "b")],
            "",
            GOOD,
            ErrorCode::InvalidMessage,
            Some("ce-id"),
        ),
        (batch, "", "{}", ErrorCode::InvalidMessage, Some("events")),
        (
            batch,
            "",
            "[7]",
            ErrorCode::InvalidMessage,
            Some("events[0]"),
        ),
        (batch, "", &many, ErrorCode::InvalidMessage, Some("events")),
        (
            batch,
            "",
            &third,
            ErrorCode::InvalidMessage,
            Some("events[2].data.severity"),
        ),
        (
            batch,
            "",
            &twice,
            ErrorCode::InvalidMessage,
            Some("events[1].id"),
        ),
    ];
    for (headers, query, body, code, field) in cases {
        let complaint = post(headers, query, body).unwrap_err();
        let at = format!("{headers:?} {query} {}", &body[..body.len().min(120)]);
        assert_eq!(
            (complaint.code, complaint.field.as_deref()),
            (*code, *field),
            "{at}"
        );
        if let Some(field) = field {
            let names_it = complaint.message.contains(&format!("`{field}`"));
            assert!(names_it, "{at}: {}", complaint.message);
        }
    }
}

#[test]
fn unknown_types_name_the_known_ones() {
    let said = |query| post(&[], query, GOOD).unwrap_err().message;
    assert!(
        said("type=nope.x").contains("threat, network"),
        "{}",
        said("type=nope.x")
    );
    let types = said("type=threat.nope");
    assert!(
        types.contains("threat.<type> with a type of threat_alert, "),
        "{types}"
    );
}

#[test]
fn each_event_needs_the_permission_of_its_domain() {
    let mut map = HeaderMap::new();
    map.insert("content-type", HeaderValue::from_static(BATCH));
    let body = format!("[{}]", cloud_event(""));
    let complaint = read(&Posted {
        headers: &map,
        query: "",
        body: body.as_bytes(),
        permissions: Permissions::of(&[Permission::Publish(Domain::Network)]),
        now: Timestamp::from_unix_millis(0).unwrap(),
    })
    .unwrap_err();
    assert_eq!(complaint.code, ErrorCode::Forbidden);
    assert_eq!(complaint.field.as_deref(), Some("events[0].type"));
    assert!(complaint.message.contains("publish:threat"), "{complaint}");
}

/// An event that fits the request, but not what the bus takes, is refused
/// here rather than found among the dead letters.
#[test]
fn events_are_bounded_as_routers_bound_them() {
    let data = format!(
        r#"{{"x":"{}"}}"#,
        "y".repeat(envelope::MAX_PAYLOAD_BYTES - 20)
    );
    let complaint = post(&[], "type=threat.metrics_update", &data).unwrap_err();
    assert_eq!(complaint.code, ErrorCode::TooLarge);
    assert_eq!(complaint.field.as_deref(), Some("data"));
}
