//! The notes of an investigation: each is recorded as fresh, published, and kept
//! once its event is stored.

use std::collections::{BTreeMap, HashMap};

use signalbox_bus::investigation::{self, Kept};
use signalbox_bus::key::{self, InvestigationPart};
use signalbox_protocol::investigation::{
    MAX_ATTACHMENT_BYTES, MAX_ATTACHMENTS, MAX_NOTE_BYTES, MAX_NOTE_ID_BYTES, MAX_NOTES,
    MAX_NOTES_BYTES, Note, NoteRecord,
};
use signalbox_protocol::wire::investigation_reply::Outcome;
use signalbox_protocol::wire::{AddNote, InvestigationError, InvestigationRefusal, NoteAdded};
use time::OffsetDateTime;
use tracing::info;

use super::announcement::{self, Open};
use super::holding::Request;
use super::keeper::{Keeper, Step};
use super::settlement::Matter;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// The numbers of all notes, by id.
    known: HashMap<String, u32>,
    /// The bytes of their records.
    bytes: usize,
    /// Those whose event may not be stored yet, by id.
    fresh: BTreeMap<String, Kept<NoteRecord>>,
}

impl Notes {
    /// Begins with what is kept; gives what is not complete, in order.
    pub(super) fn take_up(
        &mut self,
        notes: Vec<Kept<NoteRecord>>,
        fresh: &[Kept<NoteRecord>],
    ) -> Vec<Open> {
        let all = notes.iter().chain(fresh).map(|kept| &kept.record);
        self.bytes = all.clone().map(weight).sum();
        self.known = all
            .map(|record| (record.note.id.clone(), record.number))
            .collect();
        let by_id = fresh.iter().cloned();
        self.fresh = by_id
            .map(|kept| (kept.record.note.id.clone(), kept))
            .collect();
        let open = fresh.iter().map(|kept| &kept.record);
        open.map(|record| Open {
            event_id: record.note.id.clone(),
            matter: Matter::Note(record.note.id.clone()),
            at: record.note.timestamp,
            event: announcement::of_note(record),
        })
        .collect()
    }

    fn last_number(&self) -> u32 {
        self.known.values().copied().max().unwrap_or_default()
    }
}

impl Keeper {
    /// Serves a request; whoever sent it gets an answer, or asks again.
    pub(super) async fn note(&mut self, request: Request) -> Step {
        let Request {
            user_id,
            note,
            reply,
        } = request;
        let outcome = match fault(&note) {
            Some(refusal) => Outcome::Refusal(refusal),
            None => self.add_note(user_id, note).await?,
        };
        reply.send(&self.shared.bus, outcome).await;
        Ok(())
    }

    async fn add_note(&mut self, author: String, asked: AddNote) -> Step<Outcome> {
        let id = announcement::note_id(&self.id, &author, &asked.note_id);
        if self.notes.known.contains_key(&id) {
            return Ok(Outcome::NoteAdded(NoteAdded { id }));
        }
        if self.notes.known.len() >= MAX_NOTES {
            let message = format!("the investigation has {MAX_NOTES} notes, the most there may be");
            return Ok(full(&message));
        }
        let record = NoteRecord {
            investigation_id: self.id.to_string(),
            number: self.notes.last_number() + 1,
            note: Note {
                id: id.clone(),
                author,
                content: asked.content,
                timestamp: OffsetDateTime::now_utc().into(),
                attachments: asked.attachments,
            },
        };
        let bytes = self.notes.bytes + weight(&record);
        if bytes > MAX_NOTES_BYTES {
            let message = format!(
                "the notes of the investigation take {MAX_NOTES_BYTES} bytes at most, and there \
                 is no room for one of this size"
            );
            return Ok(full(&message));
        }
        let bus = self.shared.bus.clone();
        if !self.insist(|| investigation::has_room(&bus)).await? {
            return Ok(full("there is no room for further notes anywhere"));
        }
        self.still_holds()?;
        self.note_change().await?;
        let subject = self.subject(InvestigationPart::FreshNote, &id);
        let base = self.revision(&subject).await?;
        let written = investigation::write(&self.shared.bus, subject, &record, base).await;
        let revision = self.written(written)?;
        let event = announcement::of_note(&record);
        let at = record.note.timestamp;
        self.notes.known.insert(id.clone(), record.number);
        self.notes.bytes = bytes;
        info!(investigation = %self.id, note = %id, number = record.number, "noted");
        self.notes
            .fresh
            .insert(id.clone(), Kept { record, revision });
        self.settlement
            .expect(id.clone(), Matter::Note(id.clone()), at);
        self.publish(&event).await?;
        Ok(Outcome::NoteAdded(NoteAdded { id }))
    }

    /// The event of a note is stored: it is kept, and fresh no more.
    pub(super) async fn complete_note(&mut self, id: &str) -> Step {
        let Some(Kept { record, revision }) = self.notes.fresh.remove(id) else {
            return Ok(());
        };
        let kept = self.subject(InvestigationPart::Note, id);
        let base = self.revision(&kept).await?;
        let written = investigation::write(&self.shared.bus, kept, &record, base).await;
        self.written(written)?;
        let fresh = self.subject(InvestigationPart::FreshNote, id);
        let removed = investigation::remove(&self.shared.bus, fresh, revision).await;
        self.written(removed).map(|_| ())
    }

    /// Removes what a former holder left that was stopped between the two.
    pub(super) async fn clear_leftovers(&mut self) -> Step {
        let filter = key::investigation_records(Some(InvestigationPart::FreshNote), &self.id);
        let bus = self.shared.bus.clone();
        let found: Vec<Kept<NoteRecord>> = self
            .insist(|| investigation::read_part(&bus, &filter))
            .await?;
        for Kept { record, revision } in found {
            let id = &record.note.id;
            if self.notes.known.contains_key(id) && !self.notes.fresh.contains_key(id) {
                let fresh = self.subject(InvestigationPart::FreshNote, id);
                let removed = investigation::remove(&bus, fresh, revision).await;
                self.written(removed)?;
            }
        }
        Ok(())
    }
}

/// What is wrong with a note, if something is. The gateway has checked the same.
fn fault(note: &AddNote) -> Option<InvestigationRefusal> {
    let is_fit = |text: &str, most: usize| !text.is_empty() && text.len() <= most;
    let invalid =
        |field: &str, expected: &str| Some(refusal(InvestigationError::Invalid, field, expected));
    if !is_fit(&note.note_id, MAX_NOTE_ID_BYTES) {
        return invalid("note_id", "an id that is not too long");
    }
    if !is_fit(&note.content, MAX_NOTE_BYTES) || note.content.trim().is_empty() {
        return invalid("content", "words that are not too many");
    }
    let fits = |one: &String| is_fit(one, MAX_ATTACHMENT_BYTES);
    if note.attachments.len() > MAX_ATTACHMENTS || !note.attachments.iter().all(fits) {
        return invalid("attachments", "a few strings that are not too long");
    }
    None
}

/// What a note's record takes.
fn weight(record: &NoteRecord) -> usize {
    serde_json::to_vec(record).map_or(MAX_NOTES_BYTES, |bytes| bytes.len())
}

fn full(message: &str) -> Outcome {
    Outcome::Refusal(refusal(InvestigationError::Full, "", message))
}

pub(super) fn refusal(
    code: InvestigationError,
    field: &str,
    message: &str,
) -> InvestigationRefusal {
    InvestigationRefusal {
        code: code.into(),
        message: message.to_owned(),
        field: field.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_checked_again_behind_the_gateway() {
        let good = AddNote {
            note_id: "n".to_owned(),
            content: "c".to_owned(),
            attachments: vec!["a".to_owned()],
        };
        assert_eq!(fault(&good), None);
        for (field, note) in [
            (
                "note_id",
                AddNote {
                    note_id: String::new(),
                    ..good.clone()
                },
            ),
            (
                "content",
                AddNote {
                    content: " ".to_owned(),
                    ..good.clone()
                },
            ),
            (
                "content",
                AddNote {
                    content: "x".repeat(8_193),
                    ..good.clone()
                },
            ),
            (
                "attachments",
                AddNote {
                    attachments: vec!["a".to_owned(); 17],
                    ..good.clone()
                },
            ),
            (
                "attachments",
                AddNote {
                    attachments: vec![String::new()],
                    ..good.clone()
                },
            ),
        ] {
            assert_eq!(fault(&note).unwrap().field, field, "{note:?}");
        }
    }
}
