//! Tells those who follow an investigation how far its agent is, as any producer
//! would: events `events.threat.investigation_update`, made of the records of the
//! answer's log and named by their numbers. Whoever takes an answer over tells the
//! same again under the same ids, which is harmless.
//!
//! Nothing here holds an answer up: a turn drops its steps into a bounded queue,
//! and one task publishes them in order. While the bus is away old steps are given
//! up for new ones, ends of answers last.

mod queue;
mod step;

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use parking_lot::Mutex;
use serde_json::Value;
use signalbox_bus::publish::{Outgoing, PublishError, publish_event};
use signalbox_bus::{Bus, subject};
use signalbox_protocol::catalogue::Channel;
use signalbox_protocol::domain::Domain;
use signalbox_protocol::envelope::{CE_ID, CE_SOURCE, CE_TIME};
use signalbox_protocol::wire::ChatRecord;
use signalbox_protocol::{chat, name};
use tracing::{debug, warn};

use self::queue::{Item as _, Queue};
use self::step::{State, Step};
use crate::agents::Agent;
use crate::answer::Answer;
use crate::chat_log;
use crate::conversation;
use crate::moment;
use crate::open_turn::SessionKey;

/// The type of the events.
const EVENT: &str = "investigation_update";
/// Who they come from.
const SOURCE: &str = "investigation_service";
/// How long one event is tried before it is looked whether it is worth more.
const PATIENCE: Duration = Duration::from_secs(10);
/// How old a step may be to be told again after a take-over. Older ones were told,
/// and TOPICS may not recognise a repeat of them any more: it does for ten minutes.
const RETOLD: Duration = Duration::from_secs(300);

/// Where turns say how far they are. Once all of these and their [`Watch`]es are
/// gone, the [`Teller`] comes to its end.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    queue: Arc<Queue<Told>>,
    _open: Arc<Open>,
}

/// Publishes what turns say.
#[derive(Debug)]
pub(crate) struct Teller {
    queue: Arc<Queue<Told>>,
}

/// Closes the queue when nobody is left who may say something.
#[derive(Debug)]
struct Open(Arc<Queue<Told>>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// An answer that is watched by those who follow an investigation.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    progress: Progress,
    about: Arc<About>,
}

/// Which answer of which investigation it is.
#[derive(Debug)]
struct About {
    investigation_id: String,
    agent_type: String,
    key: SessionKey,
    answer: u32,
    /// How far it is, by what was told; the teller's alone.
    state: Mutex<State>,
}

/// A step of an answer that waits to be told.
#[derive(Debug)]
struct Told {
    about: Arc<About>,
    /// The number of the record in the log.
    number: u64,
    /// Where the answer's question lies in CHAT.
    asked_sequence: u64,
    /// When it happened.
    at: String,
    step: Step,
}

/// A pair for turns and for the task that tells.
pub(crate) fn new() -> (Progress, Teller) {
    let queue = Arc::new(Queue::default());
    let progress = Progress {
        _open: Arc::new(Open(Arc::clone(&queue))),
        queue: Arc::clone(&queue),
    };
    (progress, Teller { queue })
}

impl Progress {
    /// Watches an answer, if its agent tells of its progress, and the chat or the
    /// message names an investigation that the user may follow.
    pub(crate) fn watch(
        &self,
        agent: Option<&Agent>,
        key: &SessionKey,
        context: Option<&Value>,
        answer: &Answer,
    ) -> Option<Watch> {
        let agent = agent.filter(|agent| agent.progress)?;
        let channel = Channel::InvestigationProgress.name();
        let mut channels = answer.asked.channels.iter();
        if !channels.any(|one| one == channel) {
            return None;
        }
        let own = conversation::parse(&answer.asked.context);
        let investigation_id = investigation(own.as_ref()).or_else(|| investigation(context))?;
        Some(Watch {
            progress: self.clone(),
            about: Arc::new(About {
                investigation_id,
                agent_type: agent.agent_type.clone(),
                key: key.clone(),
                answer: answer.number,
                state: Mutex::default(),
            }),
        })
    }
}

/// The investigation that a context names.
fn investigation(context: Option<&Value>) -> Option<String> {
    let id = context?.get("investigation_id")?.as_str()?;
    name::is_valid(id).then(|| id.to_owned())
}

impl Watch {
    /// Takes note of a record of the answer that was appended under a number.
    pub(crate) fn note(&self, number: u64, record: &ChatRecord) {
        let Some(step) = record.record.as_ref().and_then(Step::of) else {
            return;
        };
        let told = told(&self.about, number, record, step);
        if let Some(lost) = self.progress.queue.push(told) {
            let session = &lost.about.key.session_id;
            warn!(%session, number = lost.number, "too much progress waits, some is left out");
        }
    }
}

fn told(about: &Arc<About>, number: u64, record: &ChatRecord, step: Step) -> Told {
    Told {
        about: Arc::clone(about),
        number,
        asked_sequence: record.asked_sequence,
        at: record.at.clone(),
        step,
    }
}

impl queue::Item for Told {
    fn is_last(&self) -> bool {
        matches!(self.step, Step::Ended { .. })
    }
}

impl Teller {
    /// Publishes what turns say, until no turn is left that may say anything.
    pub(crate) async fn run(self, bus: Bus) {
        while let Some(told) = self.queue.next().await {
            if matches!(told.step, Step::Taken) {
                let state = retell(&bus, &told).await;
                *told.about.state.lock() = state;
                continue;
            }
            let data = told.about.state.lock().take(&told.step);
            if let Some(data) = data {
                publish(&bus, &told, data).await;
            }
        }
    }
}

/// Tells again what an answer did before it was taken over; gives how far it was.
async fn retell(bus: &Bus, taken: &Told) -> State {
    let mut state = State::default();
    let SessionKey {
        user_id,
        session_id,
    } = &taken.about.key;
    let log_id = chat::log_id(user_id, session_id);
    let before = taken.number.saturating_sub(1);
    let records = chat_log::read_from(bus, &log_id, taken.asked_sequence, before).await;
    let records = records.unwrap_or_else(|cause| {
        warn!(session = %session_id, %cause, "progress before a take-over is not known");
        Vec::new()
    });
    let oldest = moment::now_ms().saturating_sub(moment::millis(RETOLD));
    for stored in records.iter().filter(|stored| stored.number <= before) {
        let Some(step) = stored.record.record.as_ref().and_then(Step::of) else {
            continue;
        };
        if let Some(data) = state.take(&step)
            && moment::parse(&stored.record.at) >= oldest
        {
            let told = told(&taken.about, stored.number, &stored.record, step);
            publish(bus, &told, data).await;
        }
    }
    state
}

/// Publishes a step; an answer's end is tried for as long as it takes.
async fn publish(bus: &Bus, told: &Told, data: Value) {
    let mut event = event(told, data);
    loop {
        match publish_event(bus, &mut event, true, PATIENCE).await {
            Ok(_) => {
                debug!(subject = %event.subject, id = %event.message_id, "progress told");
                return;
            }
            Err(PublishError::Unacknowledged(_)) if told.is_last() => {}
            Err(cause) => {
                warn!(session = %told.about.key.session_id, %cause, "progress not told");
                return;
            }
        }
    }
}

fn event(told: &Told, mut data: Value) -> Outgoing {
    let about = &told.about;
    let session_id = &about.key.session_id;
    let id = format!("{session_id}/{}/{}", about.answer, told.number);
    data["investigation_id"] = about.investigation_id.as_str().into();
    data["agent_type"] = about.agent_type.as_str().into();
    data["session_id"] = session_id.as_str().into();
    data["answer"] = about.answer.into();
    let mut headers = HeaderMap::new();
    headers.insert(CE_ID, id.as_str());
    headers.insert(CE_SOURCE, SOURCE);
    headers.insert(CE_TIME, told.at.as_str());
    Outgoing {
        subject: subject::event(Domain::Threat, EVENT),
        message_id: format!("{}/{SOURCE}/{id}", Domain::Threat),
        headers,
        payload: data.to_string().into(),
    }
}

#[cfg(test)]
mod tests;
