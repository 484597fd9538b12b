//! Dialect `mesh`: `{type, event, data, timestamp}` in JSON text frames.
//!
//! The credential comes with the upgrade, and a connection has one
//! subscription per channel, known by the channel's name.

use std::time::Duration;

use signalbox_protocol::ErrorCode;
use signalbox_protocol::catalogue::{self, Channel};
use signalbox_protocol::cursor::Cursor;
use signalbox_protocol::frame::fields::Complaint;
use signalbox_protocol::frame::mesh::{
    self as frame, Authenticated, ClientFrame, EventFrame, Failure, ServerFrame, Subscribed,
    Unsubscribed,
};
use signalbox_protocol::timestamp::Timestamp;
use signalbox_transport::Frame;
use time::OffsetDateTime;

use super::{
    Answer, Dialect, EXPIRING, Encoding, Metering, Name, Occasion, Request, Subscribe, channel,
    millis, write,
};
use crate::hub::{Clause, Filter, HubEvent, Scalar, Selection};

/// The channels of the dialect.
const CHANNELS: [Channel; 4] = [
    Channel::NetworkEvents,
    Channel::ConsensusEvents,
    Channel::SecurityEvents,
    Channel::MonitoringEvents,
];

/// Dialect `mesh`. It keeps nothing of a connection.
#[derive(Debug, Default)]
pub(crate) struct Mesh;

impl Dialect for Mesh {
    const NAME: Name = Name::Mesh;
    const AUTHENTICATION: Option<Duration> = None;
    const METERING: Metering = Metering::Connection;

    fn decode(&self, text: &str) -> Result<Request, Complaint> {
        match ClientFrame::decode(text)? {
            ClientFrame::Authenticate { token } => Ok(Request::Authenticate {
                credential: token,
                label: None,
            }),
            ClientFrame::Subscribe(asked) => subscribe(asked).map(Request::Subscribe),
            ClientFrame::Unsubscribe { channel: name } => Ok(Request::Unsubscribe {
                name: channel(&name, &CHANNELS)?.name().to_owned(),
                field: "channel",
            }),
            ClientFrame::Ping => Ok(Request::Ping),
        }
    }

    fn answer(&self, answer: &Answer<'_>) -> Option<Frame> {
        let timestamp = Timestamp::from(OffsetDateTime::now_utc());
        let frame = match *answer {
            // Nothing was asked for, and no frame greets or turns away: the
            // close has the reason.
            Answer::Authenticated {
                occasion: Occasion::Upgrade,
                ..
            }
            | Answer::Denied {
                occasion: Occasion::Upgrade,
                ..
            } => return None,
            Answer::Authenticated {
                session_id,
                principal,
                occasion: Occasion::Request,
            } => ServerFrame::Authenticated {
                data: Authenticated {
                    session_id,
                    expires_at: principal.expires_at.map(Timestamp::from),
                },
                timestamp,
            },
            Answer::Subscribed {
                channel,
                subscription_id: _,
                seq,
                recovered,
            } => ServerFrame::Subscribed {
                data: Subscribed {
                    channel: channel.name(),
                    seq,
                    recovered,
                },
                timestamp,
            },
            Answer::Unsubscribed {
                channel,
                subscription_id: _,
            } => ServerFrame::Unsubscribed {
                data: Unsubscribed {
                    channel: channel.name(),
                },
                timestamp,
            },
            // Nothing here can be decided on, and nobody talked to.
            Answer::Decided(_)
            | Answer::DecidedBefore(_)
            | Answer::DecidedTooLate(_)
            | Answer::Chat(_)
            | Answer::Investigation(_) => return None,
            Answer::LimitExceeded(excess) => ServerFrame::Error {
                data: Failure {
                    code: ErrorCode::RateLimit,
                    message: &format!("{} of {} messages a minute", excess.used, excess.limit),
                    field: None,
                    retry_after: Some(millis(excess.resets_in)),
                    expires_at: None,
                },
                timestamp,
            },
            Answer::Pong => ServerFrame::Pong,
            Answer::Refused(complaint) => ServerFrame::Error {
                data: Failure {
                    code: complaint.code,
                    message: &complaint.message,
                    field: complaint.field.as_deref(),
                    retry_after: None,
                    expires_at: None,
                },
                timestamp,
            },
            Answer::Denied {
                reason,
                occasion: Occasion::Request,
            } => ServerFrame::Error {
                data: Failure::new(ErrorCode::AuthFailed, reason),
                timestamp,
            },
            Answer::Expiring { expires_at } => ServerFrame::Error {
                data: Failure {
                    expires_at: Some(expires_at.into()),
                    ..Failure::new(ErrorCode::TokenExpiring, EXPIRING)
                },
                timestamp,
            },
            Answer::Expired { reason } => ServerFrame::Error {
                data: Failure::new(ErrorCode::TokenExpired, reason),
                timestamp,
            },
        };
        Some(write(&frame))
    }

    fn farewell(&self, message: &str, retry_after: Duration) -> Frame {
        write(&ServerFrame::Error {
            data: Failure {
                code: ErrorCode::ConnectionFailed,
                message,
                field: None,
                retry_after: Some(millis(retry_after)),
                expires_at: None,
            },
            timestamp: OffsetDateTime::now_utc().into(),
        })
    }
}

/// The core's words for a subscription.
fn subscribe(asked: frame::Subscribe) -> Result<Subscribe, Complaint> {
    let channel = channel(&asked.channel, &CHANNELS)?;
    let mut clauses = Vec::new();
    if let Some((key, names)) = asked.filter.events {
        check_names(channel, key, &names)?;
        clauses.push(Clause::on_name(names));
    }
    for (field, values) in asked.filter.fields {
        let values = values.iter().filter_map(Scalar::of).collect();
        clauses.push(Clause::on_value(field, values));
    }
    Ok(Subscribe {
        name: Some(channel.name().to_owned()),
        channel,
        selection: Selection {
            filter: Filter::new(clauses),
            ..Selection::of(channel)
        },
        encoding: Encoding::Mesh,
        since: asked.since,
    })
}

/// Whether all these are events of the channel: a name that never comes is a
/// mistake that should show.
fn check_names(channel: Channel, key: &str, names: &[String]) -> Result<(), Complaint> {
    let known: Vec<&str> = catalogue::all()
        .filter(|kind| kind.route.channel == channel)
        .map(|kind| kind.name)
        .collect();
    match names.iter().find(|name| !known.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => Err(Complaint {
            code: ErrorCode::UnknownFilter,
            message: format!(
                "unknown event `{name}`: channel {channel} has {}",
                known.join(", ")
            ),
            field: Some(format!("filter.{key}")),
        }),
    }
}

/// The frame for an event; `None` when the dialect has no word for its type.
pub(crate) fn encode(event: &HubEvent, cursor: Cursor) -> Option<Frame> {
    let inner = &event.event;
    let word = inner.kind.words.mesh?;
    Some(write(&EventFrame {
        kind: word.kind,
        event: inner.kind.name,
        data: &inner.data,
        timestamp: inner.time,
        id: &inner.id,
        seq: cursor,
    }))
}
