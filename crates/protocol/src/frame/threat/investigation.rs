//! Messages about working together on an investigation.

use serde::Serialize;
use serde_json::Value;

use crate::cursor::Cursor;
use crate::frame::fields::{Complaint, Fields};
use crate::investigation::{
    MAX_ATTACHMENT_BYTES, MAX_ATTACHMENTS, MAX_NOTE_BYTES, MAX_NOTE_ID_BYTES, Member, Note,
};

/// A request to note something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddNote {
    /// The investigation.
    pub investigation_id: String,
    /// What is noted.
    pub content: String,
    /// Names or addresses of what belongs to it.
    pub attachments: Vec<String>,
    /// Tells the note from others of the same author: sent again under the same
    /// id, it is noted once.
    pub note_id: Option<String>,
}

/// Reads an `add_investigation_note`.
pub(super) fn add_note(mut fields: Fields) -> Result<AddNote, Complaint> {
    let investigation_id = fields.id("investigation_id")?;
    let content = fields.text("content", MAX_NOTE_BYTES)?;
    if content.trim().is_empty() {
        return Err(Complaint::field("content", "more than white space"));
    }
    Ok(AddNote {
        investigation_id,
        content,
        attachments: attachments(&mut fields)?,
        note_id: fields.optional_text("note_id", MAX_NOTE_ID_BYTES)?,
    })
}

fn attachments(fields: &mut Fields) -> Result<Vec<String>, Complaint> {
    let given = fields
        .optional_any_texts("attachments")?
        .unwrap_or_default();
    let fits = |text: &String| (1..=MAX_ATTACHMENT_BYTES).contains(&text.len());
    if given.len() <= MAX_ATTACHMENTS && given.iter().all(fits) {
        return Ok(given);
    }
    let expected =
        format!("at most {MAX_ATTACHMENTS} strings of 1 to {MAX_ATTACHMENT_BYTES} bytes");
    Err(Complaint::field("attachments", &expected))
}

/// What a client is sent about an investigation, apart from events.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum InvestigationFrame<'a> {
    /// What all events up to a position add up to.
    InvestigationState {
        /// The investigation.
        investigation_id: &'a str,
        /// The position; what lies behind it comes as events.
        seq: Cursor,
        /// Who is there.
        users: &'a [Member],
        /// What was noted, in the order of the events.
        notes: &'a [Note],
        /// Older notes that are left out; absent where there are none.
        #[serde(skip_serializing_if = "Option::is_none")]
        notes_omitted: Option<usize>,
        /// The data of the last update; absent where there is none.
        #[serde(skip_serializing_if = "Option::is_none")]
        progress: Option<&'a Value>,
        /// Whether the last update lies too far back to be found; absent
        /// where it does not.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        progress_omitted: bool,
        /// Whether nobody can tell now, so that all of this is empty; absent
        /// where it is as it says.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        unavailable: bool,
    },
    /// The note is stored, and its event is on its way to everyone.
    InvestigationNoteRecorded {
        /// The investigation.
        investigation_id: &'a str,
        /// The id that the client gave it, or else the note's.
        note_id: &'a str,
        /// The note's id in events and states.
        id: &'a str,
    },
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::error_code::ErrorCode;
    use crate::frame::threat::ClientFrame;

    fn read(fields: Value) -> Result<AddNote, Complaint> {
        let mut frame = json!({
            "type": "add_investigation_note", "investigation_id": "inv-1", "content": "c",
        });
        for (key, value) in fields.as_object().unwrap() {
            frame[key] = value.clone();
        }
        match ClientFrame::decode(&frame.to_string())? {
            ClientFrame::AddNote(asked) => Ok(asked),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_note_is_read_with_what_belongs_to_it() {
        let attachments = json!(["a.json", "https://example.com/b"]);
        let asked = read(json!({"attachments": attachments, "note_id": "n 1"})).unwrap();
        assert_eq!(asked.attachments.len(), 2);
        assert_eq!(asked.note_id.as_deref(), Some("n 1"));
        let plain = read(json!({"attachments": null})).unwrap();
        assert!(plain.attachments.is_empty() && plain.note_id.is_none());
        assert!(read(json!({"attachments": []})).is_ok());
    }

    #[test]
    fn bounds_name_the_field() {
        let long = |bytes: usize| json!("x".repeat(bytes));
        for (field, fits, wrong) in [
            ("content", long(MAX_NOTE_BYTES), long(MAX_NOTE_BYTES + 1)),
            ("content", json!("\u{1b}[2J"), json!(" \n")),
            ("content", json!("c"), json!("")),
            ("content", json!("c"), json!(7)),
            (
                "note_id",
                long(MAX_NOTE_ID_BYTES),
                long(MAX_NOTE_ID_BYTES + 1),
            ),
            ("investigation_id", json!("a"), json!("a b")),
            (
                "attachments",
                json!(vec!["a"; MAX_ATTACHMENTS]),
                json!(vec!["a"; MAX_ATTACHMENTS + 1]),
            ),
            (
                "attachments",
                json!([long(MAX_ATTACHMENT_BYTES)]),
                json!([long(MAX_ATTACHMENT_BYTES + 1)]),
            ),
            ("attachments", json!(["a"]), json!([""])),
            ("attachments", json!(["a"]), json!("a")),
            ("attachments", json!(["a"]), json!([{"a": 1}])),
        ] {
            assert!(read(json!({field: fits})).is_ok(), "{field} {fits}");
            let complaint = read(json!({field: wrong})).unwrap_err();
            assert_eq!(complaint.code, ErrorCode::InvalidMessage);
            assert_eq!(complaint.field.as_deref(), Some(field), "{wrong}");
        }
    }

    #[test]
    fn what_is_as_usual_is_left_out() {
        let state = InvestigationFrame::InvestigationState {
            investigation_id: "inv-1",
            seq: "a-3".parse().unwrap(),
            users: &[],
            notes: &[],
            notes_omitted: None,
            progress: None,
            progress_omitted: false,
            unavailable: false,
        };
        let expected = json!({
            "type": "investigation_state", "investigation_id": "inv-1", "seq": "a-3",
            "users": [], "notes": [],
        });
        assert_eq!(serde_json::to_value(&state).unwrap(), expected);
    }
}
