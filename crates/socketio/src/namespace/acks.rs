//! Acknowledgements that clients owe, each with its deadline.

use bytes::Bytes;
use serde_json::value::RawValue;
use thiserror::Error;
use tokio::{sync::oneshot, time::Instant};

/// A client's answer to an event.
#[derive(Debug)]
pub struct Acknowledgement {
    /// Its arguments, as JSON.
    pub arguments: Vec<Box<RawValue>>,
    /// Its binary parts, for which placeholders stand in the arguments.
    pub attachments: Vec<Bytes>,
}

/// Why there is no acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum AckError {
    /// None came in time; one that comes later is ignored.
    #[error("no acknowledgement in time")]
    Timeout,
    /// The socket has left.
    #[error("the socket has left")]
    Disconnected,
    /// The socket owes too many already; the event was not sent.
    #[error("too many acknowledgements are awaited")]
    TooMany,
}

pub(super) type Answered = Result<Acknowledgement, AckError>;

/// What one socket owes; present only while it does.
#[derive(Default)]
pub(super) struct Acks {
    pending: Vec<Pending>,
}

struct Pending {
    id: u64,
    until: Instant,
    answer: oneshot::Sender<Answered>,
}

impl Acks {
    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn push(&mut self, id: u64, until: Instant) -> oneshot::Receiver<Answered> {
        let (answer, answered) = oneshot::channel();
        self.pending.push(Pending { id, until, answer });
        answered
    }

    /// Settles one that has come; others may be for an event that timed out.
    pub(super) fn settle(&mut self, id: u64, answer: impl FnOnce() -> Acknowledgement) {
        if let Some(index) = self.pending.iter().position(|pending| pending.id == id) {
            let pending = self.pending.swap_remove(index);
            // Nobody may wait any more.
            pending.answer.send(Ok(answer())).ok();
        }
    }

    /// Gives up those whose time is over; gives the next deadline.
    pub(super) fn expire(&mut self, now: Instant) -> Option<Instant> {
        let over = self.pending.extract_if(.., |pending| {
            pending.until <= now || pending.answer.is_closed()
        });
        for pending in over {
            pending.answer.send(Err(AckError::Timeout)).ok();
        }
        self.pending.iter().map(|pending| pending.until).min()
    }
}
