//! What all events of an investigation up to a position add up to, from the
//! records that orchestrators keep and from the events themselves. Names no bus.
//!
//! A record is written before its event is published. One that is settled has
//! its event on TOPICS: behind the position, where it is among the events there,
//! or else up to it. One that is open may have its event on either side, or
//! nowhere yet.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value;
use signalbox_bus::investigation::Records;
use signalbox_protocol::investigation::{
    COLLABORATION, Member, NOTE_ADDED, Note, Standing, UPDATE, USER_LEFT,
};

use crate::hub::HubEvent;

/// The most that the notes of a state may take, in bytes of JSON; the oldest of
/// those that are too many are left out.
const MAX_NOTES_BYTES: usize = 640 * 1024;
/// What a note takes beside its texts, in bytes of JSON.
const NOTE_OVERHEAD_BYTES: usize = 256;

/// What all events of an investigation up to a position add up to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct State {
    /// Who is there, by id.
    pub(crate) users: Vec<Member>,
    /// What was noted, in the order of the events.
    pub(crate) notes: Vec<Note>,
    /// Older notes that are left out.
    pub(crate) notes_omitted: usize,
    /// The data of the last update.
    pub(crate) progress: Option<Value>,
    /// Whether the last update lies too far back to be found.
    pub(crate) progress_omitted: bool,
}

/// What the events behind the position say.
#[derive(Debug, Default)]
pub(super) struct Behind {
    /// Of each user the first that they tell: whether it is a leaving, and who.
    users: HashMap<String, (bool, Option<Member>)>,
    /// Notes.
    notes: HashSet<String>,
    /// All their ids.
    ids: HashSet<String>,
}

impl Behind {
    /// Reads events in the order of the stream.
    pub(super) fn read(events: &[Arc<HubEvent>]) -> Self {
        let mut behind = Self::default();
        for event in events {
            let (event, data) = (&event.event, &event.event.data);
            behind.ids.insert(event.id.clone());
            match event.kind.name {
                COLLABORATION => {
                    let Some(user) = data.get("user") else {
                        continue;
                    };
                    let Some(id) = user.get("id").and_then(Value::as_str) else {
                        continue;
                    };
                    let has_left = data.get("event").and_then(Value::as_str) == Some(USER_LEFT);
                    let member = serde_json::from_value(user.clone()).ok();
                    let users = &mut behind.users;
                    users.entry(id.to_owned()).or_insert((has_left, member));
                }
                NOTE_ADDED => {
                    let id = data.get("note").and_then(|note| note.get("id"));
                    behind
                        .notes
                        .extend(id.and_then(Value::as_str).map(str::to_owned));
                }
                _ => {}
            }
        }
        behind
    }
}

/// The ids of events of which nobody knows yet whether they are stored up to the
/// position, and when the earliest of them was recorded, in Unix milliseconds.
pub(super) fn open(records: &Records, behind: &Behind) -> Option<(HashSet<String>, i64)> {
    let members = records.members.iter().map(|one| &one.record);
    let members = members
        .filter(|one| one.standing.is_open())
        .map(|one| (&one.event_id, one.at));
    let notes = records.fresh.iter().map(|one| &one.record.note);
    let notes = notes.map(|note| (&note.id, note.timestamp));
    let open = members
        .chain(notes)
        .filter(|(id, _)| !behind.ids.contains(*id));
    let (mut ids, mut earliest) = (HashSet::new(), i64::MAX);
    for (id, at) in open {
        ids.insert(id.clone());
        earliest = earliest.min(at.unix_millis());
    }
    (!ids.is_empty()).then_some((ids, earliest))
}

/// Who was there, and what was noted; `before` are those of the open events that
/// are stored up to the position.
pub(super) fn add_up(records: Records, behind: &Behind, before: &HashSet<String>) -> State {
    let mut users: Vec<Member> = Vec::new();
    for member in records.members {
        let member = member.record;
        let is_there = match (behind.users.get(&member.user.id), member.standing) {
            // The first that is told of them behind the position is a change.
            (Some((has_left, _)), _) => *has_left,
            (None, Standing::Joined) => true,
            (None, Standing::Joining) => before.contains(&member.event_id),
            (None, Standing::Leaving) => !before.contains(&member.event_id),
        };
        if is_there {
            users.push(member.user);
        }
    }
    for (id, (has_left, member)) in &behind.users {
        if *has_left && users.iter().all(|user| user.id != *id) {
            users.extend(member.clone());
        }
    }
    users.sort_by(|one, other| one.id.cmp(&other.id));
    let is_before = |note: &Note, is_kept: bool| {
        !behind.notes.contains(&note.id) && (is_kept || before.contains(&note.id))
    };
    let kept = records.notes.into_iter().map(|one| (one.record, true));
    let fresh = records.fresh.into_iter().map(|one| (one.record, false));
    let mut notes: Vec<_> = kept
        .chain(fresh)
        .filter(|(record, is_kept)| is_before(&record.note, *is_kept))
        .map(|(record, _)| record)
        .collect();
    notes.sort_by_key(|record| record.number);
    let notes: Vec<Note> = notes.into_iter().map(|record| record.note).collect();
    let notes_omitted = too_many(&notes);
    State {
        users,
        notes: notes[notes_omitted..].to_vec(),
        notes_omitted,
        ..State::default()
    }
}

/// How many of the oldest notes are to be left out.
fn too_many(notes: &[Note]) -> usize {
    let mut room = MAX_NOTES_BYTES;
    for (index, note) in notes.iter().enumerate().rev() {
        // As JSON has it: what is escaped takes more.
        let texts = serde_json::to_vec(&(&note.content, &note.attachments));
        let bytes = texts.map_or(usize::MAX, |texts| texts.len() + NOTE_OVERHEAD_BYTES);
        match room.checked_sub(bytes) {
            Some(left) => room = left,
            None => return index + 1,
        }
    }
    0
}

/// What an update says, as clients are shown it.
pub(super) fn progress(event: &HubEvent) -> Option<Value> {
    let event = &event.event;
    if event.kind.name != UPDATE {
        return None;
    }
    let mut data = event.data.clone();
    // It stands beside the data.
    data.retain(|key, _| key != "investigation_id");
    Some(Value::Object(data))
}

#[cfg(test)]
mod tests;
