//! The record of replays: a dead letter is published again once, whoever asks
//! and however often, unless somebody insists.
//!
//! The record is written before the publish and completed after it. One that
//! was never completed leaves open whether the event was stored; as long as
//! EVENTS would recognise the repeat, it is simply published again.

use std::time::{Duration, SystemTime};

use async_nats::jetstream::kv::{self, CreateErrorKind, UpdateErrorKind};
use serde::{Deserialize, Serialize};
use signalbox_protocol::cursor::{Cursor, Epoch};
use signalbox_protocol::timestamp::Timestamp;

use super::{DeadLetter, NotReplayable};
use crate::connection::{Bus, BusError};
use crate::publish::{PublishError, Stored, publish};
use crate::stream::{DLQ, EVENTS};
use crate::{key, stream};

/// How long one publish may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What became of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The event is published.
    Replayed(Stored),
    /// It was published before, and nothing was done.
    Already {
        /// Its sequence in EVENTS then.
        sequence: u64,
        /// When.
        at: Timestamp,
    },
}

/// Why a dead letter was not replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// It cannot be.
    #[error("not replayable: {0}")]
    NotReplayable(#[from] NotReplayable),
    /// An earlier attempt ended without an answer, too long ago to repeat it.
    #[error(
        "a replay was begun at {0} and never confirmed: the event may have been stored; look, then repeat with --again"
    )]
    Unclear(Timestamp),
    /// Others replay it right now.
    #[error("somebody else replays it at this moment")]
    Contended,
    /// The bus did not take the event.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The bus is out of reach or not as needed.
    #[error(transparent)]
    Bus(#[from] BusError),
}

/// What is known of a dead letter's replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// Which replay of this dead letter it is, from 1.
    attempt: u32,
    /// How it ended.
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// It may have been published.
    Begun,
    /// It has this sequence in EVENTS.
    Stored(u64),
    /// The bus refused it.
    Refused,
}

/// What to do about a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Publish as this attempt, after noting it.
    Begin(u32),
    /// Publish this attempt once more: a repeat would be recognised.
    Repeat(u32),
    /// Nothing: it is in EVENTS.
    Already(u64),
    /// Nothing: nobody knows.
    Unclear,
}

/// Publishes dead letters again and keeps the record of it.
pub struct Replays {
    bus: Bus,
    store: kv::Store,
    epoch: Epoch,
    /// How old an attempt may be to be repeated under the same id.
    repeatable: Duration,
}

impl Replays {
    /// Opens the record.
    ///
    /// # Errors
    /// When the bus does not answer or was not prepared by `init`.
    pub async fn open(bus: Bus) -> Result<Self, BusError> {
        let state = stream::state(&bus, DLQ).await?;
        let window = stream::duplicate_window(&bus, EVENTS).await?;
        let store = bus
            .jetstream()
            .get_key_value(key::REPLAYS)
            .await
            .map_err(|error| {
                let cause = format!("{error}; run `signalbox init`");
                BusError::api("open the record of replays", cause)
            })?;
        Ok(Self {
            bus,
            store,
            epoch: state.epoch,
            // Clocks differ, and the publish itself takes its time.
            repeatable: window / 2,
        })
    }

    /// Publishes a dead letter again, unless that was done before; with
    /// `again` also then.
    ///
    /// # Errors
    /// [`ReplayError`] says why it is not, or may not be, published.
    pub async fn replay(&self, letter: &DeadLetter, again: bool) -> Result<Outcome, ReplayError> {
        let position = Cursor {
            epoch: self.epoch,
            sequence: letter.sequence,
        };
        let key = key::replay(position);
        let known = self.look_up(&key).await?;
        let last = known.map(|(record, at, _)| (record, age(at) < self.repeatable));
        let (attempt, revision) = match (decide(last, again), known) {
            (Step::Already(sequence), Some((_, at, _))) => {
                return Ok(Outcome::Already { sequence, at });
            }
            (Step::Unclear, Some((_, at, _))) => return Err(ReplayError::Unclear(at)),
            (Step::Repeat(attempt), Some((_, _, revision))) => (attempt, revision),
            (Step::Begin(attempt), known) => {
                letter.replay(String::new())?;
                let record = Record {
                    attempt,
                    state: State::Begun,
                };
                let revision = known.map(|(_, _, revision)| revision);
                (attempt, self.note(&key, record, revision).await?)
            }
            (_, None) => return Err(ReplayError::Contended),
        };
        let message = letter.replay(format!("replay/{position}/{attempt}"))?;
        let published = publish(&self.bus, &message, PATIENCE).await;
        let state = match &published {
            Ok(stored) => State::Stored(stored.sequence),
            Err(PublishError::Unacknowledged(_)) => State::Begun,
            Err(_) => State::Refused,
        };
        if state != State::Begun {
            let record = Record { attempt, state };
            match self.note(&key, record, Some(revision)).await {
                // Somebody else repeated the same attempt and noted its end.
                Ok(_) | Err(ReplayError::Contended) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Outcome::Replayed(published?))
    }

    /// What the record says of a dead letter, since when and in which revision.
    async fn look_up(&self, key: &str) -> Result<Option<(Record, Timestamp, u64)>, BusError> {
        let failed = |cause: String| BusError::api("read the record of replays", cause);
        let entry = self
            .store
            .entry(key)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let Some(entry) = entry.filter(|entry| entry.operation == kv::Operation::Put) else {
            return Ok(None);
        };
        let record =
            serde_json::from_slice(&entry.value).map_err(|error| failed(error.to_string()))?;
        Ok(Some((
            record,
            Timestamp::from(entry.created),
            entry.revision,
        )))
    }

    /// Writes the record over the given revision, or as the first.
    async fn note(
        &self,
        key: &str,
        record: Record,
        revision: Option<u64>,
    ) -> Result<u64, ReplayError> {
        let failed = |cause: String| BusError::api("write the record of replays", cause);
        let value = serde_json::to_vec(&record).map_err(|error| failed(error.to_string()))?;
        match revision {
            None => match self.store.create(key, value.into()).await {
                Ok(revision) => Ok(revision),
                Err(error) if error.kind() == CreateErrorKind::AlreadyExists => {
                    Err(ReplayError::Contended)
                }
                Err(error) => Err(failed(error.to_string()).into()),
            },
            Some(revision) => match self.store.update(key, value.into(), revision).await {
                Ok(revision) => Ok(revision),
                Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => {
                    Err(ReplayError::Contended)
                }
                Err(error) => Err(failed(error.to_string()).into()),
            },
        }
    }
}

/// What to do, by the last record and whether a repeat of it would be
/// recognised.
fn decide(last: Option<(Record, bool)>, again: bool) -> Step {
    let Some((Record { attempt, state }, repeatable)) = last else {
        return Step::Begin(1);
    };
    match state {
        State::Refused => Step::Begin(attempt),
        _ if again => Step::Begin(attempt + 1),
        State::Stored(sequence) => Step::Already(sequence),
        State::Begun if repeatable => Step::Repeat(attempt),
        State::Begun => Step::Unclear,
    }
}

fn age(at: Timestamp) -> Duration {
    let then = Duration::from_millis(u64::try_from(at.unix_millis()).unwrap_or(0));
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH + then)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_cannot_double_is_published() {
        let record = |state| Record { attempt: 3, state };
        let cases = [
            (None, false, Step::Begin(1)),
            (
                Some((record(State::Stored(9)), true)),
                false,
                Step::Already(9),
            ),
            (Some((record(State::Stored(9)), true)), true, Step::Begin(4)),
            (Some((record(State::Begun), true)), false, Step::Repeat(3)),
            (Some((record(State::Begun), false)), false, Step::Unclear),
            (Some((record(State::Begun), false)), true, Step::Begin(4)),
            (Some((record(State::Refused), false)), false, Step::Begin(3)),
        ];
        for (last, again, step) in cases {
            assert_eq!(decide(last, again), step, "{last:?} {again}");
        }
    }

    #[test]
    fn records_are_readable() {
        let record = Record {
            attempt: 1,
            state: State::Stored(7),
        };
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(text, r#"{"attempt":1,"state":{"stored":7}}"#);
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
    }
}
