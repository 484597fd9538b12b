//! Decisions on response actions: each action is decided once, by whoever is
//! first, and the decision becomes an event that responders act on.
//!
//! The record in KV is what makes it once; it is written before the event is
//! published and completed after it. A decision whose event may be missing is
//! published again when somebody asks for it, and by [`Decisions::complete`].

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::kv::{CreateErrorKind, Operation, Store, UpdateErrorKind};
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::json;
use signalbox_protocol::catalogue::{Audience, Channel, Topic};
use signalbox_protocol::decision::Decision;
use signalbox_protocol::domain::Domain;
use signalbox_protocol::envelope::{CE_ID, CE_SOURCE, CE_TIME};
use signalbox_protocol::timestamp::Timestamp;
use time::OffsetDateTime;

use crate::connection::{Bus, BusError};
use crate::publish::{Outgoing, PublishError, publish};
use crate::stream::TOPICS;
use crate::{history, key, stored_event, subject};

/// How long the publish of a decision may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Events of one action that are looked through for its decision.
const LOOK_BACK: usize = 256;
/// The event that a decision becomes.
const EVENT: &str = "action_decided";
/// Who it comes from.
const SOURCE: &str = "response_service";

/// What became of an attempt to decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The decision stands, and is published.
    Made,
    /// The action was decided before, as this says.
    Already(Decision),
}

/// Why nothing was decided.
#[derive(Debug, thiserror::Error)]
pub enum DecisionError {
    /// No event of the last day or so tells of this action.
    #[error("no such action")]
    UnknownAction,
    /// The decision stands, but its event may not be published: decide again.
    #[error("the decision is recorded but not published: {0}")]
    Unpublished(#[from] PublishError),
    /// The bus is out of reach or not as needed.
    #[error(transparent)]
    Bus(#[from] BusError),
}

/// What is kept of a decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    #[serde(flatten)]
    decision: Decision,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    action_type: Option<String>,
    /// When it was made.
    at: Timestamp,
    /// Whether its event is known to be on EVENTS.
    published: bool,
}

/// Makes decisions and keeps the record of them.
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

    /// Decides on an action, unless that was done before. To repeat a decision
    /// of one's own is to make sure of it.
    ///
    /// # Errors
    /// [`DecisionError`] says why nothing was decided, or may not have been
    /// heard of.
    pub async fn decide(&self, decision: Decision) -> Result<Outcome, DecisionError> {
        let key = key::decision(&decision.action_id);
        if let Some((known, revision)) = self.look_up(&key).await? {
            return self.join(&key, &decision, known, revision).await;
        }
        let Some(action_type) = self.action_type(&decision.action_id).await? else {
            return Err(DecisionError::UnknownAction);
        };
        let record = Record {
            decision: decision.clone(),
            action_type,
            at: OffsetDateTime::now_utc().into(),
            published: false,
        };
        match self.store.create(&key, encode(&record).into()).await {
            Ok(revision) => {
                self.publish(&key, record, revision).await?;
                Ok(Outcome::Made)
            }
            Err(error) if error.kind() == CreateErrorKind::AlreadyExists => {
                let (known, revision) = self
                    .look_up(&key)
                    .await?
                    .ok_or_else(|| failed("it is there and is not"))?;
                self.join(&key, &decision, known, revision).await
            }
            Err(error) => Err(failed(error).into()),
        }
    }

    /// Publishes decisions that were recorded by someone who then failed.
    ///
    /// # Errors
    /// When the bus is out of reach; what is left is for the next time.
    pub async fn complete(&self) -> Result<(), DecisionError> {
        let mut keys = self.store.keys().await.map_err(failed)?;
        while let Some(key) = keys.next().await {
            let key = key.map_err(failed)?;
            if let Some((record, revision)) = self.look_up(&key).await?
                && !record.published
            {
                self.publish_once(&key, record, revision).await?;
            }
        }
        Ok(())
    }

    /// Meets a decision that was there first.
    async fn join(
        &self,
        key: &str,
        wanted: &Decision,
        known: Record,
        revision: u64,
    ) -> Result<Outcome, DecisionError> {
        let first = known.decision.clone();
        if !known.published {
            self.publish_once(key, known, revision).await?;
        }
        let own = first.decided_by == wanted.decided_by && first.verdict == wanted.verdict;
        Ok(if own {
            Outcome::Made
        } else {
            Outcome::Already(first)
        })
    }

    /// Publishes the event of a decision unless it is on TOPICS already.
    async fn publish_once(
        &self,
        key: &str,
        record: Record,
        revision: u64,
    ) -> Result<(), DecisionError> {
        let subject = topic(&record.decision.action_id);
        let page = history::page(&self.bus, TOPICS, &subject, 1, LOOK_BACK).await?;
        let told = page
            .messages
            .iter()
            .filter_map(stored_event::decode)
            .any(|stored| stored.event.kind.name == EVENT);
        if told {
            return Ok(self.note_published(key, record, revision).await?);
        }
        self.publish(key, record, revision).await
    }

    async fn publish(&self, key: &str, record: Record, revision: u64) -> Result<(), DecisionError> {
        publish(&self.bus, &event(&record), PATIENCE).await?;
        Ok(self.note_published(key, record, revision).await?)
    }

    async fn note_published(
        &self,
        key: &str,
        mut record: Record,
        revision: u64,
    ) -> Result<(), BusError> {
        record.published = true;
        match self
            .store
            .update(key, encode(&record).into(), revision)
            .await
        {
            // Somebody else noted the same.
            Err(error) if error.kind() != UpdateErrorKind::WrongLastRevision => Err(failed(error)),
            _ => Ok(()),
        }
    }

    async fn look_up(&self, key: &str) -> Result<Option<(Record, u64)>, BusError> {
        let entry = self.store.entry(key).await.map_err(failed)?;
        let Some(entry) = entry.filter(|entry| entry.operation == Operation::Put) else {
            return Ok(None);
        };
        let record = serde_json::from_slice(&entry.value).map_err(failed)?;
        Ok(Some((record, entry.revision)))
    }

    /// What kind of action it is, if it says, and whether there is one.
    async fn action_type(&self, action_id: &str) -> Result<Option<Option<String>>, BusError> {
        let last = history::last_at_leader(&self.bus, TOPICS, &topic(action_id)).await?;
        let event = last.as_ref().and_then(stored_event::decode);
        Ok(event.map(|stored| {
            let word = stored.event.data.get("action_type")?.as_str()?;
            Some(word.to_owned())
        }))
    }
}

/// Where the events of an action are.
fn topic(action_id: &str) -> String {
    subject::topic(&Topic {
        channel: Channel::ResponseActions,
        object: Some(action_id.to_owned()),
        audience: Audience::Nobody,
    })
}

fn event(record: &Record) -> Outgoing {
    let id = format!("decision-{}", record.decision.action_id);
    let mut headers = HeaderMap::new();
    headers.insert(CE_ID, id.as_str());
    headers.insert(CE_SOURCE, SOURCE);
    headers.insert(CE_TIME, record.at.to_string());
    let decision = &record.decision;
    let mut data = json!({
        "action_id": decision.action_id,
        "decision": decision.verdict.as_str(),
        "decided_by": decision.decided_by,
    });
    let optional = [
        ("action_type", &record.action_type),
        ("reason", &decision.reason),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            data[name] = value.as_str().into();
        }
    }
    Outgoing {
        subject: subject::event(Domain::Threat, EVENT),
        message_id: format!("{}/{SOURCE}/{id}", Domain::Threat),
        headers,
        payload: data.to_string().into(),
    }
}

fn encode(record: &Record) -> Vec<u8> {
    serde_json::to_vec(record).expect("a record has nothing that JSON cannot express")
}

fn failed(cause: impl ToString) -> BusError {
    BusError::Api {
        action: "record a decision".to_owned(),
        cause: cause.to_string(),
    }
}
