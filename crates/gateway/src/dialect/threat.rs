//! Dialect `threat`: `{type, channel, timestamp, data}` in JSON text frames.

pub(crate) mod chat;

use std::time::Duration;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use signalbox_identity::Principal;
use signalbox_protocol::ErrorCode;
use signalbox_protocol::catalogue::{Channel, ThreatBody};
use signalbox_protocol::cursor::Cursor;
use signalbox_protocol::frame::fields::Complaint;
use signalbox_protocol::frame::threat::{
    self as frame, ClientFrame, FlatEvent, NestedEvent, RateLimits, ServerFrame,
};
use signalbox_protocol::timestamp::Timestamp;
use signalbox_transport::Frame;
use time::OffsetDateTime;

use super::{
    Answer, Chat, Dialect, EXPIRING, Encoding, Metering, Name, Request, Subscribe, channel, millis,
    write,
};
use crate::hub::{Clause, Compare, Filter, HubEvent, Selection};

/// Dialect `threat`. It keeps nothing of a connection.
#[derive(Debug, Default)]
pub(crate) struct Threat;

/// Which part of an event's data is sent: these top-level keys, or all.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Projection(Option<Vec<String>>);

/// The filter keys of a channel, the field that each looks at, and how.
type FilterKeys = &'static [(&'static str, &'static str, Compare)];

/// The channels of the dialect.
const CHANNELS: [Channel; 5] = [
    Channel::ThreatAlerts,
    Channel::InvestigationProgress,
    Channel::SystemMetrics,
    Channel::ResponseActions,
    Channel::AgentChat,
];

const ALERT_FILTERS: FilterKeys = &[
    ("severity", "severity", Compare::EqualIgnoringCase),
    ("threat_types", "threat_type", Compare::Equal),
    ("resources", "affected_resources", Compare::Contains),
];
const ACTION_FILTERS: FilterKeys = &[
    ("action_types", "action_type", Compare::Equal),
    ("approval_status", "status", Compare::Equal),
];

/// What is said to one who decides too late.
const TOO_LATE: &str = "the action has expired, nothing is carried out";

impl Dialect for Threat {
    const NAME: Name = Name::Threat;
    /// People type by hand here.
    const AUTHENTICATION: Option<Duration> = Some(Duration::from_secs(30));
    const METERING: Metering = Metering::User;

    fn decode(&self, text: &str) -> Result<Request, Complaint> {
        match ClientFrame::decode(text)? {
            ClientFrame::Authenticate { token, client } => Ok(Request::Authenticate {
                credential: token,
                label: client.name,
            }),
            ClientFrame::Subscribe(asked) => subscribe(asked),
            ClientFrame::Unsubscribe { subscription_id } => Ok(Request::Unsubscribe {
                name: subscription_id,
                field: "subscription_id",
            }),
            ClientFrame::DecideAction(asked) => Ok(Request::Decide {
                action_id: asked.action_id,
                verdict: asked.verdict,
                reason: asked.reason,
                arguments_hash: asked.arguments_hash,
            }),
            ClientFrame::StartChat(asked) => Ok(Request::Chat(Chat::Start(asked))),
            ClientFrame::ChatMessage(asked) => Ok(Request::Chat(Chat::Say(asked))),
            ClientFrame::CancelChat(asked) => Ok(Request::Chat(Chat::Cancel(asked))),
            ClientFrame::ResumeChat(asked) => Ok(Request::Chat(Chat::Resume(asked))),
            ClientFrame::AddNote(asked) => Ok(Request::AddNote(asked)),
            ClientFrame::Ping => Ok(Request::Ping),
        }
    }

    fn answer(&self, answer: &Answer<'_>) -> Option<Frame> {
        Some(write(&match *answer {
            Answer::Chat(frame) => return Some(write(frame)),
            Answer::Investigation(frame) => return Some(write(frame)),
            Answer::Authenticated {
                session_id,
                principal,
                occasion: _,
            } => welcome(session_id, principal),
            Answer::Subscribed {
                channel,
                subscription_id,
                seq,
                recovered,
            } => ServerFrame::SubscriptionConfirmed {
                channel: channel.name(),
                subscription_id,
                seq,
                recovered,
            },
            Answer::Unsubscribed {
                channel,
                subscription_id,
            } => ServerFrame::UnsubscriptionConfirmed {
                channel: channel.name(),
                subscription_id,
            },
            Answer::Decided(decision) => ServerFrame::ActionDecisionRecorded {
                action_id: &decision.action_id,
                decision: decision.verdict,
            },
            Answer::DecidedBefore(decision) => ServerFrame::Error {
                code: ErrorCode::AlreadyDecided,
                message: "the action was decided before",
                field: None,
                retry_after: None,
                expires_at: None,
                decided_by: Some(&decision.decided_by),
                decision: Some(decision.verdict),
            },
            Answer::DecidedTooLate(end) => error(ErrorCode::Expired, TOO_LATE, Some(end)),
            Answer::LimitExceeded(excess) => ServerFrame::RateLimitExceeded {
                limit_type: excess.limit_type,
                current_usage: format!("{}/{}", excess.used, excess.limit),
                reset_time: (OffsetDateTime::now_utc() + excess.resets_in).into(),
            },
            Answer::Pong => ServerFrame::Pong,
            Answer::Refused(complaint) => ServerFrame::Error {
                code: complaint.code,
                message: &complaint.message,
                field: complaint.field.as_deref(),
                retry_after: None,
                expires_at: None,
                decided_by: None,
                decision: None,
            },
            Answer::Denied {
                reason,
                occasion: _,
            } => error(ErrorCode::AuthFailed, reason, None),
            Answer::Expiring { expires_at } => {
                error(ErrorCode::TokenExpiring, EXPIRING, Some(expires_at.into()))
            }
            Answer::Expired { reason } => error(ErrorCode::TokenExpired, reason, None),
        }))
    }

    fn farewell(&self, message: &str, retry_after: Duration) -> Frame {
        write(&ServerFrame::Error {
            code: ErrorCode::ConnectionFailed,
            message,
            field: None,
            retry_after: Some(millis(retry_after)),
            expires_at: None,
            decided_by: None,
            decision: None,
        })
    }
}

fn error(code: ErrorCode, message: &str, expires_at: Option<Timestamp>) -> ServerFrame<'_> {
    ServerFrame::Error {
        code,
        message,
        field: None,
        retry_after: None,
        expires_at,
        decided_by: None,
        decision: None,
    }
}

fn welcome<'a>(session_id: &'a str, principal: &Principal) -> ServerFrame<'a> {
    ServerFrame::AuthSuccess {
        session_id,
        permissions: principal.permissions.words().collect(),
        rate_limits: RateLimits {
            messages_per_minute: principal.limits.messages_per_minute,
            agent_chats_per_hour: principal.limits.agent_chats_per_hour,
        },
    }
}

/// The core's words for a subscription.
fn subscribe(asked: frame::Subscribe) -> Result<Request, Complaint> {
    let channel = channel(&asked.channel, &CHANNELS)?;
    let keys = match channel {
        Channel::ThreatAlerts => ALERT_FILTERS,
        Channel::ResponseActions => ACTION_FILTERS,
        // None of the dialect's others has filters.
        _ => &[],
    };
    let clauses = asked
        .filters
        .into_iter()
        .map(|(key, values)| clause(channel, keys, &key, values))
        .collect::<Result<Vec<_>, _>>()?;
    let object = match (channel, asked.investigation_id) {
        (Channel::InvestigationProgress, id) => id,
        (_, None) => None,
        (_, Some(_)) => {
            return Err(Complaint::field(
                "investigation_id",
                "no such field on this channel",
            ));
        }
    };
    let session = match (channel, asked.session_id) {
        (Channel::AgentChat, id) => id,
        (_, None) => None,
        (_, Some(_)) => {
            let message = "no such field on this channel";
            return Err(Complaint::field("session_id", message));
        }
    };
    let metrics = match (channel, asked.metrics) {
        (Channel::SystemMetrics, metrics) => metrics,
        (_, None) => None,
        (_, Some(_)) => return Err(Complaint::field("metrics", "no such field on this channel")),
    };
    if channel == Channel::AgentChat {
        return Ok(Request::Chat(Chat::Follow {
            session,
            is_resumed: asked.since.is_some(),
        }));
    }
    Ok(Request::Subscribe(Subscribe {
        name: None,
        channel,
        selection: Selection {
            object,
            filter: Filter::new(clauses),
            ..Selection::of(channel)
        },
        encoding: Encoding::Threat(Projection::new(metrics)),
        since: asked.since,
    }))
}

fn clause(
    channel: Channel,
    keys: FilterKeys,
    key: &str,
    values: Vec<String>,
) -> Result<Clause, Complaint> {
    if let Some((_, field, compare)) = keys.iter().find(|(known, ..)| *known == key) {
        return Ok(Clause::new(field, *compare, values));
    }
    let known: Vec<&str> = keys.iter().map(|(known, ..)| *known).collect();
    let message = if known.is_empty() {
        format!("unknown filter `{key}`: channel {channel} has no filters")
    } else {
        format!(
            "unknown filter `{key}`: channel {channel} has {}",
            known.join(", ")
        )
    };
    Err(Complaint {
        code: ErrorCode::UnknownFilter,
        message,
        field: Some(format!("filters.{key}")),
    })
}

impl Projection {
    fn new(keys: Option<Vec<String>>) -> Self {
        Self(keys.map(|mut keys| {
            keys.sort_unstable();
            keys.dedup();
            keys
        }))
    }

    /// What either selects.
    pub(super) fn union(&self, other: &Self) -> Self {
        let both = self.0.as_ref().zip(other.0.as_ref());
        Self::new(both.map(|(one, other)| [one.as_slice(), other].concat()))
    }
}

/// The frame for an event; `None` when the dialect has no word for its type,
/// or the projection leaves nothing of it.
pub(crate) fn encode(event: &HubEvent, cursor: Cursor, projection: &Projection) -> Option<Frame> {
    let inner = &event.event;
    let word = inner.kind.words.threat?;
    match word.body {
        ThreatBody::Flat { fields } => Some(write(&FlatEvent {
            kind: word.kind,
            fields: Picked(&inner.data, |key: &str| fields.contains(&key)),
            timestamp: inner.time,
            id: &inner.id,
            seq: cursor,
        })),
        ThreatBody::Nested { lifted } => {
            let selected = |key: &str| match &projection.0 {
                None => true,
                Some(keys) => keys.iter().any(|wanted| wanted == key),
            };
            let nested = |key: &str| !lifted.contains(&key) && selected(key);
            if projection.0.is_some() && !inner.data.keys().any(|key| nested(key)) {
                return None;
            }
            Some(write(&NestedEvent {
                kind: word.kind,
                channel: event.topic.channel.name(),
                lifted: Picked(&inner.data, |key: &str| lifted.contains(&key)),
                timestamp: inner.time,
                data: Picked(&inner.data, nested),
                id: &inner.id,
                seq: cursor,
            }))
        }
    }
}

/// The fields of an event that a frame has in one place; nothing is copied to
/// write them.
struct Picked<'a, F>(&'a Map<String, Value>, F);

impl<F: Fn(&str) -> bool> Serialize for Picked<'_, F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(data, wanted) = self;
        serializer.collect_map(data.iter().filter(|(key, _)| wanted(key)))
    }
}

#[cfg(test)]
mod tests;
