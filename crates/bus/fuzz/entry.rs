//! What fuzzers and the seeded test of mutations feed: each function takes any
//! bytes, and panics if a decoder does, or breaks a promise of its own.

use signalbox_bus::reader::Delivery;
use signalbox_bus::stored_event::{self, Origin};
use signalbox_bus::{HeaderMap, subject};
use signalbox_protocol::cursor::Epoch;
use signalbox_protocol::domain::Domain;
use signalbox_protocol::envelope::{CE_ID, CE_PRIORITY, CE_SOURCE, CE_TIME, CE_TYPE};
use signalbox_protocol::trace::{TRACEPARENT, TraceParent};

/// Headers that are read.
const NAMES: [&str; 6] = [CE_TYPE, CE_ID, CE_SOURCE, CE_TIME, CE_PRIORITY, TRACEPARENT];

/// Stored events: the subject, header lines, an empty line and the body. What
/// is read can be written, and is then read as the same.
pub(crate) fn stored_event(bytes: &[u8]) {
    let end = bytes.windows(2).position(|pair| pair == b"\n\n");
    let end = end.unwrap_or(bytes.len());
    let Ok(head) = std::str::from_utf8(&bytes[..end]) else {
        return;
    };
    let mut lines = head.split('\n');
    let subject = lines.next().unwrap_or_default();
    let mut headers = HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        // The bus itself lets no such value through.
        if NAMES.contains(&name) && !value.contains('\r') {
            headers.insert(name, value);
        }
    }
    let delivery = Delivery {
        sequence: 1,
        subject: subject.into(),
        headers: Some(headers),
        payload: bytes.get(end + 2..).unwrap_or_default().to_vec().into(),
    };
    let Some(stored) = stored_event::decode(&delivery) else {
        return;
    };
    let origin = Origin {
        epoch: Epoch::from_unix_micros(1),
        sequence: 1,
        trace: TraceParent::new(1, 2, true)
            .expect("a literal trace")
            .into(),
    };
    let Ok(outgoing) = stored_event::encode(stored.event.clone(), &origin) else {
        return;
    };
    let again = stored_event::decode(&Delivery {
        sequence: 1,
        subject: outgoing.subject.into(),
        headers: Some(outgoing.headers),
        payload: outgoing.payload,
    });
    assert_eq!(again.map(|again| again.event), Some(stored.event));
}

/// Subjects: what is read of one is what it is made from.
pub(crate) fn any_subject(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Some(topic) = subject::parse_topic(&text) {
        assert_eq!(subject::parse_topic(&subject::topic(&topic)), Some(topic));
    }
    if let Some((domain, name)) = subject::parse_event(&text) {
        assert_eq!(subject::event(domain, name), text);
    }
}

/// A function of this module.
pub(crate) type Entry = fn(&[u8]);

/// Valid inputs of each function, to be mutated.
pub(crate) fn seeds() -> [(Entry, Vec<Vec<u8>>); 2] {
    let attributes = format!(
        "{CE_ID}: e-1\n{CE_SOURCE}: s\n{CE_TIME}: 2024-12-19T21:30:00.5Z\n{CE_PRIORITY}: LOW\n\
         {TRACEPARENT}: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    );
    let stored = [
        (
            "topics.threat_alerts.-.-",
            "threat.threat_alert",
            r#"{"incident_id":"t-1","threat_type":"x","severity":"HIGH"}"#,
        ),
        (
            "topics.investigation_progress.=inv%2E1.-",
            "threat.investigation_update",
            r#"{"investigation_id":"inv.1","progress":45,"status":"X"}"#,
        ),
    ];
    let stored = stored.iter().map(|(subject, kind, data)| {
        format!("{subject}\n{CE_TYPE}: {kind}\n{attributes}\n\n{data}").into_bytes()
    });
    let subjects = [
        "topics.threat_alerts.-.-".to_owned(),
        "topics.investigation_progress.=a%2Eb%C3%BC.global".to_owned(),
        "topics.response_actions.=x.=user%20name".to_owned(),
        subject::event(Domain::Workflow, "step.completed"),
    ];
    [
        (stored_event, stored.collect()),
        (
            any_subject,
            subjects.map(String::into_bytes).into_iter().collect(),
        ),
    ]
}
