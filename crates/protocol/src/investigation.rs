//! Investigations that people work on together: who is there, what they noted,
//! and the bounds that all services keep. What lies in buckets and what events
//! say has the same form.

use serde::{Deserialize, Serialize};

use crate::fleet::Shard;
use crate::timestamp::Timestamp;

/// The longest note, in bytes.
pub const MAX_NOTE_BYTES: usize = 8 * 1024;
/// Attachments of a note.
pub const MAX_ATTACHMENTS: usize = 16;
/// The longest name or address of an attachment, in bytes.
pub const MAX_ATTACHMENT_BYTES: usize = 1_024;
/// The longest id that a client may give a note, in bytes.
pub const MAX_NOTE_ID_BYTES: usize = 64;
/// Notes of an investigation; further ones are refused.
pub const MAX_NOTES: usize = 1_000;
/// Bytes of the notes of an investigation, as records are encoded; what is
/// beyond it is refused, so that a gateway can read them all at once.
pub const MAX_NOTES_BYTES: usize = 2 * 1024 * 1024;
/// People who are in an investigation at once; further ones are sent away.
pub const MAX_MEMBERS: usize = 256;

/// The event that says that somebody came or went.
pub const COLLABORATION: &str = "investigation_collaboration";
/// The event that says that something was noted.
pub const NOTE_ADDED: &str = "investigation_note_added";
/// The event that says how far an investigation is.
pub const UPDATE: &str = "investigation_update";
/// In [`COLLABORATION`]: somebody came.
pub const USER_JOINED: &str = "USER_JOINED";
/// In [`COLLABORATION`]: somebody went.
pub const USER_LEFT: &str = "USER_LEFT";
/// Where the events of people come from.
pub const SOURCE: &str = "investigation_service";

/// The shard of an investigation, the same for ever.
#[must_use]
pub fn shard(investigation_id: &str) -> Shard {
    Shard::of_agent(investigation_id)
}

/// Somebody who is in an investigation, as the others see them: from a verified
/// credential, never from what a client says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The subject of the credential.
    pub id: String,
    /// The name shown to people.
    pub name: String,
    /// The role's name; empty where there is none.
    pub role: String,
}

/// A note.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Names it in its investigation.
    pub id: String,
    /// The user who wrote it.
    pub author: String,
    /// What it says.
    pub content: String,
    /// When it was stored.
    pub timestamp: Timestamp,
    /// Names or addresses of what belongs to it.
    #[serde(default)]
    pub attachments: Vec<String>,
}

/// A gateway's word, in the bucket `presence`, that a user is in an
/// investigation there. It counts for as long as the gateway lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Declaration {
    /// The investigation.
    pub investigation_id: String,
    /// Who.
    pub user: Member,
    /// The gateway, as its sign of life names it.
    pub gateway: String,
    /// Since when.
    pub since: Timestamp,
}

/// How far it is with a user in an investigation, in the bucket
/// `investigations`. There is no record of somebody who is not there and whose
/// leaving everyone was told of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// The investigation.
    pub investigation_id: String,
    /// Who, as first announced.
    pub user: Member,
    /// Where they stand.
    pub standing: Standing,
    /// The id of the event that says so.
    pub event_id: String,
    /// When that was recorded.
    pub at: Timestamp,
}

/// Where a user stands in an investigation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Has come; the event that says so may not be stored yet.
    Joining,
    /// Is there, and the event is stored.
    Joined,
    /// Has gone; the event that says so may not be stored yet.
    Leaving,
}

impl Standing {
    /// Whether the event that says so may not be stored yet.
    #[must_use]
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Joining | Self::Leaving)
    }

    /// The word for it in the event.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Joining | Self::Joined => USER_JOINED,
            Self::Leaving => USER_LEFT,
        }
    }
}

/// A note in the bucket `investigations`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoteRecord {
    /// The investigation.
    pub investigation_id: String,
    /// Which of its notes it is, in the order of their events, from 1.
    pub number: u32,
    /// The note.
    pub note: Note,
}

/// That an investigation is known, in the bucket `investigations`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadRecord {
    /// The investigation.
    pub investigation_id: String,
    /// About when something was changed for the last time.
    pub changed_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn records_are_written_as_they_are_read() {
        let at = Timestamp::parse("2026-03-02T09:14:07Z").unwrap();
        let user = Member {
            id: "corp|ada".to_owned(),
            name: "Ada".to_owned(),
            role: "analyst".to_owned(),
        };
        let record = MemberRecord {
            investigation_id: "inv-1".to_owned(),
            user,
            standing: Standing::Leaving,
            event_id: "e".to_owned(),
            at,
        };
        let written = serde_json::to_value(&record).unwrap();
        assert_eq!(written["standing"], "leaving");
        assert_eq!(written["user"]["role"], "analyst");
        assert_eq!(
            serde_json::from_value::<MemberRecord>(written).unwrap(),
            record
        );
        let note = json!({
            "id": "note-1", "author": "ada", "content": "c", "timestamp": "2026-03-02T09:14:07Z",
        });
        let note: Note = serde_json::from_value(note).unwrap();
        assert!(note.attachments.is_empty());
    }

    #[test]
    fn only_what_is_not_told_yet_is_open() {
        use Standing::{Joined, Joining, Leaving};
        let open = [Joining, Joined, Leaving].map(Standing::is_open);
        assert_eq!(open, [true, false, true]);
        let words = [Joining, Joined, Leaving].map(Standing::word);
        assert_eq!(words, [USER_JOINED, USER_JOINED, USER_LEFT]);
    }
}
