//! What fuzzers and the seeded test of mutations feed: each function takes any
//! bytes, and panics if a decoder does, or breaks a promise of its own.

use prost::Message as _;
use serde_json::Value;
use serde_json::value::RawValue;
use signalbox_protocol::catalogue;
use signalbox_protocol::cursor::Cursor;
use signalbox_protocol::envelope::{
    self, CE_ID, CE_PRIORITY, CE_SOURCE, CE_TIME, CONTENT_TYPE, Headers, PROTOBUF, STRUCTURED,
    Submission,
};
use signalbox_protocol::frame::fields::Complaint;
use signalbox_protocol::frame::workspace::Room;
use signalbox_protocol::frame::{fleet, mesh, socketio, threat, workspace};
use signalbox_protocol::timestamp::Timestamp;
use signalbox_protocol::{Dialect, ErrorCode, json, name, wire};

/// What a complaint may add to the text that it quotes.
const COMPLAINT_BYTES: usize = 512;

/// Client frames of dialect `threat`: refused ones have a code that fits and a
/// message that is no longer than what it quotes, accepted ones stay the same
/// when JSON is written anew.
pub(crate) fn client_frame(bytes: &[u8]) {
    decoded(bytes, threat::ClientFrame::decode);
}

/// The same for client frames of dialect `mesh`.
pub(crate) fn mesh_frame(bytes: &[u8]) {
    decoded(bytes, mesh::ClientFrame::decode);
}

/// The same for client frames of dialect `fleet`; batches that are in order open.
pub(crate) fn fleet_frame(bytes: &[u8]) {
    decoded(bytes, fleet::ClientFrame::decode);
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    if let Ok(fleet::ClientFrame::Batch(batch)) = fleet::ClientFrame::decode(text) {
        let count = batch.count;
        if let Ok(messages) = batch.open() {
            assert_eq!(messages.len() as u64, count);
            for message in messages {
                let kind = fleet::ClientMessage::inner(message).kind;
                assert!(!matches!(kind, Some("batch" | "compressed")));
            }
        }
    }
}

fn decoded<T: PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    decode: impl Fn(&str) -> Result<T, Complaint>,
) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match decode(text) {
        Ok(frame) => {
            let value: Value = serde_json::from_str(text).expect("frames are JSON");
            assert_eq!(decode(&value.to_string()), Ok(frame));
        }
        Err(complaint) => {
            assert!(matches!(
                complaint.code,
                ErrorCode::InvalidJson | ErrorCode::InvalidMessage | ErrorCode::UnknownType
            ));
            assert!(complaint.message.len() <= text.len() + COMPLAINT_BYTES);
        }
    }
}

/// Events of clients over Socket.IO: the event's name, a line break and its
/// argument, on a connection of either dialect. Refused ones have a code that
/// fits, accepted ones stay the same when JSON is written anew, and rooms are
/// written as they are read.
pub(crate) fn socketio_event(bytes: &[u8]) {
    let Some((name, argument)) = std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| text.split_once('\n'))
    else {
        return;
    };
    let Ok(argument) = RawValue::from_string(argument.to_owned()) else {
        return;
    };
    let arguments = [&*argument];
    let repeated = workspace::named_room(&arguments);
    assert!(repeated.is_none_or(|room| room.len() <= argument.get().len()));
    for own in [Dialect::Pipeline, Dialect::Workspace] {
        match socketio::ClientEvent::decode(own, name, &arguments) {
            Ok(event) => {
                if let socketio::ClientEvent::Workspace(
                    workspace::ClientEvent::Subscribe { room, .. }
                    | workspace::ClientEvent::Unsubscribe { room },
                ) = &event
                {
                    assert_eq!(room.to_string().parse::<Room>().as_ref(), Ok(room));
                }
                // `ping` takes anything, also what is too deep to be read.
                if let Ok(value) = serde_json::from_str::<Value>(argument.get()) {
                    let again = RawValue::from_string(value.to_string()).expect("it is JSON");
                    let again = socketio::ClientEvent::decode(own, name, &[&again]);
                    assert_eq!(again, Ok(event));
                }
            }
            Err(complaint) => {
                assert!(matches!(
                    complaint.code,
                    ErrorCode::InvalidJson
                        | ErrorCode::InvalidMessage
                        | ErrorCode::UnknownType
                        | ErrorCode::UnknownChannel
                        | ErrorCode::UnknownFilter
                        | ErrorCode::InvalidRoom
                ));
                assert!(complaint.message.len() <= bytes.len() + COMPLAINT_BYTES);
            }
        }
    }
}

/// The headers of a message, each as a line `name: value`.
struct Lines<'a>(&'a str);

impl Headers for Lines<'_> {
    fn value(&self, name: &str) -> Option<&str> {
        self.0
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find_map(|(known, value)| (known == name).then_some(value))
    }
}

/// Producers' messages: header lines, an empty line and the body, for the
/// event type that the first byte chooses. What is accepted is fit to be
/// stored, and is accepted again as it is stored.
pub(crate) fn envelope(bytes: &[u8]) {
    let Some((choice, rest)) = bytes.split_first() else {
        return;
    };
    let kinds: Vec<_> = catalogue::all().collect();
    let kind = kinds[usize::from(*choice) % kinds.len()];
    let end = rest
        .windows(2)
        .position(|pair| pair == b"\n\n")
        .unwrap_or(rest.len());
    let Ok(headers) = std::str::from_utf8(&rest[..end]) else {
        return;
    };
    let submission = Submission {
        kind,
        headers: &Lines(headers),
        payload: rest.get(end + 2..).unwrap_or_default(),
        fallback_id: "seq/1-7",
        stored_at: Timestamp::parse("2024-01-01T00:00:00Z").expect("a literal time"),
    };
    let Ok(event) = envelope::decode(&submission) else {
        return;
    };
    assert!(name::is_valid(&event.id) && name::is_valid(&event.source));
    assert!(json::is_within_depth(&event.data, json::MAX_DEPTH));
    event.topic().expect("what is accepted can be routed");
    let (id, source, time) = (
        event.id.clone(),
        event.source.clone(),
        event.time.to_string(),
    );
    let again = format!(
        "{CE_ID}: {id}\n{CE_SOURCE}: {source}\n{CE_TIME}: {time}\n{CE_PRIORITY}: {}",
        event.priority
    );
    // Nothing tells data that looks like a CloudEvent from one.
    if event.data.contains_key("specversion") && event.data.contains_key("data") {
        return;
    }
    let data = Value::Object(event.data.clone()).to_string();
    let stored = Submission {
        headers: &Lines(&again),
        payload: data.as_bytes(),
        ..submission
    };
    assert_eq!(envelope::decode(&stored), Ok(event));
}

/// Resume offsets: what is read is written back the same.
pub(crate) fn cursor(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(cursor) = text.parse::<Cursor>() {
        assert_eq!(cursor.to_string(), text);
    }
}

/// A function of this module.
pub(crate) type Entry = fn(&[u8]);

/// Valid inputs of each function, to be mutated.
pub(crate) fn seeds() -> [(Entry, Vec<Vec<u8>>); 6] {
    let frames = [
        r#"{"type":"authenticate","token":"sbk_a_b","client_info":{"name":"d","version":"1","user_id":"u"}}"#,
        r#"{"type":"subscribe","channel":"threat_alerts","filters":{"severity":["HIGH","LOW"],"resources":["i-1"]},"since":"61d1e0-17"}"#,
        r#"{"type":"subscribe","channel":"system_metrics","metrics":["threat_count"],"investigation_id":"inv-1"}"#,
        r#"{"type":"unsubscribe","subscription_id":"sub-1"}"#,
        r#"{"type":"ping","extra":[1,-2.5e3,null,true,"\u00fc\ud83d\ude00"]}"#,
    ];
    let mesh_frames = [
        r#"{"type":"authenticate","token":"sbk_a_b"}"#,
        r#"{"type":"subscribe","channel":"network_events","filter":{"event":["node_joined"],"data":{"a":[1,null]},"b":"x"},"since":"61d1e0-17"}"#,
        r#"{"type":"unsubscribe","channel":"network_events"}"#,
    ];
    let socketio_events = [
        "authenticate\n{\"token\":\"sbk_a_b\"}",
        "subscribe\n{\"categories\":[\"DEBUG\",\"USER\"],\"event_types\":[\"system_alert\"],\"min_priority\":\"HIGH\",\"since\":\"61d1e0-17\"}",
        "subscribe\n{\"room\":\"project:3f0c7a52\",\"since\":\"61d1e0-17\"}",
        "unsubscribe\n{\"room\":\"agent:a:b\"}",
        "subscribe\n{\"room\":\"global\"}",
        "ping\n{\"extra\":[1,-2.5e3,null,true,\"\\u00fc\"]}",
    ];
    let fleet_frames = [
        r#"{"type":"dashboard:connect","dashboardId":"d-1","capabilities":["batch"],"resumeFrom":"61d1e0-0.17","requestId":"r"}"#,
        r#"{"type":"agent:connect","agentId":"a-1","agentType":"shell","version":"1","concurrency":2,"running":["cmd-1"],"ended":[]}"#,
        r#"{"type":"agent:status","agentId":"a-1","status":"busy","metrics":{"cpuUsage":45.2}}"#,
        r#"{"type":"command:request","agentId":"a-1","command":"ls","args":["-l",""],"priority":"low","queueIfOffline":true}"#,
        r#"{"type":"command:complete","commandId":"c-1","exitCode":0,"duration":1234}"#,
        r#"{"type":"terminal:output","agentId":"a-1","commandId":"c-1","output":{"type":"stdout","content":"x","raw":"eA=="},"offset":7}"#,
        r#"{"type":"batch","messages":[{"type":"heartbeat:ping"},{"type":"heartbeat:pong"}],"count":2}"#,
        r#"{"type":"compressed","algorithm":"gzip","originalType":"batch","originalSize":9,"compressedSize":3,"data":"eA=="}"#,
    ];
    let cursors = ["61d1e0-17", "1-0", "ffffffffffffffff-18446744073709551615"];
    let bytes = |text: &&str| text.as_bytes().to_vec();
    [
        (client_frame, frames.iter().map(bytes).collect()),
        (mesh_frame, mesh_frames.iter().map(bytes).collect()),
        (socketio_event, socketio_events.iter().map(bytes).collect()),
        (fleet_frame, fleet_frames.iter().map(bytes).collect()),
        (envelope, envelopes()),
        (cursor, cursors.iter().map(bytes).collect()),
    ]
}

/// A message of each form.
fn envelopes() -> Vec<Vec<u8>> {
    let alert =
        r#"{"incident_id":"t-1","threat_type":"port_scanning","severity":"HIGH","confidence":95}"#;
    let update =
        r#"{"investigation_id":"inv-1","progress":45,"status":"X","nested":[[[{"a":1}]]]}"#;
    let structured = format!(
        r#"{{"specversion":"1.0","id":"e","source":"s","time":"2024-12-19T21:30:00+01:00","priority":"HIGH","data":{alert}}}"#
    );
    let encoded = wire::Event {
        id: "e-1".to_owned(),
        source: "s".to_owned(),
        time: "2024-12-19T21:30:00Z".to_owned(),
        priority: "LOW".to_owned(),
        data: alert.into(),
    }
    .encode_to_vec();
    let attributes = format!(
        "{CE_ID}: e-1\n{CE_SOURCE}: ids\n{CE_TIME}: 2024-12-19T21:30:00.000Z\n{CE_PRIORITY}: LOW"
    );
    let forms: [(String, &[u8]); 5] = [
        (String::new(), alert.as_bytes()),
        (attributes, alert.as_bytes()),
        (String::new(), update.as_bytes()),
        (
            format!("{CONTENT_TYPE}: {STRUCTURED}"),
            structured.as_bytes(),
        ),
        (format!("{CONTENT_TYPE}: {PROTOBUF}"), &encoded),
    ];
    let kinds = 0..u8::try_from(catalogue::all().count()).expect("a byte chooses the type");
    kinds
        .flat_map(|kind| {
            forms
                .iter()
                .map(move |(headers, body)| [&[kind], headers.as_bytes(), b"\n\n", body].concat())
        })
        .collect()
}
