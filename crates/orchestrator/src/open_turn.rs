//! Which answers are being written, in a bucket that outlives their orchestrator:
//! what whoever takes a shard over has to go on with.

use serde::{Deserialize, Serialize};
use signalbox_bus::document::{self, Document};
use signalbox_bus::fenced::FenceError;
use signalbox_bus::{Bus, BusError, key};
use signalbox_protocol::chat;
use signalbox_protocol::fleet::Shard;
use tracing::error;

use crate::chat_log::Lost;

/// The session of an answer that is being written.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct SessionKey {
    /// Whose it is.
    pub(crate) user_id: String,
    pub(crate) session_id: String,
}

/// The note that a session's answer is being written.
pub(crate) struct OpenTurn {
    document: Document,
    body: Vec<u8>,
    is_there: bool,
}

impl OpenTurn {
    /// The note of a session, as the bucket has it.
    pub(crate) async fn read(bus: Bus, session: &SessionKey) -> Result<Self, BusError> {
        let subject = subject(session);
        let found = document::read(&bus, key::CHATS_STREAM, &subject).await?;
        let is_there = found.as_ref().is_some_and(document::is_there);
        let revision = found.map_or(0, |found| found.sequence);
        Ok(Self {
            document: Document::new(bus, key::CHATS_STREAM, subject, revision),
            body: serde_json::to_vec(session).unwrap_or_default(),
            is_there,
        })
    }

    /// Notes that an answer is about to be written.
    pub(crate) async fn put(&mut self) -> Result<(), Lost> {
        let written = self.document.write(self.body.clone().into()).await;
        self.is_there = true;
        outcome(written.map(|_| ()))
    }

    /// Notes that none is any more, where there is a note.
    pub(crate) async fn remove(&mut self) -> Result<(), Lost> {
        if !std::mem::take(&mut self.is_there) {
            return Ok(());
        }
        outcome(self.document.remove().await.map(|_| ()))
    }
}

/// The sessions of a shard whose answers are being written.
pub(crate) async fn of_shard(bus: &Bus, shard: Shard) -> Result<Vec<SessionKey>, BusError> {
    let filter = key::open_turns_of(shard);
    let found = document::read_all(bus, key::CHATS_STREAM, &filter).await?;
    let sessions = found.into_iter().filter_map(|found| {
        serde_json::from_slice(&found.payload)
            .inspect_err(|cause| error!(subject = %found.subject, %cause, "unreadable, left alone"))
            .ok()
    });
    Ok(sessions.collect())
}

fn subject(session: &SessionKey) -> String {
    let shard = chat::shard(&session.user_id);
    key::open_turn(shard, &session.user_id, &session.session_id)
}

fn outcome(written: Result<(), FenceError>) -> Result<(), Lost> {
    match written {
        Ok(()) => Ok(()),
        // A former owner that was stopped may have put or removed its own.
        Err(FenceError::Overtaken(_)) => Err(Lost::Moved),
        Err(FenceError::Refused(cause)) => {
            error!(%cause, "note of an answer refused");
            Err(Lost::Refused)
        }
    }
}
