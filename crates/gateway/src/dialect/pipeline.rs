//! Dialect `pipeline`: everything that a client's permissions allow, each event
//! under its own name with its data at the top level and again under `data`.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use signalbox_identity::{Permission, Principal};
use signalbox_protocol::ErrorCode;
use signalbox_protocol::catalogue::{Audience, Category, Channel};
use signalbox_protocol::cursor::Cursor;
use signalbox_protocol::event::Priority;
use signalbox_protocol::frame::fields::Complaint;
use signalbox_protocol::frame::pipeline::{
    AUTH_ERROR, AUTHENTICATED, Acknowledgement, Authenticated, ERROR, EventPayload, Failure,
    Subscribe, User,
};
use signalbox_socketio::Packet;
use signalbox_transport::Frame;
use time::OffsetDateTime;

use super::{EXPIRING, millis, packet};
use crate::access;
use crate::hub::{Channels, Clause, Filter, HubEvent, Selection};
use crate::ledger::Narrowing;

/// What was asked for, as it can be carried to another gateway.
pub(crate) fn narrowing(asked: &Subscribe) -> Narrowing {
    let words = |words: Option<Vec<&str>>| {
        let words = words.unwrap_or_default();
        words.into_iter().map(str::to_owned).collect()
    };
    let categories = asked.categories.as_ref();
    let kinds = asked.event_types.as_ref();
    Narrowing {
        categories: words(
            categories.map(|all| all.iter().map(|category| category.as_str()).collect()),
        ),
        event_types: words(kinds.map(|all| all.iter().map(|kind| kind.name).collect())),
        min_priority: asked
            .min_priority
            .map(|priority| priority.as_str().to_owned()),
    }
}

/// A permission that a client lacks for what it names: a category of which it
/// may have nothing, or an event type.
pub(crate) fn lacking(principal: &Principal, asked: &Subscribe) -> Option<Permission> {
    let missing = |channel: Channel| access::missing(principal.permissions, channel);
    let closed = asked.categories.iter().flatten().filter_map(|category| {
        let channels = category.channels().iter().copied();
        let all: Option<Vec<Permission>> = channels.map(missing).collect();
        all?.pop()
    });
    let kinds = asked.event_types.iter().flatten();
    let types = kinds.filter_map(|kind| missing(kind.route.channel));
    closed.chain(types).next()
}

fn wants(narrowing: &Narrowing, category: Category) -> bool {
    let categories = &narrowing.categories;
    categories.is_empty() || categories.iter().any(|word| word == category.as_str())
}

fn filter(narrowing: &Narrowing) -> Option<Filter> {
    let names = Some(&narrowing.event_types).filter(|names| !names.is_empty());
    let names = names.map(|names| Clause::on_name(names.clone()));
    let least = narrowing.min_priority.as_deref();
    let least: Option<Priority> = least.and_then(|word| word.parse().ok());
    let least = least
        .filter(|least| *least > Priority::Low)
        .map(Clause::on_priority);
    Filter::new(names.into_iter().chain(least).collect())
}

/// What a client gets: all that it may have and wants, as one selection for
/// what is addressed to nobody in particular and one for what is addressed to
/// the user.
pub(crate) fn selections(principal: &Principal, narrowing: &Narrowing) -> Vec<Selection> {
    let wanted: Channels = Category::ALL
        .into_iter()
        .filter(|category| wants(narrowing, *category))
        .flat_map(|category| category.channels().iter().copied())
        .filter(|channel| access::missing(principal.permissions, *channel).is_none())
        .collect();
    let personal = Channel::PipelineUserNotifications;
    let general: Channels = wanted
        .iter()
        .filter(|channel| *channel != personal)
        .collect();
    let mut selections = Vec::new();
    if general.iter().next().is_some() {
        selections.push(Selection {
            filter: filter(narrowing),
            ..Selection::of(general)
        });
    }
    if wanted.contains(personal) {
        let user = principal.subject.as_str().to_owned();
        selections.push(Selection {
            audience: Some(Audience::User(user)),
            filter: filter(narrowing),
            ..Selection::of(personal)
        });
    }
    selections
}

/// The credential was accepted.
pub(crate) fn authenticated(principal: &Principal, seq: Cursor, recovered: Option<bool>) -> Packet {
    let user = User {
        id: principal.subject.as_str(),
        name: &principal.name,
        role: principal.role.map(|role| role.as_str()),
        permissions: principal.permissions.words().collect(),
    };
    let argument = Authenticated {
        user,
        expires_at: principal.expires_at.map(Into::into),
        seq,
        recovered,
    };
    packet(AUTHENTICATED, &argument, None)
}

/// There is no good credential.
pub(crate) fn auth_error(code: ErrorCode, message: &str) -> Packet {
    packet(AUTH_ERROR, &Failure::new(code, message), None)
}

/// The token is about to expire.
pub(crate) fn expiring(expires_at: OffsetDateTime) -> Packet {
    let failure = Failure {
        expires_at: Some(expires_at.into()),
        ..Failure::new(ErrorCode::TokenExpiring, EXPIRING)
    };
    packet(AUTH_ERROR, &failure, None)
}

/// What is wrong with what a client asked for, where it wants no
/// acknowledgement.
pub(crate) fn complaint(complaint: &Complaint, retry_after: Option<Duration>) -> Packet {
    packet(ERROR, &failed(complaint, retry_after), None)
}

/// The acknowledgement of a subscription.
pub(crate) fn success(seq: Cursor, recovered: Option<bool>) -> Value {
    json(&Acknowledgement::Success { seq, recovered })
}

/// The acknowledgement of what was not done.
pub(crate) fn failure(complaint: &Complaint, retry_after: Option<Duration>) -> Value {
    json(&Acknowledgement::Error(failed(complaint, retry_after)))
}

/// The frame for an event, with its offset as a further argument or without;
/// `None` when the dialect has no word for its type.
pub(crate) fn encode(event: &HubEvent, cursor: Cursor, offset: bool) -> Option<Frame> {
    let inner = &event.event;
    let word = inner.kind.words.pipeline?;
    let payload = EventPayload {
        event_type: inner.kind.name,
        category: word.category,
        priority: inner.priority,
        data: &inner.data,
        timestamp: inner.time,
        id: &inner.id,
        seq: cursor,
    };
    packet(inner.kind.name, &payload, offset.then_some(cursor))
        .single_frame()
        .cloned()
}

fn failed(complaint: &Complaint, retry_after: Option<Duration>) -> Failure<'_> {
    Failure {
        retry_after: retry_after.map(millis),
        ..Failure::from(complaint)
    }
}

/// # Panics
/// Never: every value written here has string keys.
fn json(value: &impl Serialize) -> Value {
    serde_json::to_value(value).expect("frames have string keys and finite numbers")
}

#[cfg(test)]
mod tests;
