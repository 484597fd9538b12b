//! Decisions on response actions: each action is decided once, by whoever is
//! first, and the decision becomes an event that responders act on.
//!
//! The record in KV is what makes it once; it is written before the event is
//! published and completed after it. A decision whose event may be missing is
//! published again when somebody asks for it, and by [`Decisions::complete`].
//!
//! An action may say until when it can be decided on. A decision that was made
//! later, by the clock of whoever made it or by that of the bus, stands for
//! nothing: whoever comes upon it turns it into an expiry before anything is
//! published, and all judge by the same numbers. Whoever holds an action settles
//! its expiry, or that it was given up, in the same record.

mod record;
mod watch;

use std::time::Duration;

use async_nats::jetstream::kv::{CreateErrorKind, Store, UpdateErrorKind};
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use futures_util::StreamExt as _;
use signalbox_protocol::decision::Decision;
use signalbox_protocol::timestamp::Timestamp;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep};

use self::record::{EVENT, Record, Terms, event, terms, topic};
pub use self::record::{SYSTEM, Settlement};
pub use self::watch::{DecisionWatch, Seen};
use crate::connection::{Bus, BusError};
use crate::header;
use crate::publish::{PublishError, publish};
use crate::stream::TOPICS;
use crate::{history, key, stored_event};

/// How long an action that somebody knows of may take to be stored.
const UNDER_WAY: Duration = Duration::from_secs(1);
/// The pause between two looks for it.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long the publish of a decision may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Events of one action that are looked through for its decision.
const LOOK_BACK: usize = 256;
/// How often a record that others change meanwhile is read again.
const ATTEMPTS: usize = 8;

/// What became of an attempt to decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The decision stands, and is published.
    Made,
    /// The action was decided before, as this says.
    Already(Decision),
    /// The action could be decided on until then.
    Expired(Timestamp),
}

/// Why nothing was decided.
#[derive(Debug, thiserror::Error)]
pub enum DecisionError {
    /// No event of the last day or so tells of this action.
    #[error("no such action")]
    UnknownAction,
    /// The action has other arguments than the decider has seen.
    #[error("the action has other arguments")]
    OtherArguments,
    /// The decision stands, but its event may not be published: decide again.
    #[error("the decision is recorded but not published: {0}")]
    Unpublished(#[from] PublishError),
    /// The bus is out of reach or not as needed.
    #[error(transparent)]
    Bus(#[from] BusError),
}

/// What is known of an action that was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    record: Record,
    /// When the bus stored the decision.
    stored: Timestamp,
    key: String,
    revision: u64,
}

impl Known {
    /// What was decided, and by whom.
    #[must_use]
    pub const fn decision(&self) -> &Decision {
        &self.record.decision
    }

    /// Why it was settled, where nobody decided.
    #[must_use]
    pub const fn settlement(&self) -> Option<Settlement> {
        self.record.settled
    }

    /// Whether the decision's event is known to be on its way.
    #[must_use]
    pub const fn is_published(&self) -> bool {
        self.record.published
    }

    /// Whether it was decided before this moment, by the clock of whoever
    /// decided and by that of the bus.
    #[must_use]
    pub fn is_before(&self, end: Timestamp) -> bool {
        self.record.at < end && self.stored < end
    }

    /// Whether somebody decided when it was too late.
    fn is_late(&self) -> bool {
        let end = self.record.expires_at;
        self.record.settled.is_none() && end.is_some_and(|end| !self.is_before(end))
    }
}

/// The end of an action on which nobody decided.
#[derive(Clone, Debug)]
pub struct Ending {
    /// The action.
    pub action_id: String,
    /// What kind of action it is.
    pub action_type: String,
    /// Why it ends.
    pub settlement: Settlement,
    /// The same for people.
    pub reason: String,
    /// Until when it could be decided on.
    pub expires_at: Timestamp,
}

/// Makes decisions and keeps the record of them.
#[derive(Clone)]
pub struct Decisions {
    bus: Bus,
    store: Store,
}

impl Decisions {
    /// Opens the record.
    ///
    /// # Errors
    /// When the bus does not answer or was not prepared by `init`.
    pub async fn open(bus: Bus) -> Result<Self, BusError> {
        let store = bus.bucket(key::DECISIONS).await?;
        Ok(Self { bus, store })
    }

    /// Decides on an action, unless that was done before or it is too late. To
    /// repeat a decision of one's own is to make sure of it.
    ///
    /// # Errors
    /// [`DecisionError`] says why nothing was decided, or may not have been
    /// heard of.
    pub async fn decide(&self, decision: Decision) -> Result<Outcome, DecisionError> {
        let key = key::decision(&decision.action_id);
        if let Some(known) = self.look_up(&key).await? {
            return self.join(&decision, known).await;
        }
        let Some(terms) = self.terms_soon(&decision.action_id).await? else {
            return Err(DecisionError::UnknownAction);
        };
        if is_on_others(&decision, terms.arguments_hash.as_deref()) {
            return Err(DecisionError::OtherArguments);
        }
        let at = now();
        if let Some(end) = terms.expires_at.filter(|end| at >= *end) {
            return Ok(Outcome::Expired(end));
        }
        let record = Record::of(decision.clone(), terms, at);
        let (known, is_new) = self.create(key, record).await?;
        if !is_new {
            return self.join(&decision, known).await;
        }
        let known = self.finish_new(known).await?;
        Ok(outcome(&decision, known))
    }

    /// Ends an action on which nobody decided, unless somebody has; gives what
    /// stands then, which is published.
    ///
    /// # Errors
    /// When the bus is out of reach or refuses the event.
    pub async fn settle(&self, ending: &Ending) -> Result<Known, DecisionError> {
        let key = key::decision(&ending.action_id);
        if let Some(known) = self.look_up(&key).await? {
            return self.finish(known).await;
        }
        let (known, is_new) = self.create(key, Record::settled(ending, now())).await?;
        if is_new {
            self.finish_new(known).await
        } else {
            self.finish(known).await
        }
    }

    /// What was decided on an action, as the leader of the bucket knows it.
    ///
    /// # Errors
    /// When the bus is out of reach.
    pub async fn find(&self, action_id: &str) -> Result<Option<Known>, BusError> {
        self.look_up(&key::decision(action_id)).await
    }

    /// Sees to it that what stands is published, and that nothing stands that
    /// came too late; gives what stands.
    ///
    /// # Errors
    /// When the bus is out of reach or refuses the event.
    pub async fn finish(&self, known: Known) -> Result<Known, DecisionError> {
        if known.record.published {
            return Ok(known);
        }
        let known = self.without_late(known).await?;
        let action_id = &known.record.decision.action_id;
        let page = history::page(&self.bus, TOPICS, &topic(action_id), 1, LOOK_BACK).await?;
        let told = page
            .messages
            .iter()
            .filter_map(stored_event::decode)
            .any(|stored| stored.event.kind.name == EVENT);
        if told {
            return Ok(self.note_published(known).await?);
        }
        self.publish(known).await
    }

    /// Publishes decisions that were recorded by someone who then failed.
    ///
    /// # Errors
    /// When the bus is out of reach; what is left is for the next time.
    pub async fn complete(&self) -> Result<(), DecisionError> {
        let mut keys = self.store.keys().await.map_err(failed)?;
        while let Some(key) = keys.next().await {
            let key = key.map_err(failed)?;
            if let Some(known) = self.look_up(&key).await? {
                self.finish(known).await?;
            }
        }
        Ok(())
    }

    /// Meets a decision that was there first.
    async fn join(&self, wanted: &Decision, known: Known) -> Result<Outcome, DecisionError> {
        let known = self.finish(known).await?;
        let decided_on = known.record.decision.arguments_hash.as_deref();
        if known.record.settled.is_none() && is_on_others(wanted, decided_on) {
            return Err(DecisionError::OtherArguments);
        }
        Ok(outcome(wanted, known))
    }

    /// Publishes a decision that was recorded a moment ago.
    async fn finish_new(&self, known: Known) -> Result<Known, DecisionError> {
        let known = self.without_late(known).await?;
        self.publish(known).await
    }

    async fn publish(&self, known: Known) -> Result<Known, DecisionError> {
        publish(&self.bus, &event(&known.record), PATIENCE).await?;
        Ok(self.note_published(known).await?)
    }

    async fn note_published(&self, mut known: Known) -> Result<Known, BusError> {
        known.record.published = true;
        // If somebody else has written, it was to note the same.
        self.update(&mut known).await?;
        Ok(known)
    }

    /// What stands: the same, or in place of a decision that came too late the
    /// expiry.
    async fn without_late(&self, mut known: Known) -> Result<Known, BusError> {
        for _ in 0..ATTEMPTS {
            if !known.is_late() {
                return Ok(known);
            }
            known.record.expire();
            if self.update(&mut known).await? {
                return Ok(known);
            }
            known = self.again(&known.key).await?;
        }
        Err(failed("others change it all the time"))
    }

    /// Writes a record, unless there is one; gives what there is then, and
    /// whether it is new.
    async fn create(&self, key: String, record: Record) -> Result<(Known, bool), BusError> {
        let created = self.store.create(&key, record.encode().into()).await;
        let is_new = match created {
            Ok(_) => true,
            Err(error) if error.kind() == CreateErrorKind::AlreadyExists => false,
            Err(error) => return Err(failed(error)),
        };
        Ok((self.again(&key).await?, is_new))
    }

    /// Writes a known record anew; says whether it was still the last.
    async fn update(&self, known: &mut Known) -> Result<bool, BusError> {
        // The bus tells of the last write alone.
        known.record.stored = Some(known.stored);
        let bytes = known.record.encode().into();
        match self.store.update(&known.key, bytes, known.revision).await {
            Ok(revision) => {
                known.revision = revision;
                Ok(true)
            }
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }

    /// What is there for certain.
    async fn again(&self, key: &str) -> Result<Known, BusError> {
        let known = self.look_up(key).await?;
        known.ok_or_else(|| failed("it is there and is not"))
    }

    async fn look_up(&self, key: &str) -> Result<Option<Known>, BusError> {
        let stream = self
            .bus
            .jetstream()
            .get_stream_no_info(key::DECISIONS_STREAM)
            .await
            .map_err(failed)?;
        let subject = format!("$KV.{}.{key}", key::DECISIONS);
        let refusal = format!("$JS.API.STREAM.MSG.GET.{}", key::DECISIONS_STREAM);
        let last = stream.get_last_raw_message_by_subject(&subject);
        let message = match self.bus.unless_refused(&refusal, last).await? {
            Ok(message) => message,
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {
                return Ok(None);
            }
            Err(error) => return Err(failed(error)),
        };
        if header::value(&message.headers, "KV-Operation").is_some() {
            // It was deleted.
            return Ok(None);
        }
        let record: Record = serde_json::from_slice(&message.payload).map_err(failed)?;
        Ok(Some(Known {
            stored: record.stored.unwrap_or_else(|| message.time.into()),
            record,
            key: key.to_owned(),
            revision: message.sequence,
        }))
    }

    /// As [`terms`](Self::terms), but waits for an action that is on its way: who
    /// is asked in a chat may know of it before the router has stored it.
    async fn terms_soon(&self, action_id: &str) -> Result<Option<Terms>, BusError> {
        let end = Instant::now() + UNDER_WAY;
        loop {
            let terms = self.terms(action_id).await?;
            if terms.is_some() || Instant::now() >= end {
                return Ok(terms);
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// What the action's last event says of it, if there is one.
    async fn terms(&self, action_id: &str) -> Result<Option<Terms>, BusError> {
        let last = history::last_at_leader(&self.bus, TOPICS, &topic(action_id)).await?;
        let event = last.as_ref().and_then(stored_event::decode);
        Ok(event.map(|stored| terms(&stored.event.data)))
    }
}

/// What an attempt has come to, where this stands.
fn outcome(wanted: &Decision, known: Known) -> Outcome {
    let first = known.record.decision;
    match known.record.settled {
        Some(Settlement::Expired) => {
            Outcome::Expired(known.record.expires_at.unwrap_or(known.record.at))
        }
        Some(Settlement::Cancelled) => Outcome::Already(first),
        None if first.decided_by == wanted.decided_by && first.verdict == wanted.verdict => {
            Outcome::Made
        }
        None => Outcome::Already(first),
    }
}

/// Whether a decider has seen other arguments than these.
fn is_on_others(decision: &Decision, arguments_hash: Option<&str>) -> bool {
    let seen = decision.arguments_hash.as_deref();
    seen.is_some() && seen != arguments_hash
}

fn now() -> Timestamp {
    OffsetDateTime::now_utc().into()
}

fn failed(cause: impl ToString) -> BusError {
    BusError::Api {
        action: "record a decision".to_owned(),
        cause: cause.to_string(),
    }
}
