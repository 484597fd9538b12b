//! What everyone in an investigation is told, as the event that says it.

use async_nats::HeaderMap;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use signalbox_bus::publish::Outgoing;
use signalbox_bus::subject;
use signalbox_protocol::domain::Domain;
use signalbox_protocol::envelope::{CE_ID, CE_SOURCE, CE_TIME};
use signalbox_protocol::investigation::{
    COLLABORATION, MemberRecord, NOTE_ADDED, NoteRecord, SOURCE,
};
use signalbox_protocol::timestamp::Timestamp;

use super::settlement::Matter;

/// Digits of the digest in a note's id.
const DIGITS: usize = 32;

/// An announcement that may not be stored yet.
pub(super) struct Open {
    /// The event's id.
    pub(super) event_id: String,
    /// What it is about.
    pub(super) matter: Matter,
    /// When it was recorded.
    pub(super) at: Timestamp,
    /// The event.
    pub(super) event: Outgoing,
}

/// Somebody came or went.
pub(super) fn of_member(record: &MemberRecord) -> Outgoing {
    let data = json!({
        "investigation_id": record.investigation_id,
        "event": record.standing.word(),
        "user": record.user,
    });
    event(COLLABORATION, &record.event_id, record.at, &data)
}

/// Something was noted.
pub(super) fn of_note(record: &NoteRecord) -> Outgoing {
    let note = &record.note;
    let data = json!({"investigation_id": record.investigation_id, "note": note});
    event(NOTE_ADDED, &note.id, note.timestamp, &data)
}

fn event(name: &str, id: &str, at: Timestamp, data: &Value) -> Outgoing {
    let mut headers = HeaderMap::new();
    headers.insert(CE_ID, id);
    headers.insert(CE_SOURCE, SOURCE);
    headers.insert(CE_TIME, at.to_string());
    Outgoing {
        subject: subject::event(Domain::Threat, name),
        message_id: format!("{}/{SOURCE}/{id}", Domain::Threat),
        headers,
        payload: data.to_string().into(),
    }
}

/// The id of the event that somebody came or went: of each its own.
pub(super) fn fresh_id() -> String {
    format!("presence-{:032x}", rand::random::<u128>())
}

/// The id of a note, by what names it: the same for the same note, and nobody
/// else's.
pub(super) fn note_id(investigation_id: &str, author: &str, note_id: &str) -> String {
    let mut digest = Sha256::new();
    for part in [investigation_id, author, note_id] {
        digest.update(part);
        digest.update([0]);
    }
    let digest: String = digest
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("note-{}", &digest[..DIGITS])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_named_by_its_author_and_theirs_alone() {
        let id = note_id("inv-1", "ada", "n");
        assert_eq!(id, note_id("inv-1", "ada", "n"));
        assert_eq!(id.len(), "note-".len() + DIGITS);
        for (investigation, author, note) in [
            ("inv-1", "ben", "n"),
            ("inv-2", "ada", "n"),
            ("inv-1", "ad", "an"),
        ] {
            assert_ne!(id, note_id(investigation, author, note));
        }
    }
}
