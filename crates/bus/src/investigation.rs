//! Investigations as they lie on the bus: declarations of who is there, which
//! gateways write, and the records that orchestrators keep of people and notes.
//!
//! A record of a person or a note is written before its event is published, and
//! says afterwards that the event is stored. Whoever reads the records can
//! therefore tell, together with the latest events, what all events up to a
//! position add up to.

use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use signalbox_protocol::investigation::{Declaration, HeadRecord, MemberRecord, NoteRecord};
use tracing::error;

use crate::connection::{Bus, BusError};
use crate::document::{self, is_there};
use crate::fenced::{self, FenceError};
use crate::key::{
    self, INVESTIGATIONS_STREAM, InvestigationPart, PRESENCE_STREAM, investigation_record,
    investigation_records,
};
use crate::publish::{Outgoing, PublishError, publish, publish_fenced};
use crate::reader::Delivery;
use crate::{history, stream};

/// How long it is remembered that a key was removed, for those who watch.
const MARKER: Duration = stream::LEASE_MARKER;
/// Attempts to read the records of an investigation while they change.
const ATTEMPTS: usize = 10;

/// A record as the bucket has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept<R> {
    /// What it says.
    pub record: R,
    /// Its revision, by which the next write is fenced.
    pub revision: u64,
}

/// Everything that is kept of an investigation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// The people.
    pub members: Vec<Kept<MemberRecord>>,
    /// Notes whose event may not be stored yet.
    pub fresh: Vec<Kept<NoteRecord>>,
    /// Notes whose event is stored.
    pub notes: Vec<Kept<NoteRecord>>,
}

/// Writes a gateway's declaration.
///
/// # Errors
/// When the bus refuses, or does not acknowledge within `patience`.
pub async fn declare(
    bus: &Bus,
    declaration: &Declaration,
    patience: Duration,
) -> Result<(), PublishError> {
    let Declaration {
        investigation_id,
        user,
        gateway,
        ..
    } = declaration;
    let message = Outgoing {
        subject: key::declaration(investigation_id, &user.id, gateway),
        message_id: fresh_id(),
        headers: HeaderMap::new(),
        payload: encode(declaration),
    };
    publish(bus, &message, patience).await.map(|_| ())
}

/// Takes a gateway's own declaration back.
///
/// # Errors
/// As [`declare`].
pub async fn withdraw(
    bus: &Bus,
    investigation_id: &str,
    user_id: &str,
    gateway: &str,
    patience: Duration,
) -> Result<(), PublishError> {
    let message = removal(key::declaration(investigation_id, user_id, gateway));
    publish(bus, &message, patience).await.map(|_| ())
}

/// Removes a declaration of a gateway that is gone, provided that it is still
/// the one of this revision.
///
/// # Errors
/// When the bus refuses or does not answer.
pub async fn bury(bus: &Bus, subject: &str, revision: u64) -> Result<(), PublishError> {
    match publish_fenced(bus, &removal(subject.to_owned()), revision).await {
        // The gateway lives after all.
        Ok(_) | Err(PublishError::Fenced) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The declaration in a message of the bucket; `None` where it was taken back.
#[must_use]
pub fn declared(message: &Delivery) -> Option<Declaration> {
    if message.payload.is_empty() || !is_there(message) {
        return None;
    }
    decode(message)
}

/// All declarations there are, and removals among them.
///
/// # Errors
/// When the bus does not answer.
pub async fn declarations(bus: &Bus) -> Result<Vec<Delivery>, BusError> {
    document::read_all(bus, PRESENCE_STREAM, key::DECLARATIONS).await
}

/// Reads all that is kept of an investigation: everything that was written
/// before.
///
/// # Errors
/// When the bus does not answer, or a server lags too far behind its leader.
pub async fn read(bus: &Bus, investigation_id: &str) -> Result<Records, BusError> {
    let filter = investigation_records(None, investigation_id);
    for _ in 0..ATTEMPTS {
        // The leader's last word first: what is read then must reach it.
        let last = history::last_at_leader(bus, INVESTIGATIONS_STREAM, &filter).await?;
        let Some(last) = last else {
            return Ok(Records::default());
        };
        let (found, reached) = read_messages(bus, &filter).await?;
        if reached >= last.sequence {
            return Ok(sort(&found));
        }
    }
    Err(BusError::Api {
        action: format!("read investigation {investigation_id}"),
        cause: "the server lags".to_owned(),
    })
}

/// All that match a wildcard, removals among them, and the last's sequence.
async fn read_messages(bus: &Bus, filter: &str) -> Result<(Vec<Delivery>, u64), BusError> {
    const PAGE: usize = 256;
    let (mut messages, mut reached) = (Vec::new(), 0);
    loop {
        let page = history::page(bus, INVESTIGATIONS_STREAM, filter, reached + 1, PAGE).await?;
        if let Some(last) = page.messages.last() {
            reached = last.sequence;
        }
        messages.extend(page.messages);
        if page.is_last {
            return Ok((messages, reached));
        }
    }
}

fn sort(messages: &[Delivery]) -> Records {
    let mut records = Records::default();
    for message in messages {
        if !is_there(message) || message.payload.is_empty() {
            continue;
        }
        match key::part_of_investigation(&message.subject) {
            Some(InvestigationPart::Member) => records.members.extend(kept(message)),
            Some(InvestigationPart::FreshNote) => records.fresh.extend(kept(message)),
            Some(InvestigationPart::Note) => records.notes.extend(kept(message)),
            Some(InvestigationPart::Head) | None => {}
        }
    }
    // On its way from one to the other it is in both.
    let Records { fresh, notes, .. } = &mut records;
    fresh.retain(|one| {
        notes
            .iter()
            .all(|kept| kept.record.note.id != one.record.note.id)
    });
    notes.sort_by_key(|one| one.record.number);
    fresh.sort_by_key(|one| one.record.number);
    records
}

/// Whether there is room for one more note. Half of the bucket is left to who
/// comes and goes: that can be refused to nobody.
///
/// # Errors
/// When the bus does not answer.
pub async fn has_room(bus: &Bus) -> Result<bool, BusError> {
    let (taken, most) = stream::filling(bus, INVESTIGATIONS_STREAM).await?;
    Ok(most.is_none_or(|most| taken < most / 2))
}

/// The records of one part of all investigations.
///
/// # Errors
/// When the bus does not answer.
pub async fn read_part<R: DeserializeOwned>(
    bus: &Bus,
    filter: &str,
) -> Result<Vec<Kept<R>>, BusError> {
    let found = document::read_all(bus, INVESTIGATIONS_STREAM, filter).await?;
    let there = found.iter().filter(|message| !message.payload.is_empty());
    Ok(there.filter_map(kept).collect())
}

/// Writes that an investigation is known and changed, whatever was there.
///
/// # Errors
/// When the bus refuses, or does not acknowledge within `patience`.
pub async fn note_change(
    bus: &Bus,
    head: &HeadRecord,
    patience: Duration,
) -> Result<(), PublishError> {
    let message = Outgoing {
        subject: investigation_record(InvestigationPart::Head, &head.investigation_id, "-"),
        message_id: fresh_id(),
        headers: HeaderMap::new(),
        payload: encode(head),
    };
    publish(bus, &message, patience).await.map(|_| ())
}

/// Writes a record behind `revision` (0: it must not be there), trying for as
/// long as it takes; gives its revision.
///
/// # Errors
/// [`FenceError::Overtaken`] when another orchestrator has written it.
pub async fn write(
    bus: &Bus,
    subject: String,
    record: &(impl Serialize + Sync),
    revision: u64,
) -> Result<u64, FenceError> {
    let message = Outgoing {
        subject,
        message_id: fresh_id(),
        headers: HeaderMap::new(),
        payload: encode(record),
    };
    fenced::write(bus, INVESTIGATIONS_STREAM, &message, revision).await
}

/// Removes a record, fenced like [`write()`].
///
/// # Errors
/// As [`write()`].
pub async fn remove(bus: &Bus, subject: String, revision: u64) -> Result<u64, FenceError> {
    fenced::write(bus, INVESTIGATIONS_STREAM, &removal(subject), revision).await
}

/// The revision of a record that is there or was removed; 0 where nothing is
/// known of it.
///
/// # Errors
/// When the bus does not answer.
pub async fn revision(bus: &Bus, subject: &str) -> Result<u64, BusError> {
    let last = history::last_at_leader(bus, INVESTIGATIONS_STREAM, subject).await?;
    Ok(last.map_or(0, |last| last.sequence))
}

/// Forgets an investigation: everything that is kept of it, the head last.
///
/// # Errors
/// When the bus refuses or does not answer; what is left is for the next time.
pub async fn forget(bus: &Bus, investigation_id: &str) -> Result<(), BusError> {
    let filter = investigation_records(None, investigation_id);
    let mut found = document::read_all(bus, INVESTIGATIONS_STREAM, &filter).await?;
    let is_head = |message: &Delivery| {
        key::part_of_investigation(&message.subject) == Some(InvestigationPart::Head)
    };
    found.retain(|message| !message.payload.is_empty());
    found.sort_by_key(is_head);
    for message in found {
        let removal = removal(message.subject.to_string());
        let removed = publish_fenced(bus, &removal, message.sequence).await;
        removed.map_err(|error| BusError::Api {
            action: format!("forget investigation {investigation_id}"),
            cause: error.to_string(),
        })?;
    }
    Ok(())
}

fn kept<R: DeserializeOwned>(message: &Delivery) -> Option<Kept<R>> {
    Some(Kept {
        record: decode(message)?,
        revision: message.sequence,
    })
}

fn decode<R: DeserializeOwned>(message: &Delivery) -> Option<R> {
    serde_json::from_slice(&message.payload)
        .inspect_err(|cause| error!(subject = %message.subject, %cause, "unreadable, left alone"))
        .ok()
}

fn encode(record: &impl Serialize) -> Bytes {
    serde_json::to_vec(record)
        .expect("a record has nothing that JSON cannot express")
        .into()
}

/// Says that a key is removed, to those who watch and those who come later; the
/// bus forgets that by itself.
fn removal(subject: String) -> Outgoing {
    let mut headers = HeaderMap::new();
    headers.insert("KV-Operation", "PURGE");
    headers.insert("Nats-Rollup", "sub");
    headers.insert("Nats-TTL", MARKER.as_secs().to_string());
    Outgoing {
        subject,
        message_id: fresh_id(),
        headers,
        payload: Bytes::new(),
    }
}

/// Tells a write from all others.
fn fresh_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}
