//! What is told of an action: one event `action_update` for each status, with an
//! id that names both, so that whoever goes on tells nothing twice.

use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value, json};
use signalbox_bus::intake::{self, Draft, Terms};
use signalbox_bus::publish::{Outgoing, PublishError, publish_event};
use signalbox_bus::stream::TOPICS;
use signalbox_bus::{Bus, BusError, history, stored_event, subject};
use signalbox_protocol::catalogue::{Audience, Channel, Topic};

use super::Action;
use crate::moment;

/// The type of the events.
const KIND: &str = "threat.action_update";
/// Who they come from.
const SOURCE: &str = "response_service";
/// Events of one action that are looked through. It has five of ours and one for
/// its decision.
const LOOK_BACK: usize = 256;

/// Where an action is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// It waits for a decision.
    Pending,
    /// It is being carried out.
    Executing,
    /// It was carried out.
    Completed,
    /// It failed, or nobody knows what became of it.
    Failed,
    /// Somebody decided against it.
    Rejected,
    /// Nobody decided in time.
    Expired,
    /// What it was for was given up.
    Cancelled,
}

impl Status {
    const ALL: [Self; 7] = [
        Self::Pending,
        Self::Executing,
        Self::Completed,
        Self::Failed,
        Self::Rejected,
        Self::Expired,
        Self::Cancelled,
    ];

    /// The word in events.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Executing => "EXECUTING",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
            Self::Rejected => "REJECTED",
            Self::Expired => "EXPIRED",
            Self::Cancelled => "CANCELLED",
        }
    }

    /// How far an action is; it never goes back, and has one end.
    const fn stage(self) -> u8 {
        match self {
            Self::Pending => 0,
            Self::Executing => 1,
            Self::Completed | Self::Failed | Self::Rejected | Self::Expired | Self::Cancelled => 2,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why the status of an action was not told.
#[derive(Debug, thiserror::Error)]
pub enum Untold {
    /// No router would take the event.
    #[error("no router would take it: {0}")]
    Unfit(String),
    /// The bus refused the event.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The bus does not answer.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The bus did not answer.
    #[error("no answer within {0:?}")]
    Silent(Duration),
}

/// Whether the same can succeed later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outlook {
    /// As soon as the bus is back.
    Away,
    /// Perhaps: there may be no room now.
    Refused,
    /// Never.
    Never,
}

impl Untold {
    pub(super) const fn outlook(&self) -> Outlook {
        match self {
            Self::Unfit(_) | Self::Bus(BusError::Forbidden { .. }) => Outlook::Never,
            Self::Publish(error) => match error {
                PublishError::Unacknowledged(_) => Outlook::Away,
                PublishError::Refused(_) | PublishError::Fenced | PublishError::NoStream(_) => {
                    Outlook::Refused
                }
                PublishError::Forbidden(_) | PublishError::TooLarge => Outlook::Never,
            },
            Self::Bus(_) | Self::Silent(_) => Outlook::Away,
        }
    }
}

/// Tells the status of an action, unless that or a later one was told.
pub(super) async fn tell(
    bus: &Bus,
    action: &Action,
    status: Status,
    patience: Duration,
) -> Result<(), Untold> {
    let mut message = message(action, status)?;
    // The bus recognises a repeat for some minutes; a take-over may come later.
    if stage(bus, action)
        .await?
        .is_some_and(|told| told >= status.stage())
    {
        return Ok(());
    }
    publish_event(bus, &mut message, false, patience).await?;
    Ok(())
}

/// How far the action is, as it was told to all.
async fn stage(bus: &Bus, action: &Action) -> Result<Option<u8>, BusError> {
    let topic = subject::topic(&Topic {
        channel: Channel::ResponseActions,
        object: Some(action.action_id.clone()),
        audience: Audience::Nobody,
    });
    let page = history::page(bus, TOPICS, &topic, 1, LOOK_BACK).await?;
    let stages = page.messages.iter().filter_map(|message| {
        let event = stored_event::decode(message)?.event;
        let told = |status: &Status| event.id == event_id(action, *status);
        Status::ALL.into_iter().find(told).map(Status::stage)
    });
    Ok(stages.max())
}

fn event_id(action: &Action, status: Status) -> String {
    format!("{}/{status}", action.action_id)
}

/// The event, as a router will take it.
fn message(action: &Action, status: Status) -> Result<Outgoing, Untold> {
    let now = moment::now();
    let draft = Draft {
        kind: Some(KIND.to_owned()),
        id: Some(event_id(action, status)),
        source: Some(SOURCE.to_owned()),
        time: Some(now.to_string()),
        data: data(action, status),
        ..Draft::default()
    };
    let terms = Terms {
        batch: false,
        fallback_id: &|_| String::new(),
        may_publish: &|_| true,
        trace: &|_| None,
        now,
    };
    let ready = intake::prepare(vec![draft], &terms);
    let mut ready = ready.map_err(|complaint| Untold::Unfit(complaint.message))?;
    let ready = ready.pop().map(|ready| ready.message);
    ready.ok_or_else(|| Untold::Unfit("nothing came of it".to_owned()))
}

fn data(action: &Action, status: Status) -> Map<String, Value> {
    let data = json!({
        "action_id": action.action_id,
        "action_type": action.action_type,
        "status": status.as_str(),
        "tool_name": action.tool_name,
        "arguments": action.arguments,
        "arguments_hash": action.arguments_hash,
        "requested_by": action.requested_by,
        "session_id": action.session_id,
        "answer": action.answer,
        "tool_call": action.tool_call,
        "expires_at": action.expires_at().to_string(),
    });
    match data {
        Value::Object(data) => data,
        _ => Map::new(),
    }
}
