//! What is told of an action: one event `action_update` for each status, with an
//! id that names both, so that whoever goes on tells nothing twice.

use std::fmt;
use std::time::Duration;

use serde_json::{Map, Number, Value, json};
use signalbox_bus::history::{self, Page};
use signalbox_bus::intake::{self, Draft, Terms};
use signalbox_bus::publish::{Outgoing, PublishError, publish_event};
use signalbox_bus::stream::TOPICS;
use signalbox_bus::{Bus, BusError, stored_event, subject};
use signalbox_protocol::catalogue::{Audience, Channel, Topic};
use tokio::time::Instant;

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
            Self::Publish(error) => outlook(error),
            Self::Bus(_) | Self::Silent(_) => Outlook::Away,
        }
    }
}

/// Whether the same can be published later.
pub(super) const fn outlook(error: &PublishError) -> Outlook {
    match error {
        PublishError::Unacknowledged(_) => Outlook::Away,
        PublishError::Refused(_) | PublishError::Fenced | PublishError::NoStream(_) => {
            Outlook::Refused
        }
        PublishError::Forbidden(_) | PublishError::TooLarge => Outlook::Never,
    }
}

/// Since when the bus refuses what is told, one thing after the other.
#[derive(Debug, Default)]
pub(super) struct Refusal(Option<Instant>);

impl Refusal {
    /// Takes note of an attempt; says whether the bus has refused for this long.
    pub(super) fn lasts(&mut self, is_refused: bool, patience: Duration) -> bool {
        self.0 = is_refused.then(|| self.0.unwrap_or_else(Instant::now));
        self.0.is_some_and(|since| since.elapsed() >= patience)
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

/// Whether all that was told of an action, by whomever, tells of the call that it is.
/// Routers may have left out fields of its arguments; nobody else has.
pub(super) async fn is_told_as_it_is(bus: &Bus, action: &Action) -> Result<bool, BusError> {
    let page = told(bus, action).await?;
    let events = page.messages.iter().filter_map(stored_event::decode);
    let updates = events.filter(|stored| stored.event.kind.name == "action_update");
    let updates: Vec<_> = updates.map(|stored| stored.event.data).collect();
    let mut shown = updates.iter().filter_map(|data| data.get("arguments"));
    let first = shown.next();
    Ok(page.is_last
        && updates.iter().all(|data| is_of(action, data))
        && first.is_none_or(|first| is_part(first, &action.arguments))
        && shown.all(|other| Some(other) == first))
}

/// Whether an event names the action's call, as far as it names any.
fn is_of(action: &Action, data: &Map<String, Value>) -> bool {
    let named = [
        ("action_type", &action.action_type),
        ("tool_name", &action.tool_name),
        ("arguments_hash", &action.arguments_hash),
    ];
    let is_so = |(name, value): (&str, &String)| data.get(name).is_none_or(|told| told == value);
    named.into_iter().all(is_so)
}

/// Whether a value is another one, but for fields of objects that are not there.
fn is_part(shown: &Value, whole: &Value) -> bool {
    match (shown, whole) {
        (Value::Object(shown), Value::Object(whole)) => shown.iter().all(|(name, value)| {
            let other = whole.get(name);
            other.is_some_and(|other| is_part(value, other))
        }),
        (Value::Array(shown), Value::Array(whole)) => {
            let mut pairs = shown.iter().zip(whole);
            shown.len() == whole.len() && pairs.all(|(shown, whole)| is_part(shown, whole))
        }
        (Value::Number(shown), Value::Number(whole)) => shown == whole || is_close(shown, whole),
        _ => shown == whole,
    }
}

/// Whether two fractions are one: its last digit may change as it is read and written.
fn is_close(one: &Number, other: &Number) -> bool {
    match (one.as_f64(), other.as_f64()) {
        (Some(a), Some(b)) if one.is_f64() && other.is_f64() => {
            (a - b).abs() <= 4.0 * f64::EPSILON * a.abs()
        }
        _ => false,
    }
}

/// What was told of an action to all, the first first.
async fn told(bus: &Bus, action: &Action) -> Result<Page, BusError> {
    let topic = subject::topic(&Topic {
        channel: Channel::ResponseActions,
        object: Some(action.action_id.clone()),
        audience: Audience::Nobody,
    });
    history::page(bus, TOPICS, &topic, 1, LOOK_BACK).await
}

/// How far the action is, as it was told to all.
async fn stage(bus: &Bus, action: &Action) -> Result<Option<u8>, BusError> {
    let page = told(bus, action).await?;
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
        trace: &|_| action.trace.clone(),
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

#[cfg(test)]
mod tests {
    use signalbox_bus::trace::TraceContext;
    use signalbox_protocol::trace::TraceParent;

    use super::*;

    #[test]
    fn an_event_names_action_and_status_and_is_part_of_the_calls_trace() {
        let trace = TraceContext::from(TraceParent::new(7, 9, true).unwrap());
        let action = Action {
            action_id: "tool-1".to_owned(),
            action_type: "isolation".to_owned(),
            tool_name: "isolate_host".to_owned(),
            arguments: json!({"host": "10.4.7.19"}),
            arguments_hash: "0f".to_owned(),
            requested_by: "ada".to_owned(),
            session_id: "chat-1".to_owned(),
            answer: 1,
            tool_call: 2,
            expires_at_ms: 1_734_643_800_000,
            trace: Some(trace.clone()),
        };
        let message = message(&action, Status::Executing).unwrap();
        assert_eq!(message.subject, "events.threat.action_update");
        assert_eq!(
            message.message_id,
            "threat/response_service/tool-1/EXECUTING"
        );
        assert_eq!(TraceContext::of(Some(&message.headers)), Some(trace));
        let event: Value = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!(event["id"], "tool-1/EXECUTING");
        assert_eq!(event["data"]["expires_at"], "2024-12-19T21:30:00Z");
    }

    #[test]
    fn shown_arguments_are_those_of_the_call_but_for_what_routers_leave_out() {
        let whole = json!({"host": "a", "ports": [{"n": 22, "key": "k"}], "share": 0.1});
        let parts = [
            whole.clone(),
            json!({}),
            json!({"ports": [{"n": 22}]}),
            json!({"share": 0.1 + f64::EPSILON / 16.0}),
        ];
        for part in parts {
            assert!(is_part(&part, &whole), "{part}");
        }
        let others = [
            json!({"host": "b"}),
            json!({"host": "a", "user": "u"}),
            json!({"ports": []}),
            json!({"ports": [{"n": 23}]}),
            json!({"share": 0.2}),
            json!([]),
        ];
        for other in others {
            assert!(!is_part(&other, &whole), "{other}");
        }
    }

    #[test]
    fn an_action_has_one_end_and_never_goes_back() {
        let ends = Status::ALL.iter().filter(|status| status.stage() == 2);
        assert_eq!(ends.count(), 5);
        assert!(Status::Pending.stage() < Status::Executing.stage());
    }
}
