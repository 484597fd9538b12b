//! States at every position of a history, from the records as they are at any
//! later moment, against the events themselves.

use serde_json::{Map, json};
use signalbox_bus::investigation::Kept;
use signalbox_protocol::catalogue::{self, Audience, Channel, Topic};
use signalbox_protocol::domain::Domain;
use signalbox_protocol::event::{Event, Priority};
use signalbox_protocol::investigation::{MemberRecord, NoteRecord, USER_JOINED};
use signalbox_protocol::timestamp::Timestamp;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_unix_millis(second * 1_000).unwrap()
}

fn member(id: &str) -> Member {
    Member {
        id: id.to_owned(),
        name: id.to_uppercase(),
        role: "analyst".to_owned(),
    }
}

fn note(id: &str) -> Note {
    Note {
        id: id.to_owned(),
        author: "ada".to_owned(),
        content: "c".to_owned(),
        timestamp: at(5),
        attachments: Vec::new(),
    }
}

fn event(sequence: u64, id: &str, name: &str, data: Value) -> Arc<HubEvent> {
    let data: Map<String, Value> = data.as_object().unwrap().clone();
    Arc::new(HubEvent {
        sequence,
        topic: Topic {
            channel: Channel::InvestigationProgress,
            object: Some("inv-1".to_owned()),
            audience: Audience::Nobody,
        },
        event: Event {
            kind: catalogue::find(Domain::Threat, name).unwrap(),
            id: id.to_owned(),
            source: "s".to_owned(),
            time: at(5),
            priority: Priority::Low,
            data,
        },
        trace: None,
        weight: 0,
    })
}

fn moved(sequence: u64, word: &str, user: &str) -> Arc<HubEvent> {
    let data = json!({"investigation_id": "inv-1", "event": word, "user": member(user)});
    event(sequence, &format!("e{sequence}"), COLLABORATION, data)
}

fn noted(sequence: u64, id: &str) -> Arc<HubEvent> {
    let data = json!({"investigation_id": "inv-1", "note": note(id)});
    event(sequence, id, NOTE_ADDED, data)
}

fn record(user: &str, standing: Standing, event_id: &str) -> Kept<MemberRecord> {
    let record = MemberRecord {
        investigation_id: "inv-1".to_owned(),
        user: member(user),
        standing,
        event_id: event_id.to_owned(),
        at: at(5),
    };
    Kept {
        record,
        revision: 1,
    }
}

fn kept_note(number: u32, id: &str) -> Kept<NoteRecord> {
    let record = NoteRecord {
        investigation_id: "inv-1".to_owned(),
        number,
        note: note(id),
    };
    Kept {
        record,
        revision: 1,
    }
}

/// A history: who was there behind each event, and what was noted.
fn history() -> Vec<Arc<HubEvent>> {
    vec![
        moved(1, USER_JOINED, "ada"),
        noted(2, "n1"),
        moved(3, USER_JOINED, "ben"),
        moved(4, USER_LEFT, "ada"),
        noted(5, "n2"),
        moved(6, USER_JOINED, "ada"),
        moved(7, USER_LEFT, "ben"),
    ]
}

/// What is right at a position, by counting.
fn expected(until: usize) -> (Vec<String>, Vec<String>) {
    let (mut users, mut notes) = (Vec::new(), Vec::new());
    for event in &history()[..until] {
        let data = &event.event.data;
        if let Some(note) = data.get("note") {
            notes.push(note["id"].as_str().unwrap().to_owned());
            continue;
        }
        let id = data["user"]["id"].as_str().unwrap().to_owned();
        match data["event"] == USER_JOINED {
            true => users.push(id),
            false => users.retain(|user| *user != id),
        }
    }
    users.sort();
    (users, notes)
}

fn told(records: &Records, until: usize) -> (Vec<String>, Vec<String>) {
    let history = history();
    let behind = Behind::read(&history[until..]);
    let before = match open(records, &behind) {
        None => HashSet::new(),
        Some((open, _)) => {
            let ids = history[..until].iter().map(|event| event.event.id.clone());
            ids.filter(|id| open.contains(id)).collect()
        }
    };
    let state = add_up(records.clone(), &behind, &before);
    let users = state.users.into_iter().map(|user| user.id).collect();
    let notes = state.notes.into_iter().map(|note| note.id).collect();
    (users, notes)
}

/// However far the orchestrator has got with its records, from before the last
/// events were published to when all are settled.
#[test]
fn a_state_is_what_the_events_up_to_it_add_up_to() {
    let settled = Records {
        members: vec![record("ada", Standing::Joined, "e6")],
        fresh: Vec::new(),
        notes: vec![kept_note(1, "n1"), kept_note(2, "n2")],
    };
    let under_way = Records {
        members: vec![
            record("ada", Standing::Joining, "e6"),
            record("ben", Standing::Leaving, "e7"),
        ],
        fresh: vec![kept_note(2, "n2")],
        notes: vec![kept_note(1, "n1")],
    };
    // Recorded, and not published yet.
    let ahead = Records {
        members: vec![
            record("ada", Standing::Leaving, "e8"),
            record("cy", Standing::Joining, "e9"),
        ],
        fresh: vec![kept_note(3, "n3")],
        notes: vec![kept_note(1, "n1"), kept_note(2, "n2")],
    };
    for until in 0..=7 {
        for records in [&settled, &under_way, &ahead] {
            assert_eq!(told(records, until), expected(until), "{until} {records:?}");
        }
    }
}

#[test]
fn of_too_many_notes_the_newest_are_told() {
    let notes: Vec<Note> = (0..100)
        .map(|number| Note {
            // Escaped, each byte takes six.
            content: "\u{1}".repeat(4_096),
            ..note(&number.to_string())
        })
        .collect();
    let omitted = too_many(&notes);
    assert!((70..80).contains(&omitted), "{omitted}");
    assert_eq!(too_many(&notes[omitted..]), 0);
}

#[test]
fn an_update_is_told_without_the_investigation() {
    let data = json!({"investigation_id": "inv-1", "progress": 45, "status": "X"});
    let update = event(1, "u", UPDATE, data);
    assert_eq!(
        progress(&update),
        Some(json!({"progress": 45, "status": "X"}))
    );
    assert_eq!(progress(&noted(2, "n")), None);
}
