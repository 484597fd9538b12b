//! The messages about working together on an investigation.

use super::{Field, Kind, Message, SEQ};
use crate::error_code::ErrorCode;
use crate::investigation::{
    MAX_ATTACHMENT_BYTES, MAX_ATTACHMENTS, MAX_NOTE_BYTES, MAX_NOTE_ID_BYTES, MAX_NOTES,
    MAX_NOTES_BYTES,
};

const _: () = assert!(
    MAX_NOTES == 1_000
        && MAX_NOTES_BYTES == 2 * 1024 * 1024
        && MAX_ATTACHMENTS == 16
        && MAX_ATTACHMENT_BYTES == 1_024,
    "the summaries say so"
);

const INVESTIGATION: Field = Field::required("investigation_id", Kind::Id, "The investigation.");

pub(super) const ADD_NOTE: Message = Message::client(
    "add_investigation_note",
    "Notes something for everyone in an investigation, who get it as `investigation_note_added`; it is kept, and told to those who come later. Needs a subscription of this connection that names the investigation. An investigation has at most 1,000 notes and 2 MiB of them.",
    &[
        INVESTIGATION,
        Field::required(
            "content",
            Kind::Text {
                most: MAX_NOTE_BYTES,
            },
            "What is noted; more than white space. It is kept as it is: whoever shows it must escape it.",
        ),
        Field::optional(
            "attachments",
            Kind::AnyTexts,
            "Names or addresses of what belongs to it: at most 16 of 1 to 1,024 bytes.",
        ),
        Field::optional(
            "note_id",
            Kind::Text {
                most: MAX_NOTE_ID_BYTES,
            },
            "Tells the note from others of the user in the investigation: sent again under the same id it is noted once, as it was the first time, and confirmed again.",
        ),
    ],
    &["investigation_note_recorded"],
    &[
        ErrorCode::Forbidden,
        ErrorCode::RateLimit,
        ErrorCode::Unavailable,
    ],
);

const MEMBER: Kind = Kind::List(&[
    Field::required("id", Kind::Id, "The user."),
    Field::required("name", Kind::AnyText, "The name for people."),
    Field::required(
        "role",
        Kind::AnyText,
        "The role; empty where there is none.",
    ),
]);

const NOTE: Kind = Kind::List(&[
    Field::required("id", Kind::Id, "Names the note."),
    Field::required("author", Kind::Id, "The user who wrote it."),
    Field::required("content", Kind::AnyText, "What it says."),
    Field::required("timestamp", Kind::Time, "When it was stored."),
    Field::required(
        "attachments",
        Kind::AnyTexts,
        "Names or addresses of what belongs to it.",
    ),
]);

pub(super) const STATE: Message = Message::server(
    "investigation_state",
    "What all events of an investigation add up to, after the confirmation of a subscription that names it. Together with the events behind `seq` it is the same for everyone.",
    &[
        INVESTIGATION,
        Field::required("seq", Kind::Cursor, SEQ),
        Field::required("users", MEMBER, "Who is there."),
        Field::required("notes", NOTE, "What was noted, in the order of the events."),
        Field::optional(
            "notes_omitted",
            Kind::Count,
            "How many older notes are left out, because all of them together are too large.",
        ),
        Field::optional(
            "progress",
            Kind::AnyObject,
            "The `data` of the last `investigation_update`; absent where there is none.",
        ),
        Field::optional(
            "progress_omitted",
            Kind::Flag,
            "True where the last update lies too far back to be found.",
        ),
        Field::optional(
            "unavailable",
            Kind::Flag,
            "True where nobody can tell now, and the lists are empty for that reason: subscribe again.",
        ),
    ],
);

pub(super) const NOTE_RECORDED: Message = Message::server(
    "investigation_note_recorded",
    "The note is stored, and on its way to everyone in the investigation.",
    &[
        INVESTIGATION,
        Field::required(
            "note_id",
            Kind::AnyText,
            "As the client named the note, or else `id`.",
        ),
        Field::required("id", Kind::Id, "As events and states name it."),
    ],
);
